"""Prediction ids: each says what was predicted, by which model and function, and when.

39 bytes, big-endian, as 52 characters that need no quoting in a URL. The ids of one function sort
by time.

     1  format and source in the upper six bits, the kind of value in the lower two
     6  milliseconds since 1970
     2  checksum of the model's name
     3  the model's version: major, minor, patch; 255 for anything above
     3  the first bytes of model.onnx's SHA-256
     2  the function's version; 0 is $LATEST
     4  nonce: random, or the CRC-32 of a job's id, so that a repeated job gets the same ids
     2  the row's number in its request
     8  the predicted value as float64; of a class, the CRC-32 of its JSON
     8  signature: BLAKE2s (RFC 7693) with a key from PREDICTION_ID_SECRET, else a CRC-32

The source says which function predicted: an id of the API begins with 0, of the worker of jobs
with 1, of a batch with 2. Each function counts its versions from 1, so the version alone names
none of them.

The first 28 characters are equal for all rows of a request. Its record holds them.

Only a signature proves that this service made the id. Without a secret the checksum detects ids
that were damaged or cut, and anybody can make one up.
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
INPUT_PREFIX_CHARS = 22  # of a batch: before the nonce, which counts its runs
MAX_OUTCOMES = 1000  # in one request to /feedback
API, WORKER, BATCH = 1, 2, 3  # sources; in base64 they are the characters 0, 1 and 2
NO_VALUE, NUMBER, CLASS = range(3)  # kinds of value
# an id without its signature; of the model's name and the rest that an environment's ids share
_BODY = struct.Struct(">B6s10sIHd")
_SHARED = struct.Struct(">H3s3sH")
_SIGNED_ROW = np.dtype(
    [("head", "V21"), ("row", ">u2"), ("value", ">f8"), ("signature", "V8")], align=False
)
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_SORTED = b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"  # as ASCII sorts
_ENCODE = bytes.maketrans(_BASE64, _SORTED)
_DECODE = bytes.maketrans(_SORTED, _BASE64)

Mac = Callable[[bytes], bytes]


class IdRequest(NamedTuple):
    """A request whose rows get ids: its number of rows, nonce, and milliseconds since 1970."""

    rows: int
    nonce: int
    milliseconds: int


# the model's outputs, and the requests that they answer in this order
IdGenerator = Callable[[Sequence[Array], Sequence[IdRequest]], list[bytes]]


class Prediction(NamedTuple):
    """The content of an id.

    `model`: the first six hex digits of model.onnx's SHA-256. `prefix`: the id's first characters,
    equal for all rows of its request. `value`: by `kind`, a number or a class's checksum.
    """

    source: int
    kind: int
    milliseconds: int
    name_checksum: int
    version: str
    model: str
    function_version: str
    prefix: str
    row: int
    value: float


class BadId(ValueError):
    """An id of another form, "malformed_id", or with another signature, "invalid_signature"."""


def new_request(rows: int) -> IdRequest:
    """Return a request of now. The kernel draws its nonce: copies of a snapshot share the rest."""
    return IdRequest(rows, int.from_bytes(os.urandom(4)), time.time_ns() // 1_000_000)


def job_request(rows: int, job_id: str, submitted: int) -> IdRequest:
    """Return a job's request, the same whenever it is scored; `submitted` in seconds since 1970."""
    return IdRequest(rows, crc32(job_id.encode()), submitted * 1000)


def model_name_checksum(name: str) -> int:
    """Return the two bytes that an id holds of the model's name."""
    return crc32(name.encode()) & 0xFFFF


def label_checksum(label: object) -> float:
    """Return the value that an id holds of a class."""
    return float(crc32(orjson.dumps(label)))


def primary_output(manifest: Manifest) -> tuple[int, Output | None]:
    """Return index and output that outcomes are compared with: value or label, else by class."""
    for kinds in (("value", "label"), BY_CLASS):
        for index, output in enumerate(manifest.outputs):
            if output.kind in kinds:
                return index, output
    return 0, None


def derive_key(secret: str, purpose: bytes) -> bytes:
    """Return the key for one purpose of at most 8 bytes, from the first of several secrets."""
    from handler.hashes import blake2s

    return blake2s(secret.split()[0].encode(), person=purpose).digest()


def signer(secret: str) -> Mac:
    """Return the function that makes an id's last eight bytes, with the first of the secrets."""
    if not secret.split():
        return lambda body: crc32(body).to_bytes(8)
    from handler.hashes import blake2s

    keyed = blake2s(key=derive_key(secret, b"id"), digest_size=8)

    def sign(body: bytes) -> bytes:
        state = keyed.copy()  # it has hashed the key's block already
        state.update(body)
        return state.digest()

    return sign


