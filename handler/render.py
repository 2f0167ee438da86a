"""The model's outputs: a check against the manifest, and their JSON.

Numbers are not built into Python objects. All numbers of an output are serialised at once, split
at the commas and put into a template per row.
"""

import math
from binascii import b2a_base64
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import orjson

from handler.errors import BadOutput, PayloadTooLarge
from handler.manifest import BY_CLASS, Decision, Manifest, Output, Shape
from handler.model_inputs import Array, dtype

VECTORIZE_MIN_SIZE = 9  # numbers from which on numpy is faster than a loop
# the numbers of a run's rows in their request, and its outputs
Run = tuple[Sequence[int], Sequence[Array]]
# maps values [rows, …] to one JSON fragment per row
Serialize = Callable[[Array], Sequence[bytes]]


class ResponseRenderer:
    """Checks and renders the outputs of one model."""

    def __init__(self, manifest: Manifest) -> None:
        self._outputs = [(output, _serializer(output)) for output in manifest.outputs]
        self.has_base64 = any(map(has_base64_form, manifest.outputs))
        self._expected = [_expected_output(o, manifest.row_shape(o)) for o in manifest.outputs]
        self._max_bytes = manifest.limits.response_bytes
        keys = [output.name for output in manifest.outputs]
        keys += [f"{output.name}_decision" for output in manifest.outputs if output.decision]
        self._template = _object_template(keys)
        self.template_with_id = b'{"id":"%b",' + self._template[1:]
        self._suffix = b'],"model":%b}' % orjson.dumps(
            {"name": manifest.name, "version": manifest.version}
        )

    @cached_property
    def _outputs_as_base64(self) -> list[tuple[Output, Serialize]]:
        return [
            (output, _to_base64 if has_base64_form(output) else serialize)
            for output, serialize in self._outputs
        ]

    def check_outputs(self, outputs: Sequence[Array], count: int) -> None:
        """Check the outputs [rows, …] of one run of `count` rows, in the manifest's order.

        Raise BadOutput where one does not match the manifest or is not finite.
        """
        for (output, _), (kind, sizes), values in zip(
            self._outputs, self._expected, outputs, strict=True
        ):
            if not isinstance(values, np.ndarray) or values.dtype != kind:  # a map, for example
                raise BadOutput(f"{output.name} does not have the type of the contract")
            shape = values.shape
            if shape != (count, *sizes) and not _fits(shape, (count, *sizes)):
                raise BadOutput(f"{output.name} does not have the shape of the contract")
            if kind.kind == "f" and not _is_finite(values):
                error = BadOutput(f"{output.name} is not finite")
                finite = np.isfinite(values.reshape(count, -1)).all(axis=1)
                error.rows = np.flatnonzero(~finite).tolist()
                raise error

    def render_predictions(
        self, runs: Sequence[Run], ids: Sequence[bytes] | None = None, as_base64: bool = False
    ) -> list[bytes]:
        """Return one JSON object per row, in the request's order, with its id in front.

        `as_base64`: tensors of float32 or float16 are base64 of little-endian float32.
        """
        if ids is None:
            return self.render_rows(self._template, [], runs, as_base64)
        return self.render_rows(self.template_with_id, [ids], runs, as_base64)

    def render_rows(
        self,
        template: bytes,
        columns: Sequence[Sequence[Any]],
        runs: Sequence[Run],
        as_base64: bool = False,
    ) -> list[bytes]:
        """Return a template per row, filled with its values in `columns` and with its outputs."""
        serializers = self._outputs_as_base64 if as_base64 else self._outputs
        if len(runs) == 1:
            return _fill(template, columns, serializers, runs[0][1])
        rows = [b""] * sum(len(indices) for indices, _ in runs)
        for indices, outputs in runs:
            members = [[column[i] for i in indices] for column in columns]
            texts = _fill(template, members, serializers, outputs)
            for i, text in zip(indices, texts, strict=True):
                rows[i] = text
        return rows

    def render_response(self, predictions: list[bytes]) -> bytes:
        """Return the whole response. Raise PayloadTooLarge if it is over the contract's limit."""
        body = b'{"predictions":[' + b",".join(predictions) + self._suffix
        if len(body) > self._max_bytes:
            raise PayloadTooLarge.response(self._max_bytes)
        return body


