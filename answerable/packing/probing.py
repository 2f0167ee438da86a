"""Probe the packed graph outside of the sample for the values and lengths that it takes.

A bound is stated in the contract where the graph fails from some value on. Where it fails between
values that it takes, nothing can be stated, and the summary says so.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from answerable.packing import execution, table
from answerable.packing.contract_file import Fields
from answerable.packing.errors import PackError
from answerable.packing.execution import Batch, Samples
from answerable.packing.limits import MIN_FREE_LENGTH
from answerable.packing.sample import Sample
from answerable.packing.table import Array
from handler import feature_types
from handler.feature_types import FeatureType, number_bounds
from handler.manifest import Feature, Tensor

FAR = 1e6  # times the sample's largest value, for floats
FAR_INTEGER = 10**9
INSIDE = 64  # an integer range of no more values is probed as a whole
TINY = 1e-12  # bounds nearer to 0 are not looked for
ROUNDS = 70  # of bisection
SECONDS = 15.0  # for all probes; slow models are probed as far as that goes
RUN_SECONDS = 2.0  # for one run: a value can be the number of a loop's rounds
MEMORY = 10**9  # bytes for one run
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


class Bounds(NamedTuple):
    """The bounds that a graph has outside of the sample's range, and single failures."""

    minimum: float | None
    maximum: float | None
    failures: tuple[float, ...]


