"""Jobs: the bucket that holds them, the queue, the worker behind it, and what watches these.

Off unless `jobs` is set: the event source mapping asks the queue day and night, which is a million
requests in a month, if few cents.
"""

from typing import cast

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda_event_sources as sources
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from handler import metrics
from handler.manifest import Manifest
from handler.settings import MAX_RECEIVE_COUNT
from infra.alarms import MonitoringContext, alarm
from infra.function import ModelFunction
from infra.settings import Settings
from infra.suppress_nag import suppress_nag

BATCH, WINDOW_SECONDS = 100, 1
FEW = 3  # failed results in an hour that are no reason to call anybody


class Jobs(Construct):
    """`scoring` is the function that takes jobs; the worker is another, on the same image."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        settings: Settings,
        manifest: Manifest,
        scoring: ModelFunction,
    ) -> None:
        super().__init__(scope, id)
        self.bucket = self._bucket(settings)
        timeout = cdk.Duration.seconds(settings.job_timeout)
        self.dead_letters = sqs.Queue(
            self,
            "DeadLetters",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=cdk.Duration.days(14),
        )
        suppress_nag(
            self.dead_letters,
            {"Serverless-SQSRedrivePolicy": "This is where messages go that were given up."},
        )
        self.queue = sqs.Queue(
            self,
            "Queue",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            # AWS's rule for Lambda: six of the function's timeouts and the batching window
            visibility_timeout=cdk.Duration.seconds(6 * settings.job_timeout + WINDOW_SECONDS),
            # a message that outlives its job could only fail
            retention_period=cdk.Duration.days(settings.job_retention_days),
            dead_letter_queue=sqs.DeadLetterQueue(
                queue=self.dead_letters, max_receive_count=MAX_RECEIVE_COUNT
            ),
        )
        own = {
            "max_concurrency": None,
            "provisioned_concurrency": 0,
            "snapstart": False,
            "pinned_version": settings.pinned_worker_version,
        }
        self.worker = ModelFunction(
            self,
            "Worker",
            settings=settings.model_copy(update=own),
            manifest=manifest,
            entry_point="handler.jobs.function.lambda_handler",
            timeout=timeout,
        )
        self._environment(settings, scoring)
        self._permissions(scoring)
        self.worker.alias.add_event_source(
            sources.SqsEventSource(
                self.queue,
                batch_size=BATCH,
                max_batching_window=cdk.Duration.seconds(WINDOW_SECONDS),
                report_batch_item_failures=True,
                # of the mapping and not of the function: that would throttle after a message was
                # received, and good messages would become dead letters
                max_concurrency=settings.job_concurrency,
            )
        )
        suppress_nag(
            self.worker.alias,
            {
                "Serverless-LambdaEventSourceMappingDestination": (
                    "Of streams; what a queue's function fails on goes to the queue's dead letters."
                ),
            },
        )
        for name, value in {
            "JobsQueueUrl": self.queue.queue_url,
            "JobsDeadLettersUrl": self.dead_letters.queue_url,
            "JobsBucket": self.bucket.bucket_name,
            "JobsDays": str(settings.job_retention_days),
            "JobsWorkerName": self.worker.function.function_name,
        }.items():
            cdk.CfnOutput(cdk.Stack.of(self), name, value=value)

    def _bucket(self, settings: Settings) -> s3.Bucket:
        bucket = s3.Bucket(
            self,
            "Bucket",
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            lifecycle_rules=[
                s3.LifecycleRule(
                    prefix="jobs/",  # not the secret that ids are made with
                    expiration=cdk.Duration.days(settings.job_retention_days),
                    abort_incomplete_multipart_upload_after=cdk.Duration.days(1),
                )
            ],
            removal_policy=cdk.RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
        )
        # Whoever waits for results makes a rule on `jobs/*/result.json`. By hand: CDK's own
        # property brings a function that may change the notifications of every bucket.
        template = cast(s3.CfnBucket, bucket.node.default_child)
        template.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
            event_bridge_configuration=s3.CfnBucket.EventBridgeConfigurationProperty(
                event_bridge_enabled=True
            )
        )
        suppress_nag(
            bucket,
            {
                "AwsSolutions-S1": (
                    "Two functions of this stack are all that uses it, and each request leaves a "
                    "record; CloudTrail's data events are the account's to switch on."
                ),
            },
        )
        return bucket

    def _environment(self, settings: Settings, scoring: ModelFunction) -> None:
        common = {
            "JOBS_BUCKET": self.bucket.bucket_name,
            "JOBS_QUEUE_URL": self.queue.queue_url,
            "JOB_RETENTION_DAYS": str(settings.job_retention_days),
        }
        # a name of its own, because both functions count their versions from 1
        own = {
            "SERVICE_NAME": jobs_service(settings),
            "JOBS_MAX_RECEIVE_COUNT": str(MAX_RECEIVE_COUNT),
        }
        for function, variables in ((scoring, common), (self.worker, common | own)):
            for name, value in variables.items():
                function.function.add_environment(name, value)

    def _permissions(self, scoring: ModelFunction) -> None:
        name = cdk.Stack.of(self).get_logical_id(
            cast(cdk.CfnElement, self.bucket.node.default_child)
        )
        for function, more in ((scoring, ["secret"]), (self.worker, [])):
            objects = [self.bucket.arn_for_objects(key) for key in ("jobs/*", *more)]
            function.role.add_to_policy(
                iam.PolicyStatement(actions=["s3:GetObject", "s3:PutObject"], resources=objects)
            )
            # without it S3 answers 403, and not 404, for an object that is not there
            function.role.add_to_policy(
                iam.PolicyStatement(actions=["s3:ListBucket"], resources=[self.bucket.bucket_arn])
            )
            suppress_nag(
                function.role,
                {
                    f"AwsSolutions-IAM5[Resource::<{name}.Arn>/jobs/*]": (
                        "Jobs are named when they come; nothing else lies under jobs/."
                    ),
                },
            )
        scoring.role.add_to_policy(
            iam.PolicyStatement(actions=["sqs:SendMessage"], resources=[self.queue.queue_arn])
        )


class JobsAlarms(Construct):
    """Dead letters, a queue that does not move, and results that fail."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        watched: MonitoringContext,
        jobs: Jobs,
        notify: sns.ITopic,
    ) -> None:
        super().__init__(scope, id)
        wanted = watched.manifest.alarms
        hour = cdk.Duration.hours(1)

        def record(name: str) -> cloudwatch.Metric:
            version = jobs.worker.version.version
            return cloudwatch.Metric(
                namespace=metrics.NAMESPACE,
                metric_name=name,
                dimensions_map={"service": jobs_service(watched.settings), "version": version},
                statistic="Sum",
                period=hour,
            )

        allowed = f"done * {wanted.client_error_max_percent / 100:.6g}"
        self.alarms: list[cloudwatch.IAlarm] = []
        for name, what, metric, threshold in (
            (
                "dead-letters",
                f"Messages were given up after {MAX_RECEIVE_COUNT} tries. Their jobs stay queued until "
                "`answerable redrive` sends them again.",
                jobs.dead_letters.metric_approximate_number_of_messages_visible(
                    statistic="Maximum", period=cdk.Duration.minutes(5)
                ),
                0.0,
            ),
            (
                "queue-age",
                f"The oldest message has waited for over {wanted.queue_minutes:g} minutes.",
                jobs.queue.metric_approximate_age_of_oldest_message(
                    statistic="Maximum", period=cdk.Duration.minutes(5)
                ),
                wanted.queue_minutes * 60,
            ),
            (
                "failed-results",
                f"Over {wanted.client_error_max_percent:g} % of an hour's jobs break the contract: "
                "producers and contract no longer agree.",
                cloudwatch.MathExpression(
                    expression=f"failed - IF({allowed} > {FEW}, {allowed}, {FEW})",
                    using_metrics={
                        "failed": record(metrics.FAILED_JOBS),
                        "done": record(metrics.JOBS),
                    },
                    period=hour,
                    label="Failed results over what is allowed",
                ),
                0.0,
            ),
        ):
            self.alarms.append(
                alarm(self, watched, name, what, metric, threshold=threshold, notify=notify)
            )


def jobs_service(settings: Settings) -> str:
    """The name that the worker's metrics are filed under."""
    return metrics.jobs_service(settings.service)
