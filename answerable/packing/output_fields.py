"""Describe a graph's outputs as fields of a prediction; compare predictions with arrays."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from answerable.packing.contract_file import Fields
from answerable.packing.errors import PackError
from answerable.packing.graph import Classes
from answerable.packing.table import Array
from handler.manifest import BY_CLASS, BatchMode, Output, OutputKind, Tensor, row_shape

TIE = 1e-5  # numbers by class that are nearer are equally likely
# keys of an answer, in /predict, in /v2 and in the parts of a batch
RESERVED = ("id", "prediction_id", "row", "key", "model_version")
# names of skl2onnx
NAMES = {"variable": "value", "output_label": "label", "output_probability": "probabilities"}


def describe(
    tensors: Sequence[Tensor],
    arrays: Sequence[Array],
    batch: BatchMode,
    classes: dict[str, Classes],
    stated: dict[str, Fields],
    tabular: bool,
) -> tuple[Output, ...]:
    """Return the outputs in the graph's order. `arrays` are answers to a sample, [rows, …] each."""
    classes = {**classes}
    if len(set(classes.values())) == 1:  # one classifier: all outputs have its classes
        classes = {tensor.name: next(iter(classes.values())) for tensor in tensors} | classes
    outputs, unused = [], dict(stated)
    for tensor, array in zip(tensors, arrays, strict=True):
        name = default_name(tensor.name)
        fields = unused.pop(tensor.name, None) or unused.pop(name, {})
        shape = _shape(tensor, array, batch, tabular)
        labels = fields.get("classes") or classes.get(tensor.name, ())
        kind = fields.get("kind") or _kind(tensor.dtype, shape, labels, batch, array)
        if kind in ("label", *BY_CLASS):
            fields = {"classes": labels} | fields
        is_share = kind != "value" or bool(((array >= 0) & (array <= 1)).all())
        if name == "probabilities" and (kind == "scores" or not is_share):
            name = "scores"  # skl2onnx calls them so, whatever they are
        named: Fields = {"name": name, "tensor": tensor.name, "dtype": tensor.dtype}
        output = Output(**(named | fields | {"shape": shape, "kind": kind}))
        _check(output, batch)
        if output.kind == "probabilities" and not are_probabilities(array):
            raise PackError(
                f"output {output.tensor} is stated as probabilities, and its values in the sample "
                'are not: they must be 0 to 1 and add up to 1; state kind = "scores"'
            )
        outputs.append(output)
    if unused:
        names = ", ".join(output.tensor for output in outputs)
        raise PackError(f"the contract file states outputs that are not there; there are {names}")
    keys = [f"{output.name}_decision" for output in outputs if output.decision]
    keys += [output.name for output in outputs]
    if len(set(keys)) < len(keys):
        raise PackError("two outputs have the same name; state other names in the contract file")
    for output in outputs:
        if output.name in RESERVED:
            raise PackError(
                f"an answer has a field {output.name} of its own, and so has the output "
                f"{output.tensor}; state another name: [outputs.{output.tensor}] name = ..."
            )
    return tuple(outputs)


def default_name(tensor: str) -> str:
    """Return the name of a tensor's field, if none is stated."""
    return re.sub(r"\W+", "_", NAMES.get(tensor, tensor)).strip("_") or "output"


def _shape(tensor: Tensor, array: Array, batch: BatchMode, tabular: bool) -> tuple[int | None, ...]:
    """Return the output's shape: of a table as measured, else as far as the graph declares it."""
    lead: tuple[int | None, ...] = {"dynamic": (None,), "single": (1,), "none": ()}[batch]
    rest, actual = tensor.shape[len(lead) :], array.shape[1:]
    if tabular:
        return lead + actual
    if len(rest) != len(actual) or any(
        size not in (None, now) for size, now in zip(rest, actual, strict=True)
    ):
        rest = (None,) * len(actual)  # the declaration is wrong, so nothing is known to be fixed
    return lead + rest


def _kind(
    dtype: str, shape: tuple[int | None, ...], classes: Classes, batch: BatchMode, array: Array
) -> OutputKind:
    rest = row_shape(shape, batch)
    if rest == () or (rest == (1,) and batch != "none"):
        if _fit(dtype, classes):
            return "label"
        # an integer without known classes, a cluster's number say, is still one number
        return "tensor" if dtype in ("string", "bool") else "value"
    if dtype.startswith("float") and classes and rest == (len(classes),):
        return "probabilities" if are_probabilities(array) else "scores"
    return "tensor"


