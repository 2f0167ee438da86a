"""The drift monitor and its four alarms: the same for a model of any width.

See handler/drift/monitor.py. The metrics have no version, so the alarms follow the live model. The
monitor itself notifies the owner of drift, because only its message can name the features.
"""

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_sns as sns
from constructs import Construct

from handler import metrics
from infra.alarms import MonitoringContext, alarm
from infra.function import ModelFunction, allow, any_version, ops_function
from infra.suppress_nag import suppress_nag

MINUTE = "10"  # of an hour, when the records of the hour before are in CloudWatch Logs
SILENT_HOURS = 3
HOUR_MINUTES = 60


class DriftMonitor(Construct):
    """`outputs` is the alarm that may roll a version back (infra/rollback.py)."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        watched: MonitoringContext,
        notify: sns.ITopic,
        worker: ModelFunction | None,
    ) -> None:
        super().__init__(scope, id)
        self._watched, settings, scoring = watched, watched.settings, watched.scoring
        records = [scoring.log_group, *([worker.log_group] if worker else [])]
        self.function = ops_function(
            self,
            settings=settings,
            manifest=watched.manifest,
            scoring=scoring,
            entry_point="handler.drift.monitor.on_schedule",
            description="drift monitor",
            environment={
                "FUNCTION_NAME": scoring.function.function_name,
                "RECORD_LOG_GROUPS": cdk.Fn.join(",", [g.log_group_name for g in records]),
                "TOPIC_ARN": notify.topic_arn,
            },
            retention_days=settings.drift_history_days,
        )
        self.log_group = self.function.log_group
        self.function.add_environment("MONITOR_LOG_GROUP", self.log_group.log_group_name)
        arn = scoring.function.function_arn
        groups = [group.log_group_arn for group in (*records, self.log_group)]
        allow(self.function, ["logs:FilterLogEvents"], *groups)
        allow(self.function, ["lambda:GetAlias", "lambda:InvokeFunction"], f"{arn}:*")
        allow(self.function, ["sns:Publish"], notify.topic_arn)
        suppress_nag(self, {any_version(scoring.function): "Any version may be the live one."})
        rule = events.Rule(self, "Schedule", schedule=events.Schedule.cron(minute=MINUTE))
        rule.add_target(targets.LambdaFunction(self.function))
        suppress_nag(rule, {"Serverless-EventBusDLQ": "The silence alarm sees what is missing."})
        self.outputs = self._drift(
            "drift-outputs", metrics.DRIFTED_OUTPUTS, "Outputs have drifted from the baseline."
        )
        self.alarms = [
            self.outputs,
            self._drift(
                "drift-inputs", metrics.DRIFTED_INPUTS, "Inputs have drifted from the baseline."
            ),
            self._drift(
                "drift-unseen",
                metrics.UNSEEN_INPUTS,
                f"Over {watched.manifest.alarms.unseen_max_percent:g} % of rows have a category, "
                "or a gap, that the baseline does not have.",
            ),
            alarm(
                self,
                watched,
                "drift-silent",
                f"The drift monitor has not succeeded for {SILENT_HOURS} hours.",
                cloudwatch.MathExpression(
                    expression="runs - errors",
                    using_metrics={
                        "runs": self._lambda("Invocations"),
                        "errors": self._lambda("Errors"),
                    },
                    period=cdk.Duration.minutes(HOUR_MINUTES),
                    label="Runs that succeeded",
                ),
                threshold=1,
                periods=SILENT_HOURS,
                missing=cloudwatch.TreatMissingData.BREACHING,
                below=True,
                notify=notify,
            ),
        ]
        cdk.CfnOutput(cdk.Stack.of(self), "DriftLogGroup", value=self.log_group.log_group_name)

    def _drift(self, name: str, metric: str, summary: str) -> cloudwatch.Alarm:
        return alarm(
            self,
            self._watched,
            name,
            f"{summary} The message of the drift monitor names them.",
            cloudwatch.Metric(
                namespace=metrics.NAMESPACE,
                metric_name=metric,
                dimensions_map={"service": self._watched.settings.service},
                statistic="Maximum",
                period=cdk.Duration.minutes(HOUR_MINUTES),
            ),
            periods=2,  # a run may be some minutes later than the one before
            breaching=1,
        )

    def _lambda(self, name: str) -> cloudwatch.Metric:
        """Return a metric that Lambda itself writes, at no cost."""
        return cloudwatch.Metric(
            namespace="AWS/Lambda",
            metric_name=name,
            dimensions_map={"FunctionName": self.function.function_name},
            statistic="Sum",
            period=cdk.Duration.minutes(HOUR_MINUTES),
        )