class Prober:
    """The packed graph, and the seconds that are left for it."""

    def __init__(self, session: Any, batch: Batch, seconds: float = SECONDS) -> None:
        self._run, self._batch = execution.runner(session, RUN_SECONDS), batch
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
                with _bounded_memory():
                    results = execution.run_sample(self._run, feeds, self._batch)
            except (PackError, MemoryError):
                results = []
            if results and all(len(result) == count for result in results):
                return [_finite(tuple(result[i, ...] for result in results)) for i in range(count)]
            if count == 1:
                return [None]
        half = count // 2 if self._batch == "dynamic" else 1
        halves = (execution.slice_rows(feeds, 0, half), execution.slice_rows(feeds, half, count))
        return [answer for rows in halves for answer in self.answers(rows)]


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let a run that allocates more than MEMORY fail: values can be the sizes of tensors."""
    statm = Path("/proc/self/statm")
    if not statm.exists():  # not Linux
        yield
        return
    import resource  # Windows has none

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _finite(outputs: tuple[Array, ...]) -> Answer:
    finite = all(np.isfinite(array).all() for array in outputs if array.dtype.kind == "f")
    return outputs if finite else None


# --- search -----------------------------------------------------------------------------------


def find_bounds(answers: Answers, ranges: Mapping[Any, Range]) -> dict[Any, Bounds]:
    """Return for each range the bounds from which on the graph fails, by_key by bisection."""
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
    by_key = {}
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
        by_key[key] = Bounds(low, high, tuple(failures))
    return by_key


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
            open_brackets[bracket] = (value, bad) if answer else (good, value)
    exact = {bracket: good for bracket, (good, _) in open_brackets.items()}
    rounded = {
        (key, side): float(f"{good:.3g}")
        for (key, side), good in exact.items()
        if key not in whole and good != brackets[key, side][0]
    }
    rounded |= {b: _round(exact[b], b[1]) for b, value in rounded.items() if abs(value) < 1e-6}
    results = answers([(key, value) for (key, _), value in rounded.items()])
    for (bracket, value), answer in zip(rounded.items(), results, strict=True):
        exact[bracket] = value if answer else _round(exact[bracket], bracket[1])
    return exact


def _round(value: float, side: int) -> float:
    """Return a bound with five digits (one if it is tiny) that is not outside of `value`."""
    number = Decimal(value)
    digits = 4 if abs(value) > 1e-6 else 0
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
    lowest, highest = limits
    if whole:
        below = [low - 1, 0, -1, low - 1000, -FAR_INTEGER, lowest]
        above = [high + 1, 0, high + 1000, FAR_INTEGER, highest]
        lowest, highest = max(lowest, -FAR_INTEGER), min(highest, FAR_INTEGER)
    else:
        step = (high - low) / 10 or scale
        below = [low - step, 0, -1, -1000 * scale, -FAR * scale, lowest]
        above = [high + step, 0, 1000 * scale, FAR * scale, highest]
        lowest, highest = max(lowest, -FAR * scale), min(highest, FAR * scale)
    inside = [value for value in (0, 1, -1) if low < value < high]
    if whole and high - low <= INSIDE:
        inside = list(range(int(low), int(high) + 1))
    return Range(
        low,
        high,
        tuple(sorted({max(v, lowest) for v in below if v < low and lowest < low}, reverse=True)),
        tuple(sorted({min(v, highest) for v in above if v > high and highest > high})),
        tuple(inside),
        whole,
    )


# --- tables -----------------------------------------------------------------------------------


def features(
    prober: Prober, sample: Sample, inputs: Sequence[Tensor], stated: dict[str, Fields]
) -> tuple[tuple[FeatureType, ...], list[str]]:
    """Return the features with the bounds that the graph needs, and what was bounds, in words.

    Raise PackError where the graph fails inside of what the contract file states.
    """
    typical = {kind.feature.name: kind.feature.example for kind in sample.types}

    def answers(probes: Sequence[Probe]) -> list[Answer]:
        if not probes:
            return []
        columns = {name: [value] * len(probes) for name, value in typical.items()}
        for i, (name, value) in enumerate(probes):
            columns[name][i] = value
        return prober.answers(table.feeds(sample.types, inputs, columns))

    ranges = {}
    for kind in sample.types:
        if kind.feature.type in ("number", "integer"):
            name = kind.feature.name
            present = [value for value in sample.columns[name] if value is not None]
            ranges[name] = outwards(min(present), max(present), kind.whole, _limits(kind))
    bounds = find_bounds(answers, ranges)
    texts = _unknown_texts(answers, sample.types)
    probed, notes = [], []
    for kind in sample.types:
        feature = kind.feature
        fields = stated.get(feature.name, {})
        if feature.name in bounds:
            feature, note = _bounded(feature, bounds[feature.name], fields)
        elif feature.name in texts:
            feature, note = _opened(feature, texts[feature.name], fields)
        else:
            note = ""
        probed.append(feature_types.make(feature, kind.dtype))
        notes += [f"{feature.name}: {note}"] * bool(note)
    return tuple(probed), notes


def _limits(kind: FeatureType) -> tuple[float, float]:
    """Return the least and greatest number that the contract takes."""
    low, high = kind.stated_bounds()
    return -math.inf if low is None else low, math.inf if high is None else high


def _bounded(feature: Feature, bounds: Bounds, stated: Fields) -> tuple[Feature, str]:
    """Return the feature with bounds bounds stated, and a note."""
    both = stated.get("out_of_range") == "accept"
    for side, bound in (("minimum", bounds.minimum), ("maximum", bounds.maximum)):
        if bound is not None and (both or side in stated):
            raise PackError(
                f"feature {feature.name}: the contract file accepts values "
                f"{'below' if side == 'minimum' else 'above'} {_text(bound)}, and the graph fails "
                f"for them; state {side} = {_text(bound)}"
            )
    note = _span(bounds)
    if bounds.failures:
        failures = ", ".join(map(_text, bounds.failures[:3]))
        note = "; ".join(
            filter(None, [note, f"fails at {failures}, which nothing can state: such rows get 422"])
        )
    if (bounds.minimum, bounds.maximum) == (None, None):
        return feature, note
    number = int if feature.type == "integer" else float
    keep_low, keep_high = ((side in stated) for side in ("minimum", "maximum"))
    low = feature.minimum if keep_low else bounds.minimum
    high = feature.maximum if keep_high else bounds.maximum
    return feature._replace(
        minimum=None if low is None else number(low),
        maximum=None if high is None else number(high),
        out_of_range="reject",
    ), note


def _span(bounds: Bounds) -> str:
    if bounds.minimum is not None and bounds.maximum is not None:
        return f"{_text(bounds.minimum)} to {_text(bounds.maximum)}"
    if bounds.minimum is not None:
        return f"at least {_text(bounds.minimum)}"
    return "" if bounds.maximum is None else f"at most {_text(bounds.maximum)}"


def _text(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.12g}"


def _unknown_texts(answers: Answers, types: Sequence[FeatureType]) -> dict[str, bool]:
    """Return for each text and category whether the graph takes texts that it does not know."""
    probes = [
        (kind.feature.name, text)
        for kind in types
        if kind.is_string and not kind.feature.image
        for text in UNKNOWN_TEXTS
        if text not in kind.feature.categories
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


# --- tensors ----------------------------------------------------------------------------------


class _Lengths(NamedTuple):
    """Free axes that have one length: (input, axis of its instances in the feeds)."""

    axes: tuple[tuple[str, int], ...]
    name: str


def tensors(
    prober: Prober, sample: Sample, inputs: Sequence[Tensor], batch: Batch
) -> tuple[tuple[Tensor, ...], list[str]]:
    """Return the inputs with the bounds that the graph needs, and notes about them."""
    base = execution.slice_rows(sample.feeds, 0, 1)
    inputs = tuple(_consistent_axes(tensor, inputs, base, batch) for tensor in inputs)
    groups = [group for group in _free_axes(inputs, batch) if _size(base, group)]
    inputs, groups = _joined(prober, inputs, groups, base, batch)
    answers, ranges = _element_answers(prober, base), _element_ranges(inputs, sample, base)
    sizes = _sizes(answers, ranges)
    values = find_bounds(answers, ranges | sizes)
    for name, span in sizes.items():  # a client's value must not be the size of any tensor
        if values[name].maximum is None:
            values[name] = values[name]._replace(maximum=span.above[-1])
    values = _independent(prober, values, inputs, groups, base)
    lengths = _length_bounds(prober, groups, _with_least_integers(prober, base))
    bounded, notes = [], []
    for tensor in inputs:
        bounds = values.get(tensor.name, Bounds(None, None, ()))
        number = float if tensor.dtype.startswith("float") else int
        low, high = (None if b is None else number(b) for b in bounds[:2])
        tensor = tensor._replace(minimum=low, maximum=high)
        bounded.append(_sized(tensor, groups, lengths, batch))
        notes += [f"{tensor.name}: {_span(Bounds(low, high, ()))}"] * (bounds[:2] != (None, None))
    for group in groups:
        if note := _length_note(lengths[group]):
            notes.append(f"length of {group.name}: {note}")
    return tuple(bounded), notes


def _consistent_axes(
    tensor: Tensor, inputs: Sequence[Tensor], base: Samples, batch: Batch
) -> Tensor:
    """Return the tensor without names of axes that differ in length in the sample."""
    offset = int(batch == "none")
    lengths: dict[str, set[int]] = {}
    for other in inputs:
        for axis, name in enumerate(other.axes):
            if axis + offset > 0:
                lengths.setdefault(name, set()).add(base[other.name].shape[axis + offset])
    axes = tuple("" if len(lengths.get(name, ())) > 1 else name for name in tensor.axes)
    return tensor._replace(axes=axes if any(axes) else ())


def _free_axes(inputs: Sequence[Tensor], batch: Batch) -> list[_Lengths]:
    """Return the free axes but the rows', those of one name together."""
    offset = int(batch == "none")
    groups: dict[str, list[tuple[str, int]]] = {}
    for tensor in inputs:
        for axis, size in enumerate(tensor.shape):
            if size is None and axis + offset > 0:
                name = (tensor.axes or ("",) * len(tensor.shape))[axis]
                key = name or f"axis {axis} of {tensor.name}"
                groups.setdefault(key, []).append((tensor.name, axis + offset))
    return [_Lengths(tuple(axes), name) for name, axes in groups.items()]


