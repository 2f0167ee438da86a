"""Bad input that a contract implies, each with the answer that it must get.

A breach is one thing wrong with an instance, a case is one request. What the release gate sends to
a new version is made here (`few`); `answerable conformance` and the tests send more of it,
through every protocol (answerable/contract_cases.py). Nothing is drawn at random: two runs ask the same.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import orjson

from handler import errors
from handler.contract import EXACT, example, feature_bounds, number_bounds
from handler.errors import MAX_VIOLATIONS, pointer
from handler.manifest import Feature, Manifest, Tensor
from handler.model_inputs import dtype

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
CLIENT_TEXT = "answerable unknown"  # what the client's own text is in all of this
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
    kinds = {tensor.name: tensor.dtype for tensor in manifest.inputs}
    for feature in manifest.features:
        for kind, text, code in _feature(feature, kinds[feature.input], rounded):
            yield BadValue(kind, (feature.name,), text, code, (feature.name,))
    if not manifest.features:
        skip = 0 if manifest.execution.batch == "none" else 1
        for tensor in manifest.inputs:
            yield from _tensor(tensor, tensor.shape[skip:], manifest.limits.elements)


def _feature(feature: Feature, kind: str, rounded: bool) -> Iterator[tuple[str, str | None, str]]:
    closed = feature.type == "category" and feature.unknown_category == "reject"
    words = feature.type == "text" or (
        isinstance(feature.categories[0], str) if closed else kind == "string"
    )
    wrong = "unknown_category" if closed and words else "type"
    if not feature.nullable:
        yield "missing", None, "missing"
        yield "null", "null", wrong
    yield "wrong type", "{}", wrong
    yield "wrong type", "[]", wrong
    if feature.type == "boolean":
        yield "number for a flag", "1", "type"
        yield "text for a flag", '"true"', "type"
        yield "text for a flag", _text(CLIENT_TEXT), "type"
        return
    yield "flag", "true", wrong
    if words:
        yield "number for text", "1", wrong
        if feature.max_length is not None and feature.max_length < 10_000:
            long = CLIENT_TEXT.ljust(feature.max_length + 1, "é")[: feature.max_length + 1]
            yield "too long", _text(long), "too_long"
    else:
        yield from _number("" if closed else kind)
    if closed:
        unseen = _text(CLIENT_TEXT) if words else str(max(map(float, feature.categories)) + 1)
        yield "unseen category", unseen, "unknown_category"
    elif feature.type in ("number", "integer"):
        low, high = feature_bounds(feature, kind)
        whole = feature.type == "integer"
        yield from _outside(low, high, whole, kind if rounded else "float64")
        if whole and low != high:
            example = float(feature.example or 0)
            yield "fraction", str(example + (-0.5 if example == high else 0.5)), "type"


def _text(value: str) -> str:
    return orjson.dumps(value).decode()


def _number(kind: str) -> Iterator[tuple[str, str, str]]:
    """What is no number, or none that fits any float."""
    yield "text for a number", '"1"', "type"
    yield "text for a number", _text(CLIENT_TEXT), "type"
    for text in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999"):
        yield "not finite", text, "non_finite"
    if kind == "float32":
        yield "overflow", "1e39", "out_of_range"


def _outside(
    low: float | None, high: float | None, whole: bool, kind: str
) -> Iterator[tuple[str, str, str]]:
    """The next number under and over the bounds, whole or of a dtype."""
    made = dtype(kind if kind in EXACT else "float64").type
    for bound, way in ((low, -1), (high, 1)):
        if bound is None:
            continue
        if whole:
            value: float = (math.ceil(bound) if way < 0 else math.floor(bound)) + way
            if kind in EXACT and made(value) == bound:  # 2^24 + 1 is no float32
                value += way
        else:
            with np.errstate(over="ignore"):
                value = float(np.nextafter(made(bound), made(way * math.inf)))
        if math.isfinite(value):
            yield "just outside", repr(value), "out_of_range"


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
    for kind, text, code in _element(tensor.dtype):
        yield BadValue(kind, first, text, code, first)


def _element(kind: str) -> Iterator[tuple[str, str, str]]:
    yield "null", "null", "type"
    yield "too deep", "[0]", "type"
    yield "wrong type", "{}", "type"
    if kind != "bool":
        yield "flag", "true", "type"
    if kind in ("bool", "string"):
        yield "number for another", "1", "type"
        return
    yield from _number(kind)
    whole = dtype(kind).kind in "iu"
    yield from _outside(*number_bounds(kind), whole, kind)
    if whole:
        yield "fraction", "0.5", "type"
