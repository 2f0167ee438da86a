"""Bin live values by the quantiles of the packed baseline, as a number 1 … BINS.

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
904-914): uniform for each value, the same whenever the same request is binned again.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from handler import feature_types
from handler.drift import BINS
from handler.drift.summaries import SUMMARIES, summarise
from handler.drift.targets import targets
from handler.manifest import BY_CLASS, Distribution, Manifest
from handler.model_inputs import Array, Columns

MAX_BINNED_ROWS = 100
ALWAYS_BINNED_ROWS = 32  # of more rows a tenth is binned, because of the time that it takes
MAX_BINNED_VALUES = 15_000  # of all targets together, so that the record stays short
GOLDEN = 0.6180339887498949  # 1/phi: its multiples are spread evenly in (0, 1)
PLASTIC = 0.7548776662466927
UNKNOWN_BIN = 0  # in place of a bin: a value of a kind that the baseline does not have
_EDGE = 1e-6 * BINS  # the baseline is rounded to six digits
_ROUND = 1 - _EDGE


class Bins(NamedTuple):
    """The bins of a request.

    `bins`: for each target the bin of each of `rows` sampled rows; of one row, the bin alone.
    `missing`, `unseen`: sampled rows without a value, and with one of a kind that the baseline does
    not have, by feature. `unseen_rows`: rows with any unseen value, estimated from the sample.
    """

    bins: list[Any]
    rows: int
    missing: dict[str, int]
    unseen: dict[str, int]
    unseen_rows: int


class BaselineCdf:
    """F of one target, its shares counted in bins.

    `steps`: values at which F jumps, with where and how far; between two of the `cuts` it stays in
    one of the `bins`. Without cuts, as of categories, every other value is in UNKNOWN_BIN.
    """

    def __init__(self, baseline: Distribution, discrete: bool, dtype: Any = float) -> None:
        self.discrete = discrete
        self.cuts: list[float] = []
        self.bins = [UNKNOWN_BIN if discrete else 1]
        self.steps: dict[Any, tuple[float, float]] = {}
        share = 1 - baseline.missing_share
        low = [value * share for value in baseline.cdf_left]
        high = [value * share for value in baseline.cdf_right]
        values: list[Any] = list(baseline.values)
        if discrete:
            for value, start, end in zip(values, low, high, strict=True):
                self.steps[value] = (start, end - start)
        else:
            for i, value in enumerate(values):
                if i:
                    self._between(values[i - 1], value, high[i - 1], low[i])
                after = _first(high[i]) if i + 1 < len(values) and low[i + 1] > high[i] else None
                self._jump(value, low[i], high[i], after or _bin(high[i]))
            # the same values as the model's dtype has them: a client may send 0.1 as float32 has it
            rounded = np.array(self.cuts, dtype).astype(float).tolist()
            self.steps |= {r: self.steps[cut] for r, cut in zip(rounded, self.cuts, strict=True)}
        if baseline.missing_share:
            self.steps[None] = (share, baseline.missing_share)
        for value, (start, jump) in self.steps.items():
            self.steps[value] = (max(1.0, start * BINS + _ROUND), jump * BINS)
        self.steps.setdefault(None, (UNKNOWN_BIN, 0.0))

    def _between(self, left: float, right: float, start: float, end: float) -> None:
        for number in range(_first(start), _bin(end)):
            fraction = (number / BINS - start) / (end - start)
            self._cut(left + (right - left) * fraction, (_middle(number), 0.0), number + 1)

    def _jump(self, value: float, start: float, end: float, after: int) -> None:
        inside = (start, end - start)
        first, last = _first(start), _bin(end)
        if end <= start or first >= last:  # the jump is within one bin
            inside, first = (_middle(last), 0.0), last
        if not self.bins[-1] == first == last == after:
            self._cut(value, inside, after)

    def _cut(self, value: float, inside: tuple[float, float], after: int) -> None:
        self.cuts.append(value)
        self.bins.append(after)
        self.steps[value] = inside

    def bin(self, value: Any, draw: float) -> int:
        """Return the bin of a value, or UNKNOWN_BIN; `draw` counts modulo 1."""
        if (step := self.steps.get(value)) is None:
            return self.bins[bisect_left(self.cuts, value)]
        return int(step[0] + step[1] * (draw % 1.0))

    def edges(self) -> Iterator[tuple[float, int, float, float]]:
        """Yield value, bin before, start and jump of each step, of infinity and of NaN, upwards."""
        values = [value for value in self.steps if value is not None]
        for i, value in enumerate(values if self.discrete else sorted(values)):
            edge = i if self.discrete else value
            yield edge, self.bins[bisect_left(self.cuts, edge)], *self.steps[value]
        yield np.inf, self.bins[-1], 0.0, 0.0
        yield np.nan, UNKNOWN_BIN, *self.steps[None]


def _shift(seed: str) -> float:
    """Return a number in [0, 1) from any text, by Knuth's multiplicative hash of its checksum."""
    mixed = crc32(seed.encode()) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    return ((mixed ^ mixed >> 29) * 0xBF58476D1CE4E5B9 >> 11 & 0x1FFFFFFFFFFFFF) / 2**53


