"""Validated columns -> named arrays: the features of one dtype are one [features, rows] matrix."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from handler.errors import pointer, violation_error
from handler.feature_types import Array as Array  # for those who make arrays
from handler.feature_types import FeatureType
from handler.manifest import Manifest, Tensor

# one sequence of values per feature, or of nested lists or arrays per input of a tensor contract
Columns = Sequence[Sequence[Any] | Array]
STRING_DTYPE = np.dtype(object)


class ModelRun(NamedTuple):
    """One run of the graph: its rows' numbers, its inputs, and values out of range by feature."""

    indices: Sequence[int]
    feeds: dict[str, Array]
    out_of_range_counts: dict[str, int]


def dtype(name: str) -> np.dtype[Any]:
    """Return numpy's dtype for a manifest's: strings travel as objects."""
    return STRING_DTYPE if name == "string" else np.dtype(name)


def make_batcher(
    manifest: Manifest, types: Sequence[FeatureType]
) -> Callable[[Columns], Iterator[ModelRun]]:
    """Return the function that turns validated columns into runs, made once per model."""
    batches = _tabular_batcher(manifest, types) if types else _tensor_batcher(manifest)
    encoded = [kind for kind in types if kind.is_encoded]

    def encode(columns: Columns) -> Iterator[ModelRun]:
        for run in batches(columns):
            for kind in encoded:
                run.feeds.update(kind.encode(run.feeds.pop(kind.feature.input)))
            yield run

    return encode if encoded else batches


class _Group:
    """The features that share a dtype, as rows of one matrix."""

    def __init__(self, manifest: Manifest, types: Sequence[FeatureType], name: str) -> None:
        order = {tensor.name: i for i, tensor in enumerate(manifest.inputs)}
        # features of one input stand together, in the order of their columns
        numbered = sorted(
            (order[kind.feature.input], kind.feature.column, i)
            for i, kind in enumerate(types)
            if kind.dtype == name
        )
        self.column_numbers = [i for *_, i in numbered]
        self.covers_all = self.column_numbers == list(range(len(types)))
        self.types = [types[i] for i in self.column_numbers]
        self.dtype = dtype(name)
        # ranges are the contract's, so values are compared before they are rounded
        self.compute_dtype = np.dtype(float) if self.dtype.kind == "f" else self.dtype
        # where a null does not simply turn into NaN
        self.null_fills = [
            (k, kind.fill)
            for k, kind in enumerate(self.types)
            if kind.feature.nullable and (kind.fill is not None or self.dtype.kind != "f")
        ]
        self.slices: list[tuple[str, int, int, tuple[int, ...]]] = []
        for tensor in manifest.inputs:
            rows = [k for k, kind in enumerate(self.types) if kind.feature.input == tensor.name]
            if rows:
                shape = (-1, len(rows))[: len(tensor.shape)]
                self.slices.append((tensor.name, rows[0], rows[-1] + 1, shape))
        # inputs of one column each take one step for all
        names = [name for name, _, _, shape in self.slices if shape == (-1, 1)]
        self.one_column_inputs = names if len(names) == len(self.types) else []
        ranges = [kind.counted_range or (-np.inf, np.inf) for kind in self.types]
        self.minimum, self.maximum = np.array(ranges, float).T[:, :, None]
        self.range_counted = [
            (k, kind.feature.name, *kind.counted_range)
            for k, kind in enumerate(self.types)
            if kind.counted_range is not None
        ]
        # One row's inputs, made once. A run that was left behind at its deadline may read the next
        # row's values; nobody reads its outputs.
        self.row = np.empty((len(self.types), 1), self.dtype)
        self.row_feeds = self._slice(self.row)
        self.open_categories = [
            (k, kind.feature.name, kind.known_categories)
            for k, kind in enumerate(self.types)
            if kind.known_categories is not None
        ]

    def fill(self, columns: Columns, feeds: dict[str, Array], counts: dict[str, int]) -> None:
        """Add this group's inputs to `feeds`, and to `counts` what is out of range."""
        values = list(columns) if self.covers_all else [columns[i] for i in self.column_numbers]
        for k, fill in self.null_fills:
            values[k] = [fill if item is None else item for item in values[k]]
        for k, name, categories in self.open_categories:
            if number := sum(item not in categories for item in values[k]):
                counts[name] = number
        if len(values[0]) == 1:
            row = [item for (item,) in values]
            for k, name, low, high in self.range_counted:
                if row[k] is not None and not low <= row[k] <= high:
                    counts[name] = 1
            self.row[:, 0] = row
            feeds |= self.row_feeds
            return
        matrix = np.array(values, self.compute_dtype)
        if self.range_counted:
            outside = (matrix < self.minimum) | (matrix > self.maximum)
            if np.count_nonzero(outside):
                numbers = outside.sum(axis=1).tolist()
                counts |= {k.feature.name: n for k, n in zip(self.types, numbers, strict=True) if n}
        if self.compute_dtype is not self.dtype:
            matrix = matrix.astype(self.dtype)
        feeds |= self._slice(matrix)

    def _slice(self, matrix: Array) -> dict[str, Array]:
        """Return the graph's inputs, which share the memory of a matrix [features, rows]."""
        if self.one_column_inputs:
            return dict(zip(self.one_column_inputs, matrix[:, :, None], strict=True))
        return {
            name: matrix[start:stop].T.reshape(shape) for name, start, stop, shape in self.slices
        }


