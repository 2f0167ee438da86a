"""`answerable serve`: the packed model on localhost, through the real Lambda handler.

Every request becomes the event that the function would get, and its reply the response. Only `/`
(for browsers) and `/docs` are ours: the start page and Swagger UI, both without a foreign resource.
"""

import argparse
import asyncio
import contextlib
import io
import ipaddress
import os
import secrets
import shlex
import signal
import socket
import sys
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

import orjson
import uvicorn
from rich.console import Console
from rich.text import Text
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from answerable.commands import InputError, add_model, report
from answerable.local import event_sources, local_sqs
from answerable.local.event_sources import HttpRequest, HttpResponse
from answerable.local.local_lambda import LocalLambda, error_response
from handler import manifest as manifests
from handler.errors import ApiError, BadRequest, PayloadTooLarge
from infra.project import find_model

PAGES = Path(__file__).parents[1] / "pages"
PASTE_BYTES = 2_000  # the longest body that is put into a command to paste
SAME_SITE = ("same-origin", "none")  # of sec-fetch-site; none: the user typed the address
LOCAL = ("127.0.0.1", "0.0.0.0", "::1", "::")  # noqa: S104
JSON = "application/json"
NOT_EMBEDDED = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    f"connect-src 'self'; img-src 'self' data:; {NOT_EMBEDDED}",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
REPORT = {
    **SECURITY,
    "content-security-policy": f"default-src 'none'; style-src 'unsafe-inline'; {NOT_EMBEDDED}",
    "cache-control": "no-store",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model(parser)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes one that is free")
    parser.add_argument(
        "--event-source",
        choices=event_sources.EVENT_SOURCES,
        default="rest",
        help="whose events the function gets (default: rest)",
    )
    parser.add_argument("--timeout", type=float, default=30.0, help="the function's, in seconds")
    records = parser.add_mutually_exclusive_group()
    records.add_argument("--quiet", action="store_true", help="drop the handler's records")
    records.add_argument("--records", metavar="FILE", type=Path, help="append them to FILE instead")


def create_app(
    environment: LocalLambda,
    say: Callable[[str], None],
    poll_seconds: float = 1.0,
    host: str = "127.0.0.1",
) -> Starlette:
    """Return the ASGI application. `host` is the address that it listens on."""
    worker = ThreadPoolExecutor(1, "function")  # one call at a time, in their order

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(environment.watch(say, poll_seconds))
        yield
        watching.cancel()
        worker.shutdown(wait=False, cancel_futures=True)

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        with contextlib.suppress(ClientDisconnect):
            response = await answer(request)
            await response(scope, receive, send)

    async def answer(request: Request) -> Response:
        path, is_read = request.url.path, request.method in ("GET", "HEAD")
        if problem := _refusal(request, host):
            return _response(error_response(problem, str(uuid.uuid4()), 403))
        if is_read and (path == "/docs" or path.startswith("/docs/")):
            name = "docs.html" if path == "/docs" else path.removeprefix("/docs/")
            return await run_in_threadpool(_page, environment, name, request.query_params)
        wants_page = "text/html" in request.headers.get("accept", "")
        if request.method == "GET" and path == "/" and wants_page:
            return _file(PAGES / "start.html")
        limit = event_sources.MAX_BODY_BYTES[environment.event_source]
        body = await _body(request, limit)
        if body is None:
            size = limit // event_sources.MEBIBYTE
            problem = PayloadTooLarge(f"the event source takes bodies of at most {size} MB")
            return _response(error_response(problem, str(uuid.uuid4())))
        call = HttpRequest(
            method=request.method,
            path=request.scope.get("raw_path", path.encode()).decode("latin-1"),
            headers=request.headers.items(),
            body=body,
            query=request.scope["query_string"].decode("latin-1"),
            client=request.client.host if request.client else "127.0.0.1",
        )
        loop = asyncio.get_running_loop()
        return _response(await loop.run_in_executor(worker, environment.invoke, call))

    app = Starlette(lifespan=lifespan)
    app.router.default = respond
    return app


def _page(environment: LocalLambda, name: str, query: Mapping[str, str]) -> Response:
    """Return a page below /docs, or a part of one."""
    if name in FILES:
        return _file(FILES[name])
    if name == "report.html":
        records = list(report.parsed(list(environment.records)))
        page = report.page(environment.served.manifest, records)
        return Response(page, media_type="text/html", headers=REPORT)
    if name == "start.json":
        served, model = environment.served, manifests.public_document(environment.directory)
        content = {
            "model": model,
            "golden": served.golden,
            "event_source": environment.event_source,
        }
        return Response(orjson.dumps(content), media_type=JSON, headers=SECURITY)
    if name != "example.json":
        return Response("Not found", 404)
    try:
        return Response(_example(environment, query), media_type=JSON, headers=SECURITY)
    except (ValueError, IndexError, TypeError):
        return Response("row is a golden row's number, changes a JSON object", 400)


def _refusal(request: Request, host: str) -> ApiError | None:
    """Return the problem of a request of another site's page; None to serve it.

    A browser sends such requests for any page that is open: by DNS rebinding, the page's own name
    points to this machine; by a form or fetch, the page posts here from elsewhere.
    """
    name = request.url.hostname or ""
    if not _is_local(name, host):
        return BadRequest("the Host header names neither this machine nor an address")
    if request.method in ("GET", "HEAD"):
        return None
    origin = request.headers.get("origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if foreign or request.headers.get("sec-fetch-site", "none") not in SAME_SITE:
        return BadRequest("a page of another site must not send requests here")
    return None


def _is_local(name: str, host: str) -> bool:
    """Return whether a host name cannot be of another site: an address, localhost, this host."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        names = ("localhost", host.lower(), socket.gethostname().lower())
        return name in names or name.endswith(".localhost")
    return True


def _swagger() -> Path:
    """Swagger UI's files. The package is not imported: that would import FastAPI."""
    spec = find_spec("fastapi_swagger")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("fastapi_swagger, of requirements/dev.txt, is not installed")
    return Path(spec.origin).parent / "resources"


FILES = {
    "docs.html": PAGES / "docs.html",
    "docs.js": PAGES / "docs.js",
    **{name: PAGES / name for name in ("format.js", "start.css", "start.js")},
    "swagger-ui.css": _swagger() / "swagger-ui.css",
    "swagger-ui-bundle.js": _swagger() / "swagger-ui-bundle.js",
}


class _Keeper(io.TextIOBase):
    """Writes on, and keeps what is written for the report."""

    def __init__(self, out: TextIO, kept: deque[str]) -> None:
        self._out, self._kept = out, kept

    def write(self, text: str) -> int:
        self._kept.append(text)
        return self._out.write(text)

    def flush(self) -> None:
        self._out.flush()


def _example(environment: LocalLambda, query: Mapping[str, str] = {}) -> bytes:
    """Return a body for `/predict`: a golden row, by number, with `changes` of its fields.

    Raise ValueError, IndexError or TypeError for a query that is none.
    """
    instance = environment.served.golden[int(query.get("row", 0))]["instance"]
    return orjson.dumps({"instances": [instance | orjson.loads(query.get("changes", "{}"))]})


def _response(answer: HttpResponse) -> Response:
    response = Response(answer.body, answer.status)
    for name, value in answer.headers:
        response.headers.append(name, value)
    return response


def _file(path: Path) -> FileResponse:
    return FileResponse(path, headers=SECURITY)


async def _body(request: Request, limit: int) -> bytes | None:
    """Return the body; None, after its end, if it is over the limit."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
    return b"".join(chunks) if size <= limit else None


def _greet(console: Console, environment: LocalLambda, url: str) -> None:
    """Print the URLs, a command to paste, and what it answers."""
    manifest, body = environment.served.manifest, _example(environment)
    send = ["curl -s", f"{url}/predict", "-H 'content-type: application/json'"]
    if len(body) <= PASTE_BYTES:
        send += ["-d", shlex.quote(body.decode())]
    else:
        send = [f"curl -s {url}/docs/example.json |", *send, "--data-binary @-"]
    with contextlib.redirect_stdout(io.StringIO()):  # its record would stand between these lines
        answer = environment.invoke(HttpRequest("POST", "/predict", [("content-type", JSON)], body))
    took = dict(answer.headers).get("server-timing", "").rpartition("=")[2]
    text = answer.body.decode()
    colour = "green" if answer.status == 200 else "red"
    lines: list[tuple[str, str]] = [
        (f"\n{manifest.name} {manifest.version}", "bold"),
        (f"  {manifest.description}\n" if manifest.description else "\n", ""),
        ("  start page  ", "dim"), (f"{url}\n", "cyan"),
        ("  Swagger UI  ", "dim"), (f"{url}/docs\n", "cyan"),
        ("  OpenAPI     ", "dim"), (f"{url}/openapi.json\n\n", "cyan"),
        (" ".join(send) + "\n", "bold"),
        (text if len(text) <= PASTE_BYTES else f"{text[:PASTE_BYTES]}…", ""),
        (f"\n{answer.status}, {took} ms in the handler\n", colour),
    ]  # fmt: skip
    console.print(Text.assemble(*lines), soft_wrap=True)


def main(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    console = Console(stderr=True, highlight=False)  # stdout is for the records alone

    def say(line: str, style: str = "yellow") -> None:
        console.print(Text(line, style), soft_wrap=True)

    with contextlib.ExitStack() as stack:
        if not os.environ.get("PREDICTION_ID_SECRET"):  # one of this run alone
            os.environ["PREDICTION_ID_SECRET"] = secrets.token_urlsafe()
            stack.callback(os.environ.pop, "PREDICTION_ID_SECRET")
        directory = find_model(args.model)
        try:
            family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
            listener = stack.enter_context(
                socket.create_server((args.host, args.port), family=family, backlog=2048)
            )
        except (OSError, OverflowError) as error:  # a port over 65535 overflows
            reason = error.strerror if isinstance(error, OSError) else "ports are 0 to 65535"
            raise InputError(f"{args.host} port {args.port}: {reason}") from None
        jobs = stack.enter_context(local_sqs.prepared())
        environment = LocalLambda(
            directory.absolute(), args.event_source, args.timeout, jobs.start if jobs else None
        )
        host = "localhost" if args.host in LOCAL else args.host
        _greet(console, environment, f"http://{host}:{listener.getsockname()[1]}")
        records: TextIO = sys.stdout
        if args.quiet or args.records:
            records = stack.enter_context(open(args.records or os.devnull, "a", encoding="utf-8"))
        keeper = _Keeper(records, environment.records)
        stack.enter_context(contextlib.redirect_stdout(keeper))
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again when it is done
            signal.signal(number, lambda *_: sys.exit(0))
        config = uvicorn.Config(
            create_app(environment, say, host=args.host),
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=5,
        )
        uvicorn.Server(config).run(sockets=[listener])
    return 0
