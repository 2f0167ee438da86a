"""What is fuzzed: each harness makes one event of any bytes and holds its answer to the promises.

`make fuzz` looks for new inputs, guided by coverage; tests/unit/test_fuzz.py replays those that it
found worth keeping. The model is the echo of tests/fixtures/artifact.py, which has every
type of feature.
"""

import base64
import contextlib
import io
import json
import struct
import tempfile
from binascii import b2a_base64
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from handler import app, prediction_id
from handler.errors import MAX_VIOLATIONS
from handler.http import OCTET_STREAM
from handler.jobs import storage, worker
from handler.jobs.storage import JobStore
from handler.settings import Settings
from tests.fixtures import artifact, events, memory_store
from tests.fixtures.protocols import LENGTH

SECRET = "of the fuzzed service"
STATUSES = {200, 202, 400, 404, 405, 413, 415, 422}  # never a 5xx: no input may be our fault
INFER = "/v2/models/test/infer"
INVOCATIONS = ("application/json", "text/csv", "application/x-npy", "text/plain")
PROBLEM = {"type", "title", "status", "detail", "instance", "error"}


def wire(data: bytes) -> None:
    """Fronts, base64, gzip and content types around a body; the first bytes choose among them."""
    first, second = data[:1] or b"\0", data[1:2] or b"\0"
    text = b2a_base64(data[2:], newline=False) if first[0] & 1 else data[2:]
    headers = {"Content-Type": ("application/json", "a/b+json", "text/csv", "")[second[0] & 3]}
    if first[0] & 2:
        headers["Content-Encoding"] = ("gzip", "identity", "br", "GZIP ")[second[0] >> 2 & 3]
    if first[0] & 4:
        headers["Accept-Encoding"] = text[:20].decode("latin-1")
    if first[0] & 8:
        headers["Content-Type"] += "; charset=" + text[:8].decode("latin-1")
    body = text.decode("utf-8", "surrogateescape")
    path = ("/predict", "/feedback", INFER, "/invocations")[second[0] >> 4 & 3]
    event = (events.rest, events.http, events.alb, events.rest)[second[0] >> 6](body, path)
    event["headers"] = headers
    event["isBase64Encoded"] = bool(first[0] & 1)
    ask(event)


def contract(data: bytes) -> None:
    """A body of /predict."""
    ask(events.rest(data))


def event_source(data: bytes) -> None:
    """An event of no known event_source, or one of those with anything in it."""
    with contextlib.suppress(ValueError, RecursionError):
        ask(json.loads(data))


def oip_json(data: bytes) -> None:
    """A body of the Open Inference Protocol."""
    ask(events.rest(data, INFER))


def oip_binary(data: bytes) -> None:
    """JSON with the bytes of tensors behind it; the first two bytes say where it ends."""
    event = events.rest(data[2:], INFER)
    size = int.from_bytes(data[:2]) if data[:1] != b"\xff" else -1
    event["headers"] = {LENGTH: str(size), "Accept": OCTET_STREAM}
    ask(event)


def invocations(data: bytes) -> None:
    """MLflow's and SageMaker's formats; the first byte chooses one."""
    event = events.rest(data[1:], "/invocations")
    event["headers"] = {"Content-Type": INVOCATIONS[(data[:1] or b"\0")[0] % len(INVOCATIONS)]}
    ask(event)


def feedback(data: bytes) -> None:
    """Outcomes: a body as it is, or an id that is rightly sealed, whatever it says."""
    if data[:1] != b"\1":
        ask(events.rest(data[1:], "/feedback"))
        return
    body = data[1:32].ljust(31, b"\0")
    id = b2a_base64(body + prediction_id.signer(SECRET)(body), newline=False)
    actual = data[32:].decode("utf-8", "replace") or "null"
    text = id.translate(bytes.maketrans(prediction_id._BASE64, prediction_id._SORTED)).decode()
    ask(
        events.rest(f'{{"outcomes":[{{"prediction_id":"{text}","actual":{actual}}}]}}', "/feedback")
    )


