"""Requests of the Open Inference Protocol, written by hand, and their answers read."""

import base64
import json
from typing import Any

import numpy as np

from tests import events
from tests.events import Context

DATATYPES = {
    "bool": "BOOL", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "float16": "FP16", "float32": "FP32", "float64": "FP64", "object": "BYTES",
}  # fmt: skip
LENGTH = "inference-header-content-length"
Arrays = dict[str, Any]


def raw(array: Any) -> bytes:
    """The bytes of Triton's binary tensor data."""
    if array.dtype.kind != "O":
        return bytes(array.tobytes())
    texts = [text.encode() for text in array.ravel().tolist()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def described(name: str, array: Any) -> dict[str, Any]:
    """A tensor but for its data."""
    return {"name": name, "datatype": DATATYPES[array.dtype.name], "shape": list(array.shape)}


def as_json(arrays: Arrays, nested: bool = False, **fields: Any) -> dict[str, Any]:
    """An event, all JSON."""
    inputs = []
    for name, array in arrays.items():
        data = array.tolist() if nested and array.shape else array.ravel().tolist()
        inputs.append({**described(name, array), "data": data})
    return event(json.dumps({"inputs": inputs, **fields}))


def as_binary(arrays: Arrays, **fields: Any) -> dict[str, Any]:
    """An event whose tensors are bytes, which asks for bytes."""
    parts = {name: raw(array) for name, array in arrays.items()}
    inputs = [
        {**described(name, array), "parameters": {"binary_data_size": len(parts[name])}}
        for name, array in arrays.items()
    ]
    document = {"inputs": inputs, "parameters": {"binary_data_output": True}, **fields}
    return framed(document, *parts.values())


def framed(document: Any, *parts: bytes, **headers: str) -> dict[str, Any]:
    """An event of JSON with bytes behind it."""
    head = json.dumps(document).encode()
    return event(head + b"".join(parts), **{LENGTH: str(len(head)), **headers})


def event(body: str | bytes, path: str = "/v2/models/test/infer", **headers: str) -> dict[str, Any]:
    """As an HTTP API hands it on."""
    made = events.http(None, path)
    made["headers"] = {"host": "api.example", **headers}
    made["isBase64Encoded"] = isinstance(body, bytes)
    made["body"] = base64.b64encode(body).decode() if isinstance(body, bytes) else body
    return made


def ask(handler: Any, event: Any) -> tuple[int, dict[str, Any], Arrays]:
    """Status, document and, of a good answer, its tensors."""
    answer = handler(event, Context())
    body = answer["body"].encode()
    if answer["isBase64Encoded"]:
        body = base64.b64decode(body)
    size = int(answer["headers"].get(LENGTH, len(body)))
    document, tail = json.loads(body[:size]), body[size:]
    arrays: Arrays = {}
    for tensor in document.get("outputs", []):
        size = tensor.get("parameters", {}).get("binary_data_size")
        dtype = {v: k for k, v in DATATYPES.items()}[tensor["datatype"]]
        if size is None:
            values = np.array(tensor["data"], dtype)
        else:
            assert "data" not in tensor
            part, tail = tail[:size], tail[size:]
            values = strings(part) if dtype == "object" else np.frombuffer(part, dtype)
        arrays[tensor["name"]] = values.reshape(tensor["shape"])
    assert not tail
    return answer["statusCode"], document, arrays


def strings(data: bytes) -> Any:
    """An array of what `raw` made of one."""
    found = []
    while data:
        size = int.from_bytes(data[:4], "little")
        found.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    return np.array(found, object)
