"""The two functions that CodeDeploy asks before and after it moves traffic.

See handler/release_gate.py. They run the image that is being released, so that its golden rows and
its contract are the ones that the version is held to.
"""

import hashlib

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from handler.manifest import Manifest
from infra import image
from infra.acknowledge import acknowledge
from infra.function import ALIAS, ModelFunction
from infra.logs import log_group
from infra.settings import Settings

# CodeDeploy's managed role calls functions of this name and no others
PREFIX = "CodeDeployHook_"
MEGABYTES = 512
# a golden set of 64 rows is asked for in seconds; this is for one whose every answer takes long
SECONDS = 600


class Hook(Construct):
    """One of the two: `when` is "before" or "after"."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        when: str,
        settings: Settings,
        manifest: Manifest,
        scoring: ModelFunction,
    ) -> None:
        super().__init__(scope, id)
        self.when = when
        logs = log_group(self, "Logs", settings)
        self.role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            description=f"{settings.service}: what a release is asked {when} traffic",
        )
        logs.grant_write(self.role)
        entry_point = f"handler.release_gate.{when}_traffic"
        self.function = lambda_.DockerImageFunction(
            self,
            "Function",
            function_name=name(settings.service, when),
            code=image.code(self, settings, manifest, entry_point),
            description=f"{settings.service}: asks the new version {when} it gets traffic"[:256],
            architecture=scoring.function.architecture,
            memory_size=MEGABYTES,
            timeout=cdk.Duration.seconds(SECONDS),
            role=self.role,
            log_group=logs,
            logging_format=lambda_.LoggingFormat.TEXT,
            environment={
                "SERVICE_NAME": settings.service,
                "POWERTOOLS_LOG_LEVEL": settings.log_level,
                # a new value for each version, so this function is always the image's own
                "VERSION_ARN": scoring.version.function_arn,
                "AFTER_TRAFFIC": settings.after_traffic,
                "MINIMUM_REQUESTS": str(settings.minimum_requests),
            },
        )
        # CloudFormation must have updated the hook before it moves the alias; the name of the
        # hook in the alias's update policy does not make it wait.
        scoring.alias.node.add_dependency(self.function)
        arn = scoring.function.function_arn
        before = when == "before"
        # which version is the old one, only the deployment says
        targets = [scoring.version.function_arn, f"{arn}:{ALIAS}"] if before else [f"{arn}:*"]
        self._allow("lambda:InvokeFunction", *targets)
        findings = {
            "Serverless-LambdaDLQ": (
                "CodeDeploy takes a missing answer for Failed, and the log says why."
            ),
            "Serverless-LambdaTracing": "It runs once per deployment and logs what it asked.",
        }
        if not before:
            # the metrics of CloudWatch are no resources: IAM knows only all of them
            self._allow("cloudwatch:GetMetricData", "*")
            findings["AwsSolutions-IAM5[Resource::*]"] = "CloudWatch's metrics are no resources."
            function = cdk.Stack.of(self).get_logical_id(scoring.function.node.default_child)  # type: ignore[arg-type]
            findings[f"AwsSolutions-IAM5[Resource::<{function}.Arn>:*]"] = (
                "Any version may be the one that is replaced."
            )
        acknowledge(self, findings)

    def may_answer(self, group_arn: str) -> None:
        """Let it ask about and answer to the deployments of one group."""
        self._allow("codedeploy:PutLifecycleEventHookExecutionStatus", group_arn)
        if self.when == "after":
            self._allow("codedeploy:GetDeployment", group_arn)

    def _allow(self, action: str, *resources: str) -> None:
        self.role.add_to_policy(iam.PolicyStatement(actions=[action], resources=[*resources]))


def name(service: str, when: str) -> str:
    """Lambda takes 64 characters; a longer service's name is cut, and told apart by its hash."""
    if len(service) > 42:
        service = f"{service[:33]}-{hashlib.sha256(service.encode()).hexdigest()[:8]}"
    return f"{PREFIX}{service}_{when}"
