"""The Open Inference Protocol, version 2, over REST, as Triton, KServe and MLServer have it.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
The tensors are the ONNX graph's for every contract. A tabular model's features are columns of
them, and are validated. Tensors are JSON, or bytes that follow the JSON: see binary.py.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import orjson

from handler import core_schema as cs
from handler import http_body
from handler.core_schema import SchemaValidator, ValidationError
from handler.duplicate_keys import reject_duplicate_keys
from handler.errors import BadRequest, ContractViolation, PayloadTooLarge, pointer, violation_error
from handler.http import INFERENCE_HEADER_LENGTH, JSON, OCTET_STREAM, Request, Response
from handler.manifest import Manifest, Tensor, Tokenizer
from handler.model_inputs import Array, Columns
from handler.protocols import binary
from handler.protocols.tensor_columns import (
    SentTensor,
    fit_shape,
    flatten,
    tensor_columns,
    to_array,
)
from handler.render import shortest
from handler.scoring import Scorer
from handler.validate import violations

# the protocol's datatype by the manifest's dtype
DATATYPES = {
    "bool": "BOOL",
    **{f"{sign}int{n}": f"{sign.upper()}INT{n}" for sign in ("", "u") for n in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    "string": "BYTES",
    "bytes": "BYTES",  # strings that are no text: pictures
    "object": "BYTES",  # numpy's dtype of strings
}
# an extra output of shape [rows], sent only if the request names it
PREDICTION_ID_OUTPUT = "prediction_id"

_TEXT = cs.str_schema(strict=True)
_REQUIRED_TEXT = cs.typed_dict_field(_TEXT)
_SIZES = cs.list_schema(cs.int_schema(strict=True, ge=0), max_length=64, fail_fast=True)
_PARAMETERS = cs.dict_schema(_TEXT, cs.any_schema())


def _optional(schema: cs.CoreSchema) -> cs.CoreSchema:
    return cs.typed_dict_field(cs.nullable_schema(schema), required=False)


def _tensor_list(min_length: int, **fields: cs.CoreSchema) -> cs.CoreSchema:
    fields |= {"name": _REQUIRED_TEXT, "parameters": _optional(_PARAMETERS)}
    tensor = cs.typed_dict_schema(fields)
    return cs.list_schema(tensor, min_length=min_length, max_length=10_000, fail_fast=True)


_INPUTS = _tensor_list(
    1,
    datatype=_REQUIRED_TEXT,
    shape=cs.typed_dict_field(_SIZES),
    data=cs.typed_dict_field(cs.any_schema(), required=False),
)
# a request without the tensors' data; unknown fields are extensions of other servers
_REQUEST_FIELDS = {
    "id": _optional(_TEXT),
    "parameters": _optional(_PARAMETERS),
    "inputs": cs.typed_dict_field(_INPUTS),
    "outputs": _optional(_tensor_list(0)),
}
_REQUEST = SchemaValidator(cs.typed_dict_schema(_REQUEST_FIELDS))


class RequestedOutput(NamedTuple):
    """An output of the response.

    `output`: the index in `output_names`. `as_bytes`: binary data where the client gets it.
    `top_k`: the number of classes of Triton's classification extension, 0 for the tensor itself.
    """

    output: int
    as_bytes: bool
    top_k: int = 0


class InferenceRequest(NamedTuple):
    """A valid request."""

    columns: Columns
    outputs: list[RequestedOutput]
    id: str | None


def model_metadata(manifest: Manifest) -> dict[str, Any]:
    """Return the model metadata: the graph's tensors, with -1 for a dynamic axis."""

    def tensor(name: str, dtype: str, shape: Sequence[int | None]) -> dict[str, Any]:
        axes = [-1 if size is None else size for size in shape]
        return {"name": name, "datatype": DATATYPES[dtype], "shape": axes}

    return {
        "name": manifest.name,
        "versions": [manifest.version],
        "platform": "onnxruntime_onnx",
        "inputs": [tensor(t.name, t.dtype, t.shape) for t in manifest.inputs],
        "outputs": [tensor(o.tensor, o.dtype, o.shape) for o in manifest.outputs],
    }


