"""Quantile ranks: where in the packed baseline every live value lies, as a bin number 1 … BINS.

The statistics. If X has a continuous distribution F, U = F(X) is uniform on (0, 1]: the probability
integral transform (R. A. Fisher, 1932, Statistical Methods for Research Workers, 4th ed., section
21.1; M. Rosenblatt, 1952, Annals of Mathematical Statistics 23, 470-472). Where F jumps (ties,
integers, categories) U is drawn uniformly within the jump, F(x-) + V * (F(x) - F(x-)), and is
uniform again: the randomised transform, or distributional transform (T. S. Ferguson, 1967,
Mathematical Statistics; L. Rueschendorf, 2009, Journal of Statistical Planning and Inference 139,
3921-3927; to check models, A. E. Brockwell, 2007, Statistics & Probability Letters 77, 1473-1478).
So whatever a feature's type and unit, no drift means that its bins are equally likely.

A missing value is a category of its own, the topmost: its jump is as wide as its share in the
baseline. What the baseline has never seen (a new category, a null where there was none) has a jump
of no width there, falls into the last bin, and is counted besides.

The draws V are not random numbers but a rank-1 lattice with a shift that is hashed from the
request's id (R. Cranley and T. N. L. Patterson, 1976, SIAM Journal on Numerical Analysis 13,
904-914): uniform for each value, the same whenever the same request is ranked again.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from handler import drift
from handler.drift import BINS
from handler.manifest import Distribution, Feature, Manifest
from handler.tensors import Array, Row, matrix_order

ROWS = 100  # CloudWatch takes no more values of a metric from one record
VALUES = 15_000  # of all metrics together, so that the record stays short
FEW = 24  # rows up to which plain Python is faster than numpy
GOLDEN = 0.6180339887498949  # 1/phi: its multiples are spread evenly in (0, 1)
PLASTIC = 0.7548776662466927
_EDGE = 1e-6 * BINS  # the baseline is rounded to six digits


class Ranks(NamedTuple):
    """`bins`: for each metric the bin numbers, one a row, of `rows` sampled rows; of one row the
    number itself.

    `missing`: sampled rows without a value, by feature. `novel`: how many of all rows have a value
    of a kind that the baseline has never seen; an estimate where not all were sampled.
    """

    bins: dict[str, Any]
    rows: int
    missing: dict[str, int]
    novel: int


class Scale:
    """F of one target. `steps`: values at which it jumps, with the jump; between two of the `cuts`
    it stays in one bin.
    """

    def __init__(self, known: Distribution, discrete: bool, dtype: Any = None) -> None:
        self.discrete = discrete
        share = 1 - known.missing
        low, high = [part * share for part in known.below], [part * share for part in known.upto]
        self.steps: dict[Any, tuple[float, float]] = {}
        self.cuts: list[float] = []
        self.bins = [1]
        self.missing = (share, known.missing)
        self.novel_missing = known.missing == 0
        if discrete:
            for value, start, end in zip(known.values, low, high, strict=True):
                self.steps[value] = (start, end - start)
            return
        exact = dtype is not None and np.dtype(dtype).kind == "f"
        values: list[Any] = list(known.values)
        if exact:  # as the model sees them: 0.1 as float32 is not 0.1 as float64
            values = np.array(values, dtype).astype(float).tolist()
        for i, value in enumerate(values):
            if i:
                self._between(values[i - 1], value, high[i - 1], low[i])
            after = _first(high[i]) if i + 1 < len(values) and low[i + 1] > high[i] else None
            self._jump(value, low[i], high[i], after or _bin(high[i]))

    def _between(self, left: float, right: float, start: float, end: float) -> None:
        for number in range(_first(start), _bin(end)):
            part = (number / BINS - start) / (end - start)
            cut = left + (right - left) * part
            self._cut(cut, (_middle(number), 0.0), number + 1)

    def _jump(self, value: float, start: float, end: float, after: int) -> None:
        inside = (start, end - start)
        least, most = _first(start), _bin(end)
        if end <= start or least >= most:  # all of it in one bin
            inside, least, most = (_middle(most), 0.0), most, most
        if not self.bins[-1] == least == most == after:
            self._cut(value, inside, after)

    def _cut(self, value: float, inside: tuple[float, float], after: int) -> None:
        if self.cuts and value <= self.cuts[-1]:  # two that the dtype cannot tell apart
            self.bins[-1] = after
            return
        self.cuts.append(value)
        self.steps[value] = inside
        self.bins.append(after)

    def rank(self, value: Any, draw: float) -> int:
        """The bin of one value; 0 for a value that the baseline has never seen."""
        step = self.steps.get(value)
        if step is None:
            return 0 if self.discrete else self.bins[bisect_left(self.cuts, value)]
        return _bin(step[0] + step[1] * draw)

    def rank_missing(self, draw: float) -> int:
        """The bin of a missing value; 0 if the baseline has none."""
        return 0 if self.novel_missing else _bin(self.missing[0] + self.missing[1] * draw)


def _shift(seed: str) -> float:
    """A number in [0, 1) from any text; the multiplication spreads what is alike (Knuth's hash)."""
    mixed = crc32(seed.encode()) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    return ((mixed ^ mixed >> 29) * 0xBF58476D1CE4E5B9 >> 11 & 0x1FFFFFFFFFFFFF) / 2**53


def _bin(share: float) -> int:
    """The bin whose upper edge is the next from `share`."""
    return min(BINS, max(1, int(share * BINS - _EDGE) + 1))


def _first(share: float) -> int:
    """The bin of what is just over `share`."""
    return min(BINS, int(share * BINS + _EDGE) + 1)


def _middle(number: int) -> float:
    return (number - 0.5) / BINS


class _Numbers:
    """Scales of one matrix, ranked together: [features, rows] -> bins of the same shape."""

    def __init__(self, scales: Sequence[Scale], shifts: Sequence[float]) -> None:
        self.edges: list[Array] = []
        self.shifts = np.array(shifts)[:, None]
        self.at = np.zeros((len(scales), 1), np.intp)
        shares: list[tuple[float, float]] = []
        for i, scale in enumerate(scales):
            cuts = np.array(scale.cuts, float)
            # a place is 2i between two cuts, 2i + 1 on one
            self.edges.append(np.stack([cuts, np.nextafter(cuts, np.inf)], 1).ravel())
            self.at[i] = len(shares)
            for j, number in enumerate(scale.bins):
                shares += [
                    (_middle(number), 0.0),
                    *(scale.steps[cut] for cut in scale.cuts[j : j + 1]),
                ]
        self.start, self.jump = np.array(shares).T

    def __call__(self, values: Array, draws: Array) -> Array:
        places = np.empty(values.shape, np.intp)
        for i, edges in enumerate(self.edges):
            places[i] = edges.searchsorted(values[i], "right")
        places += self.at
        share = self.start[places]
        share += self.jump[places] * _wrapped(draws + self.shifts)
        share *= BINS
        share += 1 - _EDGE
        found: Array = np.maximum(share.astype(int), 1)  # a share is at most 1, so BINS is too
        return found


class _Column(NamedTuple):
    """Where a target's values are. `filled`: a null is no longer one in the matrix."""

    metric: str
    name: str
    scale: Scale
    row: int
    length: bool
    filled: bool
    shift: float


class _Answer(NamedTuple):
    """Where an output's values are; of probabilities, those of one class."""

    metric: str
    scale: Scale
    output: int
    at_class: int | None
    shift: float
    numbers: _Numbers | None

    def values(self, outputs: Sequence[Array]) -> Array:
        """[rows]."""
        array = outputs[self.output]
        flat: Array = (array if self.at_class is None else array[:, self.at_class]).ravel()
        return flat


class Ranker:
    """Everything that is watched of one model."""

    def __init__(self, manifest: Manifest) -> None:
        found = list(drift.targets(manifest))
        known = {target.name: target for target in found if not target.output}
        shifts = iter([i * GOLDEN % 1.0 for i in range(len(found))])
        self._groups: list[list[_Column]] = [
            [
                _column(feature, known[feature.name], row, dtype, next(shifts))
                for row, feature in enumerate(features)
                if feature.name in known
            ]
            for dtype, features in matrix_order(manifest)
        ]
        self._outputs = _outputs(manifest, [target for target in found if target.output], shifts)
        self._vectors = [_together([c for c in g if not c.scale.discrete]) for g in self._groups]
        self.metrics = [target.metric for target in found]
        self._sample = min(ROWS, VALUES // max(len(found), 1))

    def rank(
        self, seed: str, rows: Sequence[Row], inputs: Sequence[Array], outputs: Sequence[Array]
    ) -> Ranks:
        """Ranks of a scored request. `inputs`: its matrices [features, rows], by dtype;
        `outputs`: the model's, [rows, …], in the manifest's order.
        """
        count = len(rows)
        start = _shift(seed)
        if count == 1:
            return self._one(start, rows[0], inputs, outputs)
        if count <= FEW and count <= self._sample:
            return self._one_by_one(start, rows, inputs, outputs)
        taken: Any = slice(None)
        if count > self._sample:
            step = count / self._sample
            # one row of each stretch, at a place that changes: rows may repeat with any period
            taken = [int((i + (start + i * PLASTIC) % 1.0) * step) for i in range(self._sample)]
            rows = [rows[i] for i in taken]
            inputs = [matrix[:, taken] for matrix in inputs]
        sampled = self._together(start, rows, inputs, [array[taken] for array in outputs])
        return sampled._replace(novel=round(sampled.novel * count / len(rows)))

    def _one(
        self, draw: float, row: Row, inputs: Sequence[Array], outputs: Sequence[Array]
    ) -> Ranks:
        """The same as `_one_by_one`, for one row in a third of its time."""
        bins: dict[str, int] = {}
        missing: dict[str, int] = {}
        novel = 0
        for group, matrix in zip(self._groups, inputs, strict=False):
            values: list[Any] = matrix.ravel().tolist()
            for metric, name, scale, at, length, filled, shift in group:
                value = values[at]
                if value != value or (filled and row[name] is None):
                    missing[name] = 1
                    bins[metric] = scale.rank_missing((draw + shift) % 1.0) or BINS
                    novel = novel or scale.novel_missing
                    continue
                if length:
                    value = len(value)
                step = scale.steps.get(value)
                if step is not None:
                    bins[metric] = _bin(step[0] + step[1] * ((draw + shift) % 1.0))
                elif scale.discrete:
                    bins[metric], novel = BINS, 1
                else:
                    bins[metric] = scale.bins[bisect_left(scale.cuts, value)]
        for metric, scale, index, at_class, shift, _ in self._outputs:
            array = outputs[index]
            value = array.item() if at_class is None else array[0, at_class].item()
            bins[metric] = scale.rank(value, (draw + shift) % 1.0) or BINS
        return Ranks(bins, 1, missing, int(novel))

    def _one_by_one(
        self, draw: float, rows: Sequence[Row], inputs: Sequence[Array], outputs: Sequence[Array]
    ) -> Ranks:
        bins: dict[str, list[int]] = {}
        missing: dict[str, int] = {}
        strange: set[int] = set()
        draws = [draw + i * PLASTIC for i in range(len(rows))]
        for group, matrix in zip(self._groups, inputs, strict=False):
            if not group:
                continue
            lists: list[list[Any]] = matrix.tolist()
            for metric, name, scale, row, length, filled, shift in group:
                found = bins[metric] = []
                for i, value in enumerate(lists[row]):
                    at = (draws[i] + shift) % 1.0
                    if value != value or (filled and rows[i][name] is None):
                        number = scale.rank_missing(at)
                        missing[name] = missing.get(name, 0) + 1
                    else:
                        number = scale.rank(len(value) if length else value, at)
                    if not number:
                        strange.add(i)
                    found.append(number or BINS)
        for column in self._outputs:
            shift, scale = column.shift, column.scale
            bins[column.metric] = [
                scale.rank(value, (draw + shift) % 1.0) or BINS
                for value, draw in zip(column.values(outputs).tolist(), draws, strict=True)
            ]
        return Ranks(bins, len(rows), missing, len(strange))

    def _together(
        self, draw: float, rows: Sequence[Row], inputs: Sequence[Array], outputs: Sequence[Array]
    ) -> Ranks:
        bins: dict[str, list[int]] = {}
        missing: dict[str, int] = {}
        count = len(rows)
        strange: set[int] = set()
        draws = (np.arange(count) * PLASTIC + draw) % 1.0
        for group, numbers, matrix in zip(self._groups, self._vectors, inputs, strict=False):
            if not group:
                continue
            numeric = [column for column in group if not column.scale.discrete]
            ranked = {}
            if numbers:
                part = _values(matrix, numeric)
                found = numbers(part, draws).tolist()
                ranked = dict(zip((column.metric for column in numeric), found, strict=True))
            holes: dict[int, list[int]] = {}
            if matrix.dtype.kind == "f":
                for at, i in zip(
                    *map(np.ndarray.tolist, np.nonzero(np.isnan(matrix))), strict=True
                ):
                    holes.setdefault(at, []).append(i)
            for column in group:
                scale = column.scale
                one = ranked.get(column.metric)
                if one is None:
                    one = _each(scale, matrix[column.row].tolist(), draws + column.shift)
                gone = holes.get(column.row)
                if column.filled:
                    gone = [i for i, row in enumerate(rows) if row[column.name] is None]
                if gone:
                    missing[column.name] = len(gone)
                    for i in gone:
                        one[i] = scale.rank_missing((float(draws[i]) + column.shift) % 1.0)
                if 0 in one:
                    strange.update(i for i, number in enumerate(one) if not number)
                    one = [number or BINS for number in one]
                bins[column.metric] = one
        for answer in self._outputs:
            values = answer.values(outputs)
            if answer.numbers:
                bins[answer.metric] = answer.numbers(values[None], draws)[0].tolist()
            else:
                found = _each(answer.scale, values.tolist(), draws + answer.shift)
                bins[answer.metric] = [number or BINS for number in found]
        return Ranks(bins, count, missing, len(strange))


def _wrapped(sums: Array) -> Array:
    """What is over 1 of sums below 2: faster than `%`."""
    sums -= sums >= 1
    return sums


def _each(scale: Scale, values: list[Any], draws: Array) -> list[int]:
    """The bins of categories; 0 where the baseline has none."""
    order = {value: i for i, value in enumerate(scale.steps, 1)}
    places = np.array([order.get(value, 0) for value in values])
    start, jump = np.array([(0.0, 0.0), *scale.steps.values()]).T
    share = (start[places] + jump[places] * _wrapped(draws)) * BINS + (1 - _EDGE)
    found: list[int] = (np.maximum(share.astype(int), 1) * (places > 0)).tolist()
    return found


def _together(columns: Sequence[_Column]) -> _Numbers | None:
    return _Numbers([c.scale for c in columns], [c.shift for c in columns]) if columns else None


def _column(feature: Feature, target: drift.Target, row: int, dtype: Any, shift: float) -> _Column:
    discrete = feature.type in ("category", "boolean")
    length = feature.type == "text"
    floating = np.dtype(dtype).kind == "f"
    scale = Scale(target.distribution, discrete, dtype)
    if discrete and floating:  # as the matrix will have them
        kind = np.dtype(dtype).type
        scale.steps = {float(kind(value)): step for value, step in scale.steps.items()}
    filled = feature.nullable and (feature.missing is not None or not floating)
    return _Column(target.metric, feature.name, scale, row, length, filled, shift)


def _outputs(
    manifest: Manifest, found: Sequence[drift.Target], shifts: Iterator[float]
) -> list[_Answer]:
    known = {target.name: target for target in found}
    answers: list[_Answer] = []
    for index, output in enumerate(manifest.outputs):
        parts: dict[str, int | None] = {output.name: None}
        if output.kind == "probabilities":
            parts = {f"{output.name}.{name}": i for i, name in enumerate(output.classes)}
        for name, at_class in parts.items():
            if name not in known or output.kind == "tensor":
                continue
            discrete, shift = output.kind == "label", next(shifts)
            scale = Scale(known[name].distribution, discrete, None if discrete else output.dtype)
            numbers = None if discrete else _Numbers([scale], [shift])
            answers.append(_Answer(known[name].metric, scale, index, at_class, shift, numbers))
    return answers


def _values(matrix: Array, columns: Sequence[_Column]) -> Array:
    """The columns' rows of a matrix as float64; of texts, their lengths."""
    if matrix.dtype.kind == "O":
        return np.array([[len(text) for text in matrix[c.row].tolist()] for c in columns], float)
    if len(columns) == len(matrix):
        return matrix.astype(float)
    return matrix[[column.row for column in columns]].astype(float)
