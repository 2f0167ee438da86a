"""Make the requests that a contract implies, each with the response that it must get.

Every protocol gets accepted values, forbidden values and malformed bodies. Nothing is random: two
runs send the same requests.

Schemathesis's negative mode is no substitute: it expects a status, but neither pointer nor code.
Measured on six features: 1,000 examples take 11 s per path and miss three of 18 pairs of feature
and code (NaN has no JSON form). The 64 bad values made here take 0.1 s and cover all 18.
"""

import gzip
import io
import math
from binascii import a2b_base64
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import orjson

from answerable.packing import feature_types as packed_types
from answerable.packing.feature_types import CLIENT_TEXT, NOT_FINITE
from handler import errors, feature_types
from handler.errors import MAX_VIOLATIONS, pointer
from handler.feedback import MAX_BODY_BYTES
from handler.http import INFERENCE_HEADER_LENGTH
from handler.manifest import Manifest, Tensor
from handler.model_inputs import dtype
from handler.prediction_id import MAX_OUTCOMES
from handler.protocols import binary
from handler.protocols.open_inference import DATATYPES
from handler.validate import example

MAX_EVENT_BYTES = 6 * 1024 * 1024 - 4096  # of an event, for the body
MAX_FEATURES = 20  # whose bad values every protocol gets; /predict gets those of all
MAX_CASE_BYTES = 1_000_000  # of a bad tensor's JSON
PROBLEMS = {
    error.status: errors.problem_type(error.slug)
    for error in (
        errors.BadRequest, errors.NotFound, errors.MethodNotAllowed, errors.PayloadTooLarge,
        errors.UnsupportedMediaType, errors.ContractViolation,
    )
}  # fmt: skip
TEXT = CLIENT_TEXT.encode()
ACCEPTED = "accepted"
Headers = dict[str, str]
Violations = tuple[tuple[str, str], ...]  # pointer and code
BINARY = ("application/x-npy", "application/octet-stream")  # the REST API's binary media types
JSON, CSV = {"content-type": "application/json"}, {"content-type": "text/csv"}
NPY, OCTETS = ({"content-type": kind} for kind in BINARY)
GZIP = {**JSON, "content-encoding": "gzip"}


class Case(NamedTuple):
    """A request, the status that it must get, and the violations that the problem must list.

    `event` replaces fields of the Lambda event, for what no HTTP request can contain.
    """

    kind: str
    path: str
    body: bytes
    status: int
    violations: Violations = ()
    headers: Headers = JSON
    method: str = "POST"
    event: dict[str, Any] | None = None

    def mismatch(self, status: int, document: Any) -> str:
        """Return how a response differs from the expected one, without quoting it; "" if equal."""
        if status != self.status:
            return f"{status or 'no answer'} instead of {self.status}"
        if status == 200:
            return ""
        if not isinstance(document, dict) or document.get("error") in (None, ""):
            return "no problem document"
        if document.get("type") != PROBLEMS[status]:
            return "another problem"
        pairs = tuple((v.get("pointer"), v.get("code")) for v in document.get("errors", ()))
        return "" if pairs == self.violations else "other violations"


class BadValue(NamedTuple):
    """A field's JSON (None: left out) that breaks one rule, and where the violation points."""

    kind: str
    field: str
    json: str | None
    code: str
    location: tuple[str | int, ...]


def cases(manifest: Manifest, jobs: bool) -> Iterator[Case]:
    """Yield every case, accepted ones first; `jobs`: whether the deployment has jobs."""
    for case in chain(accepted(manifest), _refused(manifest, jobs)):
        if len(case.body) <= _max_body_bytes(manifest, case.path) or case.status == 413:
            yield case


def _max_body_bytes(manifest: Manifest, path: str) -> int:
    return MAX_BODY_BYTES if path == "/feedback" else manifest.limits.body_bytes


def body(*instances: bytes, form: str = "instances") -> bytes:
    """Return the JSON body of instances that are JSON."""
    return b'{"%b":[%b]}' % (form.encode(), b",".join(instances))


def instance(manifest: Manifest, bad: BadValue | None = None) -> bytes:
    """Return the contract's example as JSON, with one bad value."""
    row = dict(example(manifest))
    if bad:
        del row[bad.field]
        row |= {} if bad.json is None else {bad.field: orjson.Fragment(bad.json)}
    return orjson.dumps(row)


