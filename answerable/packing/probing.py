"""Probe the packed graph outside the sample: which values and lengths does it take?

A bound is stated in the contract where the graph fails from some value on. Where it fails between
values that it takes, nothing can be stated, and the summary says so.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, NamedTuple

import numpy as np

from answerable.packing import execution, table
from answerable.packing.contract_file import Fields
from answerable.packing.errors import PackError
from answerable.packing.execution import Batch, Run, Samples
from answerable.packing.sample import Sample
from answerable.packing.table import Array
from handler.contract import feature_bounds
from handler.manifest import Feature, Tensor

FAR = 1e6  # times the sample's largest value, for floats
FAR_INTEGER = 10**9
INSIDE = 64  # an integer range of no more values is probed as a whole
TINY = 1e-12  # bounds nearer to 0 are not looked for
ROUNDS = 70  # of bisection
SECONDS = 15.0  # for all probes; slow models are probed as far as that goes
UNKNOWN_TEXTS = ("unknown value", "", "É 很 👍")

Answer = tuple[Array, ...] | None  # an instance's outputs, None where the graph fails
Probe = tuple[Any, Any]  # what is varied, and its value
Answers = Callable[[Sequence[Probe]], list[Answer]]


class Range(NamedTuple):
    """Values to probe: `low` to `high` are in the sample, `below` and `above` go outwards."""

    low: float
    high: float
    below: tuple[float, ...]
    above: tuple[float, ...]
    inside: tuple[float, ...] = ()
    whole: bool = False


class Found(NamedTuple):
    """The bounds that a graph has outside of the sample's range, and single failures."""

    minimum: float | None
    maximum: float | None
    failures: tuple[float, ...]


class Prober:
    """The packed graph, and the seconds that are left for it."""

    def __init__(self, run: Run, batch: Batch, seconds: float = SECONDS) -> None:
        self._run, self._batch = run, batch
        self._end = time.monotonic() + seconds
        self.complete = True

    def answers(self, feeds: Samples) -> list[Answer]:
        """Return the outputs of each instance. What there is no time for counts as answered."""
        count = execution.n_rows(feeds)
        if time.monotonic() > self._end:
            self.complete = False
            return [()] * count
        if count == 1 or self._batch == "dynamic":
            try:
                results = execution.run_sample(self._run, feeds, self._batch)
            except PackError:
                results = []
            if results and all(len(result) == count for result in results):
                return [_finite(tuple(result[i, ...] for result in results)) for i in range(count)]
            if count == 1:
                return [None]
        half = count // 2 if self._batch == "dynamic" else 1
        halves = (execution.slice_rows(feeds, 0, half), execution.slice_rows(feeds, half, count))
        return [answer for part in halves for answer in self.answers(part)]


def _finite(outputs: tuple[Array, ...]) -> Answer:
    finite = all(np.isfinite(array).all() for array in outputs if array.dtype.kind == "f")
    return outputs if finite else None


# --- search -----------------------------------------------------------------------------------


def find_bounds(answers: Answers, ranges: Mapping[Any, Range]) -> dict[Any, Found]:
    """Return for each range the bounds from which on the graph fails, found by bisection."""
    probes = [
        (key, value)
        for key, span in ranges.items()
        for value in (*span.inside, *span.below, *span.above)
    ]
    failed = {
        probe for probe, answer in zip(probes, answers(probes), strict=True) if answer is None
    }
    brackets = {}
    for key, span in ranges.items():
        for side, start, values in ((-1, span.low, span.below), (1, span.high, span.above)):
            good = [start, *(value for value in values if (key, value) not in failed)][-1]
            bad = [value for value in values if (value - good) * side > 0]
            if bad:
                brackets[key, side] = good, bad[0]
    bounds = _bisect(answers, brackets, {key for key, span in ranges.items() if span.whole})
    found = {}
    for key, span in ranges.items():
        low, high = bounds.get((key, -1)), bounds.get((key, 1))
        if span.whole and low is not None and high is not None:
            low = _without_negative_indices(answers, key, span, low, high)
        failures = [
            value
            for value in (*span.inside, *span.below, *span.above)
            if (key, value) in failed
            and (low is None or value >= low)
            and (high is None or value <= high)
        ]
        found[key] = Found(low, high, tuple(failures))
    return found


