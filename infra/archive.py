"""Records in S3, partitioned by model, version and date; only if `archive` is set.

CloudWatch Logs sends the records to Firehose, which unpacks them and writes them under
`records/model=…/version=…/date=…`. Athena and DuckDB read this layout as columns.
"""

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_logs as logs
from aws_cdk import aws_logs_destinations as destinations
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.alarms import MonitoringContext
from infra.encryption import allow_use, private_bucket
from infra.function import ModelFunction, allow
from infra.suppress_nag import suppress_nag

PREFIX = (
    "records/model=!{partitionKeyFromQuery:model}/version=!{partitionKeyFromQuery:version}/"
    "date=!{timestamp:yyyy-MM-dd}/"
)
PARTITION_KEYS = {"model": '.model.name // "-"', "version": ".version"}
ARCHIVED = ("request", "job", "outcomes")  # messages of the log


class Archive(Construct):
    """The bucket, the delivery stream with its alarm, and the log groups' subscriptions."""

    def __init__(
        self, scope: Construct, id: str, context: MonitoringContext, functions: list[ModelFunction]
    ) -> None:
        super().__init__(scope, id)
        rule = s3.LifecycleRule(noncurrent_version_expiration=cdk.Duration.days(90))
        # an audit is not overwritten
        self.bucket = private_bucket(self, context.settings, rule, versioned=True)
        reason = "An access log of the archive would need an archive too."
        suppress_nag(self.bucket, {"AwsSolutions-S1": reason})
        writer = self._writer()
        allow_use(self, context.settings, writer)
        self.stream = firehose.DeliveryStream(
            self,
            "Stream",
            encryption=firehose.StreamEncryption.aws_owned_key(),
            destination=firehose.S3Bucket(
                self.bucket,
                role=writer.without_policy_updates(),  # CDK's grant lets it delete, too
                logging_config=firehose.DisableLogging(),  # type: ignore[arg-type]
                data_output_prefix=PREFIX,
                error_output_prefix="failed/!{firehose:error-output-type}/",
                compression=firehose.Compression.GZIP,
                buffering_interval=cdk.Duration.minutes(15),
                buffering_size=cdk.Size.mebibytes(64),  # the least with dynamic partitioning
                dynamic_partitioning=firehose.DynamicPartitioningProps(enabled=True),
                processors=[
                    firehose.DecompressionProcessor(),
                    firehose.CloudWatchLogProcessor(data_message_extraction=True),
                    # one record of CloudWatch Logs has many messages, of any partition
                    firehose.RecordDeAggregationProcessor.json(),
                    firehose.MetadataExtractionProcessor.jq16(PARTITION_KEYS),
                    firehose.AppendDelimiterToRecordProcessor(),
                ],
            ),
        )
        self.stream.node.add_dependency(writer)
        # CDK adds a mapping of addresses, which only a stream in a VPC uses
        assert cdk.Stack.of(self).node.try_remove_child("@aws-cdk--aws-kinesisfirehose.CidrBlocks")
        self.alarm = context.alarm(
            self,
            "archive-delivery",
            "Records wait for over an hour to be delivered to S3.",
            # seconds
            self.stream.metric(
                "DeliveryToS3.DataFreshness", statistic="Maximum", period=cdk.Duration.minutes(15)
            ),
            threshold=3600,
        )
        pattern = " || ".join(f'($.message = "{message}")' for message in ARCHIVED)
        for function in functions:
            logs.SubscriptionFilter(
                self,
                f"{function.node.id}Subscription",
                log_group=function.log_group,
                destination=destinations.FirehoseDestination(self.stream),
                filter_pattern=logs.FilterPattern.literal(f"{{ {pattern} }}"),
            )

    def _writer(self) -> iam.Role:
        """Return a role that may write objects to the bucket."""
        role = iam.Role(self, "Writer", assumed_by=iam.ServicePrincipal("firehose.amazonaws.com"))
        objects = ["s3:PutObject", "s3:AbortMultipartUpload"]
        bucket = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
        allow(role, objects, self.bucket.arn_for_objects("*"))
        allow(role, bucket, self.bucket.bucket_arn)
        name = cdk.Stack.of(self).get_logical_id(self.bucket.node.default_child)  # type: ignore[arg-type]
        reason = "Firehose names the objects itself; the bucket has no others."
        suppress_nag(role, {f"AwsSolutions-IAM5[Resource::<{name}.Arn>/*]": reason})
        return role
