"""`answerable release` against stubs of AWS that hold calls and answers to their models."""

import argparse
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from answerable import commands
from answerable.commands import release
from tests.fixtures.artifact import PROJECT
from tests.fixtures.release import IMAGE, NAME, WORKER, Account

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


def run(account: Account, *words: str) -> int:
    parser = argparse.ArgumentParser()
    release.add_arguments(parser)
    action, *more = words
    args = parser.parse_args([action, "dev", *more])
    return commands.run("release", release.main, args, account.clients.__getitem__)


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
PIN = "  answerable deploy dev --model diabetes -c pinned_version=2"


def ready(
    account: Make, number: str = "2", live: str = "3", worker: bool = False, **version: str
) -> Account:
    """Return an account in which a version and its image are described."""
    made = account(worker=worker)
    made.alias(live)
    made.version(number, **version)
    made.image()
    return made


def test_a_rollback_proves_moves_and_says_how_to_pin(account: Make, capsys: Capture) -> None:
    made = account()
    made.alias()
    made.history()
    made.versions()
    made.version()
    made.image()
    made.deployments()
    made.moved()
    assert run(made, "rollback") == 0
    told = capsys.readouterr().out
    assert "version 2: diabetes 1.0.0, 29 golden rows answered as packed" in told
    assert "move live from version 3 to 2" in told
    assert PIN in told.splitlines()
    assert {qualifier for qualifier, _ in made.functions.calls} == {"2"}


def test_rollback_to_a_given_version_moves_there(account: Make) -> None:
    made = account(group=False)
    made.alias()
    made.version("1")
    made.image()
    made.moved("1")
    assert run(made, "rollback", "1") == 0


def test_again_is_nothing_but_the_command_again(account: Make, capsys: Capture) -> None:
    made = ready(account, live="2")
    made.deployments()
    assert run(made, "rollback", "2") == 0
    told = capsys.readouterr().out
    assert "live is at version 2 already" in told
    assert PIN in told.splitlines()


def test_a_share_of_traffic_elsewhere_is_not_there_yet(account: Make) -> None:
    made = account()
    made.alias("2", weights={"3": 0.1})
    made.version()
    made.image()
    made.deployments()
    made.moved()
    assert run(made, "rollback", "2") == 0


def test_a_dry_run_moves_nothing(account: Make, capsys: Capture) -> None:
    made = ready(account)
    made.deployments("d-1")
    assert run(made, "rollback", "2", "--dry-run", "--deploy") == 0
    told = capsys.readouterr().out
    assert "stop the running deployment d-1" in told
    assert "move live from version 3 to 2" in told


def test_a_running_deployment_is_stopped_and_waited_for(account: Make) -> None:
    made = ready(account)
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
    made.alias()  # as CodeDeploy has left it
    made.moved()
    assert run(made, "rollback", "2") == 0


def test_a_deployment_that_does_not_stop_leaves_the_alias(
    account: Make, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "POLLS", 2)
    made = ready(account)
    made.deployments("d-1")
    made.answer("codedeploy", "stop_deployment", {"status": "Pending"})
    made.deployments("d-1")
    made.deployments("d-1")
    assert run(made, "rollback", "2") == 1
    assert "still under way: d-1; the alias was not moved" in capsys.readouterr().err


@pytest.mark.fault(
    "Somebody else moves the alias during a rollback",
    "It is reported and left alone",
)
def test_a_conflict_is_reported_and_not_overwritten(account: Make, capsys: Capture) -> None:
    made = ready(account)
    made.deployments()
    made.error("lambda", "update_alias", "PreconditionFailedException")
    assert run(made, "rollback", "2") == 1
    told = capsys.readouterr()
    assert "somebody else has moved live just now" in told.err
    assert "pinned_version" not in told.out


def test_a_vanished_version(account: Make, capsys: Capture) -> None:
    made = account()
    made.alias()
    made.error("lambda", "get_function", "ResourceNotFoundException")
    assert run(made, "rollback", "2") == 1
    assert capsys.readouterr().err.strip() == "release: version 2 is gone"


@pytest.mark.fault(
    "The image of the version to go back to is gone",
    "The rollback says so and moves nothing",
)
@pytest.mark.parametrize("known", [True, False])
def test_a_vanished_image(account: Make, capsys: Capture, known: bool) -> None:
    made = account()
    made.alias()
    made.version()
    if known:
        made.image(there=False)
    else:
        made.error("ecr", "describe_images", "ImageNotFoundException")
    assert run(made, "rollback", "2") == 1
    assert "version 2: its image is gone from some/repository" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ({"image": "elsewhere"}, "no image in ECR: elsewhere"),
        ({"state": "Failed"}, "version 2 is Failed"),
        ({"state": "Pending"}, "version 2 is Pending"),
    ],
)
def test_rollback_to_a_version_that_cannot_start_is_refused(
    account: Make, capsys: Capture, version: dict[str, str], reason: str
) -> None:
    made = account()
    made.alias()
    made.version(**version)
    if "state" in version:
        made.image()
    assert run(made, "rollback", "2") == 1
    assert reason in capsys.readouterr().err