def _fill(
    template: bytes,
    columns: Sequence[Sequence[Any]],
    serializers: Sequence[tuple[Output, Serialize]],
    outputs: Sequence[Array],
) -> list[bytes]:
    fields = [*columns]
    decisions: list[Sequence[bytes]] = []
    for (output, serialize), values in zip(serializers, outputs, strict=True):
        fields.append(serialize(values))
        if output.decision:
            decisions.append(decide(output, output.decision, values))
    return list(map(template.__mod__, zip(*fields, *decisions, strict=True)))


def _fits(shape: tuple[int, ...], expected: Shape) -> bool:
    return len(shape) == len(expected) and all(
        size in (None, length) for size, length in zip(expected, shape, strict=True)
    )


def _is_finite(values: Array) -> bool:
    if values.size < VECTORIZE_MIN_SIZE:
        return all(map(math.isfinite, values.ravel().tolist()))
    return bool(np.isfinite(values).all())


def _expected_output(output: Output, row_shape: Shape) -> tuple[Any, Shape]:
    """Return an output's dtype and the sizes of its axes after the rows."""
    sizes = row_shape
    if output.kind in ("value", "label"):
        sizes = (1,) * len(row_shape)
    elif output.kind in BY_CLASS:
        sizes = (len(output.classes),)
    return dtype(output.dtype), sizes


def _object_template(keys: Sequence[str]) -> bytes:
    """Return a bytes template of a JSON object with one `%b` per key."""
    return b"{%b}" % b",".join(b"%b:%%b" % orjson.dumps(key).replace(b"%", b"%%") for key in keys)


def shortest(values: Array) -> Array:
    """Return float16 as the float64 of its shortest decimals; orjson prints it as float32."""
    return values.astype(str).astype(float) if values.dtype == np.float16 else values


def has_base64_form(output: Output) -> bool:
    """Return whether a client can ask for the output as base64 of float32."""
    return output.kind == "tensor" and output.dtype in ("float16", "float32")


def _to_base64(values: Array) -> list[bytes]:
    return [b'"%b"' % b2a_base64(row.astype("<f4").tobytes(), newline=False) for row in values]


def _serializer(output: Output) -> Serialize:
    """Return the function that maps values [rows, …] to one JSON fragment per row."""
    if output.dtype == "float16":
        serialize = _serializer(output._replace(dtype="float64"))
        return lambda values: serialize(shortest(values))
    if output.kind == "label" and output.classes:
        texts = {value: orjson.dumps(value) for value in output.classes}

        def labels(values: Array) -> list[bytes]:
            return [texts.get(v) or orjson.dumps(v) for v in values.ravel().tolist()]

        return labels
    if output.kind in BY_CLASS:
        template = _object_template([str(value) for value in output.classes])
        width = len(output.classes)

        def by_class(values: Array) -> list[bytes]:
            numbers = _json_numbers(values)
            starts = range(0, len(numbers), width)
            return [template % tuple(numbers[i : i + width]) for i in starts]

        return by_class
    if output.kind == "value":
        return _json_numbers

    def tensor(values: Array) -> list[bytes]:
        if values.ndim == 1 and values.dtype.kind != "O":
            return _json_numbers(values)
        rows = values.tolist() if values.dtype.kind == "O" else np.ascontiguousarray(values)
        return [_to_json(row) for row in rows]

    return tensor


def _json_numbers(values: Array) -> list[bytes]:
    """Return every number's JSON, from one serialisation: far cheaper than one per number."""
    return _to_json(values.ravel())[1:-1].split(b",")


def _to_json(values: Any) -> bytes:
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)


def decide(output: Output, decision: Decision, values: Array) -> list[bytes]:
    """Return the decision on each row as JSON."""
    if decision.class_label is not None:
        values = values[:, output.classes.index(decision.class_label)]
    above, below, review = map(orjson.dumps, (decision.above, decision.below, "review"))
    low, high = decision.review or (np.inf, -np.inf)
    return [
        review if low <= value <= high else above if value >= decision.threshold else below
        for value in values.ravel().tolist()
    ]
