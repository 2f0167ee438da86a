"""What the template says of batches: nothing, or all that they need."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.infra.conftest import Synth, Template
from tests.infra.test_options import of_deploy_toml

ENTRY_POINT = "handler.batch.function.lambda_handler"


@pytest.fixture(scope="session")
def template(synth: Synth) -> Template:
    return synth.template("batch=true", "max_concurrency=9", "batch_key=customer")


def definition(template: Template) -> dict[str, Any]:
    """Return the state machine's definition, references as `${Name.Attribute}`."""
    value = template.one("AWS::StepFunctions::StateMachine")["Properties"]["DefinitionString"]
    parts = value["Fn::Join"][1]
    text = "".join(
        part if isinstance(part, str) else f"${{{part.get('Ref') or part['Fn::GetAtt'][0]}}}"
        for part in parts
    )
    return dict(json.loads(text))


def test_batch_is_absent_unless_it_is_set(synth: Synth) -> None:
    plain = synth.template()
    assert not plain.all("AWS::StepFunctions::StateMachine")
    assert not plain.all("AWS::S3::Bucket")
    assert "BATCH_BUCKET" not in json.dumps(plain.body)
    assert ENTRY_POINT not in json.dumps(plain.body)


def test_batch_steps_run_in_the_version_that_the_first_one_chose(template: Template) -> None:
    states = definition(template)["States"]
    order, name = [], definition(template)["StartAt"]
    while name:
        order.append(name)
        name = states[name].get("Next")
    assert order == ["Request", "Pin", "Plan", "Score", "Finish"]
    part = states["Score"]["ItemProcessor"]["States"]["Part"]
    for step in (states["Plan"], part):
        assert step["Parameters"]["FunctionName.$"] == "$.pin.function"
    for name in ("Pin", "Plan", "Score", "Finish"):
        assert states[name]["Catch"] == [
            {"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Fail"}
        ]
    assert states["Fail"]["Next"] == "Failed"
    assert states["Failed"]["Type"] == "Fail"


def test_batch_map_is_distributed_and_bounded(template: Template) -> None:
    score = definition(template)["States"]["Score"]
    assert score["ItemProcessor"]["ProcessorConfig"] == {
        "Mode": "DISTRIBUTED",
        "ExecutionType": "STANDARD",
    }
    assert score["MaxConcurrency"] == 100
    assert "ToleratedFailurePercentage" not in score  # none is tolerated
    assert score["ItemReader"]["ReaderConfig"] == {"InputType": "JSON"}
    assert score["ItemReader"]["Parameters"]["Key.$"] == "$.plan.shards"
    part = score["ItemProcessor"]["States"]["Part"]
    assert part["OutputPath"] == "$.Payload"  # null: a Map Run returns at most 256 kB
    first, second = part["Retry"]
    assert (first["ErrorEquals"], first["MaxAttempts"]) == (["BatchError"], 0)
    assert (second["ErrorEquals"], second["MaxAttempts"]) == (["States.ALL"], 6)
    assert second["JitterStrategy"] == "FULL"


def test_batch_function_is_of_the_same_image(template: Template) -> None:
    scoring, worker = template.function(), template.function(ENTRY_POINT)
    assert worker["Code"] == scoring["Code"]
    assert (worker["Timeout"], worker["EphemeralStorage"]) == (900, {"Size": 4096})
    assert "ReservedConcurrentExecutions" not in worker
    variables = worker["Environment"]["Variables"]
    assert variables["SERVICE_NAME"] == "diabetes-dev-batch"
    assert variables["BATCH_BUCKET"] == scoring["Environment"]["Variables"]["BATCH_BUCKET"]
    assert "PREDICTION_ID_SECRET" in variables
    arn = json.dumps(scoring["Environment"]["Variables"]["BATCH_STATE_MACHINE"])
    assert ":stateMachine:diabetes-dev-batch" in arn
    machine = template.one("AWS::StepFunctions::StateMachine")["Properties"]
    assert machine["StateMachineName"] == "diabetes-dev-batch"