def test_an_inactive_version_is_woken(account: Make) -> None:
    made = account()
    made.alias()
    made.version(state="Inactive")
    made.image()
    for state in ("Pending", "Active"):
        made.answer("lambda", "get_function_configuration", {"State": state})
    made.deployments()
    made.moved()
    assert run(made, "rollback", "2") == 0
    assert made.functions.calls[0] == ("2", "GET /ping")


@pytest.mark.fault(
    "The version to go back to answers its golden rows otherwise",
    "The rollback moves nothing",
)
def test_rollback_to_a_version_that_answers_otherwise_is_refused(
    account: Make, capsys: Capture
) -> None:
    made = ready(account)
    good = made.functions.handlers["2"]

    def worse(event: Any, context: Any) -> Any:
        answer = good(event, context)
        if event["path"] != "/predict":
            return answer
        return {**answer, "body": answer["body"].replace('"progression":', '"progression":1')}

    made.functions.handlers["2"] = worse
    assert run(made, "rollback", "2") == 1
    assert "version 2 is not what it was: row 1 of the sample" in capsys.readouterr().err


def test_rollback_to_a_version_that_does_not_answer_is_refused(
    account: Make, capsys: Capture
) -> None:
    made = ready(account)
    made.functions.handlers["2"] = lambda *_: None
    assert run(made, "rollback", "2") == 1
    assert "version 2 does not answer: GET /model: crashed" in capsys.readouterr().err


def test_there_may_be_nothing_to_go_back_to(account: Make, capsys: Capture) -> None:
    made = account()
    made.alias("1")
    made.history()
    made.versions()
    assert run(made, "rollback") == 1
    assert "there is no version before 1" in capsys.readouterr().err


def test_the_version_before_is_the_one_that_was_live(account: Make) -> None:
    """2 was never live, and a rollback left 1: neither is the target from 3."""
    made = account()
    made.alias()
    made.history(("user", "0", "1"), ("user", "1", "3"), ("codeDeployRollback", "2", "3"))
    made.version("1")
    made.image()
    made.deployments()
    made.moved("1")
    assert run(made, "rollback") == 0


def worker(made: Account, other: str = IMAGE) -> None:
    """The worker's versions 9, with another image, and 8."""
    made.versions("89", WORKER)
    made.version("9", image=IMAGE.replace("a" * 64, "b" * 64), function=WORKER)
    made.version("8", image=other, function=WORKER)


def test_the_worker_goes_back_with_it_and_after_it(account: Make, capsys: Capture) -> None:
    made = ready(account, worker=True)
    worker(made)
    made.version("8", function=WORKER)
    made.image()
    made.deployments()
    made.moved()
    made.alias("9", function=WORKER)
    made.moved("8", function=WORKER)
    assert run(made, "rollback", "2") == 0
    told = capsys.readouterr().out
    assert "the worker's version 8: the same image, and it starts" in told
    assert told.index("move live from version 3") < told.index("move the worker's live from")
    assert "-c pinned_version=2 -c pinned_worker_version=8" in told
    assert made.functions.calls[-1] == (f"{WORKER}:8", '{"Records": []}')


def test_forth_the_worker_goes_first_and_what_is_there_stays(account: Make) -> None:
    made = ready(account, "3", live="2", worker=True)
    worker(made)
    made.version("8", function=WORKER)
    made.image()
    made.deployments()
    made.alias("8", function=WORKER)  # moved before, by a rollback that did not get further
    made.moved("3")
    assert run(made, "rollback", "3") == 0


def test_rollback_to_a_worker_that_does_not_start_is_refused(
    account: Make, capsys: Capture
) -> None:
    made = account(worker=True)
    made.functions.handlers[f"{WORKER}:8"] = lambda *_: 1 / 0
    made.alias()
    made.version()
    made.image()
    worker(made)
    made.version("8", function=WORKER)
    made.image()
    assert run(made, "rollback", "2") == 1
    assert "the worker's version 8 does not start" in capsys.readouterr().err


