"""Golden rows: instances whose predictions must never change, the contract's edges included.

They and the sample are scored by the handler's own path, and compared with the original model.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from answerable.packing import execution, output_fields, table
from answerable.packing import feature_types as packed_types
from answerable.packing.errors import PackError
from answerable.packing.execution import Samples, n_rows
from answerable.packing.graph import Classes
from answerable.packing.output_rewrites import Rewrites
from answerable.packing.sample import Sample
from answerable.packing.table import Columns
from handler.errors import ApiError
from handler.feature_types import FeatureType
from handler.release import golden
from handler.scoring import Scorer

MAX_ROWS = 64
SAMPLE_ROWS = 3
MAX_ELEMENTS = 20_000  # of all golden rows of a tensor contract together
COMPARED_ROWS = 1000  # of the sample that are compared
COMPARED_ELEMENTS = 2_000_000  # of tensors that are compared: they go through JSON twice
REMEDY = "pack with another --optimize (basic, extended, all), or accept it with --tolerance"

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
    return [(f"{origin} {i + 1}", _instance(samples, i)) for i in range(number)]


def _instance(samples: Samples, i: int) -> Instance:
    return {name: array[i] for name, array in samples.items()}


def dumps(value: Any) -> bytes:
    """Return JSON, with arrays and numbers in the shortest form of their own dtype."""
    # orjson has no arrays of strings
    return orjson.dumps(value, lambda array: array.tolist(), orjson.OPT_SERIALIZE_NUMPY)


def predict(scorer: Scorer, instances: Sequence[Instance]) -> list[bytes]:
    """Return the handler's predictions for instances, each as JSON."""
    predictions: list[bytes] = []
    limits, start = scorer.manifest.limits, 0
    while start < len(instances):
        rows = instances[start : start + min(100, limits.rows)]
        while len(body := dumps({"instances": rows})) > limits.body_bytes:
            if len(rows) == 1:
                raise PackError("one row of the sample is over the limit for bodies, body_bytes")
            rows = rows[: -(-len(rows) // 2)]
        start += len(rows)
        try:
            predictions += scorer.predict(body)
        except ApiError as error:
            violations = [f" ({v.pointer}: {v.message})" for v in error.violations[:1]]
            raise PackError(
                f"the handler refuses the sample: {error}{''.join(violations)}"
            ) from None
    return predictions


def write(directory: Path, scorer: Scorer, rows: Sequence[Named]) -> None:
    """Write golden.jsonl: one line per row, with the prediction that must not change."""
    lines = []
    for name, instance in rows:
        prediction = orjson.Fragment(predict(scorer, [instance])[0])
        lines.append(dumps({"name": name, "instance": instance, "prediction": prediction}))
    (directory / golden.FILE_NAME).write_bytes(b"".join(line + b"\n" for line in lines))


class Original(NamedTuple):
    """The run of the file as it came, not optimised."""

    run: execution.Run
    classes: dict[str, Classes]


def verify(
    scorer: Scorer,
    original: Original,
    rewrites: Rewrites,
    sample: Sample,
    rows: list[Instance],
    tolerance: float | None,
) -> tuple[int, float]:
    """Return the number of rows compared, and the largest deviation from the original.

    Raise PackError above the tolerance.
    """
    instances, feeds = _compared(scorer, sample, rows)
    outputs, batch = scorer.manifest.outputs, scorer.manifest.execution.batch
    predictions = [orjson.loads(text) for text in predict(scorer, instances)]
    try:
        results = execution.run_sample(original.run, feeds, batch)
    except PackError as error:
        raise PackError(f"{error} without optimisation; {REMEDY}") from None
    arrays = output_fields.to_arrays(results, rewrites.tensors, original.classes)
    ties, original_arrays = rewrites.ties(arrays), rewrites.arrays(arrays)
    deviation = output_fields.deviation(outputs, predictions, original_arrays, ties)
    if tolerance is None:
        tolerance = golden.tolerance(scorer.manifest, golden.TOLERANCE)
    if deviation > tolerance:
        raise PackError(
            f"optimising the graph changes its answers by {deviation:.1g} from the original's, "
            f"and the tolerance is {tolerance:.1g}; {REMEDY}"
        )
    return len(instances), deviation


def _compared(
    scorer: Scorer, sample: Sample, rows: list[Instance]
) -> tuple[list[Instance], Samples]:
    """Return the sample and the golden rows, up to a limit, as instances and as feeds."""
    if not sample.features:
        size = sum(array[0, ...].size for array in sample.feeds.values())
        feeds = execution.slice_rows(
            sample.feeds, 0, max(len(rows), COMPARED_ELEMENTS // max(size, 1))
        )
        return [_instance(feeds, i) for i in range(n_rows(feeds))], feeds
    step = -(-n_rows(sample.feeds) // COMPARED_ROWS)
    columns = {
        name: column[::step] + [row[name] for row in rows]
        for name, column in sample.columns.items()
    }
    feeds = table.feeds(sample.types, scorer.manifest.inputs, columns)
    values = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values], feeds
