"""The way back, watched: a probe of the version before, an alarm where it would not do, and, where
`auto_rollback_on` says so, the function that goes back by itself. See handler/release/auto_rollback.py.
"""

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns
from constructs import Construct

from handler import metrics
from infra.alarms import MonitoringContext, OutcomeAlarms, alarm
from infra.drift import DriftMonitor
from infra.function import ALIAS, ModelFunction, allow, any_version, ops_function
from infra.rollout import Rollout
from infra.settings import SettingsError
from infra.suppress_nag import suppress_nag

# a day that the alarm looks at must have an answer, even if one of them is late
HOURS = 12


class Rollback(Construct):
    """`worker` and `rollout` are None where the stack has none."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        watched: MonitoringContext,
        notify: sns.ITopic,
        drift: DriftMonitor,
        outcomes: OutcomeAlarms,
        worker: ModelFunction | None,
        rollout: Rollout | None,
    ) -> None:
        super().__init__(scope, id)
        self._watched, self._rollout = watched, rollout
        self._functions = [watched.scoring, *([worker] if worker else [])]
        settings, stack = watched.settings, cdk.Stack.of(self)
        self._target(
            # after each deployment, whichever way it went, and in between
            events.Rule(
                self,
                "Schedule",
                schedule=events.Schedule.rate(cdk.Duration.hours(HOURS)),
                event_pattern=events.EventPattern(
                    source=["aws.cloudformation"],
                    detail_type=["CloudFormation Stack Status Change"],
                    detail={
                        "stack-id": [stack.stack_id],
                        "status-details": {"status": events.Match.suffix("_COMPLETE")},
                    },
                ),
            ),
            self._helper("Probe", "on_schedule", "whether the version before would do"),
        )
        metric = cloudwatch.Metric(
            namespace=metrics.NAMESPACE,
            metric_name=metrics.ROLLBACK_UNAVAILABLE,
            dimensions_map={"service": settings.service},
            statistic="Maximum",
            period=cdk.Duration.days(1),
        )
        self.alarm = alarm(
            self,
            watched,
            "way-back",
            "There is no going back: the version before would not do, or the probe is dead.",
            metric,
            missing=cloudwatch.TreatMissingData.BREACHING,
            notify=notify,
        )
        if settings.auto_rollback_on != "none":
            self._rollback(notify, drift, outcomes)

    def _rollback(
        self, notify: sns.ITopic, drift: DriftMonitor, outcomes: OutcomeAlarms
    ) -> None:
        settings, baseline = self._watched.settings, self._watched.manifest.baseline
        has_outputs = bool(baseline and baseline.outputs)
        known = {"impact": outcomes.impact, "drift": [drift.outputs] if has_outputs else []}
        chosen = [*known] if settings.auto_rollback_on == "both" else [settings.auto_rollback_on]
        for name in chosen:
            if not known[name]:
                raise SettingsError(f"auto_rollback_on: the stack has no alarm of {name}")
        function = self._helper(
            "Rollback",
            "on_alarm",
            "goes back when an alarm says so",
            {
                "TOPIC_ARN": notify.topic_arn,
                "COOLDOWN_HOURS": str(settings.rollback_cooldown_hours),
                "MONITOR_LOG_GROUP": drift.log_group.log_group_name,
            },
        )
        allow(function, ["logs:FilterLogEvents"], drift.log_group.log_group_arn)
        for each in self._functions:
            arn = each.function.function_arn
            allow(function, ["lambda:UpdateAlias"], arn, f"{arn}:{ALIAS}")
        allow(function, ["sns:Publish"], notify.topic_arn)
        self._target(
            events.Rule(
                self,
                "OnAlarm",
                event_pattern=events.EventPattern(
                    source=["aws.cloudwatch"],
                    detail_type=["CloudWatch Alarm State Change"],
                    resources=[each.alarm_arn for name in chosen for each in known[name]],
                    detail={"state": {"value": ["ALARM"]}},
                ),
            ),
            function,
        )

    def _target(self, rule: events.Rule, function: lambda_.IFunction) -> None:
        rule.add_target(targets.LambdaFunction(function))
        suppress_nag(
            rule,
            {"Serverless-EventBusDLQ": "The alarm sees what did not arrive; people come next."},
        )

    def _helper(
        self, id: str, entry_point: str, description: str, environment: dict[str, str] | None = None
    ) -> lambda_.DockerImageFunction:
        """A function that may look at versions, and ask them."""
        scope, (scoring, *workers) = Construct(self, id), self._functions
        told = {"FUNCTION_NAME": scoring.function.function_name, **(environment or {})}
        for worker in workers:
            told["WORKER_NAME"] = worker.function.function_name
        group = self._rollout and self._rollout.group
        if group:
            told["APPLICATION"] = group.application.application_name
            told["DEPLOYMENT_GROUP"] = group.deployment_group_name
        function = ops_function(
            scope,
            settings=self._watched.settings,
            manifest=self._watched.manifest,
            scoring=scoring,
            entry_point=f"handler.release.auto_rollback.{entry_point}",
            description=description,
            environment=told,
        )
        asked = ["GetAlias", "GetFunction", "GetFunctionConfiguration", "InvokeFunction"]
        asked.append("ListVersionsByFunction")
        for each in self._functions:
            arn = each.function.function_arn
            allow(function, [f"lambda:{action}" for action in asked], arn, f"{arn}:*")
        images = cdk.Stack.of(self).format_arn(
            service="ecr", resource="repository", resource_name="*"
        )
        allow(function, ["ecr:DescribeImages"], images)
        if group:
            actions = ["codedeploy:ListDeployments", "codedeploy:BatchGetDeployments"]
            allow(function, actions, group.deployment_group_arn)
        arn = "arn:<AWS::Partition>:ecr:<AWS::Region>:<AWS::AccountId>:repository/*"
        suppress_nag(
            scope,
            {
                f"AwsSolutions-IAM5[Resource::{arn}]": (
                    "An earlier version may be of another repository; it asks whether an image is "
                    "there, no more."
                ),
                **{
                    any_version(each.function): "Any version may be the one before."
                    for each in self._functions
                },
            },
        )
        return function
