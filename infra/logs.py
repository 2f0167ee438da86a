"""Log groups that forget when the settings say so."""

import aws_cdk as cdk
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.settings import RETENTIONS, Settings


def log_group(scope: Construct, id: str, settings: Settings) -> logs.LogGroup:
    """A log group of its own for each writer, so that a role can be held to it.

    It outlives the stack, for as long as its retention says: the logs are the audit of what was
    predicted. CloudWatch Logs encrypts at rest by itself.
    """
    days = dict(zip(RETENTIONS, logs.RetentionDays, strict=False))
    return logs.LogGroup(
        scope,
        id,
        retention=days[settings.log_retention_days],
        removal_policy=cdk.RemovalPolicy.RETAIN,
    )
