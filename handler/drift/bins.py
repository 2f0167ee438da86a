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
from operator import itemgetter
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from handler.drift import statistic
from handler.drift.statistic import BINS
from handler.manifest import BY_CLASS, Distribution, Manifest
from handler.model_inputs import Array, Columns

MAX_BINNED_ROWS = 100  # CloudWatch takes no more values of a metric from one record
ALWAYS_BINNED_ROWS = (
    32  # rows that are all ranked; of more, a tenth, up to ROWS, or ranks would cost too much
)
MAX_BINNED_VALUES = 15_000  # of all metrics together, so that the record stays short
GOLDEN = 0.6180339887498949  # 1/phi: its multiples are spread evenly in (0, 1)
PLASTIC = 0.7548776662466927
UNKNOWN_BIN = 0  # instead of a bin: a value of a kind that the baseline has never seen
_EDGE = 1e-6 * BINS  # the baseline is rounded to six digits
_ROUND = 1 - _EDGE


class Bins(NamedTuple):
    """`bins`: for each metric the bin numbers, one a row, of `rows` sampled rows; of one row the
    number itself.

    `missing`: sampled rows without a value, by feature. `novel`: how many of all rows have a value
    of a kind that the baseline has never seen; an estimate where not all were sampled.
    """

    bins: dict[str, Any]
    rows: int
    missing: dict[str, int]
    novel: int


class BaselineCdf:
    """F of one target, its shares counted in bins.

    `steps`: values at which F jumps, with where and how far; between two of the `cuts` it stays in
    one of the `bins`. Without cuts, as of categories, every other value is novel.
    """

    def __init__(self, known: Distribution, discrete: bool, dtype: Any = float) -> None:
        self.cuts: list[float] = []
        self.bins = [UNKNOWN_BIN if discrete else 1]
        share = 1 - known.missing_share
        low, high = (
            [part * share for part in known.cdf_left],
            [part * share for part in known.cdf_right],
        )
        steps: dict[Any, tuple[float, float]] = {}
        if discrete:
            steps = {
                value: (start, end - start)
                for value, start, end in zip(known.values, low, high, strict=True)
            }
        else:
            values: list[Any] = list(known.values)
            for i, value in enumerate(values):
                if i:
                    self._between(steps, values[i - 1], value, high[i - 1], low[i])
                after = _first(high[i]) if i + 1 < len(values) and low[i + 1] > high[i] else None
                self._jump(steps, value, low[i], high[i], after or _bin(high[i]))
            # the same values as the model's dtype has them: a client may send 0.1 as float32 has it
            rounded = np.array(self.cuts, dtype).astype(float).tolist()
            steps |= {r: steps[cut] for r, cut in zip(rounded, self.cuts, strict=True)}
        if known.missing_share:
            steps[None] = (share, known.missing_share)
        self.steps = {
            value: (max(1.0, start * BINS + _ROUND), jump * BINS)
            for value, (start, jump) in steps.items()
        }
        self.steps.setdefault(None, (UNKNOWN_BIN, 0.0))

    def _between(
        self, steps: dict[Any, Any], left: float, right: float, start: float, end: float
    ) -> None:
        for number in range(_first(start), _bin(end)):
            part = (number / BINS - start) / (end - start)
            self._cut(steps, left + (right - left) * part, (_middle(number), 0.0), number + 1)

    def _jump(
        self, steps: dict[Any, Any], value: float, start: float, end: float, after: int
    ) -> None:
        inside = (start, end - start)
        least, most = _first(start), _bin(end)
        if end <= start or least >= most:  # all of it in one bin
            inside, least = (_middle(most), 0.0), most
        if not self.bins[-1] == least == most == after:
            self._cut(steps, value, inside, after)

    def _cut(
        self, steps: dict[Any, Any], value: float, inside: tuple[float, float], after: int
    ) -> None:
        self.cuts.append(value)
        self.bins.append(after)
        steps[value] = inside

    def ranks(self, values: Sequence[Any], draws: Sequence[float], shift: float = 0) -> list[int]:
        """The bin of each value, or NOVEL; a draw in [0, 1) for each, all moved on by `shift`."""
        find, cuts, bins = self.steps.get, self.cuts, self.bins
        return [
            bins[bisect_left(cuts, value)]
            if (step := find(value)) is None
            else int(step[0] + step[1] * ((draw + shift) % 1.0))
            for value, draw in zip(values, draws, strict=True)
        ]


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


