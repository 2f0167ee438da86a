"""One Lambda environment on this machine: the real handler, one call at a time, its model replaced
when the artifact is packed again.
"""

import asyncio
import contextlib
import os
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from answerable.local import event_sources
from answerable.local.event_sources import HttpRequest, HttpResponse
from handler import manifest as manifests
from handler import settings
from handler.contract import example
from handler.errors import ApiError, ArtifactError, PayloadTooLarge, ServerError
from handler.manifest import Manifest

GOLDEN = "golden.jsonl"
RECORDS = 20_000  # the latest, kept for the report
PAGE_BYTES = 2_000_000  # of golden rows on the start page; images are large
Stamp = tuple[tuple[str, int, int], ...]


class Context:
    """What Lambda passes beside the event."""

    function_name = "answerable-local"
    function_version = "$LATEST"
    invoked_function_arn = (
        f"arn:aws:lambda:{event_sources.REGION}:{event_sources.ACCOUNT}:function:{function_name}"
    )
    memory_limit_in_mb = "1769"
    log_group_name = f"/aws/lambda/{function_name}"
    log_stream_name = "local"
    identity = client_context = None

    def __init__(self, timeout: float) -> None:
        self.aws_request_id = str(uuid.uuid4())
        self._end = time.monotonic() + timeout

    def get_remaining_time_in_millis(self) -> int:
        """What is left of the timeout."""
        return max(0, int((self._end - time.monotonic()) * 1e3))


class Served(NamedTuple):
    """A loaded model. `golden`: its golden rows, the first of them the one to try first."""

    handler: Callable[[Any, Any], dict[str, Any]]
    manifest: Manifest
    golden: list[dict[str, Any]]


class LocalLambda:
    """The function as it would run for `front`, with the artifact in `directory`.

    Raises ArtifactError where that cannot be loaded.
    """

    def __init__(
        self,
        directory: Path,
        front: str = "rest",
        timeout: float = 30.0,
        start_jobs: "Callable[[LocalLambda], None] | None" = None,
    ) -> None:
        self.directory, self.front, self.timeout = directory, front, timeout
        self._start_jobs = start_jobs  # what the first call of /jobs is made to wait for
        self.stamp = stamp(directory)
        self.records: deque[str] = deque(maxlen=RECORDS)
        self.served = self._load()

    def invoke(self, call: HttpRequest) -> HttpResponse:
        """The answer to an HTTP request; its `server-timing` says how long the handler took."""
        request_id = str(uuid.uuid4())  # the front's; the context has Lambda's own
        event = orjson.dumps(event_sources.make_event(self.front, call, request_id))
        if len(event) > event_sources.PAYLOAD_BYTES:
            return error_response(PayloadTooLarge("the event is over Lambda's 6 MB"), request_id)
        if self._start_jobs and call.path.startswith("/jobs"):
            self._start_jobs(self)
        context = Context(self.timeout)
        start = time.perf_counter()
        try:
            answer = event_sources.parse_response(self.served.handler(orjson.loads(event), context))
        except Exception as error:  # a function that fails is the front's 502
            traceback.print_exc()
            return error_response(
                ServerError(f"the function failed ({type(error).__name__})"), request_id, 502
            )
        took = (time.perf_counter() - start) * 1e3
        answer.headers.append(("server-timing", f"handler;dur={took:.3f}"))
        answer.headers.append(("x-amzn-requestid", request_id))
        return answer

    async def watch(self, say: Callable[[str], None], seconds: float = 1.0) -> None:
        """Reload whenever the artifact changes; a broken one leaves the model as it is."""
        pending: Stamp | None = None
        while True:
            await asyncio.sleep(seconds)
            found = stamp(self.directory)
            if not found or found == self.stamp or found != pending:
                pending = found  # gone for a moment, or still being written: look again
                continue
            try:
                new = await asyncio.to_thread(self._load)
            except Exception as error:  # whatever it is, the model that works is kept
                if stamp(self.directory) != found:
                    continue
                kept = self.served.manifest
                say(f"not reloaded, {kept.name} {kept.version} is still served: {error}")
            else:
                self.served = new
                say(f"reloaded: {new.manifest.name} {new.manifest.version}")
            self.stamp = found

    def _load(self) -> Served:
        from handler import app, scoring

        # raises where app.create would return a handler that answers 503
        manifest = scoring.load(self.directory).manifest
        config = settings.read()._replace(model_dir=self.directory)
        return Served(app.create(config), manifest, golden(self.directory, manifest))


def error_response(problem: ApiError, request_id: str, status: int = 0) -> HttpResponse:
    """A front's own refusal, in the shape that infra gives the gateway's."""
    status = status or problem.status
    body = orjson.dumps(problem.problem(request_id) | {"status": status})
    return HttpResponse(status, [("content-type", "application/problem+json")], body)


def stamp(directory: Path) -> Stamp:
    """What changes whenever a file of the artifact does; empty while it is not there."""
    try:
        stats = [(file.name, file.stat()) for file in os.scandir(directory)]
    except OSError:
        return ()
    if not any(name == manifests.FILE_NAME for name, _ in stats):
        return ()
    return tuple(sorted((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))


def golden(directory: Path, manifest: Manifest) -> list[dict[str, Any]]:
    """The golden rows as they are, as many as a page can carry; else the contract's example."""
    rows: list[dict[str, Any]] = []
    size = 0
    with contextlib.suppress(FileNotFoundError), open(directory / GOLDEN, "rb") as lines:
        for number, line in enumerate(lines, 1):
            size += len(line)
            if rows and size > PAGE_BYTES:
                break
            try:
                row = orjson.loads(line)
                rows.append({**row, "name": row["name"], "instance": row["instance"]})
            except (ValueError, TypeError, KeyError):
                raise ArtifactError(f"{GOLDEN}: line {number} is not a golden row") from None
    return rows or [{"name": "the contract's example", "instance": example(manifest)}]