def jobs(data: bytes) -> None:
    """A body of /jobs, scored by the worker and read; or the text of a queue's message."""
    if data[:1] == b"\1":
        return score(data[1:].decode("utf-8", "replace"))
    for kept in (memory().objects, memory().sent, memory().groups, memory().written):
        kept.clear()
    event = events.rest(data[1:], "/jobs")
    if data[:1] == b"\2":
        event["headers"] = {"Idempotency-Key": data[1:9].decode("latin-1")}
    answer = ask(event)
    for message in memory().sent:
        score(message)
    if answer["statusCode"] == 202:
        id = json.loads(answer["body"])["job"]["id"]
        document = json.loads(ask(events.rest(None, f"/jobs/{id}", "GET"))["body"])
        assert document["job"]["status"] in ("succeeded", "failed"), document


def batches(data: bytes) -> None:
    """A body of /batches."""
    ask(events.rest(data, "/batches"))


HARNESSES: dict[str, Callable[[bytes], None]] = {
    harness.__name__: harness
    for harness in (
        *(wire, contract, event_source, oip_json, oip_binary, invocations, feedback, jobs),
        batches,
    )
}
BUCKET = "fuzzed"
SETTINGS = Settings(
    None,
    prediction_id_secret=SECRET,
    log_payloads="full",
    jobs_bucket=BUCKET,
    jobs_queue_url="queue",
    batch_bucket=BUCKET,
    batch_state_machine="machine",
)


@cache
def handler() -> app.Handler:
    """The door, of a model that answers within its contract whatever it is asked."""
    return app.create(SETTINGS._replace(model_dir=echo()))


@cache
def echo() -> Path:
    return artifact.echo(Path(tempfile.mkdtemp()) / "echo")


@cache
def memory() -> memory_store.Memory:
    """S3 and SQS of the jobs."""
    return memory_store.Memory()


@cache
def store() -> JobStore:
    return JobStore(memory(), memory(), BUCKET, "queue", 86_400)


@cache
def worker_handler() -> app.Handler:
    return worker.create(SETTINGS._replace(model_dir=echo()), store())


def score(message: str) -> None:
    """Hand a message to the worker; it must have a result, or become a dead letter."""
    sqs = memory_store.event(memory_store.record(message, "m"))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        answer = worker_handler()(sqs, events.Context())
    assert answer["batchItemFailures"] in ([], [{"itemIdentifier": "m"}]), answer
    for line in out.getvalue().splitlines():
        assert strict(line)["level"] in ("INFO", "WARNING"), line


def ask(event: Any) -> Any:
    """Return the answer; raise AssertionError unless it and the record are as promised."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        mock.patch.object(storage, "connect", return_value=store()),
        mock.patch("handler.batch.storage.put_json"),
        mock.patch("boto3.client"),
    ):
        answer = handler()(event, events.Context())
    status, headers, body = answer["statusCode"], dict(answer.get("headers") or {}), answer["body"]
    headers |= {name: values[0] for name, values in answer.get("multiValueHeaders", {}).items()}
    assert status in STATUSES, (status, body)
    data = base64.b64decode(body, validate=True) if answer["isBase64Encoded"] else body.encode()
    if "content-encoding" not in headers:
        document = strict(data[: int(headers.get(LENGTH, len(data)))])
        if status >= 400:
            problem(status, headers["content-type"], document)
    for line in out.getvalue().splitlines():  # the request's record, and those of outcomes
        assert strict(line)["level"] == "INFO", line
    assert out.getvalue(), "there is no record"
    return answer


def problem(status: int, kind: str, document: Any) -> None:
    """RFC 9457, with what the house adds."""
    assert kind in ("application/problem+json", "application/json"), kind
    assert PROBLEM <= document.keys() <= PROBLEM | {"errors"}, document
    assert document["status"] == status
    assert document["type"].startswith("urn:answerable:problem:")
    told = document.get("errors", [])
    assert len(told) <= MAX_VIOLATIONS
    for violation in told:
        assert violation.keys() == {"pointer", "code", "message"}
        assert violation["pointer"].startswith("/") or not violation["pointer"]


def strict(text: str | bytes) -> Any:
    """JSON without what only Python takes for it."""
    return json.loads(text, parse_constant=_none)


def _none(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def pack(inputs: list[bytes]) -> bytes:
    """Inputs as one file: each behind its length, four bytes."""
    return b"".join(struct.pack(">I", len(data)) + data for data in inputs)


def unpack(packed: bytes) -> list[bytes]:
    """The inputs of `pack`."""
    found, at = [], 0
    while at < len(packed):
        (size,) = struct.unpack_from(">I", packed, at)
        found.append(packed[at + 4 : at + 4 + size])
        at += 4 + size
    return found
