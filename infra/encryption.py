"""The customer's KMS key, if `kms_key_arn` names one; without it, AWS's own keys encrypt."""

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


def bucket_encryption(settings: Settings) -> s3.BucketEncryption:
    """Return how a bucket is encrypted."""
    return s3.BucketEncryption.KMS if settings.kms_key_arn else s3.BucketEncryption.S3_MANAGED


def queue_encryption(settings: Settings) -> sqs.QueueEncryption:
    """Return how a queue is encrypted."""
    return sqs.QueueEncryption.KMS if settings.kms_key_arn else sqs.QueueEncryption.SQS_MANAGED
