"""`python -m tools release` against stubs of AWS that hold calls and answers to their models."""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from tests.released import SHIPPED, Lambda
from tools import deployed, release

STACK = "answerable-diabetes-dev"
STACK_ARN = f"arn:aws:cloudformation:eu-west-1:123456789012:stack/{STACK}/1"
NAME = "scoring"
ARN = f"arn:aws:lambda:eu-west-1:123456789012:function:{NAME}"
DIGEST = "sha256:" + "a" * 64
IMAGE = f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/some/repository@{DIGEST}"
Capture = pytest.CaptureFixture[str]


class Account:
    """Version 3 is live, 1 to 3 are published; what is asked is stated call by call."""

    def __init__(self, group: bool = True) -> None:
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
        names = ("cloudformation", "lambda", "ecr", "codedeploy")
        self.clients = {n: boto3.client(n, region_name="eu-west-1", **keys) for n in names}
        self.stubs = {name: Stubber(client) for name, client in self.clients.items()}
        for stub in self.stubs.values():
            stub.activate()
        self.functions = Lambda(dict.fromkeys("123", SHIPPED))
        self.clients["lambda"].invoke = self.functions.invoke
        outputs = {"FunctionName": NAME}
        if group:
            outputs |= {"Application": "app", "DeploymentGroup": "group"}
        stack = {
            "StackName": STACK,
            "StackId": STACK_ARN,
            "CreationTime": "2026-01-01",
            "StackStatus": "UPDATE_COMPLETE",
            "Outputs": [{"OutputKey": k, "OutputValue": v} for k, v in outputs.items()],
        }
        self.answer("cloudformation", "describe_stacks", {"Stacks": [stack]}, StackName=STACK)

    def answer(self, service: str, call: str, answer: Any, **expected: Any) -> None:
        self.stubs[service].add_response(call, answer, expected or None)

    def error(self, service: str, call: str, code: str) -> None:
        self.stubs[service].add_client_error(call, code)

    def versions(self) -> None:
        versions = [{"Version": v, "Description": f"model {v}"} for v in ("$LATEST", *"123")]
        self.answer(
            "lambda", "list_versions_by_function", {"Versions": versions}, FunctionName=NAME
        )

    def alias(self, version: str = "3", weights: dict[str, float] | None = None) -> None:
        answer: dict[str, Any] = {"FunctionVersion": version, "RevisionId": "revision-7"}
        if weights:
            answer["RoutingConfig"] = {"AdditionalVersionWeights": weights}
        self.answer("lambda", "get_alias", answer, FunctionName=NAME, Name="live")

    def version(self, number: str = "2", state: str = "Active", image: str = IMAGE) -> None:
        found = {"FunctionArn": f"{ARN}:{number}", "State": state}
        answer = {"Configuration": found, "Code": {"ResolvedImageUri": image}}
        self.answer("lambda", "get_function", answer, FunctionName=NAME, Qualifier=number)

    def image(self, there: bool = True) -> None:
        self.answer(
            "ecr",
            "describe_images",
            {"imageDetails": [{"imageDigest": DIGEST}] if there else []},
            registryId="123456789012",
            repositoryName="some/repository",
            imageIds=[{"imageDigest": DIGEST}],
        )

    def deployments(self, *ids: str) -> None:
        self.answer(
            "codedeploy",
            "list_deployments",
            {"deployments": list(ids)},
            applicationName="app",
            deploymentGroupName="group",
            includeOnlyStatuses=deployed.RUNNING,
        )

    def moved(self, to: str = "2") -> None:
        self.answer(
            "lambda",
            "update_alias",
            {"FunctionVersion": to},
            FunctionName=NAME,
            Name="live",
            FunctionVersion=to,
            RoutingConfig={"AdditionalVersionWeights": {}},
            RevisionId="revision-7",
        )

    def run(self, *words: str) -> int:
        parser = argparse.ArgumentParser()
        release.add_arguments(parser)
        return release.main(parser.parse_args(words), self.clients.__getitem__)

    def done(self) -> None:
        """Every call that was stated was made; a Stubber refuses every other."""
        for stub in self.stubs.values():
            stub.assert_no_pending_responses()


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Account]]:
    made: list[Account] = []

    def make(**options: Any) -> Account:
        made.append(Account(**options))
        return made[-1]

    monkeypatch.setattr(release.time, "sleep", lambda _: None)  # type: ignore[attr-defined]
    yield make
    for one in made:
        one.done()


