"""One page for 3 a.m.: is it broken, for whom, since which version, and who knows more."""

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from handler import metrics
from infra.alarms import RUNBOOK, MonitoringContext

WIDTH = 24


class Dashboard(Construct):
    """From the top: alarms, callers' view, the function, versions, the latest faults."""

    def __init__(
        self, scope: Construct, id: str, watched: MonitoringContext, alarms: list[cloudwatch.IAlarm]
    ) -> None:
        super().__init__(scope, id)
        board = cloudwatch.Dashboard(
            self,
            "Board",
            dashboard_name=watched.settings.service,
            default_interval=cdk.Duration.hours(3),
            period_override=cloudwatch.PeriodOverride.AUTO,
        )
        board.add_widgets(cloudwatch.TextWidget(markdown=_header(watched), width=WIDTH, height=3))
        board.add_widgets(
            cloudwatch.AlarmStatusWidget(
                title="Alarms",
                alarms=alarms,
                width=WIDTH,
                height=3,
            )
        )
        board.add_widgets(
            _graph("Traffic", [watched.gateway("Count").with_(label="requests")]),
            _graph(
                "Refused and failed",
                [
                    watched.gateway("4XXError").with_(label="4xx", color=cloudwatch.Color.ORANGE),
                    watched.gateway("5XXError").with_(label="5xx", color=cloudwatch.Color.RED),
                ],
            ),
            _graph(
                "Latency for callers, ms",
                [watched.gateway("Latency", p).with_(label=p) for p in ("p50", "p90", "p99")],
                limit=watched.manifest.alarms.latency_ms,
            ),
        )
        board.add_widgets(
            _graph(
                "Function: crashes and throttles",
                [watched.function("Errors"), watched.function("Throttles")],
            ),
            _graph(
                "Function: duration, ms",
                [watched.function("Duration", statistic=p).with_(label=p) for p in ("p50", "p99")],
            ),
            _graph(
                "Function: concurrent executions",
                [watched.function("ConcurrentExecutions", statistic="Maximum")],
            ),
        )
        board.add_widgets(
            _by_version(watched, "Rows scored", metrics.ROWS, "Sum"),
            _by_version(watched, "Server errors", metrics.SERVER_ERRORS, "Sum"),
            _by_version(watched, "Latency p99, ms", metrics.LATENCY, "p99"),
        )
        board.add_widgets(
            _by_version(watched, "Outcomes", metrics.OUTCOMES, "Sum"),
            _by_version(watched, "Absolute error, mean", metrics.ABSOLUTE_ERROR, "Average"),
            _by_version(watched, "Impact, mean", metrics.IMPACT, "Average"),
        )
        board.add_widgets(
            cloudwatch.LogQueryWidget(
                title="The latest faults (request id, problem, version)",
                log_group_names=[watched.scoring.log_group.log_group_name],
                query_lines=[
                    "fields @timestamp, request_id, status, problem, version, message",
                    'filter level = "ERROR"',
                    "sort @timestamp desc",
                    "limit 20",
                ],
                width=WIDTH,
                height=6,
            )
        )


def _header(watched: MonitoringContext) -> str:
    """Whose it is and where to read on, then a link to every alarm through the console's list."""
    manifest, settings = watched.manifest, watched.settings
    region = cdk.Stack.of(watched.scoring).region
    alarms = (
        f"https://console.aws.amazon.com/cloudwatch/home?region={region}"
        f"#alarmsV2:?search={settings.service}-"
    )
    return (
        f"# {manifest.name} {manifest.version}, {settings.stage}\n"
        f"{manifest.description}\n\n"
        f"owner **{manifest.owner}** | [runbook]({manifest.runbook or RUNBOOK}) | "
        f"[alarms]({alarms}) | why this version: {manifest.lineage.reason}"
    )


def _graph(
    title: str, metrics: list[cloudwatch.Metric], limit: float | None = None
) -> cloudwatch.GraphWidget:
    marks = []
    if limit:
        red = cloudwatch.Color.RED
        marks.append(cloudwatch.HorizontalAnnotation(value=limit, label="alarm", color=red))
    return cloudwatch.GraphWidget(
        title=title,
        left=metrics,
        left_y_axis=cloudwatch.YAxisProps(min=0, show_units=False),
        left_annotations=marks,
        width=WIDTH // 3,
        height=6,
    )


def _by_version(
    watched: MonitoringContext, title: str, metric: str, statistic: str
) -> cloudwatch.GraphWidget:
    """A line for every version that has data, found when the page is opened."""
    what = f'{{{metrics.NAMESPACE},service,version}} service="{watched.settings.service}"'
    search = f"""SEARCH('{what} MetricName="{metric}"', '{statistic}')"""
    return cloudwatch.GraphWidget(
        title=f"{title}, by version",
        left=[cloudwatch.MathExpression(expression=search, label="v${PROP('Dim.version')}")],
        left_y_axis=cloudwatch.YAxisProps(min=0, show_units=False),
        width=WIDTH // 3,
        height=6,
    )
