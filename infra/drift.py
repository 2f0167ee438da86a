"""Do inputs and outputs still look as they did when the model was packed, and is it worth it?

The formulas are handler/drift/statistic.py's, the thresholds the manifest's; docs/drift.md has what they are
worth. Every alarm here looks at the version that this stack publishes: its baseline is the one that
it was packed with. The window of drift is a day (`alarms.drift_hours`), so these alarms call the
model's owner, and take a version back only where `auto_rollback_on` says so.
"""

import re
from collections.abc import Iterator

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_sns as sns
from constructs import Construct

from handler import metrics
from handler.drift import statistic
from handler.drift.statistic import Target
from infra.alarms import MonitoringContext, alarm_description

CHILDREN = 100  # that a composite alarm may have
FEW = 2  # rows with a value of a new kind that are let pass
OUTCOMES = 10  # of a day, below which their mean says nothing
WIDTH = 24
DAY = 86_400


class DriftAlarms(Construct):
    """One alarm for each output, one for all inputs together, and those of outcomes.

    `shown`: what the dashboard lists; the alarms of single inputs stay behind theirs. `outputs` and
    `impact` may take a version back (infra/rollback.py).
    """

    def __init__(
        self, scope: Construct, id: str, watched: MonitoringContext, notify: sns.ITopic
    ) -> None:
        super().__init__(scope, id)
        self._watched, self._actions = watched, [notify.topic_arn]
        self.outputs: list[cloudwatch.CfnAlarm] = []
        self.impact: list[cloudwatch.CfnAlarm] = []
        manifest, wanted = watched.manifest, watched.manifest.alarms
        self.shown: list[cloudwatch.IAlarm] = []
        targets = list(statistic.targets(manifest))
        if watched.settings.drift_alarms == "off":
            targets = []
        elif watched.settings.drift_alarms == "outputs":
            targets = [target for target in targets if target.output]
        for target in targets:
            if target.output:
                self.outputs.append(self._drift(target, "The output", self._actions))
                self._show(self.outputs[-1])
        inputs = [self._drift(t, "The input", []) for t in targets if not t.output][:CHILDREN]
        if inputs:
            self._composite(inputs)
        if manifest.baseline:
            self._show(self._unseen(wanted.unseen_max_percent, wanted.drift_hours))
        if wanted.min_daily_impact is not None and manifest.outcome_value:
            self.impact.append(self._impact(wanted.min_daily_impact, manifest.outcome_value.unit))
            self._show(self.impact[-1])
        if wanted.max_days_without_outcomes:
            self._show(self._silence(wanted.max_days_without_outcomes))

    def _show(self, alarm: cloudwatch.CfnAlarm) -> None:
        found = cloudwatch.Alarm.from_alarm_arn(self, f"{alarm.node.id}-shown", alarm.attr_arn)
        self.shown.append(found)

    def _drift(self, target: Target, what: str, actions: list[str]) -> cloudwatch.CfnAlarm:
        told = statistic.alarm(self._watched.manifest, target, _dimensions(self._watched))
        text = (
            f"{what} {target.name} no longer looks as it did when the model was packed: "
            f"its drift score is over {told['Threshold']:g}, and chance does not make it."
        )
        section = "drift-outputs" if target.output else "drift-inputs"
        return self._alarm(target.metric, text, told, actions, section)

    def _composite(self, inputs: list[cloudwatch.CfnAlarm]) -> None:
        watched = self._watched
        rule = " OR ".join(f'ALARM("{alarm.alarm_name}")' for alarm in inputs)
        composite = cloudwatch.CfnCompositeAlarm(
            self,
            "inputs",
            alarm_name=f"{watched.settings.service}-drift-inputs",
            alarm_description=alarm_description(
                watched.manifest, "Inputs drift; the alarms drift-in_… say which.", "drift-inputs"
            ),
            alarm_rule=rule,
            alarm_actions=self._actions,
            ok_actions=self._actions,
        )
        for alarm in inputs:
            composite.add_resource_dependency(alarm)
        self.shown.append(cloudwatch.Alarm.from_alarm_arn(self, "inputs-shown", composite.attr_arn))

    def _unseen(self, percent: float, hours: int) -> cloudwatch.CfnAlarm:
        allowed = f"rows*{percent / 100:g}"
        math = f"unseen-IF({allowed}>{FEW},{allowed},{FEW})"
        told = {
            "Metrics": self._math(
                math,
                {"unseen": (metrics.UNSEEN, "Sum"), "rows": (metrics.ROWS, "Sum")},
                hours * 3600,
            ),
            "Threshold": 0,
            "ComparisonOperator": "GreaterThanThreshold",
            "EvaluationPeriods": 1,
            "TreatMissingData": "notBreaching",
        }
        text = f"Over {percent:g} % of rows have a category, or a gap, that the baseline has not."
        return self._alarm("unseen", text, told, self._actions)

    def _impact(self, least: float, unit: str) -> cloudwatch.CfnAlarm:
        told = {
            "Metrics": self._math(
                f"IF(outcomes<{OUTCOMES},{least:g},impact)",
                {
                    "impact": (metrics.IMPACT, "Average"),
                    "outcomes": (metrics.IMPACT, "SampleCount"),
                },
                DAY,
            ),
            "Threshold": least,
            "ComparisonOperator": "LessThanThreshold",
            "EvaluationPeriods": 1,
            "TreatMissingData": "notBreaching",
        }
        text = f"A day's outcomes are worth less than {least:g} {unit} in the mean.".replace(
            "  ", " "
        )
        return self._alarm("impact", text, told, self._actions)

    def _silence(self, days: int) -> cloudwatch.CfnAlarm:
        # of all versions: outcomes are filed under the version that predicted, long ago perhaps
        told = {
            "Namespace": metrics.NAMESPACE,
            "MetricName": metrics.OUTCOMES,
            "Dimensions": [{"Name": "service", "Value": self._watched.settings.service}],
            "Statistic": "Sum",
            "Period": DAY,
            "Threshold": 1,
            "ComparisonOperator": "LessThanThreshold",
            "EvaluationPeriods": days,
            "TreatMissingData": "breaching",
        }
        return self._alarm("silence", f"No outcome was told for {days} days.", told, self._actions)

    def _math(
        self, math: str, asked: dict[str, tuple[str, str]], seconds: int
    ) -> list[dict[str, object]]:
        """`asked`: metric and statistic by the id that the math has for them."""
        named = [{"Name": k, "Value": v} for k, v in _dimensions(self._watched).items()]
        found: list[dict[str, object]] = [{"Id": "answer", "Expression": math, "ReturnData": True}]
        for id, (name, stat_name) in asked.items():
            metric = {"Namespace": metrics.NAMESPACE, "MetricName": name, "Dimensions": named}
            stat = {"Metric": metric, "Period": seconds, "Stat": stat_name}
            found.append({"Id": id, "MetricStat": stat, "ReturnData": False})
        return found

    def _alarm(
        self, name: str, what: str, told: dict[str, object], actions: list[str], section: str = ""
    ) -> cloudwatch.CfnAlarm:
        """An alarm from the properties that the tests evaluate, as CloudFormation has them."""
        alarm = cloudwatch.CfnAlarm(
            self,
            re.sub(r"[^\w.-]", "_", name),
            alarm_name=f"{self._watched.settings.service}-drift-{name}",
            alarm_description=alarm_description(
                self._watched.manifest, what, section or f"drift-{name}"
            ),
            alarm_actions=actions or None,
            ok_actions=actions or None,
            comparison_operator=str(told["ComparisonOperator"]),
            evaluation_periods=1,
        )
        for key, value in told.items():
            alarm.add_property_override(key, value)
        return alarm


