"""The drift monitor and its four alarms: the same for a model of any width.

See handler/drift/monitor.py. The metrics have no version, so the alarms follow the live model. The
monitor itself notifies the owner of drift, because only its message can name the features.
"""

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from constructs import Construct

from handler import metrics
from infra.alarms import MonitoringContext
from infra.function import ModelFunction, allow, any_version, ops_function
from infra.suppress_nag import suppress_nag

MINUTE = "10"  # of an hour, when the records of the hour before are in CloudWatch Logs
SILENT_HOURS = 3
HOUR_MINUTES = 60


class DriftMonitor(Construct):
    """`outputs` is the alarm that may roll a version back (infra/rollback.py)."""

    def __init__(
        self, scope: Construct, id: str, context: MonitoringContext, workers: list[ModelFunction]
    ) -> None:
        super().__init__(scope, id)
        self._context, scoring = context, context.scoring
        records = [scoring.log_group, *(worker.log_group for worker in workers)]
        self.function = ops_function(
            self,
            context.settings,
            context.manifest,
            "handler.drift.monitor.on_schedule",
            description="drift monitor",
            environment={
                "FUNCTION_NAME": scoring.function.function_name,
                "RECORD_LOG_GROUPS": cdk.Fn.join(",", [g.log_group_name for g in records]),
                "TOPIC_ARN": context.ticket.topic_arn,
            },
            retention_days=context.settings.drift_history_days,
        )
        self.log_group = self.function.log_group
        self.function.add_environment("MONITOR_LOG_GROUP", self.log_group.log_group_name)
        groups = [group.log_group_arn for group in (*records, self.log_group)]
        arn = scoring.function.function_arn
        allow(self.function, ["logs:FilterLogEvents"], *groups)
        allow(self.function, ["lambda:GetAlias"], arn, f"{arn}:*")
        allow(self.function, ["lambda:InvokeFunction"], f"{arn}:*")
        allow(self.function, ["sns:Publish"], context.ticket.topic_arn)
        suppress_nag(self, {any_version(scoring.function): "Any version may be the live one."})
        rule = events.Rule(self, "Schedule", schedule=events.Schedule.cron(minute=MINUTE))
        rule.add_target(targets.LambdaFunction(self.function))
        suppress_nag(rule, {"Serverless-EventBusDLQ": "An alarm sees the run that is missing."})
        percent = context.manifest.alarms.unseen_max_percent
        hour = cdk.Duration.minutes(HOUR_MINUTES)
        self.outputs = self._alarm("outputs", metrics.DRIFTED_OUTPUTS, "Outputs have drifted.")
        self.alarms = [
            self.outputs,
            self._alarm("inputs", metrics.DRIFTED_INPUTS, "Inputs have drifted."),
            self._alarm(
                "unseen",
                metrics.UNSEEN_INPUTS,
                f"Over {percent:g} % of rows have a category, or a gap, that the baseline does not "
                "have.",
            ),
            context.alarm(
                self,
                "drift-silent",
                f"The drift monitor has not succeeded for {SILENT_HOURS} hours.",
                cloudwatch.MathExpression(
                    expression="errors - runs",
                    using_metrics={
                        "errors": self.function.metric_errors(period=hour),
                        "runs": self.function.metric_invocations(period=hour),
                    },
                    period=hour,
                    label="Runs that failed, less all runs",
                ),
                threshold=-1,
                periods=SILENT_HOURS,
            ),
        ]
        cdk.CfnOutput(cdk.Stack.of(self), "DriftLogGroup", value=self.log_group.log_group_name)

    def _alarm(self, name: str, metric: str, summary: str) -> cloudwatch.Alarm:
        """Return an alarm that no action has: the monitor's message names the features."""
        return self._context.alarm(
            self,
            f"drift-{name}",
            f"{summary} The message of the drift monitor names them.",
            self._context.record(
                metric, "Maximum", HOUR_MINUTES, {"service": self._context.settings.service}
            ),
            periods=2,  # a run may be some minutes later than the one before
            breaching=1,
        )
