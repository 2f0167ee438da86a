"""The packed model's predictions compared with those of the model that it was made of."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto

from answerable.packing import reference
from answerable.packing.errors import PackError
from answerable.packing.execution import Samples
from answerable.packing.sample import Sample
from answerable.packing.table import Array
from answerable.terminal import number
from handler.manifest import BY_CLASS, Output, Parity

TOLERANCE = 1e-4  # float32 against float64, over the trees or layers of a model
WORST_ROWS = 3  # that a refusal shows
SWAPPED_ROWS, SWAPPED_COLUMNS = 50, 40  # of the search for swapped columns

Expected = Mapping[str, Array]
Predict = Callable[[Samples], Sequence[Array]]


class Difference(NamedTuple):
    """The difference of one output by row: |a - b| / max(1, |b|); 1 for a label that differs."""

    output: Output
    packed: Array
    expected: Array
    by_row: Array

    @property
    def is_label(self) -> bool:
        """Return whether the output's values are equal or not, and have no distance."""
        return self.packed.dtype.kind != "f"


def compare(
    outputs: Sequence[Output], results: Sequence[Array], expected: Expected
) -> list[Difference]:
    """Return the difference of each output that has expected values of a fitting shape."""
    differences = []
    for output, packed in zip(outputs, results, strict=True):
        values = expected.get(output.tensor, expected.get(output.name))
        if values is None:
            continue
        if packed.ndim == 2 and packed.shape[1] == 2 and values.shape == packed.shape[:1]:
            packed = packed[:, 1]  # a decision function of two classes
        if values.size != packed.size:
            continue
        values = values.reshape(packed.shape)
        if packed.dtype.kind == "f":
            a, b = packed.astype(np.float64), values.astype(np.float64)
            size = np.abs(a - b) / np.maximum(1, np.abs(b))
            size = np.where(np.isnan(a) & np.isnan(b), 0, np.nan_to_num(size, nan=np.inf))
        else:
            size = (_as_text(packed) != _as_text(values)).astype(np.float64)
        by_row = size.reshape(len(packed), -1).max(axis=1)
        differences.append(Difference(output, packed, values, by_row))
    return differences


def _as_text(labels: Array) -> Array:
    """Return labels as texts, which are equal for 1, 1.0 and True."""
    return (labels.astype(np.int64) if labels.dtype.kind in "fiub" else labels).astype(str)


def excess(differences: Sequence[Difference], tolerance: float) -> Array:
    """Return which rows differ by more than the tolerance.

    A label may differ where the model's numbers agree: two classes are equally likely there.
    """
    numbers = [d.by_row > tolerance for d in differences if not d.is_label]
    labels = [d.by_row > tolerance for d in differences if d.is_label]
    rows: Array = np.any(numbers or labels, axis=0)
    return rows


def check(
    outputs: Sequence[Output],
    results: Sequence[Array],
    original: tuple[str, Expected],
    tolerance: float | None,
    causes: Callable[[Sequence[Difference], float], Iterable[str]],
) -> Parity:
    """Return the parity of the results with those of the original model, of a name.

    `causes` yields the causes and remedies that the error names. Raise PackError above the
    tolerance.
    """
    source, expected = original
    differences = compare(outputs, results, expected)
    if not differences:
        raise PackError(f"{source} has predictions of no output: give them with --expected")
    numbers = [d.by_row for d in differences if not d.is_label]
    parity = Parity(
        source=source,
        rows=len(differences[0].by_row),
        max_difference=_round(max((rows.max() for rows in numbers), default=0.0)),
        mean_difference=_round(max((rows.mean() for rows in numbers), default=0.0)),
        flipped_labels=sum(int(d.by_row.sum()) for d in differences if d.is_label),
        tolerance=TOLERANCE if tolerance is None else tolerance,
    )
    if count := int(excess(differences, parity.tolerance).sum()):
        sentences = [
            f"the packed model does not predict what the original does: {describe(parity)}; "
            f"{count:,} of them differ by more than the tolerance {number(parity.tolerance)}",
            _worst(differences),
            *causes(differences, parity.tolerance),
            "or accept it with --tolerance",
        ]
        raise PackError("; ".join(sentences))
    return parity


def describe(parity: Parity) -> str:
    """Return the comparison in words."""
    text = (
        f"{parity.rows:,} rows, at most {number(parity.max_difference)} and on average "
        f"{number(parity.mean_difference)} from {parity.source}"
    )
    return text + f", {parity.flipped_labels:,} labels differ" * bool(parity.flipped_labels)


def _round(value: float) -> float:
    return float(f"{value:.2g}")


