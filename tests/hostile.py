"""Contracts of every kind, the doors that serve them, and what every answer must be."""

import base64
import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handler import api, jobs, worker
from handler.errors import MAX_VIOLATIONS
from handler.settings import ARTIFACTS, Settings
from tests import artifact, storage
from tests.events import Context
from tests.protocols import LENGTH

KINDS = ("shipped", "echo", "classifier", "tensors")
Handle = Callable[[Any, Any], Any]


def directory(kind: str, parent: Path) -> Path:
    """An artifact of each kind of contract."""
    made = {"echo": artifact.echo, "classifier": artifact.classifier, "tensors": artifact.pair}
    return made[kind](parent / kind) if kind in made else ARTIFACTS / "diabetes"


def doors(path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Handle, Handle]:
    """The API and the worker of an artifact, with jobs in memory."""
    monkeypatch.setattr(jobs, "connect", lambda config: storage.store(memory))
    config = Settings(path, jobs_bucket="bucket", jobs_queue_url="queue")
    return api.create(config), worker.create(config, storage.store(memory))


def quietly(handle: Handle, event: Any) -> Any:
    """The answer, without its record."""
    with contextlib.redirect_stdout(io.StringIO()):
        return handle(event, Context())


def strict(text: str | bytes) -> Any:
    """JSON as RFC 8259 has it: no NaN, and no name twice."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(found)) == len(found), "a name is there twice"
        return dict(found)

    return json.loads(text, parse_constant=pytest.fail, object_pairs_hook=pairs)


def checked(answer: dict[str, Any]) -> Any:
    """The document of a proxy answer of REST, which must be one that a front can take, and if it is
    a refusal, a problem (RFC 9457) that the clients of OIP can read as well.
    """
    json.dumps(answer, allow_nan=False)
    headers, status = answer["headers"], answer["statusCode"]
    assert all(type(value) is str for pair in headers.items() for value in pair)
    body = answer["body"].encode()
    if answer["isBase64Encoded"]:
        body = base64.b64decode(body, validate=True)
    size = int(headers.get(LENGTH, len(body)))
    document = strict(body[:size])
    if size < len(body):
        parts = [out["parameters"]["binary_data_size"] for out in document["outputs"]]
        assert sum(parts) == len(body) - size
    if status < 300:
        return document
    kserve = headers["content-type"] == "application/json"
    assert kserve or headers["content-type"] == "application/problem+json"
    assert set(document) - {"errors"} == {"type", "title", "status", "detail", "instance", "error"}
    assert document["type"].startswith("urn:answerable:problem:")
    assert document["status"] == status
    for member in ("type", "title", "detail", "instance", "error"):
        assert type(document[member]) is str
        assert document[member] or member == "instance"
    assert len(document.get("errors", ())) <= MAX_VIOLATIONS
    for violation in document.get("errors", ()):
        assert set(violation) == {"pointer", "code", "message"}
        assert violation["pointer"] == "" or violation["pointer"][0] == "/"
        assert violation["code"].replace("_", "").isalpha()
    return document
