"""Jobs: their bucket, their queue, the worker, and the alarms of these; only if `jobs` is set.

The event source mapping polls the queue all the time: a million requests a month, some cents.
"""

from functools import partial
from typing import cast

import aws_cdk as cdk
from aws_cdk import aws_lambda_event_sources as sources
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from handler import metrics
from handler.manifest import Manifest
from handler.settings import MAX_RECEIVE_COUNT
from infra.alarms import MonitoringContext, excess
from infra.encryption import private_bucket, private_queue, send_events
from infra.function import ModelFunction, allow
from infra.settings import Settings
from infra.suppress_nag import suppress_nag

TOLERATED_FAILURES = 3  # in an hour, before anybody is notified


class Jobs(Construct):
    """`scoring` accepts jobs; the worker, a function of the same image, runs them."""

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
        self.dead_letters = private_queue(
            self, "DeadLetters", settings, retention_period=cdk.Duration.days(14)
        )
        reason = "This is the dead-letter queue."
        suppress_nag(self.dead_letters, {"Serverless-SQSRedrivePolicy": reason})
        # AWS's rule for Lambda: six timeouts of the function and the batching window
        visibility_seconds = 6 * settings.job_timeout + settings.job_batch_window
        self.queue = private_queue(
            self,
            "Queue",
            settings,
            visibility_timeout=cdk.Duration.seconds(visibility_seconds),
            # a message that outlives its job could only fail
            retention_period=cdk.Duration.days(settings.job_retention_days),
            dead_letter_queue=sqs.DeadLetterQueue(
                queue=self.dead_letters, max_receive_count=MAX_RECEIVE_COUNT
            ),
        )
        changed = {
            "max_concurrency": None,
            "provisioned_concurrency": 0,
            "snapstart": False,
            "pinned_version": settings.pinned_worker_version,
        }
        self.worker = ModelFunction(
            self,
            "Worker",
            settings=settings.model_copy(update=changed),
            manifest=manifest,
            entry_point="handler.jobs.function.lambda_handler",
            timeout=cdk.Duration.seconds(settings.job_timeout),
            service=metrics.jobs_service(settings.service),
        )
        # the new worker gets jobs when the API's canary has passed
        self.worker.alias.node.add_dependency(scoring.alias)
        self._connect(settings, scoring, {}, "secret")
        self._connect(settings, self.worker, {"JOBS_MAX_RECEIVE_COUNT": str(MAX_RECEIVE_COUNT)})
        allow(scoring.role, ["sqs:SendMessage"], self.queue.queue_arn)
        self.worker.alias.add_event_source(
            sources.SqsEventSource(
                self.queue,
                batch_size=settings.job_batch_size,
                max_batching_window=cdk.Duration.seconds(settings.job_batch_window),
                report_batch_item_failures=True,
                # A limit of the function would throttle after a message was received, and good
                # messages would become dead letters.
                max_concurrency=settings.job_concurrency,
            )
        )
        reason = "It is for streams; a queue has its own dead-letter queue."
        suppress_nag(self.worker.alias, {"Serverless-LambdaEventSourceMappingDestination": reason})
        for name, value in {
            "JobsQueueUrl": self.queue.queue_url,
            "JobsDeadLettersUrl": self.dead_letters.queue_url,
            "JobsBucket": self.bucket.bucket_name,
            "JobsDays": str(settings.job_retention_days),
            "JobsWorkerName": self.worker.function.function_name,
        }.items():
            cdk.CfnOutput(cdk.Stack.of(self), name, value=value)

    def _bucket(self, settings: Settings) -> s3.Bucket:
        rule = s3.LifecycleRule(
            prefix="jobs/",  # not the secret of job ids
            expiration=cdk.Duration.days(settings.job_retention_days),
        )
        bucket = private_bucket(self, settings, rule)
        # clients that wait for results make a rule on `jobs/*/result.json`
        send_events(bucket)
        reason = (
            "Only two functions of this stack use it, and each request has a record; CloudTrail's "
            "data events are a setting of the account."
        )
        suppress_nag(bucket, {"AwsSolutions-S1": reason})
        return bucket

    def _connect(
        self, settings: Settings, function: ModelFunction, variables: dict[str, str], *keys: str
    ) -> None:
        """Give a function the names of queue and bucket, and access to jobs/ and other `keys`."""
        variables = {
            "JOBS_BUCKET": self.bucket.bucket_name,
            "JOBS_QUEUE_URL": self.queue.queue_url,
            "JOB_RETENTION_DAYS": str(settings.job_retention_days),
            **variables,
        }
        for name, value in variables.items():
            function.function.add_environment(name, value)
        objects = [self.bucket.arn_for_objects(key) for key in ("jobs/*", *keys)]
        allow(function.role, ["s3:GetObject", "s3:PutObject"], *objects)
        # without it S3 answers 403 instead of 404 for a missing object
        allow(function.role, ["s3:ListBucket"], self.bucket.bucket_arn)
        bucket = cast(cdk.CfnElement, self.bucket.node.default_child)
        rule = (
            f"AwsSolutions-IAM5[Resource::<{cdk.Stack.of(self).get_logical_id(bucket)}.Arn>/jobs/*]"
        )
        reason = "A job is named when it is submitted; jobs/ has nothing else."
        suppress_nag(function.role, {rule: reason})


class JobsAlarms(Construct):
    """Dead letters, a queue that does not move, and jobs that fail."""

    def __init__(self, scope: Construct, id: str, context: MonitoringContext, jobs: Jobs) -> None:
        super().__init__(scope, id)
        limits, period = context.manifest.alarms, cdk.Duration.minutes(5)
        hourly = partial(context.record, minutes=60, dimensions=jobs.worker.dimensions)
        failed = limits.client_error_max_percent / 100
        self.alarms = [
            context.alarm(
                self,
                "dead-letters",
                f"Messages failed {MAX_RECEIVE_COUNT} times. Their jobs stay queued until "
                "`answerable redrive` sends them again.",
                jobs.dead_letters.metric_approximate_number_of_messages_visible(
                    statistic="Maximum", period=period
                ),
            ),
            context.alarm(
                self,
                "queue-age",
                f"The oldest message has waited for over {limits.queue_minutes:g} minutes.",
                jobs.queue.metric_approximate_age_of_oldest_message(
                    statistic="Maximum", period=period
                ),
                threshold=limits.queue_minutes * 60,
            ),
            context.alarm(
                self,
                "failed-results",
                f"Over {limits.client_error_max_percent:g} % of an hour's jobs break the contract: "
                "producers and contract do not agree.",
                excess(hourly, metrics.FAILED_JOBS, metrics.JOBS, failed, TOLERATED_FAILURES),
            ),
        ]