def are_probabilities(array: Array) -> bool:
    """Return whether numbers [instances, classes] are shares of 1, as far as their dtype tells."""
    slack = 1e-2 if array.dtype == np.float16 else 1e-3
    sums = array.astype(np.float64).sum(axis=-1)
    return bool(((array >= -slack) & (array <= 1 + slack)).all() and (abs(sums - 1) < slack).all())


def _fit(dtype: str, classes: Classes) -> bool:
    """Return whether the classes are values of a tensor of dtype, which are strings or integers."""
    cls = str if dtype == "string" else int
    fits = dtype == "string" or "int" in dtype
    return bool(classes) and fits and all(type(item) is cls for item in classes)


def _check(output: Output, batch: BatchMode) -> None:
    """Raise PackError where the stated fields of an output do not fit its tensor."""
    rest = row_shape(output.shape, batch)
    numeric = output.dtype not in ("string", "bool")
    fits = {
        "value": rest in ((), (1,)) and numeric,
        "label": rest in ((), (1,)) and (not output.classes or _fit(output.dtype, output.classes)),
        "probabilities": bool(output.classes) and rest == (len(output.classes),) and numeric,
        "scores": bool(output.classes) and rest == (len(output.classes),) and numeric,
        "tensor": True,
    }
    if not fits.get(output.kind):
        shape = "x".join("N" if size is None else str(size) for size in output.shape) or "scalar"
        raise PackError(
            f"output {output.tensor} ({output.dtype}, {shape}) cannot be of kind {output.kind}"
            f" with {len(output.classes)} classes"
        )
    decision = output.decision
    if decision and output.kind not in ("value", *BY_CLASS):
        raise PackError(f"output {output.name} is a {output.kind}: there is nothing to decide on")
    if decision and output.kind in BY_CLASS and decision.class_label not in output.classes:
        raise PackError(f"output {output.name}: the decision must say `of` which class")


def to_arrays(
    results: Sequence[Any], tensors: Sequence[str], classes: dict[str, Classes]
) -> dict[str, Array]:
    """Return an original graph's outputs by tensor: ZipMap's maps become [rows, classes]."""
    arrays = {}
    for result, tensor in zip(results, tensors, strict=True):
        array = np.asarray(result)
        if array.dtype.kind == "O" and array.size and isinstance(array.flat[0], dict):
            names = classes[tensor]
            values = [[row[name] for name in names] for row in array.flat]
            array = np.array(values, np.float32).reshape(*array.shape, len(names))
        arrays[tensor] = array
    return arrays


def deviation(
    outputs: Sequence[Output],
    predictions: Sequence[dict[str, Any]],
    arrays: dict[str, Array],
    other_ties: Sequence[Array] = (),
) -> float:
    """Return the largest |a - b| / max(1, |b|) between predictions, as in JSON, and arrays.

    The arrays are [rows, …], by tensor. Raise PackError if anything but a float differs. Labels may
    differ in a row of `ties`, and of `other_ties`: the rounding of the numbers decides.
    """
    largest, undecided = 0.0, np.zeros(len(predictions), bool)
    by_class = [o for o in outputs if o.kind in BY_CLASS and len(o.classes) > 1]
    for rows in (*(ties(arrays[output.tensor]) for output in by_class), *other_ties):
        undecided |= rows
    for output in outputs:
        array = arrays[output.tensor]
        values = [prediction[output.name] for prediction in predictions]
        if output.kind in BY_CLASS:
            values = [[value[str(name)] for name in output.classes] for value in values]
        if array.dtype.kind != "f":
            expected = array.reshape(np.shape(values)).tolist()
            pairs = zip(values, expected, undecided, strict=True)
            is_label = output.kind == "label" or output.classes
            if any(a != b and not (is_label and tie) for a, b, tie in pairs):
                raise PackError(f"the packed model's {output.name} is not the original's")
            continue
        packed, original = np.array(values, np.float64), array.astype(np.float64)
        packed = packed.reshape(original.shape)
        difference = np.abs(packed - original) / np.maximum(1, np.abs(original))
        largest = max(largest, float(difference.max(initial=0)))
    return largest


def ties(array: Array, k: int = 1) -> Array:
    """Return the rows in which two of the k + 1 largest numbers are equal but for rounding."""
    largest = -np.sort(-array, axis=-1)[:, : k + 1]
    gaps = largest[:, :-1] - largest[:, 1:]
    rows: Array = (gaps <= TIE * np.maximum(1, np.abs(largest[:, :-1]))).any(axis=-1)
    return rows
