"""The Open Inference Protocol, version 2, over REST: what Triton, KServe and MLServer speak.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
The tensors are the ONNX graph's, whatever the contract: a tabular model's features are columns of
them, and are held to it. Tensors may travel as JSON, or as bytes behind it: see binary.py.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from math import prod
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import orjson

from handler import __version__, http_body
from handler import core_schema as cs
from handler.contract import MESSAGES, reject_duplicate_keys, violations
from handler.core_schema import SchemaValidator, ValidationError
from handler.errors import (
    MAX_VIOLATIONS,
    BadRequest,
    ContractViolation,
    NotFound,
    PayloadTooLarge,
    Violation,
    pointer,
)
from handler.gateway_events import Request, Response
from handler.manifest import Manifest, Tensor
from handler.model_inputs import Array, Columns
from handler.protocols import binary
from handler.protocols.tensor_columns import Values, flatten, to_array, violation_error
from handler.scoring import Scorer

DATATYPES = {
    "bool": "BOOL",
    **{f"{sign}int{n}": f"{sign.upper()}INT{n}" for sign in ("", "u") for n in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    "string": "BYTES",
    "object": "BYTES",  # numpy's word for it
}
JSON = {"content-type": "application/json"}
LENGTH = "inference-header-content-length"
IDS = "prediction_id"  # an output that is no tensor of the graph's, [rows]: only for who names it
_NAME = cs.typed_dict_field(cs.str_schema(strict=True))
_PARAMETERS = cs.typed_dict_field(
    cs.nullable_schema(cs.dict_schema(cs.str_schema(strict=True), cs.any_schema())), required=False
)
_ANY = cs.typed_dict_field(cs.any_schema(), required=False)
_SHAPE = cs.typed_dict_field(
    cs.list_schema(cs.int_schema(strict=True, ge=0), max_length=64, fail_fast=True)
)


def _list(fields: dict[str, cs.CoreSchema], least: int) -> cs.CoreSchema:
    items = cs.typed_dict_schema({**fields, "parameters": _PARAMETERS})
    return cs.list_schema(items, min_length=least, max_length=10_000, fail_fast=True)


# everything of a request but the data; fields that are not here are other servers' extensions
_REQUEST = SchemaValidator(
    cs.typed_dict_schema(
        {
            "id": cs.typed_dict_field(
                cs.nullable_schema(cs.str_schema(strict=True)), required=False
            ),
            "parameters": _PARAMETERS,
            "inputs": cs.typed_dict_field(
                _list({"name": _NAME, "datatype": _NAME, "shape": _SHAPE, "data": _ANY}, 1)
            ),
            "outputs": cs.typed_dict_field(
                cs.nullable_schema(_list({"name": _NAME}, 0)), required=False
            ),
        }
    )
)


class InferenceRequest(NamedTuple):
    """A request that the contract takes. `outputs`: which of the manifest's (the one after them is
    IDS), and whether each is to be sent as bytes.
    """

    columns: Columns
    outputs: list[tuple[int, bool]]
    id: str | None


def check_model(manifest: Manifest, request: Request) -> Manifest:
    """Raises NotFound unless the path names this model, and no other version."""
    asked = {key: unquote(value) for key, value in request.parameters.items()}
    if (
        asked.get("name", manifest.name) != manifest.name
        or asked.get("version", manifest.version) != manifest.version
    ):
        raise NotFound(f"the one model here is {manifest.name}, version {manifest.version}")
    return manifest


def version(manifest: Manifest) -> dict[str, Any]:
    """Of this server, not of the model."""
    return {"version": __version__}


def server(manifest: Manifest) -> dict[str, Any]:
    """Server metadata."""
    return {"name": "answerable", "version": __version__, "extensions": ["binary_tensor_data"]}


def live(manifest: Manifest) -> dict[str, Any]:
    """That the server lives. Without a model it would have answered 503."""
    return {"live": True}


def server_ready(manifest: Manifest) -> dict[str, Any]:
    """That the server is ready, and with it its one model."""
    return {"ready": True}


def ready(manifest: Manifest) -> dict[str, Any]:
    """That the model is ready."""
    return {"name": manifest.name, "ready": True}


def metadata(manifest: Manifest) -> dict[str, Any]:
    """Model metadata: the graph's tensors, -1 for a free axis."""

    def tensor(name: str, dtype: str, shape: Sequence[int | None]) -> dict[str, Any]:
        axes = [-1 if size is None else size for size in shape]
        return {"name": name, "datatype": DATATYPES[dtype], "shape": axes}

    return {
        "name": manifest.name,
        "versions": [manifest.version],
        "platform": "onnxruntime_onnx",
        "inputs": [tensor(*part) for part in manifest.inputs],
        "outputs": [tensor(o.tensor, o.dtype, o.shape) for o in manifest.outputs],
    }


