"""Log groups with the configured retention."""

import aws_cdk as cdk
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.encryption import key
from infra.settings import RETENTIONS, Settings


def log_group(
    scope: Construct,
    id: str,
    settings: Settings,
    name: str | None = None,
    retention_days: int | None = None,
) -> logs.LogGroup:
    """Return a log group for one writer, so that a role can be limited to it.

    It outlives the stack until its retention ends: the logs are the audit of what was predicted.
    Without a key of the settings, CloudWatch Logs encrypts with its own.
    """
    days = dict(zip(RETENTIONS, logs.RetentionDays, strict=False))
    return logs.LogGroup(
        scope,
        id,
        log_group_name=name,
        encryption_key=key(scope, settings),
        retention=days[retention_days or settings.log_retention_days],
        removal_policy=cdk.RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
    )
