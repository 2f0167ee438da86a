"""Expensive requests: seconds of CPU and memory until each is answered, on every route.

The rule is that no request costs more than ten times its body plus 64 MB, nor a second of CPU.
The body counts without base64 and gzip, which a gateway may remove. Bodies are as large as the
contract allows, or 6 MB as Lambda does, of every kind that was found to be expensive, and good ones
of full size. The contracts: the shipped one, the same with all limits raised, a table of 200
columns, tokens, and an image, the last two without a fixed size, and a text and a picture, whose
encoders run before the graph. Every call is the first of its
process, so that late imports count. Memory is the process's peak beyond what it held before.
"""

import base64
import gzip
import json
import marshal
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from onnx import helper

from answerable.packing.feature_types import png
from answerable.packing.pack import pack
from benchmarks import cases
from benchmarks.results import Rounds
from handler import manifest as manifests
from handler.batch.api import MAX_BODY_BYTES as MAX_BATCH_BYTES
from handler.feedback import MAX_BODY_BYTES as MAX_FEEDBACK_BYTES
from handler.manifest import Manifest
from handler.model_inputs import dtype
from handler.prediction_id import ID_CHARS as ID_LENGTH
from handler.prediction_id import MAX_OUTCOMES, make_id_generator, new_request, primary_output
from handler.validate import example
from tests.fixtures import artifact, events, protocols
from tests.fixtures.artifact import FLOAT, INT64
from tests.zoo.models import ZOO

CARRIED = 6_000_000  # bytes of an event that Lambda carries, and so of any body
ALLOWED_MB = 64
SECRET = "benchmark"  # that `cases.start` sets
FRAMES = ("dataframe_split", "dataframe_records", "instances", "inputs")
Event = dict[str, Any]


def measure(
    model_dir: Path, scratch: Path, rounds: int, quick: bool = False
) -> tuple[Rounds, Rounds, Rounds]:
    """Return seconds, MB and MB allowed, by `contract: family`, of a process for each.

    A quick run measures the shipped contract alone.
    """
    seconds: Rounds = {}
    memory: Rounds = {}
    allowed: Rounds = {}
    path = scratch / "hostile"
    directories = {"shipped": model_dir} if quick else contracts(model_dir, scratch)
    for contract, directory in directories.items():
        manifest = manifests.read(directory)
        for family, event in (*bodies(manifest), *full_bodies(manifest)):
            path.write_bytes(marshal.dumps({0: ([event], [])}))
            name = f"{contract}: {family}"
            allowed[name] = [ALLOWED_MB + 10 * _body_mb(event, manifest)]
            for _ in range(rounds):
                answer = cases.ask("refuse", str(path), model_dir=directory).split()
                if int(answer[0]) // 100 != (2 if family.startswith("full ") else 4):
                    raise RuntimeError(f"{name} is answered {answer[0]}")
                seconds.setdefault(name, []).append(float(answer[1]))
                memory.setdefault(name, []).append(float(answer[2]))
    return seconds, memory, allowed


def _body_mb(event: Event, manifest: Manifest) -> float:
    """Return the size of a body without base64 and gzip, as far as the handler decodes it."""
    size = len(event["body"] or "")
    if event["isBase64Encoded"]:
        size = size * 3 // 4
    if "Content-Encoding" in event["headers"]:
        size = manifest.limits.body_bytes
    return size / 2**20


