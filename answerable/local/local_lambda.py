"""One Lambda environment on this machine: the real handler, one call at a time.

The model is reloaded when the artifact is packed again.
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
from handler.errors import ApiError, ArtifactError, PayloadTooLarge, ServerError
from handler.manifest import Manifest
from handler.validate import example

GOLDEN = "golden.jsonl"
MAX_RECORDS = 20_000  # the latest are kept for the report
MAX_PAGE_BYTES = 2_000_000  # of golden rows on the start page; images are large
Stamp = tuple[tuple[str, int, int], ...]


class Context:
    """The fields of Lambda's context that the handler reads. `timeout` is in seconds."""

    def __init__(self, timeout: float) -> None:
        self.aws_request_id = str(uuid.uuid4())
        self._end = time.monotonic() + timeout

    def get_remaining_time_in_millis(self) -> int:
        """Return what is left of the timeout."""
        return max(0, int((self._end - time.monotonic()) * 1e3))


class Served(NamedTuple):
    """A loaded model. The first of its `golden` rows is the example."""

    handler: Callable[[Any, Any], dict[str, Any]]
    manifest: Manifest
    golden: list[dict[str, Any]]


class LocalLambda:
    """The function behind an event source, with the artifact in `directory`.

    `start_jobs` is called before the first call of /jobs. Raise ArtifactError if the artifact
    cannot be loaded.
    """

    def __init__(
        self,
        directory: Path,
        event_source: str = "rest",
        timeout: float = 30.0,
        start_jobs: "Callable[[LocalLambda], None] | None" = None,
    ) -> None:
        self.directory, self.event_source, self.timeout = directory, event_source, timeout
        self._start_jobs = start_jobs
        self.stamp = stamp(directory)
        self.records: deque[str] = deque(maxlen=MAX_RECORDS)
        self.served = self._load()

    def invoke(self, request: HttpRequest) -> HttpResponse:
        """Return the response to an HTTP request, with the handler's time as `server-timing`."""
        request_id = str(uuid.uuid4())  # the event source's; the context has Lambda's own
        event = orjson.dumps(event_sources.make_event(self.event_source, request, request_id))
        if len(event) > event_sources.MAX_PAYLOAD_BYTES:
            return error_response(PayloadTooLarge("the event is over Lambda's 6 MB"), request_id)
        if self._start_jobs and request.path.startswith("/jobs"):
            self._start_jobs(self)
        context = Context(self.timeout)
        start = time.perf_counter()
        try:
            result = self.served.handler(orjson.loads(event), context)
            response = event_sources.parse_response(result)
        except Exception as error:  # the event source answers 502
            traceback.print_exc()
            problem = ServerError(f"the function failed ({type(error).__name__})")
            return error_response(problem, request_id, 502)
        milliseconds = (time.perf_counter() - start) * 1e3
        response.headers.append(("server-timing", f"handler;dur={milliseconds:.3f}"))
        response.headers.append(("x-amzn-requestid", request_id))
        return response

    async def watch(self, say: Callable[[str], None], seconds: float = 1.0) -> None:
        """Reload the model when the artifact has changed. Keep it if the new one is broken."""
        previous: Stamp | None = None
        while True:
            await asyncio.sleep(seconds)
            current = stamp(self.directory)
            if not current or current == self.stamp or current != previous:
                previous = current  # it may still be written: look again
                continue
            try:
                served = await asyncio.to_thread(self._load)
            except Exception as error:
                if stamp(self.directory) != current:
                    continue
                manifest = self.served.manifest
                say(f"not reloaded, {manifest.name} {manifest.version} is still served: {error}")
            else:
                self.served = served
                say(f"reloaded: {served.manifest.name} {served.manifest.version}")
            self.stamp = current

    def _load(self) -> Served:
        from handler import app, scoring

        scorer = scoring.load(self.directory)  # raises, while app.create would answer 503
        config = settings.read()._replace(model_dir=self.directory)
        rows = golden(self.directory, scorer.manifest)
        return Served(app.create(config, scorer), scorer.manifest, rows)


def error_response(problem: ApiError, request_id: str, status: int = 0) -> HttpResponse:
    """Return the event source's own error, in the format that infra gives the gateway's."""
    status = status or problem.status
    body = orjson.dumps(problem.problem(request_id) | {"status": status})
    return HttpResponse(status, [("content-type", "application/problem+json")], body)


def stamp(directory: Path) -> Stamp:
    """Return name, time and size of the artifact's files; empty while there is no manifest."""
    try:
        stats = [(file.name, file.stat()) for file in os.scandir(directory)]
    except OSError:
        return ()
    if not any(name == manifests.FILE_NAME for name, _ in stats):
        return ()
    return tuple(sorted((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))


def golden(directory: Path, manifest: Manifest) -> list[dict[str, Any]]:
    """Return the golden rows, as many as fit on the page; else the contract's example."""
    rows: list[dict[str, Any]] = []
    size = 0
    with contextlib.suppress(FileNotFoundError), open(directory / GOLDEN, "rb") as lines:
        for number, line in enumerate(lines, 1):
            size += len(line)
            if rows and size > MAX_PAGE_BYTES:
                break
            try:
                row = orjson.loads(line)
                rows.append({**row, "name": row["name"], "instance": row["instance"]})
            except (ValueError, TypeError, KeyError):
                raise ArtifactError(f"{GOLDEN}: line {number} is not a golden row") from None
    return rows or [{"name": "the contract's example", "instance": example(manifest)}]
