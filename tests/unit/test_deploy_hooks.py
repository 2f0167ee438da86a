"""The hooks as CodeDeploy calls them: what they ask, what they answer, and that they answer."""

import itertools
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from handler import manifest as manifests
from handler.release import deploy_hooks, golden
from handler.release.deploy_hooks import after_traffic, before_traffic
from handler.release.version_client import OutOfTimeError
from tests.fixtures import release
from tests.fixtures.events import Context
from tests.fixtures.release import EVENT, FUNCTION, SHIPPED, Lambda

LONG = Context(milliseconds=300_000)
Capture = pytest.CaptureFixture[str]
Hooks = Callable[..., "Hook"]


class Hook:
    """The services of one test, and what CodeDeploy heard."""

    def __init__(self, functions: Lambda, served: int = 0, revision: str = "") -> None:
        self.functions = functions
        self.heard: list[str] = []
        codedeploy = boto3.client(
            "codedeploy", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b"
        )
        self.codedeploy = Stubber(codedeploy)
        self.clients = {"codedeploy": codedeploy, "lambda": functions, "cloudwatch": self}
        self.served = served
        self.asked_for: dict[str, Any] = {}
        self.revision = revision
        self.creator = "user"
        self.codedeploy.activate()

    def expect(self, status: str, deployment: bool = True) -> None:
        if deployment:
            self.deployment()
        call = {
            "deploymentId": "d-1",
            "lifecycleEventHookExecutionId": "e-1",
            "status": status,
        }
        self.codedeploy.add_response("put_lifecycle_event_hook_execution_status", {}, call)

    def deployment(self) -> None:
        info = {
            "creator": self.creator,
            "startTime": datetime(2026, 1, 1, tzinfo=UTC),
            "revision": {"revisionType": "String", "string": {"content": self.revision}},
        }
        answer = {"deploymentInfo": info}
        self.codedeploy.add_response("get_deployment", answer, {"deploymentId": "d-1"})

    # cloudwatch, in two pages
    def get_paginator(self, name: str) -> "Hook":
        assert name == "get_metric_data"
        return self

    def paginate(self, **asked_for: Any) -> list[Any]:
        self.asked_for = asked_for
        return [{"MetricDataResults": [{"Values": [self.served - 1]}]},
                {"MetricDataResults": [{"Values": [1.0]}]}]  # fmt: skip


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Hooks:
    """Version 2 is being released over version 1."""
    environment = {
        "MODEL_DIR": str(SHIPPED),
        "VERSION_ARN": f"{FUNCTION}:2",
        "SERVICE_NAME": "diabetes-dev",
        "LOW_TRAFFIC_POLICY": "replay_golden_rows",
        "MINIMUM_REQUESTS": "20",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def make(versions: dict[str, Any], **more: Any) -> Hook:
        made = Hook(Lambda(versions), **more)
        monkeypatch.setattr(deploy_hooks, "client", made.clients.__getitem__)
        return made

    return make


def record(capsys: Capture) -> dict[str, Any]:
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (found,) = [line for line in lines if line["message"] == "deploy hook"]
    return dict(found)


def run(
    hook: Hook, capsys: Capture, status: str, entry: Any = before_traffic, context: Any = LONG
) -> dict[str, Any]:
    """Run a hook that must call back with `status`; give its record."""
    hook.expect(status)
    entry(EVENT, context)
    hook.codedeploy.assert_no_pending_responses()
    found = record(capsys)
    assert found["verdict"] == status
    assert (found["deployment"], found["version"]) == ("d-1", f"{FUNCTION}:2")
    assert bool(found["reasons"]) == (status == "Failed")
    return found


# --- before traffic ----------------------------------------------------------------------------


def test_a_good_version_passes(hook: Hooks, capsys: Capture) -> None:
    made = hook({"1": SHIPPED, "2": SHIPPED})
    found = run(made, capsys, "Succeeded")
    assert found["golden"] == 29
    assert found["bad"] >= 8
    assert found["live"] == "1.0.0"
    assert made.functions.calls[0] == ("2", "GET /model")
    assert made.functions.calls[-1] == ("live", "GET /model")
    # clients' functions are asked for nothing else: they are answering clients
    assert [path for qualifier, path in made.functions.calls if qualifier == "live"] == [
        "GET /model"
    ]


@pytest.mark.fault(
    "A new version answers a golden row otherwise",
    "The deployment fails before it has any traffic",
)
def test_a_wrong_golden_answer_fails(hook: Hooks, capsys: Capture) -> None:
    good = Lambda({"2": SHIPPED}).handlers["2"]

    def wrong(event: Any, context: Any) -> Any:
        answer = good(event, context)
        if event["path"] != "/predict":
            return answer
        return {**answer, "body": answer["body"].replace('"progression":', '"progression":1')}

    found = run(hook({"1": SHIPPED, "2": wrong}), capsys, "Failed")
    assert "row 1 of the sample" in found["reasons"][0]


def test_another_model_than_the_image_s_fails(hook: Hooks, capsys: Capture, tmp_path: Path) -> None:
    other = release.artifact(tmp_path / "other", version="1.0.1")
    found = run(hook({"1": SHIPPED, "2": other}), capsys, "Failed")
    assert found["reasons"] == ["diabetes 1.0.1 answers, or other files of it"]


@pytest.mark.fault(
    "A version's golden rows are damaged",
    "The deployment fails",
)
@pytest.mark.parametrize("entry", [before_traffic, after_traffic])
def test_damaged_golden_rows_fail(hook: Hooks, capsys: Capture, tmp_path: Path, entry: Any) -> None:
    damaged = release.artifact(tmp_path / "damaged")
    path = damaged / "golden.jsonl"
    path.write_bytes(path.read_bytes().replace(b"row 1", b"row 2"))
    found = run(hook({"1": SHIPPED, "2": damaged}), capsys, "Failed", entry)
    assert "golden.jsonl: its SHA-256 differs from the manifest" in found["reasons"][0]


@pytest.mark.parametrize("entry", [before_traffic, after_traffic])
def test_a_cold_version_is_not_blamed_for_its_first_answer(
    hook: Hooks, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: Any
) -> None:
    """Only the call to /model, which warms it, may take longer than the budget."""
    tight = release.artifact(tmp_path / "tight", alarms={"latency_ms": 300.0})
    monkeypatch.setenv("MODEL_DIR", str(tight))
    good = Lambda({"2": tight}).handlers["2"]
    calls: list[str] = []

    def cold(event: Any, context: Any) -> Any:
        if not calls:
            time.sleep(0.4)
        calls.append(event["path"])
        return good(event, context)

    found = run(hook({"1": tight, "2": cold}), capsys, "Succeeded", entry)
    assert found["slowest_ms"] < 300
    assert calls[0] == "/model"


@pytest.mark.fault(
    "A new version is slow, twice",
    "The deployment fails",
)
def test_a_slow_version_fails(
    hook: Hooks, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = release.artifact(tmp_path / "slow", alarms={"latency_ms": 0.001})
    monkeypatch.setenv("MODEL_DIR", str(slow))
    found = run(hook({"1": slow, "2": slow}), capsys, "Failed")
    assert "ms twice, allowed 0.001" in found["reasons"][0]


def test_a_broken_contract_fails_and_a_declared_break_passes(
    hook: Hooks, capsys: Capture, tmp_path: Path
) -> None:
    def wider(fields: dict[str, Any]) -> None:
        fields["features"][0]["maximum"] = 130

    live = release.artifact(tmp_path / "live", wider, version="0.9.0")
    found = run(hook({"1": live, "2": SHIPPED}), capsys, "Succeeded")
    assert found["live"] == "0.9.0"
    live = release.artifact(tmp_path / "same-major", wider, version="1.0.0-rc.1")
    run(hook({"1": live, "2": SHIPPED}), capsys, "Succeeded")
    live = release.artifact(tmp_path / "patch", wider, version="1.0.0")
    found = run(hook({"1": live, "2": SHIPPED}), capsys, "Failed")
    assert found["reasons"] == ["1.0.0 is there already, with other content"]


def test_a_step_back_is_judged_as_the_step_it_undoes(
    hook: Hooks, capsys: Capture, tmp_path: Path
) -> None:
    def wider(fields: dict[str, Any]) -> None:
        fields["features"][0]["maximum"] = 130

    live = release.artifact(tmp_path / "minor", wider, version="1.1.0")
    run(hook({"1": live, "2": SHIPPED}), capsys, "Succeeded")
    live = release.artifact(tmp_path / "patch", wider, version="1.0.1")
    found = run(hook({"1": live, "2": SHIPPED}), capsys, "Failed")
    assert found["reasons"][0] == "age: maximum 120 -> 130"


def crash(event: Any, context: Any) -> Any:
    raise RuntimeError("SENTINEL")


@pytest.mark.fault(
    "The live version is broken",
    "Its cure is judged by itself and let in",
)
def test_a_broken_live_version_does_not_keep_its_cure_out(hook: Hooks, capsys: Capture) -> None:
    found = run(hook({"1": crash, "2": SHIPPED}), capsys, "Succeeded")
    assert "not answering" in found["live"]
    unreadable = {"statusCode": 200, "body": '{"format": 7}'}
    run(hook({"1": lambda *_: unreadable, "2": SHIPPED}), capsys, "Succeeded")


@pytest.mark.fault(
    "A new version crashes",
    "The deployment fails; nothing of the crash's text is logged",
)
@pytest.mark.parametrize("entry", [before_traffic, after_traffic])
def test_a_crashing_version_fails_and_nothing_of_its_message_is_logged(
    hook: Hooks, capsys: Capture, entry: Any
) -> None:
    found = run(hook({"1": SHIPPED, "2": crash}), capsys, "Failed", entry)
    assert found["reasons"] == ["GET /model: crashed or timed out"]
    assert "SENTINEL" not in json.dumps(found)


# --- it always calls back ------------------------------------------------------------------------


@pytest.mark.fault(
    "The hook itself fails",
    "It tells CodeDeploy Failed, rather than let it wait for an hour",
)
@pytest.mark.parametrize("entry", [before_traffic, after_traffic])
def test_a_hook_that_fails_says_failed(hook: Hooks, capsys: Capture, entry: Any) -> None:
    made = hook({"1": SHIPPED, "2": SHIPPED})

    def denied(**_: Any) -> Any:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "SENTINEL"}}, "Invoke")

    made.functions.invoke = denied  # type: ignore[method-assign,assignment]
    found = run(made, capsys, "Failed", entry)
    assert found["reasons"] == ["the hook failed: ClientError AccessDenied"]
    assert any("version_client.py" in place for place in found["trace"])
    assert "SENTINEL" not in json.dumps(found)