def contracts(model_dir: Path, scratch: Path) -> dict[str, Path]:
    """The artifacts by the name of their contract."""
    document = orjson.loads((model_dir / manifests.FILE_NAME).read_bytes())
    limits = {"body_bytes": CARRIED, "rows": 100_000, "elements": CARRIED // 4}
    document["limits"] |= limits
    raised = scratch / "raised"
    raised.mkdir()
    (raised / manifests.FILE_NAME).write_bytes(orjson.dumps(document))
    for name in document["files"]:
        (raised / name).symlink_to((model_dir / name).resolve())
    inputs = [("image", FLOAT, [None, 3, None, None])]
    mean = helper.make_node("GlobalAveragePool", ["image"], ["mean"])
    output = {"name": "mean", "dtype": "float32", "shape": [None, 3, 1, 1], "kind": "tensor"}
    image = artifact.write(
        scratch / "image",
        artifact.graph([mean], inputs, [("mean", FLOAT, [None, 3, 1, 1])]),
        name="image",
        inputs=artifact.tensors(inputs),
        outputs=[{**output, "tensor": "mean"}],
        limits={**limits, "rows": 1000, "response_bytes": CARRIED},
    )
    names = [f"column_{i}" for i in range(200)]
    matrix, total = ("x", FLOAT, [None, 200]), ("total", FLOAT, [None, 1])
    axes = helper.make_node("Constant", [], ["axes"], value_ints=[1])
    node = helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=1)
    output = {"name": "total", "dtype": "float32", "shape": [None, 1], "kind": "value"}
    table = artifact.write(
        scratch / "table",
        artifact.graph([axes, node], [matrix], [total]),
        name="table",
        inputs=artifact.tensors([matrix]),
        features=[
            {"name": name, "input": "x", "column": i, "type": "number", "example": 1.0}
            for i, name in enumerate(names)
        ],
        outputs=[{**output, "tensor": "total"}],
        limits={**limits, "rows": 1000, "response_bytes": CARRIED},
    )
    ids = ("ids", INT64, [None, None])
    node = helper.make_node("Identity", ["ids"], ["same"])
    output = {"name": "same", "dtype": "int64", "shape": [None, None], "kind": "tensor"}
    tokens = artifact.write(
        scratch / "tokens",
        artifact.graph([node], [ids], [("same", INT64, [None, None])]),
        name="tokens",
        inputs=artifact.tensors([ids]),
        outputs=[{**output, "tensor": "same"}],
        limits={**limits, "rows": 1000, "response_bytes": CARRIED},
    )
    return {
        "shipped": model_dir,
        "limits raised": raised,
        "image": image,
        "200 columns": table,
        "tokens": tokens,
        "text": _packed_model("tokens-of-any-length", scratch),
        "picture": _packed_model("picture-flat", scratch),
    }


def _packed_model(name: str, scratch: Path) -> Path:
    """Return the artifact of a zoo model, with the limits that pack derives."""
    folder = scratch / name
    folder.mkdir()
    paths = ZOO[name].make(folder)
    pack(
        paths.model,
        paths.sample,
        name=name,
        version="1.0.0",
        owner="benchmarks",
        reason="to measure its refusals",
        threads=1,
        contract=paths.contract,
        artifacts=folder,
    )
    return folder / name


