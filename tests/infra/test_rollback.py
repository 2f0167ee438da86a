"""What the template says of the probe, its alarm, and the function that goes back by itself."""

import json
from typing import Any

import pytest

from handler.release import deploy_hooks
from infra.settings import SettingsError
from tests.infra.conftest import Synth, Template
from tests.infra.test_security import allowed

LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}
LOOK = {
    *(f"lambda:{a}" for a in ("GetAlias", "ListVersionsByFunction", "GetFunction")),
    *("lambda:GetFunctionConfiguration", "lambda:InvokeFunction", "ecr:DescribeImages"),
}
DEPLOYMENTS = {"codedeploy:ListDeployments", "codedeploy:BatchGetDeployments"}


def rules(template: Template) -> dict[str, dict[str, Any]]:
    found = template.all("AWS::Events::Rule").items()
    return {
        name.removeprefix("Rollback")[:-8]: item["Properties"]
        for name, item in found
        if name.startswith("Rollback")
    }


def target(template: Template, rule: dict[str, Any]) -> dict[str, Any]:
    """The function that a rule calls, which lets it."""
    (told,) = rule["Targets"]
    name = told["Arn"]["Fn::GetAtt"][0]
    permissions = [item["Properties"] for item in template.all("AWS::Lambda::Permission").values()]
    assert any(
        p["Principal"] == "events.amazonaws.com" and p["FunctionName"] == told["Arn"]
        for p in permissions
    )
    return dict(template.body["Resources"][name]["Properties"])


def test_the_probe_runs_twice_a_day_and_after_each_deployment(template: Template) -> None:
    ((name, rule),) = rules(template).items()
    assert (name, rule["ScheduleExpression"]) == ("Schedule", "rate(12 hours)")
    pattern = rule["EventPattern"]
    assert pattern["detail-type"] == ["CloudFormation Stack Status Change"]
    assert pattern["detail"] == {
        "stack-id": [{"Ref": "AWS::StackId"}],
        "status-details": {"status": [{"suffix": "_COMPLETE"}]},
    }
    probe = target(template, rule)
    assert probe["ImageConfig"]["Command"] == ["handler.release.auto_rollback.on_schedule"]
    assert probe["Code"] == template.function()["Code"]
    assert probe["Timeout"] > 2 * deploy_hooks.RESERVE_SECONDS
    (group,) = template.all("AWS::CodeDeploy::DeploymentGroup")
    (application,) = template.all("AWS::CodeDeploy::Application")
    (scoring,) = [n for n in template.all("AWS::Lambda::Function") if n.startswith("Scoring")]
    assert probe["Environment"]["Variables"] == {
        "SERVICE_NAME": "diabetes-dev",
        "LOG_LEVEL": "INFO",
        "FUNCTION_NAME": {"Ref": scoring},
        "APPLICATION": {"Ref": application},
        "DEPLOYMENT_GROUP": {"Ref": group},
        "STACK_LIVE_VERSION": template.body["Outputs"]["LiveVersion"]["Value"],
    }


def test_without_codedeploy_it_asks_codedeploy_nothing(synth: Synth) -> None:
    template = synth.template("rollout=all-at-once")
    probe = template.function("handler.release.auto_rollback.on_schedule")
    assert "DEPLOYMENT_GROUP" not in probe["Environment"]["Variables"]
    assert allowed(template, "RollbackProbeRole").keys() == LOGS | LOOK


def test_the_probe_may_look_and_ask_and_nothing_else(synth: Synth) -> None:
    assert allowed(synth.template(), "RollbackProbeRole").keys() == LOGS | LOOK | DEPLOYMENTS
    template = synth.template("jobs=true")
    worker = template.function("handler.release.auto_rollback.on_schedule")["Environment"][
        "Variables"
    ]
    assert "JobsWorker" in json.dumps(worker["WORKER_NAME"])
    assert "JobsWorker" in allowed(template, "RollbackProbeRole")["lambda:InvokeFunction"]


