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

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from handler import drift
from handler.drift import BINS
from handler.manifest import Distribution, Feature, Manifest
from handler.tensors import Array, Columns

ROWS = 100  # CloudWatch takes no more values of a metric from one record
FULLY = 50  # rows that are all ranked; of more, a tenth, up to ROWS, or ranks would cost too much
VALUES = 15_000  # of all metrics together, so that the record stays short
FEW = 16  # rows up to which plain Python is faster than numpy
GOLDEN = 0.6180339887498949  # 1/phi: its multiples are spread evenly in (0, 1)
PLASTIC = 0.7548776662466927
_EDGE = 1e-6 * BINS  # the baseline is rounded to six digits
_ROUND = 1 - _EDGE


Lists = Sequence[Sequence[Any]]


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
    """F of one target. `steps`: values at which it jumps, with where and how far; between two of
    the `cuts` it stays in one of the `bins`.
    """

    def __init__(self, known: Distribution, discrete: bool, dtype: Any = float) -> None:
        self.discrete = discrete
        share = 1 - known.missing
        low, high = [part * share for part in known.below], [part * share for part in known.upto]
        self.steps: dict[Any, tuple[float, float]] = {}
        self.cuts: list[float] = []
        self.bins = [1]
        self.missing = (share, known.missing)
        self.novel_missing = known.missing == 0
        if discrete:
            self.steps = {
                value: (start, end - start)
                for value, start, end in zip(known.values, low, high, strict=True)
            }
            # the same for many values at once; place 0 is that of what is new
            self.order: dict[Any, int] = {value: i for i, value in enumerate(self.steps, 1)}
            if not self.novel_missing:
                self.order[None] = len(self.order) + 1
            self.shares = np.array([(0.0, 0.0), *self.steps.values(), self.missing]).T
            return
        values: list[Any] = list(known.values)
        for i, value in enumerate(values):
            if i:
                self._between(values[i - 1], value, high[i - 1], low[i])
            after = _first(high[i]) if i + 1 < len(values) and low[i + 1] > high[i] else None
            self._jump(value, low[i], high[i], after or _bin(high[i]))
        # the same values as the model's dtype has them: a client may send 0.1 as float32 has it
        exact = np.dtype(dtype) if np.dtype(dtype).kind == "f" else np.dtype(float)
        self.rounded: list[float] = np.array(self.cuts, exact).astype(float).tolist()
        self.steps |= {r: self.steps[cut] for r, cut in zip(self.rounded, self.cuts, strict=True)}

    def _between(self, left: float, right: float, start: float, end: float) -> None:
        for number in range(_first(start), _bin(end)):
            part = (number / BINS - start) / (end - start)
            self._cut(left + (right - left) * part, (_middle(number), 0.0), number + 1)

    def _jump(self, value: float, start: float, end: float, after: int) -> None:
        inside = (start, end - start)
        least, most = _first(start), _bin(end)
        if end <= start or least >= most:  # all of it in one bin
            inside, least = (_middle(most), 0.0), most
        if not self.bins[-1] == least == most == after:
            self._cut(value, inside, after)

    def _cut(self, value: float, inside: tuple[float, float], after: int) -> None:
        self.cuts.append(value)
        self.steps[value] = inside
        self.bins.append(after)

    def rank(self, value: Any, draw: float) -> int:
        """The bin of one value; 0 for a value of a kind that the baseline has never seen."""
        step = self.steps.get(value)
        if step is not None:
            return _bin(step[0] + step[1] * draw)
        if value is None:
            missing = self.missing
            return 0 if self.novel_missing else _bin(missing[0] + missing[1] * draw)
        return 0 if self.discrete else self.bins[bisect_left(self.cuts, value)]


def _shift(seed: str) -> float:
    """A number in [0, 1) from any text; the multiplication spreads what is alike (Knuth's hash)."""
    mixed = crc32(seed.encode()) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    return ((mixed ^ mixed >> 29) * 0xBF58476D1CE4E5B9 >> 11 & 0x1FFFFFFFFFFFFF) / 2**53


def _bin(share: float) -> int:
    """The bin whose upper edge is the next from `share`."""
    return int(share * BINS + _ROUND) or 1


def _first(share: float) -> int:
    """The bin of what is just over `share`."""
    return min(BINS, int(share * BINS + _EDGE) + 1)


def _middle(number: int) -> float:
    return (number - 0.5) / BINS