def test_an_image_without_a_manifest_says_failed(
    hook: Hooks, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    found = run(hook({"1": SHIPPED, "2": SHIPPED}), capsys, "Failed")
    assert found["reasons"] == ["the hook failed: ArtifactError"]


def test_a_missing_setting_says_failed(
    hook: Hooks, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = hook({"1": SHIPPED, "2": SHIPPED})
    made.expect("Failed", deployment=False)
    monkeypatch.delenv("VERSION_ARN")
    before_traffic(EVENT, LONG)
    made.codedeploy.assert_no_pending_responses()


@pytest.mark.fault(
    "A hook runs out of time",
    "It says Failed while it still can",
)
@pytest.mark.parametrize("entry", [before_traffic, after_traffic])
def test_no_time_left_says_failed_while_there_is_time_to_say_so(
    hook: Hooks, capsys: Capture, entry: Any
) -> None:
    class Running(Context):
        def get_remaining_time_in_millis(self) -> int:  # type: ignore[override]
            self.milliseconds -= 10_000
            return self.milliseconds

    context = Running(200_000)
    found = run(hook({"1": SHIPPED, "2": SHIPPED}), capsys, "Failed", entry, context)
    assert found["reasons"] == ["the hook's own time was nearly used up"]
    assert context.milliseconds / 1e3 > 2 * deploy_hooks.READ_SECONDS
    assert issubclass(OutOfTimeError, Exception)


@pytest.mark.fault(
    "CodeDeploy cannot be told",
    "The hook raises, so that Lambda calls it again",
)
@pytest.mark.parametrize("entry", [before_traffic, after_traffic])
def test_a_call_back_that_fails_is_raised_so_that_lambda_calls_again(
    hook: Hooks, capsys: Capture, entry: Any
) -> None:
    made = hook({"1": SHIPPED, "2": SHIPPED}, served=20)
    made.deployment()
    made.codedeploy.add_client_error("put_lifecycle_event_hook_execution_status", "Throttling")
    with pytest.raises(ClientError):
        entry(EVENT, LONG)
    found = record(capsys)
    assert (found["callback"], found["level"]) == ("ClientError", "ERROR")


def test_a_call_back_that_did_arrive_is_not_an_error(hook: Hooks, capsys: Capture) -> None:
    made = hook({"1": SHIPPED, "2": SHIPPED})
    made.deployment()
    made.codedeploy.add_client_error(
        "put_lifecycle_event_hook_execution_status", "LifecycleEventAlreadyCompletedException"
    )
    before_traffic(EVENT, LONG)
    assert "callback" not in record(capsys)


@pytest.mark.parametrize("event", [None, [], "x", {}, {"DeploymentId": None}], ids=str)
@pytest.mark.parametrize("entry", [before_traffic, after_traffic])
def test_a_strange_event_is_a_failure_in_the_log(
    hook: Hooks, capsys: Capture, event: Any, entry: Any
) -> None:
    """Nobody can be answered where the event does not say whom."""
    hook({"1": SHIPPED, "2": SHIPPED})
    entry(event, LONG)
    assert record(capsys)["verdict"] == "Failed"


@pytest.mark.parametrize("entry", [before_traffic, after_traffic])
def test_codedeploy_s_own_rollback_is_not_prevented(
    hook: Hooks, capsys: Capture, entry: Any
) -> None:
    made = hook({"1": SHIPPED, "2": lambda *_: 1 / 0})
    made.creator = "codeDeployRollback"
    assert run(made, capsys, "Succeeded", entry)["rollback"] is True
    assert made.functions.calls == []


@pytest.mark.parametrize("entry", [before_traffic, after_traffic])
def test_an_image_of_another_model_than_the_template_s_fails(
    hook: Hooks, capsys: Capture, entry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_SHA256", manifests.read(SHIPPED).files["model.onnx"].sha256)
    run(hook({"1": SHIPPED, "2": SHIPPED}), capsys, "Succeeded", entry)
    monkeypatch.setenv("MODEL_SHA256", "0" * 64)
    found = run(hook({"1": SHIPPED, "2": SHIPPED}), capsys, "Failed", entry)
    assert found["reasons"] == ["the image has another model than the manifest of the template"]


# --- after traffic -------------------------------------------------------------------------------

REVISION = json.dumps({"Resources": [{"f": {"Properties": {"CurrentVersion": "1"}}}]})


def test_enough_requests_are_enough(hook: Hooks, capsys: Capture) -> None:
    made = hook({"2": crash}, served=20)  # its alarms have judged it; nothing is asked of it
    found = run(made, capsys, "Succeeded", after_traffic)
    assert (found["served"], found["minimum"]) == (20, 20)
    assert made.functions.calls == []
    (query,) = made.asked_for["MetricDataQueries"]
    metric = query["MetricStat"]["Metric"]
    assert (metric["Namespace"], metric["MetricName"]) == ("Answerable", "Requests")
    assert {d["Name"]: d["Value"] for d in metric["Dimensions"]} == {
        "service": "diabetes-dev",
        "version": "2",
    }
    assert made.asked_for["StartTime"] == datetime(2026, 1, 1, tzinfo=UTC)


def test_too_few_fail_where_only_traffic_counts(
    hook: Hooks, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOW_TRAFFIC_POLICY", "fail")
    found = run(hook({"2": SHIPPED}, served=19), capsys, "Failed", after_traffic)
    assert found["reasons"] == ["it served 19 requests; 20 are needed to judge it"]


def test_too_few_are_made_up_for_by_a_replay(hook: Hooks, capsys: Capture) -> None:
    made = hook({"1": SHIPPED, "2": SHIPPED}, served=3, revision=REVISION)
    found = run(made, capsys, "Succeeded", after_traffic)
    assert found["golden"] == 29
    assert found["replayed"] == {"golden rows": {"compared": 29, "differing": 0, "largest": 0.0}}
    assert {qualifier for qualifier, _ in made.functions.calls} == {"1", "2"}


def test_the_same_model_must_answer_as_before(hook: Hooks, capsys: Capture) -> None:
    good = Lambda({"1": SHIPPED}).handlers["1"]

    def old(event: Any, context: Any) -> Any:
        answer = good(event, context)
        if event["path"] != "/predict":
            return answer
        return {**answer, "body": '{"predictions":[{"progression":1.0,"id":"x"}]}'}

    made = hook({"1": old, "2": SHIPPED}, revision=REVISION)
    found = run(made, capsys, "Failed", after_traffic)
    assert found["reasons"] == ["the same model answers 29 of 29 golden rows otherwise"]
    assert found["replayed"]["golden rows"]["largest"] > 0.9


def test_another_model_may_answer_otherwise(hook: Hooks, capsys: Capture, tmp_path: Path) -> None:
    def other(fields: dict[str, Any]) -> None:
        fields["version"] = "0.9.0"
        fields["files"]["model.onnx"]["sha256"] = "0" * 64

    shown = json.loads((release.artifact(tmp_path / "old", other) / "manifest.json").read_text())
    del shown["baseline"]

    def old(event: Any, context: Any) -> Any:
        body = '{"predictions":[{"progression":1.0}]}'
        return {"statusCode": 200, "body": json.dumps(shown) if "model" in event["path"] else body}

    made = hook({"1": old, "2": SHIPPED}, revision=REVISION)
    found = run(made, capsys, "Succeeded", after_traffic)
    assert (found["replayed"]["golden rows"]["differing"], found["old"]) == (29, "1")


@pytest.mark.parametrize(
    ("old", "revision", "told"),
    [(crash, REVISION, "not answering"), (SHIPPED, "{}", "does not name it")],
)
def test_without_an_old_version_the_golden_rows_decide(
    hook: Hooks, capsys: Capture, old: Any, revision: str, told: str
) -> None:
    found = run(
        hook({"1": old, "2": SHIPPED}, revision=revision), capsys, "Succeeded", after_traffic
    )
    assert told in found["old"]


@pytest.mark.fault(
    "A bad version has had too little traffic to be judged",
    "The golden rows are asked again, and send it back",
)
class Logs:
    """What a version recorded: pages of log events."""

    def __init__(self, *pages: list[Any]) -> None:
        self.pages = [
            {"events": [{"message": json.dumps({"instances": rows})} for rows in page]}
            for page in pages
        ]
        self.asked_for: dict[str, Any] = {}

    def get_paginator(self, name: str) -> "Logs":
        assert name == "filter_log_events"
        return self

    def paginate(self, **asked_for: Any) -> list[Any]:
        self.asked_for = asked_for
        return self.pages


BMIS = [20.125 + i for i in range(60)]
SENT = [golden.read(SHIPPED)[0].instance | {"bmi": bmi} for bmi in BMIS]


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Logs:
    monkeypatch.setenv("PAYLOAD_LOG_GROUP", "group")
    return Logs([], [SENT[:40]], [SENT[40:50], SENT[50:]])


def test_what_clients_sent_is_asked_of_both(hook: Hooks, logs: Logs, capsys: Capture) -> None:
    made = hook({"1": SHIPPED, "2": SHIPPED}, served=3, revision=REVISION)
    made.clients["logs"] = logs
    made.expect("Succeeded", deployment=True)
    after_traffic(EVENT, LONG)
    out = capsys.readouterr().out
    (found,) = [line for line in map(json.loads, out.splitlines()) if "verdict" in line]
    told = {"compared": deploy_hooks.MAX_LOGGED_INSTANCES, "differing": 0, "largest": 0.0}
    assert found["replayed"]["logged instances"] == told
    asked = logs.asked_for
    assert asked["logGroupName"] == "group"
    assert time.time() - asked["startTime"] / 1e3 == pytest.approx(7 * 86400, abs=3600)
    assert '"1"' in asked["filterPattern"]
    # the last ones, marked as nobody's requests, and no value of theirs is kept
    assert all("_aws" not in line for line in map(json.loads, out.splitlines()))
    assert not [bmi for bmi in BMIS if str(bmi) in out]


def test_a_captured_instance_that_is_answered_otherwise_speaks_against_the_same_model(
    hook: Hooks, logs: Logs, capsys: Capture
) -> None:
    good = Lambda({"2": SHIPPED}).handlers["2"]

    def worse(event: Any, context: Any) -> Any:
        answer = good(event, context)
        if str(BMIS[-1]) not in (event["body"] or ""):
            return answer
        return {**answer, "body": answer["body"].replace('"progression":', '"progression":1')}

    made = hook({"1": SHIPPED, "2": worse}, revision=REVISION)
    made.clients["logs"] = logs
    found = run(made, capsys, "Failed", after_traffic)
    assert found["reasons"] == ["the same model answers 1 of 50 logged instances otherwise"]


def test_logs_without_end_are_not_read_to_the_end() -> None:
    class Endless(Logs):
        def paginate(self, **asked_for: Any) -> Any:
            return itertools.repeat(self.pages[1])

    assert deploy_hooks.logged_instances(Endless([], [SENT[:1]]), "group", "1") == SENT[:1] * 20


def test_the_clients_give_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "eu-west-1")
    config = deploy_hooks.client("lambda").meta.config
    spent = config.retries["total_max_attempts"] * (config.connect_timeout + config.read_timeout)
    assert spent < deploy_hooks.RESERVE_SECONDS
