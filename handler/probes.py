"""Asking a deployed version whether it is what it says, by invoking it past the gateway.

Every request is marked as synthetic, so that it is in no metric, no drift and no alarm. Used by the
release gate in Lambda and by `tools release` on a laptop; whoever uses it brings the client.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from handler import golden
from handler import manifest as manifests
from handler.contract import example
from handler.errors import MAX_VIOLATIONS, pointer
from handler.manifest import Feature, Manifest

ENVELOPE = 6 * 1024 * 1024 - 4096  # of an event, for the body
ENOUGH = 5  # reasons, after which nothing more is asked


class Reply(NamedTuple):
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


class Outcome(NamedTuple):
    """`reasons` against the version, none if it passed; over how many rows; the slowest answer."""

    reasons: list[str]
    rows: int
    slowest_ms: float


class OutOfTimeError(Exception):
    """What is left of the prover's own time does not suffice for another question."""


class Version:
    """A function version, or an alias, that is invoked; `check` may raise before each call."""

    def __init__(self, client: Any, arn: str, check: Callable[[], None] = lambda: None) -> None:
        self.arn, self._client, self._check = arn, client, check

    def sibling(self, qualifier: str) -> "Version":
        """Another version or alias of the same function."""
        return Version(self._client, f"{self.arn.rpartition(':')[0]}:{qualifier}", self._check)

    def call(self, method: str, path: str, body: str | None = None, **headers: str) -> Reply:
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
        return Reply(answer["statusCode"], answer["body"], ms, version)

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


def _status(reply: Reply) -> str:
    return str(reply.status) if reply.status else "crashed or timed out"


def replay(version: Version, manifest: Manifest, budget_ms: float) -> Outcome:
    """Send the version its own golden rows. The call before must have warmed it."""
    reasons: list[str] = []
    slowest, count, digest = 0.0, 0, hashlib.sha256()
    allowed = golden.tolerance(manifest)
    model = {"name": manifest.name, "version": manifest.version}
    while len(reasons) < ENOUGH:
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
    return Outcome(reasons, count, slowest)


def golden_instances(version: Version, rows: int) -> Iterator[Any]:
    """The instances of a version's own golden rows."""
    for number in range(rows):
        yield golden.row(version.call("GET", f"/golden/{number}").body).instance


def compare(old: Version, new: Version, instances: Iterable[Any]) -> tuple[int, float]:
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


class Bad(NamedTuple):
    """A request that must be refused, with this status and for these places of the body."""

    name: str
    request: tuple[str, str, str | None]
    status: int
    pointers: tuple[str, ...] = ()
    content_type: str = "application/json"


def refusals(version: Version, manifest: Manifest) -> Outcome:
    """Send the version what its contract forbids."""
    reasons: list[str] = []
    requests = list(bad_requests(manifest))
    for bad in requests:
        reply = version.call(*bad.request, content_type=bad.content_type)
        problem = reply.json()
        listed = problem.get("errors", []) if isinstance(problem, dict) else []
        found = tuple(error["pointer"] for error in listed)
        if reply.status != bad.status or found != bad.pointers:
            reasons.append(f"{bad.name}: {_status(reply)} instead of {bad.status}, or elsewhere")
        if len(reasons) == ENOUGH:
            break
    return Outcome(reasons, len(requests), 0.0)


def bad_requests(manifest: Manifest) -> Iterator[Bad]:
    """A small set, derived from the contract: one row breaks one rule."""
    good = example(manifest)
    limits = manifest.limits

    def predict(name: str, instances: list[Any], *pointers: str) -> Bad:
        body = orjson.dumps({"instances": instances}).decode()
        return Bad(name, ("POST", "/predict", body), 422, pointers)

    yield Bad("not JSON", ("POST", "/predict", "{"), 400)
    yield Bad("CSV", ("POST", "/predict", "1,2"), 415, content_type="text/csv")
    yield Bad("GET", ("GET", "/predict", None), 405)
    yield Bad("an unknown path", ("POST", "/predict/x", "{}"), 404)
    yield Bad("no instances", ("POST", "/predict", "{}"), 422, ("/instances",))
    yield predict("no rows", [], "/instances")
    yield predict("a row that is no object", [1], "/instances/0")
    yield predict("an unknown field", [{**good, "answerable unknown": 1}], "/instances/0")
    if 3 * limits.rows < min(limits.body_bytes, ENVELOPE) - 20:
        yield predict("too many rows", [{}] * (limits.rows + 1), "/instances")
    if limits.body_bytes < ENVELOPE:
        yield Bad("too large", ("POST", "/predict", " " * (limits.body_bytes + 1)), 413)
    needed = [f.name for f in manifest.features if not f.nullable] or [
        tensor.name for tensor in manifest.inputs if not manifest.features
    ]
    for name in needed[:MAX_VIOLATIONS]:
        row = {key: value for key, value in good.items() if key != name}
        yield predict(f"{name} is missing", [row], f"/instances/0{pointer(name)}")
    wrong = [(f.name, *pair) for f in manifest.features for pair in _wrong(f)]
    step = min(MAX_VIOLATIONS, limits.rows)
    for i in range(0, min(len(wrong), 10 * step), step):
        part = wrong[i : i + step]
        rows = [{**good, name: value} for name, _, value in part]
        places = [pointer("instances", n, name) for n, (name, _, _) in enumerate(part)]
        yield predict(f"{part[0][0]} {part[0][1]}, and so on", rows, *places)


def _wrong(feature: Feature) -> Iterator[tuple[str, Any]]:
    """Values that a feature does not take, with what is wrong about each."""
    yield "is an object", {}
    if not feature.nullable:
        yield "is null", None
    if feature.type in ("number", "integer"):
        yield "is text", "x"
        if feature.out_of_range == "reject":
            for name, bound, sign in (("low", feature.minimum, -1), ("high", feature.maximum, 1)):
                if bound is not None:
                    yield f"is too {name}", bound + sign * (1 + abs(bound))
    elif feature.type == "text" and (feature.max_length or ENVELOPE) < 10_000:
        yield "is too long", "x" * ((feature.max_length or 0) + 1)
    elif feature.type == "category" and feature.unseen == "reject":
        yield "is unseen", "answerable unseen"