def _worst(differences: Sequence[Difference]) -> str:
    """Return the rows that differ most, in words."""
    largest = max(differences, key=lambda d: (not d.is_label, float(d.by_row.max())))
    rows = np.argsort(-largest.by_row, kind="stable")[:WORST_ROWS].tolist()
    texts = [
        f"{_value(largest.packed[row])} in row {row + 1}, not {_value(largest.expected[row])}"
        for row in rows
    ]
    return f"{largest.output.name} is {', '.join(texts)}"


def _value(value: Any) -> str:
    items = [f"{v:.6g}" if isinstance(v, float) else str(v) for v in np.ravel(value)[:4].tolist()]
    return items[0] if np.size(value) == 1 else f"[{', '.join(items)}]"


def causes(
    model: ModelProto,
    sample: Sample,
    predict: Predict,
    takes_double: bool,
    differences: Sequence[Difference],
    tolerance: float,
) -> Iterator[str]:
    """Yield what is known to make a graph predict otherwise, and what helps.

    `takes_double`: the model's converter can make a graph of float64, and did not.
    """
    if pair := _swapped(sample, predict, differences, tolerance):
        yield f"with the columns {pair} swapped it does: give them in the order of training"
        return
    for kind in sample.types:
        column = sample.columns[kind.feature.name]
        distinct = {value for value in column if value is not None} if kind.is_number else set()
        if sample.feeds[kind.feature.input].dtype == np.float32 and len(
            {np.float32(value) for value in distinct}
        ) < len(distinct):
            yield (
                f"float32 does not distinguish values of {kind.feature.name}: "
                "train on a shifted or scaled column"
            )
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    modes = {mode for a in attributes if a.name == "nodes_modes" for mode in a.strings}
    if b"BRANCH_EQ" in modes:
        yield "converters simplify categorical splits of trees: encode the categories before"
    if modes:
        yield "converted trees compare with rounded thresholds, so close values change the branch"
    if takes_double:
        yield "convert it to float64, with --double"


def _swapped(
    sample: Sample, predict: Predict, differences: Sequence[Difference], tolerance: float
) -> str:
    """Return the two columns of a single tensor that give the expected values if swapped."""
    (tensor, array), *others = sample.feeds.items()
    if others or not sample.types or array.shape[-1] > SWAPPED_COLUMNS:
        return ""
    rows = slice(0, SWAPPED_ROWS)
    expected = {d.output.tensor: d.expected[rows] for d in differences}
    outputs = [d.output for d in differences]
    for i, j in combinations(range(array.shape[-1]), 2):
        changed = array[rows].copy()
        changed[:, [i, j]] = changed[:, [j, i]]
        results = predict({tensor: changed})
        if not excess(compare(outputs, results, expected), tolerance).any():
            return " and ".join(sample.types[k].feature.name for k in (i, j))
    return ""


def read_expected(X: Any, outputs: Sequence[Output], n_rows: int) -> tuple[str, Expected]:
    """Return the name and the values, by output, of given predictions. Raise PackError.

    `X`: the forms of a reference. Columns have the names of outputs. An output with one number per
    class has one column per class: `output.class`, `output_class` or `class`.
    """
    data = reference.read(X, name="expected")
    if data is None:
        return "", {}
    if not data.columns:
        return data.name, data.arrays
    columns = {name: np.asarray(cells) for name, cells in data.columns.items()}
    expected = {}
    for output in outputs:
        if output.kind in BY_CLASS:
            for form in ("{0}.{1}", "{0}_{1}", "{1}"):
                names = [form.format(output.name, label) for label in output.classes]
                if all(name in columns for name in names):
                    by_class = [_numbers(columns[name], data.name) for name in names]
                    expected[output.name] = np.stack(by_class, axis=1)
                    break
            continue
        for name in (output.name, output.tensor, *columns):
            if name in columns and (name in (output.name, output.tensor) or len(columns) == 1):
                is_number = output.dtype.startswith("float")
                column = columns[name]
                expected[output.name] = _numbers(column, data.name) if is_number else column
                break
    if not expected:
        names = [output.name for output in outputs]
        raise PackError(f"{data.name} has predictions of no output; outputs: {', '.join(names)}")
    if (length := len(next(iter(expected.values())))) != n_rows:
        raise PackError(f"{data.name} has {length:,} predictions, and the sample {n_rows:,} rows")
    return data.name, expected


def _numbers(column: Array, file: str) -> Array:
    try:
        return column.astype(np.float64)
    except ValueError:
        raise PackError(f"{file}: a prediction is no number") from None
