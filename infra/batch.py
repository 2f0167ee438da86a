"""Batches: a bucket, two functions and a state machine with a Distributed Map; only with `batch`.

    Pin -> Plan -> Score (one child execution per part) -> Finish, or Fail -> Failed

The first step chooses the version of the worker that does the run. So a deployment or a rollback
during a run changes nothing in it.
"""

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from handler import metrics
from handler.manifest import Manifest
from infra.alarms import MonitoringContext
from infra.encryption import allow_use, private_bucket, send_events
from infra.function import ModelFunction, allow, ops_function
from infra.settings import Settings
from infra.suppress_nag import suppress_nag

SECONDS = 900  # Lambda's longest; a part takes 20 to 60
SPOOL_MB = 4096  # a part's output is written to /tmp first


class Batch(Construct):
    """`scoring` starts runs and reads their status; uploads start them as well."""

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
        self._settings, stack = settings, cdk.Stack.of(self)
        self.bucket = self._bucket()
        changed = {
            "max_concurrency": None,
            "provisioned_concurrency": 0,
            "snapstart": False,
            "pinned_version": None,
            "memory": settings.batch_memory,
            "ephemeral_storage": SPOOL_MB,
        }
        self.worker = ModelFunction(
            self,
            "Parts",
            settings=settings.model_copy(update=changed),
            manifest=manifest,
            entry_point="handler.batch.function.lambda_handler",
            timeout=cdk.Duration.seconds(SECONDS),
            service=metrics.batch_service(settings.service),
            parquet=settings.batch_parquet,
        )
        self.control = ops_function(
            Construct(self, "Control"),
            settings=settings,
            manifest=manifest,
            entry_point="handler.batch.control.on_step",
            description="begin and end of batches",
            environment={
                "SCORING_FUNCTION": scoring.function.function_name,
                "WORKER_FUNCTION": self.worker.function.function_name,
            },
        )
        self.machine = self._machine()
        # by name, because a reference would be a cycle
        arn = stack.format_arn(
            service="states",
            resource="stateMachine",
            resource_name=self._name,
            arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
        )
        self._permissions(scoring, arn)
        uris = " ".join(f"s3://{name}/" for name in settings.batch_input_buckets)
        scoring.function.add_environment("BATCH_STATE_MACHINE", arn)
        scoring.function.add_environment("BATCH_INPUT_URIS", uris)
        for function in (scoring.function, self.worker.function, self.control):
            function.add_environment("BATCH_BUCKET", self.bucket.bucket_name)
        rule = events.Rule(
            self,
            "Uploads",
            event_pattern=events.EventPattern(
                source=["aws.s3"],
                detail_type=["Object Created"],
                detail={
                    "bucket": {"name": [self.bucket.bucket_name]},
                    "object": {"key": [{"prefix": "input/"}]},
                },
            ),
        )
        upload = events.RuleTargetInput.from_event_path("$.detail")
        rule.add_target(targets.SfnStateMachine(self.machine, input=upload))
        suppress_nag(rule, {"Serverless-EventBusDLQ": "EventBridge retries for a day."})
        cdk.CfnOutput(stack, "BatchStateMachine", value=self.machine.state_machine_arn)
        cdk.CfnOutput(stack, "BatchBucket", value=self.bucket.bucket_name)

    @property
    def _name(self) -> str:
        return f"{self._settings.service}-batch"

    def _bucket(self) -> s3.IBucket:
        if self._settings.batch_bucket:
            return s3.Bucket.from_bucket_name(self, "Bucket", self._settings.batch_bucket)
        days = cdk.Duration.days(self._settings.batch_retention_days)
        bucket = private_bucket(self, self._settings, s3.LifecycleRule(expiration=days))
        send_events(bucket)
        reason = "Each run has a manifest, and each part a record in the log."
        suppress_nag(bucket, {"AwsSolutions-S1": reason})
        return bucket

    def _permissions(self, scoring: ModelFunction, machine: str) -> None:
        bucket, worker, control = self.bucket, self.worker.function, self.control
        runs, inputs = (bucket.arn_for_objects(key) for key in ("runs/*", "input/*"))
        others = [
            f"arn:{cdk.Aws.PARTITION}:s3:::{name}" for name in self._settings.batch_input_buckets
        ]
        for function in (scoring.function, worker, control):
            allow(function, ["s3:GetObject", "s3:PutObject"], runs)
            # without it S3 answers 403 instead of 404 for a missing object
            buckets = others if function is worker else []
            allow(function, ["s3:ListBucket"], bucket.bucket_arn, *buckets)
        allow(worker, ["s3:GetObject"], inputs, *(f"{arn}/*" for arn in others))
        allow(scoring.function, ["s3:PutObject"], bucket.arn_for_objects("input/uploads/*"))
        allow(scoring.function, ["states:StartExecution"], machine)
        allow(control, ["s3:DeleteObject"], bucket.arn_for_objects("runs/*/failed.json"))
        api = scoring.function.function_arn
        allow(control, ["lambda:GetAlias"], api, f"{api}:*")
        allow(control, ["lambda:ListVersionsByFunction"], api, worker.function_arn)
        bus = cdk.Stack.of(self).format_arn(
            service="events", resource="event-bus", resource_name="default"
        )
        allow(control, ["events:PutEvents"], bus)
        self._suppress_wildcards(scoring)

    def _suppress_wildcards(self, scoring: ModelFunction) -> None:
        """Accept permissions for the objects of any run, any version and child executions."""

        def name(construct: Any) -> str:
            return cdk.Stack.of(self).get_logical_id(construct.node.default_child)

        partition, bucket_name = "arn:<AWS::Partition>", self._settings.batch_bucket
        bucket = f"{partition}:s3:::{bucket_name}" if bucket_name else f"<{name(self.bucket)}.Arn>"
        reference = f'{{"Ref":"{name(self.machine)}"}}'
        machine = f'{{"Fn::Select":[6,{{"Fn::Split":[":",{reference}]}}]}}'
        execution = f"{partition}:states:<AWS::Region>:<AWS::AccountId>:execution:{machine}"
        others = [f"{partition}:s3:::{other}/*" for other in self._settings.batch_input_buckets]
        keys = ("runs/*", "input/*", "input/uploads/*", "runs/*/failed.json")
        resources = [
            *(f"{bucket}/{key}" for key in keys),
            f"{partition}:s3:::{bucket_name or f'<{name(self.bucket)}>'}/*",
            *others,
            f"{execution}:*",
            f"{execution}/Score:*",
            *(
                f"<{name(function)}.Arn>:*"
                for function in (scoring.function, self.worker.function, self.control)
            ),
        ]
        reason = "A run has objects, child executions and a version of the worker."
        reasons = {f"AwsSolutions-IAM5[Resource::{resource}]": reason for resource in resources}
        suppress_nag(self, reasons)
        suppress_nag(scoring.role, {rule: reasons[rule] for rule in [*reasons][:3]})

    def _machine(self) -> sfn.StateMachine:
        """Return the state machine. Its input is a request, or the detail of an upload's event."""
        settings = self._settings
        options = {
            "key": settings.batch_key,
            "ignore_unknown": settings.batch_ignore_unknown,
            "max_refused_percent": settings.batch_max_refused_percent,
        }
        failed = self._step("Fail", {"error.$": "$.error"})
        failed.next(sfn.Fail(self, "Failed", cause="see failed.json of the run"))
        score = sfn.DistributedMap(
            self,
            "Score",
            label="Score",
            item_reader=sfn.S3JsonItemReader(
                bucket=self.bucket, key=sfn.JsonPath.string_at("$.plan.shards")
            ),
            item_selector={
                "request": sfn.JsonPath.object_at("$.request"),
                "pin": sfn.JsonPath.object_at("$.pin"),
                "shard": sfn.JsonPath.object_at("$$.Map.Item.Value"),
            },
            max_concurrency=settings.batch_concurrency,
            tolerated_failure_percentage=settings.batch_max_failed_percent,
            result_path=sfn.JsonPath.DISCARD,
        )
        # without an output, because a Map Run returns those of all parts, of up to 256 kB
        score.item_processor(self._step("Part", {"shard.$": "$.shard"}, OutputPath="$.Payload"))
        steps: list[Any] = [
            self._step(
                "Pin",
                {},
                ResultPath="$.pin",
                ResultSelector={"function.$": "$.Payload.function"},
            ),
            self._step(
                "Plan",
                {"options": options},
                ResultPath="$.plan",
                ResultSelector={"shards.$": "$.Payload.shards"},
            ),
            score,
            self._step("Finish", {}, OutputPath="$.Payload"),
        ]
        chain = sfn.Chain.start(sfn.Pass(self, "Request", parameters={"request.$": "$"}))
        for step in steps:
            step.add_catch(failed, result_path="$.error")
            chain = chain.next(step)
        machine = sfn.StateMachine(
            self,
            "Machine",
            state_machine_name=self._name,
            definition_body=sfn.DefinitionBody.from_chainable(chain),
        )
        self.worker.function.grant_invoke(machine)
        self.control.grant_invoke(machine)
        allow_use(self, settings, machine)  # it reads the list of parts
        reason = "Each run and part leaves a manifest and a record; Step Functions has the history."
        rules = ("AwsSolutions-SF1", "AwsSolutions-SF2", "Serverless-StepFunctionStateMachineXray")
        suppress_nag(machine, dict.fromkeys(rules, reason))
        return machine

    def _step(self, name: str, payload: dict[str, Any], **fields: Any) -> sfn.CustomState:
        """Return a call of one of the functions; the worker in the run's version.

        A fault of the input is not repeated. Any other error may be of one environment, of S3 or of
        Lambda's limits.
        """
        function = {"FunctionName": self.control.function_arn}
        if name in ("Plan", "Part"):
            function = {"FunctionName.$": "$.pin.function"}
        step = sfn.CustomState(
            self,
            name,
            state_json={
                "Type": "Task",
                "Resource": f"arn:{cdk.Aws.PARTITION}:states:::lambda:invoke",
                "Parameters": {
                    **function,
                    "Payload": {"step": name.lower(), "request.$": "$.request", **payload},
                },
                **fields,
            },
        )
        step.add_retry(errors=["BatchError"], max_attempts=0)
        step.add_retry(
            errors=[sfn.Errors.ALL],
            interval=cdk.Duration.seconds(2),
            max_delay=cdk.Duration.minutes(2),
            max_attempts=6,
            jitter_strategy=sfn.JitterType.FULL,
        )
        return step


def failure_alarm(batch: Batch, context: MonitoringContext) -> cloudwatch.Alarm:
    """Return the alarm of failed runs."""
    return context.alarm(
        batch,
        "batch-failed",
        "A batch failed. `answerable batch status` says why.",
        batch.machine.metric_failed(period=cdk.Duration.minutes(5)),
    )