def _bisect(
    answers: Answers, brackets: dict[Any, tuple[float, float]], whole: set[Any]
) -> dict[Any, float]:
    """Return the outermost value of each bracket that the graph takes, rounded inwards."""
    open_brackets = dict(brackets)
    for _ in range(ROUNDS):
        middles = {}
        for (key, side), (good, bad) in open_brackets.items():
            if key in whole:
                if abs(bad - good) > 1:
                    middles[key, side] = (good + bad) // 2
            elif abs(bad - good) > max(TINY, 1e-4 * abs(good)):
                middles[key, side] = (good + bad) / 2
        if not middles:
            break
        results = answers([(key, value) for (key, _), value in middles.items()])
        for (bracket, value), answer in zip(middles.items(), results, strict=True):
            good, bad = open_brackets[bracket]
            open_brackets[bracket] = (value, bad) if answer is not None else (good, value)
    return {
        (key, side): good if key in whole or good == brackets[key, side][0] else _round(good, side)
        for (key, side), (good, _) in open_brackets.items()
    }


def _round(value: float, side: int) -> float:
    """Return a bound with three digits (one if it is tiny) that is not outside of `value`."""
    number = Decimal(value)
    digits = 2 if abs(value) > 1e-6 else 0
    step = Decimal(1).scaleb(number.adjusted() - digits)
    return float(number.quantize(step, ROUND_FLOOR if side > 0 else ROUND_CEILING))


def _without_negative_indices(
    answers: Answers, key: Any, span: Range, low: float, high: float
) -> float:
    """Return the lower bound of an integer: a lookup's negative indices count from its end.

    Gather takes -s to s - 1 for s rows, so the lower half has the answers of the upper.
    """
    size = (high - low + 1) / 2
    if span.low < low + size or size != int(size):
        return low
    lower, upper = (low, low + size - 1), (low + size, high)
    results = answers([(key, value) for value in (*lower, *upper)])
    if any(result is None for result in results):
        return low
    pairs = zip(results[:2], results[2:], strict=True)
    return low + size if all(_same(one, other) for one, other in pairs) else low


def _same(one: Answer, other: Answer) -> bool:
    return all(
        np.array_equal(left, right) for left, right in zip(one or (), other or (), strict=True)
    )


def outwards(low: float, high: float, whole: bool, limits: tuple[float, float]) -> Range:
    """Return what to probe outside of a sample's range, within what the contract takes."""
    scale = max(abs(low), abs(high), 1)
    least, most = limits
    if whole:
        below = [low - 1, 0, -1, low - 1000, -FAR_INTEGER, least]
        above = [high + 1, 0, high + 1000, FAR_INTEGER, most]
        least, most = max(least, -FAR_INTEGER), min(most, FAR_INTEGER)
    else:
        step = (high - low) / 10 or scale
        below = [low - step, 0, -1, -1000 * scale, -FAR * scale, least]
        above = [high + step, 0, 1000 * scale, FAR * scale, most]
        least, most = max(least, -FAR * scale), min(most, FAR * scale)
    inside = [value for value in (0, 1, -1) if low < value < high]
    if whole and high - low <= INSIDE:
        inside = list(range(int(low), int(high) + 1))
    return Range(
        low,
        high,
        tuple(sorted({max(v, least) for v in below if v < low and least < low}, reverse=True)),
        tuple(sorted({min(v, most) for v in above if v > high and most > high})),
        tuple(inside),
        whole,
    )


# --- tables -----------------------------------------------------------------------------------


