"""Releases from the first deployment to the last rollback, under a CodeDeploy that refuses.

The commands are the product's, the templates are the synthesised ones, and the functions run as
deployed: see tests/fixtures/emulated_aws.py.
"""

import argparse
import contextlib
import functools
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from answerable import cdk, commands, smoke
from answerable.commands import deploy, destroy, release
from answerable.packing import artifact as packed
from answerable.simulation import versions
from handler import manifest as manifests
from tests import smoke as smoke_steps
from tests.fixtures.artifact import DIABETES
from tests.fixtures.emulated_aws import ACCOUNT, REGION, Account
from tests.infra.conftest import ROOT, Synth

GOOD = ("1.0.0", "1.0.1", "1.0.2", "1.0.3")
WRONG_GOLDEN, CRASHING = "1.0.8", "1.0.9"
ALARM = json.loads((ROOT / "tests/fixtures/alarm.json").read_text())


def make_artifacts(directory: Path) -> dict[str, Path]:
    """Artifacts by the tag of their image: good ones, and two that no release may let through."""
    made = {version: directory / version for version in (*GOOD, WRONG_GOLDEN, CRASHING)}
    for version in (*GOOD, CRASHING):
        shutil.copytree(DIABETES, made[version])
        manifest = manifests.read(made[version])
        packed.write(made[version], manifest._replace(version=version))
    shutil.copytree(DIABETES, made[WRONG_GOLDEN])
    golden = made[WRONG_GOLDEN] / "golden.jsonl"
    lines = [json.loads(line) for line in golden.read_text().splitlines()]
    lines[5]["prediction"]["progression"] += 1
    golden.write_text("".join(json.dumps(line) + "\n" for line in lines))
    manifest = manifests.read(made[WRONG_GOLDEN])
    files = packed.files(made[WRONG_GOLDEN])
    packed.write(made[WRONG_GOLDEN], manifest._replace(version=WRONG_GOLDEN, files=files))
    return made


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_artifacts(tmp_path_factory.mktemp("images"))


@functools.cache
def crash() -> versions.Fault:
    return versions.SCENARIOS["crash"](DIABETES)


