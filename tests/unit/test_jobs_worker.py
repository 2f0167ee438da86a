import contextlib
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from botocore.exceptions import ReadTimeoutError
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from onnx import helper

from handler import prediction_id
from handler.errors import BadOutput, NotFound, ServerError
from handler.jobs import storage, worker
from handler.scoring import Scorer
from handler.settings import Settings
from tests.fixtures import artifact, memory_store
from tests.fixtures.artifact import ECHO_FEATURES, FLOAT
from tests.fixtures.events import Context
from tests.fixtures.memory_store import Memory, event, record

ROOT = Path(__file__).parents[2]
ROW = {feature["name"]: feature["example"] for feature in ECHO_FEATURES}
Capture = pytest.CaptureFixture[str]
Handle = Callable[[Any, Any], Any]


def body(*counts: int) -> str:
    """A request of one row per count, by which its answer is known."""
    return json.dumps({"instances": [{**ROW, "count": count} for count in counts]})


def made(directory: Path, client: Any, **config: Any) -> Handle:
    return worker.create(Settings(directory, **config), memory_store.store(client))


def returned(answer: Any) -> list[str]:
    assert set(answer) == {"batchItemFailures"}
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


def result(client: Any, id: str) -> Any:
    return json.loads(client.objects[f"jobs/{id}/result.json"][0])


def counts(client: Any, id: str) -> list[int]:
    return [prediction["count"] for prediction in result(client, id)["result"]["predictions"]]


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def handle(echo_dir: Path, memory: Memory) -> Handle:
    return made(echo_dir, memory)


def test_claim_checks_and_producers_own_messages_are_scored(
    handle: Handle, memory: Memory, echo: Scorer
) -> None:
    ticket = storage.submit(memory_store.store(memory), body(7, 8).encode(), caller="me")
    answer = handle(event(record(memory.sent[0], "m1"), record(body(9), "m2")), Context())
    assert answer == {"batchItemFailures": []}
    assert counts(memory, ticket.id) == [7, 8]
    assert counts(memory, "m2") == [9]
    job_document, finished = storage.get_job(memory_store.store(memory), ticket.id, "me")
    assert finished
    queued, done = json.loads(ticket.document)["job"], json.loads(job_document)["job"]
    assert done == {**queued, "status": "succeeded"}
    document = result(memory, "m2")["result"]
    read = prediction_id.parse(document["predictions"][0].pop("id"), prediction_id.signer(""))
    assert (read.row, read.version) == (0, "1.2.3")
    assert document == json.loads(echo.renderer.render_response(echo.predict(body(9))))


def test_the_result_stays_its_callers(handle: Handle, memory: Memory) -> None:
    ticket = storage.submit(memory_store.store(memory), body(1).encode(), caller="me")
    handle(event(record(memory.sent[0], "m1")), Context())
    with pytest.raises(NotFound):
        storage.get_job(memory_store.store(memory), ticket.id, "you")


def test_a_batch_is_one_run(
    handle: Handle, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    score_columns = Scorer.score_columns

    def counted(self: Scorer, columns: Any, deadline: float | None = None) -> Any:
        runs.append(len(columns[0]))
        return score_columns(self, columns, deadline)

    monkeypatch.setattr(Scorer, "score_columns", counted)
    handle(
        event(record(body(0), "warm"), *(record(body(i), f"a{i}") for i in range(20))), Context()
    )
    assert runs == [1, 20]  # the first of all shows the pace
    handle(event(*(record(body(i, i), f"b{i}") for i in range(600))), Context())
    assert runs[2:] == [1000, 200]  # the contract's limit of rows
    assert all(counts(memory, f"b{i}") == [i, i] for i in range(600))


def test_runs_are_split_by_the_time_that_is_left(echo_dir: Path, memory: Memory) -> None:
    slow = Scorer.score_columns
    runs: list[int] = []

    def sleeping(self: Scorer, columns: Any, deadline: float | None = None) -> Any:
        runs.append(len(columns[0]))
        time.sleep(0.01 * len(columns[0]))
        return slow(self, columns, deadline)

    handle = made(echo_dir, memory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scorer, "score_columns", sleeping)
        sent = [record(body(i), f"m{i}") for i in range(100)]
        answer = handle(event(*sent), Context(milliseconds=1500))
    assert runs[0] == 1
    assert 5 < max(runs) < 40  # a quarter of about a second, by ten milliseconds each
    done = {key.split("/")[1] for key in memory.objects}
    assert done | set(returned(answer)) == {f"m{i}" for i in range(100)}
    assert not done & set(returned(answer))


@pytest.mark.fault(
    "A batch comes with hardly any time left",
    "Nothing is begun; every message goes back to the queue",
)
def test_near_the_deadline_nothing_is_begun(handle: Handle, memory: Memory) -> None:
    ids = [f"m{i}" for i in range(3)]
    answer = handle(event(*(record(body(1), id) for id in ids)), Context(milliseconds=0))
    assert returned(answer) == ids
    assert not memory.written


# What is whose fault


@pytest.mark.fault(
    "A queue's message breaks the contract",
    "It would again, so it is a failed result and done; the others are scored",
)
@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        ("", "malformed-body"),
        ("{", "malformed-body"),
        ("null", "contract-violation"),
        ('{"job":7}', "contract-violation"),
        ('{"job":"a/../b"}', "contract-violation"),
        ('{"instances":[]}', "contract-violation"),
        (body(-6), "contract-violation"),
        (body(1)[:-1] + ',"job":"x"}', "contract-violation"),
        (" " * 1_000_001, "payload-too-large"),
    ],
)
def test_a_message_that_breaks_the_contract_is_a_failed_result(
    handle: Handle, memory: Memory, capsys: Capture, sent: str, kind: str
) -> None:
    answer = handle(event(record(sent, "bad"), record(body(1), "good")), Context())
    assert answer == {"batchItemFailures": []}
    document = result(memory, "bad")
    assert document["job"]["status"] == "failed"
    assert document["problem"]["type"] == f"urn:answerable:problem:{kind}"
    assert document["problem"]["instance"] == "bad"
    assert memory.objects["jobs/bad/result.json"][1]["status"] == "failed"
    assert counts(memory, "good") == [1]
    *lines, batch = map(json.loads, capsys.readouterr().out.splitlines())
    assert {line["job"]: line.get("problem") for line in lines} == {"bad": kind, "good": None}
    assert (batch["Jobs"], batch["FailedJobs"], batch["Retries"], batch["Rows"]) == (2, 1, 0, 1)