def bodies(manifest: Manifest) -> Iterator[tuple[str, Event]]:
    """Events that must be refused, by family: each as large as it may be."""
    whole = min(manifest.limits.body_bytes, CARRIED)
    size = whole - 500  # what the frames of the bodies below are less than
    row = example(manifest)
    good, first = json.dumps(row), next(iter(row))
    rows = [good] * min(manifest.limits.rows, size // (len(good) + 20))
    yield "a body over the limit", events.rest("[" * CARRIED)
    yield "a gzip bomb", _packed(gzip.compress(bytes(2**30), 9))
    yield "gzip of as much as is let through", _packed(gzip.compress(b"[" * whole, 9))
    yield "base64 that breaks at its end", {**_packed(b"[" * size), "body": "W" * (size - 1)}
    yield "not UTF-8", _packed(b'{"instances":["' + b"\xff" * size)
    for name, text in {
        "numbers for rows": _filled("1", size),
        "empty rows": _filled("{}", size),
        "lists for rows": _filled("[[]]", size),
        "a row of unknown fields": "{" + _numbered('"%d":1', size) + "}",
        "rows of one unknown field": _filled('{"a":1}', size),
        "one key, again and again": "{" + _filled('"a":1', size) + "}",
        "one long key": f'{{"{"a" * size}":1}}',
        "one long string": f'{{"{first}":"{"a" * size}"}}',
        "one string of escapes": f'{{"{first}":"{chr(92) * (size // 2 * 2)}"}}',
        "one long number": f'{{"{first}":{"9" * size}}}',
        "numbers of 4000 digits": f'{{"{first}":[{_filled("9" * 4000, size)}]}}',
        "strings for numbers": f'{{"{first}":[{_filled(chr(34) * 2, size)}]}}',
        "numbers out of range": f'{{"{first}":[{_filled("1e999", size)}]}}',
        "deep lists": f'{{"{first}":{"[" * (size // 2)}{"]" * (size // 2)}}}',
        "lists in lists": f'{{"{first}":[{_filled("[[[[1]]]]", size)}]}}',
        "good rows but the last": ",".join([*rows, "{}"][-manifest.limits.rows :]),
        "good rows with a field too many": ",".join([f'{good[:-1]},"a":1}}'] * len(rows)),
        "good rows, and no end": ",".join(rows) + ",[",
        "NaN at the end": _filled("1", size) + ",NaN",
    }.items():
        yield name, events.rest(f'{{"instances":[{text}]}}')
    for name, item in {
        "empty rows": "{}", "lists": "[[[[]]]]", "rows of one field": '{"a":1}', "numbers": "1"
    }.items():  # fmt: skip
        yield f"a job of {name}", events.rest(f'{{"instances":[{_filled(item, size)}]}}', "/jobs")
    yield from _invocations(manifest, size)
    yield from _inference(manifest, size)
    id = "0" * ID_LENGTH
    outcome = f'{{"prediction_id":"{id}","actual":1}}'
    feedback = MAX_FEEDBACK_BYTES - 500

    def nested(actual: str) -> str:
        return f'{{"prediction_id":"{id}","actual":[{actual}]}}'

    for name, text in {
        "a thousand bad ids": ",".join([outcome] * 1000),
        "too many outcomes": _filled(outcome, feedback),
        "numbers for outcomes": _filled("1", feedback),
        "nested outcomes": nested(_filled("[[[[]]]]", feedback)),
        "deep outcomes": nested("[" * (feedback // 2) + "]" * (feedback // 2)),
        "outcomes of a long number": nested("9" * feedback),
        "outcomes of a long text": nested(f'"{"a" * feedback}"'),
        "outcomes of empty objects": nested(_filled("{}", feedback)),
        "outcomes of many fields": "{" + _numbered('"%d":1', feedback) + "}",
    }.items():
        yield name, events.rest(f'{{"outcomes":[{text}]}}', "/feedback")
    yield "feedback as large as a prediction", events.rest("[" * size, "/feedback")
    for name, text in {
        "lists": "[" * MAX_BATCH_BYTES,
        "unknown fields": "{" + _numbered('"%d":1', MAX_BATCH_BYTES - 500) + "}",
        "a long name": f'{{"input":"{"a" * (MAX_BATCH_BYTES - 500)}"}}',
        "a body over the limit": "[" * CARRIED,
    }.items():
        yield f"a batch of {name}", events.rest(text, "/batches")
    # gateways carry at most 16 kB of a path, and 64 kB of headers
    yield "a long path", events.rest(None, "/v1/models/" + "%41" * 5_000, "GET")
    mapped = {"version": "1.0", "resource": "$default"}
    yield "a path of many segments", {**events.rest(None, "/a" * 8_000, "GET"), **mapped}
    headers = {**events.HEADERS, **{f"name-{i}": "a" * 50 for i in range(1_000)}}
    yield "many headers", events.rest("[", headers=headers)


def full_bodies(manifest: Manifest) -> Iterator[tuple[str, Event]]:
    """Events that must be answered with 2xx, by family: as many rows or elements as may be."""
    size = min(manifest.limits.body_bytes, CARRIED) - 500
    count, arrays = manifest.limits.rows, {}
    if manifest.takes_picture:
        (feature,) = manifest.features
        assert feature.image
        side = math.isqrt(feature.image.max_pixels)
        picture = png(side, side, bytes((1 + 3 * side) * side))
        text = json.dumps({feature.name: base64.b64encode(picture).decode()})
        count = min(count, size // (len(text) + 1))
        yield "full picture as body", events.rest(picture, headers={"content-type": "image/png"})
        yield "full /predict", events.rest(f'{{"instances":[{",".join([text] * count)}]}}')
        return
    if any(feature.tokenizer for feature in manifest.features):
        row = {**example(manifest)}
        for feature in manifest.features:
            if feature.tokenizer and feature.max_length:
                row[feature.name] = ("good film " * feature.max_length)[: feature.max_length]
        text = json.dumps(row)
        count = min(count, size // (len(text) + 1))
        yield "full /predict", events.rest(f'{{"instances":[{",".join([text] * count)}]}}')
        return
    if manifest.features:
        row = example(manifest)
        names = json.dumps([*row])
        good, cells = json.dumps(row), json.dumps([*row.values()])
        count = min(count, size // (len(good) + 1))
        yield "full /predict", events.rest(f'{{"instances":[{",".join([good] * count)}]}}')
        frame = f'{{"columns":{names},"data":[{",".join([cells] * count)}]}}'
        yield "full dataframe_split", _invocation(f'{{"dataframe_split":{frame}}}')
        lines = [",".join(row), *[",".join(map(str, row.values()))] * count]
        yield "full CSV", _invocation("\n".join(lines), "text/csv")
        for tensor in manifest.inputs:
            columns = [f for f in manifest.features if f.input == tensor.name]
            values = [f.example for f in sorted(columns, key=lambda feature: feature.column)]
            arrays[tensor.name] = np.array([values] * count, dtype(tensor.dtype))
    else:
        (tensor,) = manifest.inputs
        shape = [1 if n is None else n for n in tensor.shape]

        def longest(chars: float) -> Any:
            """Return an array whose body fills what is allowed with so many characters each."""
            elements = min(manifest.limits.elements, int(size / chars))
            return np.ones([*shape[:-1], elements // math.prod(shape[:-1])], dtype(tensor.dtype))

        count = min(count, size // 20 // math.prod(shape[1:-1]))
        rows = json.dumps([{tensor.name: np.ones([*shape[1:-1], 1], int).tolist()}] * count)
        yield "full /predict, many rows", events.rest(f'{{"instances":{rows}}}')
        nested = json.dumps(longest(2).astype(int)[0].tolist(), separators=(",", ":"))
        yield (
            "full /predict, one row",
            events.rest(f'{{"instances":[{{"{tensor.name}":{nested}}}]}}'),
        )
        yield "full inputs", _invocation(f'{{"inputs":[{nested}]}}')
        item_chars = dtype(tensor.dtype).itemsize * 4 / 3  # as base64
        file = _File()
        np.save(file, longest(item_chars))
        yield "full npy", _invocation(bytes(file.data), "application/x-npy")
        arrays[tensor.name] = longest(max(item_chars, len("1.0, ")))
    path = f"/v2/models/{manifest.name}/infer"
    yield "full OIP", {**protocols.as_json(arrays), "rawPath": path}
    yield "full OIP bytes", {**protocols.as_binary(arrays), "rawPath": path}
    if primary_output(manifest)[1] is not None:
        outputs = [np.ones((MAX_OUTCOMES, 1)) for _ in manifest.outputs]
        ids = make_id_generator(manifest, "1", SECRET)(outputs, [new_request(MAX_OUTCOMES)])
        outcomes = [{"prediction_id": id.decode(), "actual": 1} for id in ids]
        yield "full feedback", events.rest(json.dumps({"outcomes": outcomes}), "/feedback")


def _invocation(body: str | bytes, kind: str = "application/json") -> Event:
    return events.rest(body, "/invocations", headers={"content-type": kind})


def _invocations(manifest: Manifest, size: int) -> Iterator[tuple[str, Event]]:
    """Frames, tensors, CSV and arrays."""
    event = _invocation
    names = [part.name for part in manifest.features or manifest.inputs]
    split = json.dumps({"columns": names, "data": "DATA"})
    width = len(names)
    for name, items in {
        "strings for numbers": _filled("[" + ",".join(['"x"'] * width) + "]", size),
        "empty lists": _filled("[]", size),
        "one long list": f"[{_filled('1', size)}]",
        "many lists in lists": _filled("[[[[1]]]]", size),
        "numbers": _filled("1", size),
    }.items():
        for form in FRAMES:
            data = f"[{items}]"
            text = split.replace('"DATA"', data) if form == "dataframe_split" else data
            yield f"{form}: {name}", event(f'{{"{form}":{text}}}')
    head = ",".join(names)
    for name, line in {
        "words": ",".join(["x"] * width),
        "no cells": "",
        "a cell": "1",
        "numbers": ",".join(["1"] * width),
    }.items():
        yield f"CSV: lines of {name}", event(f"{head}\n{_filled(line, size, chr(10))}", "text/csv")
    yield "CSV: one line", event(_numbered("%d", size), "text/csv")
    yield "CSV: one cell", event(head + '\n"' + "a" * (size), "text/csv")
    count = size // 4 * 3 // 4 // width - 100
    for name, array in {
        "NaN": np.full((count, width), np.nan, np.float32),
        "flags": np.ones((count * 2, width * 2), bool),
        "a cube": np.ones((count, width, 1), np.float32),
    }.items():
        file = _File()
        np.save(file, array)
        yield f"npy: {name}", event(bytes(file.data), "application/x-npy")
    head_bytes = b"\x93NUMPY\x02\x00" + (size // 4 * 3 - 100).to_bytes(4, "little")
    yield "npy: all header", event(head_bytes + b"(" * (size // 4 * 3 - 100), "application/x-npy")


class _File:
    """What numpy writes an array to."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, part: bytes) -> int:
        self.data += part
        return len(part)


def _inference(manifest: Manifest, size: int) -> Iterator[tuple[str, Event]]:
    """The Open Inference Protocol's JSON and bytes."""
    path = f"/v2/models/{manifest.name}/infer"
    shapes = {
        tensor.name: [1 if n is None else n for n in tensor.shape] for tensor in manifest.inputs
    }

    def inputs(data: dict[str, str], rows: int = 1) -> str:
        parts = [
            json.dumps(
                {
                    "name": tensor.name,
                    "datatype": protocols.DATATYPES.get(tensor.dtype, "BYTES"),
                    "shape": [rows, *shapes[tensor.name][1:]],
                    "data": "DATA",
                }
            ).replace('"DATA"', data[tensor.name])
            for tensor in manifest.inputs
        ]
        return f'{{"inputs":[{",".join(parts)}]}}'

    share = size // len(manifest.inputs)
    for name, item in {
        "strings for numbers": '"x"',
        "numbers": "1",
        "lists in lists": "[[[[1]]]]",
        "empty lists": "[]",
        "nulls": "null",
        "numbers out of range": "1e39",
    }.items():
        count = share // (len(item) + 1)
        for rows in (1, count):
            text = inputs(dict.fromkeys(shapes, f"[{_filled(item, share)}]"), rows)
            yield (
                f"OIP: {name}, {'as many stated' if rows > 1 else 'one stated'}",
                protocols.event(text, path),
            )
    yield (
        "OIP: inputs without end",
        protocols.event(
            '{"inputs":[' + _filled('{"name":"a","datatype":"FP32","shape":[1]}', size) + "]}", path
        ),
    )
    yield (
        "OIP: a long shape",
        protocols.event(
            f'{{"inputs":[{{"name":"a","datatype":"FP32","shape":[{_filled("1", size)}]}}]}}', path
        ),
    )
    outputs = _filled('{"name":"a"}', size - 5000)
    whole = inputs(
        {name: f"[{','.join(['1'] * int(np.prod(shape)))}]" for name, shape in shapes.items()}
    )
    known = _filled(f'{{"name":"{manifest.outputs[0].tensor}"}}', size - 5000)
    yield "OIP: one output again", protocols.event(f'{whole[:-1]},"outputs":[{known}]}}', path)
    yield "OIP: outputs without end", protocols.event(f'{whole[:-1]},"outputs":[{outputs}]}}', path)
    yield "OIP: no JSON", protocols.event("[" * size, path)
    tail = size // 4 * 3 - 3000
    for name, fill in {"zeros": 0, "NaN": 255}.items():
        part = bytes([fill]) * (tail // len(manifest.inputs) // 4 * 4)
        document = json.loads(inputs(dict.fromkeys(shapes, "0")))
        for tensor in document["inputs"]:
            del tensor["data"]
            tensor["parameters"] = {"binary_data_size": len(part)}
            tensor["shape"][0] = len(part) // 4 // int(np.prod(shapes[tensor["name"]][1:]))
        event = protocols.framed(document, *[part] * len(manifest.inputs))
        yield f"OIP: bytes, {name}", {**event, "rawPath": path}
    yield (
        "OIP: bytes of nothing",
        {**protocols.framed({"inputs": []}, bytes(tail)), "rawPath": path},
    )


def _packed(data: bytes) -> Event:
    """A body that comes as base64, at most as much of it as Lambda carries."""
    coding = {"Content-Encoding": "gzip"} if data[:2] == b"\x1f\x8b" else {}
    return events.rest(data[: CARRIED // 4 * 3], headers={**events.HEADERS, **coding})


def _filled(item: str, size: int, between: str = ",") -> str:
    """So many of an item that they fill `size` characters."""
    return between.join([item] * (size // (len(item) + 1)))


def _numbered(item: str, size: int) -> str:
    return ",".join([item % i for i in range(10**6, 10**6 + size // (len(item) + 6))])
