"""`answerable deploy` beside the deployed stack: what it compares, and when it stops."""

import argparse
import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from answerable import commands, smoke
from answerable.commands import bootstrap, deploy, destroy, synth
from handler.release.rollback import ReleaseError, Service
from infra.settings import SETTINGS, Settings
from tests.fixtures.artifact import DIABETES
from tests.fixtures.release import FUNCTION, NAME, STACK, Account
from tests.infra.conftest import POOL, Synth, Template

Capture = pytest.CaptureFixture[str]
EVERYTHING = ("jobs=true", "auth=api-key", "archive=true")


class Cli:
    """The CDK CLI: `synth` writes a template that was made before."""

    def __init__(self, template: Template) -> None:
        self.template, self.calls = template, []  # type: tuple[Template, list[list[str]]]

    def __call__(self, words: Sequence[str]) -> int:
        self.calls.append([*words])
        if words[0] == "synth":
            Path("cdk.out").mkdir(exist_ok=True)
            Path(f"cdk.out/{STACK}.template.json").write_text(json.dumps(self.template.body))
        return 0


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(DIABETES, tmp_path / "model_artifacts/diabetes")
    (tmp_path / "deploy.toml").write_text("[stage.dev]\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def account() -> Iterator[Callable[..., Account]]:
    accounts: list[Account] = []

    def make(**options: Any) -> Account:
        accounts.append(Account(**options))
        return accounts[-1]

    yield make
    for account in accounts:
        account.done()


def run(command: Any, cli: Cli, *words: str, **more: Any) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    skip = ["--skip-smoke-test"] if command is deploy and "get" not in more else []
    return commands.run("command", command.main, parser.parse_args([*words, *skip]), cli, **more)


def deployed(account: Callable[..., Account], template: Template, live: str = "3") -> Account:
    made = account()
    made.template(json.dumps(template.body))
    made.stack()
    made.alias(live)
    return made


def log_role(made: Account) -> None:
    role = "arn:aws:iam::123456789012:role/gateway"
    made.answer("apigateway", "get_account", {"cloudwatchRoleArn": role})


def test_a_first_deployment_goes_through(
    project: Path, account: Callable[..., Account], template: Template
) -> None:
    made, cli = account(stack=False), Cli(template)
    made.error("cloudformation", "describe_stacks", "ValidationError")
    log_role(made)
    assert run(deploy, cli, "dev", "-c", "memory=512", client=made.clients.__getitem__) == 0
    settings = ["-c", "memory=512", "-c", "stage=dev", "-c", "model=diabetes"]
    assert cli.calls[0] == ["synth", "--quiet", *settings]
    assert cli.calls[1] == ["deploy", "--app", "cdk.out", "--require-approval", "never", STACK]


def test_a_failed_creation_is_no_stack(
    project: Path, account: Callable[..., Account], template: Template
) -> None:
    made, cli = account(stack=False), Cli(template)
    made.stack("ROLLBACK_COMPLETE")
    log_role(made)
    assert run(deploy, cli, "dev", client=made.clients.__getitem__) == 0
    assert len(cli.calls) == 2


def test_the_same_settings_go_through(
    project: Path, account: Callable[..., Account], synth: Synth
) -> None:
    made = deployed(account, synth.template(*EVERYTHING))
    made.deployments()
    cli = Cli(synth.template(*EVERYTHING, "memory=512"))
    assert run(deploy, cli, "dev", client=made.clients.__getitem__) == 0
    assert cli.calls[-1][0] == "deploy"


def test_a_deploy_toml_that_lost_its_jobs_stops_and_lists_the_losses(
    project: Path, account: Callable[..., Account], synth: Synth, capsys: Capture
) -> None:
    made = account()
    made.template(json.dumps(synth.template(*EVERYTHING).body))
    cli = Cli(synth.template())
    assert run(deploy, cli, "dev", client=made.clients.__getitem__) == 1
    assert [call[0] for call in cli.calls] == ["synth"]
    message = capsys.readouterr().err
    for line in (
        "jobs: the setting changes from True to False",
        "jobs: AWS::SQS::Queue JobsQueue",
        "jobs: AWS::SQS::Queue JobsDeadLetters",
        "jobs: AWS::S3::Bucket JobsBucket264FE5C6 (it stays in the account)",
        "auth: the setting changes from api-key to iam",
        "auth: AWS::ApiGateway::ApiKey ApiRestKey",
        "archive: the setting changes from True to False",
        "archive: AWS::KinesisFirehose::DeliveryStream ArchiveStream",
        "confirm it with --yes-remove auth jobs archive",
    ):
        assert line in message, message


def test_a_removal_that_is_confirmed_goes_through(
    project: Path, account: Callable[..., Account], synth: Synth, capsys: Capture
) -> None:
    confirmed = ["--yes-remove", "jobs", "auth"]
    made = account()
    made.template(json.dumps(synth.template(*EVERYTHING).body))
    cli = Cli(synth.template())
    assert run(deploy, cli, "dev", *confirmed, client=made.clients.__getitem__) == 1
    message = capsys.readouterr().err
    assert "archive: " in message
    assert "jobs: " not in message
    made = deployed(account, synth.template(*EVERYTHING))
    made.deployments()
    confirmed.append("archive")
    assert run(deploy, cli, "dev", *confirmed, client=made.clients.__getitem__) == 0


def test_an_older_secret_stops(
    project: Path, account: Callable[..., Account], synth: Synth, capsys: Capture
) -> None:
    made = account()
    made.template(json.dumps(synth.template("prediction_id_key_version=2").body))
    assert run(deploy, Cli(synth.template()), "dev", client=made.clients.__getitem__) == 1
    assert "prediction_id_key_version: the number goes down" in capsys.readouterr().err


def test_a_deployment_over_a_rollback_pins_the_stack_first(
    project: Path, account: Callable[..., Account], template: Template, synth: Synth,
    capsys: Capture,
) -> None:  # fmt: skip
    made, cli = deployed(account, template, live="2"), Cli(synth.template("memory=512"))
    made.deployments()
    command = ["dev", "-c", "memory=512"]
    assert run(deploy, cli, *command, client=made.clients.__getitem__) == 0
    assert [call[0] for call in cli.calls] == ["synth", "synth", "deploy", "synth", "deploy"]
    pinned = [call for call in cli.calls if "pinned_version=2" in call]
    assert pinned == [cli.calls[1]]
    assert "version 2 is live, and the stack has version 3" in capsys.readouterr().out


@pytest.mark.parametrize("status", ["UPDATE_ROLLBACK_FAILED", "UPDATE_IN_PROGRESS"])
def test_a_stack_that_is_not_stable_is_not_deployed(
    project: Path, account: Callable[..., Account], template: Template, capsys: Capture, status: str
) -> None:
    made = account(stack=False)
    made.stack(status)
    made.template(json.dumps(template.body))
    made.stack(status)
    cli = Cli(template)
    assert run(deploy, cli, "dev", client=made.clients.__getitem__) == 1
    assert [call[0] for call in cli.calls] == ["synth"]
    assert f"the stack is in {status}" in capsys.readouterr().err


def test_a_pinned_deployment_moves_the_alias_itself(
    project: Path, account: Callable[..., Account], template: Template
) -> None:
    made = account()
    made.template(json.dumps(template.body))
    made.stack()
    command = ["dev", "-c", "pinned_version=2"]
    assert run(deploy, Cli(template), *command, client=made.clients.__getitem__) == 0


def test_a_deployment_under_way_is_waited_for(
    project: Path, account: Callable[..., Account], template: Template, capsys: Capture
) -> None:
    made = deployed(account, template)
    made.deployments("d-1")
    assert run(deploy, Cli(template), "dev", client=made.clients.__getitem__) == 1
    assert "a deployment is under way" in capsys.readouterr().err


class Url:
    """The deployed URL: what is asked of it, and the status it answers."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.calls: list[tuple[str, Mapping[str, str]]] = []

    def __call__(self, url: str, headers: Mapping[str, str]) -> int:
        self.calls.append((url, headers))
        return self.status


def first_deployment(account: Callable[..., Account], **functions: Any) -> Account:
    """An account without the stack, until the CLI has deployed it."""
    made = account(stack=False)
    made.outputs["Url"] = "https://abc.execute-api.eu-west-1.amazonaws.com/dev/"
    made.error("cloudformation", "describe_stacks", "ValidationError")
    log_role(made)
    made.stack()
    made.functions.handlers.update(functions)
    made.answer("lambda", "get_alias", {"FunctionVersion": "3", "AliasArn": f"{FUNCTION}:3"})
    return made


def test_the_smoke_test_asks_golden_rows_and_calls_the_url(
    project: Path, account: Callable[..., Account], template: Template, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(smoke, "sign", lambda url, service: {"authorization": "AWS4-HMAC-SHA256 …"})
    made, url = first_deployment(account), Url(200)
    made.stack()
    assert run(deploy, Cli(template), "dev", client=made.clients.__getitem__, get=url) == 0
    assert "version 3: 29 golden rows answered as packed" in capsys.readouterr().out
    ((called, headers),) = url.calls
    assert called == "https://abc.execute-api.eu-west-1.amazonaws.com/dev/ping"
    assert "authorization" in headers


def test_an_account_without_a_log_role_stops_a_first_deployment(
    project: Path, account: Callable[..., Account], template: Template, capsys: Capture
) -> None:
    made, cli = account(stack=False), Cli(template)
    made.error("cloudformation", "describe_stacks", "ValidationError")
    made.answer("apigateway", "get_account", {})
    assert run(deploy, cli, "dev", client=made.clients.__getitem__) == 1
    assert "Set gateway_log_role = true in [stage.dev.diabetes]" in capsys.readouterr().err
    assert not [words for words in cli.calls if words[0] == "deploy"]


def test_a_first_deployment_of_a_broken_version_fails(
    project: Path, account: Callable[..., Account], template: Template, capsys: Capture
) -> None:
    made, url = first_deployment(account, **{"3": lambda *_: 1 / 0}), Url(200)
    assert run(deploy, Cli(template), "dev", client=made.clients.__getitem__, get=url) == 1
    assert "version 3 does not answer: GET /model: crashed" in capsys.readouterr().err
    assert url.calls == []


def test_a_403_names_the_missing_permission(
    project: Path, account: Callable[..., Account], template: Template, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(smoke, "sign", lambda url, service: {})
    made = first_deployment(account)
    made.stack()
    assert run(deploy, Cli(template), "dev", client=made.clients.__getitem__, get=Url(403)) == 1
    message = capsys.readouterr().err
    assert '"Action": "execute-api:Invoke"' in message
    assert "arn:aws:execute-api:eu-west-1:*:abc/dev/*" in message


def test_a_403_of_a_function_url_names_both_permissions(
    account: Callable[..., Account], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "sign", lambda url, service: {})
    made = account(stack=False)
    made.outputs["Url"] = "https://abc.lambda-url.eu-west-1.on.aws/"
    made.stack()
    made.answer("lambda", "get_alias", {"AliasArn": f"{FUNCTION}:live"})
    service = Service(made.clients.__getitem__, NAME, stack=STACK)
    settings = Settings(model="diabetes", endpoint="url")
    with pytest.raises(ReleaseError) as caught:
        smoke.check_url(service, settings, Url(403), print)
    first, second = json.loads(str(caught.value).partition("the policy ")[2])
    assert first["Action"] == "lambda:InvokeFunctionUrl"
    assert "Condition" not in first
    # without the condition a client could invoke the function with any event
    assert second["Action"] == "lambda:InvokeFunction"
    assert second["Condition"] == {"Bool": {"lambda:InvokedViaFunctionUrl": "true"}}
    assert first["Resource"] == second["Resource"]


@pytest.mark.parametrize(
    ("setting", "before", "after", "stops"),
    [
        ("batch", True, False, True),
        ("truststore_uri", "s3://b/clients.pem", "", True),
        ("vpc_endpoint_ids", ["vpce-1"], [], True),
        ("jwt_issuer", "https://a.example", "https://b.example", True),
        ("authorizer_arn", "arn:1", "arn:2", True),
        ("base_path", "churn", "risk", True),
        ("allowed_ips", ["192.0.2.0/24"], [], True),
        ("allowed_ips", ["192.0.2.0/24"], ["198.51.100.0/24"], False),
        ("web_acl_arn", "arn:1", "", True),
        ("kms_key_arn", "arn:1", "", True),
    ],
)
def test_access_and_encryption_are_not_lost_by_a_slip(
    setting: str, before: Any, after: Any, stops: bool
) -> None:
    old, new = (
        {"Metadata": {SETTINGS: {setting: value}}, "Resources": {}} for value in (before, after)
    )
    assert [loss.name for loss in deploy.removals(old, new)] == [setting] * stops


@pytest.mark.parametrize(
    ("auth", "more", "status", "code"),
    [
        ("cognito", {"user_pool_arn": POOL}, 401, 0),
        ("cognito", {"user_pool_arn": POOL}, 200, 1),
        ("iam", {}, 500, 1),
        ("iam", {}, 200, 0),
        ("iam", {"endpoint": "http"}, 500, 1),
    ],
)
def test_the_url_must_answer_as_its_auth_says(
    account: Callable[..., Account],
    monkeypatch: pytest.MonkeyPatch,
    auth: Any,
    more: dict[str, Any],
    status: int,
    code: int,
) -> None:
    monkeypatch.setattr(smoke, "sign", lambda url, service: {})
    made = account(stack=False)
    made.outputs["Url"] = "https://abc.execute-api.eu-west-1.amazonaws.com/dev/"
    made.stack()
    service = Service(made.clients.__getitem__, NAME, stack=STACK)
    failure = pytest.raises(ReleaseError) if code else contextlib.nullcontext()
    with failure:
        settings = Settings(model="diabetes", auth=auth, **more)
        smoke.check_url(service, settings, Url(status), print)


def test_a_private_url_is_not_called(account: Callable[..., Account]) -> None:
    service = Service(account(stack=False).clients.__getitem__, NAME, stack=STACK)
    url, settings = Url(500), Settings(model="diabetes", vpc_endpoint_ids=("vpce-1",))
    smoke.check_url(service, settings, url, print)
    assert url.calls == []


def test_the_smoke_test_names_the_permission_that_it_lacks(
    account: Callable[..., Account], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = account(stack=False)
    made.answer("lambda", "get_alias", {"FunctionVersion": "3", "AliasArn": f"{FUNCTION}:3"})
    denied = ClientError({"Error": {"Code": "AccessDeniedException"}}, "Invoke")

    def invoke(**call: Any) -> Any:
        raise denied

    made.clients["lambda"].invoke = invoke
    with pytest.raises(ReleaseError, match="the smoke test needs lambda:InvokeFunction on arn:"):
        smoke.check_live_version(Service(made.clients.__getitem__, NAME), print)


@pytest.mark.parametrize("command", [deploy, destroy, synth])
def test_a_fault_in_the_settings_runs_nothing(
    project: Path, template: Template, capsys: Capture, command: Any
) -> None:
    cli = Cli(template)
    assert run(command, cli, "prod") == 2
    assert "There is no [stage.prod]. The stages: dev" in capsys.readouterr().err
    (project / "deploy.toml").unlink()
    assert run(command, cli, "dev") == 2
    assert "There is no deploy.toml in " in capsys.readouterr().err
    assert cli.calls == []


def test_destroy_names_the_stack(project: Path, template: Template) -> None:
    cli = Cli(template)
    assert run(destroy, cli, "dev") == 0
    assert cli.calls[-1] == ["destroy", "--app", "cdk.out", STACK]
    assert run(destroy, cli, "dev", "--yes") == 0
    assert cli.calls[-1] == ["destroy", "--app", "cdk.out", "--force", STACK]


def test_bootstrap_names_the_environment_and_reads_no_settings(template: Template) -> None:
    class Session:
        region_name = "eu-west-1"

        def client(self, name: str) -> "Session":
            return self

        def get_caller_identity(self) -> dict[str, str]:
            return {"Account": "123456789012"}

    cli = Cli(template)
    args = argparse.Namespace(options=["--", "--qualifier", "team"])
    assert bootstrap.main(args, cli, Session) == 0
    assert cli.calls == [["bootstrap", "aws://123456789012/eu-west-1", "--qualifier", "team"]]


def test_the_stack_says_its_settings(synth: Synth) -> None:
    template = synth.template("jobs=true", "memory=3008")
    assert template.body["Metadata"]["answerable:settings"]["rollout"] == "canary"
    output = json.loads(template.body["Outputs"]["Settings"]["Value"])
    assert output == {"model": "diabetes", "jobs": True, "memory": 3008}