# --- accepted ---------------------------------------------------------------------------------


def accepted(manifest: Manifest) -> Iterator[Case]:
    """Yield requests that must get 200: the example by every protocol, then accepted values."""
    good, v1, v2 = body(instance(manifest)), *_model_paths(manifest)
    padded = good.ljust(manifest.limits.body_bytes)
    records = body(instance(manifest), form="dataframe_records")
    text, headers = _framed(*_binary_infer(manifest))
    for path, request in (("/predict", good), ("/invocations", good), ("/invocations", records),
                          (v1, good), (v2, orjson.dumps(_infer(manifest)))):  # fmt: skip
        yield Case(ACCEPTED, path, request, 200)
    yield Case(ACCEPTED, "/predict", gzip.compress(good), 200, headers=GZIP)
    yield Case(ACCEPTED, v2, text, 200, headers=headers)
    yield Case("accepted: as large as may be", "/predict", padded, 200)
    yield from _files(manifest)
    for kind, changes in accepted_values(manifest):
        row = {k: v for k, v in {**example(manifest), **changes}.items() if v is not ...}
        yield Case(f"accepted: {kind}", "/predict", body(orjson.dumps(row)), 200)


def accepted_values(manifest: Manifest) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a kind and fields that change the example, and leave it accepted (...: left out)."""
    baseline = manifest.baseline.features if manifest.baseline else {}
    for feature_type in feature_types.of(manifest):
        name = feature_type.feature.name
        if feature_type.feature.nullable:
            yield "null", {name: None}
            yield "left out", {name: ...}
        for kind, value in packed_types.of(feature_type).accepted(baseline.get(name)):
            yield kind, {name: value}
    shapes = {tensor.name: manifest.row_shape(tensor) for tensor in manifest.inputs}
    free = max(shape.count(None) for shape in shapes.values())
    if manifest.features or not free:
        return
    limits = manifest.limits
    elements = min(limits.elements, limits.body_bytes // 32, limits.response_bytes // 32)
    rest = max(math.prod(n or 1 for n in shape) for shape in shapes.values())
    longest = int((elements // rest // len(shapes)) ** (1 / free))
    for length in sorted({1, 2, 3, 8, longest} - set(range(longest + 1, 9))):
        row = {name: np.array(value, object) for name, value in example(manifest).items()}
        sizes = {tensor.name: _sizes(manifest, tensor, length) for tensor in manifest.inputs}
        yield "a free length", {n: np.resize(row[n], sizes[n]).tolist() for n in row}


def _sizes(manifest: Manifest, tensor: Tensor, length: int) -> list[int]:
    """Return the shape of a row whose free axes have a length, or the nearest that is accepted."""
    shape = manifest.row_shape(tensor)
    lowest, highest = (
        (bounds or (None,) * len(tensor.shape))[-len(shape) or len(tensor.shape) :]
        for bounds in (tensor.min_shape, tensor.max_shape)
    )
    bounded = (max(length, low or 1) for low in lowest)
    lengths = [min(n, high or n) for n, high in zip(bounded, highest, strict=True)]
    return [n or free for n, free in zip(shape, lengths, strict=True)]


# --- forbidden values -------------------------------------------------------------------------


def bad_values(manifest: Manifest, max_features: int | None = None) -> Iterator[BadValue]:
    """Yield one bad value for each rule of each field, or of the first `max_features`."""
    for feature_type in feature_types.of(manifest)[:max_features]:
        name = feature_type.feature.name
        for kind, json, code in packed_types.of(feature_type).bad():
            yield BadValue(kind, name, json, code, (name,))
    if not manifest.features:
        yield from _bad_tensors(manifest)


def _bad_tensors(manifest: Manifest) -> Iterator[BadValue]:
    for tensor in manifest.inputs:
        shape = manifest.row_shape(tensor)
        name, sizes = tensor.name, [n or 1 for n in shape]
        fill = {"bool": "true", "string": '""'}.get(tensor.dtype, "1")
        yield BadValue("missing", name, None, "missing", (name,))
        yield BadValue("null", name, "null", "type", (name,))
        yield BadValue("wrong type", name, "{}", "type", (name,))
        if shape:
            yield BadValue("too shallow", name, "0", "type", (name,))
            longest = manifest.limits.elements if shape[0] is None else shape[0]
            inner = _nest(sizes[1:], fill)
            for kind, size in (("too long", longest + 1), ("too short", (shape[0] or 0) - 1)):
                if size >= 0 and size * len(inner) < MAX_CASE_BYTES:
                    yield BadValue(kind, name, _nest([size], inner), "wrong_length", (name,))
        if len(shape) > 1:
            yield BadValue("too shallow", name, _nest(sizes[:1], "0"), "type", (name, 0))
        for kind, json, code in packed_types.bad_elements(tensor):
            text = _nest(sizes, fill, json)
            yield BadValue(kind, name, text, code, (name, *(0 for _ in shape)))


def _nest(sizes: Sequence[int], fill: str, first: str | None = None) -> str:
    """Return the JSON of nested lists whose elements are `fill`, the first one `first`."""
    if not sizes:
        return first or fill
    head, item = _nest(sizes[1:], fill, first), _nest(sizes[1:], fill)
    return f"[{','.join([head, *[item] * (sizes[0] - 1)][: sizes[0]])}]"


# --- refused ----------------------------------------------------------------------------------


def _refused(manifest: Manifest, jobs: bool) -> Iterator[Case]:
    good, infer = body(instance(manifest)), orjson.dumps(_infer(manifest))
    v1, v2 = _model_paths(manifest)
    yield Case("method", "/predict", b"", 405, method="GET")
    yield Case("an unknown path", "/predict/x", b"{}", 404)
    yield from _many_violations(manifest)
    for path in ("/predict", *["/jobs"] * jobs):
        yield from _bad_bodies(manifest, path)
        yield from _bad_rows(manifest, path)
    for path in ("/invocations", v1):
        yield from _bad_rows(manifest, path)
    yield from _bad_rows(manifest, "/invocations", "dataframe_records")
    yield from _bad_invocations(manifest)
    yield from _bad_infer(manifest, v2)
    yield from _bad_binary(manifest, v2)
    yield from _bad_feedback()
    outcome = b'{"outcomes":[{"prediction_id":"x","actual":1}]}'
    paths = {"/predict": good, "/invocations": good, v1: good, v2: infer, "/feedback": outcome}
    for path, text in {**paths, **({"/jobs": good} if jobs else {})}.items():
        yield from _malformed(manifest, path, text)
    other, name = quote(CLIENT_TEXT), quote(manifest.name, safe="")
    for path, text in ((v1, good), (v2, infer)):
        yield Case("another model", path.replace(f"/{name}", f"/{other}"), text, 404)
    yield Case("another version", f"/v2/models/{name}/versions/0.0.0-none/infer", infer, 404)


def _model_paths(manifest: Manifest) -> tuple[str, str]:
    name = quote(manifest.name, safe="")
    return f"/v1/models/{name}:predict", f"/v2/models/{name}/infer"


def _422(kind: str, path: str, document: Any, *violations: tuple[str, str]) -> Case:
    text = document if isinstance(document, bytes) else orjson.dumps(document)
    return Case(kind, path, text, 422, violations)


def _422s(path: str, *lines: tuple[str, str, str, Iterable[Any]]) -> Iterator[Case]:
    """Yield cases of one violation each, from lines of kind, location, code and documents."""
    for kind, location, code, documents in lines:
        yield from (_422(kind, path, document, (location, code)) for document in documents)


def _many_violations(manifest: Manifest) -> Iterator[Case]:
    """Yield requests whose every row has one bad value, as many as a problem lists."""
    values = list(bad_values(manifest))
    longest = max(len(instance(manifest, bad)) for bad in values)
    fitting = min(manifest.limits.body_bytes, MAX_EVENT_BYTES) // (longest + 1) - 1
    step = max(1, min(MAX_VIOLATIONS, manifest.limits.rows, fitting))
    for start in range(0, min(len(values), 10 * step), step):
        chunk = values[start : start + step]
        pairs = [(pointer("instances", i, *bad.location), bad.code) for i, bad in enumerate(chunk)]
        text = body(*(instance(manifest, bad) for bad in chunk))
        yield _422("many violations", "/predict", text, *pairs)


def _bad_bodies(manifest: Manifest, path: str) -> Iterator[Case]:
    """Yield what may be wrong around the instances."""
    good, rows, text = instance(manifest), manifest.limits.rows, orjson.dumps(CLIENT_TEXT)
    row, document = (b"%b,%b:1}" % (json[:-1], text) for json in (good, body(good)))
    yield from _422s(
        path,
        ("no object", "", "type", [b"null", b"[]", text, b"1"]),
        ("no instances", "/instances", "missing", [b"{}"]),
        ("no list of instances", "/instances", "type",
         [b'{"instances":%b}' % json for json in (b"null", b"{}", text, b"1")]),
        ("no rows", "/instances", "wrong_length", [body()]),
        ("a row that is no object", "/instances/0", "type",
         [body(json) for json in (b"1", b"null", b"[]", text)]),
        ("an unknown field", "/instances/0", "unknown_field", [body(row)]),
        ("an unknown field", "", "unknown_field", [document]),
    )  # fmt: skip
    if 3 * rows < min(manifest.limits.body_bytes, MAX_EVENT_BYTES) - 20:
        document = body(*[b"{}"] * (rows + 1))
        yield _422("too many rows", path, document, ("/instances", "wrong_length"))
    needed = [f.name for f in manifest.features if not f.nullable]
    needed = needed if manifest.features else [tensor.name for tensor in manifest.inputs]
    if needed:
        count = min(rows, MAX_VIOLATIONS // len(needed) + 1)
        pairs = [(pointer("instances", i, n), "missing") for i in range(count) for n in needed]
        yield _422("empty rows", path, body(*[b"{}"] * count), *pairs[:MAX_VIOLATIONS])


def _bad_rows(manifest: Manifest, path: str, form: str = "instances") -> Iterator[Case]:
    """Yield requests of one bad row."""
    for bad in bad_values(manifest, None if path == "/predict" else MAX_FEATURES):
        text = body(instance(manifest, bad), form=form)
        yield _422(bad.kind, path, text, (pointer(form, 0, *bad.location), bad.code))
    row = instance(manifest)
    name, value = next(iter(orjson.loads(row).items()))
    spelt = "".join(f"\\u{ord(c):04x}" for c in name).encode()
    escaped = b'%b, "%b" :%b}' % (row[:-1], spelt, orjson.dumps(value))
    for twice in (row[:-1] + b"," + row[1:], escaped):
        yield Case("duplicate key", path, body(twice, form=form), 400)


def _malformed(manifest: Manifest, path: str, good: bytes) -> Iterator[Case]:
    """Yield bodies that no parser takes; `good` is one that the path takes."""
    limit, packed = _max_body_bytes(manifest, path), gzip.compress(good)
    bodies: dict[str, Iterable[bytes]] = {
        "empty": [b""],
        "not JSON": [b"{"],
        "trailing data": [good + end for end in (b" " + TEXT, b"{}", b"\0", b",")],
        "duplicate key": [good[:-1] + b"," + good[1:]],
        "cut off": [good[:-1], b'{"%b":"%b' % (TEXT, TEXT)],
        "byte order mark": [b"\xef\xbb\xbf" + good],
        "UTF-16": [good.decode().encode(c) for c in ("utf-16", "utf-16-le", "utf-32")],
        "bad UTF-8": [
            b'{"%b%b":1}' % (TEXT, bad)
            for bad in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80")
        ],
        "lone surrogate": [b'{"%b\\ud800":1}' % TEXT, b'{"instances":"\\udc00"}'],
        "deep nesting": [b * 100_000 for b in (b"[", b'{"instances":[', b'{"a":')]
        + [b"[" * 100_000 + b"]" * 100_000],
        "long integer": [b"9" * 5000, b'{"instances":[%b]}' % (b"9" * 5000)],
        "gzip, unmarked": [packed],
    }
    for kind, texts in bodies.items():
        yield from (Case(kind, path, text, 400) for text in texts)
    for text in (good.ljust(limit + 1), b" " * (limit + 1)):
        yield Case("too large", path, text, 413)
    bomb = gzip.compress(b" " * (limit + 1))
    yield Case("gzip bomb", path, bomb, 413, headers=GZIP)
    bomb = gzip.compress(gzip.compress(b"\0" * 1_000_000))
    yield Case("gzip in gzip", path, bomb, 400, headers=GZIP)
    for text in (packed[:-1], packed[:-8], packed + TEXT, packed * 2, good, b"", packed[:9]):
        yield Case("broken gzip", path, text, 400, headers=GZIP)
    for coding in ("br", "gzip, gzip", CLIENT_TEXT):
        headers = {**JSON, "content-encoding": coding}
        yield Case("coding", path, good, 415, headers=headers)
    types = (
        "application/xml",
        f"text/{CLIENT_TEXT}",
        "",
        "json",
        "application/json; charset=utf-16",
    )
    for kind in (*types, *["text/csv"] * (path == "/predict")):
        yield Case("content type", path, good, 415, headers={"content-type": kind})
    surrogate = {"body": '{"instances":"\ud800"}', "isBase64Encoded": False}
    yield Case("lone surrogate", path, b"", 400, event=surrogate)
    for code in ("e30", "e3 0=", "e30=\n", "é30=", "====", "e30=x", "e3-_", "e=30", "e30=" * 2):
        yield Case("base64", path, b"", 400, event={"body": code, "isBase64Encoded": True})
    for null in ({"content-type": None}, {**JSON, CLIENT_TEXT: 1}):
        event = {"body": "{}", "isBase64Encoded": False, "headers": null}
        yield Case("null header", path, b"", 400, event=event)


# --- Open Inference Protocol ------------------------------------------------------------------


def _infer(manifest: Manifest, i: int = 0, **fields: Any) -> Any:
    """Return the contract's example as a request, with other `fields` in input `i`."""
    row, inputs = example(manifest), []
    batched = manifest.has_batch_axis
    types = sorted(feature_types.of(manifest), key=lambda kind: kind.feature.column)
    for tensor in manifest.inputs:
        columns = [kind for kind in types if kind.feature.input == tensor.name]
        values = [(kind, row[kind.feature.name]) for kind in columns]
        data = [v if v is None else kind.to_graph(v) for kind, v in values] or row[tensor.name]
        shape = [1, *([len(data)] if columns else np.shape(data))]
        shape = shape[: len(tensor.shape)] if batched else shape[1:]
        flat = np.array(data, object).ravel().tolist()
        datatype = DATATYPES[tensor.dtype]
        inputs.append({"name": tensor.name, "datatype": datatype, "shape": shape, "data": flat})
    inputs[i] |= fields
    return {"inputs": inputs}


