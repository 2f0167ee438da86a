"""Triton's binary tensor data: tensors as bytes behind the JSON, little-endian and row-major.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
A string is its length, four bytes, and its UTF-8.
"""

from struct import Struct, error
from typing import Any

import numpy as np

from handler import http_body
from handler.errors import BadRequest, pointer
from handler.model_inputs import Array, dtype
from handler.protocols.tensor_columns import violation_error

_LENGTH = Struct("<I")


def split(inputs: list[Any], tail: memoryview | None) -> dict[int, memoryview]:
    """The bytes of each input that has any. Raises BadRequest unless they are what is behind the
    JSON, to the last.
    """
    found: dict[int, memoryview] = {}
    at = 0
    for i, part in enumerate(inputs):
        size = (part.get("parameters") or {}).get("binary_data_size")
        if size is None:
            continue
        if type(size) is not int or size < 0 or tail is None or at + size > len(tail):
            raise BadRequest("a binary_data_size is not that of data behind the JSON")
        if "data" in part:
            raise BadRequest("an input has both data and binary_data_size")
        found[i] = tail[at : at + size]
        at += size
    if tail is not None and at != len(tail):
        raise BadRequest("the binary data is longer than the inputs' binary_data_size say")
    return found


def array(data: memoryview | bytes, kind: str, count: int, i: int) -> Array:
    """An array [count] of the manifest's dtype `kind`: the memory of `data` itself if that is
    aligned. Raises BadRequest where its length is another's, ContractViolation for what is no
    string, or neither true nor false.
    """
    if kind == "string":
        return _strings(data, count, i)
    made = dtype(kind).newbyteorder("<")
    if len(data) != count * made.itemsize:
        raise BadRequest("the size of an input's binary data does not fit its shape and datatype")
    if kind == "bool" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise violation_error(pointer("inputs", i), "type", "must be bytes of 0 and 1")
    values: Array = np.frombuffer(data, made)
    return values if values.flags.aligned else values.copy()


def _strings(data: memoryview | bytes, count: int, i: int) -> Array:
    raw, at = bytes(data), 0
    values = np.empty(count if count * 4 <= len(raw) else 0, object)
    try:
        for k in range(len(values)):
            (size,) = _LENGTH.unpack_from(raw, at)
            at += 4 + size
            if at > len(raw):  # its text is not there to be judged
                break
            values[k] = raw[at - size : at].decode()
    except error:
        at = -1
    except UnicodeDecodeError:
        raise violation_error(pointer("inputs", i), "type", "must be strings in UTF-8") from None
    if at != len(raw) or len(values) != count:
        raise BadRequest("the size of an input's binary data does not fit its shape and datatype")
    return values


def base64(data: Any, kind: str, count: int, i: int) -> Array:
    """An array [count] from JSON: one base64 text of the bytes above, or of strings, one for each;
    the parameter `content_type` says so, as MLServer has it.
    """
    where = pointer("inputs", i, "data")
    texts = [data] if isinstance(data, str) else data
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise violation_error(where, "type", "must be base64")
    try:
        parts = [http_body.decode_base64(text) for text in texts]
        if kind == "string":
            values = np.array([part.decode() for part in parts], object)
    except ValueError:
        raise violation_error(where, "type", "must be base64") from None
    if len(parts) != (count if kind == "string" else 1):
        raise violation_error(where, "wrong_length", "does not have the shape that is stated")
    return values if kind == "string" else array(parts[0], kind, count, i)


def dump(values: Array) -> bytes:
    """The bytes of an output."""
    if values.dtype.kind != "O":
        return values.astype(values.dtype.newbyteorder("<"), "C", copy=False).tobytes()
    texts = [text.encode() for text in values.ravel().tolist()]
    return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))