def verifiers(secret: str) -> list[Mac]:
    """Return a signer for each of the secrets."""
    return [signer(word) for word in secret.split() or [""]]


def make_id_generator(
    manifest: Manifest, function_version: str, secret: str, source: int = API
) -> IdGenerator:
    """Return the function that makes the ids of one run's rows, for one request or several."""
    index, output = primary_output(manifest)
    kind = NO_VALUE if output is None else NUMBER if output.kind == "value" else CLASS
    name = model_name_checksum(manifest.name)
    model = bytes.fromhex(manifest.files["model.onnx"].sha256[:6].rjust(6, "0"))
    number = min(int(function_version), 0xFFFF) if function_version.isdecimal() else 0
    shared = _SHARED.pack(name, _version_bytes(manifest.version), model, number)
    labels = np.array([label_checksum(label) for label in output.classes] if output else [])
    sign = signer(secret)

    def body(request: IdRequest, value: float) -> bytes:
        milliseconds = request.milliseconds.to_bytes(8)[2:]
        return _BODY.pack(source << 2 | kind, milliseconds, shared, request.nonce, 0, value)

    def values(outputs: Sequence[Array], rows: int) -> Array:
        if output is None:
            return np.zeros(rows)
        array = outputs[index]
        if output.kind in BY_CLASS:
            checksums: Array = labels[array.argmax(axis=1)]
            return checksums
        flat = array.ravel()
        if kind == NUMBER:
            return flat
        return np.array([label_checksum(label) for label in flat.tolist()])

    def generate(outputs: Sequence[Array], requests: Sequence[IdRequest]) -> list[bytes]:
        if len(requests) == 1 and requests[0].rows == 1:  # a third of the time that numpy takes
            single = body(requests[0], values(outputs, 1).item())
            return [b2a_base64(single + sign(single), newline=False).translate(_ENCODE)]
        counts = [request.rows for request in requests]
        table = np.empty(sum(counts), _SIGNED_ROW)
        heads = np.array([body(request, 0.0)[:21] for request in requests], "V21")
        table["head"] = np.repeat(heads, counts)
        table["row"] = np.concatenate([np.arange(count) for count in counts])
        table["value"] = values(outputs, len(table))
        # numpy makes bytes objects in a fifth of the time that slices take
        bodies = table.view([("body", "V31"), ("signature", "V8")])["body"].tolist()
        table["signature"] = np.frombuffer(b"".join(map(sign, bodies)), "V8")
        text = b2a_base64(table.tobytes(), newline=False).translate(_ENCODE)
        ids: list[bytes] = np.frombuffer(text, f"S{ID_CHARS}").tolist()
        return ids

    return generate


def prefix_of(prediction: bytes) -> str:
    """Return the first characters of the id in front of a prediction: see handler/render.py."""
    return prediction[7 : 7 + REQUEST_PREFIX_CHARS].decode()


def nonce_of(prefix: str) -> int:
    """Return the nonce in the first characters of an id."""
    return int.from_bytes(a2b_base64(prefix.encode().translate(_DECODE))[17:21])


def parse(text: str, *macs: Mac) -> Prediction:
    """Return the content of an id. Raises BadId; without `macs` the signature is not checked."""
    try:
        encoded = text.encode("ascii")
        if len(encoded) != ID_CHARS or encoded.translate(None, _SORTED):
            raise ValueError
        data = a2b_base64(encoded.translate(_DECODE), strict_mode=True)
    except ValueError:
        raise BadId("malformed_id") from None
    body, signature = data[:-8], data[-8:]
    source, kind = data[0] >> 2, data[0] & 3
    if source not in (API, WORKER, BATCH) or kind > CLASS:
        raise BadId("malformed_id")
    if macs:
        from hmac import compare_digest  # 3 ms, which a cold start of /predict does without

        if not any(compare_digest(mac(body), signature) for mac in macs):
            raise BadId("invalid_signature")
    _, milliseconds, shared, _, row, value = _BODY.unpack(body)
    name, version, model, number = _SHARED.unpack(shared)
    return Prediction(
        source=source,
        kind=kind,
        milliseconds=int.from_bytes(milliseconds),
        name_checksum=name,
        version=".".join(map(str, version)),
        model=model.hex(),
        function_version=str(number) if number else "$LATEST",
        prefix=text[:REQUEST_PREFIX_CHARS],
        row=row,
        value=value,
    )


def _version_bytes(version: str) -> bytes:
    """Return major, minor and patch of a semantic version, a byte each."""
    numbers = version.partition("-")[0].partition("+")[0].split(".")[:3]
    return bytes(min(int(n), 255) if n.isdecimal() else 0 for n in numbers).ljust(3, b"\0")
