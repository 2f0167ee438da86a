"""cdk-nag, cfn-lint, and what neither of them asks."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import lint_file
from cfnlint.config import ManualArgs

from tests.infra.conftest import POOL, Synth, Template

SETTINGS = {
    "defaults": (),
    "api-key": ("auth=api-key", "rollout=linear", "alarm_destination=team@example.org"),
    "cognito": ("auth=cognito", f"user_pool_arn={POOL}", "rollout=all-at-once"),
    "image": ("image_repository=answerable", "image_tag=v1", "snapstart=true"),
    "topic": (
        "alarm_destination=arn:aws:sns:eu-west-1:123456789012:alarms",
        "gateway_log_role=true",
    ),
    "jobs": (
        "jobs=true",
        "max_concurrency=9",
        "provisioned_concurrency=1",
        "auto_rollback_on=drift",
    ),
    "archive": ("archive=true", "log_payloads=full"),
    "http": (
        "endpoint=http",
        "auth=jwt",
        "jwt_issuer=https://login.example.org",
        'jwt_audience=["answerable"]',
    ),
    "url": ("endpoint=url",),
    "batch": ("batch=true",),
    "vpc": (
        'subnet_ids=["subnet-0123456789abcdef0"]',
        'security_group_ids=["sg-0123456789abcdef0"]',
    ),
}

# Everything cdk-nag finds with the settings above and that is accepted, with its reason, in the
# code: (settings, construct, rule). A new finding, or one that is gone, has to be written here.
MANAGED = "Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/"
ALWAYS = {
    ("Api/Rest", "AwsSolutions-APIG2"),
    ("Api/Rest/DeploymentStage.dev", "AwsSolutions-APIG3"),
    ("Api/Rest/DeploymentStage.dev", "Serverless-APIGWXrayEnabled"),
    ("Scoring/Function", "Serverless-LambdaDLQ"),
    ("Scoring/Function", "Serverless-LambdaTracing"),
    *(("Secret/Maker", f"Serverless-Lambda{rule}") for rule in ("DLQ", "LatestVersion", "Tracing")),
    ("Secret/Maker", "AwsSolutions-L1"),
}
METHODS = {
    ("Api/Rest/Default/ANY", "AwsSolutions-COG4"),
    ("Api/Rest/Default/{proxy+}/ANY", "AwsSolutions-COG4"),
}
LOG_ROLE = {
    (
        "Api/Rest/CloudWatchRole",
        f"AwsSolutions-IAM4[{MANAGED}AmazonAPIGatewayPushToCloudWatchLogs]",
    )
}
SCORING = "AwsSolutions-IAM5[Resource::<ScoringFunctionB0BB4BCC.Arn>:*]"
CODEDEPLOY = {
    ("Rollout/Role", f"AwsSolutions-IAM4[{MANAGED}AWSCodeDeployRoleForLambdaLimited]"),
    *(
        (f"Rollout/{hook}/Function", f"Serverless-Lambda{rule}")
        for hook in ("Before", "After")
        for rule in ("DLQ", "Tracing")
    ),
    ("Rollout/After/Role/DefaultPolicy", "AwsSolutions-IAM5[Resource::*]"),
    ("Rollout/After/Role/DefaultPolicy", SCORING),
}
ARCHIVE = {
    ("Archive/Bucket", "AwsSolutions-S1"),
    (
        "Archive/Writer/DefaultPolicy",
        "AwsSolutions-IAM5[Resource::<ArchiveBucket49F1AC64.Arn>/*]",
    ),
}
JOBS = {
    ("Jobs/Bucket", "AwsSolutions-S1"),
    ("Jobs/DeadLetters", "Serverless-SQSRedrivePolicy"),
    (
        "Jobs/Worker/Live/SqsEventSource:answerablediabetesdevJobsQueueA43E82D1",
        "Serverless-LambdaEventSourceMappingDestination",
    ),
    *(
        (f"{role}/DefaultPolicy", "AwsSolutions-IAM5[Resource::<JobsBucket264FE5C6.Arn>/jobs/*]")
        for role in ("Scoring/Role", "Jobs/Worker/Role")
    ),
    ("Jobs/Worker/Function", "Serverless-LambdaDLQ"),
    ("Jobs/Worker/Function", "Serverless-LambdaTracing"),
}
WORKER = "AwsSolutions-IAM5[Resource::<JobsWorkerFunctionD9840A42.Arn>:*]"
REPOSITORIES = "arn:<AWS::Partition>:ecr:<AWS::Region>:<AWS::AccountId>:repository/*"


def rollback(part: str, rule: str, *functions: str) -> set[tuple[str, str]]:
    """What is accepted of one of the rollback functions and the rule that calls it."""
    role = f"Rollback/{part}/Role/DefaultPolicy"
    return {
        (f"Rollback/{rule}", "Serverless-EventBusDLQ"),
        *((f"Rollback/{part}/Function", f"Serverless-Lambda{rule}") for rule in ("DLQ", "Tracing")),
        (role, f"AwsSolutions-IAM5[Resource::{REPOSITORIES}]"),
        *((role, finding) for finding in functions),
    }


MONITOR = {
    ("Drift/Schedule", "Serverless-EventBusDLQ"),
    ("Drift/Function", "Serverless-LambdaDLQ"),
    ("Drift/Function", "Serverless-LambdaTracing"),
    ("Drift/Role/DefaultPolicy", SCORING),
}
PROBE = rollback("Probe", "Schedule", SCORING) | MONITOR
REST = {finding for finding in ALWAYS if finding[0].startswith("Api/")}
OTHER_ENDPOINT = (ALWAYS - REST) | CODEDEPLOY | PROBE
BUCKET = "AwsSolutions-IAM5[Resource::<BatchBucket7637E275.Arn>"
EXECUTION = (
    "AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:states:<AWS::Region>:<AWS::AccountId>:execution:"
    '{"Fn::Select":[6,{"Fn::Split":[":",{"Ref":"BatchMachineAF41ABEC"}]}]}'
)
BATCH_POLICIES = {
    "Batch/Control/Role/DefaultPolicy": (
        f"{BUCKET}/runs/*/failed.json]",
        f"{BUCKET}/runs/*]",
        SCORING,
    ),
    "Batch/Machine/DistributedMapPolicy": (f"{EXECUTION}/Score:*]", f"{EXECUTION}:*]"),
    "Batch/Machine/Role/DefaultPolicy": (
        "AwsSolutions-IAM5[Resource::<BatchControlFunctionCE7B616F.Arn>:*]",
        "AwsSolutions-IAM5[Resource::<BatchPartsFunction47E5E998.Arn>:*]",
        "AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:s3:::<BatchBucket7637E275>/*]",
    ),
    "Batch/Parts/Role/DefaultPolicy": (f"{BUCKET}/input/*]", f"{BUCKET}/runs/*]"),
    "Scoring/Role/DefaultPolicy": (f"{BUCKET}/input/uploads/*]", f"{BUCKET}/runs/*]"),
}
BATCH = {
    ("Batch/Bucket", "AwsSolutions-S1"),
    ("Batch/Machine", "AwsSolutions-SF1"),
    ("Batch/Machine", "AwsSolutions-SF2"),
    ("Batch/Machine", "Serverless-StepFunctionStateMachineXray"),
    ("Batch/Uploads", "Serverless-EventBusDLQ"),
    *(
        (f"Batch/{function}/Function", f"Serverless-Lambda{rule}")
        for function in ("Control", "Parts")
        for rule in ("DLQ", "Tracing")
    ),
    *((policy, rule) for policy, rules in BATCH_POLICIES.items() for rule in rules),
}
ACCEPTED = {
    "defaults": ALWAYS | METHODS | CODEDEPLOY | PROBE,
    "api-key": ALWAYS
    | METHODS
    | CODEDEPLOY
    | PROBE
    | {(path, "AwsSolutions-APIG4") for path, _ in METHODS}
    | {("Topic/team@example.org", "Serverless-SNSRedrivePolicy")},
    "cognito": ALWAYS | PROBE,
    "image": ALWAYS | METHODS | CODEDEPLOY | PROBE,
    "topic": ALWAYS | METHODS | LOG_ROLE | CODEDEPLOY | PROBE,
    "jobs": ALWAYS
    | METHODS
    | CODEDEPLOY
    | JOBS
    | rollback("Probe", "Schedule", SCORING, WORKER)
    | MONITOR
    | rollback("OnAlarm", "AlarmState", SCORING, WORKER),
    "archive": ALWAYS | METHODS | CODEDEPLOY | ARCHIVE | PROBE,
    "http": OTHER_ENDPOINT,
    "url": OTHER_ENDPOINT,
    "batch": ALWAYS | METHODS | CODEDEPLOY | BATCH | PROBE,
    # network interfaces have no name before they are made
    "vpc": ALWAYS
    | METHODS
    | CODEDEPLOY
    | PROBE
    | {("Scoring/Role/DefaultPolicy", "AwsSolutions-IAM5[Resource::*]")},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_no_finding_of_cdk_nag_is_unacknowledged(synth: Synth, name: str) -> None:
    template = synth.template(*SETTINGS[name])  # raises otherwise
    assert findings(template.path.parent) == set()


@pytest.mark.parametrize("name", SETTINGS)
def test_the_accepted_findings_are_these(
    synth: Synth, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [m for n, m in sys.modules.items() if n.startswith("infra.")]:
        if hasattr(module, "suppress_nag"):
            monkeypatch.setattr(module, "suppress_nag", lambda construct, reasons: None)
    app = synth.app(*SETTINGS[name])
    with pytest.raises(Exception, match="ValidationFailed"):
        app.synth()
    assert findings(Path(app.outdir)) == ACCEPTED[name]


def findings(assembly: Path) -> set[tuple[str, str]]:
    """(construct below the stack, rule) of the validation report beside the template."""
    report = json.loads((assembly / "validation-report.json").read_text())
    return {
        (
            construct["constructPath"].partition("/")[2].removesuffix("/Resource"),
            violation["ruleName"],
        )
        for plugin in report["pluginReports"]
        for violation in plugin["violations"]
        for construct in violation["violatingConstructs"]
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_cfn_lint_is_silent(synth: Synth, name: str) -> None:
    assert lint(synth.template(*SETTINGS[name])) == []


def lint(template: Template) -> list[Any]:
    # W3005: CDK writes a DependsOn for a role beside the GetAtt that implies it
    config = ManualArgs(ignore_checks=["W3005"], regions=["us-east-1", "eu-west-1"])
    return list(lint_file(template.path, config))


def statements(template: Template) -> Iterable[dict[str, Any]]:
    for item in template.body["Resources"].values():
        for key in ("PolicyDocument", "AssumeRolePolicyDocument"):
            yield from item["Properties"].get(key, {}).get("Statement", [])


def test_nothing_is_allowed_by_a_star(template: Template) -> None:
    found = list(statements(template))
    assert found
    for statement in found:
        if statement["Effect"] == "Allow":
            assert "*" not in json.dumps(statement.get("Action"))
            # metrics are no resources: IAM has nothing else to write there
            everything = statement["Action"] == "cloudwatch:GetMetricData"
            assert (statement.get("Resource") == "*") == everything
            assert statement.get("Principal") != "*"


def test_the_function_may_write_its_own_log_and_nothing_else(template: Template) -> None:
    ((role, body),) = [
        item for item in template.all("AWS::IAM::Role").items() if item[0].startswith("Scoring")
    ]
    assert "ManagedPolicyArns" not in body["Properties"]
    policies = [
        item["Properties"]
        for item in template.all("AWS::IAM::Policy").values()
        if {"Ref": role} in item["Properties"]["Roles"]
    ]
    (statement,) = policies[0]["PolicyDocument"]["Statement"]
    assert len(policies) == 1
    assert statement["Action"] == ["logs:CreateLogStream", "logs:PutLogEvents"]
    assert statement["Resource"]["Fn::GetAtt"][0].startswith("ScoringLogs")


def allowed(template: Template, role: str) -> dict[str, str]:
    """What the only policy of a role allows: the resources, as JSON, by action."""
    (name,) = [name for name in template.all("AWS::IAM::Role") if name.startswith(role)]
    (policy,) = [
        item["Properties"]["PolicyDocument"]
        for item in template.all("AWS::IAM::Policy").values()
        if {"Ref": name} in item["Properties"]["Roles"]
    ]
    found = {}
    for statement in policy["Statement"]:
        actions = statement["Action"]
        for action in [actions] if isinstance(actions, str) else actions:
            found[action] = json.dumps(statement["Resource"])
    return found


def test_the_hooks_may_do_what_they_do_and_nothing_else(template: Template) -> None:
    logs = {"logs:CreateLogStream", "logs:PutLogEvents"}
    answer = "codedeploy:PutLifecycleEventHookExecutionStatus"
    before = allowed(template, "RolloutBeforeRole")
    assert before.keys() == logs | {"lambda:InvokeFunction", "codedeploy:GetDeployment", answer}
    assert ":live" in before["lambda:InvokeFunction"]  # beside the one new version
    assert "*" not in before["lambda:InvokeFunction"]
    after = allowed(template, "RolloutAfterRole")
    assert after.keys() == before.keys() | {"cloudwatch:GetMetricData"}
    for policy in (before, after):
        assert ":deploymentgroup:" in policy[answer]
        assert "*" not in policy[answer]
    # CodeDeploy's own role has the managed policy, which reaches CodeDeployHook_* only
    assert not [name for name in template.all("AWS::IAM::Policy") if "RolloutRole" in name]


def test_the_topic_takes_alarms_and_only_over_tls(template: Template) -> None:
    policy = template.one("AWS::SNS::TopicPolicy")["Properties"]["PolicyDocument"]["Statement"]
    denied = [s for s in policy if s["Effect"] == "Deny"]
    allowed = [s for s in policy if s["Effect"] == "Allow"]
    assert denied[0]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert [s["Principal"] for s in allowed] == [{"Service": "cloudwatch.amazonaws.com"}]
    assert "aws:SourceAccount" in json.dumps(allowed[0]["Condition"])


def test_no_secret_is_in_the_template(synth: Synth) -> None:
    text = json.dumps(synth.template(*SETTINGS["api-key"]).body).lower()
    for word in ("password", "secretstring", '"feedback_secret": "', '"value": "ey'):
        assert word not in text
