"""One execution environment: Lambda's Runtime API on loopback, and AWS's runtime client at it.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, NamedTuple

from tests.fixtures import events
from tests.fixtures.image_packages import stripped
from tests.fixtures.server import ROOT

API = "/2018-06-01/runtime/"
ARN = "arn:aws:lambda:eu-central-1:123456789012:function:test:7"
SECONDS = 10.0  # that a function has for a call
GONE = "exit"  # told by nobody: the process has ended


class Told(NamedTuple):
    """What the Runtime API was told: `what` is `response`, `error`, `init/error`, or GONE."""

    what: str
    content: Any

    @property
    def status(self) -> int:
        """Of an answer to a gateway."""
        assert self.what == "response", self
        status: int = self.content["statusCode"]
        return status

    @property
    def answer(self) -> Any:
        """The body of an answer, without the ids of predictions: they are new each time."""
        body = json.loads(self.content["body"])
        for prediction in body.get("predictions", ()):
            del prediction["id"]
        return body

    @property
    def ids(self) -> list[str]:
        """Of an answer's predictions."""
        return [row["id"] for row in json.loads(self.content["body"])["predictions"]]


class Environment:
    """Begins with the process's start and ends with its death: the next one is another object.

    `snapshot`: the init is over, and the process waits until `restore` lets it go on.
    """

    def __init__(
        self,
        model_dir: Path,
        handler: str = "handler.function.lambda_handler",
        stdout: int = subprocess.PIPE,
        command: Sequence[str] = (),
        **environ: str,
    ) -> None:
        self.model_dir = model_dir
        self.events: queue.Queue[tuple[Any, float] | None] = queue.Queue()
        self.told: queue.Queue[Told] = queue.Queue()
        self.records: queue.Queue[dict[str, Any]] = queue.Queue()
        self.snapshot, self.restore = threading.Event(), threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _door(self))
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()
        self.process = subprocess.Popen(
            command or [sys.executable, "-m", "awslambdaric", handler],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": f"{stripped()}:{ROOT}",
                "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
                "AWS_LAMBDA_FUNCTION_NAME": "test",
                "AWS_LAMBDA_FUNCTION_VERSION": "7",
                "AWS_DEFAULT_REGION": "eu-central-1",
                "MODEL_DIR": str(model_dir),
                "ORT_DISABLE_TELEMETRY": "1",
                **environ,
            },
            stdout=stdout,
        )
        if self.process.stdout is not None:
            threading.Thread(target=self._read, args=[self.process.stdout], daemon=True).start()

    def __enter__(self) -> "Environment":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.events.put(None)
        self._server.shutdown()
        self._server.server_close()

    def send(self, event: Any, seconds: float = SECONDS) -> None:
        """Give the function an event, and `seconds` for it."""
        self.events.put((event, seconds))

    def wait(self) -> Told:
        """What it tells next, which may be that it is gone."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with suppress(queue.Empty):
                return self.told.get(timeout=0.02)
            if self.process.poll() is not None and self.told.empty():
                return Told(GONE, self.process.returncode)
        raise TimeoutError("the function told nothing")

    def invoke(self, event: Any, seconds: float = SECONDS) -> Told:
        """One call, to its end."""
        self.send(event, seconds)
        return self.wait()

    def predict(self, x: float, seconds: float = SECONDS) -> Told:
        """A prediction of a model with the one feature `x`."""
        return self.invoke(of(x), seconds)

    def record(self) -> dict[str, Any]:
        """The next line of stdout that is a JSON object."""
        return self.records.get(timeout=10)

    def _read(self, stdout: IO[bytes]) -> None:
        with stdout:
            for line in stdout:
                with suppress(ValueError):
                    self.records.put(json.loads(line))


def _door(environment: Environment) -> type[BaseHTTPRequestHandler]:
    class Door(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == API + "restore/next":
                environment.snapshot.set()
                environment.restore.wait()
                self._reply(200, b"", {})
                return
            assert self.path == API + "invocation/next"
            found = environment.events.get()
            if found is None:
                return
            event, seconds = found
            headers = {
                "Lambda-Runtime-Aws-Request-Id": str(uuid.uuid4()),
                "Lambda-Runtime-Deadline-Ms": str(int((time.time() + seconds) * 1e3)),
                "Lambda-Runtime-Invoked-Function-Arn": ARN,
                "Lambda-Runtime-Trace-Id": "Root=1-5759e988-bd862e3fe1be46a994272793",
                "Content-Type": "application/json",
            }
            self._reply(200, json.dumps(event).encode(), headers)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            what = self.path.removeprefix(API)
            if what.startswith("invocation/"):
                what = what.rpartition("/")[2]
            environment.told.put(Told(what, json.loads(body)))
            self._reply(202, b'{"status":"OK"}', {})

        def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            with suppress(OSError):  # it may have died meanwhile
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Door


def of(x: float) -> dict[str, Any]:
    """A call that asks for the prediction of one number."""
    return events.rest(json.dumps({"instances": [{"x": x}]}))