def test_an_answer_that_is_too_large_is_a_failed_result(tmp_path: Path, memory: Memory) -> None:
    limits = {"rows": 10, "body_bytes": 9999, "response_bytes": 300, "elements": 10}
    handle = made(artifact.echo(tmp_path, limits=limits), memory)
    handle(event(record(body(*range(9)), "large"), record(body(1), "small")), Context())
    assert result(memory, "large")["problem"]["status"] == 413
    assert counts(memory, "small") == [1]


def test_a_breach_that_only_scoring_finds_points_into_its_own_message(
    tmp_path: Path, memory: Memory
) -> None:
    shape = [None, None, None]
    model = artifact.graph(
        [helper.make_node("Identity", ["x"], ["y"])], [("x", FLOAT, shape)], [("y", FLOAT, shape)]
    )
    directory = artifact.write(
        tmp_path,
        model,
        inputs=[{"name": "x", "dtype": "float32", "shape": shape}],
        outputs=[
            {"name": "y", "tensor": "y", "dtype": "float32", "shape": shape, "kind": "tensor"}
        ],
    )
    handle = made(directory, memory)
    good, ragged = '{"instances":[{"x":[[1,2]]}]}', '{"instances":[{"x":[[1,2],[3]]}]}'
    for _ in range(2):
        handle(event(record(good, "a"), record(good, "b"), record(ragged, "c")), Context())
    assert result(memory, "c")["problem"]["errors"][0]["pointer"] == "/instances/0/x"
    assert result(memory, "b")["result"]["predictions"][0]["y"] == [[1.0, 2.0]]


@pytest.mark.fault(
    "The model fails on the values of one message of a batch",
    "That one has a failed result, 422 at the row; the others have their predictions",
)
def test_one_message_that_the_model_fails_on_does_not_fail_its_neighbours(
    tmp_path: Path, memory: Memory, capsys: Capture
) -> None:
    handle = made(artifact.ratio(tmp_path, helper.make_node("Log", ["x"], ["y"])), memory)
    sent = [record(f'{{"instances":[{{"x":{i}}}]}}', f"m{i}") for i in range(10)]
    for _ in range(2):  # the pace unknown, and known
        assert returned(handle(event(*sent), Context())) == []
    assert set(memory.objects) == {f"jobs/m{i}/result.json" for i in range(10)}
    (violation,) = result(memory, "m0")["problem"]["errors"]
    assert (violation["pointer"], violation["code"]) == ("/instances/0", "model_rejected")
    assert result(memory, "m1")["result"]["predictions"][0]["y"] == 0
    line = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (line["job"], line["problem"]) == ("m0", "contract-violation")


@pytest.mark.fault(
    "The model never ends on one message of a batch",
    "It is stopped and goes back; the others have their results",
)
def test_a_message_that_never_ends_does_not_fail_its_neighbours(
    tmp_path: Path, memory: Memory
) -> None:
    handle = made(artifact.endless(tmp_path), memory)
    poison = record('{"instances":[{"x":1}]}', "poison")
    good = [record('{"instances":[{"x":-1}]}', f"m{i}") for i in range(5)]
    handle(event(record('{"instances":[{"x":-1}]}', "first")), Context())
    assert returned(handle(event(poison, *good), Context(2000))) == ["poison"]
    assert len(memory.objects) == 6
    # delivered again, it comes last, however the batch is ordered
    poison["attributes"]["ApproximateReceiveCount"] = "2"
    more = [record('{"instances":[{"x":-1}]}', f"n{i}") for i in range(5)]
    assert returned(handle(event(poison, *more), Context(1000))) == ["poison"]