def accepted_datatypes(dtype: str) -> dict[str, str]:
    """Return the dtypes of accepted datatypes: floats are rounded, integers have to fit."""
    kind = dtype.strip("u0123456789")
    return {name: d for d, name in DATATYPES.items() if d.strip("u0123456789") == kind}


def output_names(manifest: Manifest) -> list[str]:
    """Return the names of the outputs that a request may name."""
    return [*(output.tensor for output in manifest.outputs), PREDICTION_ID_OUTPUT]


def parse_request(scorer: Scorer, request: Request) -> InferenceRequest:
    """Parse and validate an inference request. Raise an ApiError."""
    text, tail = _split_body(request, scorer.manifest.limits.body_bytes)
    manifest = scorer.manifest
    document = scorer.validator.parse_json(text, lists_per_row=len(manifest.features))
    reject_duplicate_keys(text, document)
    try:
        document = _REQUEST.validate_python(document)
    except ValidationError as error:
        raise ContractViolation(violations(error)) from None
    columns = _parse_inputs(scorer, document["inputs"], tail)
    return InferenceRequest(columns, _parse_outputs(manifest, document), document.get("id"))


def _split_body(request: Request, limit: int) -> tuple[str | bytes, memoryview | None]:
    """Return the JSON of a body and the bytes that follow it, None where all is JSON."""
    length = request.headers.get(INFERENCE_HEADER_LENGTH)
    if length is None and http_body.content_type(request) != OCTET_STREAM:
        return http_body.read_json(request, limit), None
    data = http_body.read_binary(request, limit)
    if length is None:
        http_body.check_item_count(data)
        return data, None
    if not (length.isascii() and length.isdigit() and 0 < int(length[:20]) <= len(data)):
        raise BadRequest(f"{INFERENCE_HEADER_LENGTH} is not the length of the leading JSON")
    size = int(length[:20])
    http_body.check_item_count(data[:size])
    return data[:size], memoryview(data)[size:]


def _parse_outputs(manifest: Manifest, document: Any) -> list[RequestedOutput]:
    default = bool((document.get("parameters") or {}).get("binary_data_output"))
    if not document.get("outputs"):
        return [RequestedOutput(i, default) for i in range(len(manifest.outputs))]
    names = output_names(manifest)
    numeric = [*(output.dtype != "string" for output in manifest.outputs), False]
    outputs: dict[int, RequestedOutput] = {}
    for i, sent in enumerate(document["outputs"]):
        index = names.index(sent["name"]) if sent["name"] in names else None
        if index is None or index in outputs:
            message = "must be one of the model's outputs, each of them once"
            raise violation_error(pointer("outputs", i, "name"), "unknown_output", message)
        parameters = sent.get("parameters") or {}
        _refuse_shared_memory(parameters, "outputs", i)
        top_k = parameters.get("classification", 0)
        if type(top_k) is not int or top_k < 0 or (top_k and not numeric[index]):
            where = pointer("outputs", i, "parameters", "classification")
            raise violation_error(where, "type", "must be a number of classes of a numeric output")
        as_bytes = bool(parameters.get("binary_data", default))
        outputs[index] = RequestedOutput(index, as_bytes, top_k)
    return [*outputs.values()]


def _refuse_shared_memory(parameters: dict[str, Any], kind: str, i: int) -> None:
    if "shared_memory_region" in parameters:
        where = pointer(kind, i, "parameters", "shared_memory_region")
        raise violation_error(where, "unsupported", "is not supported: send the data itself")


