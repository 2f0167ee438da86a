"""Empirical distributions: what live values are ranked in, so that no drift means uniform ranks."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from answerable.packing.table import Array, Columns
from handler.manifest import BY_CLASS, Baseline, Distribution, Feature, Output

KNOTS = 41  # quantiles 0, 1/40 … 1
CLASSES = 10  # the first classes of probabilities that get a distribution


def measure(
    features: Sequence[Feature], columns: Columns, outputs: Sequence[Output], answers: list[Array]
) -> Baseline:
    """The distributions of every feature and of every output but raw tensors.

    `answers` are the packed model's own, one array [rows, …] per output.
    """
    inputs = {}
    for feature in features:
        values = columns[feature.name]
        if feature.type == "text":
            values = [None if value is None else len(value) for value in values]
        discrete = feature.type in ("category", "boolean")
        inputs[feature.name] = (categories if discrete else numbers)(values)
    results = {}
    for output, array in zip(outputs, answers, strict=True):
        if output.kind == "value":
            results[output.name] = numbers(_short(array))
        elif output.kind == "label":
            results[output.name] = categories(array.ravel().tolist())
        elif output.kind in BY_CLASS:
            for i, name in enumerate(output.classes[:CLASSES]):
                results[f"{output.name}.{name}"] = numbers(_short(array[:, i]))
    return Baseline(len(answers[0]), inputs, results)


def numbers(values: Sequence[Any]) -> Distribution:
    """The distribution of numbers, None being missing.

    Few different values are all kept, as steps. Of many, the quantiles are: each is a value that
    occurred, with the exact F just below and up to it, so that a value of some weight is a step.
    """
    known = np.sort(np.array([value for value in values if value is not None]))
    kept = np.unique(known)
    if len(kept) > KNOTS - 1:
        kept = np.unique(np.quantile(known, np.linspace(0, 1, KNOTS), method="inverted_cdf"))
    below = np.searchsorted(known, kept, "left") / max(len(known), 1)
    upto = np.searchsorted(known, kept, "right") / max(len(known), 1)
    return _distribution(values, kept.tolist(), below.tolist(), upto.tolist())


def categories(values: Sequence[Any]) -> Distribution:
    """The distribution of categories, the most frequent first, None being missing."""
    counts = Counter(value for value in values if value is not None)
    kept = sorted(counts, key=lambda value: (-counts[value], value))
    edges = np.cumsum([0, *(counts[value] for value in kept)]) / max(counts.total(), 1)
    return _distribution(values, kept, edges[:-1].tolist(), edges[1:].tolist())


def _distribution(
    values: Sequence[Any], kept: list[Any], below: list[float], upto: list[float]
) -> Distribution:
    missing = sum(value is None for value in values)
    return Distribution(
        rows=len(values) - missing,
        missing_share=round(missing / len(values), 6),
        values=tuple(kept),
        cdf_left=tuple(round(share, 6) for share in below),
        cdf_right=tuple(round(share, 6) for share in upto),
    )


def _short(array: Array) -> list[float]:
    """Floats in the shortest form of their own dtype: 0.1, not 0.10000000149011612."""
    return [float(str(value)) for value in array.ravel()]
