"""`answerable conformance [MODEL_DIR] [--url URL]`: whether what the contract forbids is
refused as it must be, and the golden rows are answered as they were, through every protocol.

In this process by the real handler, or at a URL: signed with SigV4 where there are credentials, or
with what --header says. A URL gets what can travel over HTTP and is not the front's own affair:
gzip and broken text it may well change.
"""

import argparse
import contextlib
import io
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

import orjson
from rich.console import Console
from rich.table import Table

from answerable import contract_cases
from answerable.commands import add_model
from answerable.local import event_sources
from handler import manifest as manifests
from handler import settings
from handler.errors import ArtifactError
from handler.release import golden
from handler.release.contract_cases import Case, body
from infra.project import find_model

Ask = Callable[[Case], tuple[int, bytes]]
SECONDS = 60


class Found(NamedTuple):
    """Of one kind of case: how many there were, and what differed how often."""

    sent: Counter[str]
    differed: dict[str, Counter[str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add_model(parser)
    add("--url", help="where it is deployed (default: in this process)")
    add("--header", action="append", default=[], metavar="NAME:VALUE", help="to send to the URL,"
        " as x-api-key:…; there is no signature then")  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Ask and print; 1 if anything differed, or could not be asked."""
    try:
        directory = find_model(args.model)
        manifest, rows = manifests.read(directory), golden.read(directory)
        ask = remote(args.url, args.header) if args.url else local(directory)
        found = check(manifest, rows, ask, bool(args.url))
    except (ArtifactError, OSError) as error:
        print(f"check-contract: {error}", file=sys.stderr)
        return 1
    table = Table("case", "sent", "as stated", "what differed")
    for kind, sent in found.sent.items():
        differed = found.differed.get(kind, Counter())
        words = ", ".join(f"{what} ({count})" for what, count in differed.items())
        table.add_row(
            kind, str(sent), str(sent - differed.total()), words, style="red" * bool(words)
        )
    wrong = sum(differed.total() for differed in found.differed.values())
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{found.sent.total()} requests, {wrong} answered otherwise than stated")
    return int(bool(wrong))


def check(manifest: manifests.Manifest, rows: list[golden.Row], ask: Ask, http: bool) -> Found:
    """Ask everything. `http`: it is sent over HTTP, where some of it cannot go."""
    found = Found(Counter(), {})

    def tell(kind: str, path: str, what: str) -> None:
        found.sent[kind] += 1
        if what:
            found.differed.setdefault(kind, Counter())[f"{path}: {what}"] += 1

    allowed = golden.tolerance(manifest)
    for path in ("/predict", "/invocations", f"/v1/models/{quote(manifest.name, safe='')}:predict"):
        for row in rows:
            case = Case("golden", path, body(orjson.dumps(row.instance)), 200)
            status, text = ask(case)
            document = _document(text)
            answers = document.get("predictions") if isinstance(document, dict) else None
            off = golden.deviation([row.prediction], answers)
            what = case.differs(status, document)
            tell("golden", path, what or ("another answer" if off > allowed else ""))
    has_jobs = b'"/jobs"' in ask(Case("", "/openapi.json", b"", 200, method="GET"))[1]
    for case in contract_cases.cases(manifest, has_jobs):
        if not http or _travels(case):
            status, text = ask(case)
            tell(case.kind, case.path, case.differs(status, _document(text)))
    return found


def _document(text: bytes) -> Any:
    with contextlib.suppress(orjson.JSONDecodeError):
        return orjson.loads(text)


def _travels(case: Case) -> bool:
    if (
        case.event
        or "content-encoding" in case.headers
        or len(case.body) > event_sources.MAX_PAYLOAD_BYTES
    ):
        return False
    try:
        "".join(case.headers.values()).encode("ascii")
        return (
            case.headers["content-type"] in contract_cases.BINARY or case.body.decode() is not None
        )
    except UnicodeError:
        return False


def local(directory: Path) -> Ask:
    """Ask the handler, by events that a REST API would send. Nothing of it is stored or logged."""
    from handler import app

    handler = app.create(settings.Settings(directory, jobs_bucket="-", jobs_queue_url="-"))

    def ask(case: Case) -> tuple[int, bytes]:
        headers = list(case.headers.items())
        call = event_sources.HttpRequest(case.method, case.path, headers, case.body)
        event = {**event_sources.make_event("rest", call, "check"), **(case.event or {})}
        with contextlib.redirect_stdout(io.StringIO()):
            reply = event_sources.parse_response(handler(event, None))
        return reply.status, reply.body

    return ask


def remote(url: str, given: list[str]) -> Ask:
    """Ask over HTTP. Raises OSError where nothing answers."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.session import Session

    session, host = Session(), urlsplit(url).hostname or ""
    own = {
        name.strip().lower(): value.strip() for name, _, value in (h.partition(":") for h in given)
    }
    credentials = None if own else session.get_credentials()
    service = "lambda" if ".lambda-url." in host else "execute-api"
    parts = host.split(".")
    region = (
        parts[2]
        if (len(parts) > 3 and parts[-2:] == ["amazonaws", "com"]) or ".on.aws" in host
        else (session.get_config_variable("region"))
    )

    def ask(case: Case) -> tuple[int, bytes]:
        headers = {**case.headers, **own}
        request = AWSRequest(case.method, url.rstrip("/") + case.path, headers, case.body)
        if credentials and region:
            SigV4Auth(credentials, service, region).add_auth(request)
        sent = urllib.request.Request(  # noqa: S310  (the caller's own URL)
            request.url, case.body or None, dict(request.headers), method=case.method
        )
        try:
            reply = urllib.request.urlopen(sent, timeout=SECONDS)  # noqa: S310
        except HTTPError as error:
            reply = error
        with reply:
            return reply.status, reply.read()

    return ask
