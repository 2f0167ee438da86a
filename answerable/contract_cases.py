"""The whole corpus: what handler/release/contract_cases.py has, through every protocol, and what is bad as bytes.

Bodies that are not JSON in the strict sense (NaN, 1e999) are unreadable to the protocols, which
read them with orjson, and a breach of the contract to `/predict`, whose parser has such numbers.
"""

import gzip
import io
from collections.abc import Iterator
from itertools import chain
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson

from handler.contract import example
from handler.errors import pointer
from handler.http import INFERENCE_HEADER_LENGTH
from handler.manifest import Manifest
from handler.model_inputs import dtype
from handler.prediction_id import MAX_OUTCOMES
from handler.protocols import binary
from handler.protocols.open_inference import DATATYPES
from handler.release.contract_cases import (
    CLIENT_TEXT,
    BadValue,
    Case,
    Places,
    bad_values,
    body,
    envelopes,
    instance,
    smoke_cases,
)

LOOSE = ("not finite",)  # breaches that are no strict JSON
Headers = dict[str, str]
JSON, CSV = {"content-type": "application/json"}, {"content-type": "text/csv"}
BINARY = ("application/x-npy", "application/octet-stream")  # as infra tells the REST API
NPY, OCTETS = ({"content-type": kind} for kind in BINARY)


def cases(manifest: Manifest, jobs: bool) -> Iterator[Case]:
    """Every case, good ones first; `jobs`: whether the deployment has them."""
    limit = manifest.limits.body_bytes
    for case in chain(_good(manifest), smoke_cases(manifest), _bad(manifest, jobs)):
        if (
            len(case.body) <= limit or case.status == 413
        ):  # or it would be too large, whatever it is
            yield case


def _bad(manifest: Manifest, jobs: bool) -> Iterator[Case]:
    good, name = body(instance(manifest)), quote(manifest.name, safe="")
    v1, v2 = f"/v1/models/{name}:predict", f"/v2/models/{name}/infer"
    infer = orjson.dumps(_infer(manifest))
    for path in ("/predict", *["/jobs"] * jobs):
        yield from envelopes(manifest, path)
        yield from _breaches(manifest, path, "instances", strict=False)
        yield from _wire(manifest, path, good)
    for path in ("/invocations", v1):
        yield from _breaches(manifest, path, "instances")
        yield from _wire(manifest, path, good)
    yield from _breaches(manifest, "/invocations", "dataframe_records")
    yield from _invocations(manifest)
    yield from _wire(manifest, v2, infer)
    yield from _tensors(manifest, v2)
    yield from _binary(manifest, v2)
    yield from _wire(manifest, "/feedback", b'{"outcomes":[{"prediction_id":"x","actual":1}]}')
    yield from _feedback()
    for path, text in ((v1, good), (v2, infer)):
        yield Case("another model", path.replace(f"/{name}", "/{quote(JUNK)}"), text, 404)
    yield Case("another version", f"/v2/models/{name}/versions/0.0.0-none/infer", infer, 404)


def _good(manifest: Manifest) -> Iterator[Case]:
    good, name = instance(manifest), quote(manifest.name, safe="")
    infer = orjson.dumps(_infer(manifest))
    padded = body(good).ljust(manifest.limits.body_bytes)
    yield Case("good", "/predict", body(good), 200)
    yield Case("good", "/predict", gzip.compress(body(good)), 200, headers=_GZIP)
    yield Case("good, as large as may be", "/predict", padded, 200)
    yield Case("good", "/invocations", body(good), 200)
    yield Case("good", "/invocations", b'{"dataframe_records":[%b]}' % good, 200)
    yield Case("good", f"/v1/models/{name}:predict", body(good), 200)
    yield Case("good", f"/v2/models/{name}/infer", infer, 200)
    text, headers = _framed(*_parts(manifest))
    yield Case("good", f"/v2/models/{name}/infer", text, 200, headers=headers)
    yield from _files(manifest)
    for feature in manifest.features:
        for bound in (feature.minimum, feature.maximum):
            if bound is not None and feature.out_of_range == "reject":
                row = orjson.dumps({**example(manifest), feature.name: bound})
                yield Case("good, at a bound", "/predict", body(row), 200)
        for value in feature.categories:
            row = orjson.dumps({**example(manifest), feature.name: value})
            yield Case("good, each category", "/predict", body(row), 200)


