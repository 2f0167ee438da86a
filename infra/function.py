"""A Lambda function of the image: its entry point, its role, its log group, `live`, and versions.

Used once for the HTTP door; another door is another instance, with its own memory and timeout.
"""

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from handler.manifest import Manifest
from infra import image
from infra.logs import log_group
from infra.settings import Settings
from infra.suppress_nag import suppress_nag

ALIAS = "live"
# a golden set of 64 rows is asked for in seconds; this is for one whose every answer takes long
HELPER_SECONDS = 600


class ModelFunction(Construct):
    """`function` is $LATEST, which nobody calls; `alias` is what clients reach."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        settings: Settings,
        manifest: Manifest,
        entry_point: str,
        timeout: cdk.Duration,
    ) -> None:
        super().__init__(scope, id)
        self.log_group = log_group(self, "Logs", settings)
        # Not the managed policy: that one may write to every log group of the account.
        self.role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            description=f"{settings.service}: {entry_point}",
        )
        self.log_group.grant_write(self.role)
        self.function = lambda_.DockerImageFunction(
            self,
            "Function",
            code=image.code(self, settings, manifest, entry_point),
            description=f"{manifest.name} {manifest.version}, {settings.stage}"[:256],
            architecture=(
                lambda_.Architecture.ARM_64
                if settings.architecture == "arm64"
                else lambda_.Architecture.X86_64
            ),
            memory_size=settings.memory,
            timeout=timeout,
            role=self.role,
            log_group=self.log_group,
            # Text leaves our JSON lines as they are; Lambda's JSON format would wrap them, and
            # CloudWatch would find no metrics in them.
            logging_format=lambda_.LoggingFormat.TEXT,
            environment={
                "SERVICE_NAME": settings.service,
                "LOG_LEVEL": settings.log_level,
                "LOG_PAYLOADS": settings.log_payloads,
            },
            reserved_concurrent_executions=settings.max_concurrency,
            snap_start=(
                lambda_.SnapStartConf.ON_PUBLISHED_VERSIONS if settings.snapstart else None
            ),
            # Versions stay for a rollback when the next one is published. One that a failed
            # deployment made goes with it, or its number could not be published again.
            current_version_options=lambda_.VersionOptions(
                removal_policy=cdk.RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
                description=f"{manifest.name} {manifest.version}",
            ),
        )
        self.version = self.function.current_version
        pinned = settings.pinned_version and lambda_.Version.from_version_attributes(
            self, "Pinned", lambda_=self.function, version=str(settings.pinned_version)
        )
        self.alias = lambda_.Alias(
            self,
            "Live",
            alias_name=ALIAS,
            version=pinned or self.version,
            provisioned_concurrent_executions=settings.provisioned_concurrency or None,
        )
        suppress_nag(
            self.function,
            {
                "Serverless-LambdaDLQ": "Called synchronously: a failure is the caller's answer.",
                "Serverless-LambdaTracing": (
                    "Every request leaves a record with its timings; X-Ray would cost each cold "
                    "start and need a permission on all resources."
                ),
            },
        )


def ops_function(
    scope: Construct,
    *,
    settings: Settings,
    manifest: Manifest,
    scoring: ModelFunction,
    entry_point: str,
    description: str,
    environment: dict[str, str],
    name: str | None = None,
    retention_days: int | None = None,
) -> lambda_.DockerImageFunction:
    """A function of the same image that looks after the model's: no alias, no versions, and a role
    that may write its own log until more is added.
    """
    logs = log_group(scope, "Logs", settings, retention_days=retention_days)
    text = f"{settings.service}: {description}"
    role = iam.Role(
        scope,
        "Role",
        assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
        description=text,
    )
    logs.grant_write(role)
    function = lambda_.DockerImageFunction(
        scope,
        "Function",
        function_name=name,
        code=image.code(scope, settings, manifest, entry_point),
        description=text[:256],
        architecture=scoring.function.architecture,
        memory_size=512,
        timeout=cdk.Duration.seconds(HELPER_SECONDS),
        role=role,
        log_group=logs,
        logging_format=lambda_.LoggingFormat.TEXT,
        environment={
            "SERVICE_NAME": settings.service,
            "LOG_LEVEL": settings.log_level,
            **environment,
        },
    )
    suppress_nag(
        function,
        {
            "Serverless-LambdaDLQ": "Silence counts as a no, and the log says why.",
            "Serverless-LambdaTracing": "It runs once in a while and logs what it asked.",
        },
    )
    return function


def allow(function: lambda_.IFunction, actions: list[str], *resources: str) -> None:
    """Add to what a function's role may do."""
    function.add_to_role_policy(iam.PolicyStatement(actions=actions, resources=[*resources]))


def any_version(function: lambda_.IFunction) -> str:
    """How cdk-nag finds the permission for every version of a function."""
    name = cdk.Stack.of(function).get_logical_id(function.node.default_child)  # type: ignore[arg-type]
    return f"AwsSolutions-IAM5[Resource::<{name}.Arn>:*]"
