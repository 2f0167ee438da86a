"""Fixed bad requests that every version must refuse, made from its manifest and a good instance."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from handler.errors import MAX_VIOLATIONS, pointer
from handler.manifest import Manifest

MAX_REQUESTS = 10  # with bad instances; each has up to MAX_VIOLATIONS of them
ENVELOPE_BYTES = 6 * 1024 * 1024 - 4096  # of an event, for its body


class SmokeCase(NamedTuple):
    """A request, the status it must get, and the pointers of all violations."""

    kind: str
    status: int
    body: str = ""
    pointers: tuple[str, ...] = ()
    path: str = "/predict"
    method: str = "POST"
    content_type: str = "application/json"

    def mismatch(self, status: int, document: Any) -> str:
        """Return what is wrong with a response, "" if nothing is."""
        if status != self.status:
            return f"{status or 'no answer'} instead of {self.status}"
        if not isinstance(document, dict) or not document.get("error"):
            return "no problem document"
        pointers = tuple(violation.get("pointer") for violation in document.get("errors", ()))
        return "" if pointers == self.pointers else "other violations"


def smoke_cases(manifest: Manifest, good: dict[str, Any]) -> Iterator[SmokeCase]:
    """Yield the cases: bad envelopes, then instances that differ from `good` in one field."""
    yield SmokeCase("GET", 405, method="GET")
    yield SmokeCase("an unknown path", 404, "{}", path="/predict/x")
    yield SmokeCase("CSV", 415, "1,2", content_type="text/csv")
    yield SmokeCase("not JSON", 400, "{")
    yield SmokeCase("no object", 422, "[]", ("",))
    yield SmokeCase("no instances", 422, "{}", ("/instances",))
    yield SmokeCase("no rows", 422, '{"instances":[]}', ("/instances",))
    instances = list(_bad_instances(manifest, good))
    instance_bytes = max(len(orjson.dumps(instance)) for _, instance in instances) + 1
    max_bytes = min(manifest.limits.body_bytes, ENVELOPE_BYTES)
    rows = max(1, min(MAX_VIOLATIONS, manifest.limits.rows, max_bytes // instance_bytes - 1))
    for i in range(0, min(len(instances), MAX_REQUESTS * rows), rows):
        batch = instances[i : i + rows]
        body = orjson.dumps({"instances": [instance for _, instance in batch]}).decode()
        pointers = tuple(pointer("instances", n, name) for n, (name, _) in enumerate(batch))
        yield SmokeCase(f"{batch[0][0]} and so on", 422, body, pointers)


def _bad_instances(manifest: Manifest, good: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the bad field's name and the instance: a wrong value, then no value where required."""
    for name in [f.name for f in manifest.features] or [t.name for t in manifest.inputs]:
        yield name, {**good, name: {}}
    for feature in manifest.features:
        high = feature.maximum if feature.out_of_range == "reject" else None
        if isinstance(high, int | float) and abs(high) < 1e300:
            yield feature.name, {**good, feature.name: abs(high) * 2 + 1}
        if not feature.nullable:
            yield feature.name, {key: good[key] for key in good if key != feature.name}