def _resized(base: Samples, group: _Lengths, length: int) -> Samples:
    """Return the instance with the axes of a group repeated or cut to a length."""
    feeds = dict(base)
    for name, axis in group.axes:
        size = feeds[name].shape[axis]
        feeds[name] = np.take(feeds[name], np.arange(length) % size, axis)
    return feeds


def _size(base: Samples, group: _Lengths) -> int:
    name, axis = group.axes[0]
    return int(base[name].shape[axis])


def _joined(
    prober: Prober, inputs: tuple[Tensor, ...], groups: list[_Lengths], base: Samples, batch: Batch
) -> tuple[tuple[Tensor, ...], list[_Lengths]]:
    """Return inputs and groups, those axes named alike that only work at one length."""
    for number, group in enumerate(groups):
        size = _size(base, group)
        others = [g for g in groups[number + 1 :] if _size(base, g) == size]
        if not others or prober.answers(_resized(base, group, size + 1))[0] is not None:
            continue
        together = _Lengths(tuple(a for g in (group, *others) for a in g.axes), group.name)
        if prober.answers(_resized(base, together, size + 1))[0] is None:
            continue
        offset = int(batch == "none")
        inputs = tuple(
            tensor._replace(
                axes=tuple(
                    group.name if (tensor.name, axis + offset) in together.axes else name
                    for axis, name in enumerate(tensor.axes or ("",) * len(tensor.shape))
                )
            )
            for tensor in inputs
        )
        rest = [g for g in groups if g not in (group, *others)]
        return _joined(prober, inputs, [together, *rest], base, batch)
    return inputs, groups


def _element_ranges(inputs: Sequence[Tensor], sample: Sample, base: Samples) -> dict[Any, Range]:
    ranges = {}
    for tensor in inputs:
        array = sample.feeds[tensor.name]
        if array.dtype.kind in "iuf" and base[tensor.name].size:
            low, high = number_bounds(tensor.dtype)
            limits = (-math.inf if low is None else low, math.inf if high is None else high)
            whole = array.dtype.kind != "f"
            ends = array.min().item(), array.max().item()
            ranges[tensor.name] = outwards(*ends, whole, limits)._replace(inside=())
    return ranges


