"""What the template must say, setting by setting."""

import json
from typing import Any

import pytest

from handler import errors, manifest
from handler.http import COMMON_HEADERS
from handler.release import deploy_hooks
from infra import alarms, gateway_responses
from infra import deploy_hooks as infra_deploy_hooks
from tests.fixtures.artifact import DIABETES
from tests.infra.conftest import POOL, Synth, Template

MANIFEST = manifest.read(DIABETES)
AUTHS = ["auth=iam"], ["auth=api-key"], ["auth=cognito", f"user_pool_arn={POOL}"]


@pytest.mark.parametrize("auth", AUTHS, ids=["iam", "api-key", "cognito"])
@pytest.mark.parametrize("rollout", ["canary", "linear", "all-at-once"])
def test_every_rollout_and_auth_synthesises(synth: Synth, rollout: str, auth: list[str]) -> None:
    template = synth.template(f"rollout={rollout}", *auth)
    assert bool(template.all("AWS::CodeDeploy::DeploymentGroup")) == (rollout != "all-at-once")
    for method in template.all("AWS::ApiGateway::Method").values():
        properties = method["Properties"]
        expected = {"auth=iam": "AWS_IAM", "auth=api-key": "NONE"}
        assert properties["AuthorizationType"] == expected.get(auth[0], "COGNITO_USER_POOLS")
        assert bool(properties.get("ApiKeyRequired")) == (auth == ["auth=api-key"])
    assert len(template.all("AWS::ApiGateway::Method")) == 2


def test_what_is_retained_goes_with_a_failed_creation(synth: Synth) -> None:
    """A version that a failed canary left would make every retry fail."""
    template = synth.template("jobs=true", "archive=true", "gateway_log_role=true")
    retained = [item for item in template.body["Resources"].values() if "DeletionPolicy" in item]
    kinds = {item["Type"] for item in retained if item["DeletionPolicy"] != "Delete"}
    assert kinds == {
        "AWS::ApiGateway::Account",
        "AWS::IAM::Role",
        "AWS::Lambda::Version",
        "AWS::Logs::LogGroup",
        "AWS::S3::Bucket",
    }
    for item in retained:
        assert item["DeletionPolicy"] in ("RetainExceptOnCreate", "Delete"), item["Type"]


def test_versions_are_retained(template: Template) -> None:
    version = template.one("AWS::Lambda::Version")
    assert version["DeletionPolicy"] == "RetainExceptOnCreate"
    assert version["UpdateReplacePolicy"] == "Retain"


def test_the_gateway_s_execution_log_is_the_stack_s(template: Template) -> None:
    ((name, group),) = [
        (name, item["Properties"])
        for name, item in template.all("AWS::Logs::LogGroup").items()
        if "LogGroupName" in item["Properties"]
    ]
    (api,) = template.all("AWS::ApiGateway::RestApi")
    words = ["API-Gateway-Execution-Logs_", {"Ref": api}, "/dev"]
    assert group["LogGroupName"] == {"Fn::Join": ["", words]}
    assert group["RetentionInDays"] == 30
    assert name in template.one("AWS::ApiGateway::Stage")["DependsOn"]


def test_a_new_image_is_a_new_version(synth: Synth) -> None:
    image = "image_repository=answerable"
    ids = [
        next(iter(synth.template(image, f"image_tag={tag}").all("AWS::Lambda::Version")))
        for tag in ("a", "b")
    ]
    assert ids[0] != ids[1]