def features(
    prober: Prober, sample: Sample, inputs: Sequence[Tensor], stated: dict[str, Fields]
) -> tuple[tuple[Feature, ...], list[str]]:
    """Return the features with the bounds that the graph needs, and what was found, in words.

    Raise PackError where the graph fails inside of what the contract file states.
    """
    dtypes = {tensor.name: tensor.dtype for tensor in inputs}
    typical = {feature.name: feature.example for feature in sample.features}

    def answers(probes: Sequence[Probe]) -> list[Answer]:
        if not probes:
            return []
        columns = {name: [value] * len(probes) for name, value in typical.items()}
        for i, (name, value) in enumerate(probes):
            columns[name][i] = value
        return prober.answers(table.feeds(sample.features, inputs, columns))

    ranges = {}
    for feature in sample.features:
        if feature.type in ("number", "integer"):
            present = [value for value in sample.columns[feature.name] if value is not None]
            limits = _limits(feature, dtypes[feature.input])
            ranges[feature.name] = outwards(
                min(present), max(present), feature.type == "integer", limits
            )
    found = find_bounds(answers, ranges)
    texts = _unknown_texts(answers, sample.features, dtypes)
    probed, notes = [], []
    for feature in sample.features:
        fields = stated.get(feature.name, {})
        if feature.name in found:
            feature, note = _bounded(feature, found[feature.name], fields)
        elif feature.name in texts:
            feature, note = _opened(feature, texts[feature.name], fields)
        else:
            note = ""
        probed.append(feature)
        notes += [f"{feature.name}: {note}"] * bool(note)
    return tuple(probed), notes


def _limits(feature: Feature, dtype: str) -> tuple[float, float]:
    """Return the least and greatest number that the contract takes."""
    low, high = feature_bounds(feature, dtype)
    return -math.inf if low is None else low, math.inf if high is None else high


def _bounded(feature: Feature, found: Found, stated: Fields) -> tuple[Feature, str]:
    """Return the feature with found bounds stated, and a note."""
    both = stated.get("out_of_range") == "accept"
    for side, bound in (("minimum", found.minimum), ("maximum", found.maximum)):
        if bound is not None and (both or side in stated):
            raise PackError(
                f"feature {feature.name}: the contract file accepts values "
                f"{'below' if side == 'minimum' else 'above'} {_text(bound)}, and the graph fails "
                f"for them; state {side} = {_text(bound)}"
            )
    note = _span(found)
    if found.failures:
        failures = ", ".join(map(_text, found.failures[:3]))
        note = "; ".join(
            filter(None, [note, f"fails at {failures}, which nothing can state: such rows get 422"])
        )
    if (found.minimum, found.maximum) == (None, None):
        return feature, note
    number = int if feature.type == "integer" else float
    keep_low, keep_high = ((side in stated) for side in ("minimum", "maximum"))
    low = feature.minimum if keep_low else found.minimum
    high = feature.maximum if keep_high else found.maximum
    return feature._replace(
        minimum=None if low is None else number(low),
        maximum=None if high is None else number(high),
        out_of_range="reject",
    ), note


def _span(found: Found) -> str:
    if found.minimum is not None and found.maximum is not None:
        return f"{_text(found.minimum)} to {_text(found.maximum)}"
    if found.minimum is not None:
        return f"at least {_text(found.minimum)}"
    return "" if found.maximum is None else f"at most {_text(found.maximum)}"


def _text(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.12g}"


def _unknown_texts(
    answers: Answers, features: Sequence[Feature], dtypes: dict[str, str]
) -> dict[str, bool]:
    """Return for each text and category whether the graph takes texts that it does not know."""
    probes = [
        (feature.name, text)
        for feature in features
        if dtypes[feature.input] == "string" and feature.type in ("category", "text")
        for text in UNKNOWN_TEXTS
        if text not in feature.categories
    ]
    taken: dict[str, bool] = {}
    for (name, _), answer in zip(probes, answers(probes), strict=True):
        taken[name] = taken.get(name, True) and answer is not None
    return taken


def _opened(feature: Feature, taken: bool, stated: Fields) -> tuple[Feature, str]:
    """Return the feature with the policy for unknown texts that the graph allows, and a note."""
    if not taken and stated.get("unknown_category") == "accept":
        raise PackError(
            f"feature {feature.name}: the contract file accepts unknown categories, and the graph "
            'fails for them; state unknown_category = "reject"'
        )
    if feature.type == "text":
        note = 'fails for texts that it does not know, which get 422; state type = "category"'
        return feature, "" if taken else note
    if not taken or stated.keys() & {"unknown_category", "categories"}:
        return feature, ""
    return feature._replace(unknown_category="accept"), "takes unknown categories, so they count"
