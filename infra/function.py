"""Lambda functions of the image: those that serve a model, and those that look after it."""

from typing import Any, cast

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from handler.manifest import Manifest
from infra import image
from infra.encryption import allow_use, key
from infra.logs import log_group
from infra.settings import Settings
from infra.suppress_nag import suppress_nag

ALIAS = "live"
OPS_SECONDS = 600  # enough for 64 golden rows of a slow model


class ModelFunction(Construct):
    """A function with its role, log group and versions. Clients reach `alias`.

    `service` is the dimension of its metrics. Each function counts its versions by itself.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        settings: Settings,
        manifest: Manifest,
        entry_point: str,
        timeout: cdk.Duration,
        service: str = "",
        parquet: bool = False,
    ) -> None:
        super().__init__(scope, id)
        self.service = service or settings.service
        self.function = _image_function(
            self,
            settings,
            manifest,
            entry_point,
            role_description=f"{settings.service}: {entry_point}",
            description=f"{manifest.name} {manifest.version}, {settings.stage}"[:256],
            environment={"SERVICE_NAME": self.service, "LOG_PAYLOADS": settings.log_payloads},
            parquet=parquet,
            memory_size=settings.memory,
            ephemeral_storage_size=cdk.Size.mebibytes(settings.ephemeral_storage),
            tracing=lambda_.Tracing.ACTIVE if settings.tracing else None,
            timeout=timeout,
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
        self.log_group = self.function.log_group
        self.role = cast(iam.Role, self.function.role)
        if settings.subnet_ids:
            self._join_vpc(settings)
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
        accepted = {"Serverless-LambdaDLQ": "The client gets the failure; nothing is lost."}
        if settings.tracing:
            reason = "X-Ray's actions have no resources."
            suppress_nag(self.role, {"AwsSolutions-IAM5[Resource::*]": reason})
        else:
            accepted["Serverless-LambdaTracing"] = (
                "Every request leaves a record with its timings; X-Ray would cost each cold start "
                "and need a permission on all resources. `tracing` switches it on."
            )
        suppress_nag(self.function, accepted)

    @property
    def dimensions(self) -> dict[str, str]:
        """Return the dimensions of the live version's metrics."""
        return {"service": self.service, "version": self.alias.version.version}

    def _join_vpc(self, settings: Settings) -> None:
        """Attach the function to the subnets. CDK's own way needs the VPC's zones as well."""
        template = self.function.node.default_child
        assert isinstance(template, lambda_.CfnFunction)
        template.vpc_config = lambda_.CfnFunction.VpcConfigProperty(
            subnet_ids=[*settings.subnet_ids], security_group_ids=[*settings.security_group_ids]
        )
        verbs = ["CreateNetworkInterface", "DescribeNetworkInterfaces", "DeleteNetworkInterface"]
        verbs += ["AssignPrivateIpAddresses", "UnassignPrivateIpAddresses", "DescribeSubnets"]
        actions = [f"ec2:{verb}" for verb in verbs]
        allow(self.function, actions, "*")
        # Lambda itself needs them, the function's code does not
        # https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html
        self.role.add_to_policy(
            iam.PolicyStatement(
                effect=iam.Effect.DENY,
                actions=actions,
                resources=["*"],
                conditions={"Null": {"lambda:SourceFunctionArn": "false"}},
            )
        )
        reason = "Lambda requires these actions on all interfaces."
        suppress_nag(self.role, {"AwsSolutions-IAM5[Resource::*]": reason})


def ops_function(
    scope: Construct,
    settings: Settings,
    manifest: Manifest,
    entry_point: str,
    *,
    description: str,
    environment: dict[str, str],
    name: str | None = None,
    retention_days: int | None = None,
) -> lambda_.DockerImageFunction:
    """Return a function of the same image for operations: no alias, no versions, and a role that
    may only write its log.
    """
    text = f"{settings.service}: {description}"
    function = _image_function(
        scope,
        settings,
        manifest,
        entry_point,
        role_description=text,
        description=text[:256],
        environment=environment,
        retention_days=retention_days,
        function_name=name,
        memory_size=512,
        timeout=cdk.Duration.seconds(OPS_SECONDS),
    )
    no_answer = "No answer counts as a failure, and the log says why."
    suppress_nag(function, {"Serverless-LambdaDLQ": no_answer})
    suppress_nag(function, {"Serverless-LambdaTracing": "It runs rarely, and logs its steps."})
    return function


def _image_function(
    scope: Construct,
    settings: Settings,
    manifest: Manifest,
    entry_point: str,
    *,
    role_description: str,
    environment: dict[str, str],
    parquet: bool = False,
    retention_days: int | None = None,
    **properties: Any,
) -> lambda_.DockerImageFunction:
    """Return a function of the image with a log group, and a role that may only write its log."""
    logs = log_group(scope, "Logs", settings, retention_days=retention_days)
    # the managed policy may write to every log group of the account
    role = iam.Role(
        scope,
        "Role",
        assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
        description=role_description,
    )
    logs.grant_write(role)
    allow_use(scope, settings, role)
    arm = settings.architecture == "arm64"
    return lambda_.DockerImageFunction(
        scope,
        "Function",
        code=image.code(scope, settings, manifest, entry_point, parquet),
        architecture=lambda_.Architecture.ARM_64 if arm else lambda_.Architecture.X86_64,
        role=role,
        log_group=logs,
        environment_encryption=key(scope, settings),
        # Lambda's JSON format would wrap the lines, and CloudWatch find no metrics in them
        logging_format=lambda_.LoggingFormat.TEXT,
        environment={
            "SERVICE_NAME": settings.service,
            "LOG_LEVEL": settings.log_level,
            **environment,
        },
        **properties,
    )


def allow(grantee: iam.IGrantable, actions: list[str], *resources: str) -> None:
    """Allow a role, or that of a function, actions on resources."""
    statement = iam.PolicyStatement(actions=actions, resources=[*resources])
    grantee.grant_principal.add_to_principal_policy(statement)


def any_version(function: lambda_.IFunction) -> str:
    """Return cdk-nag's id of the permission for every version of a function."""
    name = cdk.Stack.of(function).get_logical_id(function.node.default_child)  # type: ignore[arg-type]
    return f"AwsSolutions-IAM5[Resource::<{name}.Arn>:*]"