def _bad_infer(manifest: Manifest, path: str) -> Iterator[Case]:
    """Yield bad requests whose tensors are JSON."""
    good = _infer(manifest)["inputs"]
    unknown = {**good[0], "name": CLIENT_TEXT}
    outputs = {"inputs": good, "outputs": [{"name": CLIENT_TEXT}]}
    yield from _422s(
        path,
        ("no object", "", "type", [[]]),
        ("no inputs", "/inputs", "missing", [{}]),
        ("no inputs", "/inputs", "wrong_length", [{"inputs": []}]),
        ("no inputs", "/inputs", "type", [{"inputs": {}}]),
        ("missing, repeated or unknown input", "/inputs", "inputs",
         [{"inputs": v} for v in (good[1:] or [unknown], [*good, good[0]], [*good, unknown])]),
        ("an unknown output", "/outputs/0/name", "unknown_output", [outputs]),
        ("id", "/id", "type", [{"inputs": good, "id": [CLIENT_TEXT]}]),
    )  # fmt: skip
    for i, tensor in enumerate(manifest.inputs):
        location, shape, data = pointer("inputs", i), good[i]["shape"], good[i]["data"]
        other = "FP32" if not tensor.dtype.startswith("float") else "INT64"
        rest = shape[1:]
        fewer_axes = [rest] if shape and tensor.shape[-1] != 1 else []  # [N] may be [N, 1]
        texts = [] if tensor.dtype == "string" else [CLIENT_TEXT]
        bad: dict[tuple[str, str, str], list[Any]] = {  # by kind, location and code
            ("datatype", "datatype", "type"): ["BF16", "FP8", CLIENT_TEXT, other],
            ("rank", "shape", "shape"): [[*shape, 1], *fewer_axes, [*shape, 0]],
            ("negative axis", "shape/0", "out_of_range"): [[n, *rest] for n in (-1, -(2**63))],
            ("shape", "shape", "type"): [CLIENT_TEXT],
            ("shape", "shape/0", "type"): [[1.5, *rest]],
            ("shape and data differ", "data", "wrong_length"): [data[1:], [*data, data[0]], []],
            ("no list of data", "data", "type"): [None, {}, 1, *texts],
            ("ragged", "data", "ragged"): [[data[:1], data]] * (len(data) > 1),
        }
        if manifest.has_batch_axis and len(good) == 1:
            counts = (0, manifest.limits.rows + 1, 2**63)
            code = "wrong_length" if tensor.shape[0] is None else "shape"
            bad["rows", "shape", code] = [[n, *rest] for n in counts]
            bad["rows", "shape/0", "type"] = [[orjson.Fragment(str(2**64)), *rest]]
        for (kind, field, code), values in bad.items():
            for value in values:
                document = _infer(manifest, i, **{field.partition("/")[0]: value})
                yield _422(kind, path, document, (f"{location}/{field}", code))
    for i, k, (kind, json, code) in _bad_data(manifest):
        data = [*good[i]["data"]]
        data[k] = orjson.Fragment(json)
        text = orjson.dumps(_infer(manifest, i, data=data))
        yield _422(kind, path, text, (pointer("inputs", i, "data", k), code))