def _parse_inputs(scorer: Scorer, inputs: list[Any], tail: memoryview | None) -> Columns:
    manifest = scorer.manifest
    index = {tensor["name"]: i for i, tensor in enumerate(inputs)}
    chunks = binary.split(inputs, tail)
    for feature in manifest.features:
        if feature.tokenizer and feature.tokenizer.input_ids in index.keys() - {feature.input}:
            return _parse_tokens(scorer, feature.tokenizer, inputs, chunks)
    expected = {tensor.name: tensor for tensor in manifest.inputs}
    if len(index) != len(inputs) or index.keys() != expected.keys():
        message = f"must be the model's inputs, each of them once: {', '.join(expected)}"
        raise violation_error("/inputs", "inputs", message)
    pictures = {feature.input for feature in manifest.features if feature.image}
    tensors: dict[str, SentTensor] = {}
    rows: int | None = None
    for name, i in index.items():
        dtype = "bytes" if name in pictures else expected[name].dtype
        tensors[name] = _parse_tensor(manifest, expected[name], dtype, inputs, i, chunks, rows)
        rows = tensors[name].shape[0] if manifest.has_batch_axis else None
    if not manifest.features:
        return tensor_columns(manifest, tensors)

    def pointer_for(k: int, row: int) -> str:
        feature = manifest.features[k]
        tensor = tensors[feature.input]
        return tensor.pointer(row * prod(tensor.shape[1:]) + feature.column)

    values = {name: tensor.values for name, tensor in tensors.items()}
    return scorer.tensor_validator.columns(values, pointer_for)


def _parse_tokens(
    scorer: Scorer, tokenizer: Tokenizer, inputs: list[Any], chunks: dict[int, memoryview]
) -> Columns:
    """Return the column of token ids of a client with the tokenizer. Raise ContractViolation."""
    names = (tokenizer.input_ids, tokenizer.attention_mask, tokenizer.token_type_ids)
    arrays: dict[str, Array] = {}
    rows: int | None = None
    for i, sent in enumerate(inputs):
        name = sent["name"]
        if name not in names or name in arrays or len(scorer.types) > 1:
            raise violation_error(pointer("inputs", i, "name"), "inputs", "must be the text")
        tensor = Tensor(name, tokenizer.dtype, (None, None))
        tokens = _parse_tensor(scorer.manifest, tensor, tensor.dtype, inputs, i, chunks, rows)
        arrays[name] = to_array(tokens.values, tensor, tokens.pointer).reshape(tokens.shape)
        rows = tokens.shape[0]
    ids = arrays[tokenizer.input_ids]
    mask = arrays.get(tokenizer.attention_mask, np.ones_like(ids))
    if mask.shape != ids.shape:
        raise violation_error("/inputs", "shape", "must be of one shape")
    texts = [row[kept].tolist() for row, kept in zip(ids, mask != 0, strict=True)]
    return scorer.validator.validate_columns([texts], lambda k, row: "/inputs")


def _parse_tensor(
    manifest: Manifest,
    tensor: Tensor,
    dtype: str,
    inputs: list[Any],
    i: int,
    chunks: dict[int, memoryview],
    rows: int | None,
) -> SentTensor:
    """Return the i-th input, of `dtype` and as many `rows` as others. Raise ContractViolation."""
    sent, where = inputs[i], ("inputs", i, "data")
    parameters = sent.get("parameters") or {}
    _refuse_shared_memory(parameters, "inputs", i)
    datatypes = accepted_datatypes(dtype)
    if sent["datatype"] not in datatypes:
        unsupported = "BF16 is not supported: it " if sent["datatype"] == "BF16" else ""
        message = f"{unsupported}must be {DATATYPES[dtype]}"
        raise violation_error(pointer("inputs", i, "datatype"), "type", message)
    stated = tuple(sent["shape"])
    if manifest.has_batch_axis:  # the axis of rows may be fixed, and clients see it in the metadata
        rows = rows or tensor.shape[0]
    shape = fit_shape(manifest, tensor, stated, pointer("inputs", i, "shape"), rows)
    data, size, sent_dtype = sent.get("data"), prod(shape), datatypes[sent["datatype"]]
    if i in chunks:
        return SentTensor(binary.parse(chunks[i], sent_dtype, size, i), shape, where, (size,))
    if parameters.get("content_type") == "base64":
        return SentTensor(binary.parse_base64(data, sent_dtype, size, i), shape, where, (size,))
    if isinstance(data, str) and dtype in binary.STRING_DTYPES:  # a client's tensor of one string
        data = [data]
    if not isinstance(data, list):
        raise violation_error(pointer(*where), "type", "must be an array")
    values, nested = flatten(data, pointer(*where))
    if len(values) != size or (len(nested) > 1 and nested not in (stated, shape)):
        raise violation_error(pointer(*where), "wrong_length", "does not have the stated shape")
    return SentTensor(values, shape, where, nested)


