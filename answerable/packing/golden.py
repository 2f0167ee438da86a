"""Golden rows: instances whose answers must never change, the contract's edges among them."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import orjson

from answerable.packing.execution import Samples, n_rows
from answerable.packing.sample import Sample
from answerable.packing.table import Columns
from handler.manifest import Feature

ROWS = 64
TYPICAL = 3
ELEMENTS = 20_000  # of a tensor instance, in all golden rows together

Instance = dict[str, Any]
Named = tuple[str, Instance]


def choose(sample: Sample) -> list[Named]:
    """The golden rows of a sample."""
    if sample.features:
        return tabular(sample.features, sample.columns)
    return tensors(sample.feeds, sample.origin)


def tabular(features: Sequence[Feature], columns: Columns) -> list[Named]:
    """Rows of the sample, and each feature's edges, one at a time in an otherwise typical row.

    Where those are more than ROWS, rows with every feature at an edge come first, so that none is
    left out.
    """
    rows = len(next(iter(columns.values())))
    chosen = sorted({i * (rows - 1) // (TYPICAL - 1) for i in range(TYPICAL)})
    named: list[Named] = [
        (f"row {i + 1} of the sample", {f.name: columns[f.name][i] for f in features})
        for i in chosen
    ]
    typical = {feature.name: feature.example for feature in features}
    edges = [(f, list(_edges(f, columns[f.name]))) for f in features]
    single = [
        (f"{edge} of {feature.name}", typical | {feature.name: value})
        for feature, found in edges
        for edge, value in found
    ]
    if len(named) + len(single) > ROWS:
        names = [feature.name for feature in features]
        for number, values in enumerate(zip_longest(*(found for _, found in edges)), 1):
            changed = {
                name: edge[1] for name, edge in zip(names, values, strict=True) if edge is not None
            }
            named.append((f"edge {number} of every feature", typical | changed))
    return (named + single)[:ROWS]


def _edges(feature: Feature, column: list[Any]) -> Iterator[tuple[str, Any]]:
    present = [value for value in column if value is not None]
    if feature.nullable:
        yield "missing", None
    if feature.type in ("number", "integer"):
        yield "minimum", min(present) if feature.minimum is None else feature.minimum
        yield "maximum", max(present) if feature.maximum is None else feature.maximum
    elif feature.type == "category":
        yield from ((f"category {i}", value) for i, value in enumerate(feature.categories, 1))
    elif feature.type == "boolean":
        yield from (("false", False), ("true", True))
    else:
        yield "shortest", min(present, key=len)
        yield "longest", max(present, key=len)


def tensors(samples: Samples, origin: str) -> list[Named]:
    """The first instances of a tensor contract's sample, large ones fewer."""
    size = sum(array[0, ...].size for array in samples.values())
    number = max(1, min(8, n_rows(samples), ELEMENTS // max(size, 1)))
    return [
        (f"{origin} {i + 1}", {name: array[i] for name, array in samples.items()})
        for i in range(number)
    ]


def dumps(value: Any) -> bytes:
    """JSON, arrays and numbers in the shortest form of their own dtype."""

    def strings(array: Any) -> Any:
        if isinstance(array, np.ndarray):
            return array.tolist()
        raise TypeError

    return orjson.dumps(value, strings, orjson.OPT_SERIALIZE_NUMPY)