def _bad_data(manifest: Manifest) -> Iterator[tuple[int, int, Any]]:
    """Yield bad values of single elements, with the input's number and the element's."""
    for i, tensor in enumerate(manifest.inputs):
        elements = [
            (kind.feature.column, packed_types.of(kind).bad_elements())
            for kind in feature_types.of(manifest)[:MAX_FEATURES]
            if kind.feature.input == tensor.name
        ]
        if not manifest.features:
            elements = [(0, packed_types.bad_elements(tensor))]
        for column, bad_values in elements:
            yield from ((i, column, bad) for bad in bad_values if bad[1] and bad[1][0] != "[")


def _binary_infer(manifest: Manifest) -> tuple[Any, list[bytes]]:
    """Return the example as a document whose tensors are bytes, and the bytes of each."""
    document, tensors = _infer(manifest), []
    for entry, tensor in zip(document["inputs"], manifest.inputs, strict=True):
        null = "" if tensor.dtype == "string" else np.nan
        data = [null if value is None else value for value in entry.pop("data")]
        if tensor.name in _pictures(manifest):
            picture = a2b_base64(str(data[0]))
            tensors.append(len(picture).to_bytes(4, "little") + picture)
        else:
            tensors.append(binary.dump(np.array(data, dtype(tensor.dtype))))
        entry["parameters"] = {"binary_data_size": len(tensors[-1])}
    return document, tensors


