"""The CloudWatch dashboard: alarms, traffic, latency, drift, outcomes and recent server errors."""

from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from handler import metrics
from infra.alarms import RUNBOOK, MonitoringContext

WIDTH = 24


class Dashboard(Construct):
    """From the top: alarms, what clients see, the function, versions, drift, server errors."""

    def __init__(
        self, scope: Construct, id: str, context: MonitoringContext, alarms: list[cloudwatch.IAlarm]
    ) -> None:
        super().__init__(scope, id)
        board = cloudwatch.Dashboard(
            self,
            "Board",
            dashboard_name=context.settings.service,
            default_interval=cdk.Duration.hours(3),
            period_override=cloudwatch.PeriodOverride.AUTO,
        )
        board.add_widgets(cloudwatch.TextWidget(markdown=_header(context), width=WIDTH, height=3))
        board.add_widgets(
            cloudwatch.AlarmStatusWidget(title="Alarms", alarms=alarms, width=WIDTH, height=3)
        )
        gateway, function, color = context.gateway, context.function, cloudwatch.Color
        refused = gateway("4XXError").with_(label="4xx", color=color.ORANGE)
        failed = gateway("5XXError").with_(label="5xx", color=color.RED)
        latency = [gateway("Latency", p).with_(label=p) for p in ("p50", "p90", "p99")]
        limit = cloudwatch.HorizontalAnnotation(
            value=context.manifest.alarms.latency_ms, label="alarm", color=color.RED
        )
        durations = [function("Duration", statistic=p).with_(label=p) for p in ("p50", "p99")]
        running = function("ConcurrentExecutions", statistic="Maximum")
        rows = (
            (
                _graph("Traffic", gateway("Count").with_(label="requests")),
                _graph("Refused and failed", refused, failed),
                _graph("Latency for clients, ms", *latency, annotations=[limit]),
            ),
            (
                _graph(
                    "Function: crashes and throttles", function("Errors"), function("Throttles")
                ),
                _graph("Function: duration, ms", *durations),
                _graph("Function: concurrent executions", running),
            ),
            (
                _by_version(context, "Rows scored", metrics.ROWS, "Sum"),
                _by_version(context, "Server errors", metrics.SERVER_ERRORS, "Sum"),
                _by_version(context, "Latency p99, ms", metrics.LATENCY, "p99"),
            ),
            (
                _by_version(context, "Outcomes", metrics.OUTCOMES, "Sum"),
                _by_version(context, "Absolute error, mean", metrics.ABSOLUTE_ERROR, "Average"),
                _by_version(context, "Impact, mean", metrics.IMPACT, "Average"),
            ),
        )
        for row in rows:
            board.add_widgets(*row)
        board.add_widgets(
            cloudwatch.LogQueryWidget(
                title="The latest server errors",
                log_group_names=[context.scoring.log_group.log_group_name],
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


def _header(context: MonitoringContext) -> str:
    """Return the title with owner, runbook and the console's list of alarms."""
    manifest, settings = context.manifest, context.settings
    region = cdk.Stack.of(context.scoring).region
    alarms = (
        f"https://console.aws.amazon.com/cloudwatch/home?region={region}"
        f"#alarmsV2:?search={settings.alarm_prefix}"
    )
    return (
        f"# {manifest.name} {manifest.version}, {settings.stage}\n"
        f"{manifest.description}\n\n"
        f"owner **{manifest.owner}** | [runbook]({manifest.runbook or RUNBOOK}) | "
        f"[alarms]({alarms}) | why this version: {manifest.lineage.reason}"
    )


def _graph(
    title: str,
    *lines: cloudwatch.IMetric,
    annotations: Sequence[cloudwatch.HorizontalAnnotation] = (),
) -> cloudwatch.GraphWidget:
    return cloudwatch.GraphWidget(
        title=title,
        left=[*lines],
        left_y_axis=cloudwatch.YAxisProps(min=0, show_units=False),
        left_annotations=[*annotations],
        width=WIDTH // 3,
        height=6,
    )


def _by_version(
    context: MonitoringContext, title: str, metric: str, statistic: str
) -> cloudwatch.GraphWidget:
    """Return a graph with a line for every version that has data when the page is opened."""
    dimensions = f'{{{metrics.NAMESPACE},service,version}} service="{context.settings.service}"'
    search = f"""SEARCH('{dimensions} MetricName="{metric}"', '{statistic}')"""
    line = cloudwatch.MathExpression(expression=search, label="v${PROP('Dim.version')}")
    return _graph(f"{title}, by version", line)
