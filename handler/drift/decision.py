"""Decide over all inputs and outputs of a model together whether they drift.

Bin numbers 1 … BINS are equally likely while nothing drifts. With p the shares of n live values in
the k = BINS bins, and a baseline of m rows,

    D = k * sum((p - 1/k)^2) - (k - 1) * (1/n + 1/m)

is Pearson's chi-square distance less what chance contributes on average. A target (an input or an
output) has drifted if D is over a threshold (the drift is relevant) and if chance does not explain
it (the drift is significant). Two tests decide on significance: Pearson's, which sees any change,
and the slope of the bin numbers, which sees small shifts sooner (the first component of J. Neyman's
smooth test, 1937). The baseline is a sample too, so both have the variance of two samples.

The false alarm rate is the whole model's: FALSE_ALARMS_A_MONTH. Inputs and outputs have half of it
each. Within a half, S. Holm's procedure (1979, Scandinavian Journal of Statistics 6, 65-70) adjusts
the p-values for the number of targets, the two tests, and every look of a month. It holds for any
dependence: for correlated features, and for the windows of successive looks, which overlap. A look
has so small a share that an unlucky baseline alone, which would alarm at every look, is covered by
it: this happens to one model in LOOKS_A_MONTH / FALSE_ALARMS_A_MONTH.

The chi-square distribution underestimates Pearson's far tail for small counts: at n = 50 it gives
4e-9 where 9e-8 is exact. There a single crowded bin dominates, and Chernoff's bound for that is
added. docs/drift.md has the study that chose all this (benchmarks/drift_power.py).
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from handler.drift import BINS
from handler.manifest import Alarms

CENTRE, VARIANCE = (BINS + 1) / 2, (BINS * BINS - 1) / 12  # of uniform bin numbers
FALSE_ALARMS_A_MONTH = 1 / 2000  # of a model, all targets together
LOOKS_A_MONTH = 30 * 24  # hourly
MIN_UNSEEN_ROWS = 2  # rows with an unseen value that are always allowed
CLEAR_SLOPE = 10.8  # chi-square of 1 degree of freedom at 0.001: the mean has moved too


class TargetCounts(NamedTuple):
    """The window of one input or output.

    `counts`: values by bin. They include the `missing` values, and the `unseen` ones, of a kind
    that the baseline does not have. `baseline_rows` includes rows without a value; their share is
    `baseline_missing`. `ordered` is false for categories, binned by descending frequency.
    """

    name: str
    output: bool
    counts: Sequence[int]
    baseline_rows: int
    missing: int = 0
    unseen: int = 0
    baseline_missing: float = 0.0
    ordered: bool = True


class Drifted(NamedTuple):
    """A target that has drifted. `p_value`: adjusted for all targets and looks of a month."""

    name: str
    score: float
    p_value: float
    direction: str


class Decision(NamedTuple):
    """The drifted `inputs` and `outputs`, largest D first, and whether too many rows are `unseen`.

    `unseen_inputs`: those with unseen values, most first, if too many rows are.
    """

    inputs: tuple[Drifted, ...]
    outputs: tuple[Drifted, ...]
    unseen: bool
    unseen_inputs: tuple[str, ...]


def decide(
    targets: Iterable[TargetCounts],
    rows: int,
    unseen_rows: int,
    alarms: Alarms,
    looks: int = LOOKS_A_MONTH,
) -> Decision:
    """Return what has drifted in a window of `rows`, of them `unseen_rows` with an unseen input.

    A target with fewer than `drift_min_rows` values is ignored. `looks`: decisions of a month.
    """
    groups: dict[bool, list[TargetCounts]] = {False: [], True: []}
    unseen: list[TargetCounts] = []
    too_many = unseen_rows > max(rows * alarms.unseen_max_percent / 100, MIN_UNSEEN_ROWS)
    for target in targets:
        if sum(target.counts) >= max(alarms.drift_min_rows, 1):
            groups[target.output].append(target)
        if too_many and target.unseen and not target.output:
            unseen.append(target)
    unseen.sort(key=lambda target: (-target.unseen, target.name))
    inputs, outputs = (_drifted(group, alarms.drift_threshold, looks) for group in groups.values())
    return Decision(inputs, outputs, too_many, tuple(target.name for target in unseen))


def _drifted(group: list[TargetCounts], threshold: float, looks: int) -> tuple[Drifted, ...]:
    """Return the targets of a group that are significant by Holm's procedure, and relevant."""
    by_p_value = sorted(
        (min(p_values(target.counts, target.baseline_rows)), target.name, i)
        for i, target in enumerate(group)
    )
    drifted, adjusted = [], 0.0
    for rank, (p_value, name, i) in enumerate(by_p_value):
        tests = 2 * 2 * (len(group) - rank)  # two groups, two tests of each target
        adjusted = max(adjusted, min(1.0, p_value * tests * looks))
        if adjusted > FALSE_ALARMS_A_MONTH:
            break
        target = group[i]
        size = score(target.counts, target.baseline_rows)
        if size > threshold:
            drifted.append(Drifted(name, size, adjusted, direction(target)))
    return tuple(sorted(drifted, key=lambda target: (-target.score, target.name)))