class _Target(NamedTuple):
    """What is ranked as `metric`. `place`: among the columns, where it is a `feature`, or else
    among the outputs; `length`: of its text; `at`: of which class, where it is probabilities.
    """

    metric: str
    scale: BaselineCdf
    shift: float
    place: int
    feature: str = ""
    length: bool = False
    at: int | None = None


class Binner:
    """Everything that is watched of one model."""

    def __init__(self, manifest: Manifest) -> None:
        self._targets = list(_targets(manifest))
        self.metrics = [target.metric for target in self._targets]
        self._most = min(MAX_BINNED_ROWS, MAX_BINNED_VALUES // max(len(self._targets), 1))

    def rank(self, seed: str, columns: Columns, outputs: Sequence[Array]) -> Bins:
        """Ranks of a scored request. `columns`: the validated values, None where missing;
        `outputs`: the model's, [rows, …], in the manifest's order.
        """
        count, start = len(outputs[0]), _shift(seed)
        if count == 1:
            return self._one(start, columns, outputs)
        rows = min(count, self._most, max(ALWAYS_BINNED_ROWS, count // 10))
        taken: list[int] | None = None
        if rows < count:
            step = count / rows
            # one row of each stretch, at a place that changes: rows may repeat with any period
            taken = [int((i + (start + i * PLASTIC) % 1.0) * step) for i in range(rows)]
        draws = [(start + i * PLASTIC) % 1.0 for i in range(rows)]
        bins: dict[str, Any] = {}
        missing: dict[str, int] = {}
        novel: set[int] = set()
        for metric, scale, shift, place, feature, length, at in self._targets:
            values: Any = columns[place] if feature else outputs[place]
            if isinstance(values, np.ndarray):
                flat = values.ravel() if at is None else values[:, at]
                values = (flat if taken is None else flat[taken]).tolist()
            elif taken is not None:
                values = itemgetter(*taken)(values)
            if length:
                values = [None if value is None else len(value) for value in values]
            found = scale.ranks(values, draws, shift)
            if UNKNOWN_BIN in found:
                if feature:
                    novel.update(i for i, number in enumerate(found) if number == UNKNOWN_BIN)
                found = [number or BINS for number in found]
            if feature and None in values:
                missing[feature] = values.count(None)
            bins[metric] = found
        return Bins(bins, rows, missing, round(len(novel) * count / rows))

    def _one(self, draw: float, columns: Columns, outputs: Sequence[Array]) -> Bins:
        """The same of one row, in a quarter of the time."""
        bins: dict[str, int] = {}
        missing: dict[str, int] = {}
        novel = 0
        for metric, scale, shift, place, feature, length, at in self._targets:
            if feature:
                value = columns[place][0]
                if value is None:
                    missing[feature] = 1
                elif length:
                    value = len(value)
            else:
                array = outputs[place]
                value = array.item() if at is None else array[0, at].item()
            step = scale.steps.get(value)
            if step is None:
                number = scale.bins[bisect_left(scale.cuts, value)]
            else:
                number = int(step[0] + step[1] * ((draw + shift) % 1.0))
            if number == UNKNOWN_BIN:
                number, novel = BINS, 1 if feature else novel
            bins[metric] = number
        return Bins(bins, 1, missing, novel)


def _targets(manifest: Manifest) -> Iterator[_Target]:
    found = list(statistic.targets(manifest))
    shifts = {target.metric: i * GOLDEN % 1.0 for i, target in enumerate(found)}
    known = {(target.name, target.output): target for target in found}
    dtypes = {tensor.name: tensor.dtype for tensor in manifest.inputs}

    def scaled(
        name: str, output: bool, discrete: bool, dtype: str
    ) -> tuple[str, BaselineCdf, float]:
        metric, distribution = known[name, output].metric, known[name, output].distribution
        floating = dtype if dtype.startswith("float") else "float64"
        return metric, BaselineCdf(distribution, discrete, floating), shifts[metric]

    for place, feature in enumerate(manifest.features):
        if (feature.name, False) in known:
            discrete, text = feature.type in ("category", "boolean"), feature.type == "text"
            target = scaled(feature.name, False, discrete, dtypes[feature.input])
            yield _Target(*target, place, feature.name, text)
    for place, output in enumerate(manifest.outputs):
        parts: dict[str, int | None] = {output.name: None}
        if output.kind in BY_CLASS:
            parts = {f"{output.name}.{name}": i for i, name in enumerate(output.classes)}
        for name, at in parts.items():
            if (name, True) in known and output.kind != "tensor":
                target = scaled(name, True, output.kind == "label", output.dtype)
                yield _Target(*target, place, at=at)