def _breaches(manifest: Manifest, path: str, form: str, strict: bool = True) -> Iterator[Case]:
    for breach in bad_values(manifest):
        text = b'{"%b":[%b]}' % (form.encode(), instance(manifest, breach))
        if strict and breach.kind in LOOSE:
            yield Case(breach.kind, path, text, 400)
        else:
            places = ((pointer(form, 0, *breach.place), breach.code),)
            yield Case(breach.kind, path, text, 422, places)
    row = instance(manifest)
    for twice in (row[:-1] + b"," + row[1:], _escaped(row)):
        text = b'{"%b":[%b]}' % (form.encode(), twice)
        yield Case("a name twice", path, text, 400)


def _escaped(row: bytes) -> bytes:
    """The first name once more, in another spelling: it is not the text that is compared."""
    name, value = next(iter(orjson.loads(row).items()))
    spelt = "".join(f"\\u{ord(c):04x}" for c in name)
    return b'%b, "%b" :%b}' % (row[:-1], spelt.encode(), orjson.dumps(value))


_GZIP = {**JSON, "content-encoding": "gzip"}


def _wire(manifest: Manifest, path: str, good: bytes) -> Iterator[Case]:
    """Whatever a door reads, it must be able to read it; `good` is what it would take."""
    limit = manifest.limits.body_bytes

    def case(kind: str, text: bytes, status: int = 400, **headers: str) -> Case:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return Case(kind, path, text, status, headers={**JSON, **headers})

    def event(kind: str, text: str, encoded: bool = True, **fields: Any) -> Case:
        changed = {"body": text, "isBase64Encoded": encoded, **fields}
        return Case(kind, path, b"", 400, event=changed)

    yield case("empty", b"")
    yield case("too large", good.ljust(limit + 1), 413)
    yield case("too large", b" " * (limit + 1), 413)
    for end in (b" " + CLIENT_TEXT.encode(), b"{}", b"\0", b","):
        yield case("trailing data", good + end)
    yield case("a name twice", good[:-1] + b"," + good[1:])
    yield case("cut off", good[:-1])
    yield case("cut off", b'{"%b":"%b' % (CLIENT_TEXT.encode(), CLIENT_TEXT.encode()))
    yield case("byte order mark", b"\xef\xbb\xbf" + good)
    for coding in ("utf-16", "utf-16-le", "utf-32"):
        yield case("UTF-16", good.decode().encode(coding))
    for junk in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"):
        yield case("bad UTF-8", b'{"%b%b":1}' % (CLIENT_TEXT.encode(), junk))
    yield case("lone surrogate", b'{"%b\\ud800":1}' % CLIENT_TEXT.encode())
    yield case("lone surrogate", b'{"instances":"\\udc00"}')
    yield event("lone surrogate", '{"instances":"\ud800"}', encoded=False)
    for opening in (b"[", b'{"instances":[', b'{"a":'):
        yield case("deep nesting", opening * 100_000)
    yield case("deep nesting", b"[" * 100_000 + b"]" * 100_000)
    yield case("long integer", b"9" * 5000)
    yield case("long integer", b'{"instances":[%b]}' % (b"9" * 5000))
    for marked in ("e30", "e3 0=", "e30=\n", "é30=", "====", "e30=x", "e3-_", "e=30", "e30=" * 2):
        yield event("base64", marked)
    yield event("null header", "{}", False, headers={"content-type": None})
    yield event("null header", "{}", False, headers={**JSON, CLIENT_TEXT: 1})
    packed = gzip.compress(good)
    yield case("gzip bomb", gzip.compress(b" " * (limit + 1)), 413, content_encoding="gzip")
    bomb = gzip.compress(gzip.compress(b"\0" * 1_000_000))
    yield case("gzip in gzip", bomb, content_encoding="gzip")
    for text in (
        packed[:-1],
        packed[:-8],
        packed + CLIENT_TEXT.encode(),
        packed * 2,
        good,
        b"",
        packed[:9],
    ):
        yield case("broken gzip", text, content_encoding="gzip")
    yield case("gzip, unmarked", packed)
    for coding in ("br", "deflate", "gzip, gzip", CLIENT_TEXT):
        yield case("coding", good, 415, content_encoding=coding)
    for kind in (
        f"text/{CLIENT_TEXT}",
        "application/xml",
        "",
        "json",
        "application/json; charset=utf-16",
    ):
        yield case("content type", good, 415, content_type=kind)


