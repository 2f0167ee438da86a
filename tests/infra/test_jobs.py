"""What the template says of jobs: nothing, or all that they stand on."""

import json
from typing import Any

import pytest

from handler.settings import MAX_RECEIVE_COUNT
from tests.infra.conftest import Synth, Template


@pytest.fixture(scope="session")
def template(synth: Synth) -> Template:
    return synth.template("jobs=true", "max_concurrency=9", "provisioned_concurrency=1")


def functions(template: Template) -> tuple[dict[str, Any], dict[str, Any]]:
    """The properties of scoring and of the worker."""
    return template.function(), template.function("handler.jobs.function.lambda_handler")


def test_there_are_none_unless_they_are_asked_for(synth: Synth) -> None:
    plain = synth.template()
    assert not plain.all("AWS::SQS::Queue")
    assert not plain.all("AWS::Lambda::EventSourceMapping")
    assert "handler.jobs.function.lambda_handler" not in json.dumps(plain.body)
    assert "JOBS_BUCKET" not in json.dumps(plain.body)


def test_the_queue_waits_long_enough_and_gives_up(template: Template) -> None:
    queues = {name: item["Properties"] for name, item in template.all("AWS::SQS::Queue").items()}
    ((_, queue),) = [item for item in queues.items() if "RedrivePolicy" in item[1]]
    ((dead, letters),) = [item for item in queues.items() if "RedrivePolicy" not in item[1]]
    _, worker = functions(template)
    assert queue["VisibilityTimeout"] >= 6 * worker["Timeout"]
    assert queue["RedrivePolicy"]["maxReceiveCount"] == MAX_RECEIVE_COUNT
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": [dead, "Arn"]}
    assert letters["MessageRetentionPeriod"] == 14 * 86400
    assert all(each["SqsManagedSseEnabled"] for each in queues.values())
    policies = template.all("AWS::SQS::QueuePolicy")
    assert len(policies) == 2
    for policy in policies.values():
        (statement,) = policy["Properties"]["PolicyDocument"]["Statement"]
        assert statement["Effect"] == "Deny"
        assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_the_mapping_limits_concurrency_and_reports_failures(template: Template) -> None:
    mapping = template.one("AWS::Lambda::EventSourceMapping")["Properties"]
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": 10}
    assert (mapping["BatchSize"], mapping["MaximumBatchingWindowInSeconds"]) == (100, 1)
    (alias,) = [name for name in template.all("AWS::Lambda::Alias") if name.startswith("Jobs")]
    assert alias in json.dumps(mapping["FunctionName"])
    assert ":live" in json.dumps(mapping["FunctionName"])


def test_the_worker_is_a_function_of_its_own_on_the_same_image(template: Template) -> None:
    scoring, worker = functions(template)
    assert worker["Code"] == scoring["Code"]
    assert worker["Timeout"] == 120
    # reserved, it would throttle the mapping, and good messages would become dead letters
    assert "ReservedConcurrentExecutions" not in worker
    assert scoring["ReservedConcurrentExecutions"] == 9
    told, own = (each["Environment"]["Variables"] for each in (scoring, worker))
    for name in ("JOBS_BUCKET", "JOBS_QUEUE_URL", "JOB_RETENTION_DAYS"):
        assert told[name] == own[name]
    assert own["JOBS_MAX_RECEIVE_COUNT"] == str(MAX_RECEIVE_COUNT)
    assert (told["SERVICE_NAME"], own["SERVICE_NAME"]) == ("diabetes-dev", "diabetes-dev-jobs")
    aliases = template.all("AWS::Lambda::Alias")
    provisioned = {name[:4]: "Provisioned" in json.dumps(item) for name, item in aliases.items()}
    assert provisioned == {"Scor": True, "Jobs": False}