def string_tensor(ids: Sequence[bytes]) -> Array:
    """Return ids as a tensor of strings, [rows]."""
    return np.array([id.decode() for id in ids], object)


def render_response(
    manifest: Manifest, request: Request, inference: InferenceRequest, outputs: Sequence[Array]
) -> Response:
    """Return the response. Raise PayloadTooLarge if it is over the contract's limit."""
    limit, names = manifest.limits.response_bytes, output_names(manifest)
    accepts_binary = http_body.client_accepts_binary(request)
    as_bytes = [requested.as_bytes and accepts_binary for requested in inference.outputs]
    sizes = [
        _min_bytes(outputs[requested.output], requested.top_k, is_binary)
        for requested, is_binary in zip(inference.outputs, as_bytes, strict=True)
    ]
    if sum(sizes) > limit:
        raise PayloadTooLarge.response(limit)
    chunks: list[bytes] = []
    tensors: list[dict[str, Any]] = []
    for requested, is_binary in zip(inference.outputs, as_bytes, strict=True):
        array = outputs[requested.output]
        if requested.top_k:
            array = _classify(manifest, requested, array)
        datatype = DATATYPES[array.dtype.name]
        tensor = {"name": names[requested.output], "datatype": datatype, "shape": array.shape}
        if is_binary:
            chunks.append(binary.dump(array))
            tensors.append({**tensor, "parameters": {"binary_data_size": len(chunks[-1])}})
        else:
            flat = array.ravel()
            data = flat.tolist() if flat.dtype.kind == "O" else shortest(flat)
            tensors.append({**tensor, "data": data})
    document = {"model_name": manifest.name, "model_version": manifest.version, "outputs": tensors}
    if inference.id is not None:
        document["id"] = inference.id
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    size = len(head) if not chunks else (len(head) + sum(map(len, chunks))) * 4 // 3  # as base64
    if size > limit:
        raise PayloadTooLarge.response(limit)
    if not chunks:
        return Response(200, head, {"content-type": JSON})
    headers = {"content-type": OCTET_STREAM, INFERENCE_HEADER_LENGTH: str(len(head))}
    return Response(200, b"".join([head, *chunks]), headers)


def _min_bytes(array: Array, top_k: int, is_binary: bool) -> int:
    """Return the least number of bytes of an output in a response."""
    if top_k:
        rows = len(array) if array.ndim else 1
        return min(rows * top_k, array.size) * len('"0:0",')
    if is_binary and array.dtype.kind != "O":
        return array.nbytes * 4 // 3
    return array.size * len("0,")


def _classify(manifest: Manifest, requested: RequestedOutput, array: Array) -> Array:
    """Return the top classes of each row as "value:index" or "value:index:label", the best first.

    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
    """
    is_batched = manifest.execution.batch != "none"
    scores = array.reshape(len(array) if is_batched else 1, -1)
    classes = manifest.outputs[requested.output].classes
    labels = [f":{label}" for label in classes] if len(classes) == scores.shape[1] else None
    order = np.argsort(-scores.astype(float), axis=1, kind="stable")[:, : requested.top_k]
    number = "{:f}:{}{}" if scores.dtype.kind == "f" else "{:d}:{}{}"
    texts = [
        number.format(row[k], k, labels[k] if labels else "")
        for row, indices in zip(scores.tolist(), order.tolist(), strict=True)
        for k in indices
    ]
    return np.array(texts, object).reshape(order.shape if is_batched else order.shape[1:])