def parse_request(scorer: Scorer, request: Request) -> InferenceRequest:
    """What an inference request asks for. Raises BadRequest, ContractViolation and their like."""
    text, tail = _parts(request, scorer.manifest.limits.body_bytes)
    manifest = scorer.manifest
    document = scorer.contract.parsed(text, lists=len(manifest.features))
    reject_duplicate_keys(text, document)
    try:
        asked = _REQUEST.validate_python(document)
    except ValidationError as error:
        raise ContractViolation(violations(error)) from None
    columns = _columns(scorer, asked["inputs"], tail)
    default = bool((asked.get("parameters") or {}).get("binary_data_output"))
    known = output_names(manifest)
    outputs = [(i, default) for i in range(len(manifest.outputs))]
    if asked.get("outputs"):
        outputs = []
        for i, output in enumerate(asked["outputs"]):
            if output["name"] not in known:
                message = "must be one of the model's outputs"
                raise violation_error(pointer("outputs", i, "name"), "unknown_output", message)
            binary_data = (output.get("parameters") or {}).get("binary_data", default)
            outputs.append((known.index(output["name"]), bool(binary_data)))
    return InferenceRequest(columns, outputs, asked.get("id"))


def output_names(manifest: Manifest) -> list[str]:
    """What may be asked for as an output."""
    return [*(output.tensor for output in manifest.outputs), IDS]


def _parts(request: Request, limit: int) -> tuple[str | bytes, memoryview | None]:
    """The JSON of a body, and the bytes behind it; None where it is all JSON."""
    length = request.headers.get(LENGTH)
    if length is None and http_body.content_type(request) != "application/octet-stream":
        return http_body.read_json(request, limit), None
    data = http_body.read_binary(request, limit)
    if length is None:
        return data, None
    if not (length.isascii() and length.isdigit() and 0 < int(length[:20]) <= len(data)):
        raise BadRequest(f"{LENGTH} is not the length of the JSON that the body begins with")
    size = int(length[:20])
    return data[:size], memoryview(data)[size:]


def _columns(scorer: Scorer, inputs: list[Any], tail: memoryview | None) -> Columns:
    manifest = scorer.manifest
    places = {part["name"]: i for i, part in enumerate(inputs)}
    known = {tensor.name: tensor for tensor in manifest.inputs}
    if len(places) != len(inputs) or places.keys() != known.keys():
        message = f"must be the model's inputs, each of them once: {', '.join(known)}"
        raise violation_error("/inputs", "inputs", message)
    sent = binary.split(inputs, tail)
    tensors: dict[str, Values] = {}
    nested: dict[str, list[int]] = {}
    rows: int | None = None
    for name, i in places.items():
        rows = _shape(manifest, known[name], inputs[i], i, rows)
        tensors[name], has_lists = _values(inputs[i], known[name].dtype, i, sent.get(i))
        if has_lists:
            nested[name] = inputs[i]["shape"]

    def where(name: str, index: int) -> str:
        at: Any = [index]
        if name in nested:
            at = map(int, np.unravel_index(index, nested[name]))
        return pointer("inputs", places[name], "data", *at)

    if not manifest.features:
        shapes = {part["name"]: part["shape"] for part in inputs}
        whole = [_whole(t, tensors[t.name], shapes[t.name], where) for t in manifest.inputs]
        return [[array] for array in whole] if manifest.execution.batch == "none" else whole
    widths = {part["name"]: prod(part["shape"][1:]) for part in inputs}

    def place(k: int, row: int) -> str:
        feature = manifest.features[k]
        return where(feature.input, row * widths[feature.input] + feature.column)

    return scorer.table.columns(tensors, place)