class Play:
    """A project, its account, and the commands that are run in it."""

    templates: ClassVar[dict[tuple[str, ...], Path]] = {}

    def __init__(self, synth: Synth, account: Account, images: dict[str, Path]) -> None:
        self.synth, self.account, self.images = synth, account, images
        account.faults = {images[CRASHING]: crash()}
        self.output = ""

    def _cdk(self, words: Sequence[str]) -> int:
        """The CDK CLI, against the account."""
        if words[0] == "synth":
            settings = tuple(word for word in words if "=" in word)  # the image is one of them
            if settings not in self.templates:
                assembly = self.synth.app(*settings, project=Path.cwd()).synth()
                (self.templates[settings],) = Path(assembly.directory).glob("*.template.json")
            cdk.OUTPUT.mkdir(exist_ok=True)
            shutil.copy(self.templates[settings], cdk.OUTPUT)
            return 0
        if words[0] == "destroy":
            self.account.destroy()
            return 0
        (template,) = cdk.OUTPUT.glob("*.template.json")
        return 0 if self.account.deploy(json.loads(template.read_text())) else 1

    def deploy(self, image: str, *settings: str, options: Sequence[str] = ()) -> int:
        """`answerable deploy dev` in a checkout of the version."""
        folder = Path("model_artifacts/diabetes")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.images[image], folder)
        parser = argparse.ArgumentParser()
        deploy.add_arguments(parser)
        settings = f"image_tag={image}", *settings
        words = [*options, *(word for setting in settings for word in ("-c", setting))]
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            args = parser.parse_args(["dev", *words])
            code = commands.run("deploy", deploy.main, args, self._cdk, self.account.client, _ok)
        self.output = out.getvalue()
        return code

    def release(self, *words: str) -> int:
        """`answerable release ACTION dev …`."""
        parser = argparse.ArgumentParser()
        release.add_arguments(parser)
        action, *more = words
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            args = parser.parse_args([action, "dev", *more])
            code = commands.run("release", release.main, args, self.account.client)
        self.output = out.getvalue()
        return code

    def probe(self) -> dict[str, Any]:
        """The record of the rollback probe, which runs after each deployment."""
        self._invoke("RollbackProbe", {})
        return dict(json.loads(self.account.events[-1]))

    def alarm(self, version: str) -> str:
        """Ring the alarm of impact for a version; what the automatic rollback says."""
        event = json.loads(json.dumps(ALARM))
        for query in event["detail"]["configuration"]["metrics"]:
            if "metricStat" in query:
                query["metricStat"]["metric"]["dimensions"]["version"] = version
        self._invoke("RollbackOnAlarm", event)
        return self.account.messages[-1]

    def _invoke(self, prefix: str, event: Any) -> None:
        (name,) = [name for name in self.account.functions if name.startswith(prefix)]
        answer = self.account.lambda_invoke(name, json.dumps(event))
        assert "FunctionError" not in answer, answer["Payload"].read()

    @property
    def live(self) -> str:
        version, weights = self.account.alias()
        assert not weights
        return version

    @property
    def live_model(self) -> str:
        body = self.account.predict(next(self.account.bodies))["body"]
        return str(json.loads(body)["model"]["version"])

    def agrees(self) -> None:
        """The stack is stable, and the alias is where it has it."""
        assert self.account.status in ("CREATE_COMPLETE", "UPDATE_COMPLETE",
                                       "UPDATE_ROLLBACK_COMPLETE")  # fmt: skip
        assert self.live == self.account.outputs()["LiveVersion"]
        assert self.probe()["AliasMoved"] == 0


def _ok(url: str, headers: Mapping[str, str]) -> int:
    return 200


