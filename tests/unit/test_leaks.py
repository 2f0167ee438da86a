"""Nothing that a client sends is in a log line, an error, a metric or a file, at any door."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from answerable import contract_cases
from answerable.contract_cases import Case
from answerable.local import event_sources
from answerable.packing.feature_types import CLIENT_TEXT
from handler import manifest
from handler.release import version_client
from handler.release.version_client import VersionClient
from handler.scoring import Scorer
from tests.fixtures import adversarial, memory_store
from tests.fixtures.artifact import ECHO_FEATURES
from tests.fixtures.events import Context
from tests.fixtures.memory_store import Memory
from tests.fixtures.release import FUNCTION, Lambda

Descriptors = pytest.CaptureFixture[str]


def event(case: Case) -> dict[str, Any]:
    """A case's event, with the client's text in all else that a client writes."""
    headers = [
        *case.headers.items(),
        *(
            (name, CLIENT_TEXT)
            for name in ("user-agent", "authorization", "cookie", "referer", CLIENT_TEXT)
        ),
    ]
    call = event_sources.HttpRequest(
        case.method, case.path, headers, case.body, f"{CLIENT_TEXT}={CLIENT_TEXT}", CLIENT_TEXT
    )
    return {**event_sources.make_event("rest", call, "request"), **(case.event or {})}


def quiet(capfd: Descriptors) -> str:
    """All that was written to the descriptors, in which the client's text must not be."""
    written = "".join(capfd.readouterr())
    assert CLIENT_TEXT not in written
    return written


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files would be, if any were written."""
    folder = tmp_path / "watched"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in ("TMPDIR", "HOME"):
        monkeypatch.setenv(name, str(folder))
    return folder


@pytest.mark.fault(
    "a client's text in fields, keys, headers, path and query, whatever else is wrong",
    "it is in no log line, error, metric or file",
)
@pytest.mark.parametrize("kind", adversarial.KINDS)
def test_the_whole_corpus_leaves_nothing_behind(
    kind: str,
    tmp_path: Path,
    watched: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Descriptors,
) -> None:
    directory, memory = adversarial.directory(kind, tmp_path), Memory()
    api, worker = adversarial.handlers(directory, memory, monkeypatch)
    monkeypatch.chdir(watched)
    asked = 0
    for case in contract_cases.cases(manifest.read(directory), True):
        answer = api(event(case), Context())
        adversarial.checked(answer)
        assert (answer["statusCode"] == 200) is (case.status == 200), case
        assert CLIENT_TEXT not in json.dumps(answer)
        asked += CLIENT_TEXT.encode() in case.body
        if case.path in ("/predict", "/jobs") and case.status in (400, 422):
            text = case.body.decode(errors="replace")
            worker(memory_store.event(memory_store.record(text, f"m{asked}")), Context())
    for path in (
        f"/{CLIENT_TEXT}",
        f"/v2/models/{CLIENT_TEXT}",
        f"/jobs/{CLIENT_TEXT}",
        f"/golden/{CLIENT_TEXT}",
    ):
        for method in ("GET", "POST", CLIENT_TEXT):
            answer = api(event(Case("", path, b"", 404, method=method)), Context())
            assert CLIENT_TEXT not in json.dumps(answer)
    assert asked > 30
    written = quiet(capfd)
    assert "contract-violation" in written
    results = [body for key, (body, *_) in memory.objects.items() if key.endswith("result.json")]
    assert len(results) > 30
    assert not any(CLIENT_TEXT.encode() in body for body in results)
    assert list(watched.iterdir()) == []


def test_a_value_that_the_contract_takes_is_in_the_answer_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Descriptors
) -> None:
    api, worker = adversarial.handlers(
        adversarial.directory("echo", tmp_path), Memory(), monkeypatch
    )
    row = {f["name"]: f["example"] for f in ECHO_FEATURES} | {"note/~": CLIENT_TEXT}
    body = json.dumps({"instances": [row]})
    answer = api(event(Case("", "/predict", body.encode(), 200)), Context())
    assert CLIENT_TEXT in answer["body"]
    worker(memory_store.event(memory_store.record(body, "m")), Context())
    assert '"Rows":1' in quiet(capfd)


def broken(*_: Any, **__: Any) -> Any:
    try:
        raise KeyError(CLIENT_TEXT)
    except KeyError as error:
        raise ValueError(f"{CLIENT_TEXT} is in the text of an error") from error


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "scoring": lambda patch: patch.setattr(Scorer, "_run", broken),
    "reading": lambda patch: patch.setattr("handler.http_body.read", broken),
    "answering": lambda patch: patch.setattr(
        "handler.render.ResponseRenderer.render_predictions", broken
    ),
    "binning": lambda patch: patch.setattr("handler.drift.bins.Binner.bin", broken),
    "session": lambda patch: patch.setattr(
        "onnxruntime.InferenceSession.run", broken, raising=True
    ),
}


@pytest.mark.fault(
    "an unexpected exception whose message quotes the client, anywhere in a request",
    "500 without its text (a job comes again); the log has its type and place alone",
)
@pytest.mark.parametrize("fault", FAULTS)
def test_an_unexpected_error_is_reported_without_its_text(
    fault: str, monkeypatch: pytest.MonkeyPatch, capfd: Descriptors
) -> None:
    directory, memory = adversarial.directory("shipped", Path()), Memory()
    api, worker = adversarial.handlers(directory, memory, monkeypatch)
    FAULTS[fault](monkeypatch)
    failed = 0
    for case in contract_cases.cases(manifest.read(directory), True):
        if case.kind == contract_cases.ACCEPTED:
            answer = api(event(case), Context())
            adversarial.checked(answer)
            assert CLIENT_TEXT not in json.dumps(answer)
            failed += answer["statusCode"] == 500
            if case.path == "/predict" and "content-encoding" not in case.headers:
                record = memory_store.record(case.body.decode(), "m")
                answered = worker(memory_store.event(record), Context())
                returned = answered["batchItemFailures"]
                assert bool(returned) is (fault in ("scoring", "answering", "session"))
    assert failed or fault == "binning"
    written = quiet(capfd)
    told = {"session": "the model failed", "binning": '"drift_error":"ValueError"'}
    assert told.get(fault, "test_leaks.py") in written or fault == "session"


@pytest.mark.fault(
    "a version that answers the release gate with the client's or anybody's text",
    "the gate's reasons and log are words of its own",
)
def test_the_release_gate_does_not_repeat_what_a_version_says() -> None:
    found = manifest.read(adversarial.directory("shipped", Path()))

    def quoting(event: Any, context: Any) -> Any:
        body = json.dumps(
            {
                "error": CLIENT_TEXT,
                "detail": CLIENT_TEXT,
                "type": CLIENT_TEXT,
                "errors": [{CLIENT_TEXT: CLIENT_TEXT}],
            }
        )
        return {"statusCode": 422, "body": body}

    for answer in (quoting, broken):
        version = VersionClient(Lambda({"1": answer}), f"{FUNCTION}:1")
        outcome = version_client.check_refusals(version, found, {"x": CLIENT_TEXT})
        assert len(outcome.reasons) == version_client.MAX_REASONS
        assert CLIENT_TEXT not in "".join(outcome.reasons)
        assert version_client.check_golden_rows(version, found, 1000).reasons