def _infer(manifest: Manifest) -> Any:
    """The contract's example as a request of the Open Inference Protocol."""
    row = example(manifest)
    batched = manifest.execution.batch != "none"
    inputs = []
    for tensor in manifest.inputs:
        columns = sorted((f.column, f.name) for f in manifest.features if f.input == tensor.name)
        data = [row[name] for _, name in columns] if columns else row[tensor.name]
        shape = [1, *([len(data)] if columns else np.shape(data))][: len(tensor.shape) + 1]
        shape = shape[: len(tensor.shape)] if batched else shape[1:]
        flat = np.array(data, object).ravel().tolist()
        inputs.append(
            {"name": tensor.name, "datatype": DATATYPES[tensor.dtype], "shape": shape, "data": flat}
        )
    return {"inputs": inputs}


def _tensors(manifest: Manifest, path: str) -> Iterator[Case]:
    """What is wrong with a request whose tensors are JSON."""

    def case(kind: str, document: Any, *places: tuple[str, str]) -> Case:
        return Case(kind, path, orjson.dumps(document), 422 if places else 400, places)

    def changed(i: int, **fields: Any) -> Any:
        document = _infer(manifest)
        document["inputs"][i] |= fields
        return document

    good = _infer(manifest)["inputs"]
    yield Case("no object", path, b"[]", 422, (("", "type"),))
    yield case("no inputs", {}, ("/inputs", "missing"))
    yield case("no inputs", {"inputs": []}, ("/inputs", "wrong_length"))
    yield case("no inputs", {"inputs": {}}, ("/inputs", "type"))
    yield case(
        "an input that is missing",
        {"inputs": good[1:] or [{**good[0], "name": CLIENT_TEXT}]},
        _INPUTS,
    )
    yield case("an input twice", {"inputs": [*good, good[0]]}, _INPUTS)
    yield case("an unknown input", {"inputs": [*good, {**good[0], "name": CLIENT_TEXT}]}, _INPUTS)
    outputs = {"inputs": good, "outputs": [{"name": CLIENT_TEXT}]}
    yield case("an unknown output", outputs, ("/outputs/0/name", "unknown_output"))
    yield case("id", {"inputs": good, "id": [CLIENT_TEXT]}, ("/id", "type"))
    other: Any
    batched, rows = manifest.execution.batch != "none", manifest.limits.rows
    for i, (part, tensor) in enumerate(zip(good, manifest.inputs, strict=True)):
        at, shape = pointer("inputs", i), part["shape"]
        for kind in ("BF16", "FP8", CLIENT_TEXT, "FP32" if tensor.dtype != "float32" else "FP64"):
            yield case("datatype", changed(i, datatype=kind), (f"{at}/datatype", "type"))
        for wrong in ([*shape, 1], *([shape[1:]] if shape else ()), [*shape, 0]):
            yield case("rank", changed(i, shape=wrong), (f"{at}/shape", "shape"))
        for n in (-1, -(2**63)):
            yield case(
                "negative axis",
                changed(i, shape=[n, *shape[1:]]),
                (f"{at}/shape/0", "out_of_range"),
            )
        yield case("shape", changed(i, shape=CLIENT_TEXT), (f"{at}/shape", "type"))
        yield case("shape", changed(i, shape=[1.5, *shape[1:]]), (f"{at}/shape/0", "type"))
        data = part["data"]
        for wrong in (data[1:], [*data, data[0]], []):
            yield case(
                "shape and data differ", changed(i, data=wrong), (f"{at}/data", "wrong_length")
            )
        for other in (None, {}, CLIENT_TEXT, 1):
            yield case("no list of data", changed(i, data=other), (f"{at}/data", "type"))
        if len(data) > 1:
            ragged = [data[:1], data]
            yield case("ragged", changed(i, data=ragged), (f"{at}/data", "ragged"))
        if batched and len(good) == 1:
            for n in (0, rows + 1, 2**63):
                many = changed(i, shape=[n, *shape[1:]])
                yield case("rows", many, (f"{at}/shape", "wrong_length"))
            many = changed(i, shape=[orjson.Fragment(str(2**64)), *shape[1:]])
            yield case("rows", many, (f"{at}/shape/0", "type"))
    for breach, i, k in _values(manifest):
        document = _infer(manifest)
        document["inputs"][i]["data"][k] = orjson.Fragment(str(breach.text))
        strict = breach.kind not in LOOSE
        place = (pointer("inputs", i, "data", k), breach.code)
        yield case(breach.kind, document, *[place] * strict)