def test_what_was_delivered_before_runs_alone(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    score_columns = Scorer.score_columns

    def counted(self: Scorer, columns: Any, deadline: float | None = None) -> Any:
        runs.append(len(columns[0]))
        return score_columns(self, columns, deadline)

    handle(event(record(body(0), "first")), Context())
    monkeypatch.setattr(Scorer, "score_columns", counted)
    sent = [record(body(i), f"m{i}", receives=1 + i % 2) for i in range(6)]
    handle(event(*sent), Context())
    assert runs == [3, 1, 1, 1]


@pytest.mark.fault(
    "The worker meets an error that nobody foresaw",
    "A retry, logged by where it was and without its text",
)
def test_an_unexpected_error_is_a_retry_and_logged_without_its_text(
    handle: Handle, memory: Memory, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def explode(*_: Any) -> Any:
        raise ValueError("SENTINEL")

    monkeypatch.setattr(Scorer, "score_columns", explode)
    assert returned(handle(event(record(body(1), "a"), record(body(1), "b")), Context())) == [
        "a",
        "b",
    ]
    printed = capsys.readouterr().out
    assert "SENTINEL" not in printed
    assert "explode" in printed
    assert not memory.written


@pytest.mark.fault(
    "A job's request is not in the bucket",
    "It is looked for as often as the queue delivers, then the job has failed and says so",
)
@pytest.mark.parametrize("receives", [1, 4, 5, 6])
def test_a_request_that_is_not_there_fails_after_the_last_receive(
    handle: Handle, memory: Memory, receives: int
) -> None:
    answer = handle(event(record('{"job":"gone"}', "m", receives=receives)), Context())
    if receives < 5:
        assert returned(answer) == ["m"]
        assert not memory.written
    else:
        assert returned(answer) == []
        assert result(memory, "gone")["problem"]["type"].endswith("job-input-expired")
        assert storage.get_job(memory_store.store(memory), "gone")[1]


@pytest.mark.fault(
    "A job's run fails each time that the queue delivers it",
    "After the last receive the job has failed and says so; it is never queued for a week",
)
@pytest.mark.parametrize("receives", [1, 4, 5, 6])
def test_a_job_whose_run_fails_for_good_ends_as_a_failed_result(
    tmp_path: Path,
    memory: Memory,
    capsys: Capture,
    receives: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> Any:
        raise BadOutput("y does not have the shape of the contract")

    handle = made(artifact.ratio(tmp_path, helper.make_node("Identity", ["x"], ["y"])), memory)
    monkeypatch.setattr(Scorer, "score_columns", fail)
    ticket = storage.submit(memory_store.store(memory), b'{"instances":[{"x":0}]}')
    sent = [record(memory.sent[0], "claim", receives=receives),
            record('{"instances":[{"x":0}]}', "own", receives=receives)]  # fmt: skip
    left = returned(handle(event(*sent), Context()))
    if receives < 5:
        assert left == ["claim", "own"]
        assert not [key for key in memory.objects if key.endswith("result.json")]
        return
    assert left == []
    for id in (ticket.id, "own"):
        assert result(memory, id)["job"]["status"] == "failed"
        assert result(memory, id)["problem"]["type"].endswith(":bad-output")
        assert storage.get_job(memory_store.store(memory), id)[1]
    *lines, batch = map(json.loads, capsys.readouterr().out.splitlines())
    assert {line["job"]: line["problem"] for line in lines} == {
        ticket.id: "bad-output",
        "own": "bad-output",
    }
    assert (batch["Jobs"], batch["FailedJobs"], batch["Retries"]) == (2, 2, 0)


def test_an_unexpected_error_ends_too(
    handle: Handle, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: Any) -> Any:
        raise ValueError("SENTINEL")

    monkeypatch.setattr(Scorer, "score_columns", explode)
    assert returned(handle(event(record(body(1), "a", receives=5)), Context())) == []
    assert result(memory, "a")["problem"]["status"] == 500
    assert "SENTINEL" not in str(memory.objects)


@pytest.mark.fault(
    "S3 fails, a request is damaged, or the time is over, at the last receive of a message",
    "It becomes a dead letter, which a redrive scores; it has no failed result",
)
def test_a_job_that_could_not_begin_becomes_a_dead_letter(echo_dir: Path, memory: Memory) -> None:
    def refuse(name: str, number: int) -> None:
        raise memory_store.error("SlowDown", 503)

    ticket = storage.submit(memory_store.store(memory), body(1).encode())
    sent = [record(memory.sent[0], "claim", receives=5), record(body(2), "own", receives=5)]
    broken = made(echo_dir, memory_store.Faulty(memory, refuse))
    assert returned(broken(event(*sent), Context())) == ["claim", "own"]
    whole = made(echo_dir, memory)
    assert returned(whole(event(*sent), Context(milliseconds=0))) == ["claim", "own"]
    key = f"jobs/{ticket.id}/request.json"
    request, metadata, tag = memory.objects[key]
    memory.objects[key] = request, {**metadata, "expires": "never"}, tag
    assert returned(whole(event(sent[0]), Context())) == ["claim"]
    assert not [key for key in memory.objects if key.endswith("result.json")]
    memory.objects[key] = request, metadata, tag
    assert returned(whole(event(*sent), Context())) == []
    assert counts(memory, ticket.id) == [1]


# Envelopes of other services

UUID = "12345678-90ab-cdef-1234-567890abcdef"


def sns(message: str, id: str = UUID) -> str:
    return json.dumps({
        "Type": "Notification", "MessageId": id, "TopicArn": "arn:aws:sns:eu-central-1:1:t",
        "Message": message, "Timestamp": "2026-01-01T00:00:00.000Z", "SignatureVersion": "1",
    })  # fmt: skip


def event_bridge(detail: Any, id: str = UUID) -> str:
    return json.dumps({
        "version": "0", "id": id, "detail-type": "order", "source": "shop", "account": "1",
        "time": "2026-01-01T00:00:00Z", "region": "eu-central-1", "resources": [],
        "detail": detail,
    })  # fmt: skip


S3 = json.dumps({"Records": [{"eventSource": "aws:s3", "s3": {"object": {"key": "SENTINEL"}}}]})
S3_TEST = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"})


@pytest.mark.parametrize(
    "text",
    [sns(body(7)), event_bridge(json.loads(body(7))), sns(event_bridge(json.loads(body(7))), "x")],
)
def test_a_body_in_an_envelope_is_scored_under_the_id_that_its_producer_has(
    handle: Handle, memory: Memory, text: str
) -> None:
    outer = json.loads(text)
    if outer.get("MessageId") == "x":  # an envelope whose id is no UUID is not ours to use
        outer["MessageId"] = UUID.replace("1", "2")
        text = json.dumps(outer)
    assert returned(handle(event(record(text, "m1")), Context())) == []
    assert memory.written == [f"jobs/{UUID}/result.json"]
    assert counts(memory, UUID) == [7]


def test_a_claim_check_in_an_envelope_is_its_job(handle: Handle, memory: Memory) -> None:
    ticket = storage.submit(memory_store.store(memory), body(3).encode())
    sent = [record(sns(memory.sent[0]), "m1"), record(memory.sent[0], "m2")]
    assert returned(handle(event(*sent), Context())) == []
    assert counts(memory, ticket.id) == [3]
    assert len(memory.written) == 2


def test_a_body_in_an_envelope_that_breaks_the_contract_is_a_failed_result(
    handle: Handle, memory: Memory
) -> None:
    assert returned(handle(event(record(sns('{"instances":[{}]}'), "m1")), Context())) == []
    assert result(memory, UUID)["problem"]["status"] == 422


@pytest.mark.fault(
    "Another service's message is on the queue: SNS, EventBridge or S3, without a request body",
    "It becomes a dead letter, and the log says why; no result is written",
)
@pytest.mark.parametrize(
    ("text", "source"),
    [
        (S3, "S3"),
        (S3_TEST, "S3"),
        (sns(S3), "S3"),
        (sns("SENTINEL"), "SNS"),
        (sns('{"SENTINEL":1}'), "SNS"),
        (sns(body(1), "../secret"), "SNS"),
        (sns(body(1), UUID.upper()), "SNS"),
        (sns(sns(sns(body(1)))), "SNS"),
        (event_bridge({"SENTINEL": 1}), "EventBridge"),
        (event_bridge(None), "EventBridge"),
        (event_bridge({"bucket": {"name": "b"}, "object": {"key": "k"}}), "EventBridge"),
        (json.dumps({**json.loads(sns("x")), "Message": 7}), "SNS"),
    ],
)
@pytest.mark.parametrize("receives", [1, 5])
def test_an_envelope_without_a_request_body_becomes_a_dead_letter(
    handle: Handle, memory: Memory, capsys: Capture, text: str, source: str, receives: int
) -> None:
    sent = [record(text, "strange", receives=receives), record(body(1), "good")]
    assert returned(handle(event(*sent), Context())) == ["strange"]
    assert memory.written == ["jobs/good/result.json"]
    line, *_ = map(json.loads, (printed := capsys.readouterr().out).splitlines())
    assert (line["message_id"], line["problem"]) == ("strange", "unknown-message")
    assert f"an envelope of {source} holds no body" in line["detail"]
    assert "SENTINEL" not in printed


# A storage that fails

FAULTS = {
    "refuses": memory_store.error("AccessDenied", 403),
    "throttles": memory_store.error("SlowDown", 503),
    "times out": ReadTimeoutError(endpoint_url="s3"),
    "breaks": ConnectionResetError(),
}


@pytest.mark.fault(
    "S3 fails when the worker reads or writes",
    "The messages concerned go back; none is lost, none done twice",
)
@pytest.mark.parametrize("fault", FAULTS)
def test_storage_that_fails_loses_nothing(echo_dir: Path, memory: Memory, fault: str) -> None:
    tickets = [storage.submit(memory_store.store(memory), body(i).encode()) for i in range(20)]
    sent = [record(text, f"m{i}") for i, text in enumerate(memory.sent)]
    sent += [record(body(i), f"raw{i}") for i in range(20)]
    chance = random.Random(fault)

    def fail(name: str, number: int) -> None:
        if chance.random() < 0.5:
            raise FAULTS[fault]

    broken, whole = made(echo_dir, memory_store.Faulty(memory, fail)), made(echo_dir, memory)
    answer = broken(event(*sent), Context())
    done = {f"jobs/{t.id}/result.json" for t in tickets} | {
        f"jobs/raw{i}/result.json" for i in range(20)
    }
    left = returned(answer)
    assert 0 < len(left) < 40
    # what was not returned is done, and only that
    assert len(done & memory.objects.keys()) == 40 - len(left)
    again = [{**r, "attributes": {**r["attributes"], "ApproximateReceiveCount": "2"}}
             for r in sent if r["messageId"] in left]  # fmt: skip
    assert returned(whole(event(*again), Context())) == []
    assert done <= memory.objects.keys()
    assert [counts(memory, ticket.id) for ticket in tickets] == [[i] for i in range(20)]
    assert max(Counter(memory.written).values()) == 1


def test_when_every_message_fails_every_id_is_reported(
    echo_dir: Path, memory: Memory, capsys: Capture
) -> None:
    def refuse(name: str, number: int) -> None:
        raise memory_store.error("AccessDenied", 403)

    handle = made(echo_dir, memory_store.Faulty(memory, refuse))
    sent = [record('{"job":"a"}', "m1"), record(body(1), "m2"), record("{", "m3")]
    assert sorted(returned(handle(event(*sent), Context()))) == ["m1", "m2", "m3"]
    *lines, batch = map(json.loads, capsys.readouterr().out.splitlines())
    assert {line["message_id"] for line in lines} == {"m1", "m2", "m3"}
    assert all("AccessDenied" in line["detail"] for line in lines)
    assert (batch["Jobs"], batch["FailedJobs"], batch["Retries"]) == (0, 0, 3)
    assert batch["level"] == "WARNING"


@pytest.mark.fault(
    "S3 hangs in the worker",
    "The call is given up in time to give the messages back",
)
@pytest.mark.parametrize("call", ["get_object", "put_object"])
def test_storage_that_hangs_is_not_waited_for(echo_dir: Path, memory: Memory, call: str) -> None:
    free = threading.Event()
    busy = threading.Event()

    def hang(name: str, number: int) -> None:
        if name == call and threading.current_thread() is not threading.main_thread():
            busy.set()
            free.wait(10)
        elif name == call:
            busy.wait(0.1)  # so that a helper meets it, where there is one

    ticket = storage.submit(memory_store.store(memory), body(1).encode())
    handle = made(echo_dir, memory_store.Faulty(memory, hang))
    sent = [record(memory.sent[0], "claim"), *(record(body(1), f"m{i}") for i in range(2))]
    start = time.monotonic()
    left = returned(handle(event(*sent), Context(1000)))
    assert time.monotonic() - start < 2
    free.set()
    assert left
    kept = {"m0": "m0", "m1": "m1", "claim": ticket.id}
    for message, id in kept.items():
        assert message in left or f"jobs/{id}/result.json" in memory.objects


# Exactly one effect


@pytest.mark.fault(
    "The queue delivers a message twice",
    "The result is written once",
)
def test_a_message_delivered_again_changes_nothing(handle: Handle, memory: Memory) -> None:
    sent = event(record(body(1), "a"), record("{", "b"))
    handle(sent, Context())
    before = dict(memory.objects)
    assert returned(handle(sent, Context())) == []
    assert memory.objects == before
    assert Counter(memory.written).most_common(1)[0][1] == 1


def test_the_same_job_has_the_same_bytes(echo_dir: Path) -> None:
    texts = set()
    for neighbours in (0, 3, 40):
        memory = Memory()
        others = [record(body(i), f"n{i}") for i in range(neighbours)]
        made(echo_dir, memory)(event(*others, record(body(5), "a", sent=2_000_000_000)), Context())
        texts.add(str(memory.objects["jobs/a/result.json"]))
    assert len(texts) == 1


def test_duplicates_in_a_batch_are_one_job_and_all_reported(
    handle: Handle, echo_dir: Path, memory: Memory
) -> None:
    storage.submit(memory_store.store(memory), body(1).encode())
    claim = memory.sent[0]
    sent = [record(claim, "m1"), record(claim, "m2"), record(body(2), "m3"), record(body(2), "m3")]

    def refuse(name: str, number: int) -> None:
        if name == "put_object":
            raise memory_store.error("SlowDown", 503)

    broken = made(echo_dir, memory_store.Faulty(memory, refuse))
    assert returned(broken(event(*sent), Context())) == ["m1", "m2", "m3"]
    assert returned(handle(event(*sent), Context())) == []
    assert len(memory.written) == 3  # a request and two results


@pytest.mark.parametrize(
    "other",
    [
        None,
        {},
        [],
        {"Records": None},
        {"Records": [{"Sns": {"Message": "{}"}, "EventSource": "aws:sns"}]},
        {"Records": [{"s3": {}, "eventSource": "aws:s3"}]},
        {"requestContext": {}, "httpMethod": "POST"},
        {"Records": ["SENTINEL"]},
        event(record(body(1), "a"), {**record(body(1), "b"), "messageId": None}),
        event({**record(body(1), "a"), "messageId": ""}),
        event({**record(body(1), "a"), "body": None}),
        event({**record(body(1), "a"), "attributes": {"ApproximateReceiveCount": "x"}}),
    ],
)
def test_an_event_of_another_is_refused_as_a_whole(
    handle: Handle, memory: Memory, other: Any
) -> None:
    with pytest.raises(TypeError, match=r"^the event is not one of SQS$"):
        handle(other, Context())
    assert not memory.written


def test_an_empty_batch_has_an_empty_answer(handle: Handle) -> None:
    assert handle(event(), Context()) == {"batchItemFailures": []}


def test_without_a_context_it_works_too(handle: Handle) -> None:
    assert handle(event(record(body(1), "a")), None) == {"batchItemFailures": []}


# FIFO queues


@pytest.mark.fault(
    "A message of a FIFO group fails",
    "What follows in its group goes back too, so that the order holds",
)
def test_a_group_stops_at_its_first_failure(
    tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_columns = Scorer.score_columns

    def fail(scorer: Scorer, columns: Any, *more: Any) -> Any:
        if 0 in columns[0]:
            raise ServerError("the model failed")
        return score_columns(scorer, columns, *more)

    handle = made(artifact.ratio(tmp_path, helper.make_node("Identity", ["x"], ["y"])), memory)
    monkeypatch.setattr(Scorer, "score_columns", fail)
    sent = [
        record(f'{{"instances":[{{"x":{0 if i == 3 else 1}}}]}}', f"{group}{i}", group)
        for i in range(6)
        for group in ("a", "b", "c")
        if (i, group) not in ((3, "a"), (3, "c"))
    ]
    for _ in range(2):
        assert returned(handle(event(*sent), Context())) == ["b3", "b4", "b5"]
        assert {f"jobs/a{i}/result.json" for i in (0, 1, 2, 4, 5)} < memory.objects.keys()
        assert not {f"jobs/b{i}/result.json" for i in (3, 4, 5)} & memory.objects.keys()


@pytest.mark.parametrize("failing", range(3))
def test_a_group_stops_where_its_request_or_result_fails(
    echo_dir: Path, memory: Memory, failing: int
) -> None:
    ids = [storage.submit(memory_store.store(memory), body(i).encode()).id for i in range(3)]
    sent = [record(text, f"m{i}", "group") for i, text in enumerate(memory.sent)]

    class Broken(Memory):
        def put_object(self, **parameters: Any) -> Any:
            if ids[failing] in parameters["Key"]:
                raise memory_store.error("SlowDown", 503)
            return memory.put_object(**parameters)

    broken = Broken()
    broken.objects = memory.objects
    assert returned(made(echo_dir, broken)(event(*sent), Context())) == [
        f"m{i}" for i in range(failing, 3)
    ]
    written = [key.split("/")[1] for key in memory.written if "result" in key]
    assert written == ids[:failing]
    broken.get_object = lambda **_: (_ for _ in ()).throw(ConnectionError())  # type: ignore[method-assign]
    assert returned(made(echo_dir, broken)(event(*sent), Context())) == ["m0", "m1", "m2"]


def test_a_failed_result_does_not_stop_its_group_and_keeps_its_place(
    handle: Handle, memory: Memory
) -> None:
    sent = [
        record(body(1) if i % 2 else "{", f"m{i}", "g", receives=1 + (i == 0)) for i in range(6)
    ]
    assert returned(handle(event(*sent), Context())) == []
    assert memory.written == [f"jobs/m{i}/result.json" for i in range(6)]


def test_groups_of_a_standard_queue_are_for_fairness_alone(handle: Handle, memory: Memory) -> None:
    gone = record('{"job":"gone"}', "m1", "g")
    sent = [gone, record(body(1), "m2", "g")]
    for message in sent:
        message["eventSourceARN"] = message["eventSourceARN"].removesuffix(".fifo")
    assert returned(handle(event(*sent), Context())) == ["m1"]


# Whatever comes

BODIES = st.one_of(
    st.integers(-10, 10).map(body),
    st.sampled_from(["{", '{"job":"missing"}', '{"instances":[{}]}', "", "\ud800", "[]", "1e999"]),
    st.text(max_size=20),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=6,
    ).map(json.dumps),
)
MESSAGES = st.lists(
    st.tuples(BODIES, st.integers(0, 30), st.sampled_from(["", "g", "h"]), st.integers(1, 6)),
    max_size=12,
)


@given(MESSAGES, st.booleans(), st.integers(0, 2**16))
@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_message_is_done_or_returned_and_none_twice(
    echo_worker: Any, messages: Any, fifo: bool, seed: int
) -> None:
    memory, chance = Memory(), random.Random(seed)

    def fail(name: str, number: int) -> None:
        if chance.random() < 0.2:
            raise memory_store.error("SlowDown", 503)

    sent = [
        record(text, f"m{id}", group if fifo else "", receives)
        for text, id, group, receives in messages
        if group or not fifo
    ]
    answer = echo_worker(memory_store.store(memory_store.Faulty(memory, fail)), event(*sent))
    left = returned(answer)
    assert len(set(left)) == len(left)
    assert set(left) <= {message["messageId"] for message in sent}
    for message in sent:
        claim = message["body"] == '{"job":"missing"}'
        key = f"jobs/{'missing' if claim else message['messageId']}/result.json"
        assert message["messageId"] in left or key in memory.objects
    assert not memory.written or max(Counter(memory.written).values()) == 1
    orjson.dumps(answer)


@pytest.fixture(scope="module")
def echo_worker(echo_dir: Path) -> Callable[[storage.JobStore, Any], Any]:
    """A worker whose storage is given with each event."""
    current: list[storage.JobStore] = []

    class Current:
        def __getattr__(self, name: str) -> Any:
            return getattr(current[0], name)

    handle = worker.create(Settings(echo_dir), Current())  # type: ignore[arg-type]

    def call(store: storage.JobStore, sent: Any) -> Any:
        current[:] = [store]
        return handle(sent, Context())

    return call


# The record


def test_a_batch_is_one_record_with_its_metrics(handle: Handle, capsys: Capture) -> None:
    for prefix in "ab":
        handle(event(*(record(body(1, 2), f"{prefix}{i}") for i in range(3))), Context())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["message"] for line in lines] == ["job", "job", "job", "batch"] * 2
    first, second = lines[3], lines[7]
    assert (first["messages"], first["level"]) == (3, "INFO")
    assert (first["Jobs"], first["Rows"], first["FailedJobs"], first["Retries"]) == (3, 6, 0, 0)
    assert first["request_id"] == Context().aws_request_id
    assert (first.get("cold_start"), second.get("cold_start")) == (True, None)
    (directive,) = first["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["service", "version"]]
    assert all(isinstance(first[metric["Name"]], int | float) for metric in directive["Metrics"])
    assert all(first[name] for name in directive["Dimensions"][0])


@pytest.mark.parametrize("log_payloads", ["off", "outputs", "full"])
def test_a_job_has_a_line_with_its_prefix_and_payload(
    echo_dir: Path, memory: Memory, capsys: Capture, log_payloads: Any
) -> None:
    handle = made(echo_dir, memory, log_payloads=log_payloads)
    handle(event(record(body(1, 2), "a"), record(body(3), "b"), record("{", "c")), Context())
    *lines, batch = map(json.loads, capsys.readouterr().out.splitlines())
    assert "predictions" not in batch
    jobs = {line["job"]: line for line in lines}
    assert [jobs[id]["status"] for id in "abc"] == ["succeeded", "succeeded", "failed"]
    assert [jobs[id]["rows"] for id in "abc"] == [2, 1, 0]
    for id in "ab":
        predictions = result(memory, id)["result"]["predictions"]
        assert predictions[0]["id"].startswith(jobs[id]["prediction_id_prefix"])
        assert len(jobs[id]["prediction_id_prefix"]) == prediction_id.REQUEST_PREFIX_CHARS
        assert jobs[id].get("predictions") == (None if log_payloads == "off" else predictions)
        kept = [row["count"] for row in jobs[id].get("instances", [])]
        assert kept == (([1, 2] if id == "a" else [3]) if log_payloads == "full" else [])
    assert not {"prediction_id_prefix", "instances", "predictions"} & jobs["c"].keys()


def test_no_value_of_a_message_is_logged(handle: Handle, memory: Memory, capsys: Capture) -> None:
    sent = [record(text, f"m{i}") for i, text in enumerate(
        ["SENTINEL", '{"SENTINEL":1}', json.dumps({"instances": [{**ROW, "colour": "SENTINEL"}]})]
    )]  # fmt: skip
    handle(event(*sent), Context())
    assert "SENTINEL" not in capsys.readouterr().out + str(memory.objects)


# Killed


KILLED = """
import json, os, random, sys, threading
from handler.jobs import worker
from handler.settings import Settings
from pathlib import Path
from tests.fixtures import memory_store
from tests.fixtures.events import Context

root, artifact, seed = sys.argv[1:]
chance = random.Random(int(seed))

left = [None] * chance.randint(1, 150)

class Dying(memory_store.Folder):
    def _perhaps(self):
        left.pop()
        if not left:
            os._exit(137)

    def put_object(self, **parameters):
        self._perhaps()
        try:
            return super().put_object(**parameters)
        finally:
            self._perhaps()

    def get_object(self, **parameters):
        self._perhaps()
        return super().get_object(**parameters)

out = sys.stdout
sys.stdout = open(os.devnull, "w")
handle = worker.create(Settings(Path(artifact)), memory_store.store(Dying(Path(root))))
score_columns = worker.scoring.Scorer.score_columns

def score(*arguments):
    if chance.random() < 0.02:
        threading.Timer(chance.random() / 1e3, os._exit, [137]).start()
    return score_columns(*arguments)

worker.scoring.Scorer.score_columns = score
for line in sys.stdin:
    print(json.dumps(handle(json.loads(line), Context())), file=out, flush=True)
"""


@pytest.mark.fault(
    "The worker is killed again and again, at any step",
    "Every job has one result, written once",
)
@pytest.mark.parametrize("number", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_killed_worker_loses_nothing_and_does_nothing_twice(
    tmp_path: Path, echo_dir: Path, number: int
) -> None:
    chance = random.Random(number)
    bucket = memory_store.Folder(tmp_path / "bucket")
    # half of them claim checks
    messages: dict[str, dict[str, Any]] = {}
    jobs_of: dict[str, str] = {}
    for i in range(number):
        name = f"m{i}"
        text, jobs_of[name] = body(i), name
        if i % 2:
            jobs_of[name] = f"claim{i}"
            until = {
                "expires": str(int(time.time()) + memory_store.DAY),
                "caller": storage.ANONYMOUS,
            }
            bucket.put_object(
                Key=f"jobs/claim{i}/request.json",
                Body=text.encode(),
                Metadata=until,
                IfNoneMatch="*",
            )
            text = f'{{"job":"claim{i}"}}'
        messages[name] = record(text, name)
    waiting, kills, starts, child = list(messages), 0, 0, None
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    while waiting:
        chance.shuffle(waiting)
        taken = waiting[: chance.randint(1, 20)]
        if child is None:
            starts += 1
            child = subprocess.Popen(
                [sys.executable, "-c", KILLED, str(bucket.root), str(echo_dir), str(starts)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert child.stdin
        assert child.stdout
        for name in taken:
            attributes = messages[name]["attributes"]
            attributes["ApproximateReceiveCount"] = str(
                int(attributes["ApproximateReceiveCount"]) + 1
            )
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps(event(*(messages[name] for name in taken))) + "\n")
            child.stdin.flush()
        answer = child.stdout.readline()
        if not answer:  # it was killed: SQS delivers all of them again
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
            child.stdout.close()
            child.wait()
            assert child.returncode == 137
            kills, child = kills + 1, None
            continue
        left = returned(json.loads(answer))
        # now and then SQS delivers what was done already
        left += [name for name in taken if chance.random() < 0.02]
        waiting = [name for name in waiting if name not in taken or name in left]
    if child:
        child.communicate()
    assert kills >= number // 100
    log = (bucket.root / ".written").read_text().split()
    results = Counter(key.split("/")[1] for key in log if key.endswith("result.json"))
    # a kill between a write and its trace leaves the trace out, never the write
    assert set(results.values()) == {1}
    for i, id in enumerate(jobs_of.values()):
        job_document, finished = storage.get_job(memory_store.store(bucket), id)
        assert finished
        assert [row["count"] for row in json.loads(job_document)["result"]["predictions"]] == [i]
    assert len([p for p in os.listdir(bucket.root) if re.search("result", p)]) == number


def test_a_batch_of_nothing_says_that_the_version_starts(
    echo_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The rollback sends it, to see whether the version starts. It needs no store and no record."""
    handler = worker.create(Settings(echo_dir))
    assert handler({"Records": []}, None) == {"batchItemFailures": []}
    assert capsys.readouterr().out == ""
