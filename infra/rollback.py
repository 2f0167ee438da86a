"""Rollback: a probe of the previous version and the alias, its alarms, the automatic rollback.

See handler/release/auto_rollback.py. The automatic rollback exists only if `auto_rollback_on` names
alarms.
"""

import aws_cdk as cdk
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from handler import metrics
from infra.alarms import MonitoringContext, OutcomeAlarms
from infra.drift import DriftMonitor
from infra.function import ALIAS, ModelFunction, allow, any_version, ops_function
from infra.rollout import Rollout
from infra.settings import SettingsError
from infra.suppress_nag import suppress_nag

# half of the alarm's period, so that a late probe leaves no period empty
PROBE_HOURS = 12


class Rollback(Construct):
    """`worker` and `rollout` are None where the stack has none."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        context: MonitoringContext,
        drift: DriftMonitor,
        outcomes: OutcomeAlarms,
        worker: ModelFunction | None,
        rollout: Rollout | None,
    ) -> None:
        super().__init__(scope, id)
        self._context, self._rollout = context, rollout
        self._functions = [context.scoring, *([worker] if worker else [])]
        alias = context.scoring.alias
        # twice a day, and after each deployment, failed ones too
        schedule = events.Rule(
            self,
            "Schedule",
            schedule=events.Schedule.rate(cdk.Duration.hours(PROBE_HOURS)),
            event_pattern=events.EventPattern(
                source=["aws.cloudformation"],
                detail_type=["CloudFormation Stack Status Change"],
                detail={
                    "stack-id": [cdk.Stack.of(self).stack_id],
                    "status-details": {"status": events.Match.suffix("_COMPLETE")},
                },
            ),
        )
        text = "whether the previous version still works"
        variables = {"STACK_LIVE_VERSION": alias.version.version}
        probe = self._ops_function("Probe", "on_schedule", text, schedule, variables)
        # it states the new version when the alias is there
        probe.node.add_dependency(alias)
        by_service = {"service": context.settings.service}
        unavailable = context.alarm(
            self,
            "rollback-unavailable",
            "No rollback is possible: the previous version does not work, or the probe does not "
            "run.",
            context.record(metrics.ROLLBACK_UNAVAILABLE, "Maximum", 24 * 60, by_service),
        )
        moved = context.alarm(
            self,
            "alias-moved",
            "The alias is not at the stack's version: a rollback was not followed by a deployment.",
            context.record(metrics.ALIAS_MOVED, "Maximum", 60, by_service),
        )
        self.alarms = [unavailable, moved]
        if context.settings.auto_rollback_on != "none":
            self._auto_rollback(drift, outcomes)

    def _auto_rollback(self, drift: DriftMonitor, outcomes: OutcomeAlarms) -> None:
        settings, baseline = self._context.settings, self._context.manifest.baseline
        has_outputs = bool(baseline and baseline.outputs)
        alarms = {"impact": outcomes.impact, "drift": [drift.outputs] if has_outputs else []}
        both = settings.auto_rollback_on == "both"
        names = [*alarms] if both else [settings.auto_rollback_on]
        for name in names:
            if not alarms[name]:
                raise SettingsError(f"auto_rollback_on: the stack has no alarm of {name}")
        state = events.Rule(
            self,
            "AlarmState",
            event_pattern=events.EventPattern(
                source=["aws.cloudwatch"],
                detail_type=["CloudWatch Alarm State Change"],
                resources=[alarm.alarm_arn for name in names for alarm in alarms[name]],
                detail={"state": {"value": ["ALARM"]}},
            ),
        )
        variables = {
            "TOPIC_ARN": self._context.ticket.topic_arn,
            "COOLDOWN_HOURS": str(settings.rollback_cooldown_hours),
            "MONITOR_LOG_GROUP": drift.log_group.log_group_name,
        }
        text = "rolls back on an alarm"
        function = self._ops_function("OnAlarm", "on_alarm", text, state, variables)
        allow(function, ["logs:FilterLogEvents"], drift.log_group.log_group_arn)
        for model_function in self._functions:
            arn = model_function.function.function_arn
            allow(function, ["lambda:UpdateAlias"], arn, f"{arn}:{ALIAS}")
        allow(function, ["sns:Publish"], self._context.ticket.topic_arn)

    def _ops_function(
        self,
        id: str,
        entry_point: str,
        description: str,
        rule: events.Rule,
        environment: dict[str, str],
    ) -> lambda_.DockerImageFunction:
        """Return a function that a rule calls, and that may read and invoke versions."""
        scope, (scoring, *workers) = Construct(self, id), self._functions
        variables = {"FUNCTION_NAME": scoring.function.function_name, **environment}
        for worker in workers:
            variables["WORKER_NAME"] = worker.function.function_name
        group = self._rollout and self._rollout.group
        if group:
            variables["APPLICATION"] = group.application.application_name
            variables["DEPLOYMENT_GROUP"] = group.deployment_group_name
        function = ops_function(
            scope,
            self._context.settings,
            self._context.manifest,
            f"handler.release.auto_rollback.{entry_point}",
            description=description,
            environment=variables,
        )
        rule.add_target(targets.LambdaFunction(function))
        reason = "The alarm notices a missing probe; a missed alarm has notified people already."
        suppress_nag(rule, {"Serverless-EventBusDLQ": reason})
        verbs = ["GetAlias", "GetFunction", "GetFunctionConfiguration", "InvokeFunction"]
        verbs.append("ListVersionsByFunction")
        for model_function in self._functions:
            arn = model_function.function.function_arn
            allow(function, [f"lambda:{verb}" for verb in verbs], arn, f"{arn}:*")
        for registry in {"", self._context.settings.image_registry}:
            images = cdk.Stack.of(self).format_arn(
                service="ecr", account=registry or None, resource="repository", resource_name="*"
            )
            allow(function, ["ecr:DescribeImages"], images)
            account = registry or "<AWS::AccountId>"
            arn = f"arn:<AWS::Partition>:ecr:<AWS::Region>:{account}:repository/*"
            reason = "An earlier version may have its image in another repository; the function "
            reason += "only asks whether the image exists."
            suppress_nag(scope, {f"AwsSolutions-IAM5[Resource::{arn}]": reason})
        if group:
            actions = ["codedeploy:ListDeployments", "codedeploy:BatchGetDeployments"]
            allow(function, actions, group.deployment_group_arn)
        reason = "Any version may be the previous one."
        for model_function in self._functions:
            suppress_nag(scope, {any_version(model_function.function): reason})
        return function
