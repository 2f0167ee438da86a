"""Bad input that a contract implies, each with the answer that it must get.

A breach is one thing wrong with an instance, a case is one request. What the release gate sends to
a new version is made here (`few`); `answerable conformance` and the tests send more of it,
through every protocol (answerable/contract_cases.py). Nothing is drawn at random: two runs ask the same.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from handler import errors, feature_types
from handler.errors import MAX_VIOLATIONS, pointer
from handler.feature_types import CLIENT_TEXT
from handler.manifest import Manifest, Tensor
from handler.validate import example

ENVELOPE = 6 * 1024 * 1024 - 4096  # of an event, for the body
PACKS = 10  # requests at most that the gate fills with breaches
KINDS = {
    refusal.status: refusal.slug
    for refusal in (
        errors.BadRequest,
        errors.NotFound,
        errors.MethodNotAllowed,
        errors.PayloadTooLarge,
        errors.UnsupportedMediaType,
        errors.ContractViolation,
    )
}
_JSON = {"content-type": "application/json"}
Places = tuple[tuple[str, str], ...]


class BadValue(NamedTuple):
    """`text` is the value as JSON, or what JSON does not have; None leaves the field out. `at`
    leads from the instance to the value, `place` to where the violation is told with `code`.
    """

    kind: str
    at: tuple[str | int, ...]
    text: str | None
    code: str
    place: tuple[str | int, ...]


class Case(NamedTuple):
    """A request, the status that it must get, and pointer and code of every violation.

    `event`: what no HTTP request can make a front write, so it is for fields of an event only.
    """

    kind: str
    path: str
    body: bytes
    status: int
    places: Places = ()
    headers: dict[str, str] = _JSON
    method: str = "POST"
    event: dict[str, Any] | None = None

    def differs(self, status: int, document: Any) -> str:
        """What is not as it must be about an answer, in words of ours; "" if all is."""
        if status != self.status:
            return f"{status or 'no answer'} instead of {self.status}"
        if status == 200:
            return ""
        if not isinstance(document, dict) or document.get("error") in (None, ""):
            return "no problem document"
        if document.get("type") != f"urn:answerable:problem:{KINDS[status]}":
            return "another problem"
        told = [(each.get("pointer"), each.get("code")) for each in document.get("errors", ())]
        return "" if told == list(self.places) else "other violations"


def smoke_cases(manifest: Manifest) -> Iterator[Case]:
    """A small part, of `/predict` alone: each row of a request breaks the contract once."""
    yield Case("GET", "/predict", b"", 405, method="GET")
    yield Case("an unknown path", "/predict/x", b"{}", 404)
    yield Case("CSV", "/predict", b"1,2", 415, headers={"content-type": "text/csv"})
    yield Case("not JSON", "/predict", b"{", 400)
    if manifest.limits.body_bytes < ENVELOPE:
        yield Case("too large", "/predict", b" " * (manifest.limits.body_bytes + 1), 413)
    yield from envelopes(manifest, "/predict")
    found = list(bad_values(manifest))
    longest = max(len(instance(manifest, breach)) for breach in found)
    most = min(manifest.limits.body_bytes, ENVELOPE) // (longest + 1) - 1
    step = max(1, min(MAX_VIOLATIONS, manifest.limits.rows, most))
    for i in range(0, min(len(found), PACKS * step), step):
        part = found[i : i + step]
        places = [(pointer("instances", n, *b.place), b.code) for n, b in enumerate(part)]
        kind = f"{part[0].kind} of {part[0].at[0]}, and so on"
        yield Case(kind, "/predict", body(*(instance(manifest, b) for b in part)), 422, (*places,))


def body(*instances: bytes) -> bytes:
    """The JSON body of instances that are JSON."""
    return b'{"instances":[%b]}' % b",".join(instances)


def instance(manifest: Manifest, breach: BadValue | None = None) -> bytes:
    """The contract's example as JSON, with one thing wrong with it."""
    row = orjson.loads(orjson.dumps(example(manifest)))  # its lists are one and the same
    if breach:
        *way, last = breach.at
        part = row
        for step in way:
            part = part[step]
        if breach.text is None:
            del part[last]
        else:
            part[last] = orjson.Fragment(breach.text)
    return orjson.dumps(row)