Make = Callable[..., Account]
PIN = "  make deploy 'SET=stage=dev pinned_version=2'"


def test_a_rollback_proves_moves_and_says_how_to_pin(account: Make, capsys: Capture) -> None:
    made = account()
    made.alias()
    made.versions()
    made.version()
    made.image()
    made.deployments()
    made.alias()
    made.moved()
    assert made.run("rollback") == 0
    told = capsys.readouterr().out
    assert "version 2: diabetes 1.0.0, 29 golden rows answered as packed" in told
    assert "move live from version 3 to 2" in told
    assert PIN in told.splitlines()
    assert {qualifier for qualifier, _ in made.functions.asked} == {"2"}


def test_it_can_be_told_where_to(account: Make) -> None:
    made = account(group=False)
    made.version("1")
    made.image()
    made.alias()
    made.moved("1")
    assert made.run("rollback", "1") == 0


def test_again_is_nothing_but_the_command_again(account: Make, capsys: Capture) -> None:
    made = account()
    made.version()
    made.image()
    made.deployments()
    made.alias("2")
    assert made.run("rollback", "2") == 0
    told = capsys.readouterr().out
    assert "live is at version 2 already" in told
    assert PIN in told.splitlines()


def test_a_share_of_traffic_elsewhere_is_not_there_yet(account: Make) -> None:
    made = account()
    made.version()
    made.image()
    made.deployments()
    made.alias("2", weights={"3": 0.1})
    made.moved()
    assert made.run("rollback", "2") == 0


def test_a_dry_run_moves_nothing(account: Make, capsys: Capture) -> None:
    made = account()
    made.version()
    made.image()
    made.deployments("d-1")
    made.alias()
    assert made.run("rollback", "2", "--dry-run", "--deploy") == 0
    told = capsys.readouterr().out
    assert "stop the running deployment d-1" in told
    assert "move live from version 3 to 2" in told


def test_a_running_deployment_is_stopped_and_waited_for(account: Make) -> None:
    made = account()
    made.version()
    made.image()
    made.deployments("d-1")
    made.answer(
        "codedeploy",
        "stop_deployment",
        {"status": "Pending"},
        deploymentId="d-1",
        autoRollbackEnabled=True,
    )
    for under_way in (["d-1"], [], ["its-rollback"], [], []):
        made.deployments(*under_way)
    made.alias()
    made.moved()
    assert made.run("rollback", "2") == 0


def test_a_deployment_that_does_not_stop_leaves_the_alias(
    account: Make, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "POLLS", 2)
    made = account()
    made.version()
    made.image()
    made.deployments("d-1")
    made.answer("codedeploy", "stop_deployment", {"status": "Pending"})
    made.deployments("d-1")
    made.deployments("d-1")
    assert made.run("rollback", "2") == 1
    assert "still under way: d-1; the alias was not moved" in capsys.readouterr().err


@pytest.mark.fault(
    "Somebody else moves the alias during a rollback",
    "It is reported and left alone",
)
def test_a_conflict_is_reported_and_not_overwritten(account: Make, capsys: Capture) -> None:
    made = account()
    made.version()
    made.image()
    made.deployments()
    made.alias()
    made.error("lambda", "update_alias", "PreconditionFailedException")
    assert made.run("rollback", "2") == 1
    told = capsys.readouterr()
    assert "somebody else has moved live just now" in told.err
    assert "pinned_version" not in told.out


def test_a_vanished_version(account: Make, capsys: Capture) -> None:
    made = account()
    made.error("lambda", "get_function", "ResourceNotFoundException")
    assert made.run("rollback", "2") == 1
    assert capsys.readouterr().err.strip() == "release: version 2 is gone"


@pytest.mark.fault(
    "The image of the version to go back to is gone",
    "The rollback says so and moves nothing",
)
@pytest.mark.parametrize("known", [True, False])
def test_a_vanished_image(account: Make, capsys: Capture, known: bool) -> None:
    made = account()
    made.version()
    if known:
        made.image(there=False)
    else:
        made.error("ecr", "describe_images", "ImageNotFoundException")
    assert made.run("rollback", "2") == 1
    assert "version 2: its image is gone from some/repository" in capsys.readouterr().err


def test_a_version_without_an_image(account: Make, capsys: Capture) -> None:
    made = account()
    made.version(image="elsewhere")
    assert made.run("rollback", "2") == 1
    assert "no image in ECR: elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["Failed", "Pending"])