def _pictures(manifest: Manifest) -> set[str]:
    return {feature.input for feature in manifest.features if feature.image}


def _framed(document: Any, tensors: list[bytes]) -> tuple[bytes, Headers]:
    head = orjson.dumps(document)
    return b"".join([head, *tensors]), {**OCTETS, INFERENCE_HEADER_LENGTH: str(len(head))}


def _bad_binary(manifest: Manifest, path: str) -> Iterator[Case]:
    """Yield bad requests whose tensors are bytes."""
    document, tensors = _binary_infer(manifest)
    text, headers = _framed(document, tensors)
    head = int(headers[INFERENCE_HEADER_LENGTH])
    for length in (
        CLIENT_TEXT, "-1", "0", "", "1e3", "0x10", " ", "1.0", "+5", "\uff19", str(len(text) + 1),
        "9" * 30, f"{head}, {head}", f"{head},{head}", str(head - 1), str(head + 1), "-0", "NaN",
        "1" * 5000,
    ):  # fmt: skip
        wrong = {**OCTETS, INFERENCE_HEADER_LENGTH: length}
        yield Case("header length", path, text, 400, headers=wrong)
    yield Case("no header length", path, text, 400, headers=OCTETS)
    yield Case("trailing data", path, text + TEXT, 400, headers=headers)
    yield Case("cut off", path, text[:-1], 400, headers=headers)
    for i, tensor in enumerate(document["inputs"]):
        size = len(tensors[i])
        sizes: tuple[Any, ...] = (-1, size + 1, size - 1, 2**63, str(size), True, 1.0, [], {})
        changes: list[dict[str, Any]] = [{"parameters": {"binary_data_size": n}} for n in sizes]
        for fields in (*changes, {"data": []}):
            inputs = [*document["inputs"][:i], {**tensor, **fields}, *document["inputs"][i + 1 :]]
            text, headers = _framed({"inputs": inputs}, tensors)
            kind = "data twice" if "data" in fields else "binary_data_size"
            yield Case(kind, path, text, 400, headers=headers)
        for kind, junk, status, violations in _bad_bytes(manifest, i, size):
            text, headers = _framed(document, [*tensors[:i], junk, *tensors[i + 1 :]])
            yield Case(kind, path, text, status, violations, headers)


