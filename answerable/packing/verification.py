"""Score the sample and the golden rows by the handler's own path, and compare."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

from answerable.packing import execution, output_fields, table
from answerable.packing.errors import PackError
from answerable.packing.golden import Instance, Named, dumps
from answerable.packing.graph import Classes
from answerable.packing.output_rewrites import Rewrites
from answerable.packing.sample import Sample
from handler.errors import ApiError
from handler.release.golden import TOLERANCE
from handler.scoring import Scorer

ROWS = 1000  # of the sample that are compared
ELEMENTS = 2_000_000  # of tensors that are compared: they go through JSON twice
REMEDY = "pack with another --optimize (basic, extended, all), or accept it with --tolerance"


def predict(scorer: Scorer, instances: Sequence[Instance]) -> list[bytes]:
    """Return the handler's predictions for instances, each as JSON."""
    predictions: list[bytes] = []
    limits, start = scorer.manifest.limits, 0
    while start < len(instances):
        step = min(100, limits.rows)
        while (
            len(body := dumps({"instances": instances[start : start + step]})) > limits.body_bytes
        ):
            if step == 1:
                raise PackError("one row of the sample is over the limit for bodies, body_bytes")
            step = -(-step // 2)
        start += step
        try:
            predictions += scorer.predict(body)
        except ApiError as error:
            violations = [f" ({v.pointer}: {v.message})" for v in error.violations[:1]]
            raise PackError(
                f"the handler refuses the sample: {error}{''.join(violations)}"
            ) from None
    return predictions


def write_golden(path: Path, scorer: Scorer, rows: Sequence[Named]) -> None:
    """Write golden.jsonl: one line per row, with the prediction that must not change."""
    lines = []
    for name, instance in rows:
        prediction = orjson.Fragment(predict(scorer, [instance])[0])
        lines.append(dumps({"name": name, "instance": instance, "prediction": prediction}))
    path.write_bytes(b"".join(line + b"\n" for line in lines))


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
        half = any(output.dtype == "float16" for output in outputs)
        tolerance = TOLERANCE * 100 if half else TOLERANCE
    if deviation > tolerance:
        raise PackError(
            f"optimising the graph changes its answers by {deviation:.1g} from the original's, "
            f"and the tolerance is {tolerance:.1g}; {REMEDY}"
        )
    return len(instances), deviation


def _compared(
    scorer: Scorer, sample: Sample, rows: list[Instance]
) -> tuple[list[Instance], execution.Samples]:
    """Return the sample and the golden rows, up to a limit, as instances and as feeds."""
    if not sample.features:
        size = sum(array[0, ...].size for array in sample.feeds.values())
        feeds = execution.slice_rows(sample.feeds, 0, max(len(rows), ELEMENTS // max(size, 1)))
        return [
            {name: array[i] for name, array in feeds.items()}
            for i in range(execution.n_rows(feeds))
        ], feeds
    step = -(-execution.n_rows(sample.feeds) // ROWS)
    columns = {
        name: column[::step] + [row[name] for row in rows]
        for name, column in sample.columns.items()
    }
    feeds = table.feeds(sample.types, scorer.manifest.inputs, columns)
    names = list(columns)
    return [
        dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)
    ], feeds