def test_a_version_that_is_not_active(account: Make, capsys: Capture, state: str) -> None:
    made = account()
    made.version(state=state)
    made.image()
    assert made.run("rollback", "2") == 1
    assert f"version 2 is {state}" in capsys.readouterr().err


def test_an_inactive_version_is_woken(account: Make) -> None:
    made = account()
    made.version(state="Inactive")
    made.image()
    for state in ("Pending", "Active"):
        made.answer("lambda", "get_function_configuration", {"State": state})
    made.deployments()
    made.alias()
    made.moved()
    assert made.run("rollback", "2") == 0
    assert made.functions.asked[0] == ("2", "GET /ping")


@pytest.mark.fault(
    "The version to go back to answers its golden rows otherwise",
    "The rollback moves nothing",
)
def test_a_version_that_answers_otherwise_is_no_way_back(account: Make, capsys: Capture) -> None:
    made = account()
    made.version()
    made.image()
    good = made.functions.handlers["2"]

    def worse(event: Any, context: Any) -> Any:
        answer = good(event, context)
        if event["path"] != "/predict":
            return answer
        return {**answer, "body": answer["body"].replace('"progression":', '"progression":1')}

    made.functions.handlers["2"] = worse
    assert made.run("rollback", "2") == 1
    assert "version 2 is not what it was: row 1 of the sample" in capsys.readouterr().err


def test_a_version_that_does_not_answer_is_no_way_back(account: Make, capsys: Capture) -> None:
    made = account()
    made.version()
    made.image()
    made.functions.handlers["2"] = lambda *_: None
    assert made.run("rollback", "2") == 1
    assert "version 2 does not answer: GET /model: crashed" in capsys.readouterr().err


def test_there_may_be_nothing_to_go_back_to(account: Make, capsys: Capture) -> None:
    made = account()
    made.alias("1")
    made.versions()
    assert made.run("rollback") == 1
    assert "there is no version before 1" in capsys.readouterr().err


def test_promote_goes_to_the_latest(account: Make, capsys: Capture) -> None:
    made = account()
    made.alias("1")
    made.versions()
    made.version("3")
    made.image()
    made.deployments()
    made.alias("1")
    made.moved("3")
    assert made.run("promote") == 0
    assert "pinned_version=3" in capsys.readouterr().out


def test_pin_is_for_what_is_live(account: Make, capsys: Capture) -> None:
    made = account()
    made.alias("2")
    made.alias("2")
    assert made.run("pin") == 0
    assert PIN in capsys.readouterr().out.splitlines()
    made = account()
    made.alias("3")
    assert made.run("pin", "2") == 1
    assert "version 3 is live, not 2" in capsys.readouterr().err


def test_the_deployment_can_be_run_at_once(
    account: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("Makefile").write_text('deploy:\n\t@echo "$(MODEL) $(SET)" > asked; exit 3\n')
    made = account()
    made.alias("2")
    made.alias("2")
    assert made.run("pin", "--deploy", "--model", "diabetes") != 0
    assert Path("asked").read_text() == "diabetes stage=dev pinned_version=2\n"


def test_status(account: Make, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    made = account()
    made.alias("2", weights={"3": 0.1})
    made.versions()
    made.deployments("d-1")
    assert made.run("status") == 0
    told = capsys.readouterr().out
    words = [line.replace("│", " ").split() for line in told.splitlines()]
    assert ["3", "model", "3", "10%"] in words
    assert ["2", "model", "2", "90%"] in words
    assert ["1", "model", "1"] in words
    assert "under way: d-1" in told


def test_the_policy_names_what_is_asked_and_no_more(account: Make, capsys: Capture) -> None:
    assert account().run("iam") == 0
    policy = json.loads(capsys.readouterr().out)
    for statement in policy["Statement"]:
        assert not any("*" in action for action in statement["Action"])
        assert "*" not in statement["Resource"]
    actions = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert {"lambda:UpdateAlias", "lambda:InvokeFunction", "codedeploy:StopDeployment"} <= actions
    assert account(group=False).run("iam") == 0
    assert "codedeploy" not in capsys.readouterr().out


def test_a_stack_that_is_not_there_is_one_line(account: Make, capsys: Capture) -> None:
    made = account()
    made.run("iam")
    made.error("cloudformation", "describe_stacks", "ValidationError")
    assert made.run("status") == 1
    assert "release: " in capsys.readouterr().err
