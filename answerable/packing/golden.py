"""Golden rows: instances whose predictions must never change, the contract's edges included."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import orjson

from answerable.packing import feature_types as packed_types
from answerable.packing.execution import Samples, n_rows
from answerable.packing.sample import Sample
from answerable.packing.table import Columns
from handler.feature_types import FeatureType

MAX_ROWS = 64
SAMPLE_ROWS = 3
MAX_ELEMENTS = 20_000  # of all golden rows of a tensor contract together

Instance = dict[str, Any]
Named = tuple[str, Instance]


def choose(sample: Sample) -> list[Named]:
    """Return the golden rows of a sample."""
    if sample.types:
        return tabular(sample.types, sample.columns)
    return tensors(sample.feeds, sample.origin)


def tabular(types: Sequence[FeatureType], columns: Columns) -> list[Named]:
    """Return rows of the sample, and typical rows with one feature at an edge each.

    If there are too many of those, rows with every feature at an edge come first, so that no
    feature is left out.
    """
    names = [kind.feature.name for kind in types]
    last = len(columns[names[0]]) - 1
    chosen = sorted({i * last // (SAMPLE_ROWS - 1) for i in range(SAMPLE_ROWS)})
    named: list[Named] = [
        (f"row {i + 1} of the sample", {name: columns[name][i] for name in names}) for i in chosen
    ]
    typical = {kind.feature.name: kind.feature.example for kind in types}
    edges = [list(_edges(kind, columns[name])) for kind, name in zip(types, names, strict=True)]
    single = [
        (f"{edge} of {name}", typical | {name: value})
        for name, feature_edges in zip(names, edges, strict=True)
        for edge, value in feature_edges
    ]
    if len(named) + len(single) > MAX_ROWS:
        for number, row in enumerate(zip_longest(*edges), 1):
            changed = {n: edge[1] for n, edge in zip(names, row, strict=True) if edge is not None}
            named.append((f"edge {number} of every feature", typical | changed))
    return (named + single)[:MAX_ROWS]


def _edges(kind: FeatureType, column: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    if kind.feature.nullable:
        yield "missing", None
    yield from packed_types.of(kind).edges([value for value in column if value is not None])


def tensors(samples: Samples, origin: str) -> list[Named]:
    """Return the first instances of a tensor contract's sample, fewer of large ones."""
    size = sum(array[0, ...].size for array in samples.values())
    number = max(1, min(8, n_rows(samples), MAX_ELEMENTS // max(size, 1)))
    return [
        (f"{origin} {i + 1}", {name: array[i] for name, array in samples.items()})
        for i in range(number)
    ]


def dumps(value: Any) -> bytes:
    """Return JSON, with arrays and numbers in the shortest form of their own dtype."""
    # orjson has no arrays of strings
    return orjson.dumps(value, lambda array: array.tolist(), orjson.OPT_SERIALIZE_NUMPY)