class _Numbers:
    """Scales that are ranked together: [targets, rows] -> bins of the same shape."""

    def __init__(self, scales: Sequence[Scale], shifts: Sequence[float]) -> None:
        self.edges: list[Array] = []
        self.shifts = np.array(shifts)[:, None]
        self.at = np.zeros((len(scales), 1), np.intp)
        shares: list[tuple[float, float]] = []
        for i, scale in enumerate(scales):
            ends = np.sort([scale.cuts, scale.rounded], axis=0)
            # a place is 2i between two cuts, 2i + 1 on one
            on = np.stack([ends[0], np.nextafter(ends[1], np.inf)], 1).ravel()
            self.edges.append(np.maximum.accumulate(on))
            self.at[i] = len(shares)
            for j, number in enumerate(scale.bins):
                cut = [scale.steps[cut] for cut in scale.cuts[j : j + 1]]
                shares += [(_middle(number), 0.0), *cut]
        self.start, self.jump = np.array(shares).T

    def __call__(self, values: Array, draws: Array) -> Array:
        places = np.empty(values.shape, np.intp)
        for i, edges in enumerate(self.edges):
            places[i] = edges.searchsorted(values[i], "right")
        places += self.at
        share = self.start.take(places, mode="clip")  # a NaN lies behind the last place
        share += self.jump.take(places, mode="clip") * _wrapped(draws + self.shifts)
        return _bins(share)


class _Column(NamedTuple):
    """A feature that is watched, and its place among the columns."""

    metric: str
    name: str
    scale: Scale
    place: int
    length: bool
    shift: float


class _Answer(NamedTuple):
    """Where an output's values are; of probabilities, those of one class."""

    metric: str
    scale: Scale
    output: int
    at_class: int | None
    shift: float

    def values(self, outputs: Sequence[Array]) -> Array:
        """[rows]."""
        array = outputs[self.output]
        flat: Array = (array if self.at_class is None else array[:, self.at_class]).ravel()
        return flat


