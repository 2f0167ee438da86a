"""Records in S3, to be queried by date, model and version; off unless `archive` is set.

CloudWatch Logs sends them to Firehose, which takes them out of its envelope and files them under
`records/model=…/version=…/date=…`, the layout that Athena and DuckDB read as columns.
"""

from typing import cast

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.function import ModelFunction
from infra.settings import Settings
from infra.suppress_nag import suppress_nag

PREFIX = (
    "records/model=!{partitionKeyFromQuery:model}/version=!{partitionKeyFromQuery:version}/"
    "date=!{timestamp:yyyy-MM-dd}/"
)


class Archive(Construct):
    """The bucket, the stream to it, and the log group's subscription."""

    def __init__(
        self, scope: Construct, id: str, settings: Settings, scoring: ModelFunction
    ) -> None:
        super().__init__(scope, id)
        self.bucket = s3.Bucket(
            self,
            "Bucket",
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            removal_policy=cdk.RemovalPolicy.RETAIN,  # the audit outlives the stack
        )
        suppress_nag(
            self.bucket,
            {"AwsSolutions-S1": "An access log of the log's archive would need an archive too."},
        )
        writer = iam.Role(self, "Writer", assumed_by=iam.ServicePrincipal("firehose.amazonaws.com"))
        writer.add_to_policy(
            iam.PolicyStatement(
                actions=["s3:PutObject", "s3:AbortMultipartUpload"],
                resources=[self.bucket.arn_for_objects("*")],
            )
        )
        writer.add_to_policy(
            iam.PolicyStatement(
                actions=["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"],
                resources=[self.bucket.bucket_arn],
            )
        )
        name = cdk.Stack.of(self).get_logical_id(
            cast(cdk.CfnElement, self.bucket.node.default_child)
        )
        suppress_nag(
            writer,
            {
                f"AwsSolutions-IAM5[Resource::<{name}.Arn>/*]": (
                    "Firehose names the objects itself; the bucket has no others."
                ),
            },
        )
        processors = [
            ("Decompression", {"CompressionFormat": "GZIP"}),
            ("CloudWatchLogProcessing", {"DataMessageExtraction": "true"}),
            (
                "MetadataExtraction",
                {
                    "MetadataExtractionQuery": '{model: (.model.name // "-"), version: .version}',
                    "JsonParsingEngine": "JQ-1.6",
                },
            ),
            ("AppendDelimiterToRecord", {"Delimiter": "\\n"}),
        ]
        stream = firehose.CfnDeliveryStream(
            self,
            "Stream",
            delivery_stream_type="DirectPut",
            delivery_stream_encryption_configuration_input=firehose.CfnDeliveryStream.DeliveryStreamEncryptionConfigurationInputProperty(
                key_type="AWS_OWNED_CMK"
            ),
            extended_s3_destination_configuration=firehose.CfnDeliveryStream.ExtendedS3DestinationConfigurationProperty(
                bucket_arn=self.bucket.bucket_arn,
                role_arn=writer.role_arn,
                prefix=PREFIX,
                error_output_prefix="failed/!{firehose:error-output-type}/",
                compression_format="GZIP",
                # dynamic partitioning takes no less than 64 MB
                buffering_hints=firehose.CfnDeliveryStream.BufferingHintsProperty(
                    interval_in_seconds=900, size_in_m_bs=64
                ),
                dynamic_partitioning_configuration=firehose.CfnDeliveryStream.DynamicPartitioningConfigurationProperty(
                    enabled=True
                ),
                processing_configuration=firehose.CfnDeliveryStream.ProcessingConfigurationProperty(
                    enabled=True,
                    processors=[
                        firehose.CfnDeliveryStream.ProcessorProperty(
                            type=kind,
                            parameters=[
                                firehose.CfnDeliveryStream.ProcessorParameterProperty(
                                    parameter_name=name, parameter_value=value
                                )
                                for name, value in parameters.items()
                            ],
                        )
                        for kind, parameters in processors
                    ],
                ),
            ),
        )
        stream.node.add_dependency(writer)
        sender = iam.Role(
            self,
            "Sender",
            assumed_by=iam.ServicePrincipal(
                "logs.amazonaws.com",
                conditions={"StringEquals": {"aws:SourceAccount": cdk.Aws.ACCOUNT_ID}},
            ),
        )
        sender.add_to_policy(
            iam.PolicyStatement(
                actions=["firehose:PutRecord", "firehose:PutRecordBatch"],
                resources=[stream.attr_arn],
            )
        )
        subscription = logs.CfnSubscriptionFilter(
            self,
            "Subscription",
            log_group_name=scoring.log_group.log_group_name,
            destination_arn=stream.attr_arn,
            role_arn=sender.role_arn,
            filter_pattern='{ ($.message = "request") || ($.message = "job") || ($.message = "outcomes") }',
        )
        subscription.node.add_dependency(sender)