def _tabular_batcher(
    manifest: Manifest, types: Sequence[FeatureType]
) -> Callable[[Columns], Iterator[ModelRun]]:
    dtypes = dict.fromkeys(tensor.dtype for tensor in manifest.inputs)
    groups = [_Group(manifest, types, name) for name in dtypes]
    is_single = manifest.execution.batch == "single"

    def batches(columns: Columns) -> Iterator[ModelRun]:
        feeds: dict[str, Array] = {}
        counts: dict[str, int] = {}
        for group in groups:
            group.fill(columns, feeds, counts)
        rows = len(columns[0])
        if not is_single:
            yield ModelRun(range(rows), feeds, counts)
            return
        for i in range(rows):
            feed = {name: values[i : i + 1] for name, values in feeds.items()}
            yield ModelRun((i,), feed, {} if i else counts)

    return batches


def length_problem(
    inputs: Sequence[Tensor], shapes: Sequence[Sequence[int]]
) -> tuple[int, str] | None:
    """Return number and problem of the first input whose free axes break the contract.

    Free axes of one name have one length. `shapes` are those of the inputs, with or without the
    axis of the rows, which is never bounded.
    """
    lengths: dict[str, tuple[str, int]] = {}
    for i, (tensor, shape) in enumerate(zip(inputs, shapes, strict=True)):
        rank = len(tensor.shape)
        names, unbounded = tensor.axes or ("",) * rank, (None,) * rank
        lows, highs = tensor.min_shape or unbounded, tensor.max_shape or unbounded
        axes = [*zip(names, tensor.shape, lows, highs, strict=True)][rank - len(shape) :]
        for (name, size, low, high), length in zip(axes, shape, strict=True):
            if size is not None:
                continue
            if low is not None and length < low:
                return i, f"a free axis must have at least {low} items"
            if high is not None and length > high:
                return i, f"a free axis must have at most {high} items"
            first, other = lengths.setdefault(name, (tensor.name, length))
            if name and other != length:
                return i, f"its axis {name} must be as long as that of {first}"
    return None


def _tensor_batcher(manifest: Manifest) -> Callable[[Columns], Iterator[ModelRun]]:
    inputs, batch = manifest.inputs, manifest.execution.batch
    ranks = [len(manifest.row_shape(tensor)) for tensor in inputs]
    limit = manifest.limits.elements
    checks_lengths = any(t.axes or t.min_shape or t.max_shape for t in inputs)

    def to_array(value: Any, tensor: Tensor, rank: int, i: int) -> Array:
        try:
            array = np.asarray(value, dtype(tensor.dtype))
            is_ragged = array.ndim != rank  # ragged strings raise nothing
        except ValueError:
            is_ragged = True
        where = pointer("instances", i, tensor.name)
        if is_ragged:
            raise violation_error(where, "ragged", "the lists differ in length")
        if array.size > limit:
            raise violation_error(
                where, "too_many_elements", f"a tensor has at most {limit} elements"
            )
        return array

    def batches(columns: Columns) -> Iterator[ModelRun]:
        arrays = [
            [to_array(value, tensor, rank, i) for i, value in enumerate(column)]
            for tensor, rank, column in zip(inputs, ranks, columns, strict=True)
        ]
        groups: dict[Any, list[int]] = {}
        for i in range(len(columns[0])):
            shapes = tuple(column[i].shape for column in arrays)
            if checks_lengths and (problem := length_problem(inputs, shapes)):
                where = pointer("instances", i, inputs[problem[0]].name)
                raise violation_error(where, "wrong_length", problem[1])
            # only rows of the same shapes can be stacked, and only where there is a free axis
            groups.setdefault(shapes if batch == "dynamic" else i, []).append(i)
        for members in groups.values():
            feeds = {
                tensor.name: column[members[0]]
                if batch == "none"
                else np.stack([column[i] for i in members])
                for tensor, column in zip(inputs, arrays, strict=True)
            }
            yield ModelRun(members, feeds, {})

    return batches
