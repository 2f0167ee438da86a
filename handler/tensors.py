"""Validated rows -> named arrays, in one pass per dtype instead of one per feature.

The features of one dtype become one [features, rows] matrix whose slices are the graph's inputs,
so a row of ten features costs one array and not ten.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from handler.errors import ContractViolation, Violation, pointer
from handler.manifest import Feature, Manifest, Tensor

Array = np.ndarray[Any, np.dtype[Any]]  # as NDArray[Any], without importing numpy.typing
Row = dict[str, Any]
NUMPY = {"string": np.dtype(object)}


class Batch(NamedTuple):
    """What one run of the graph takes: the numbers of its rows, and its inputs by name."""

    indices: Sequence[int]
    feeds: dict[str, Array]
    unusual: dict[str, int]


def dtype(name: str) -> np.dtype[Any]:
    """Numpy's dtype for a manifest's: strings travel as objects."""
    return NUMPY.get(name) or np.dtype(name)


def batches(manifest: Manifest) -> Callable[[Sequence[Row]], Iterator[Batch]]:
    """The function that turns validated rows into runs, made once per model."""
    return _tabular(manifest) if manifest.features else _tensor(manifest)


class _Group:
    """The features that share a dtype, as rows of one matrix."""

    def __init__(self, manifest: Manifest, name: str) -> None:
        inputs = {tensor.name: tensor for tensor in manifest.inputs}
        numbered = [
            (i, f) for i, f in enumerate(manifest.features) if inputs[f.input].dtype == name
        ]
        self.dtype = dtype(name)
        # features of one input stand together, in the order of their columns
        numbered.sort(key=lambda pair: (list(inputs).index(pair[1].input), pair[1].column))
        self.columns = [i for i, _ in numbered]
        self.features = [feature for _, feature in numbered]
        # where a null does not simply turn into NaN
        self.fills = [
            (k, "" if f.missing is None else f.missing)
            for k, f in enumerate(self.features)
            if f.nullable and (f.missing is not None or self.dtype.kind != "f")
        ]
        self.slices: list[tuple[str, int, int, tuple[int, ...]]] = []
        for tensor in inputs.values():
            places = [k for k, f in enumerate(self.features) if f.input == tensor.name]
            if places:
                shape = (-1, len(places))[: len(tensor.shape)]
                self.slices.append((tensor.name, places[0], places[-1] + 1, shape))
        # the inputs of one column each, whose arrays are had in one step
        self.single = [name for name, _, _, shape in self.slices if shape == (-1, 1)]
        if len(self.single) < len(self.features):
            self.single = []
        counted = [
            f.out_of_range == "accept" and f.type in ("number", "integer") for f in self.features
        ]
        self.counted = any(counted)
        # in the values' own precision: 0.1 as float32 is over 0.1 as float64
        kind = self.dtype if self.dtype.kind == "f" else np.dtype(float)
        # of those that are not counted, nothing is outside
        bounds = [
            _bounds(f) if count else (-np.inf, np.inf)
            for f, count in zip(self.features, counted, strict=True)
        ]
        self.minimum, self.maximum = np.hsplit(np.array(bounds, kind).reshape(-1, 2), 2)
        self.open = [
            (k, frozenset((*f.categories, *(fill for at, fill in self.fills if at == k))))
            for k, f in enumerate(self.features)
            if f.type == "category" and f.unseen == "accept"
        ]
        self.every = len(self.columns) == len(manifest.features) and self.columns == sorted(
            self.columns
        )
        # all that there is, and nothing to replace: read from the rows without a detour
        self.plain = (
            self.every
            and self.dtype.kind != "O"
            and not any(feature.nullable for feature in self.features)
        )

    def matrix(self, rows: Sequence[Row], columns: list[Any]) -> Array:
        """[features, rows] of this group's dtype; `columns` are all features' values."""
        if self.plain:
            values = chain.from_iterable(map(dict.values, rows))
            return (
                np.fromiter(values, self.dtype, len(rows) * len(self.columns))
                .reshape(len(rows), -1)
                .T
            )
        columns = columns if self.every else [columns[i] for i in self.columns]
        for k, fill in self.fills:
            columns[k] = [fill if value is None else value for value in columns[k]]
        return np.array(columns, self.dtype)

    def unusual(self, matrix: Array, counts: dict[str, int]) -> None:
        """Count what the contract accepts, but wants to know of."""
        if self.counted:
            outside = (matrix < self.minimum) | (matrix > self.maximum)
            if np.count_nonzero(outside):
                sums = outside.sum(axis=1).tolist()
                for feature, number in zip(self.features, sums, strict=True):
                    if number:
                        counts[feature.name] = number
        for k, known in self.open:
            number = sum(value not in known for value in matrix[k].tolist())
            if number:
                counts[self.features[k].name] = number


def _bounds(feature: Feature) -> tuple[float, float]:
    low, high = feature.minimum, feature.maximum
    return -np.inf if low is None else low, np.inf if high is None else high


def _tabular(manifest: Manifest) -> Callable[[Sequence[Row]], Iterator[Batch]]:
    groups = [_Group(manifest, name) for name in dict.fromkeys(t.dtype for t in manifest.inputs)]
    single = manifest.execution.batch == "single"

    def make(rows: Sequence[Row]) -> Iterator[Batch]:
        feeds: dict[str, Array] = {}
        unusual: dict[str, int] = {}
        columns = [] if groups[0].plain else list(zip(*map(dict.values, rows), strict=True))
        for group in groups:
            matrix = group.matrix(rows, columns)
            if group.counted or group.open:
                group.unusual(matrix, unusual)
            if group.single:
                feeds.update(zip(group.single, matrix[:, :, None], strict=True))
                continue
            for name, start, stop, shape in group.slices:
                feeds[name] = matrix[start:stop].T.reshape(shape)
        if not single:
            yield Batch(range(len(rows)), feeds, unusual)
            return
        for i in range(len(rows)):
            yield Batch((i,), {k: v[i : i + 1] for k, v in feeds.items()}, {} if i else unusual)

    return make


def _tensor(manifest: Manifest) -> Callable[[Sequence[Row]], Iterator[Batch]]:
    inputs, batch = manifest.inputs, manifest.execution.batch

    axes = 0 if batch == "none" else 1
    limit = manifest.limits.elements

    def array(row: Row, tensor: Tensor, i: int) -> Array:
        try:
            values = np.array(row[tensor.name], dtype(tensor.dtype))
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

    def make(rows: Sequence[Row]) -> Iterator[Batch]:
        arrays = [[array(row, tensor, i) for tensor in inputs] for i, row in enumerate(rows)]
        groups: dict[Any, list[int]] = {}
        for i, parts in enumerate(arrays):
            # only rows of the same shapes can be stacked, and only where there is a free axis
            key = tuple(p.shape for p in parts) if batch == "dynamic" else i
            groups.setdefault(key, []).append(i)
        for members in groups.values():
            feeds = {}
            for k, tensor in enumerate(inputs):
                parts = [arrays[i][k] for i in members]
                feeds[tensor.name] = parts[0] if batch == "none" else np.stack(parts)
            yield Batch(members, feeds, {})

    return make