def _bad_bytes(manifest: Manifest, i: int, size: int) -> Iterator[tuple[str, bytes, int, Any]]:
    """Yield bytes of the right size that are no values of an input."""
    kind, type_violation = manifest.inputs[i].dtype, ((pointer("inputs", i), "type"),)
    if kind == "bool":
        yield "a flag of 2", b"\2" * size, 422, type_violation
    elif kind == "string":
        yield "length of a string", b"\xff" * size, 400, ()
        if size > 4:
            text = (size - 4).to_bytes(4, "little") + b"\xff" * (size - 4)
            if manifest.inputs[i].name in _pictures(manifest):
                type_violation = ((pointer("inputs", i, "data", 0), "picture"),)
            yield "bad UTF-8", text, 422, type_violation
    elif dtype(kind).kind == "f":
        types = feature_types.of(manifest)
        if all(k.is_number for k in types if k.feature.input == manifest.inputs[i].name):
            infinite = np.full(size // dtype(kind).itemsize, np.inf, kind)
            pairs = [(pointer("inputs", i, "data", k), "non_finite") for k in range(len(infinite))]
            yield NOT_FINITE, infinite.tobytes(), 422, tuple(pairs[:MAX_VIOLATIONS])


# --- MLflow and SageMaker ---------------------------------------------------------------------


def _bad_invocations(manifest: Manifest) -> Iterator[Case]:
    path, row = "/invocations", example(manifest)
    names, values = list(row), list(row.values())
    forms: list[Any] = [{}, [], None, {"instances": [row], "inputs": [row]}]
    yield from _422s(path, ("no form, or two", "", "missing", forms))
    array = _npy(np.zeros((1, len(names)), np.float32))
    magic = b"\x93NUMPY"
    for text in (b"", TEXT, magic, magic + b"\1\0\xff\xff{", magic + b"\1\0\2\0()", array[:-1]):
        yield Case("no .npy", path, text, 400, headers=NPY)
    yield Case("trailing data", path, array + TEXT, 400, headers=NPY)
    for bad in (np.array([b"x"]), np.array(["x"]), np.zeros(1, "M8[s]"), np.zeros(1, complex)):
        yield Case("dtype", path, _npy(bad), 415, headers=NPY)
    if not manifest.features:
        return
    data, first = "/dataframe_split/data", [names[0], values[0]]
    ragged: list[Any] = [[values, values[1:]], [[*values, 1]], [1], [values, {}]]

    def split(columns: Any, *rows: Any) -> Any:
        return {"dataframe_split": {"columns": columns, "data": rows}}

    yield from _422s(
        path,
        ("no table", data, "type",
         [{"dataframe_split": []}, {"dataframe_split": {"columns": names, "data": {}}}]),
        ("ragged", data, "ragged", [split(names, *rows) for rows in ragged]),
        ("an unknown column", data, "unknown_field", [split([*names, CLIENT_TEXT], [*values, 1])]),
        ("a column twice", data, "unknown_field", [split([*names, first[0]], [*values, first[1]])]),
        ("columns", "/dataframe_split/columns", "type", [split([1], [1])]),
        ("no rows", data, "wrong_length", [split(names)]),
    )  # fmt: skip
    for value in bad_values(manifest, MAX_FEATURES):
        if value.json is not None:
            line = [orjson.Fragment(value.json) if n == value.field else row[n] for n in names]
            location = pointer("dataframe_split", "data", 0, names.index(value.field))
            yield _422(value.kind, path, split(names, line), (location, value.code))
    cells, titles = _csv_line(values), _csv_line(names)
    for kind, text in (
        ("empty", b""), ("bad UTF-8", titles + b"\xff\n"), ("an open quote", titles + b'"')
    ):  # fmt: skip
        yield Case(kind, path, text, 400, headers=CSV)
    unknown = _csv_line([*names, CLIENT_TEXT]) + _csv_line([*values, 1])
    tables = [
        ("no rows", titles, "", "wrong_length"),
        ("ragged", titles + cells.rstrip() + b",1\n", "", "ragged"),
        ("an unknown column", unknown, "", "unknown_field"),
    ]
    for k, feature_type in enumerate(feature_types.of(manifest)[:MAX_FEATURES]):
        if feature_type.is_number:
            text = titles + _csv_line([*values[:k], CLIENT_TEXT, *values[k + 1 :]])
            location = pointer(0, feature_type.feature.name)
            tables.append(("text for a number", text, location, "type"))
    for kind, text, location, code in tables:
        yield Case(kind, path, text, 422, ((location, code),), CSV)
    for bad in (np.zeros(len(names)), np.zeros((1, len(names) + 1)), np.zeros((1, 1, 1))):
        yield Case("shape", path, _npy(bad), 422, (("", "shape"),), NPY)


def _files(manifest: Manifest) -> Iterator[Case]:
    """Yield the example as a CSV file and as a .npy file, where it can be one."""
    row, first = example(manifest), manifest.inputs[0]
    if manifest.features:
        text = _csv_line(list(row)) + _csv_line(list(row.values()))
        yield Case(ACCEPTED, "/invocations", text, 200, headers=CSV)
    numbers = all(kind.is_number for kind in feature_types.of(manifest))
    if manifest.features and numbers:  # a float64 does not hold an id over 2**53
        numbers = all(value is None or value == float(value) for value in row.values())
    if numbers and (manifest.features or len(manifest.inputs) == 1) and first.dtype != "string":
        values = list(row.values()) if manifest.features else row[first.name]
        kind = "float64" if manifest.features else first.dtype
        array = np.array([values] if manifest.has_batch_axis else values, kind)
        yield Case(ACCEPTED, "/invocations", _npy(array), 200, headers=NPY)


def _csv_line(cells: list[Any]) -> bytes:
    text = ['""' if v is None else '"' + str(v).replace('"', '""') + '"' for v in cells]
    return ",".join(text).encode() + b"\n"


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


# --- feedback ---------------------------------------------------------------------------------


def _bad_feedback() -> Iterator[Case]:
    """Yield what is no outcome, whatever was predicted."""
    good = {"prediction_id": "x" * 52, "actual": 1}
    many = {"outcomes": [good] * (MAX_OUTCOMES + 1)}
    actuals = (None, {CLIENT_TEXT: CLIENT_TEXT}, [CLIENT_TEXT], CLIENT_TEXT * 60)
    values = (orjson.Fragment(json) for json in ("NaN", "1e999", '"1"', "null", "true"))
    outcomes: list[tuple[str, str, list[Any]]] = [
        ("no outcome", "", [1]),
        ("an unknown field", "", [{**good, CLIENT_TEXT: CLIENT_TEXT}]),
        ("missing", "/prediction_id", [{"actual": 1}]),
        ("missing", "/actual", [{"prediction_id": "x"}]),
        ("wrong type", "/actual", [{**good, "actual": actual} for actual in actuals]),
        ("value", "/value", [{**good, "value": value} for value in values]),
    ]
    yield from _422s(
        "/feedback",
        ("no outcomes", "", "invalid", [[], None, {"outcomes": [good], CLIENT_TEXT: 1}]),
        ("no outcomes", "/outcomes", "invalid", [{}, {"outcomes": []}, {"outcomes": {}}, many]),
        *((kind, f"/outcomes/0{location}", "invalid", [{"outcomes": [v]} for v in bad])
          for kind, location, bad in outcomes),
    )  # fmt: skip
    for id in ("", CLIENT_TEXT, "x" * 52, "4" * 52, "é" * 52, "4" * 51 + "\n"):
        document = {"outcomes": [{"prediction_id": id, "actual": 1}]}
        location = "/outcomes/0/prediction_id"
        yield _422("no id", "/feedback", document, (location, "malformed_id"))
