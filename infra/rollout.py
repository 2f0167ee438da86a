"""The rollout: CodeDeploy shifts traffic to a new version in steps, and back on an alarm."""

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_codedeploy as codedeploy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.alarms import MonitoringContext
from infra.deploy_hooks import Hook
from infra.function import ModelFunction
from infra.settings import Settings
from infra.suppress_nag import suppress_nag

CANARY_PERCENT = 10
POLICY = "service-role/AWSCodeDeployRoleForLambdaLimited"


class Rollout(Construct):
    """The deployment group of one function's alias."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        context: MonitoringContext,
        worker: ModelFunction | None,
        alarms: list[cloudwatch.Alarm],
    ) -> None:
        super().__init__(scope, id)
        settings, scoring = context.settings, context.scoring
        before = Hook(self, "Before", context, "before", worker)
        after = Hook(self, "After", context, "after", None)
        role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("codedeploy.amazonaws.com"),
            managed_policies=[iam.ManagedPolicy.from_aws_managed_policy_name(POLICY)],
        )
        self.group = codedeploy.LambdaDeploymentGroup(
            self,
            "Group",
            application=codedeploy.LambdaApplication(self, "Application"),
            alias=scoring.alias,
            # the managed policy covers the hooks, by their names
            role=role.without_policy_updates(),
            deployment_config=codedeploy.LambdaDeploymentConfig(
                self, "Config", traffic_routing=_routing(settings)
            ),
            pre_hook=before.function,
            post_hook=after.function,
            alarms=alarms,
            auto_rollback=codedeploy.AutoRollbackConfig(
                failed_deployment=True, stopped_deployment=True, deployment_in_alarm=True
            ),
            # CodeDeploy must not go on without its alarms
            ignore_poll_alarms_failure=False,
        )
        if settings.pinned_version:
            # CloudFormation moves the alias; the group stays, and with it the deployments' history
            alias = scoring.alias.node.default_child
            assert isinstance(alias, lambda_.CfnAlias)
            alias.cfn_options.update_policy = None
        for hook in (before, after):
            hook.may_answer(self.group.deployment_group_arn)
        rule = f"AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/{POLICY}]"
        reason = (
            "AWS maintains what CodeDeploy needs to shift traffic; the limited policy reaches only "
            "hooks named CodeDeployHook_*."
        )
        suppress_nag(role, {rule: reason})


def _routing(settings: Settings) -> codedeploy.TrafficRouting:
    """Return a canary of 10 % and then 100 %, or nine linear steps of 10 % more."""
    if settings.rollout == "canary":
        return codedeploy.TimeBasedCanaryTrafficRouting(
            interval=cdk.Duration.minutes(settings.bake_minutes), percentage=CANARY_PERCENT
        )
    return codedeploy.TimeBasedLinearTrafficRouting(
        interval=cdk.Duration.minutes(round(settings.bake_minutes / 9)), percentage=CANARY_PERCENT
    )
