"""ONNX outputs -> the fields of a prediction; and predictions compared with plain arrays."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from answerable.packing.contract_file import Fields
from answerable.packing.errors import PackError
from answerable.packing.graph import Classes
from answerable.packing.table import Array
from handler.manifest import BatchMode, Output, OutputKind, Tensor, row_shape

# skl2onnx's names say nothing to a caller
NAMES = {
    "variable": "value",
    "output_label": "label",
    "output_probability": "probabilities",
}


def describe(
    tensors: Sequence[Tensor],
    arrays: Sequence[Array],
    batch: BatchMode,
    classes: dict[str, Classes],
    stated: dict[str, Fields],
    tabular: bool,
) -> tuple[Output, ...]:
    """The outputs in the graph's order. `arrays` are answers to a sample, [rows, …] each."""
    known = {**classes}
    if len(set(classes.values())) == 1:  # one classifier: what one output tells, holds for all
        known = {tensor.name: next(iter(classes.values())) for tensor in tensors} | known
    outputs, unused = [], dict(stated)
    for tensor, array in zip(tensors, arrays, strict=True):
        name = re.sub(r"\W+", "_", NAMES.get(tensor.name, tensor.name)).strip("_") or "output"
        fields = unused.pop(tensor.name, None) or unused.pop(name, {})
        shape = _shape(tensor, array, batch, tabular)
        labels = fields.get("classes") or known.get(tensor.name, ())
        kind = fields.get("kind") or _kind(tensor.dtype, shape, labels, batch)
        if kind in ("label", "probabilities"):
            fields = {"classes": labels} | fields
        named: Fields = {"name": name, "tensor": tensor.name, "dtype": tensor.dtype}
        output = Output(**(named | fields | {"shape": shape, "kind": kind}))
        _check(output, batch)
        outputs.append(output)
    if unused:
        names = ", ".join(output.tensor for output in outputs)
        raise PackError(f"the contract file states outputs that are not there; there are {names}")
    if len({output.name for output in outputs}) < len(outputs):
        raise PackError("two outputs have the same name; state other names in the contract file")
    return tuple(outputs)


def _shape(tensor: Tensor, array: Array, batch: BatchMode, tabular: bool) -> tuple[int | None, ...]:
    """The output's shape: without a table to fix them, only the axes that the graph declares."""
    lead: tuple[int | None, ...] = {"dynamic": (None,), "single": (1,), "none": ()}[batch]
    rest = tensor.shape[len(lead) :]
    actual = array.shape[1:]
    if len(rest) != len(actual):
        raise PackError(f"{tensor.name} has {len(actual)} axes, and the graph declares {len(rest)}")
    return lead + (actual if tabular else rest)


def _kind(
    dtype: str, shape: tuple[int | None, ...], classes: Classes, batch: BatchMode
) -> OutputKind:
    rest = row_shape(shape, batch)
    if rest == () or (rest == (1,) and batch != "none"):
        if _fit(dtype, classes):
            return "label"
        # an integer without known classes, a cluster's number say, is still one number
        return "tensor" if dtype in ("string", "bool") else "value"
    if dtype.startswith("float") and classes and rest == (len(classes),):
        return "probabilities"
    return "tensor"


def _fit(dtype: str, classes: Classes) -> bool:
    """Whether the classes are values of a tensor of dtype; of floats and booleans none are."""
    wanted = str if dtype == "string" else int
    fits = dtype == "string" or "int" in dtype
    return bool(classes) and fits and all(type(item) is wanted for item in classes)


def _check(output: Output, batch: BatchMode) -> None:
    """What is stated of an output fits its tensor."""
    rest = row_shape(output.shape, batch)
    numeric = output.dtype not in ("string", "bool")
    fits = {
        "value": rest in ((), (1,)) and numeric,
        "label": rest in ((), (1,)) and (not output.classes or _fit(output.dtype, output.classes)),
        "probabilities": bool(output.classes) and rest == (len(output.classes),) and numeric,
        "tensor": True,
    }
    if not fits.get(output.kind):
        shape = "x".join("N" if size is None else str(size) for size in output.shape) or "scalar"
        raise PackError(
            f"output {output.tensor} ({output.dtype}, {shape}) cannot be of kind {output.kind}"
            f" with {len(output.classes)} classes"
        )
    decision = output.decision
    if decision and output.kind not in ("value", "probabilities"):
        raise PackError(f"output {output.name} is a {output.kind}: there is nothing to decide on")
    if decision and output.kind == "probabilities" and decision.class_label not in output.classes:
        raise PackError(f"output {output.name}: the decision must say `of` which class")


def to_arrays(results: Sequence[Any], outputs: Sequence[Output]) -> list[Array]:
    """An original graph's outputs as arrays: ZipMap's maps become [rows, classes]."""
    arrays = []
    for result, output in zip(results, outputs, strict=True):
        array = np.asarray(result)
        if array.dtype.kind == "O" and isinstance(array.flat[0], dict):
            array = np.array([[row[name] for name in output.classes] for row in array])
        arrays.append(array)
    return arrays


def deviation(
    outputs: Sequence[Output], predictions: Sequence[dict[str, Any]], arrays: Sequence[Array]
) -> float:
    """The largest |a - b| / max(1, |b|) between predictions, as JSON has them, and arrays
    [rows, …]. Raises PackError where anything but a float differs.
    """
    largest = 0.0
    for output, array in zip(outputs, arrays, strict=True):
        values = [prediction[output.name] for prediction in predictions]
        if output.kind == "probabilities":
            values = [[value[str(name)] for name in output.classes] for value in values]
        if array.dtype.kind != "f":
            if values != array.reshape(np.shape(values)).tolist():
                raise PackError(f"the packed model's {output.name} is not the original's")
            continue
        told, true = np.array(values, np.float64), array.astype(np.float64)
        told = told.reshape(true.shape)
        difference = np.abs(told - true) / np.maximum(1, np.abs(true))
        largest = max(largest, float(difference.max(initial=0)))
    return largest