def score(counts: Sequence[int], baseline_rows: int) -> float:
    """Return D; 0.0 without values."""
    if not any(counts):
        return 0.0
    return _distance(counts) - (BINS - 1) * _noise(counts, baseline_rows)


def p_values(counts: Sequence[int], baseline_rows: int) -> tuple[float, float]:
    """Return the p-values of Pearson's test and of the slope, for one look, not adjusted."""
    if not any(counts):
        return 1.0, 1.0
    distance, noise = _distance(counts), _noise(counts, baseline_rows)
    crowded = BINS * math.exp(-_crowded_exponent(distance, sum(counts), max(baseline_rows, 1)))
    slope = math.erfc(math.sqrt(_slope(counts) / noise / 2))
    return min(_chi2_9_tail(distance / noise) + crowded, 1.0), slope


def direction(target: TargetCounts) -> str:
    """Return in words what explains most of a target's drift."""
    n = sum(target.counts)
    displaced = sum(max(count / n - 1 / BINS, 0) for count in target.counts)
    missing = target.missing / n - target.baseline_missing
    if 2 * abs(missing) >= displaced:
        return "more missing" if missing > 0 else "fewer missing"
    if 2 * target.unseen / n >= displaced:
        return "unseen values"
    if _slope(target.counts) < CLEAR_SLOPE * _noise(target.counts, target.baseline_rows):
        return "other shape" if target.ordered else "other shares"
    up = _mean_bin(target.counts) > CENTRE
    if target.ordered:
        return "higher" if up else "lower"
    return "more rare categories" if up else "fewer rare categories"


def _distance(counts: Sequence[int]) -> float:
    return BINS * sum(count * count for count in counts) / sum(counts) ** 2 - 1


def _mean_bin(counts: Sequence[int]) -> float:
    return sum(i * count for i, count in enumerate(counts, 1)) / sum(counts)


def _slope(counts: Sequence[int]) -> float:
    return (_mean_bin(counts) - CENTRE) ** 2 / VARIANCE


def _noise(counts: Sequence[int], baseline_rows: int) -> float:
    return 1 / sum(counts) + 1 / max(baseline_rows, 1)


def _chi2_9_tail(x: float) -> float:
    """Return the chance that chi-square of 9 degrees of freedom exceeds x."""
    x = max(x, 0.0)
    series = 1 + x / 3 + x * x / 15 + x**3 / 105
    return math.erfc(math.sqrt(x / 2)) + math.exp(-x / 2) * math.sqrt(2 * x / math.pi) * series


def _crowded_exponent(distance: float, n: int, m: int) -> float:
    """Return Chernoff's exponent of one bin so crowded that it alone has this distance.

    That is the relative entropy of n live and m baseline values from both together.
    """
    due = 1 / BINS
    share = min((1 + math.sqrt((BINS - 1) * max(distance, 0))) / BINS, 1 - 1e-12)
    pooled = (n * share + m * due) / (n + m)
    return n * _relative_entropy(share, pooled) + m * _relative_entropy(due, pooled)


def _relative_entropy(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