class Ranker:
    """Everything that is watched of one model."""

    def __init__(self, manifest: Manifest) -> None:
        found = list(drift.targets(manifest))
        self.metrics = [target.metric for target in found]
        shifts = iter([i * GOLDEN % 1.0 for i in range(len(found))])
        known = {target.name: target for target in found if not target.output}
        dtypes = {tensor.name: tensor.dtype for tensor in manifest.inputs}
        self._columns = [
            _column(feature, known[feature.name], place, dtypes[feature.input], next(shifts))
            for place, feature in enumerate(manifest.features)
            if feature.name in known
        ]
        self._answers = _answers(manifest, [target for target in found if target.output], shifts)
        self._sample = min(ROWS, VALUES // max(len(found), 1))
        self._numeric: list[_Column] = [c for c in self._columns if not c.scale.discrete]
        self._numbers = _together(self._numeric)
        self._results = [_together([a]) if not a.scale.discrete else None for a in self._answers]

    def rank(self, seed: str, columns: Columns, outputs: Sequence[Array]) -> Ranks:
        """Ranks of a scored request. `columns`: the validated values, None where missing;
        `outputs`: the model's, [rows, …], in the manifest's order.
        """
        count = len(outputs[0])
        start = _shift(seed)
        if count == 1:
            return self._one(start, columns, outputs)
        taken: list[int] | None = None
        sample = min(self._sample, max(FULLY, count // 10))
        if count > sample:
            step = count / sample
            # one row of each stretch, at a place that changes: rows may repeat with any period
            taken = [int((i + (start + i * PLASTIC) % 1.0) * step) for i in range(sample)]
            columns = [_picked(column, taken) for column in columns]
        given = [c.tolist() if isinstance(c, np.ndarray) else c for c in columns]
        rows = len(taken or range(count))
        draws = (np.arange(rows) * PLASTIC + start) % 1.0
        if rows <= FEW:
            ranks = self._few(draws.tolist(), given, outputs)
        else:
            ranks = self._many(draws, given, outputs, taken)
        return ranks._replace(novel=round(ranks.novel * count / rows))

    def _one(self, draw: float, columns: Columns, outputs: Sequence[Array]) -> Ranks:
        """The same as `_few`, for one row in half of its time."""
        bins: dict[str, int] = {}
        missing: dict[str, int] = {}
        novel = 0
        for metric, name, scale, place, length, shift in self._columns:
            value = columns[place][0]
            if length and value is not None:
                value = len(value)
            step = scale.steps.get(value)
            if step is not None:
                share = step[0] + step[1] * ((draw + shift) % 1.0)
                bins[metric] = int(share * BINS + _ROUND) or 1
            elif value is None or scale.discrete:
                number = scale.rank(value, (draw + shift) % 1.0)
                bins[metric] = number or BINS
                novel = 1 if not number else novel
                if value is None:
                    missing[name] = 1
            else:
                bins[metric] = scale.bins[bisect_left(scale.cuts, value)]
        for metric, scale, index, at_class, shift in self._answers:
            array = outputs[index]
            value = array.item() if at_class is None else array[0, at_class].item()
            bins[metric] = scale.rank(value, (draw + shift) % 1.0) or BINS
        return Ranks(bins, 1, missing, novel)

    def _few(self, draws: list[float], columns: Lists, outputs: Sequence[Array]) -> Ranks:
        found = {c.metric: _each(c, columns[c.place], draws) for c in self._columns}
        answers = {a.metric: _each(a, a.values(outputs).tolist(), draws) for a in self._answers}
        return self._ranks(found, columns, answers)

    def _many(
        self, draws: Array, columns: Lists, outputs: Sequence[Array], taken: list[int] | None
    ) -> Ranks:
        found: dict[str, list[int]] = {}
        if self._numbers:
            values = np.empty((len(self._numeric), len(draws)))
            for i, column in enumerate(self._numeric):
                values[i] = _floats(_measured(column, columns[column.place]))
            metrics = [column.metric for column in self._numeric]
            ranked: list[list[int]] = self._numbers(values, draws).tolist()
            found = dict(zip(metrics, ranked, strict=True))
        for column in self._columns:
            given = columns[column.place]
            if column.scale.discrete:
                found[column.metric] = _categories(column, given, draws)
            elif None in given:
                at, scale, one = draws.tolist(), column.scale, found[column.metric]
                for i, value in enumerate(given):
                    if value is None:
                        one[i] = scale.rank(None, (at[i] + column.shift) % 1.0)
        answers: dict[str, list[int]] = {}
        for answer, numbers in zip(self._answers, self._results, strict=True):
            results = answer.values(outputs)
            if taken is not None:
                results = results[taken]
            if numbers:
                answers[answer.metric] = numbers(results[None].astype(float), draws)[0].tolist()
            else:
                answers[answer.metric] = _categories(answer, results.tolist(), draws)
        return self._ranks(found, columns, answers)

    def _ranks(
        self, found: dict[str, list[int]], columns: Lists, answers: dict[str, list[int]]
    ) -> Ranks:
        """What was found in order, with what it says besides. 0 stands for what is new."""
        bins: dict[str, list[int]] = {}
        missing: dict[str, int] = {}
        strange: set[int] = set()
        for metric, name, _, place, _, _ in self._columns:
            one = found[metric]
            if (gone := columns[place].count(None)) > 0:
                missing[name] = gone
            if 0 in one:
                strange.update(i for i, number in enumerate(one) if not number)
                one = [number or BINS for number in one]
            bins[metric] = one
        for metric, one in answers.items():
            bins[metric] = [number or BINS for number in one] if 0 in one else one
        return Ranks(bins, len(next(iter(bins.values()), ())), missing, len(strange))


def _picked(column: Sequence[Any] | Array, taken: list[int]) -> Sequence[Any] | Array:
    picked: Sequence[Any] | Array
    picked = column[taken] if isinstance(column, np.ndarray) else itemgetter(*taken)(column)
    return picked


def _column(
    feature: Feature, target: drift.Target, place: int, dtype: str, shift: float
) -> _Column:
    discrete = feature.type in ("category", "boolean")
    floating = dtype if dtype.startswith("float") else "float64"
    scale = Scale(target.distribution, discrete, floating)
    return _Column(target.metric, feature.name, scale, place, feature.type == "text", shift)


def _answers(
    manifest: Manifest, found: Sequence[drift.Target], shifts: Iterator[float]
) -> list[_Answer]:
    known = {target.name: target for target in found}
    answers: list[_Answer] = []
    for index, output in enumerate(manifest.outputs):
        parts: dict[str, int | None] = {output.name: None}
        if output.kind == "probabilities":
            parts = {f"{output.name}.{name}": i for i, name in enumerate(output.classes)}
        for name, at_class in parts.items():
            if name in known and output.kind != "tensor":
                discrete = output.kind == "label"
                floating = output.dtype if output.dtype.startswith("float") else "float64"
                scale = Scale(known[name].distribution, discrete, floating)
                answers.append(_Answer(known[name].metric, scale, index, at_class, next(shifts)))
    return answers


def _together(targets: Sequence[_Column | _Answer]) -> _Numbers | None:
    return _Numbers([t.scale for t in targets], [t.shift for t in targets]) if targets else None


def _measured(column: _Column, values: Sequence[Any]) -> Sequence[Any]:
    """The values; of texts, their lengths."""
    if not column.length:
        return values
    return [None if value is None else len(value) for value in values]


def _floats(values: Sequence[Any]) -> Array:
    """Faster than `np.array`, with NaN for None."""
    if None in values:
        values = [math.nan if value is None else value for value in values]
    return np.fromiter(values, float, len(values))


def _each(target: _Column | _Answer, values: Sequence[Any], draws: list[float]) -> list[int]:
    scale, shift = target.scale, target.shift
    if isinstance(target, _Column):
        values = _measured(target, values)
    return [
        scale.rank(value, (draw + shift) % 1.0) for value, draw in zip(values, draws, strict=True)
    ]


def _categories(target: _Column | _Answer, values: Sequence[Any], draws: Array) -> list[int]:
    """The bins of categories; 0 where the baseline has none."""
    order, (start, jump) = target.scale.order, target.scale.shares
    places = np.array([order.get(value, 0) for value in values])
    share = start[places] + jump[places] * _wrapped(draws + target.shift)
    found: list[int] = (_bins(share) * (places > 0)).tolist()
    return found


def _wrapped(sums: Array) -> Array:
    """What is over 1 of sums below 2: faster than `%`."""
    sums -= sums >= 1
    return sums


def _bins(shares: Array) -> Array:
    """`_bin` of each."""
    found: Array = np.maximum((shares * BINS + _ROUND).astype(int), 1)
    return found