def test_batch_with_parquet_has_an_image_of_its_own(synth: Synth) -> None:
    template = synth.template("batch=true", "batch_parquet=true")
    assert template.function(ENTRY_POINT)["Code"] != template.function()["Code"]
    assert template.function()["Code"] == synth.template().function()["Code"]
    tagged = synth.template(
        "batch=true", "batch_parquet=true", "image_repository=models", "image_tag=v7"
    )
    assert '/models:v7"' in json.dumps(tagged.function()["Code"])
    assert '/models:v7-parquet"' in json.dumps(tagged.function(ENTRY_POINT)["Code"])


def test_batch_an_upload_starts_a_run(template: Template) -> None:
    (rule,) = [
        item["Properties"]
        for item in template.all("AWS::Events::Rule").values()
        if item["Properties"].get("EventPattern", {}).get("source") == ["aws.s3"]
    ]
    assert rule["EventPattern"]["detail-type"] == ["Object Created"]
    assert rule["EventPattern"]["detail"]["object"] == {"key": [{"prefix": "input/"}]}
    (target,) = rule["Targets"]
    assert target["InputPath"] == "$.detail"
    machine = next(iter(template.all("AWS::StepFunctions::StateMachine")))
    assert target["Arn"] == {"Ref": machine}


def test_batch_bucket_is_private_and_sends_events(template: Template) -> None:
    bucket = template.one("AWS::S3::Bucket")["Properties"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["NotificationConfiguration"] == {
        "EventBridgeConfiguration": {"EventBridgeEnabled": True}
    }
    assert bucket["LifecycleConfiguration"]["Rules"][0]["ExpirationInDays"] == 30


def test_batch_in_a_bucket_of_the_user(synth: Synth, tmp_path: Path) -> None:
    text = 'batch = true\nbatch_bucket = "lake"\nbatch_input_buckets = ["other"]'
    template = of_deploy_toml(synth, tmp_path, text)
    assert not template.all("AWS::S3::Bucket")
    worker, scoring = template.function(ENTRY_POINT), template.function()
    assert worker["Environment"]["Variables"]["BATCH_BUCKET"] == "lake"
    assert scoring["Environment"]["Variables"]["BATCH_INPUT_URIS"] == "s3://other/"
    assert ":s3:::other/*" in json.dumps(template.all("AWS::IAM::Policy"))


def test_batch_each_function_may_do_its_part_and_no_more(template: Template) -> None:
    allowed: dict[str, set[str]] = {}
    for item in template.all("AWS::IAM::Policy").values():
        (role,) = item["Properties"]["Roles"]
        for statement in item["Properties"]["PolicyDocument"]["Statement"]:
            actions = statement["Action"]
            allowed.setdefault(role["Ref"][:9], set()).update(
                {actions} if isinstance(actions, str) else set(actions)
            )
    logs = {"logs:CreateLogStream", "logs:PutLogEvents"}
    objects = {"s3:GetObject", "s3:PutObject", "s3:ListBucket"}
    assert allowed["ScoringRo"] == logs | objects | {"states:StartExecution"}
    assert allowed["BatchPart"] == logs | objects
    assert allowed["BatchCont"] == logs | objects | {
        "s3:DeleteObject",
        "events:PutEvents",
        "lambda:GetAlias",
        "lambda:ListVersionsByFunction",
    }


def test_batch_records_feed_the_drift_monitor_and_the_archive(synth: Synth) -> None:
    template = synth.template("batch=true", "jobs=true", "archive=true")
    monitor = template.function("handler.drift.monitor.on_schedule")
    groups = json.dumps(monitor["Environment"]["Variables"]["RECORD_LOG_GROUPS"])
    assert "BatchPartsLogs" in groups
    assert "JobsWorkerLogs" in groups
    assert len(template.all("AWS::Logs::SubscriptionFilter")) == 3
