"""Default limits: every legal request fits, and hostile bodies cost little more than those."""

import math
from collections.abc import Sequence

import orjson

from answerable.packing import feature_types as packed_types
from answerable.packing.contract_file import Fields
from answerable.packing.errors import PackError
from answerable.packing.table import Array
from handler.feature_types import FeatureType, number_bounds
from handler.manifest import BatchMode, Limits, Output, Shape, Tensor, row_shape

MAX_ROWS = 1000
MAX_BODY_BYTES = 6_000_000  # of Lambda's 6 MiB, the rest is the gateway's envelope
MIN_BODY_BYTES = 16 * 1024
# of all pictures of a request, before they are resized: decoding PNG takes 10 ns of CPU a pixel
MAX_PIXELS = 2**26
MAX_PICTURE_BYTES, MIN_PICTURE_BYTES = 2**26, 2**10  # of them, resized; of one with its object
MIN_FREE_LENGTH = 512  # that is allowed on a free axis other than the rows
ROW_OVERHEAD_BYTES = 200  # a prediction's id, and some room
# of one element and a comma in JSON, apart from integers: the longest, but for strings
ELEMENT_BYTES = {"bool": 6, "float16": 12, "float32": 16, "float64": 25, "string": 64}


def default(
    types: Sequence[FeatureType],
    inputs: Sequence[Tensor],
    outputs: Sequence[Output],
    arrays: tuple[dict[str, Array], Sequence[Array]],
    batch: BatchMode,
    stated: Fields,
) -> Limits:
    """Return the limits of a contract; stated ones win.

    `arrays` are a sample of the inputs, by name, and its outputs, each with the rows as the
    leading axis.
    """
    samples, results = arrays
    shapes = [row_shape(tensor.shape, batch) for tensor in inputs]
    if types:
        row = 3 + sum(
            _json_bytes(kind.feature.name) + packed_types.of(kind).max_json_chars()
            for kind in types
        )
    else:
        row = sum(
            math.prod(samples[tensor.name].shape[1:]) * _element_bytes(tensor.dtype)
            + _json_bytes(tensor.name)
            + 2
            for tensor in inputs
        )
    prediction = ROW_OVERHEAD_BYTES
    for output, array in zip(outputs, results, strict=True):
        prediction += math.prod(array.shape[1:]) * _element_bytes(output.dtype)
        prediction += _json_bytes(output.name)
        prediction += sum(_json_bytes(str(name)) for name in output.classes)
    fitting = MAX_BODY_BYTES // (prediction if types else max(prediction, row))
    for kind in types:
        if image := kind.feature.image:  # decoding time and memory
            elements = 3 * math.prod(image.size) + MIN_PICTURE_BYTES
            fitting = min(fitting, MAX_PIXELS // image.max_pixels, MAX_PICTURE_BYTES // elements)
    rows = stated.get("rows", max(1, min(MAX_ROWS, fitting)))
    if not isinstance(rows, int):
        raise PackError("the contract file's limits.rows is not a whole number")
    body_bytes = max(MIN_BODY_BYTES, min(MAX_BODY_BYTES, 2 * rows * row))
    if any(None in shape for shape in shapes):
        body_bytes = MAX_BODY_BYTES
    elements = max(
        _max_elements(shape, samples[tensor.name].shape[1:])
        for tensor, shape in zip(inputs, shapes, strict=True)
    )
    tokenizers = [kind.feature.tokenizer for kind in types if kind.feature.tokenizer]
    elements = max([elements, *(tokenizer.max_tokens for tokenizer in tokenizers)])
    fields = {"rows": rows, "body_bytes": body_bytes, "response_bytes": MAX_BODY_BYTES}
    return Limits(**fields | {"elements": elements} | stated)


def _max_elements(shape: Shape, sample_shape: Sequence[int]) -> int:
    """Return the largest number of elements of a row: free axes are twice as long as in the sample.

    They also have to fit a body. An element has at least two characters in JSON, and takes 40
    bytes of memory once it is parsed: with half of these elements a body costs less than its rule.
    """
    axes = zip(shape, sample_shape, strict=True)
    elements = math.prod(max(MIN_FREE_LENGTH, 2 * n) if size is None else size for size, n in axes)
    return max(math.prod(sample_shape), min(elements, MAX_BODY_BYTES // 4))


def _json_bytes(name: str) -> int:
    """Return the bytes of a key, its colon and a comma."""
    return len(orjson.dumps(name)) + 2


def _element_bytes(dtype: str) -> int:
    """Return the bytes of the longest element of a dtype, and of a comma."""
    return ELEMENT_BYTES.get(dtype) or 1 + max(len(str(bound)) for bound in number_bounds(dtype))