def _sizes(answers: Answers, ranges: dict[Any, Range]) -> dict[Any, Range]:
    """Return the ranges of integers that set the shape of an answer, up to twice the sample's."""
    whole = {name: span for name, span in ranges.items() if span.whole and span.above}
    present = answers([(name, span.high) for name, span in whole.items()])
    larger = answers([(name, span.high + 1) for name, span in whole.items()])
    sizes = {}
    for (name, span), one, other in zip(whole.items(), present, larger, strict=True):
        if one and other and [a.shape for a in one] != [a.shape for a in other]:
            sizes[name] = span._replace(above=(span.high + 1, max(2 * span.high, span.high + 2)))
    return sizes


def _element_answers(prober: Prober, base: Samples) -> Answers:
    """Return the function that answers the instance with other elements.

    A lookup fails for any index, so all integers are replaced; of floats only the first, so that a
    bound is not the sum's.
    """

    def answers(probes: Sequence[Probe]) -> list[Answer]:
        if not probes:
            return []
        feeds = {name: np.repeat(array, len(probes), axis=0) for name, array in base.items()}
        for i, (name, value) in enumerate(probes):
            array = feeds[name]
            if array.dtype.kind == "f":
                array.reshape(len(probes), -1)[i, 0] = value
            else:
                array[i] = value
        return prober.answers(feeds)

    return answers


def _independent(
    prober: Prober,
    by_name: dict[Any, Bounds],
    inputs: Sequence[Tensor],
    groups: Sequence[_Lengths],
    base: Samples,
) -> dict[Any, Bounds]:
    """Return the bounds without those that move with the length of an axis."""
    kept = dict(by_name)
    for name, bounds in by_name.items():
        for side, step in (("minimum", -1), ("maximum", 1)):
            bound = getattr(bounds, side)
            if bound is None or base[name].dtype.kind == "f":
                continue
            for group in groups:
                longer = _resized(base, group, 2 * _size(base, group))
                answers = _element_answers(prober, longer)
                if answers([(name, bound + step)])[0] is not None and bound != 0:
                    kept[name] = kept[name]._replace(**{side: None})
    return kept


def _with_least_integers(prober: Prober, base: Samples) -> Samples:
    """Return the instance with its least integers, so that no index needs a long axis."""
    feeds = {
        name: np.full_like(array, array.min()) if array.dtype.kind in "iu" and array.size else array
        for name, array in base.items()
    }
    return base if prober.answers(feeds)[0] is None else feeds


def _length_bounds(prober: Prober, groups: Sequence[_Lengths], base: Samples) -> dict[Any, Bounds]:
    """Return the bounds of the lengths of free axes, and lengths between them that fail."""
    ranges = {}
    for group in groups:
        size = _size(base, group)
        ranges[group] = Range(
            size,
            size,
            tuple(sorted({v for v in (size - 1, 1) if 0 < v < size}, reverse=True)),
            tuple(sorted({v for v in (size + 1, 2 * size, MIN_FREE_LENGTH) if v > size})),
            (),
            True,
        )

    def answers(probes: Sequence[Probe]) -> list[Answer]:
        return [prober.answers(_resized(base, group, int(n)))[0] for group, n in probes]

    return find_bounds(answers, ranges)


def _length_note(bounds: Bounds) -> str:
    if bounds.failures:
        failures = ", ".join(map(_text, bounds.failures[:3]))
        return f"fails at {failures}, which nothing can state: such instances get 422"
    return _span(bounds)


def _sized(
    tensor: Tensor, groups: Sequence[_Lengths], lengths: Mapping[Any, Bounds], batch: Batch
) -> Tensor:
    """Return the tensor with the bounds of its free axes.

    At min_shape one element is stated unless the sample has none: some operators end the process on
    empty tensors, so that is not probed.
    """
    offset = int(batch == "none")
    min_shape: list[int | None] = [None] * len(tensor.shape)
    max_shape = list(min_shape)
    for group in groups:
        bounds = lengths[group]
        low, high = (None, None) if bounds.failures else bounds[:2]
        for name, axis in group.axes:
            if name == tensor.name:
                min_shape[axis - offset] = int(low or 1)
                max_shape[axis - offset] = None if high is None else int(high)
    return tensor._replace(
        min_shape=tuple(min_shape) if any(min_shape) else (),
        max_shape=tuple(max_shape) if any(max_shape) else (),
    )
