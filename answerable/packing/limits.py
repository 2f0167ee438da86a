"""Limits that let every legal request through, and not much more: they bound what hostile bodies
can cost.
"""

import math
from collections.abc import Sequence

import orjson

from answerable.packing.contract_file import Fields
from answerable.packing.errors import PackError
from answerable.packing.execution import Batch
from answerable.packing.table import Array
from handler.manifest import Feature, Limits, Output, Tensor

ROWS = 1000
BODY = 6_000_000  # of Lambda's 6 MiB, the rest is the gateway's envelope
LEAST_BODY = 16 * 1024
FREE = 512  # the least that a free axis other than the rows may be long
PER_ROW = 200  # a prediction's id, and room


def default(
    features: Sequence[Feature],
    inputs: Sequence[Tensor],
    outputs: Sequence[Output],
    arrays: tuple[dict[str, Array], Sequence[Array]],
    batch: Batch,
    stated: Fields,
) -> Limits:
    """The limits of a contract. `arrays` are a sample of the inputs, by name, and the answers to
    it, each with the instances as leading axis.
    """
    samples, answers = arrays
    skip = 0 if batch == "none" else 1
    if features:
        row = 3 + sum(_feature_bytes(feature) for feature in features)
    else:
        row = sum(
            math.prod(samples[tensor.name].shape[1:]) * _number(tensor.dtype)
            + len(orjson.dumps(tensor.name))
            + 4
            for tensor in inputs
        )
    answer = PER_ROW
    for output, array in zip(outputs, answers, strict=True):
        elements = math.prod(array.shape[1:])
        answer += elements * _number(output.dtype) + len(orjson.dumps(output.name)) + 2
        answer += sum(len(orjson.dumps(str(name))) + 2 for name in output.classes)
    most = BODY // answer if features else min(BODY // answer, BODY // row)
    rows = stated.get("rows", max(1, min(ROWS, most)))
    if not isinstance(rows, int):
        raise PackError("the contract file's limits.rows is not a whole number")
    free = any(None in tensor.shape[skip:] for tensor in inputs)
    return Limits(
        **{
            "rows": rows,
            "body_bytes": BODY if free else max(LEAST_BODY, min(BODY, 2 * rows * row)),
            "response_bytes": BODY,
            "elements": max(
                _elements(tensor.shape[skip:], samples[tensor.name].shape[1:]) for tensor in inputs
            ),
        }
        | stated
    )


def _elements(shape: Sequence[int | None], seen: Sequence[int]) -> int:
    """Return the most elements of one instance: free axes twice as long as seen, as a body allows.

    An element has at least two characters in JSON.
    """
    axes = zip(shape, seen, strict=True)
    longest = math.prod(max(FREE, 2 * now) if size is None else size for size, now in axes)
    return max(math.prod(seen), min(longest, BODY // 2))


def _number(dtype: str) -> int:
    """The bytes of one element and a comma in JSON, at its longest but for strings."""
    return {
        "bool": 6,
        "int8": 5,
        "uint8": 4,
        "int16": 7,
        "uint16": 6,
        "int32": 12,
        "uint32": 11,
        "int64": 21,
        "uint64": 21,
        "float16": 12,
        "float32": 16,
        "float64": 25,
        "string": 64,
    }[dtype]


def _feature_bytes(feature: Feature) -> int:
    name = len(orjson.dumps(feature.name)) + 2
    if feature.type == "text":
        return name + 4 * (feature.max_length or 1024) + 2  # UTF-8 takes up to four bytes
    if feature.type == "category" and feature.unknown_category == "reject":
        return name + max(len(orjson.dumps(value)) for value in feature.categories)
    return name + 25
