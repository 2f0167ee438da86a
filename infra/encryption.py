"""The customer's KMS key, if `kms_key_arn` names one; without it, AWS's own keys encrypt."""

from typing import Any, cast

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.settings import Settings

ID = "EncryptionKey"


def key(scope: Construct, settings: Settings) -> kms.IKey | None:
    """Return the stack's key, None if it has none."""
    stack = cdk.Stack.of(scope)
    if not settings.kms_key_arn:
        return None
    return stack.node.try_find_child(ID) or kms.Key.from_key_arn(  # type: ignore[return-value]
        stack, ID, settings.kms_key_arn
    )


def allow_use(scope: Construct, settings: Settings, role: iam.IGrantable) -> None:
    """Allow a role to read and write what the key encrypts."""
    if encryption_key := key(scope, settings):
        encryption_key.grant(role, "kms:Decrypt", "kms:GenerateDataKey")


def private_bucket(
    scope: Construct, settings: Settings, rule: s3.LifecycleRule, *, versioned: bool = False
) -> s3.Bucket:
    """Return the encrypted bucket of a construct, which outlives the stack.

    Parts of an upload that was never completed are deleted after a day.
    """
    encryption = s3.BucketEncryption
    incomplete = s3.LifecycleRule(abort_incomplete_multipart_upload_after=cdk.Duration.days(1))
    return s3.Bucket(
        scope,
        "Bucket",
        encryption=encryption.KMS if settings.kms_key_arn else encryption.S3_MANAGED,
        encryption_key=key(scope, settings),
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        enforce_ssl=True,
        versioned=versioned,
        lifecycle_rules=[rule, incomplete],
        removal_policy=cdk.RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
    )


def send_events(bucket: s3.Bucket) -> None:
    """Have a bucket send its events to EventBridge.

    CDK's own property would add a function that may change the notifications of every bucket.
    """
    template = cast(s3.CfnBucket, bucket.node.default_child)
    template.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
        event_bridge_configuration=s3.CfnBucket.EventBridgeConfigurationProperty(
            event_bridge_enabled=True
        )
    )


def private_queue(scope: Construct, id: str, settings: Settings, **options: Any) -> sqs.Queue:
    """Return an encrypted queue."""
    kinds = sqs.QueueEncryption
    return sqs.Queue(
        scope,
        id,
        encryption=kinds.KMS if settings.kms_key_arn else kinds.SQS_MANAGED,
        encryption_master_key=key(scope, settings),
        enforce_ssl=True,
        **options,
    )
