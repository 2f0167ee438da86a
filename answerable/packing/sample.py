"""The sample that a model is packed with: a CSV for named features, arrays for tensors."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from answerable.packing import table
from answerable.packing.contract_file import Fields
from answerable.packing.errors import PackError
from answerable.packing.execution import Samples, declared
from answerable.packing.table import Array, Columns
from handler.manifest import Feature, Tensor
from handler.model_inputs import dtype as numpy_dtype

DRAWN, LENGTH = 3, 8  # instances, and the length of free axes, where there is no sample


class Sample(NamedTuple):
    """`feeds`: the graph's inputs, instances as the leading axis. `features` and `columns` (their
    values) are empty for a tensor contract. `origin` names an instance.
    """

    feeds: Samples
    features: tuple[Feature, ...] = ()
    columns: Columns = {}
    origin: str = "row"


def read(
    path: Path | None, ignore: Sequence[str], inputs: Sequence[Tensor], stated: dict[str, Fields]
) -> Sample:
    """The sample in `path`, or a drawn one for tensors without. Raises PackError."""
    if path is not None and path.suffix != ".npz":
        if not table.is_tabular(inputs):
            wanted = ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in inputs)
            raise PackError(
                f"the inputs ({wanted}) are no columns of a table: they need a tensor contract, "
                "with an .npz as --reference or none"
            )
        cells = table.read(path, ignore)
        features, columns = table.features(cells, inputs, stated, path.name)
        return Sample(table.feeds(features, inputs, columns), features, columns)
    if stated:
        raise PackError("the contract file states features, and this is a tensor contract")
    if path is not None:
        return Sample(_load(path, inputs))
    if table.is_tabular(inputs):
        raise PackError(
            "this model takes a table: give a sample of its data with --reference DATA.csv "
            "(or .npz for a tensor contract)"
        )
    return Sample(_draw(inputs), origin="drawn instance")


def _load(path: Path, inputs: Sequence[Tensor]) -> Samples:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise PackError(f"{path}: not a readable .npz ({error})") from None
    wanted = [tensor.name for tensor in inputs]
    missing, extra = [n for n in wanted if n not in arrays], [n for n in arrays if n not in wanted]
    if missing or extra:
        parts = [f"lacks {', '.join(missing)}"] * bool(missing)
        parts += [f"has {', '.join(extra)}, which the model does not take"] * bool(extra)
        raise PackError(f"{path.name} {' and '.join(parts)}")
    if len({array.shape[:1] for array in arrays.values()}) > 1:
        raise PackError(f"{path.name}: the arrays do not have the same number of rows")
    whole = declared(inputs) == "none"
    for tensor in inputs:
        arrays[tensor.name] = _fit(arrays[tensor.name], tensor, whole, path.name)
    rows = len(arrays[inputs[0].name])
    if rows < 2:
        raise PackError(f"{path.name} has {rows} rows; a sample needs at least 2")
    return {name: arrays[name] for name in wanted}


def _fit(array: Array, tensor: Tensor, whole: bool, file: str) -> Array:
    """The array in the tensor's dtype, if its shape and kind are the tensor's."""
    expected = tensor.shape if whole else tensor.shape[1:]
    actual = array.shape[1:]
    if len(expected) != len(actual) or any(
        size not in (None, now) for size, now in zip(expected, actual, strict=True)
    ):
        raise PackError(f"{file}: {tensor.name} has rows of shape {actual}, not {expected}")
    wanted = numpy_dtype(tensor.dtype)
    if wanted.kind == "O" and array.dtype.kind in "US":
        return array.astype(str).astype(object)
    if not np.can_cast(array.dtype, wanted, "same_kind") or wanted.kind == "O":
        raise PackError(f"{file}: {tensor.name} has {array.dtype} values, not {tensor.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise PackError(f"{file}: {tensor.name} has values that are not finite")
    return np.ascontiguousarray(array, wanted)


def _draw(inputs: Sequence[Tensor]) -> Samples:
    """Seeded instances: normal floats (two decimals, for short golden rows), integers 0 and 1,
    which any vocabulary has.
    """
    rng = np.random.default_rng(0)
    whole = declared(inputs) == "none"
    drawn = {}
    for tensor in inputs:
        axes = tensor.shape if whole else tensor.shape[1:]
        shape = (DRAWN, *(LENGTH if size is None else size for size in axes))
        if tensor.dtype == "string":
            drawn[tensor.name] = np.full(shape, "a", object)
        elif tensor.dtype.startswith("float"):
            drawn[tensor.name] = rng.normal(size=shape).round(2).astype(tensor.dtype)
        else:
            drawn[tensor.name] = rng.integers(0, 2, shape).astype(tensor.dtype)
    return drawn