def test_the_alias_moves_through_codedeploy(template: Template) -> None:
    alias = template.one("AWS::Lambda::Alias")
    (application,) = template.all("AWS::CodeDeploy::Application")
    ((group, body),) = template.all("AWS::CodeDeploy::DeploymentGroup").items()
    assert alias["Properties"]["Name"] == "live"
    hooks = {
        when: next(name for name in template.all("AWS::Lambda::Function") if when in name)
        for when in ("Before", "After")
    }
    assert alias["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"] == {
        "ApplicationName": {"Ref": application},
        "DeploymentGroupName": {"Ref": group},
        **{f"{when}AllowTrafficHook": {"Ref": name} for when, name in hooks.items()},
    }
    # the hooks are the new version's own before CodeDeploy asks them
    assert set(alias["DependsOn"]) >= set(hooks.values())
    rollback = body["Properties"]["AutoRollbackConfiguration"]
    assert rollback["Enabled"]
    assert len(rollback["Events"]) == 3
    assert len(body["Properties"]["AlarmConfiguration"]["Alarms"]) == 4
    assert not body["Properties"]["AlarmConfiguration"]["IgnorePollAlarmFailure"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hook(synth: Synth, when: str) -> None:
    template = synth.template("low_traffic_policy=fail", "minimum_requests=7")
    hook = template.function(f"handler.release.deploy_hooks.{when}_traffic")
    assert hook["FunctionName"] == f"CodeDeployHook_diabetes-dev_{when}"
    assert hook["Code"] == template.function()["Code"]  # the image that is released
    (version,) = template.all("AWS::Lambda::Version")
    assert hook["Environment"]["Variables"] == {
        "VERSION_ARN": {"Ref": version},
        "LOW_TRAFFIC_POLICY": "fail",
        "MINIMUM_REQUESTS": "7",
        "MODEL_SHA256": MANIFEST.files["model.onnx"].sha256,
        "SERVICE_NAME": "diabetes-dev",
        "LOG_LEVEL": "INFO",
    }
    assert hook["Timeout"] > 2 * deploy_hooks.RESERVE_SECONDS


def test_a_long_service_s_hooks_have_names_that_lambda_takes() -> None:
    names = {
        infra_deploy_hooks.name(service, "before") for service in ("a" * 57, "a" * 56, "b" * 42)
    }
    assert len(names) == 3
    assert all(len(name) <= 64 for name in names)


def test_a_pinned_version_is_live_without_a_deployment(synth: Synth) -> None:
    template = synth.template("pinned_version=7")
    alias = template.one("AWS::Lambda::Alias")
    assert alias["Properties"]["FunctionVersion"] == "7"
    assert "UpdatePolicy" not in alias
    # the group stays, and with it the history that names the previous version
    (group,) = template.all("AWS::CodeDeploy::DeploymentGroup")
    assert group in synth.template().all("AWS::CodeDeploy::DeploymentGroup")
    assert template.body["Outputs"]["DeploymentGroup"]["Value"] == {"Ref": group}
    # what this checkout would publish is published and retained, and called by nobody
    assert template.one("AWS::Lambda::Version")["DeletionPolicy"] == "RetainExceptOnCreate"
    assert template.body["Outputs"]["LiveVersion"]["Value"] == "7"


@pytest.mark.parametrize(
    ("settings", "routing"),
    [
        (
            ["bake_minutes=12"],
            {
                "Type": "TimeBasedCanary",
                "TimeBasedCanary": {"CanaryInterval": 12, "CanaryPercentage": 10},
            },
        ),
        (
            ["rollout=linear", "bake_minutes=18"],
            {
                "Type": "TimeBasedLinear",
                "TimeBasedLinear": {"LinearInterval": 2, "LinearPercentage": 10},
            },
        ),
    ],
)
def test_the_pace_of_a_rollout(
    synth: Synth, settings: list[str], routing: dict[str, object]
) -> None:
    config = synth.template(*settings).one("AWS::CodeDeploy::DeploymentConfig")
    assert config["Properties"]["TrafficRoutingConfig"] == routing


def test_all_at_once_leaves_the_alias_to_cloudformation(synth: Synth) -> None:
    template = synth.template("rollout=all-at-once")
    assert "UpdatePolicy" not in template.one("AWS::Lambda::Alias")
    assert not template.all("AWS::CodeDeploy::Application")
    assert "CodeDeployHook" not in json.dumps(template.body)
    assert "crashes" not in str(template.alarms())


def test_the_function(synth: Synth) -> None:
    template = synth.template(
        "memory=3008", "timeout=9", "architecture=arm64", "max_concurrency=7", "snapstart=true"
    )
    function = template.function()
    assert (function["MemorySize"], function["Timeout"]) == (3008, 9)
    assert function["Architectures"] == ["arm64"]
    assert function["ReservedConcurrentExecutions"] == 7
    assert function["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    assert function["LoggingConfig"]["LogFormat"] == "Text"
    variables = function["Environment"]["Variables"]
    assert variables.pop("PREDICTION_ID_SECRET")  # see test_secret.py
    assert variables == {
        "SERVICE_NAME": "diabetes-dev",
        "LOG_LEVEL": "INFO",
        "LOG_PAYLOADS": "off",
    }


def test_provisioned_concurrency_is_of_the_alias(synth: Synth) -> None:
    alias = synth.template("provisioned_concurrency=2").one("AWS::Lambda::Alias")
    provisioned = alias["Properties"]["ProvisionedConcurrencyConfig"]
    assert provisioned == {"ProvisionedConcurrentExecutions": 2}


def test_only_the_alias_can_be_called_through_the_api(template: Template) -> None:
    (alias,) = template.all("AWS::Lambda::Alias")
    every = template.all("AWS::Lambda::Permission").values()
    permissions = [p for p in every if "apigateway" in p["Properties"]["Principal"]]
    assert permissions
    for permission in permissions:
        assert permission["Properties"]["FunctionName"] == {"Ref": alias}
        assert "test-invoke" not in json.dumps(permission)
    for method in template.all("AWS::ApiGateway::Method").values():
        assert {"Ref": alias} in method["Properties"]["Integration"]["Uri"]["Fn::Join"][1]


def test_the_api(synth: Synth) -> None:
    template = synth.template("rate_limit=7", "burst_limit=9", "stage=prod")
    api = template.one("AWS::ApiGateway::RestApi")["Properties"]
    assert api["BinaryMediaTypes"] == ["application/octet-stream", "application/x-npy"]
    assert api["SecurityPolicy"].startswith("SecurityPolicy_TLS13_1_2_")
    stage = template.one("AWS::ApiGateway::Stage")["Properties"]
    assert stage["StageName"] == "prod"
    (method,) = stage["MethodSettings"]
    assert (method["ThrottlingRateLimit"], method["ThrottlingBurstLimit"]) == (7, 9)
    assert method["DataTraceEnabled"] is False
    assert not template.all("AWS::ApiGateway::Account")
    fields = json.loads(stage["AccessLogSetting"]["Format"])
    assert fields["request_id"] == "$context.requestId"
    assert "OPTIONS" not in json.dumps(template.all("AWS::ApiGateway::Method"))  # CORS


def test_an_api_key_comes_with_a_plan(synth: Synth) -> None:
    template = synth.template("auth=api-key")
    plan = template.one("AWS::ApiGateway::UsagePlan")["Properties"]
    assert plan["Throttle"] == {"RateLimit": 50, "BurstLimit": 100}
    assert template.one("AWS::ApiGateway::UsagePlanKey")


def test_the_account_s_log_role_outlives_the_stack(synth: Synth) -> None:
    account = synth.template("gateway_log_role=true").one("AWS::ApiGateway::Account")
    assert account["DeletionPolicy"] == "RetainExceptOnCreate"


def test_the_gateway_answers_in_our_shape(template: Template) -> None:
    responses = [r["Properties"] for r in template.all("AWS::ApiGateway::GatewayResponse").values()]
    assert {r["ResponseType"] for r in responses} == set(gateway_responses.GATEWAY_RESPONSES)
    ours = errors.ApiError("d").problem("$context.requestId").keys()
    for response in responses:
        body = json.loads(response["ResponseTemplates"]["application/json"])
        assert ours - body.keys() <= {"status"}
        assert str(body.get("status")) == str(response.get("StatusCode"))
        assert body["error"] == body["detail"]
        # nothing the client sent: no variable but the request's id
        assert json.dumps(body).count("$") == 1
        header = response["ResponseParameters"]["gatewayresponse.header.Content-Type"]
        assert header == "'application/problem+json'"
        for name, value in COMMON_HEADERS.items():
            assert response["ResponseParameters"][f"gatewayresponse.header.{name}"] == f"'{value}'"


def test_logs_are_kept_as_long_as_the_settings_say(synth: Synth) -> None:
    settings = ("log_retention_days=365", "drift_history_days=365")
    groups = synth.template(*settings).all("AWS::Logs::LogGroup").values()
    assert len(groups) == 8  # function, API (access, execution), hooks, probe, secret, monitor
    assert {group["Properties"]["RetentionInDays"] for group in groups} == {365}
    assert {group["DeletionPolicy"] for group in groups} == {"RetainExceptOnCreate"}


def test_tags(template: Template) -> None:
    tags: Any = template.function()["Tags"]
    found = {tag["Key"]: tag["Value"] for tag in tags}
    assert found["answerable:model"] == "diabetes"
    assert found["answerable:stage"] == "dev"
    assert found["answerable:owner"]


# what CloudFormation would take as a physical name, by type; all others it makes up itself
NAMES = {
    "AWS::ApiGateway::ApiKey": "Name",
    "AWS::ApiGateway::RestApi": "Name",
    "AWS::ApiGateway::UsagePlan": "UsagePlanName",
    "AWS::CloudWatch::Alarm": "AlarmName",
    "AWS::CloudWatch::Dashboard": "DashboardName",
    "AWS::CodeDeploy::Application": "ApplicationName",
    "AWS::CodeDeploy::DeploymentConfig": "DeploymentConfigName",
    "AWS::CodeDeploy::DeploymentGroup": "DeploymentGroupName",
    "AWS::Events::Rule": "Name",
    "AWS::IAM::Role": "RoleName",
    "AWS::Lambda::Function": "FunctionName",
    "AWS::Logs::LogGroup": "LogGroupName",
    "AWS::SNS::Topic": "TopicName",
}


def test_two_stacks_share_no_name(synth: Synth) -> None:
    names: list[set[str]] = []
    for stage in ("dev", "prod"):
        template = synth.template(f"stage={stage}", "auth=api-key")
        names.append(
            {
                json.dumps(item["Properties"][key])
                for kind, key in NAMES.items()
                for item in template.all(kind).values()
                if key in item["Properties"]
            }
        )
    assert len(names[0]) == len(names[1]) >= 10
    assert not names[0] & names[1]


def test_the_dashboard_names_owner_runbook_and_every_alarm(template: Template) -> None:
    body = json.dumps(template.one("AWS::CloudWatch::Dashboard"))
    assert MANIFEST.owner in body
    assert f"[runbook]({MANIFEST.runbook or alarms.RUNBOOK})" in body
    for alarm in template.all("AWS::CloudWatch::Alarm"):
        assert alarm in body


def test_no_debug_flags(template: Template) -> None:
    text = json.dumps(template.body)
    for flag in ("POWERTOOLS_DEV", "POWERTOOLS_TRACE", "LOG_EVENT", "DEBUG"):
        assert flag not in text
