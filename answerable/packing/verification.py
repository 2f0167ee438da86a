"""The sample and the golden rows, asked of the packed artifact by the handler's own path."""

from collections.abc import Sequence
from pathlib import Path

import orjson

from answerable.packing import execution, output_fields, table
from answerable.packing.errors import PackError
from answerable.packing.golden import Instance, Named, dumps
from answerable.packing.sample import Sample
from handler.errors import ApiError
from handler.release.golden import TOLERANCE
from handler.scoring import Scorer

ROWS = 1000  # of the sample that are compared
ELEMENTS = 2_000_000  # of tensors that are compared: they go through JSON twice


def predict(scorer: Scorer, instances: Sequence[Instance]) -> list[bytes]:
    """The predictions for instances, from the handler's own path, each as JSON."""
    predictions: list[bytes] = []
    step = min(100, scorer.manifest.limits.rows)
    for start in range(0, len(instances), step):
        body = dumps({"instances": instances[start : start + step]})
        if step == 1 and len(body) > scorer.manifest.limits.body_bytes:
            raise PackError("one row of the sample is over the limit for bodies, body_bytes")
        try:
            predictions += scorer.score(body).predictions
        except ApiError as error:
            place = [f" ({v.pointer}: {v.message})" for v in error.violations[:1]]
            raise PackError(f"the handler refuses the sample: {error}{''.join(place)}") from None
    return predictions


def write_golden(path: Path, scorer: Scorer, rows: Sequence[Named]) -> None:
    """Write golden.jsonl: one line per row, with the prediction that must not change."""
    lines = []
    for name, instance in rows:
        prediction = orjson.Fragment(predict(scorer, [instance])[0])
        lines.append(dumps({"name": name, "instance": instance, "prediction": prediction}))
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def verify(
    scorer: Scorer,
    original: execution.Run,
    sample: Sample,
    rows: list[Instance],
) -> tuple[int, float]:
    """The rows compared, and the largest deviation. Raises PackError above the tolerance."""
    known = execution.n_rows(sample.feeds)
    if sample.types:
        step = -(-known // ROWS)
        columns = {
            name: column[::step] + [row[name] for row in rows]
            for name, column in sample.columns.items()
        }
        feeds = table.feeds(sample.types, scorer.manifest.inputs, columns)
        names = list(columns)
        instances: list[Instance] = [
            dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
    else:
        size = sum(array[0].size for array in sample.feeds.values())
        feeds = execution.slice_rows(sample.feeds, 0, max(len(rows), ELEMENTS // max(size, 1)))
        instances = [
            {name: array[i] for name, array in feeds.items()}
            for i in range(execution.n_rows(feeds))
        ]
    batch = scorer.manifest.execution.batch
    outputs = scorer.manifest.outputs
    expected = output_fields.to_arrays(execution.run_sample(original, feeds, batch), outputs)
    predictions = [orjson.loads(text) for text in predict(scorer, instances)]
    largest = output_fields.deviation(outputs, predictions, expected)
    half = any(output.dtype == "float16" for output in outputs)
    if largest > (TOLERANCE * 100 if half else TOLERANCE):
        raise PackError(f"the packed model's answers are {largest:.1g} from the original's")
    return len(instances), largest
