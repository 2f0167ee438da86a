"""How traffic reaches a new version: CodeDeploy moves `live` bit by bit and back on an alarm."""

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_codedeploy as codedeploy
from constructs import Construct

from infra.acknowledge import acknowledge
from infra.function import ModelFunction
from infra.settings import Settings

PERCENT = 10


class Rollout(Construct):
    """The deployment group of one function's alias."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        settings: Settings,
        scoring: ModelFunction,
        alarms: list[cloudwatch.Alarm],
    ) -> None:
        super().__init__(scope, id)
        self.group = codedeploy.LambdaDeploymentGroup(
            self,
            "Group",
            application=codedeploy.LambdaApplication(self, "Application"),
            alias=scoring.alias,
            deployment_config=codedeploy.LambdaDeploymentConfig(
                self, "Config", traffic_routing=_routing(settings)
            ),
            alarms=alarms,
            auto_rollback=codedeploy.AutoRollbackConfig(
                failed_deployment=True, stopped_deployment=True, deployment_in_alarm=True
            ),
            # an alarm that cannot be read is no permission to go on
            ignore_poll_alarms_failure=False,
        )
        acknowledge(
            self.group,
            {
                "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/"
                "AWSCodeDeployRoleForLambdaLimited]": (
                    "What CodeDeploy calls while it shifts traffic is AWS's to know and to keep; "
                    "the limited policy reaches only hooks named CodeDeployHook_*."
                ),
            },
        )


def _routing(settings: Settings) -> codedeploy.TrafficRouting:
    """Canary: 10 %, then after the bake all. Linear: 10 % more at each of nine steps."""
    if settings.rollout == "canary":
        return codedeploy.TimeBasedCanaryTrafficRouting(
            interval=cdk.Duration.minutes(settings.bake_minutes), percentage=PERCENT
        )
    return codedeploy.TimeBasedLinearTrafficRouting(
        interval=cdk.Duration.minutes(round(settings.bake_minutes / 9)), percentage=PERCENT
    )