def _bin(share: float) -> int:
    """Return the bin that ends at `share` or is the first to end above it."""
    return int(share * BINS + _ROUND) or 1


def _first(share: float) -> int:
    """Return the bin of the values just above `share`."""
    return min(BINS, int(share * BINS + _EDGE) + 1)


def _middle(number: int) -> float:
    return (number - 0.5) / BINS


class _Source(NamedTuple):
    """The source of a target's values: a column, or an output, by `position`.

    `numbers`: of its categories. `length`: of its text. `summary`: of its raw tensor.
    `class_index`: of numbers by class.
    """

    name: str
    output: bool
    cdf: BaselineCdf
    shift: float
    position: int
    numbers: dict[Any, int] | None
    length: bool = False
    summary: str = ""
    class_index: int | None = None


class Binner:
    """The bins of all targets of one model.

    Many rows are binned by one table of all targets, in a third of the time. Each target has a row
    per edge, a value that has a step: the bin of the values between it and the edge before, and its
    step. Two rows more are for the values above all edges and for missing values.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._sources = list(_sources(manifest))
        self._inputs = [source.name for source in self._sources if not source.output]
        self._max_rows = min(MAX_BINNED_ROWS, MAX_BINNED_VALUES // max(len(self._sources), 1)) or 1
        tables = [list(source.cdf.edges()) for source in self._sources]
        self._edges = [np.array([edge for edge, *_ in table]) for table in tables]
        self._offsets = np.cumsum([0, *map(len, tables)])[:-1, None]
        flat = [row for table in tables for row in table]
        self._edge, self._before, self._start, self._jump = np.array(flat).reshape(-1, 4).T
        self._shifts = np.array([source.shift for source in self._sources])[:, None]

    def bin(self, seed: str, columns: Columns, outputs: Sequence[Array]) -> Bins:
        """Return the bins of a scored request.

        `columns`: the validated values, None where missing. `outputs`: the model's arrays [rows, …]
        in the manifest's order; empty if a tensor is not available.
        """
        count, start = len(columns[0]), _shift(seed)
        if count == 1:
            return self._bin_one(start, columns, outputs)
        rows = min(count, self._max_rows, max(ALWAYS_BINNED_ROWS, count // 10))
        taken: Sequence[int] | None = None
        if rows < count:
            step = count / rows
            # one row of each stretch, at a place that changes: rows may repeat with any period
            taken = [int((i + (start + i * PLASTIC) % 1.0) * step) for i in range(rows)]
        draws = np.array([(start + i * PLASTIC) % 1.0 for i in range(rows)])
        by_target = [_values(source, columns, outputs, taken) for source in self._sources]
        values = np.array([target or [None] * rows for target in by_target], float)
        numbers = self._assign_bins(values.reshape(-1, rows), draws)
        unseen = numbers == UNKNOWN_BIN
        numbers[unseen] = BINS
        bins = [
            row if target else [] for row, target in zip(numbers.tolist(), by_target, strict=True)
        ]
        unseen_rows = unseen[: len(self._inputs)].any(axis=0).sum()
        estimate = round(int(unseen_rows) * count / rows)
        return Bins(bins, rows, self._counts(np.isnan(values)), self._counts(unseen), estimate)

    def _assign_bins(self, values: Array, draws: Array) -> Array:
        """Return the bins of values [targets, rows], NaN where missing."""
        rows = np.empty(values.shape, int)
        for k, edges in enumerate(self._edges):
            rows[k] = edges.searchsorted(values[k])
        rows += self._offsets
        has_step = (self._edge[rows] == values) | np.isnan(values)
        stepped = self._start[rows] + self._jump[rows] * ((draws + self._shifts) % 1.0)
        numbers: Array = np.where(has_step, stepped, self._before[rows]).astype(int)
        return numbers

    def _counts(self, flags: Array) -> dict[str, int]:
        """Return how many rows of each input have a flag, of [targets, rows]; only if any."""
        if not flags.any():
            return {}
        numbers = flags.sum(axis=1).tolist()
        return {name: n for name, n in zip(self._inputs, numbers, strict=False) if n}

    def _bin_one(self, draw: float, columns: Columns, outputs: Sequence[Array]) -> Bins:
        """Return the bins of one row, in a quarter of the time."""
        bins: list[Any] = []
        missing: dict[str, int] = {}
        unseen: dict[str, int] = {}
        for name, output, cdf, shift, position, _, length, summary, class_index in self._sources:
            value: Any
            if summary:
                value = summarise(summary, (outputs if output else columns)[position][0])
            elif output:
                array = outputs[position]
                value = array.item() if class_index is None else array[0, class_index].item()
            else:
                value = columns[position][0]
                if value is None:
                    missing[name] = 1
                elif length:
                    value = len(value)
            number = cdf.bin(value, draw + shift)
            if number == UNKNOWN_BIN:
                number = BINS
                if not output:
                    unseen[name] = 1
            bins.append(number)
        return Bins(bins, 1, missing, unseen, int(bool(unseen)))


def _values(
    source: _Source, columns: Columns, outputs: Sequence[Array], taken: Sequence[int] | None
) -> Any:
    """Return the values of the taken rows, or of all; empty if they are not available."""
    values: Any = (outputs if source.output else columns)[source.position]
    if not len(values):
        return []
    if source.summary:
        rows = range(len(values)) if taken is None else taken
        return [summarise(source.summary, values[i]) for i in rows]
    if isinstance(values, np.ndarray):
        flat = values.ravel() if source.class_index is None else values[:, source.class_index]
        values = (flat if taken is None else flat[taken]).tolist()
    elif taken is not None:
        values = itemgetter(*taken)(values)
    if source.length:
        return [None if value is None else len(value) for value in values]
    return values if source.numbers is None else [source.numbers.get(v, -1) for v in values]


def _sources(manifest: Manifest) -> Iterator[_Source]:
    """Yield the source of each target, in the order of the targets."""
    types = feature_types.of(manifest)
    features = {kind.feature.name: i for i, kind in enumerate(types)}
    tensors = {
        f"{tensor.name}.{summary}": (i, summary)
        for i, tensor in enumerate(manifest.inputs)
        for summary in SUMMARIES
    }
    tensors |= {f"{k.feature.name}.{s}": (i, s) for i, k in enumerate(types) for s in k.summaries}
    results: dict[str, tuple[int, str, int | None]] = {}
    for i, output in enumerate(manifest.outputs):
        if output.kind in BY_CLASS:
            results |= {f"{output.name}.{c}": (i, "", k) for k, c in enumerate(output.classes)}
        elif output.kind == "tensor":
            results |= {f"{output.name}.{summary}": (i, summary, None) for summary in SUMMARIES}
        else:
            results[output.name] = (i, "", None)
    for number, target in enumerate(targets(manifest)):
        name, shift = target.name, number * GOLDEN % 1.0
        dtype, length, summary, class_index = "float64", False, "", None
        if target.output:
            index, summary, class_index = results[name]
            dtype = manifest.outputs[index].dtype
        elif name in features:
            index = features[name]
            dtype, length = types[index].dtype, types[index].binned_by_length
        else:
            index, summary = tensors[name]
        if summary or not dtype.startswith("float"):
            dtype = "float64"
        cdf = BaselineCdf(target.distribution, not target.ordered, dtype)
        numbers: Any = None
        if cdf.discrete:
            numbers = {value: i for i, value in enumerate(target.distribution.values)}
            numbers[None] = None
        yield _Source(name, target.output, cdf, shift, index, numbers, length, summary, class_index)
