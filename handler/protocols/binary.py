"""Triton's binary tensor data: little-endian, row-major bytes that follow the JSON.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
A string is its length in four bytes, then its UTF-8.
"""

from binascii import a2b_base64
from struct import Struct, error
from typing import Any

import numpy as np

from handler.errors import BadRequest, pointer, violation_error
from handler.model_inputs import Array, dtype

_LENGTH = Struct("<I")
STRING_DTYPES = ("string", "bytes")  # of bytes, Python's bytes are the values


def split(inputs: list[Any], tail: memoryview | None) -> dict[int, memoryview]:
    """Return the binary data of inputs, by index. Raise BadRequest unless the sizes add up."""
    chunks: dict[int, memoryview] = {}
    start = 0
    for i, tensor in enumerate(inputs):
        size = (tensor.get("parameters") or {}).get("binary_data_size")
        if size is None:
            continue
        if type(size) is not int or size < 0 or tail is None or start + size > len(tail):
            raise BadRequest("a binary_data_size exceeds the data that follows the JSON")
        if "data" in tensor:
            raise BadRequest("an input has both data and binary_data_size")
        chunks[i] = tail[start : start + size]
        start += size
    if tail is not None and start != len(tail):
        raise BadRequest("the binary data is longer than the inputs' binary_data_size")
    return chunks


def parse(data: memoryview | bytes, dtype_name: str, count: int, i: int) -> Array:
    """Return an array [count], a view of aligned `data`. Raise BadRequest or ContractViolation."""
    if dtype_name in STRING_DTYPES:
        return _parse_strings(data, count, i, as_text=dtype_name == "string")
    little_endian = dtype(dtype_name).newbyteorder("<")
    if len(data) != count * little_endian.itemsize:
        raise _wrong_size()
    if dtype_name == "bool" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise violation_error(pointer("inputs", i), "type", "must be bytes of 0 and 1")
    values: Array = np.frombuffer(data, little_endian)
    return values if values.flags.aligned else values.copy()


def _parse_strings(data: memoryview | bytes, count: int, i: int, as_text: bool) -> Array:
    raw, end = bytes(data), 0
    values: list[str | bytes] = []
    try:
        while end < len(raw) and len(values) < count:
            (size,) = _LENGTH.unpack_from(raw, end)
            end += 4 + size
            if end > len(raw):
                break
            chunk = raw[end - size : end]
            values.append(chunk.decode() if as_text else chunk)
    except error:  # fewer than four bytes are left
        raise _wrong_size() from None
    except UnicodeDecodeError:
        raise violation_error(pointer("inputs", i), "type", "must be strings in UTF-8") from None
    if end != len(raw) or len(values) != count:
        raise _wrong_size()
    return np.array(values, object)


def _wrong_size() -> BadRequest:
    return BadRequest("the size of an input's binary data does not match its shape and datatype")


def parse_base64(data: Any, dtype_name: str, count: int, i: int) -> Array:
    """Return an array [count] of base64 text, which MLServer marks by `content_type`."""
    where, is_string = pointer("inputs", i, "data"), dtype_name in STRING_DTYPES
    texts = [data] if isinstance(data, str) else data
    try:
        if not isinstance(texts, list):
            raise TypeError
        chunks = [a2b_base64(text, strict_mode=True) for text in texts]
        strings = [c.decode() if dtype_name == "string" else c for c in chunks * is_string]
    except (ValueError, TypeError):
        raise violation_error(where, "type", "must be base64") from None
    if len(chunks) != (count if is_string else 1):
        raise violation_error(where, "wrong_length", "does not have the stated shape")
    return np.array(strings, object) if is_string else parse(chunks[0], dtype_name, count, i)


def dump(values: Array) -> bytes:
    """Return the bytes of an output."""
    if values.dtype.kind != "O":
        return values.astype(values.dtype.newbyteorder("<"), "C", copy=False).tobytes()
    texts = [text.encode() for text in values.ravel().tolist()]
    return b"".join(piece for text in texts for piece in (_LENGTH.pack(len(text)), text))