def enter_project(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the project of the commands the current directory."""
    (directory / "deploy.toml").write_text(
        '[stage.dev]\nimage_repository = "models"\njobs = true\nbake_minutes = 5\n'
        'auto_rollback_on = "drift"\n'
    )
    monkeypatch.chdir(directory)
    monkeypatch.setattr(smoke, "sign", lambda url, service: {})
    monkeypatch.setattr(release, "POLL_SECONDS", 0)


@pytest.fixture(params=[False, True], ids=["written-back", "deployed-back"])
def play(
    request: pytest.FixtureRequest,
    synth: Synth,
    images: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Play:
    """A new account and a project with jobs; both ways in which CloudFormation may roll back."""
    enter_project(tmp_path, monkeypatch)
    return Play(synth, Account(dict(images), rollback_by_codedeploy=request.param), images)


def test_a_model_s_life(play: Play) -> None:
    account = play.account
    assert play.deploy("1.0.0") == 0, play.output
    assert (play.live, play.live_model) == ("1", "1.0.0")
    play.agrees()

    # a change, under a canary
    assert play.deploy("1.0.1") == 0, (play.output, account.failures)
    assert (play.live, play.live_model) == ("2", "1.0.1")
    assert account.alias("JobsWorkerName")[0] == "2"
    play.agrees()
    assert play.probe()["RollbackUnavailable"] == 0

    # wrong golden answers get no traffic; so do they again, and again
    for _ in range(2):
        assert play.deploy(WRONG_GOLDEN) == 1
        assert "HOOK_EXECUTION_FAILURE" in account.failures[-1]
        play.agrees()
        assert (play.live, play.live_model) == ("2", "1.0.1")

    # one that crashes for clients is taken back by its alarm, and the retry is judged anew
    for _ in range(2):
        assert play.deploy(CRASHING) == 1
        assert "ALARM_ACTIVE" in account.failures[-1], account.failures
        play.agrees()
        assert (play.live, play.live_model) == ("2", "1.0.1")
        assert account.alias("JobsWorkerName")[0] == "2"

    # the fix
    assert play.deploy("1.0.2") == 0, (play.output, account.failures)
    play.agrees()
    fixed = play.live

    # back by hand, and the next fix on top of it
    assert play.release("rollback") == 0, play.output
    assert (play.live, play.live_model) == ("2", "1.0.1")
    assert play.probe()["AliasMoved"] == 1
    assert play.deploy("1.0.3") == 0, (play.output, account.failures)
    assert play.live_model == "1.0.3"
    play.agrees()

    # back by alarm, and the fix on top of it
    bad = play.live
    assert "move live" in play.alarm(bad), account.messages
    assert (play.live, play.live_model) == ("2", "1.0.1")
    assert play.probe()["AliasMoved"] == 1
    assert play.deploy("1.0.2") == 0, (play.output, account.failures)
    assert play.live_model == "1.0.2"
    assert play.live not in (fixed, bad)
    play.agrees()

    # more memory, another log level
    for setting in ("memory=2048", "log_level=WARNING"):
        before = play.live
        assert play.deploy("1.0.2", setting) == 0, (play.output, account.failures)
        assert int(play.live) > int(before)
        play.agrees()

    # pinned and no more
    assert play.release("rollback") == 0, play.output
    pinned = play.live
    assert play.deploy("1.0.2", f"pinned_version={pinned}", "pinned_worker_version=2") == 0
    play.agrees()
    assert play.deploy("1.0.3", f"pinned_version={pinned}", "pinned_worker_version=2") == 0
    assert play.live == pinned
    play.agrees()
    assert play.deploy("1.0.3") == 0, (play.output, account.failures)
    assert play.live_model == "1.0.3"
    play.agrees()
    # clients met the crashing version's tenth of the traffic, and nothing else
    failed = sum(status != 200 for status in account.statuses) / len(account.statuses)
    assert 0 < failed < 0.02


def test_a_worker_that_does_not_start_stops_the_release(play: Play) -> None:
    account = play.account
    assert play.deploy("1.0.0") == 0
    account.broken = "JobsWorker"
    assert play.deploy("1.0.1") == 1
    assert "HOOK_EXECUTION_FAILURE" in account.failures[-1]
    assert (play.live, account.alias("JobsWorkerName")[0]) == ("1", "1")
    account.broken = ""
    assert play.deploy("1.0.1") == 0
    assert account.alias("JobsWorkerName")[0] == "3"  # Lambda gives no number twice
    play.agrees()


def test_a_first_deployment_whose_worker_does_not_start_says_so(play: Play) -> None:
    play.account.broken = "JobsWorker"
    assert play.deploy("1.0.0") == 1
    assert "the jobs' worker does not start" in play.output


def test_the_worker_moves_when_the_canary_has_passed(play: Play) -> None:
    account = play.account
    assert play.deploy("1.0.0") == 0
    seen = []
    account.before_minute = lambda: seen.append((account.alias(), account.alias("JobsWorkerName")))
    assert play.deploy("1.0.1") == 0
    assert seen == [(("1", {"2": 0.1}), ("1", {}))] * 5
    assert (play.live, account.alias("JobsWorkerName")[0]) == ("2", "2")


def test_jobs_of_a_canary_are_scored_by_the_worker_that_has_passed(play: Play) -> None:
    account = play.account
    assert play.deploy("1.0.0") == 0
    results = []

    def submit() -> None:
        for _ in range(10):  # one of them is accepted by the new version
            assert account.predict(next(account.bodies), "/jobs")["statusCode"] == 202
            results.append(account.work())

    account.before_minute = submit
    assert play.deploy(CRASHING) == 1
    assert play.deploy("1.0.1") == 0
    assert set(results) == {"1.0.0"}
    submit()
    assert results[-1] == "1.0.1"
    assert play.release("rollback") == 0
    submit()
    assert results[-1] == "1.0.0"
    keys = [key for key in account.memory.written if key.endswith("result.json")]
    assert len(keys) == len(set(keys)) == len(results)


def test_too_little_traffic_goes_back_from_all_of_the_traffic(play: Play) -> None:
    settings = "low_traffic_policy=fail", "minimum_requests=1000"
    assert play.deploy("1.0.0", *settings) == 0
    assert play.deploy("1.0.1", *settings) == 1
    assert "HOOK_EXECUTION_FAILURE: CodeDeployHook_diabetes-dev_after" in play.account.failures[-1]
    assert play.live_model == "1.0.0"
    play.agrees()
    assert play.deploy("1.0.1") == 0, (play.output, play.account.failures)
    play.agrees()


def test_jobs_and_the_rollout_come_and_go(play: Play) -> None:
    changes = (
        ("jobs=false",),
        ("jobs=true",),
        ("jobs=true", "rollout=all-at-once"),
        ("jobs=true",),
        ("jobs=false",),
    )
    for number, settings in enumerate(changes):
        image, options = GOOD[number % len(GOOD)], ["--yes-remove", "jobs"]
        assert play.deploy(image, *settings, options=options) == 0, (
            play.output,
            play.account.failures,
        )
        assert play.live_model == image
        play.agrees()


def test_a_rollback_during_a_canary_stops_it(play: Play) -> None:
    account = play.account
    assert play.deploy("1.0.0") == 0
    assert play.deploy("1.0.1") == 0

    def interrupt() -> None:
        account.before_minute = lambda: None
        assert play.release("rollback", "1") == 0, play.output

    account.before_minute = interrupt
    assert play.deploy("1.0.2") == 1
    assert "DEPLOYMENT_STOPPED" in account.failures[-1]
    assert account.status == "UPDATE_ROLLBACK_COMPLETE"
    assert play.deploy("1.0.3") == 0, (play.output, account.failures)
    play.agrees()


@pytest.mark.parametrize("resource", ["JobsWorkerLive", "RollbackProbe"])
def test_a_failure_after_the_canary_goes_back_whole(play: Play, resource: str) -> None:
    account = play.account
    assert play.deploy("1.0.0") == 0
    account.fail = resource
    assert play.deploy("1.0.1") == 1
    assert account.status == "UPDATE_ROLLBACK_COMPLETE", account.failures
    assert (play.live_model, account.alias("JobsWorkerName")[0]) == ("1.0.0", "1")
    account.fail = ""
    play.agrees()
    assert play.deploy("1.0.1") == 0, (play.output, account.failures)
    assert play.live_model == "1.0.1"
    play.agrees()


def test_a_failed_creation_can_be_retried(play: Play) -> None:
    account = play.account
    account.fail = "Dashboard"
    assert play.deploy("1.0.0") == 1
    assert account.status == "ROLLBACK_COMPLETE"
    account.fail = ""
    assert play.deploy("1.0.0") == 0, (play.output, account.failures)
    play.agrees()


def test_a_stack_that_was_destroyed_can_be_deployed_again(play: Play) -> None:
    assert play.deploy("1.0.0") == 0
    play.account.destroy()
    assert play.deploy("1.0.0") == 0, (play.output, play.account.failures)
    play.agrees()


def test_a_fix_that_fails_after_a_rollback_can_be_retried(play: Play) -> None:
    account = play.account
    for version in ("1.0.0", "1.0.1"):
        assert play.deploy(version) == 0
    assert play.release("rollback") == 0
    for _ in range(2):
        assert play.deploy(CRASHING) == 1
        assert (play.live, account.alias("JobsWorkerName")[0]) == ("1", "1")
        play.agrees()
    assert play.deploy("1.0.2") == 0, (play.output, account.failures)
    play.agrees()


def test_a_deployment_without_a_new_version_keeps_a_rollback(play: Play) -> None:
    for version in ("1.0.0", "1.0.1"):
        assert play.deploy(version) == 0
    assert play.release("rollback") == 0
    assert play.deploy("1.0.1", "bake_minutes=6") == 0, play.output
    assert "the alias stays" in play.output
    assert play.live == "1"
    assert play.probe()["AliasMoved"] == 1
    assert play.deploy("1.0.2") == 0
    play.agrees()


def test_a_rollback_survives_pruning(play: Play) -> None:
    for version in ("1.0.0", "1.0.1", "1.0.2", "1.0.3"):
        assert play.deploy(version) == 0
    assert play.release("prune", "--keep", "1") == 0, play.output
    assert play.release("rollback") == 0, play.output
    assert play.live_model == "1.0.2"
    assert play.deploy("1.0.0") == 1  # its image was pruned
    assert play.deploy("1.0.3", "memory=2048") == 0, (play.output, play.account.failures)
    play.agrees()


def test_provisioned_concurrency_pauses_over_a_rollback(play: Play) -> None:
    settings = ("provisioned_concurrency=1",)
    for version in ("1.0.0", "1.0.1"):
        assert play.deploy(version, *settings) == 0, play.output
    assert play.release("rollback") == 0
    assert play.deploy("1.0.2", *settings) == 0, (play.output, play.account.failures)
    play.agrees()


@pytest.mark.parametrize("rollout", ["linear", "all-at-once"])
def test_other_rollouts(play: Play, rollout: str) -> None:
    settings = f"rollout={rollout}", "bake_minutes=9"
    for version in ("1.0.0", "1.0.1"):
        assert play.deploy(version, *settings) == 0, (play.output, play.account.failures)
    assert play.release("rollback") == 0, play.output
    assert play.deploy("1.0.2", *settings) == 0, (play.output, play.account.failures)
    assert play.live_model == "1.0.2"
    play.agrees()


def test_every_deployment_of_the_smoke_test_has_its_settings() -> None:
    for step in smoke_steps.steps("dev", ["architecture=arm64"]):
        has_setting = "architecture=arm64" in step.words
        assert has_setting == (step.words[0] in ("deploy", "destroy")), step


def test_the_smoke_test_s_steps(
    synth: Synth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: dict[str, Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(smoke, "sign", lambda url, service: {})
    account = Account(dict(images))
    play = Play(synth, account, images)
    modules = {"deploy": deploy, "release": release, "destroy": destroy}
    more: dict[str, list[Any]] = {"deploy": [play._cdk, account.client, _ok]}
    more |= {"release": [account.client], "destroy": [play._cdk]}

    def run(words: Sequence[str]) -> int:
        name, *rest = words
        manifest = manifests.read(Path("model_artifacts/smoke"))
        image = f"smoke-{manifest.version}"
        if image not in account.artifacts:
            account.artifacts[image] = tmp_path / image
            shutil.copytree("model_artifacts/smoke", tmp_path / image)
        if name != "release":
            rest += ["-c", "image_repository=models", "-c", f"image_tag={image}"]
        parser = argparse.ArgumentParser()
        modules[name].add_arguments(parser)
        return commands.run(name, modules[name].main, parser.parse_args(rest), *more[name])

    assert smoke_steps.play(tmp_path, "dev", run) == "", account.failures
    assert account.status == "DELETE_COMPLETE"


# --- that the emulator refuses -------------------------------------------------------------------


def test_without_the_command_codedeploy_refuses_and_the_bad_version_comes_back(play: Play) -> None:
    account = play.account
    for version in ("1.0.0", "1.0.1", "1.0.2"):
        assert play.deploy(version) == 0
    template = account.template
    assert play.deploy("1.0.3") == 0
    assert play.release("rollback", "1") == 0
    assert template
    assert not account.deploy(template)  # by `cdk deploy`
    assert "INVALID_LAMBDA_CONFIGURATION" in account.failures[-1]
    assert play.live_model == "1.0.3"


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [("AWS::Lambda::Version", "DeletionPolicy", "Retain"), ("AWS::Lambda::Alias", "DependsOn", [])],
)
def test_a_fault_in_the_template_is_found(play: Play, kind: str, key: str, value: Any) -> None:
    account = play.account
    deploy_template = account.deploy

    def mutated(template: Any) -> bool:
        for resource in template["Resources"].values():
            if resource["Type"] == kind:
                resource[key] = value
        return deploy_template(template)

    account.deploy = mutated  # type: ignore[method-assign]
    assert play.deploy("1.0.0") == 0
    codes = [play.deploy(WRONG_GOLDEN)]
    account.broken = "JobsWorker"
    codes.append(play.deploy("1.0.1"))
    account.broken = ""
    codes += [play.deploy(image) for image in ("1.0.1", CRASHING, "1.0.2")]
    assert codes != [1, 1, 0, 1, 0]


# what the CDK CLI, Docker and a client with the caller's credentials do; no call of boto3
OTHERS = {"sts:AssumeRole", "execute-api:Invoke", "ecr:GetAuthorizationToken", "ecr:PutImage"}
OTHERS |= {"ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload"}
OTHERS |= {"ecr:InitiateLayerUpload", "ecr:UploadLayerPart"}


def test_the_printed_policy_allows_what_the_commands_call_and_no_more(play: Play) -> None:
    account = play.account
    account.operator = []
    assert play.deploy("1.0.0") != 0
    assert "AccessDenied" in play.output
    account.operator = None
    assert play.deploy("1.0.0") == 0, play.output
    assert play.release("print-iam-policy", "-c", "image_tag=v") == 0, play.output
    account.operator, account.used = json.loads(play.output)["Statement"], set()
    account.used.add("apigateway:GET")  # of a first deployment alone
    for image in ("1.0.1", "1.0.2"):
        assert play.deploy(image) == 0, play.output
    for words in (["status"], ["rollback"], ["pin"], ["promote"]):
        assert play.release(*words) == 0, play.output
    # prune reads every function of the account, so its permissions are asked for
    assert play.release("prune", "--keep", "1") == 1, play.output
    assert "AccessDenied" in play.output
    account.operator = None
    assert play.release("print-iam-policy", "--prune", "-c", "image_tag=v") == 0, play.output
    account.operator = json.loads(play.output)["Statement"]
    assert play.release("prune", "--keep", "1") == 0, play.output
    allowed = {action for statement in account.operator for action in statement["Action"]}
    assert account.used - allowed == set()
    # of a deployment under way, and of a version that was idle for weeks
    rare = {"codedeploy:StopDeployment", "lambda:GetFunctionConfiguration"}
    assert allowed - account.used - OTHERS == rare


def test_the_policy_of_a_first_deployment_names_what_will_be_there(play: Play) -> None:
    account = play.account
    options = (
        "-c",
        "image_registry=210987654321",
        "-c",
        "bootstrap_qualifier=team",
        "-c",
        "image_tag=v",
    )
    shutil.copytree(play.images["1.0.0"], "model_artifacts/diabetes")
    assert play.release("print-iam-policy", *options) == 0, play.output
    statements = {tuple(s["Action"]): s["Resource"] for s in json.loads(play.output)["Statement"]}
    (roles,) = [arns for actions, arns in statements.items() if actions == ("sts:AssumeRole",)]
    assert f"arn:aws:iam::{ACCOUNT}:role/cdk-team-deploy-role-{ACCOUNT}-{REGION}" in roles
    (push,) = [arns for actions, arns in statements.items() if "ecr:PutImage" in actions]
    assert push == [f"arn:aws:ecr:{REGION}:210987654321:repository/models"]
    (functions,) = [arns for actions, arns in statements.items() if "lambda:GetAlias" in actions]
    name = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:answerable-diabetes-dev*"
    assert functions == [name, f"{name}:*"]
    assert account.status == ""
