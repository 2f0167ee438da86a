"""The empirical distributions of a sample, against which live values are binned."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from answerable.packing.table import Array, Columns
from handler.drift import summaries
from handler.feature_types import FeatureType
from handler.manifest import BY_CLASS, Baseline, Distribution, Output, Tensor

KNOTS = 41  # quantiles 0, 1/40 … 1
MAX_CLASSES = 10  # classes of probabilities that get a distribution


def measure(
    types: Sequence[FeatureType],
    columns: Columns,
    outputs: Sequence[Output],
    results: Sequence[Array],
    inputs: Sequence[Tensor] = (),
    feeds: Mapping[str, Array] | None = None,
) -> Baseline:
    """Return the distributions of features and outputs, and of summaries of raw tensors.

    `columns` are the features' values in their JSON form. `results` are the packed model's, one
    array [rows, …] per output. `inputs` and `feeds` are summarised if there are no features.
    """
    features: dict[str, Distribution] = {}
    for kind in types:
        sample = columns[kind.feature.name]
        if kind.summaries:
            parsed = [None if value is None else kind.parse(value) for value in sample]
            features |= _summaries(kind.feature.name, kind.summaries, parsed)
        if kind.feature.image:
            continue
        convert = len if kind.binned_by_length else kind.to_graph
        values = sample
        if kind.binned_by_length or kind.has_json_form:
            values = [None if value is None else convert(value) for value in sample]
        features[kind.feature.name] = (categories if kind.discrete else numbers)(values)
    for tensor in () if types else inputs:
        rows = feeds[tensor.name] if feeds else ()
        features |= _summaries(tensor.name, summaries.names(tensor.dtype, False), rows)
    distributions: dict[str, Distribution] = {}
    for output, array in zip(outputs, results, strict=True):
        if output.kind == "value":
            distributions[output.name] = numbers(array.ravel())
        elif output.kind == "label":
            distributions[output.name] = categories(array.ravel().tolist())
        elif output.kind in BY_CLASS:
            for i, name in enumerate(output.classes[:MAX_CLASSES]):
                distributions[f"{output.name}.{name}"] = numbers(array[:, i])
        elif not output.classes:  # the classes of a label have none
            names = summaries.names(output.dtype, True)
            distributions |= _summaries(output.name, names, array)
    return Baseline(len(results[0]), features, distributions)


def _summaries(name: str, names: Iterable[str], rows: Iterable[Any]) -> dict[str, Distribution]:
    """Return the distribution of each summary that any row has."""
    values = {summary: [summaries.summarise(summary, row) for row in rows] for summary in names}
    return {
        f"{name}.{summary}": numbers(summarised)
        for summary, summarised in values.items()
        if any(value is not None for value in summarised)
    }


def numbers(values: Sequence[Any] | Array) -> Distribution:
    """Return the distribution of numbers; None is missing.

    Up to 40 distinct values are all kept, as steps. Of more, the quantiles are kept: values that
    occurred, with the exact F just below and at them, so that a frequent value is a step.
    """
    is_array = isinstance(values, np.ndarray)
    present = values if is_array else [value for value in values if value is not None]
    ordered = np.sort(np.asarray(present))
    kept = np.unique(ordered)
    if len(kept) > KNOTS - 1:
        kept = np.unique(np.quantile(ordered, np.linspace(0, 1, KNOTS), method="inverted_cdf"))
    left = np.searchsorted(ordered, kept, "left") / max(len(ordered), 1)
    right = np.searchsorted(ordered, kept, "right") / max(len(ordered), 1)
    # the shortest form of the dtype: 0.1, not 0.10000000149011612
    shown = kept.astype(str).astype(float) if is_array else kept
    return _distribution(len(values), len(ordered), shown.tolist(), left.tolist(), right.tolist())


def categories(values: Sequence[Any]) -> Distribution:
    """Return the distribution of categories, the most frequent first; None is missing."""
    counts = Counter(value for value in values if value is not None)
    kept = sorted(counts, key=lambda value: (-counts[value], value))
    edges = np.cumsum([0, *(counts[value] for value in kept)]) / max(counts.total(), 1)
    return _distribution(len(values), counts.total(), kept, edges[:-1].tolist(), edges[1:].tolist())


def _distribution(
    n_values: int, n_present: int, kept: list[Any], cdf_left: list[float], cdf_right: list[float]
) -> Distribution:
    return Distribution(
        rows=n_present,
        missing_share=round((n_values - n_present) / n_values, 6),
        values=tuple(kept),
        cdf_left=tuple(round(share, 6) for share in cdf_left),
        cdf_right=tuple(round(share, 6) for share in cdf_right),
    )
