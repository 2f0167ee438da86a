"""The rollback probe, and the rollback by alarm, as EventBridge calls them."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from handler.release import auto_rollback
from tests.fixtures import emf
from tests.fixtures.events import Context
from tests.fixtures.release import NAME, WORKER, Account

LONG = Context(milliseconds=600_000)
TOPIC = "arn:aws:sns:eu-west-1:123456789012:alarms"
Capture = pytest.CaptureFixture[str]
Make = Callable[..., Account]


class Matches:
    """Equal to every text with these words in it."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def __eq__(self, other: object) -> bool:
        return all(word in str(other) for word in self.words)

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[Account] = []

    def make(**options: Any) -> Account:
        made.append(Account(stack=False, **options))
        monkeypatch.setattr(auto_rollback, "client", made[-1].clients.__getitem__)
        if options.get("worker"):
            monkeypatch.setenv("WORKER_NAME", WORKER)
        return made[-1]

    environment = {
        "FUNCTION_NAME": NAME,
        "APPLICATION": "app",
        "DEPLOYMENT_GROUP": "group",
        "STACK_LIVE_VERSION": "3",
        "SERVICE_NAME": "diabetes-dev",
        "TOPIC_ARN": TOPIC,
        "COOLDOWN_HOURS": "24",
        "MONITOR_LOG_GROUP": "monitor",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("time.sleep", lambda _: None)
    yield make
    for one in made:
        one.done()


def lines(capsys: Capture, message: str) -> dict[str, Any]:
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (line,) = [line for line in found if line["message"] == message]
    return dict(line)


def probe(capsys: Capture, context: Any = LONG) -> dict[str, Any]:
    capsys.readouterr()
    auto_rollback.on_schedule({"source": "aws.events"}, context)
    found = lines(capsys, "rollback check")
    emf.validate(found)
    (directive,) = found["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["service"]]
    assert found["service"] == "diabetes-dev"
    assert found["RollbackUnavailable"] == bool(found["reason"])
    return found


def both_fit(made: Account) -> None:
    """2 was live before 3, and the worker's 8 has its image."""
    made.history(("user", "2", "3"))
    made.version()
    made.image()
    made.versions("8", WORKER)
    made.version("8", function=WORKER)
    made.version("8", function=WORKER)
    made.image()


# --- the probe -----------------------------------------------------------------------------------


@pytest.mark.fault(
    "`log_level` is WARNING or ERROR",
    "The metric of the rollback check is written all the same, so its alarm stays quiet",
)
@pytest.mark.parametrize("level", ["WARNING", "ERROR"])
def test_the_log_level_silences_no_metric(
    account: Make, capsys: Capture, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setenv("LOG_LEVEL", level)
    made = account(worker=True)
    made.alias()
    both_fit(made)
    assert probe(capsys)["RollbackUnavailable"] == 0


@pytest.mark.parametrize(("stack", "moved"), [("3", 0), ("4", 1)])
def test_on_schedule_reports_an_alias_that_is_not_at_the_stack_s_version(
    account: Make, capsys: Capture, monkeypatch: pytest.MonkeyPatch, stack: str, moved: int
) -> None:
    monkeypatch.setenv("STACK_LIVE_VERSION", stack)
    made = account(worker=True)
    made.alias()
    both_fit(made)
    found = probe(capsys)
    assert found["AliasMoved"] == moved
    assert ("the stack has version 4" in found["steps"]) == bool(moved)


def test_a_version_that_would_do(account: Make, capsys: Capture) -> None:
    made = account(worker=True)
    made.alias()
    both_fit(made)
    found = probe(capsys)
    assert found["RollbackUnavailable"] == 0
    assert found["steps"] == [
        "version 3 is live; before it was 2",
        "version 2: diabetes 1.0.0, 29 golden rows answered as packed",
        "the worker's version 8: the same image, and it starts",
    ]
    assert {who for who, _ in made.functions.calls} == {"2", f"{WORKER}:8"}


def test_where_nothing_was_live_before_there_is_nothing_to_miss(
    account: Make, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = account()
    made.alias("1")
    made.history()
    made.versions("1")
    monkeypatch.setenv("STACK_LIVE_VERSION", "1")
    found = probe(capsys)
    assert (found["RollbackUnavailable"], found["steps"]) == (
        0,
        ["nothing was live before version 1"],
    )


def test_an_idle_version_is_woken(account: Make, capsys: Capture) -> None:
    made = account()
    made.alias()
    made.history(("user", "2", "3"))
    made.version(state="Inactive")
    made.image()
    for state in ("Pending", "Active"):
        made.answer("lambda", "get_function_configuration", {"State": state})
    assert probe(capsys)["RollbackUnavailable"] == 0
    assert made.functions.calls[0] == ("2", "GET /ping")


def gone(made: Account) -> None:
    made.error("lambda", "get_function", "ResourceNotFoundException")


def without_image(made: Account) -> None:
    made.version()
    made.image(there=False)


def crashing(made: Account) -> None:
    made.version()
    made.image()
    made.functions.handlers["2"] = lambda *_: 1 / 0


def damaged(made: Account) -> None:
    made.version()
    made.image()
    good = made.functions.handlers["2"]

    def worse(event: Any, context: Any) -> Any:
        answer = good(event, context)
        damaged = answer["body"].replace("row 1 ", "row 7 ")
        return {**answer, "body": damaged} if "golden" in event["path"] else answer

    made.functions.handlers["2"] = worse


def forbidden(made: Account) -> None:
    refused: Any = {"Error": {"Code": "AccessDenied", "Message": "SENTINEL"}}
    made.version()
    made.image()

    def invoke(**_: Any) -> Any:
        raise ClientError(refused, "Invoke")

    made.clients["lambda"].invoke = invoke


UNFIT = [
    (gone, "version 2 is gone"),
    (without_image, "its image is gone"),
    (crashing, "does not answer: GET /model: crashed or timed out"),
    (damaged, "not what it was: its golden rows are not the ones that were packed"),
    (forbidden, "it failed: ClientError AccessDenied"),
]


@pytest.mark.parametrize(("fault", "told"), UNFIT)
def test_a_version_that_would_not_do(
    account: Make, capsys: Capture, fault: Callable[[Account], None], told: str
) -> None:
    made = account()
    made.alias()
    made.history(("user", "2", "3"))
    fault(made)
    found = probe(capsys)
    assert (found["RollbackUnavailable"], found["level"]) == (1, "ERROR")
    assert told in found["reason"]
    assert "SENTINEL" not in json.dumps(found)


def test_a_probe_without_time_says_so_while_it_can(account: Make, capsys: Capture) -> None:
    made = account()
    made.alias()
    made.history(("user", "2", "3"))
    made.version()
    made.image()
    found = probe(capsys, Context(milliseconds=1000))
    assert (found["RollbackUnavailable"], found["reason"]) == (1, "it failed: OutOfTimeError")
    assert made.functions.calls == []


# --- the rollback by alarm -----------------------------------------------------------------------


EVENT = json.loads((Path(__file__).parents[1] / "fixtures/alarm.json").read_text())  # of version 3
DRIFT = json.loads(json.dumps(EVENT).replace("impact", "drift-outputs"))
for query in DRIFT["detail"]["configuration"]["metrics"]:
    query.get("metricStat", {}).get("metric", {"dimensions": {}})["dimensions"].pop("version", None)


def on_alarm(
    made: Account, capsys: Capture, subject: str, *words: str, event: Any = EVENT
) -> dict[str, Any]:
    """Send it, and hear of it on the topic, in these words."""
    subject = f"diabetes-dev: {subject}"
    message = Matches(f"{event['detail']['alarmName']}:", *words)
    made.answer("sns", "publish", {}, TopicArn=TOPIC, Subject=subject, Message=message)
    capsys.readouterr()
    auto_rollback.on_alarm(event, LONG)
    return lines(capsys, "rollback")


def test_it_goes_back_proves_and_tells(account: Make, capsys: Capture) -> None:
    made = account(worker=True)
    made.alias()
    made.deployments()
    both_fit(made)
    made.moved(note=Matches(auto_rollback.NOTE, "from version 3 to 2"))
    made.alias("9", function=WORKER)
    made.moved("8", function=WORKER)
    pin = "-c pinned_version=2 -c pinned_worker_version=8"
    found = on_alarm(made, capsys, "rolled back", "move live from version 3 to 2", pin)
    assert found["alarm"] == "diabetes-dev-impact"
    assert pin in found["steps"][-1]


def test_the_same_again_and_one_that_is_late_change_nothing(account: Make, capsys: Capture) -> None:
    made = account()
    made.alias("2", note=f"{auto_rollback.NOTE} 2026-01-01T00:00:00+00:00, from version 3 to 2")
    on_alarm(made, capsys, "no rollback", "about version 3, and 2 is live")


@pytest.mark.parametrize(
    ("version", "subject", "words"),
    [("3", "rolled back", "from version 3 to 2"), ("2", "no rollback", "about version 2, and 3")],
)
def test_an_alarm_of_drift_is_about_the_monitors_last_version(
    account: Make, capsys: Capture, version: str, subject: str, words: str
) -> None:
    made = account()
    made.alias()
    lines = [
        {"message": "drift", "timestamp": 1, "version": "1"},
        {"message": "drift", "timestamp": 2, "version": version},
        {"message": "another", "timestamp": 3, "version": "9"},
    ]
    made.answer(
        "logs", "filter_log_events", {"events": [{"message": json.dumps(x)} for x in lines]}
    )
    if version == "3":
        made.deployments()
        made.history(("user", "2", "3"))
        made.version()
        made.image()
        made.moved(note=Matches(auto_rollback.NOTE))
    on_alarm(made, capsys, subject, words, event=DRIFT)


def test_once_and_then_it_is_a_person_s(account: Make, capsys: Capture) -> None:
    for hours, refused in ((23, True), (25, False)):
        made = account()
        then = (datetime.now(UTC) - timedelta(hours=hours)).isoformat(timespec="seconds")
        made.alias(note=f"{auto_rollback.NOTE} {then}, from version 2 to 1")
        made.deployments()
        if refused:
            found = on_alarm(made, capsys, "no rollback", "roll back by hand", then)
            assert len(found["steps"]) == 1
            continue
        made.history(("user", "2", "3"))
        made.version()
        made.image()
        made.moved(note=Matches(auto_rollback.NOTE))
        on_alarm(made, capsys, "rolled back")


@pytest.mark.parametrize("how", ["weights", "codedeploy"])
def test_it_leaves_a_deployment_alone(account: Make, capsys: Capture, how: str) -> None:
    made = account()
    made.alias(weights={"4": 0.1} if how == "weights" else None)
    if how == "codedeploy":
        made.deployments("d-1")
    on_alarm(made, capsys, "no rollback", "a deployment is under way")


def test_there_may_be_nowhere_to_go(account: Make, capsys: Capture) -> None:
    made = account()
    made.alias()
    made.deployments()
    made.history()
    made.versions("3")
    on_alarm(made, capsys, "no rollback", "nothing was live before version 3")


@pytest.mark.parametrize(("fault", "told"), UNFIT)
def test_it_does_not_go_to_a_version_that_would_not_do(
    account: Make, capsys: Capture, fault: Callable[[Account], None], told: str
) -> None:
    made = account()
    made.alias()
    made.deployments()
    made.history(("user", "2", "3"))
    fault(made)
    assert "SENTINEL" not in json.dumps(on_alarm(made, capsys, "no rollback", told))


def test_a_conflict_is_reported_and_not_overwritten(account: Make, capsys: Capture) -> None:
    made = account()
    made.alias()
    made.deployments()
    made.history(("user", "2", "3"))
    made.version()
    made.image()
    made.error("lambda", "update_alias", "PreconditionFailedException")
    on_alarm(made, capsys, "no rollback", "somebody else has moved live just now")


STRANGE: tuple[Any, ...] = (
    {},
    [],
    None,
    "x",
    {"detail": None},
    {"detail": []},
    {"detail": {"configuration": 3}},
)


@pytest.mark.parametrize("event", STRANGE, ids=str)
def test_a_strange_event_raises_nothing(account: Make, capsys: Capture, event: Any) -> None:
    made = account()
    made.answer("sns", "publish", {})
    auto_rollback.on_alarm(event, LONG)
    (step,) = lines(capsys, "rollback")["steps"]
    assert step.startswith("stopped: it failed: ")


def test_a_result_that_could_not_be_reported_is_an_error_of_the_function(
    account: Make, capsys: Capture
) -> None:
    """Lambda calls again, and the second time says that another version is live by now."""
    made = account()
    made.alias("2")
    made.error("sns", "publish", "Throttling")
    with pytest.raises(ClientError):
        auto_rollback.on_alarm(EVENT, LONG)
    assert "stopped" in lines(capsys, "rollback")["steps"][0]