def test_a_worker_that_never_had_that_image_stays_and_is_pinned_there(
    account: Make, capsys: Capture
) -> None:
    made = ready(account, worker=True)
    worker(made, other="elsewhere")
    made.alias("9", function=WORKER)
    made.deployments()
    made.moved()
    made.alias("9", function=WORKER)
    assert run(made, "rollback", "2") == 0
    told = capsys.readouterr().out
    assert "the worker stays at version 9" in told
    assert "pinned_worker_version=9" in told


def aliases(made: Account, function: str, *versions: str) -> None:
    found: list[Any] = [{"FunctionVersion": versions[0]}]
    found += [{"RoutingConfig": {"AdditionalVersionWeights": {v: 0.1}}, "FunctionVersion": v}
              for v in versions[1:]]  # fmt: skip
    made.answer("lambda", "list_aliases", {"Aliases": found}, FunctionName=function)


def of(letter: str) -> str:
    return IMAGE.replace("a" * 64, letter * 64)


def pruned(made: Account) -> None:
    """Up to what is deleted: 6 versions, of which the last 2, live 3, before it 1 are kept."""
    made.alias("3")
    made.history(("user", "1", "3"))
    made.versions("123456")
    aliases(made, NAME, "3")
    for number in "654321":
        made.version(number, image=of({"2": "b", "4": "c"}.get(number, "a")))
    made.versions("789", WORKER)
    aliases(made, WORKER, "9")
    for number, letter in (("9", "a"), ("8", "a"), ("7", "c")):
        made.version(number, image=of(letter), function=WORKER)


def listed(made: Account, others: dict[tuple[str, str], str]) -> None:
    every = [{"FunctionName": f, "Version": v, "PackageType": "Image"} for f, v in others]
    every += [{"FunctionName": NAME, "Version": "2", "PackageType": "Image"}]  # doomed: not asked
    every += [{"FunctionName": "other", "Version": "1", "PackageType": "Zip"}]
    made.answer("lambda", "list_functions", {"Functions": every}, FunctionVersion="ALL")
    for (function, number), letter in others.items():
        made.version(number, image=of(letter), function=function)


def test_prune_deletes_old_versions_and_the_images_of_these_alone(
    account: Make, capsys: Capture
) -> None:
    made = account(worker=True)
    others = {(NAME, "6"): "a", ("of-another-stack", "1"): "c"}
    pruned(made)
    for function, number in ((NAME, "4"), (NAME, "2"), (WORKER, "7")):
        made.answer("lambda", "delete_function", {}, FunctionName=function, Qualifier=number)
    listed(made, others)
    made.answer(
        "ecr",
        "batch_delete_image",
        {"failures": []},
        registryId="123456789012",
        repositoryName="some/repository",
        imageIds=[{"imageDigest": "sha256:" + "b" * 64}],
    )
    assert run(made, "prune", "--keep", "2") == 0
    told = capsys.readouterr().out
    assert "delete version 4 of scoring" in told
    assert told.count("delete the image") == 1


def test_a_dry_run_of_prune_deletes_nothing(account: Make, capsys: Capture) -> None:
    made = account(worker=True)
    pruned(made)
    listed(made, {})
    assert run(made, "prune", "--keep", "2", "--dry-run") == 0
    assert capsys.readouterr().out.count("delete") == 5


def test_prune_waits_for_a_stack_that_is_not_stable(account: Make, capsys: Capture) -> None:
    made = account(stack=False)
    made.stack("UPDATE_ROLLBACK_FAILED")
    assert run(made, "prune") == 1
    assert "UPDATE_ROLLBACK_FAILED: nothing is deleted" in capsys.readouterr().err


def test_prune_finds_nothing_to_do(account: Make, capsys: Capture) -> None:
    made = account()
    made.alias()
    made.history()
    made.versions()
    made.versions()
    aliases(made, NAME, "3", "1")
    for number in "321":
        made.version(number)
    assert run(made, "prune", "--keep", "1") == 0
    assert "nothing to delete" in capsys.readouterr().out
    assert run(account(), "prune", "--keep", "0") == 1


def test_an_image_that_ecr_keeps_is_reported(account: Make, capsys: Capture) -> None:
    made = account()
    made.alias("1")
    made.history()
    made.versions()
    made.versions()
    aliases(made, NAME, "1")
    for number in "321":
        made.version(number, image=of(number))
    made.answer("lambda", "delete_function", {}, FunctionName=NAME, Qualifier="2")
    made.answer("lambda", "list_functions", {"Functions": []}, FunctionVersion="ALL")
    failure = {"failureCode": "ImageReferencedByManifestList"}
    made.answer("ecr", "batch_delete_image", {"failures": [failure]})
    assert run(made, "prune", "--keep", "1") == 1
    assert "is still there: ImageReferencedByManifestList" in capsys.readouterr().err