_INPUTS = ("/inputs", "inputs")


def _values(manifest: Manifest) -> Iterator[tuple[BadValue, int, int]]:
    """Breaches of single values, with the input and the place in its data."""
    numbers = {tensor.name: i for i, tensor in enumerate(manifest.inputs)}
    features = {feature.name: feature for feature in manifest.features}
    for breach in bad_values(manifest, rounded=True):
        name = str(breach.at[0])
        if breach.text is None or breach.text[0] == "[":
            continue
        if name in features:
            if (features[name].type, breach.kind) != ("boolean", "number for a flag"):
                yield breach, numbers[features[name].input], features[name].column
        elif len(breach.at) > 1 and breach.place == breach.at:
            yield breach, numbers[name], 0


def _parts(manifest: Manifest) -> tuple[Any, list[bytes]]:
    """The example as a document whose tensors are bytes behind it, and the bytes."""
    document, parts = _infer(manifest), []
    for part, tensor in zip(document["inputs"], manifest.inputs, strict=True):
        data = [
            ("" if tensor.dtype == "string" else np.nan) if v is None else v
            for v in part.pop("data")
        ]
        parts.append(binary.dump(np.array(data, dtype(tensor.dtype))))
        part["parameters"] = {"binary_data_size": len(parts[-1])}
    return document, parts


def _framed(document: Any, parts: list[bytes], length: str = "") -> tuple[bytes, Headers]:
    head = orjson.dumps(document)
    return b"".join([head, *parts]), {**OCTETS, INFERENCE_HEADER_LENGTH: length or str(len(head))}


def _binary(manifest: Manifest, path: str) -> Iterator[Case]:
    """What is wrong with a request whose tensors are bytes."""
    document, parts = _parts(manifest)
    text, headers = _framed(document, parts)
    head = int(headers[INFERENCE_HEADER_LENGTH])
    lie: Any
    for length in (
        CLIENT_TEXT,
        "-1", "0", "", "1e3", "0x10", " ", "1.0", "+5", "\uff19", str(len(text) + 1), "9" * 30,
        f"{head}, {head}", f"{head},{head}", str(head - 1), str(head + 1), "-0", "NaN", "1" * 5000,
    ):  # fmt: skip
        wrong = {**OCTETS, INFERENCE_HEADER_LENGTH: length}
        yield Case("header length", path, text, 400, headers=wrong)
    yield Case("no header length", path, text, 400, headers=OCTETS)
    yield Case("trailing data", path, text + CLIENT_TEXT.encode(), 400, headers=headers)
    yield Case("cut off", path, text[:-1], 400, headers=headers)
    for i, part in enumerate(document["inputs"]):
        size = len(parts[i])
        for lie in (-1, size + 1, size - 1, 2**63, str(size), True, 1.0, [], {}):
            lies = {**part, "parameters": {"binary_data_size": lie}}
            sent = {"inputs": [*document["inputs"][:i], lies, *document["inputs"][i + 1 :]]}
            found, told = _framed(sent, parts)
            yield Case("binary_data_size", path, found, 400, headers=told)
        both = {"inputs": [{**p, "data": []} if p is part else p for p in document["inputs"]]}
        found, told = _framed(both, parts)
        yield Case("data twice", path, found, 400, headers=told)
        for kind, junk, status, places in _junk(manifest, i, size):
            found, told = _framed(document, [*parts[:i], junk, *parts[i + 1 :]])
            yield Case(kind, path, found, status, places, told)


