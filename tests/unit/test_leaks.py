"""Nothing that a client sends is in a log line, an error, a metric or a file, at any door."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handler import manifest, probes
from handler.corpus import JUNK, Case
from handler.probes import Version
from handler.scoring import Scorer
from tests import hostile, storage
from tests.artifact import ECHO_FEATURES
from tests.events import Context
from tests.released import FUNCTION, Lambda
from tests.storage import Memory
from tools import corpus, fronts

Descriptors = pytest.CaptureFixture[str]


def event(case: Case) -> dict[str, Any]:
    """A case's event, with the client's text in all else that a client writes."""
    headers = [
        *case.headers.items(),
        *((name, JUNK) for name in ("user-agent", "authorization", "cookie", "referer", JUNK)),
    ]
    call = fronts.Call(case.method, case.path, headers, case.body, f"{JUNK}={JUNK}", JUNK)
    return {**fronts.event("rest", call, "request"), **(case.event or {})}


def quiet(capfd: Descriptors) -> str:
    """All that was written to the descriptors, in which the client's text must not be."""
    written = "".join(capfd.readouterr())
    assert JUNK not in written
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
@pytest.mark.parametrize("kind", hostile.KINDS)
def test_the_whole_corpus_leaves_nothing_behind(
    kind: str,
    tmp_path: Path,
    watched: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Descriptors,
) -> None:
    directory, memory = hostile.directory(kind, tmp_path), Memory()
    api, worker = hostile.doors(directory, memory, monkeypatch)
    monkeypatch.chdir(watched)
    asked = 0
    for case in corpus.cases(manifest.read(directory), True):
        answer = api(event(case), Context())
        hostile.checked(answer)
        assert (answer["statusCode"] == 200) is (case.status == 200), case
        assert JUNK not in json.dumps(answer)
        asked += JUNK.encode() in case.body
        if case.path in ("/predict", "/jobs") and case.status in (400, 422):
            text = case.body.decode(errors="replace")
            worker(storage.event(storage.record(text, f"m{asked}")), Context())
    for path in (f"/{JUNK}", f"/v2/models/{JUNK}", f"/jobs/{JUNK}", f"/golden/{JUNK}"):
        for method in ("GET", "POST", JUNK):
            answer = api(event(Case("", path, b"", 404, method=method)), Context())
            assert JUNK not in json.dumps(answer)
    assert asked > 30
    written = quiet(capfd)
    assert "contract-violation" in written
    results = [body for key, (body, *_) in memory.objects.items() if key.endswith("result.json")]
    assert len(results) > 30
    assert not any(JUNK.encode() in body for body in results)
    assert list(watched.iterdir()) == []


def test_a_value_that_the_contract_takes_is_in_the_answer_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Descriptors
) -> None:
    api, worker = hostile.doors(hostile.directory("echo", tmp_path), Memory(), monkeypatch)
    row = {f["name"]: f["example"] for f in ECHO_FEATURES} | {"note/~": JUNK}
    body = json.dumps({"instances": [row]})
    answer = api(event(Case("", "/predict", body.encode(), 200)), Context())
    assert JUNK in answer["body"]
    worker(storage.event(storage.record(body, "m")), Context())
    assert '"Rows":1' in quiet(capfd)


def broken(*_: Any, **__: Any) -> Any:
    try:
        raise KeyError(JUNK)
    except KeyError as error:
        raise ValueError(f"{JUNK} is in the text of an error") from error


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "scoring": lambda patch: patch.setattr(Scorer, "_run", broken),
    "reading": lambda patch: patch.setattr("handler.wire.body", broken),
    "answering": lambda patch: patch.setattr("handler.lineage.attach", broken),
    "ranking": lambda patch: patch.setattr("handler.ranks.Ranker.rank", broken),
    "session": lambda patch: patch.setattr(
        "onnxruntime.InferenceSession.run", broken, raising=True
    ),
}


@pytest.mark.fault(
    "an unexpected exception whose message quotes the client, anywhere in a request",
    "500 without its text (a job comes again); the log has its type and place alone",
)
@pytest.mark.parametrize("fault", FAULTS)
def test_an_unexpected_error_is_told_without_its_text(
    fault: str, monkeypatch: pytest.MonkeyPatch, capfd: Descriptors
) -> None:
    directory, memory = hostile.directory("shipped", Path()), Memory()
    api, worker = hostile.doors(directory, memory, monkeypatch)
    FAULTS[fault](monkeypatch)
    failed = 0
    for case in corpus.cases(manifest.read(directory), True):
        if case.kind == "good":
            answer = api(event(case), Context())
            hostile.checked(answer)
            assert JUNK not in json.dumps(answer)
            failed += answer["statusCode"] == 500
            if case.path == "/predict" and "content-encoding" not in case.headers:
                record = storage.record(case.body.decode(), "m")
                answered = worker(storage.event(record), Context())
                returned = answered["batchItemFailures"]
                assert bool(returned) is (fault in ("scoring", "answering", "session"))
    assert failed or fault == "ranking"
    written = quiet(capfd)
    told = {"session": "the model failed", "ranking": '"unranked":"ValueError"'}
    assert told.get(fault, "test_leaks.py") in written or fault == "session"


@pytest.mark.fault(
    "a version that answers the release gate with the client's or anybody's text",
    "the gate's reasons and log are words of its own",
)
def test_the_release_gate_does_not_repeat_what_a_version_says() -> None:
    found = manifest.read(hostile.directory("shipped", Path()))

    def quoting(event: Any, context: Any) -> Any:
        body = json.dumps({"error": JUNK, "detail": JUNK, "type": JUNK, "errors": [{JUNK: JUNK}]})
        return {"statusCode": 422, "body": body}

    for answer in (quoting, broken):
        version = Version(Lambda({"1": answer}), f"{FUNCTION}:1")
        outcome = probes.refusals(version, found)
        assert len(outcome.reasons) == probes.ENOUGH
        assert JUNK not in "".join(outcome.reasons)
        assert probes.replay(version, found, 1000).reasons
