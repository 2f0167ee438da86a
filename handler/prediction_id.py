"""Prediction ids that say by themselves what predicted what, and when.

39 bytes, big-endian, as 52 characters that sort by time and need no quoting in a URL:

     1  format, with the kind of value in its lowest two bits
     6  milliseconds since 1970
     2  checksum of the model's name
     3  the model's version: major, minor, patch; 255 stands for anything above
     3  the first bytes of model.onnx's SHA-256
     2  the function's version; 0 is $LATEST
     4  at random; of a job, the CRC-32 of its id, so that it gets the same each time
     2  the row's number in its request
     8  the predicted value as float64; of a class, the CRC-32 of its JSON
     8  seal: BLAKE2s keyed with FEEDBACK_SECRET (RFC 7693), or without one a CRC-32

The first 28 characters are those of the request; they stand in its record, which finds it again.
Only the key makes the seal a proof that this service predicted the value: without one it finds ids
that were damaged or cut, and anybody who reads this page can make up another.
"""

import os
import struct
import time
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np
import orjson

from handler.manifest import BY_CLASS, Manifest, Output
from handler.model_inputs import Array

ID_CHARS = 52
REQUEST_PREFIX_CHARS = 28
MAX_OUTCOMES = 1000  # that one request to /feedback may tell
FORMAT = 4  # so that an id begins with a digit
NOTHING, NUMBER, CLASS = range(3)
_REQUEST = struct.Struct(">B6sH3s3sHI")
_ROW = struct.Struct(">21sHd")
_ROWS = np.dtype([("request", "S21"), ("row", ">u2"), ("value", ">f8"), ("seal", "S8")])
_BODY = _ROW.size
_TIME = (1 << 48) - 1
_PACK = struct.Struct(">Q9sIHd").pack  # the same 31 bytes, what is constant in one piece
_STANDARD = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_SORTED = b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"  # as ASCII sorts
_WRITE = bytes.maketrans(_STANDARD, _SORTED)
_READ = bytes.maketrans(_SORTED, _STANDARD)

Mac = Callable[[bytes], bytes]
IdGenerator = Callable[[Sequence[Array], int], list[bytes]]
# for each of the requests in one run: rows, request id, milliseconds since 1970
JobIdGenerator = Callable[[Sequence[Array], Sequence[tuple[int, str, int]]], list[bytes]]


class Prediction(NamedTuple):
    """What an id says. `milliseconds`: since 1970, UTC. `version`: the model's, as far as the id
    has it. `model`: the first six hex digits of model.onnx's SHA-256. `value`: see `kind`.
    """

    kind: int
    milliseconds: int
    name: int
    version: str
    model: str
    function_version: str
    request: str
    row: int
    value: float


class BadId(ValueError):
    """Not an id of ours: "malformed" in its form, "damaged" or "forged" by its seal."""


def model_name_checksum(name: str) -> int:
    """What an id has of the model's name."""
    return crc32(name.encode()) & 0xFFFF


def label_checksum(label: object) -> float:
    """What an id has of a class."""
    return float(crc32(orjson.dumps(label)))


def primary_output(manifest: Manifest) -> tuple[int, Output | None]:
    """The output that outcomes are compared with: a value or label, else numbers by class."""
    for kinds in (("value", "label"), BY_CLASS):
        for index, output in enumerate(manifest.outputs):
            if output.kind in kinds:
                return index, output
    return 0, None


def signer(secret: str) -> Mac:
    """The function that makes the last eight bytes of an id from those before.

    Of several secrets, apart by spaces, it is the first's; the others are those of before.
    """
    words = secret.split()
    if not words:
        return lambda body: crc32(body).to_bytes(8)
    from hashlib import blake2s

    start = blake2s(key=blake2s(words[0].encode()).digest(), digest_size=8)

    def seal(body: bytes) -> bytes:
        state = start.copy()  # the key's block is hashed already
        state.update(body)
        return state.digest()

    return seal


def verifiers(secret: str) -> list[Mac]:
    """Of each secret the function that makes its seal."""
    return [signer(word) for word in secret.split() or [""]]


def _constants(
    manifest: Manifest, function_version: str
) -> tuple[int, bytes, Callable[[Sequence[Array], int], Array]]:
    """An id's first bytes but for the time, those after it, and what reads the values to name."""
    index, output = primary_output(manifest)
    kind = NOTHING if output is None else NUMBER if output.kind == "value" else CLASS
    name, version = model_name_checksum(manifest.name), _packed(manifest.version)
    model = bytes.fromhex(manifest.files["model.onnx"].sha256[:6].rjust(6, "0"))
    number = min(int(function_version), 0xFFFF) if function_version.isdecimal() else 0
    fixed = (name & 0xFF).to_bytes() + version + model + number.to_bytes(2)
    first = (FORMAT | kind) << 56 | name >> 8
    labels = np.array([label_checksum(label) for label in output.classes] if output else [])

    def values(outputs: Sequence[Array], rows: int) -> Array:
        if output is None:
            return np.zeros(rows)
        array = outputs[index]
        if output.kind in BY_CLASS:
            chosen: Array = labels[array.argmax(axis=1)]
            return chosen
        flat = array.ravel()
        return (
            np.array([label_checksum(label) for label in flat.tolist()]) if kind == CLASS else flat
        )

    return first, fixed, values