def envelopes(manifest: Manifest, path: str) -> Iterator[Case]:
    """What may be wrong around the instances."""
    good, rows = instance(manifest), manifest.limits.rows

    def case(kind: str, text: bytes, *places: tuple[str, str]) -> Case:
        return Case(kind, path, text, 422, places)

    junk = orjson.dumps(CLIENT_TEXT)
    for other in (b"null", b"[]", junk, b"1"):
        yield case("no object", other, ("", "type"))
    yield case("no instances", b"{}", ("/instances", "missing"))
    for other in (b"null", b"{}", junk, b"1"):
        yield case("no list of instances", b'{"instances":%b}' % other, ("/instances", "type"))
    yield case("no rows", body(), ("/instances", "wrong_length"))
    for other in (b"1", b"null", b"[]", junk):
        yield case("a row that is no object", body(other), ("/instances/0", "type"))
    text = b"%b,%b:1}" % (good[:-1], junk)
    yield case("an unknown field", body(text), ("/instances/0", "unknown_field"))
    yield case("an unknown field", b"%b,%b:1}" % (body(good)[:-1], junk), ("", "unknown_field"))
    if 3 * rows < min(manifest.limits.body_bytes, ENVELOPE) - 20:
        text = body(*[b"{}"] * (rows + 1))
        yield case("too many rows", text, ("/instances", "wrong_length"))
    needed = [f.name for f in manifest.features if not f.nullable]
    needed = needed if manifest.features else [tensor.name for tensor in manifest.inputs]
    if needed:
        count = min(rows, MAX_VIOLATIONS // len(needed) + 1)
        places = [(pointer("instances", i, n), "missing") for i in range(count) for n in needed]
        yield case("empty rows", body(*[b"{}"] * count), *places[:MAX_VIOLATIONS])


def bad_values(manifest: Manifest, rounded: bool = False) -> Iterator[BadValue]:
    """One for each rule that the contract makes of a value; `rounded`: of one that has the
    precision of its tensor.
    """
    for feature_type in feature_types.of(manifest):
        name = feature_type.feature.name
        for kind, text, code in feature_type.bad_values():
            yield BadValue(kind, (name,), text, code, (name,))
    if not manifest.features:
        for tensor in manifest.inputs:
            yield from _tensor(tensor, manifest.row_shape(tensor), manifest.limits.elements)


def _tensor(tensor: Tensor, shape: tuple[int | None, ...], elements: int) -> Iterator[BadValue]:
    name = tensor.name
    first: tuple[str | int, ...] = (name, *(0 for _ in shape))

    def one(kind: str, text: str | None, code: str, *place: str | int) -> BadValue:
        return BadValue(kind, (name,), text, code, (name, *place))

    yield one("missing", None, "missing")
    yield one("null", "null", "type")
    yield one("wrong type", "{}", "type")
    inner = {"bool": "true", "string": '""'}.get(tensor.dtype, "1")
    for size in reversed(shape[1:]):
        inner = f"[{','.join([inner] * (size or 1))}]"
    if shape:
        yield one("too shallow", "0", "type")
        most = elements if shape[0] is None else shape[0]
        if len(inner) * most < 1_000_000:
            yield one("too long", f"[{','.join([inner] * (most + 1))}]", "wrong_length")
        if shape[0]:
            yield one("too short", f"[{','.join([inner] * (shape[0] - 1))}]", "wrong_length")
    if len(shape) > 1:
        yield one("too shallow", f"[{','.join(['0'] * (shape[0] or 1))}]", "type", 0)
    for kind, text, code in feature_types.bad_elements(tensor):
        yield BadValue(kind, first, text, code, first)