def _junk(manifest: Manifest, i: int, size: int) -> Iterator[tuple[str, bytes, int, Places]]:
    """Bytes of the right size that are no values of an input."""
    kind = manifest.inputs[i].dtype
    if kind == "bool":
        yield "a flag of 2", b"\2" * size, 422, ((pointer("inputs", i), "type"),)
    elif kind == "string":
        yield "length of a string", b"\xff" * size, 400, ()
        if size > 4:
            bad = (size - 4).to_bytes(4, "little") + b"\xff" * (size - 4)
            yield "bad UTF-8", bad, 422, ((pointer("inputs", i), "type"),)
    elif dtype(kind).kind == "f":
        found = [f for f in manifest.features if f.input == manifest.inputs[i].name]
        inf = np.full(size // dtype(kind).itemsize, np.inf, kind)
        if not found or all(f.type in ("number", "integer") for f in found):
            places = [(pointer("inputs", i, "data", k), "non_finite") for k in range(len(inf))]
            yield "not finite", inf.tobytes(), 422, tuple(places[:20])


def _invocations(manifest: Manifest) -> Iterator[Case]:
    """What is wrong with MLflow's and SageMaker's forms."""
    path, features = "/invocations", manifest.features
    row = example(manifest)
    names, values = list(row), list(row.values())

    def case(kind: str, document: Any, *places: tuple[str, str]) -> Case:
        return Case(kind, path, orjson.dumps(document), 422, places)

    def other(
        kind: str, text: bytes, headers: Headers, status: int, *places: tuple[str, str]
    ) -> Case:
        return Case(kind, path, text, status, places, headers)

    document: Any
    for document in ({}, [], None, {"instances": [row], "inputs": [row]}):
        yield case("no form, or two", document, ("", "missing"))
    for text in (
        b"",
        CLIENT_TEXT.encode(),
        b"\x93NUMPY",
        b"\x93NUMPY\1\0\xff\xff{",
        b"\x93NUMPY\1\0\2\0()",
    ):
        yield other("no .npy", text, NPY, 400)
    made = _npy(np.zeros((1, len(names)), np.float32))
    yield other("cut off", made[:-1], NPY, 400)
    yield other("trailing data", made + CLIENT_TEXT.encode(), NPY, 400)
    for array in (np.array([b"x"]), np.array(["x"]), np.zeros(1, "M8[s]"), np.zeros(1, complex)):
        yield other("dtype", _npy(array), NPY, 415)
    if not features:
        return
    at = "/dataframe_split/data"
    yield case("no table", {"dataframe_split": []}, (at, "type"))
    yield case("no table", {"dataframe_split": {"data": {}}}, (at, "type"))
    for rows in ([values, values[1:]], [[*values, 1]], [1], [values, {}]):
        frame = {"columns": names, "data": rows}
        yield case("ragged", {"dataframe_split": frame}, (at, "ragged"))
    frame = {"columns": [*names, CLIENT_TEXT], "data": [[*values, 1]]}
    yield case("an unknown column", {"dataframe_split": frame}, (at, "unknown_field"))
    frame = {"columns": [*names, names[0]], "data": [[*values, values[0]]]}
    yield case("a column twice", {"dataframe_split": frame}, (at, "unknown_field"))
    yield case(
        "columns",
        {"dataframe_split": {"columns": [1], "data": [[1]]}},
        ("/dataframe_split/columns", "type"),
    )
    yield case("no rows", {"dataframe_split": {"columns": names, "data": []}}, (at, "wrong_length"))
    for breach in bad_values(manifest):
        if breach.text is not None and breach.kind not in LOOSE:
            k = names.index(str(breach.at[0]))
            line = [*values[:k], orjson.Fragment(breach.text), *values[k + 1 :]]
            frame = {"columns": names, "data": [line]}
            yield case(
                breach.kind,
                {"dataframe_split": frame},
                (pointer(*at[1:].split("/"), 0, k), breach.code),
            )
    cells, titles = _line(values), _line(names)
    yield other("empty", b"", CSV, 400)
    yield other("bad UTF-8", titles + b"\xff\n", CSV, 400)
    yield other("an open quote", titles + b'"', CSV, 400)
    yield other("no rows", titles, CSV, 422, ("", "wrong_length"))
    yield other("ragged", titles + cells.rstrip() + b",1\n", CSV, 422, ("", "ragged"))
    yield other(
        "an unknown column",
        _line([*names, CLIENT_TEXT]) + _line([*values, 1]),
        CSV,
        422,
        ("", "unknown_field"),
    )
    for k, feature in enumerate(features):
        if feature.type in ("number", "integer"):
            text = titles + _line([*values[:k], CLIENT_TEXT, *values[k + 1 :]])
            yield other("text for a number", text, CSV, 422, (pointer(0, feature.name), "type"))
    for wrong in (np.zeros(len(names) or 1), np.zeros((1, len(names) + 1)), np.zeros((1, 1, 1))):
        yield other("shape", _npy(wrong), NPY, 422, ("", "shape"))


def _files(manifest: Manifest) -> Iterator[Case]:
    """The example as a file."""
    row = example(manifest)
    if manifest.features:
        text = _line(list(row)) + _line(list(row.values()))
        yield Case("good", "/invocations", text, 200, headers=CSV)
    numbers = all(f.type in ("number", "integer") for f in manifest.features)
    if numbers and (manifest.features or len(manifest.inputs) == 1):
        first = manifest.inputs[0]
        batched = manifest.execution.batch != "none"
        values = list(row.values()) if manifest.features else row[first.name]
        if first.dtype != "string":
            kind = "float64" if manifest.features else first.dtype
            array = np.array([values] if batched else values, kind)
            yield Case("good", "/invocations", _npy(array), 200, headers=NPY)


def _line(cells: list[Any]) -> bytes:
    text = ['""' if v is None else '"' + str(v).replace('"', '""') + '"' for v in cells]
    return ",".join(text).encode() + b"\n"


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _feedback() -> Iterator[Case]:
    """What is no outcome, whatever was predicted."""
    good = {"prediction_id": "x" * 52, "actual": 1}

    def case(kind: str, document: Any, place: str, code: str = "invalid") -> Case:
        return Case(kind, "/feedback", orjson.dumps(document), 422, ((place, code),))

    def one(kind: str, outcome: Any, place: str) -> Case:
        return case(kind, {"outcomes": [outcome]}, f"/outcomes/0{place}")

    document: Any
    actual: Any
    for document in ([], None, {"outcomes": [good], CLIENT_TEXT: 1}):
        yield case("no outcomes", document, "")
    for document in (
        {},
        {"outcomes": []},
        {"outcomes": {}},
        {"outcomes": [good] * (MAX_OUTCOMES + 1)},
    ):
        yield case("no outcomes", document, "/outcomes")
    yield one("no outcome", 1, "")
    yield one("an unknown field", {**good, CLIENT_TEXT: CLIENT_TEXT}, "")
    yield one("missing", {"actual": 1}, "/prediction_id")
    yield one("missing", {"prediction_id": "x"}, "/actual")
    for actual in (None, {CLIENT_TEXT: CLIENT_TEXT}, [CLIENT_TEXT], CLIENT_TEXT * 60):
        yield one("wrong type", {**good, "actual": actual}, "/actual")
    for text in (b"NaN", b"1e999", b'"1"', b"null", b"true"):
        told = b'{"outcomes":[{"prediction_id":"x","actual":1,"value":%b}]}' % text
        yield Case("value", "/feedback", told, 422, (("/outcomes/0/value", "invalid"),))
    for id in ("", CLIENT_TEXT, "x" * 52, "4" * 52, "é" * 52, "4" * 51 + "\n"):
        sent = {"outcomes": [{"prediction_id": id, "actual": 1}]}
        yield case("no id", sent, "/outcomes/0/prediction_id", "malformed")