def test_the_bucket_is_encrypted_private_and_forgets(template: Template) -> None:
    ((name, body),) = template.all("AWS::S3::Bucket").items()
    bucket = body["Properties"]
    assert "SSEAlgorithm" in json.dumps(bucket["BucketEncryption"])
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    rule, incomplete = bucket["LifecycleConfiguration"]["Rules"]
    assert incomplete.keys() == {"AbortIncompleteMultipartUpload", "Status"}
    assert (rule["Prefix"], rule["ExpirationInDays"], rule["Status"]) == ("jobs/", 7, "Enabled")
    assert bucket["NotificationConfiguration"] == {
        "EventBridgeConfiguration": {"EventBridgeEnabled": True}
    }
    assert body["DeletionPolicy"] == "RetainExceptOnCreate"
    (statement,) = template.one("AWS::S3::BucketPolicy")["Properties"]["PolicyDocument"][
        "Statement"
    ]
    assert (statement["Effect"], statement["Action"]) == ("Deny", "s3:*")
    assert {"Fn::GetAtt": [name, "Arn"]} in statement["Resource"]


def test_a_setting_is_passed_on(synth: Synth) -> None:
    template = synth.template(
        "jobs=true", "job_retention_days=3", "job_timeout=30", "job_concurrency=4"
    )
    scoring, worker = functions(template)
    assert worker["Timeout"] == 30
    assert scoring["Environment"]["Variables"]["JOB_RETENTION_DAYS"] == "3"
    assert (
        template.one("AWS::S3::Bucket")["Properties"]["LifecycleConfiguration"]["Rules"][0][
            "ExpirationInDays"
        ]
        == 3
    )
    mapping = template.one("AWS::Lambda::EventSourceMapping")["Properties"]
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": 4}
    outputs = {name: item["Value"] for name, item in template.body["Outputs"].items()}
    assert outputs["JobsDays"] == "3"
    assert {"JobsQueueUrl", "JobsDeadLettersUrl", "JobsBucket"} <= outputs.keys()


def test_each_function_may_do_its_part_and_no_more(template: Template) -> None:
    allowed: dict[str, set[str]] = {}
    for item in template.all("AWS::IAM::Policy").values():
        (role,) = item["Properties"]["Roles"]
        for statement in item["Properties"]["PolicyDocument"]["Statement"]:
            actions = statement["Action"]
            found = {actions} if isinstance(actions, str) else set(actions)
            allowed.setdefault(role["Ref"][:4], set()).update(found)
    logs = {"logs:CreateLogStream", "logs:PutLogEvents"}
    objects = {"s3:GetObject", "s3:PutObject", "s3:ListBucket"}
    assert allowed["Scor"] == logs | objects | {"sqs:SendMessage"}
    assert allowed["Jobs"] - logs - objects == {
        "sqs:ReceiveMessage",
        "sqs:ChangeMessageVisibility",
        "sqs:GetQueueUrl",
        "sqs:DeleteMessage",
        "sqs:GetQueueAttributes",
    }


def test_the_alarms(template: Template) -> None:
    alarms = {
        item["Properties"]["AlarmName"]: item["Properties"]
        for name, item in template.all("AWS::CloudWatch::Alarm").items()
        if name.startswith("JobsAlarms")
    }
    assert {name.removeprefix("dev-diabetes-") for name in alarms} == {
        "dead-letters",
        "queue-age",
        "failed-results",
    }
    for alarm in alarms.values():
        assert alarm["AlarmActions"]
        assert alarm["OKActions"]
        assert "Owner: " in alarm["AlarmDescription"]
        assert "Runbook: " in alarm["AlarmDescription"]
    assert alarms["dev-diabetes-dead-letters"]["Threshold"] == 0
    assert alarms["dev-diabetes-queue-age"]["Threshold"] == 15 * 60
    failed = json.dumps(alarms["dev-diabetes-failed-results"]["Metrics"])
    assert "diabetes-dev-jobs" in failed
    assert "FailedJobs" in failed
