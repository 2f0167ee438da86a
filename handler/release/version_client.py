"""Call one deployed version by `lambda:Invoke`, without the gateway, and check its answers.

Requests are marked as synthetic, so they count in no metric, drift or alarm. Used by the deploy
hooks and the rollback functions in Lambda, and by `answerable release`; the caller has the client.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from handler import manifest as manifests
from handler.manifest import Manifest
from handler.release import golden
from handler.release.smoke_cases import smoke_cases

MAX_REASONS = 5  # after which a check ends


class VersionResponse(NamedTuple):
    """A response; status 0 means that the function crashed or timed out."""

    status: int
    body: str
    ms: float
    version: str

    def json(self) -> Any:
        """Return the parsed body, None if it is no JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None


class CheckResult(NamedTuple):
    """`reasons` against the version, empty if it passed; `rows` were checked."""

    reasons: list[str]
    rows: int
    slowest_ms: float


class OutOfTimeError(Exception):
    """The caller has no time left for another call of the version."""


class VersionClient:
    """A function's version, or its alias. `before_each_call` may raise, to stop in time."""

    def __init__(
        self, client: Any, arn: str, before_each_call: Callable[[], None] = lambda: None
    ) -> None:
        self.arn, self._client, self._before_each_call = arn, client, before_each_call

    def sibling(self, qualifier: str) -> "VersionClient":
        """Return another version or alias of the same function."""
        return self.other(f"{self.arn.rpartition(':')[0]}:{qualifier}")

    def other(self, arn: str) -> "VersionClient":
        """Return a version of another function."""
        return VersionClient(self._client, arn, self._before_each_call)

    def call(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> VersionResponse:
        """Send the event of a REST API; header names have _ for -."""
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
        """Return the answer to an event, None if it crashed or timed out, and the version."""
        self._before_each_call()
        response = self._client.invoke(FunctionName=self.arn, Payload=orjson.dumps(event))
        answer = orjson.loads(response["Payload"].read() or b"null")
        failed = response.get("FunctionError")
        return None if failed else answer, response.get("ExecutedVersion", "")

    def starts(self) -> bool:
        """Return whether a version of the worker loads its model, which precedes any job."""
        return self.invoke({"Records": []})[0] is not None

    def manifest(self) -> tuple[Manifest | None, str]:
        """Return its manifest, or None and the reason. Raises ArtifactError if malformed."""
        reply = self.call("GET", "/model")
        if reply.status == 200:
            return manifests.parse(reply.body), ""
        problem = reply.json()
        detail = problem.get("detail", "") if isinstance(problem, dict) else ""
        return None, f"GET /model: {_status(reply)} {detail}".strip()


def _status(reply: VersionResponse) -> str:
    return str(reply.status) if reply.status else "crashed or timed out"


def check_golden_rows(version: VersionClient, manifest: Manifest, budget_ms: float) -> CheckResult:
    """Send the version its own golden rows, one by one, and compare the predictions.

    A response may take `budget_ms`, or it is asked again. An earlier call must have warmed it.
    """
    reasons: list[str] = []
    slowest, count, digest = 0.0, 0, hashlib.sha256()
    tolerance = golden.tolerance(manifest)
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
        if reply.ms > budget_ms:  # one slow call may be the network's
            reply = version.call("POST", "/predict", body)
        slowest = max(slowest, reply.ms)
        if reply.ms > budget_ms:
            reasons.append(f"{row.name}: took {reply.ms:.0f} ms twice, allowed {budget_ms:g}")
        answer = reply.json()
        if reply.status != 200 or not isinstance(answer, dict):
            reasons.append(f"{row.name}: {_status(reply)}")
            continue
        deviation = golden.deviation([row.prediction], answer.get("predictions"))
        if deviation > tolerance:
            difference = f"{deviation:.2g} from its golden answer"
            reasons.append(f"{row.name}: {difference}, allowed {tolerance:g}")
        if answer.get("model") != model:
            reasons.append(f"{row.name}: answered by another model")
    file = manifest.files.get(golden.FILE_NAME)
    if not reasons and (file is None or not count or file.sha256 != digest.hexdigest()):
        reasons.append("its golden rows are not the ones that were packed")
    return CheckResult(reasons, count, slowest)


def golden_instances(version: VersionClient, rows: int) -> Iterator[Any]:
    """Yield the instances of a version's first golden rows."""
    for number in range(rows):
        yield golden.row(version.call("GET", f"/golden/{number}").body).instance


def compare_versions(
    old: VersionClient, new: VersionClient, instances: Iterable[Any]
) -> tuple[int, float]:
    """Return how many instances the two answer otherwise, and the largest finite deviation."""
    differing, largest = 0, 0.0
    for instance in instances:
        body = orjson.dumps({"instances": [instance]}).decode()
        replies = [version.call("POST", "/predict", body) for version in (old, new)]
        statuses = {reply.status for reply in replies}
        deviation = math.inf if len(statuses) > 1 else 0.0
        if statuses == {200}:
            old_row, new_row = (reply.json()["predictions"][0] for reply in replies)
            # ids are always different, and an output may be new
            common = {k: v for k, v in old_row.items() if k in new_row and k != "id"}
            deviation = golden.deviation(common, new_row)
        differing += deviation > golden.ELSEWHERE
        largest = max(largest, deviation if math.isfinite(deviation) else 0.0)
    return differing, largest


def check_refusals(version: VersionClient, manifest: Manifest, good: dict[str, Any]) -> CheckResult:
    """Send the version what its contract forbids; `good` is an instance that it accepts."""
    reasons: list[str] = []
    cases = list(smoke_cases(manifest, good))
    for case in cases:
        reply = version.call(case.method, case.path, case.body, content_type=case.content_type)
        if mismatch := case.mismatch(reply.status, reply.json()):
            reasons.append(f"{case.kind}: {mismatch}")
        if len(reasons) == MAX_REASONS:
            break
    return CheckResult(reasons, len(cases), 0.0)