def _dimensions(watched: MonitoringContext) -> dict[str, str]:
    return {"service": watched.settings.service, "version": watched.scoring.version.version}


def graphs(watched: MonitoringContext) -> Iterator[list[cloudwatch.IWidget]]:
    """The dashboard's rows: drift scores of outputs and inputs, with the line of the alarm."""
    targets = list(statistic.targets(watched.manifest))
    row: list[cloudwatch.IWidget] = []
    for title, output in (("outputs", True), ("inputs", False)):
        found = [target for target in targets if target.output == output][:40]
        if found:
            row.append(
                cloudwatch.GraphWidget(
                    title=f"Drift of {title} (0: none, or not certain)",
                    left=[_score(watched, target, i) for i, target in enumerate(found)],
                    left_y_axis=cloudwatch.YAxisProps(min=0, show_units=False),
                    left_annotations=[
                        cloudwatch.HorizontalAnnotation(
                            value=watched.manifest.alarms.drift_threshold,
                            label="alarm",
                            color=cloudwatch.Color.RED,
                        )
                    ],
                    width=WIDTH // 2,
                    height=6,
                )
            )
    if row:
        yield row


def _score(watched: MonitoringContext, target: Target, number: int) -> cloudwatch.MathExpression:
    """The alarm's own math; a graph's metrics need ids of their own."""
    wanted = watched.manifest.alarms
    math = statistic.metric_math(
        target.distribution.rows, wanted.drift_min_rows, wanted.drift_hours
    )
    period = cdk.Duration.hours(wanted.drift_hours)

    def own(text: str) -> str:
        names = "|".join([*math, "n", r"b\d"])
        return re.sub(rf"\b({names})\b", rf"\g<1>_{number}", text)

    statistics = statistic.metric_stats()
    inputs: dict[str, cloudwatch.IMetric] = {
        own(id): cloudwatch.Metric(
            namespace=metrics.NAMESPACE,
            metric_name=target.metric,
            dimensions_map=_dimensions(watched),
            statistic=stat_name,
            period=period,
        )
        for id, stat_name in statistics.items()
    }
    for id in ("rest", "noise", "distance", "slope"):
        needed = {k: v for k, v in inputs.items() if re.search(rf"\b{k}\b", own(math[id]))}
        inputs[own(id)] = cloudwatch.MathExpression(
            expression=own(math[id]), using_metrics=needed, period=period, label=id
        )
    needed = {k: v for k, v in inputs.items() if re.search(rf"\b{k}\b", own(math["drift"]))}
    return cloudwatch.MathExpression(
        expression=own(math["drift"]), using_metrics=needed, period=period, label=target.name
    )
