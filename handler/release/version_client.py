"""Asking a deployed version whether it is what it says, by invoking it past the gateway.

Every request is marked as synthetic, so that it is in no metric, no drift and no alarm. Used by the
release gate in Lambda and by `answerable release` on a laptop; whoever uses it brings the client.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from handler import manifest as manifests
from handler.manifest import Manifest
from handler.release import contract_cases, golden

MAX_REASONS = 5  # reasons, after which nothing more is asked


class VersionResponse(NamedTuple):
    """Status 0 stands for a function that crashed or timed out, and gave no reply at all."""

    status: int
    body: str
    ms: float
    version: str

    def json(self) -> Any:
        """The body; None where it is none."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None


class CheckResult(NamedTuple):
    """`reasons` against the version, none if it passed; over how many rows; the slowest answer."""

    reasons: list[str]
    rows: int
    slowest_ms: float


class OutOfTimeError(Exception):
    """What is left of the prover's own time does not suffice for another question."""


class VersionClient:
    """A function version, or an alias, that is invoked; `check` may raise before each call."""

    def __init__(self, client: Any, arn: str, check: Callable[[], None] = lambda: None) -> None:
        self.arn, self._client, self._check = arn, client, check

    def sibling(self, qualifier: str) -> "VersionClient":
        """Another version or alias of the same function."""
        return VersionClient(
            self._client, f"{self.arn.rpartition(':')[0]}:{qualifier}", self._check
        )

    def call(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> VersionResponse:
        """The answer to what a REST API would send; header names have _ for -."""
        event = {
            "resource": path,
            "path": path,
            "httpMethod": method,
            "headers": {name.replace("_", "-"): value for name, value in headers.items()},
            "requestContext": {"stage": "release", "synthetic": True},
            "body": body,
            "isBase64Encoded": False,
        }
        start = time.perf_counter()
        answer, version = self.invoke(event)
        ms = (time.perf_counter() - start) * 1e3
        if not isinstance(answer, dict) or "statusCode" not in answer:
            answer = {"statusCode": 0, "body": ""}
        return VersionResponse(answer["statusCode"], answer["body"], ms, version)

    def invoke(self, event: Any) -> tuple[Any, str]:
        """What it answers to any event, None if it crashed or timed out; and who answered."""
        self._check()
        found = self._client.invoke(FunctionName=self.arn, Payload=orjson.dumps(event))
        answer = orjson.loads(found["Payload"].read() or b"null")
        return None if found.get("FunctionError") else answer, found.get("ExecutedVersion", "")

    def manifest(self) -> tuple[Manifest | None, str]:
        """The manifest that it shows, or why there is none. Raises ArtifactError if misshapen."""
        reply = self.call("GET", "/model")
        if reply.status != 200:
            said = reply.json()
            detail = said.get("detail", "") if isinstance(said, dict) else ""
            return None, f"GET /model: {_status(reply)} {detail}".strip()
        return manifests.parse(reply.body), ""


def _status(reply: VersionResponse) -> str:
    return str(reply.status) if reply.status else "crashed or timed out"


def check_golden_rows(version: VersionClient, manifest: Manifest, budget_ms: float) -> CheckResult:
    """Send the version its own golden rows. The call before must have warmed it."""
    reasons: list[str] = []
    slowest, count, digest = 0.0, 0, hashlib.sha256()
    allowed = golden.tolerance(manifest)
    model = {"name": manifest.name, "version": manifest.version}
    while len(reasons) < MAX_REASONS:
        line = version.call("GET", f"/golden/{count}")
        if line.status != 200:
            if line.status != 404:
                reasons.append(f"golden row {count + 1}: {_status(line)}")
            break
        digest.update(line.body.encode() + b"\n")
        count, row = count + 1, golden.row(line.body)
        body = orjson.dumps({"instances": [row.instance]}).decode()
        reply = version.call("POST", "/predict", body)
        if reply.ms > budget_ms:  # a hiccup on the way is not the version's fault, twice is
            reply = version.call("POST", "/predict", body)
        slowest = max(slowest, reply.ms)
        if reply.ms > budget_ms:
            reasons.append(f"{row.name}: took {reply.ms:.0f} ms twice, allowed {budget_ms:g}")
        found = reply.json()
        if reply.status != 200 or not isinstance(found, dict):
            reasons.append(f"{row.name}: {_status(reply)}")
            continue
        off = golden.deviation([row.prediction], found.get("predictions"))
        if off > allowed:
            reasons.append(f"{row.name}: {off:.2g} from its golden answer, allowed {allowed:g}")
        if found.get("model") != model:
            reasons.append(f"{row.name}: answered by another model")
    known = manifest.files.get(golden.FILE_NAME)
    if not reasons and (known is None or not count or known.sha256 != digest.hexdigest()):
        reasons.append("its golden rows are not the ones that were packed")
    return CheckResult(reasons, count, slowest)


def golden_instances(version: VersionClient, rows: int) -> Iterator[Any]:
    """The instances of a version's own golden rows."""
    for number in range(rows):
        yield golden.row(version.call("GET", f"/golden/{number}").body).instance


def compare_versions(
    old: VersionClient, new: VersionClient, instances: Iterable[Any]
) -> tuple[int, float]:
    """How many instances the two answer differently, and the largest finite difference. What one
    of them refuses is a difference too.
    """
    differing, largest = 0, 0.0
    for instance in instances:
        body = orjson.dumps({"instances": [instance]}).decode()
        before, after = (version.call("POST", "/predict", body) for version in (old, new))
        off = math.inf if before.status != after.status else 0.0
        if before.status == after.status == 200:
            was, now = (reply.json()["predictions"][0] for reply in (before, after))
            # an id is another one each time, and an output may be new
            common = {k: v for k, v in was.items() if k in now and k != "id"}
            off = golden.deviation(common, now)
        differing += off > golden.ELSEWHERE
        largest = max(largest, off if math.isfinite(off) else 0.0)
    return differing, largest


def check_refusals(version: VersionClient, manifest: Manifest) -> CheckResult:
    """Send the version what its contract forbids."""
    reasons: list[str] = []
    cases = list(contract_cases.smoke_cases(manifest))
    for case in cases:
        reply = version.call(case.method, case.path, case.body.decode(), **case.headers)
        differs = case.differs(reply.status, reply.json())
        if differs:
            reasons.append(f"{case.kind}: {differs}")
        if len(reasons) == MAX_REASONS:
            break
    return CheckResult(reasons, len(cases), 0.0)