def test_the_alarm_notifies_of_a_probe_that_stopped(template: Template) -> None:
    alarm = template.alarms()["Rollbackrollbackunavailable"]
    assert alarm["AlarmName"] == "dev-diabetes-rollback-unavailable"
    assert (alarm["MetricName"], alarm["Statistic"]) == ("RollbackUnavailable", "Maximum")
    assert alarm["Dimensions"] == [{"Name": "service", "Value": "diabetes-dev"}]
    assert (alarm["Threshold"], alarm["TreatMissingData"]) == (0, "missing")
    assert alarm["InsufficientDataActions"] == alarm["AlarmActions"]
    assert alarm["Period"] == 86_400  # twice the schedule's


def test_nothing_goes_back_by_itself_unless_it_is_asked_for(template: Template) -> None:
    assert "handler.release.auto_rollback.on_alarm" not in json.dumps(template.body)
    assert "aws.cloudwatch" not in json.dumps(rules(template))
    updates = [
        name
        for name, item in template.all("AWS::IAM::Policy").items()
        if "lambda:UpdateAlias" in json.dumps(item)
    ]
    assert not updates


READ = "logs:FilterLogEvents"  # of the drift monitor's records


def test_drift_of_outputs_calls_the_rollback(synth: Synth) -> None:
    template = synth.template("auto_rollback_on=drift", "rollback_cooldown_hours=6", "jobs=true")
    rule = rules(template)["AlarmState"]
    (alarm,) = [
        name
        for name, item in template.all("AWS::CloudWatch::Alarm").items()
        if str(item["Properties"]["AlarmName"]).endswith("-drift-outputs")
    ]
    assert rule["EventPattern"] == {
        "source": ["aws.cloudwatch"],
        "detail-type": ["CloudWatch Alarm State Change"],
        "resources": [{"Fn::GetAtt": [alarm, "Arn"]}],
        "detail": {"state": {"value": ["ALARM"]}},
    }
    function = target(template, rule)
    assert function["ImageConfig"]["Command"] == ["handler.release.auto_rollback.on_alarm"]
    variables = function["Environment"]["Variables"]
    (topic,) = template.all("AWS::SNS::Topic")
    assert (variables["COOLDOWN_HOURS"], variables["TOPIC_ARN"]) == ("6", {"Ref": topic})
    may = allowed(template, "RollbackOnAlarmRole")
    assert may.keys() == LOGS | LOOK | DEPLOYMENTS | {"lambda:UpdateAlias", "sns:Publish", READ}
    assert json.loads(may["sns:Publish"]) == {"Ref": topic}
    assert "*" not in may["lambda:UpdateAlias"]


@pytest.mark.parametrize(
    "settings",
    [
        ["auto_rollback_on=impact"],
        ["auto_rollback_on=both"],
    ],
)
def test_an_alarm_that_is_not_there_cannot_be_waited_for(synth: Synth, settings: list[str]) -> None:
    with pytest.raises(SettingsError, match="auto_rollback_on: the stack has no alarm of"):
        synth.app(*settings)


def test_the_worker_is_pinned_by_its_own_number(synth: Synth) -> None:
    template = synth.template("jobs=true", "pinned_version=7", "pinned_worker_version=4")
    found = template.all("AWS::Lambda::Alias").items()
    versions = {name[:4]: item["Properties"]["FunctionVersion"] for name, item in found}
    assert versions == {"Scor": "7", "Jobs": "4"}


@pytest.mark.parametrize("capture", ["off", "full"])
def test_the_hook_reads_what_was_captured_only_where_it_is_whole(
    synth: Synth, capture: str
) -> None:
    template = synth.template(f"log_payloads={capture}")
    variables = template.function("handler.release.deploy_hooks.after_traffic")["Environment"][
        "Variables"
    ]
    may = allowed(template, "RolloutAfterRole")
    assert ("PAYLOAD_LOG_GROUP" in variables) == (capture == "full")
    if capture == "full":
        assert "ScoringLogs" in may["logs:FilterLogEvents"]
    else:
        assert "logs:FilterLogEvents" not in may
    before = template.function("handler.release.deploy_hooks.before_traffic")
    assert "PAYLOAD_LOG_GROUP" not in before["Environment"]["Variables"]