def test_promote_goes_to_the_latest(account: Make, capsys: Capture) -> None:
    made = account()
    made.alias("1")
    made.versions()
    made.version("3")
    made.image()
    made.deployments()
    made.moved("3")
    assert run(made, "promote") == 0
    assert "pinned_version=3" in capsys.readouterr().out


def test_pin_is_for_what_is_live(account: Make, capsys: Capture) -> None:
    made = account()
    made.alias("2")
    assert run(made, "pin") == 0
    assert PIN in capsys.readouterr().out.splitlines()
    made = account()
    made.alias("3")
    assert run(made, "pin", "2") == 1
    assert "version 3 is live, not 2" in capsys.readouterr().err


def test_the_deployment_can_be_run_at_once(account: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run_command(words: list[str], check: bool) -> argparse.Namespace:
        commands.append(words[1:])
        return argparse.Namespace(returncode=3)

    monkeypatch.setattr(release.subprocess, "run", run_command)  # type: ignore[attr-defined]
    made = account()
    made.alias("2")
    assert run(made, "pin", "--deploy", "--model", "diabetes") == 3
    command = ["-m", "answerable", "deploy", "dev", "--model", "diabetes", "-c", "pinned_version=2"]
    assert commands == [command]


def test_the_alias_s_revision_is_the_one_before_the_proof(account: Make, capsys: Capture) -> None:
    """Somebody moves the alias while the golden rows are asked: the first revision is refused."""
    made = account()
    made.alias()  # revision-7, and there is no second look
    made.version()
    made.image()
    made.deployments()
    made.moved()
    assert run(made, "rollback", "2") == 0


def test_status(account: Make, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    made = account()
    made.alias("2", weights={"3": 0.1})
    made.versions()
    made.deployments("d-1")
    assert run(made, "status") == 0
    told = capsys.readouterr().out
    words = [line.replace("│", " ").split() for line in told.splitlines()]
    assert ["3", "model", "3", "10%"] in words
    assert ["2", "model", "2", "90%"] in words
    assert ["1", "model", "1"] in words
    assert "under way: d-1" in told


def _actions(capsys: Capture) -> set[str]:
    statements = json.loads(capsys.readouterr().out)["Statement"]
    return {action for statement in statements for action in statement["Action"]}


def test_the_policy_reads_the_key_of_this_stack_alone(account: Make, capsys: Capture) -> None:
    assert run(account(), "print-iam-policy", "-c", "auth=api-key") == 0
    statements = json.loads(capsys.readouterr().out)["Statement"]
    (keys,) = [s for s in statements if s["Resource"][0].endswith("/apikeys/*")]
    tags = {
        "aws:ResourceTag/answerable:model": "diabetes",
        "aws:ResourceTag/answerable:stage": "dev",
    }
    assert keys["Condition"] == {"StringEquals": tags}
    assert [s for s in statements if "Condition" in s] == [keys]


def test_the_policy_names_what_is_asked_and_no_more(account: Make, capsys: Capture) -> None:
    assert run(account(), "print-iam-policy") == 0
    assert not {"ecr:BatchDeleteImage", "lambda:DeleteFunction"} & _actions(capsys)
    assert run(account(), "print-iam-policy", "--prune") == 0
    policy = json.loads(capsys.readouterr().out)
    for statement in policy["Statement"]:
        assert not any("*" in action for action in statement["Action"])
        # a list of functions has no ARN
        assert ("*" in statement["Resource"]) == (statement["Action"] == ["lambda:ListFunctions"])
        if "ecr:BatchDeleteImage" in statement["Action"]:
            (image,) = statement["Resource"]
            assert "repository/cdk-hnb659fds-container-assets-" in image
        if "lambda:DeleteFunction" in statement["Action"]:  # versions, and never the function
            assert all(arn.endswith(f":{NAME}:*") for arn in statement["Resource"])
    actions = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert {"lambda:UpdateAlias", "lambda:InvokeFunction", "codedeploy:StopDeployment"} <= actions
    assert run(account(group=False), "print-iam-policy") == 0
    assert "codedeploy" not in capsys.readouterr().out


def test_a_stack_that_is_not_there_is_one_line(account: Make, capsys: Capture) -> None:
    made = account()
    run(made, "print-iam-policy")
    made.error("cloudformation", "describe_stacks", "ValidationError")
    assert run(made, "status") == 1
    assert "release: there is no stack answerable-" in capsys.readouterr().err
