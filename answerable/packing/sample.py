"""The sample that a model is packed with: CSV for named features, arrays for tensors."""

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
from handler.feature_types import FeatureType
from handler.manifest import Feature, Shape, Tensor, row_shape
from handler.model_inputs import dtype as numpy_dtype

DRAWN_INSTANCES, DRAWN_LENGTH = 3, 8  # without a sample: instances, and the length of free axes


class Sample(NamedTuple):
    """A sample of a model's inputs.

    `feeds`: the graph's inputs, with the instances as the leading axis. `types` and `columns` (the
    features' values in their JSON form) are empty for a tensor contract. `origin` names an
    instance.
    """

    feeds: Samples
    types: tuple[FeatureType, ...] = ()
    columns: Columns = {}
    origin: str = "row"

    @property
    def features(self) -> tuple[Feature, ...]:
        """Return the features of a tabular contract."""
        return tuple(kind.feature for kind in self.types)


def read(
    path: Path | None, ignore: Sequence[str], inputs: Sequence[Tensor], stated: dict[str, Fields]
) -> Sample:
    """Return the sample in `path`, or a drawn one for tensors without. Raise PackError."""
    if path is not None and path.suffix != ".npz":
        if not table.is_tabular(inputs):
            tensors = ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in inputs)
            raise PackError(
                f"the inputs ({tensors}) are no columns of a table: they need a tensor contract, "
                "with an .npz as --reference or none"
            )
        cells = table.read(path, ignore)
        types, columns = table.features(cells, inputs, stated, path.name)
        return Sample(table.feeds(types, inputs, columns), types, columns)
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
    names = [tensor.name for tensor in inputs]
    missing, extra = [n for n in names if n not in arrays], [n for n in arrays if n not in names]
    if missing or extra:
        problems = [f"lacks {', '.join(missing)}"] * bool(missing)
        problems += [f"has {', '.join(extra)}, which the model does not take"] * bool(extra)
        raise PackError(f"{path.name} {' and '.join(problems)}")
    if len({array.shape[:1] for array in arrays.values()}) > 1:
        raise PackError(f"{path.name}: the arrays do not have the same number of rows")
    batch = declared(inputs)
    for tensor in inputs:
        shape = row_shape(tensor.shape, batch)
        arrays[tensor.name] = _fit(arrays[tensor.name], tensor, shape, path.name)
    rows = len(arrays[inputs[0].name])
    if rows < 2:
        raise PackError(f"{path.name} has {rows} rows; a sample needs at least 2")
    return {name: arrays[name] for name in names}


def _fit(array: Array, tensor: Tensor, expected: Shape, file: str) -> Array:
    """Return the array in the tensor's dtype. Raise PackError unless it is of its shape and kind."""
    actual = array.shape[1:]
    if len(expected) != len(actual) or any(
        size not in (None, length) for size, length in zip(expected, actual, strict=True)
    ):
        raise PackError(f"{file}: {tensor.name} has rows of shape {actual}, not {expected}")
    target = numpy_dtype(tensor.dtype)
    if target.kind == "O" and array.dtype.kind in "US":
        return array.astype(str).astype(object)
    if not np.can_cast(array.dtype, target, "same_kind") or target.kind == "O":
        raise PackError(f"{file}: {tensor.name} has {array.dtype} values, not {tensor.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise PackError(f"{file}: {tensor.name} has values that are not finite")
    return np.ascontiguousarray(array, target)


def _draw(inputs: Sequence[Tensor]) -> Samples:
    """Return seeded instances: normal floats (two decimals, for short golden rows), and 0 or 1 as
    integers, which any vocabulary has.
    """
    rng = np.random.default_rng(0)
    batch = declared(inputs)
    drawn = {}
    for tensor in inputs:
        sizes = row_shape(tensor.shape, batch)
        shape = (DRAWN_INSTANCES, *(DRAWN_LENGTH if size is None else size for size in sizes))
        if tensor.dtype == "string":
            drawn[tensor.name] = np.full(shape, "a", object)
        elif tensor.dtype.startswith("float"):
            drawn[tensor.name] = rng.normal(size=shape).round(2).astype(tensor.dtype)
        else:
            drawn[tensor.name] = rng.integers(0, 2, shape).astype(tensor.dtype)
    return drawn
