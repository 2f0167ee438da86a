"""Validated columns -> named arrays, in one pass per dtype instead of one per feature.

The features of one dtype become one [features, rows] matrix whose slices are the graph's inputs,
so a row of ten features costs one array and not ten.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from handler.errors import ContractViolation, Violation, pointer
from handler.manifest import Feature, Manifest, Tensor

Array = np.ndarray[Any, np.dtype[Any]]  # as NDArray[Any], without importing numpy.typing
# one sequence of values per feature, or of nested lists per input of a tensor contract
Columns = Sequence[Sequence[Any] | Array]
NUMPY = {"string": np.dtype(object)}
VECTORIZE_MIN_ROWS = 8  # rows up to which a loop is cheaper than numpy


class ModelRun(NamedTuple):
    """What one run of the graph takes: the numbers of its rows, and its inputs by name."""

    indices: Sequence[int]
    feeds: dict[str, Array]
    unusual: dict[str, int]


def dtype(name: str) -> np.dtype[Any]:
    """Numpy's dtype for a manifest's: strings travel as objects."""
    return NUMPY.get(name) or np.dtype(name)


def make_batcher(manifest: Manifest) -> Callable[[Columns], Iterator[ModelRun]]:
    """The function that turns validated columns into runs, made once per model."""
    return _tabular(manifest) if manifest.features else _tensor(manifest)


class _Group:
    """The features that share a dtype, as rows of one matrix."""

    def __init__(self, manifest: Manifest, name: str) -> None:
        inputs = {tensor.name: tensor for tensor in manifest.inputs}
        order = {tensor: i for i, tensor in enumerate(inputs)}
        # features of one input stand together, in the order of their columns
        numbered = sorted(
            (order[f.input], f.column, i, f)
            for i, f in enumerate(manifest.features)
            if inputs[f.input].dtype == name
        )
        self.places = [i for _, _, i, _ in numbered]
        self.features = [feature for *_, feature in numbered]
        self.every = self.places == list(range(len(manifest.features)))
        self.dtype = dtype(name)
        # bounds are the contract's, so they are compared before anything is rounded
        self.wide = np.dtype(float) if self.dtype.kind == "f" else self.dtype
        # where a null does not simply turn into NaN
        self.fills = [
            (k, "" if f.fill_value is None else f.fill_value)
            for k, f in enumerate(self.features)
            if f.nullable and (f.fill_value is not None or self.dtype.kind != "f")
        ]
        self.slices: list[tuple[str, int, int, tuple[int, ...]]] = []
        for tensor in inputs.values():
            held = [k for k, f in enumerate(self.features) if f.input == tensor.name]
            if held:
                shape = (-1, len(held))[: len(tensor.shape)]
                self.slices.append((tensor.name, held[0], held[-1] + 1, shape))
        # the inputs of one column each, whose arrays are had in one step
        single = [name for name, _, _, shape in self.slices if shape == (-1, 1)]
        self.single = single if len(single) == len(self.features) else []
        self.counted = [
            (k, f.name, *_bounds(f))
            for k, f in enumerate(self.features)
            if f.out_of_range == "accept" and f.type in ("number", "integer")
        ]
        limits = np.full((2, len(self.features), 1), [[[-np.inf]], [[np.inf]]])
        for k, _, low, high in self.counted:
            limits[:, k, 0] = low, high
        self.minimum, self.maximum = limits
        self.open = [
            (k, f.name, frozenset((*f.categories, *(fill for at, fill in self.fills if at == k))))
            for k, f in enumerate(self.features)
            if f.type == "category" and f.unknown_category == "accept"
        ]

    def fill(self, columns: Columns, feeds: dict[str, Array], unusual: dict[str, int]) -> None:
        """Make this group's inputs, and count what the contract accepts but wants to know of."""
        part = list(columns) if self.every else [columns[i] for i in self.places]
        for k, value in self.fills:
            part[k] = [value if item is None else item for item in part[k]]
        matrix = np.array(part, self.wide)
        if self.counted and len(part[0]) <= VECTORIZE_MIN_ROWS:
            for k, name, low, high in self.counted:
                for item in part[k]:
                    if item is not None and not low <= item <= high:
                        unusual[name] = unusual.get(name, 0) + 1
        elif self.counted:
            outside = (matrix < self.minimum) | (matrix > self.maximum)
            if np.count_nonzero(outside):
                for feature, number in zip(self.features, outside.sum(axis=1), strict=True):
                    if number:
                        unusual[feature.name] = int(number)
        for k, name, known in self.open:
            number = sum(item not in known for item in part[k])
            if number:
                unusual[name] = number
        if self.wide is not self.dtype:
            matrix = matrix.astype(self.dtype)
        if self.single:
            feeds.update(zip(self.single, matrix[:, :, None], strict=True))
            return
        for name, start, stop, shape in self.slices:
            feeds[name] = matrix[start:stop].T.reshape(shape)


def _bounds(feature: Feature) -> tuple[float, float]:
    low, high = feature.minimum, feature.maximum
    return -np.inf if low is None else low, np.inf if high is None else high


def _tabular(manifest: Manifest) -> Callable[[Columns], Iterator[ModelRun]]:
    groups = [_Group(manifest, name) for name in dict.fromkeys(t.dtype for t in manifest.inputs)]
    single = manifest.execution.batch == "single"

    def make(columns: Columns) -> Iterator[ModelRun]:
        feeds: dict[str, Array] = {}
        unusual: dict[str, int] = {}
        for group in groups:
            group.fill(columns, feeds, unusual)
        count = len(columns[0])
        if not single:
            yield ModelRun(range(count), feeds, unusual)
            return
        for i in range(count):
            yield ModelRun((i,), {k: v[i : i + 1] for k, v in feeds.items()}, {} if i else unusual)

    return make


def _tensor(manifest: Manifest) -> Callable[[Columns], Iterator[ModelRun]]:
    inputs, batch = manifest.inputs, manifest.execution.batch
    axes = 0 if batch == "none" else 1
    limit = manifest.limits.elements

    def array(value: Any, tensor: Tensor, i: int) -> Array:
        try:
            values = np.asarray(value, dtype(tensor.dtype))
            wrong = values.ndim != len(tensor.shape) - axes  # ragged strings raise nothing
        except ValueError:
            wrong = True
        where = pointer("instances", i, tensor.name)
        if wrong:
            raise ContractViolation([Violation(where, "ragged", "the lists differ in length")])
        if values.size > limit:
            message = f"a tensor has at most {limit} elements"
            raise ContractViolation([Violation(where, "too_many_elements", message)])
        return values

    def make(columns: Columns) -> Iterator[ModelRun]:
        arrays = [
            [array(value, tensor, i) for i, value in enumerate(column)]
            for tensor, column in zip(inputs, columns, strict=True)
        ]
        groups: dict[Any, list[int]] = {}
        for i in range(len(columns[0])):
            # only rows of the same shapes can be stacked, and only where there is a free axis
            key = tuple(column[i].shape for column in arrays) if batch == "dynamic" else i
            groups.setdefault(key, []).append(i)
        for members in groups.values():
            feeds = {
                tensor.name: column[members[0]]
                if batch == "none"
                else np.stack([column[i] for i in members])
                for tensor, column in zip(inputs, arrays, strict=True)
            }
            yield ModelRun(members, feeds, {})

    return make