def _values(part: Any, dtype: str, i: int, sent: memoryview | None) -> tuple[Values, bool]:
    """The values of an input in row-major order, and whether they came as lists in lists."""
    data, shape, at = part.get("data"), part["shape"], pointer("inputs", i, "data")
    if sent is not None:
        return binary.array(sent, dtype, prod(shape), i), False
    if (part.get("parameters") or {}).get("content_type") == "base64":
        return binary.base64(data, dtype, prod(shape), i), False
    if not isinstance(data, list):
        raise violation_error(at, "type", "must be an array")
    values, given = flatten(data, at)
    if len(values) != prod(shape) or (len(given) > 1 and list(given) != shape):
        raise violation_error(at, "wrong_length", "does not have the shape that is stated")
    return values, len(given) > 1


def _shape(manifest: Manifest, tensor: Tensor, given: Any, i: int, rows: int | None) -> int | None:
    """How many rows there are; None for a graph without. Refuses what is not the model's."""
    datatype, shape, limits = DATATYPES[tensor.dtype], given["shape"], manifest.limits
    if given["datatype"] != datatype:
        unserved = "BF16 is not served here: it " if given["datatype"] == "BF16" else ""
        raise violation_error(
            pointer("inputs", i, "datatype"), "type", f"{unserved}must be {datatype}"
        )
    where = pointer("inputs", i, "shape")
    fits = [size is None or size == n for size, n in zip(tensor.shape, shape, strict=False)]
    batched = manifest.execution.batch != "none"
    if (
        len(shape) != len(tensor.shape)
        or not all(fits)
        or (batched and rows not in (None, shape[0]))
    ):
        sizes = ", ".join("any" if size is None else str(size) for size in tensor.shape)
        one = ", and the first axis the same for all inputs" if batched else ""
        raise violation_error(where, "shape", f"must be [{sizes}]{one}")
    if prod(shape[1:] if batched else shape) > limits.elements:
        message = f"a tensor has at most {limits.elements} elements"
        raise violation_error(where, "too_many_elements", message + " per row" * batched)
    if batched and not 0 < shape[0] <= limits.rows:
        code, message = MESSAGES["too_long" if shape[0] else "too_short"]
        raise violation_error(where, code, message.format(max_length=limits.rows, min_length=1))
    return shape[0] if batched else None


def _whole(
    tensor: Tensor, values: Values, shape: list[int], where: Callable[[str, int], str]
) -> Array:
    """One input of a tensor contract."""
    if isinstance(values, list):
        values = to_array(values, tensor.dtype, lambda k: where(tensor.name, k))
    elif values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = islice(np.flatnonzero(~np.isfinite(values)).tolist(), MAX_VIOLATIONS + 1)
        told = [Violation(where(tensor.name, k), *MESSAGES["finite_number"]) for k in bad]
        raise ContractViolation(told)
    return values.reshape(shape)


def string_tensor(ids: Sequence[bytes]) -> Array:
    """Ids as a tensor of strings, [rows]."""
    return np.array([id.decode() for id in ids], object)


def render_response(
    manifest: Manifest, request: Request, asked: InferenceRequest, outputs: Sequence[Array]
) -> Response:
    """The response. Raises PayloadTooLarge if it is over the contract's limit."""
    parts: list[bytes] = []
    told: list[dict[str, Any]] = []
    known = output_names(manifest)
    for i, as_bytes in asked.outputs:
        array = outputs[i]
        datatype = DATATYPES[array.dtype.name]
        tensor = {"name": known[i], "datatype": datatype, "shape": array.shape}
        if as_bytes and http_body.client_accepts_binary(request):
            parts.append(binary.dump(array))
            told.append({**tensor, "parameters": {"binary_data_size": len(parts[-1])}})
        else:
            data = array.ravel()
            told.append({**tensor, "data": data.tolist() if data.dtype.kind == "O" else data})
    document = {"model_name": manifest.name, "model_version": manifest.version, "outputs": told}
    if asked.id is not None:
        document["id"] = asked.id
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    size = len(head) if not parts else (len(head) + sum(map(len, parts))) * 4 // 3  # as base64
    if size > manifest.limits.response_bytes:
        raise PayloadTooLarge(
            f"the answer is over {manifest.limits.response_bytes} bytes; send fewer rows"
        )
    if not parts:
        return Response(200, head, JSON)
    headers = {"content-type": "application/octet-stream", LENGTH: str(len(head))}
    return Response(200, b"".join([head, *parts]), headers)
