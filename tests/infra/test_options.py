"""The settings that real deployments need: each, and what it changes in the template."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra import settings
from infra.settings import SettingsError
from tests.fixtures.artifact import DIABETES
from tests.infra.conftest import Synth, Template
from tests.infra.test_security import findings, lint

ACCOUNT = "eu-west-1:123456789012"
CERTIFICATE = f"arn:aws:acm:{ACCOUNT}:certificate/1"
ACL = f"arn:aws:wafv2:{ACCOUNT}:regional/webacl/edge/1"
BOUNDARY = "arn:aws:iam::123456789012:policy/boundary"


def of_deploy_toml(synth: Synth, tmp_path: Path, text: str) -> Template:
    """The template of a deploy.toml, of which -c cannot say tables and lists."""
    (tmp_path / "model_artifacts").mkdir()
    (tmp_path / "model_artifacts/diabetes").symlink_to(DIABETES)
    (tmp_path / "deploy.toml").write_text(f"[stage.dev]\n{text}")
    assembly = synth.app(project=tmp_path).synth()
    template = Template(next(Path(assembly.directory).glob("*.template.json")))
    assert findings(template.path.parent) == set()
    assert lint(template) == []
    return template


def test_every_role_has_the_boundary(synth: Synth) -> None:
    template = synth.template(f"permissions_boundary={BOUNDARY}", "jobs=true", "archive=true")
    roles = [item["Properties"] for item in template.all("AWS::IAM::Role").values()]
    assert len(roles) >= 8
    assert {role.get("PermissionsBoundary") for role in roles} == {BOUNDARY}


def test_tags_are_on_the_functions(synth: Synth, tmp_path: Path) -> None:
    template = of_deploy_toml(synth, tmp_path, 'tags = { "cost-center" = "42" }')
    assert {"Key": "cost-center", "Value": "42"} in template.function()["Tags"]


def test_the_functions_that_serve_join_the_vpc(synth: Synth, tmp_path: Path) -> None:
    subnets, group = (
        ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
        "sg-0123456789abcdef0",
    )
    text = f'subnet_ids = {subnets}\nsecurity_group_ids = ["{group}"]\njobs = true'
    template = of_deploy_toml(synth, tmp_path, text)
    inside = [
        item["Properties"]["ImageConfig"]["Command"]
        for item in template.all("AWS::Lambda::Function").values()
        if item["Properties"].get("VpcConfig")
        == {"SubnetIds": subnets, "SecurityGroupIds": [group]}
    ]
    serving = ["handler.function.lambda_handler"], ["handler.jobs.function.lambda_handler"]
    assert sorted(inside) == sorted(serving)
    statements = [
        statement
        for policy in template.all("AWS::IAM::Policy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if "ec2:CreateNetworkInterface" in statement["Action"]
    ]
    assert [s["Effect"] for s in statements] == ["Allow", "Deny"] * 2
    for allowed, denied in (statements[:2], statements[2:]):
        # Lambda may manage the interfaces, the function's code may not
        assert allowed["Action"] == denied["Action"]
        assert denied["Condition"] == {"Null": {"lambda:SourceFunctionArn": "false"}}


def test_each_client_has_a_key_and_a_quota(synth: Synth, tmp_path: Path) -> None:
    text = 'auth = "api-key"\n[stage.dev.clients.shop]\nrequests_per_month = 1000\nrate_limit = 5'
    template = of_deploy_toml(synth, tmp_path, text)
    assert len(template.all("AWS::ApiGateway::ApiKey")) == 2
    plans = [item["Properties"] for item in template.all("AWS::ApiGateway::UsagePlan").values()]
    (shop,) = [plan for plan in plans if plan["UsagePlanName"] == "diabetes-dev-shop"]
    assert shop["Quota"] == {"Limit": 1000, "Period": "MONTH"}
    assert shop["Throttle"] == {"BurstLimit": 100, "RateLimit": 5}


def test_a_domain_name_is_mapped_and_recorded(synth: Synth) -> None:
    name = ("domain_name=predict.example.org", f"certificate_arn={CERTIFICATE}")
    template = synth.template(*name)
    domain = template.one("AWS::ApiGatewayV2::DomainName")["Properties"]
    assert domain["DomainName"] == "predict.example.org"
    (configuration,) = domain["DomainNameConfigurations"]
    assert configuration["CertificateArn"] == CERTIFICATE
    assert configuration["SecurityPolicy"] == "TLS_1_2"
    (api,) = template.all("AWS::ApiGateway::RestApi")
    mapping = template.one("AWS::ApiGatewayV2::ApiMapping")["Properties"]
    assert mapping["ApiId"] == {"Ref": api}
    assert not template.all("AWS::Route53::RecordSet")
    recorded = synth.template(*name, "hosted_zone_id=Z123").one("AWS::Route53::RecordSet")
    assert recorded["Properties"]["Name"] == "predict.example.org."
    assert recorded["Properties"]["HostedZoneId"] == "Z123"


def test_thresholds_of_a_stage_replace_the_manifest_s(synth: Synth, tmp_path: Path) -> None:
    template = of_deploy_toml(synth, tmp_path, "alarms = { latency_ms = 77 }")
    assert template.alarms()["latency"]["Threshold"] == 77
    assert template.alarms()["Canarycanarylatency"]["Threshold"] == 77


def test_batches_of_jobs(synth: Synth) -> None:
    template = synth.template("jobs=true", "job_batch_size=7", "job_batch_window=20")
    mapping = template.one("AWS::Lambda::EventSourceMapping")["Properties"]
    assert (mapping["BatchSize"], mapping["MaximumBatchingWindowInSeconds"]) == (7, 20)
    queues = [item["Properties"] for item in template.all("AWS::SQS::Queue").values()]
    assert {queue.get("VisibilityTimeout") for queue in queues} == {None, 6 * 120 + 20}


def test_the_worker_moves_after_the_api(synth: Synth) -> None:
    aliases = synth.template("jobs=true").all("AWS::Lambda::Alias")
    api, worker = (next(n for n in aliases if n.startswith(p)) for p in ("Scoring", "JobsWorker"))
    assert api in aliases[worker]["DependsOn"]
    assert worker not in aliases[api].get("DependsOn", ())


def test_a_long_bake_warns(synth: Synth) -> None:
    for minutes, warns in ((61, True), (60, False)):
        directory = Path(synth.app(f"bake_minutes={minutes}").synth().directory)
        text = "".join(path.read_text() for path in directory.glob("*.json"))
        assert ("nothing else can be deployed for 61 minutes" in text) == warns


@pytest.mark.parametrize(
    ("chosen", "line"),
    [
        ({"provisioned_concurrency": 1, "rollout": "all-at-once"}, "needs a rollout"),
        ({"provisioned_concurrency": 1, "pinned_version": 1}, "needs a rollout"),
        ({"clients": {"a": {}}}, "clients needs auth=api-key"),
        ({"clients": {"a": {"quota": 1}}, "auth": "api-key"}, "clients.a.quota: Extra inputs"),
        ({"domain_name": "a.example.org"}, "domain_name and certificate_arn go together"),
        ({"endpoint": "url", "auth": "api-key"}, "endpoint=url has auth=iam"),
        ({"endpoint": "http", "auth": "jwt"}, "auth=jwt needs jwt_issuer"),
        ({"endpoint": "http", "web_acl_arn": ACL}, "web_acl_arn needs endpoint=rest"),
        ({"auth": "lambda"}, "auth=lambda needs authorizer_arn"),
        ({"truststore_uri": "s3://a/b"}, "truststore_uri needs domain_name"),
        ({"allowed_ips": ["10.0.0.300"]}, "allowed_ips.0: value is not a valid IPv4 or IPv6"),
        ({"cors_origins": ["https://a.example/"]}, "cors_origins.0: String should match"),
        ({"hosted_zone_id": "Z1"}, "hosted_zone_id needs domain_name"),
        ({"subnet_ids": ["subnet-1"]}, "subnet_ids and security_group_ids go together"),
        ({"alarms": {"latency": 1}}, "alarms has no latency, but availability"),
        ({"web_acl_arn": "x"}, "web_acl_arn: String should match pattern"),
    ],
)
def test_options_that_do_not_fit_are_one_line(chosen: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings.read(chosen)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_the_qualifier_of_a_company_s_bootstrap_is_a_setting(synth: Synth) -> None:
    body = synth.template("bootstrap_qualifier=team").body
    assert body["Parameters"]["BootstrapVersion"]["Default"] == "/cdk-bootstrap/team/version"


def test_uploads_that_were_never_completed_expire(synth: Synth) -> None:
    buckets = synth.template("jobs=true", "batch=true", "archive=true").all("AWS::S3::Bucket")
    assert len(buckets) == 3
    for bucket in buckets.values():
        rules = bucket["Properties"]["LifecycleConfiguration"]["Rules"]
        days = {"DaysAfterInitiation": 1}
        assert [r.get("Prefix", "") for r in rules if r.get("AbortIncompleteMultipartUpload")] == [
            ""
        ]
        assert rules[-1]["AbortIncompleteMultipartUpload"] == days


def test_whoever_reads_the_bucket_of_batches_may_use_its_key(synth: Synth) -> None:
    key = "arn:aws:kms:eu-west-1:123456789012:key/1"
    template = synth.template("batch=true", f"kms_key_arn={key}")
    readers = {
        role["Ref"]: json.dumps(policy["Properties"])
        for policy in template.all("AWS::IAM::Policy").values()
        for role in policy["Properties"]["Roles"]
        if "s3:GetObject" in json.dumps(policy["Properties"])
    }
    assert {name[:-8] for name in readers} == {
        "ScoringRole", "BatchPartsRole", "BatchControlRole", "BatchMachineRole",
    }  # fmt: skip
    for text in readers.values():
        assert "kms:Decrypt" in text


def test_the_slack_configuration_has_another_name_in_another_region(synth: Synth) -> None:
    # and one for both destinations, because a channel has one configuration
    slack = "slack:T0/C0"
    template = synth.template(f"alarm_destination={slack}", f"ticket_destination={slack}")
    slack = template.one("AWS::Chatbot::SlackChannelConfiguration")["Properties"]
    assert slack["ConfigurationName"] == {
        "Fn::Join": ["", ["diabetes-dev-Topic-", {"Ref": "AWS::Region"}]]
    }
