"""The sample that a model is packed with: a CSV for named features, arrays for tensors."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from answerable.packing import table
from answerable.packing.contract_file import Fields
from answerable.packing.errors import PackError
from answerable.packing.execution import Batch, Samples, declared
from answerable.packing.reference import Reference
from answerable.packing.table import Array, Columns
from handler.feature_types import FeatureType
from handler.manifest import Feature, Shape, Tensor, row_shape
from handler.model_inputs import dtype as numpy_dtype

DRAWN_INSTANCES, DRAWN_LENGTH = 3, 8  # without a sample; the length is that of free axes


class Sample(NamedTuple):
    """A sample: `feeds` are the graph's inputs, with the instances as the leading axis.

    `types` and `columns` (the features' values in their JSON form) are empty for a tensor
    contract. `origin` names an instance. `batch` is what the graph and the sample's shapes say
    about the rows.
    """

    feeds: Samples
    batch: Batch
    types: tuple[FeatureType, ...] = ()
    columns: Columns = {}
    origin: str = "row"

    @property
    def features(self) -> tuple[Feature, ...]:
        """Return the features of a tabular contract."""
        return tuple(kind.feature for kind in self.types)


def read(
    reference: Reference | None,
    inputs: Sequence[Tensor],
    stated: dict[str, Fields],
    rows_share_name: bool = True,
) -> Sample:
    """Return the sample in the reference, or a drawn one for tensors without. Raise PackError."""
    is_tabular = table.is_tabular(inputs)
    if reference and reference.columns and (is_tabular or not reference.arrays):
        if not is_tabular:
            tensors = ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in inputs)
            raise PackError(
                f"the inputs ({tensors}) are no columns of a table: they need a tensor contract, "
                "with an .npz as --reference or none"
            )
        types, columns = table.features(reference.columns, inputs, stated, reference.name)
        feeds = table.feeds(types, inputs, columns)
        return Sample(feeds, declared(inputs), types, columns)
    if stated:
        raise PackError("the contract file states features, and this is a tensor contract")
    batch = declared(inputs) if rows_share_name else "none"
    if reference:
        return _load(reference, inputs, batch)
    if is_tabular:
        raise PackError(
            "this model takes a table: give a sample of its data with --reference DATA.csv "
            "(or .npz for a tensor contract)"
        )
    return Sample(_draw(inputs, batch), batch, origin="drawn instance")


def as_whole(sample: Sample, inputs: Sequence[Tensor]) -> Sample:
    """Return the sample of a graph whose leading axis proved not to be the rows.

    An instance is then a whole tensor. Raises PackError for a table.
    """
    if sample.features:
        raise PackError(
            "the rows of the table interact: a row's answer depends on the other rows of a "
            "request; export a model that answers each row alone, or pack whole tensors with an "
            ".npz as --reference"
        )
    if sample.batch == "single":
        feeds = {name: array[:, None] for name, array in sample.feeds.items()}
    elif sample.origin == "row":
        feeds = {name: array[None] for name, array in sample.feeds.items()}
    else:
        feeds = _draw(inputs, "none")
    return sample._replace(feeds=feeds, batch="none")


def _load(reference: Reference, inputs: Sequence[Tensor], batch: Batch) -> Sample:
    """Return the reference's arrays; their ranks tell rows and one instance from many."""
    arrays, file = dict(reference.arrays), reference.name
    if list(arrays) == [""] and len(inputs) == 1:  # an array, not a dict of arrays
        arrays = {inputs[0].name: arrays[""]}
    names = [tensor.name for tensor in inputs]
    missing, extra = [n for n in names if n not in arrays], [n for n in arrays if n not in names]
    if missing or extra:
        problems = [f"lacks {', '.join(missing)}"] * bool(missing)
        problems += [f"has {', '.join(extra)}, which the model does not take"] * bool(extra)
        raise PackError(f"{file} {' and '.join(problems)}")
    ranks = {arrays[tensor.name].ndim - len(tensor.shape) for tensor in inputs}
    if ranks == {1}:
        batch = "none"
    elif ranks == {0} and (batch == "none" or len({len(array) for array in arrays.values()}) > 1):
        batch, arrays = "none", {name: array[None] for name, array in arrays.items()}
    if len({array.shape[:1] for array in arrays.values()}) > 1:
        raise PackError(f"{file}: the arrays do not have the same number of instances")
    for tensor in inputs:
        expected = row_shape(tensor.shape, batch)
        arrays[tensor.name] = _fit(arrays[tensor.name], tensor, expected, file)
        if 0 in arrays[tensor.name].shape[1:-1]:  # [2, 0, 4] and [2, 0, 5] are one list in JSON
            raise PackError(
                f"{file}: {tensor.name} has an empty axis before another, whose length JSON "
                "cannot say; give a sample without empty axes"
            )
    if not len(arrays[inputs[0].name]):
        raise PackError(f"{file} has no instances; a sample needs at least one")
    return Sample({name: arrays[name] for name in names}, batch)


def _fit(array: Array, tensor: Tensor, expected: Shape, file: str) -> Array:
    """Return the array in the tensor's dtype, if its shape and kind are the tensor's."""
    actual = array.shape[1:]
    if array.ndim != len(expected) + 1 or any(
        size not in (None, now) for size, now in zip(expected, actual, strict=True)
    ):
        raise PackError(
            f"{file}: {tensor.name} has the shape {list(array.shape)}, and the model takes "
            f"[{_sizes(tensor.shape)}]; give the instances as [instances, "
            f"{_sizes(expected)}]".replace(", ]", "]")
        )
    dtype = numpy_dtype(tensor.dtype)
    if dtype.kind == "O" and array.dtype.kind in "US":
        return array.astype(str).astype(object)
    if not np.can_cast(array.dtype, dtype, "same_kind") or dtype.kind == "O":
        raise PackError(f"{file}: {tensor.name} has {array.dtype} values, not {tensor.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise PackError(f"{file}: {tensor.name} has values that are not finite")
    return np.ascontiguousarray(array, dtype)


def _sizes(shape: Sequence[int | None]) -> str:
    return ", ".join("any" if size is None else str(size) for size in shape)


def _draw(inputs: Sequence[Tensor], batch: Batch) -> Samples:
    """Return seeded instances: normal floats, and the integers 0 and 1.

    Floats have two decimals, for short golden rows; any vocabulary has the two integers.
    """
    rng = np.random.default_rng(0)
    drawn = {}
    for tensor in inputs:
        axes = row_shape(tensor.shape, batch)
        shape = (DRAWN_INSTANCES, *(DRAWN_LENGTH if size is None else size for size in axes))
        if tensor.dtype == "string":
            drawn[tensor.name] = np.full(shape, "a", object)
        elif tensor.dtype.startswith("float"):
            drawn[tensor.name] = rng.normal(size=shape).round(2).astype(tensor.dtype)
        else:
            drawn[tensor.name] = rng.integers(0, 2, shape).astype(tensor.dtype)
    return drawn
