"""`answerable conformance [MODEL] [--url URL]`: send what the contract accepts and forbids.

Every protocol must answer the golden rows as packed, accept what the contract accepts, and refuse
the rest with the stated violations. Without a URL the handler runs in this process. A URL gets
only what HTTP can carry unchanged: no content coding, no broken text.
"""

import argparse
import contextlib
import io
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

import orjson
from rich.console import Console
from rich.table import Table

from answerable import contract_cases
from answerable.commands import add_model
from answerable.contract_cases import Case
from answerable.local import event_sources
from handler import manifest as manifests
from handler import settings
from handler.release import golden
from infra.project import find_model

Send = Callable[[Case], tuple[int, bytes]]
Results = dict[str, Counter[str]]  # by kind of case: how many responses had which mismatch ("")
TIMEOUT_SECONDS = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add_model(parser)
    add("--url", help="where it is deployed (default: in this process)")
    add("--header", action="append", default=[], metavar="NAME:VALUE", help="to send to the URL,"
        " as x-api-key:…; the requests are then not signed")  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Send every case and print a table; return 1 if a response differs, or none came."""
    directory = find_model(args.model)
    manifest, rows = manifests.read(directory), golden.read(directory)
    send = remote(args.url, args.header) if args.url else local(directory)
    results = check(manifest, rows, send, over_http=bool(args.url))
    table = Table("case", "sent", "as stated", "what differed")
    for kind, counts in results.items():
        differing = ", ".join(f"{text} ({count})" for text, count in counts.items() if text)
        style = "red" if differing else ""
        table.add_row(kind, str(counts.total()), str(counts[""]), differing, style=style)
    sent = sum(counts.total() for counts in results.values())
    wrong = sent - sum(counts[""] for counts in results.values())
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{sent} requests, {wrong} answered otherwise than stated")
    return int(bool(wrong))


def check(
    manifest: manifests.Manifest,
    rows: list[golden.Row],
    send: Send,
    over_http: bool,
    max_per_kind: int | None = None,
) -> Results:
    """Send the golden rows and the cases, `max_per_kind` of a kind; None is all.

    `over_http`: skip what HTTP changes on its way.
    """
    results: Results = {}

    def count(case: Case, mismatch: str) -> None:
        text = mismatch and f"{case.path}: {mismatch}"
        results.setdefault(case.kind, Counter())[text] += 1

    for path in ("/predict", "/invocations", f"/v1/models/{quote(manifest.name, safe='')}:predict"):
        for row in rows:
            body = contract_cases.body(orjson.dumps(row.instance))
            case = Case("golden", path, body, 200)
            status, document = _send(send, case)
            predictions = document.get("predictions") if isinstance(document, dict) else None
            equal = golden.deviation([row.prediction], predictions) <= golden.tolerance(manifest)
            count(case, case.mismatch(status, document) or ("" if equal else "another answer"))
    openapi = _send(send, Case("", "/openapi.json", b"", 200, method="GET"))[1] or {}
    for case in contract_cases.cases(manifest, jobs="/jobs" in openapi.get("paths", ())):
        sent = results.get(case.kind, Counter()).total()
        if (max_per_kind is None or sent < max_per_kind) and (
            not over_http or _survives_http(case)
        ):
            count(case, case.mismatch(*_send(send, case)))
    return results


def _send(send: Send, case: Case) -> tuple[int, Any]:
    status, text = send(case)
    with contextlib.suppress(orjson.JSONDecodeError):
        return status, orjson.loads(text)
    return status, None


def _survives_http(case: Case) -> bool:
    try:
        "".join(case.headers.values()).encode("ascii")
        if case.headers["content-type"] not in contract_cases.BINARY:
            case.body.decode()
    except UnicodeError:
        return False
    too_large = len(case.body) > event_sources.MAX_PAYLOAD_BYTES
    return not (case.event or "content-encoding" in case.headers or too_large)


def local(directory: Path) -> Send:
    """Return a client of the handler in this process, by a REST API's events, without logs."""
    from handler import app

    handler = app.create(settings.Settings(directory, jobs_bucket="-", jobs_queue_url="-"))

    def send(case: Case) -> tuple[int, bytes]:
        request = event_sources.HttpRequest(
            case.method, case.path, list(case.headers.items()), case.body
        )
        event = event_sources.make_event("rest", request, "conformance") | (case.event or {})
        with contextlib.redirect_stdout(io.StringIO()):
            response = event_sources.parse_response(handler(event, None))
        return response.status, response.body

    return send


def remote(url: str, headers: list[str]) -> Send:
    """Return a client of a URL, which signs (SigV4) unless there are headers. It raises OSError."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.session import Session

    session, host = Session(), urlsplit(url).hostname or ""
    extra = {k.strip().lower(): v.strip() for k, _, v in (h.partition(":") for h in headers)}
    credentials = None if extra else session.get_credentials()
    service = "lambda" if ".lambda-url." in host else "execute-api"
    aws = host.endswith((".amazonaws.com", ".on.aws"))
    region = host.split(".")[2] if aws else session.get_config_variable("region")

    def send(case: Case) -> tuple[int, bytes]:
        request = AWSRequest(
            case.method, url.rstrip("/") + case.path, {**case.headers, **extra}, case.body
        )
        if credentials and region:
            SigV4Auth(credentials, service, region).add_auth(request)
        prepared = urllib.request.Request(  # noqa: S310  (the caller's own URL)
            str(request.url), case.body or None, dict(request.headers), method=case.method
        )
        try:
            response = urllib.request.urlopen(prepared, timeout=TIMEOUT_SECONDS)  # noqa: S310
        except HTTPError as error:
            response = error
        with response:
            return response.status, response.read()

    return send