def make_id_generator(manifest: Manifest, function_version: str, secret: str) -> IdGenerator:
    """The function that names the predictions of a request: model's outputs, rows."""
    first, fixed, values = _constants(manifest, function_version)
    index, output = primary_output(manifest)
    item = output is not None and output.kind == "value"
    seal = signer(secret)

    def issue(outputs: Sequence[Array], rows: int) -> list[bytes]:
        head = first | time.time_ns() // 1_000_000 << 8
        # the kernel's: environments restored from one snapshot count and reckon alike
        nonce = int.from_bytes(os.urandom(4))
        if rows == 1:
            value = outputs[index].item() if item else float(values(outputs, 1)[0])
            body = _PACK(head, fixed, nonce, 0, value)
            return [b2a_base64(body + seal(body), newline=False).translate(_WRITE)]
        table = np.empty(rows, _ROWS)
        table["request"] = np.frombuffer(_PACK(head, fixed, nonce, 0, 0.0)[:21], "S21")
        table["row"] = np.arange(rows)
        table["value"] = values(outputs, rows)
        table["seal"] = b""
        whole, size = table.tobytes(), _ROWS.itemsize
        bodies = [whole[i : i + _BODY] for i in range(0, size * rows, size)]
        if secret:
            whole = b"".join([body + seal(body) for body in bodies])
        else:  # as `seal` does, three times as fast
            table["seal"] = np.fromiter(map(crc32, bodies), ">u8", rows).view("S8")
            whole = table.tobytes()
        text = b2a_base64(whole, newline=False).translate(_WRITE)
        return [text[i : i + ID_CHARS] for i in range(0, len(text), ID_CHARS)]

    return issue


def make_job_id_generator(manifest: Manifest, function_version: str, secret: str) -> JobIdGenerator:
    """The function that names the predictions of several requests in one run."""
    first, fixed, values = _constants(manifest, function_version)
    seal = signer(secret)

    def issue(outputs: Sequence[Array], requests: Sequence[tuple[int, str, int]]) -> list[bytes]:
        value = iter(values(outputs, sum([count for count, _, _ in requests])).tolist())
        bodies = [
            _PACK(first | (milliseconds & _TIME) << 8, fixed, crc32(id.encode()), row, next(value))
            for count, id, milliseconds in requests
            for row in range(count)
        ]
        whole = b"".join([body + seal(body) for body in bodies])
        text = b2a_base64(whole, newline=False).translate(_WRITE)
        return [text[i : i + ID_CHARS] for i in range(0, len(text), ID_CHARS)]

    return issue


def attach_ids(ids: Sequence[bytes], predictions: Sequence[bytes]) -> list[bytes]:
    """Predictions, JSON objects with at least one field, each with its id as the first."""
    return [b'{"id":"%b",%b' % (i, text[1:]) for i, text in zip(ids, predictions, strict=True)]


def parse(text: str, *seals: Mac) -> Prediction:
    """What an id says. Raises BadId; without any of the `seals` its own is not looked at."""
    try:
        data = text.encode("ascii")
        if len(data) != ID_CHARS or data.translate(None, _SORTED):
            raise ValueError
        whole = a2b_base64(data.translate(_READ), strict_mode=True)
    except ValueError:
        raise BadId("malformed") from None
    body = whole[:-8]
    if whole[0] & 0xFC != FORMAT or whole[0] & 3 > CLASS:
        raise BadId("malformed")
    if seals and whole[-8:] not in [seal(body) for seal in seals]:
        raise BadId("forged")
    request, row, value = _ROW.unpack(body)
    head, now, name, version, model, number, _ = _REQUEST.unpack(request)
    return Prediction(
        kind=head & 3,
        milliseconds=int.from_bytes(now),
        name=name,
        version=".".join(map(str, version)),
        model=model.hex(),
        function_version=str(number) if number else "$LATEST",
        request=text[:REQUEST_PREFIX_CHARS],
        row=row,
        value=value,
    )


def _packed(version: str) -> bytes:
    """Major, minor and patch of a semantic version, a byte each."""
    parts = version.partition("-")[0].partition("+")[0].split(".")
    return bytes(min(int(part), 255) if part.isdecimal() else 0 for part in parts[:3]).ljust(
        3, b"\0"
    )
