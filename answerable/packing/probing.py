"""Probe the packed graph outside of the sample for the values and lengths that it takes.

A bound is stated in the contract where the graph fails from some value on. Where it fails between
values that it takes, nothing can be stated, and the summary says so.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import partial
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
SECONDS = 15.0  # for all probes; slow models are probed as far as that goes
RUN_SECONDS = 2.0  # for one run: a value can be the number of a loop's rounds
MEMORY = 10**9  # bytes for one run
UNKNOWN_TEXTS = ("unknown value", "", "É 很 👍")

Answer = tuple[Array, ...] | None  # an instance's outputs, None where the graph fails
Ask = Callable[[Sequence[Any]], list[Answer]]  # the answers to values in one place
Axes = dict[str, list[tuple[str, int]]]  # by name of a free length: input and axis in the feeds
ALL, FIRST = slice(None), slice(0, 1)  # elements of an instance's array


class Range(NamedTuple):
    """Values to probe: `low` and `high` are the sample's ends, `whole` means integers."""

    low: float
    high: float
    values: Sequence[float]
    whole: bool


class Bounds(NamedTuple):
    """The bounds that a graph has outside of the sample's range, and single failures."""

    minimum: float | None = None
    maximum: float | None = None
    failures: tuple[float, ...] = ()

    def __str__(self) -> str:
        """Return the range in words; "" without bounds."""
        if self.minimum is None:
            return "" if self.maximum is None else f"at most {_text(self.maximum)}"
        if self.maximum is None:
            return f"at least {_text(self.minimum)}"
        return f"{_text(self.minimum)} to {_text(self.maximum)}"

    def fails_at(self, subject: str) -> str:
        """Return the failures of a `subject` in words; "" without any."""
        failures = ", ".join(map(_text, self.failures[:3]))
        return failures and f"fails at {failures}, which nothing can state: such {subject} get 422"


def _text(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.12g}"


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

    def takes(self, instance: Samples) -> bool:
        """Return whether the graph answers one instance."""
        return self.answers(instance)[0] is not None

    def vary(
        self, instance: Samples, name: str, elements: slice, values: Sequence[Any]
    ) -> list[Answer]:
        """Return the answers to an instance with each of the values in `elements` of an input."""
        if not values:
            return []
        feeds = {key: np.repeat(array, len(values), axis=0) for key, array in instance.items()}
        array = feeds[name].reshape(len(values), -1)
        array[:, elements] = np.array(values, array.dtype)[:, None]
        return self.answers(feeds)


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


def find_bounds(ask: Ask, span: Range) -> Bounds:
    """Return the bounds of a range from which on the graph fails."""
    answers = zip(span.values, ask(span.values), strict=True)
    failed = [value for value, answer in answers if answer is None]
    ends: list[Any] = []
    for side, start in ((-1, span.low), (1, span.high)):
        outer = sorted((v for v in span.values if v * side > start * side), key=lambda v: v * side)
        good = [start, *(value for value in outer if value not in failed)][-1]
        bad = next((value for value in outer if value * side > good * side), None)
        ends.append(None if bad is None else _bisect(ask, good, bad, span.whole))
    low, high = ends
    if span.whole and low is not None and high is not None:
        low = _without_negative_indices(ask, span, low, high)
    failures = [v for v in failed if (low is None or v >= low) and (high is None or v <= high)]
    return Bounds(low, high, tuple(failures))


def _bisect(ask: Ask, good: float, bad: float, whole: bool) -> float:
    """Return the last number from `good` towards `bad` that the graph takes; a float is rounded."""
    start, side = good, 1 if bad > good else -1
    while abs(bad - good) > (1 if whole else max(TINY, 1e-4 * abs(good))):
        middle = (good + bad) // 2 if whole else (good + bad) / 2
        good, bad = (middle, bad) if ask([middle])[0] else (good, middle)
    if whole or good == start:
        return good
    is_tiny = abs(good) < 1e-6
    rounded = _round_inwards(good, side, 1) if is_tiny else float(f"{good:.3g}")
    return rounded if ask([rounded])[0] else _round_inwards(good, side, 1 if is_tiny else 5)


def _round_inwards(value: float, side: int, digits: int) -> float:
    """Return an upper (`side` 1) or lower (-1) bound that is not outside of `value`."""
    number = Decimal(value)
    step = Decimal(1).scaleb(number.adjusted() + 1 - digits)
    return float(number.quantize(step, ROUND_FLOOR if side > 0 else ROUND_CEILING))


def _without_negative_indices(ask: Ask, span: Range, low: float, high: float) -> float:
    """Return the lower bound of an integer: a lookup's negative indices count from its end.

    Gather takes -s to s - 1 for s rows, so the lower half has the answers of the upper.
    """
    size, odd = divmod(high - low + 1, 2)
    if odd or span.low < low + size:
        return low
    first, last, other_first, other_last = ask([low, low + size - 1, low + size, high])
    are_same = _same(first, other_first) and _same(last, other_last)
    return low + size if are_same else low


def _same(one: Answer, other: Answer) -> bool:
    if one is None or other is None:
        return False
    return all(np.array_equal(left, right) for left, right in zip(one, other, strict=True))


def outwards(low: float, high: float, whole: bool, limits: Sequence[float | None]) -> Range:
    """Return what to probe around a sample's range, within what the contract takes."""
    scale = max(abs(low), abs(high), 1)
    step, leap, far = (high - low) / 10 or scale, 1000 * scale, FAR * scale
    if whole:
        step, leap, far = 1, 1000, FAR_INTEGER
    lowest = -far if limits[0] is None else max(limits[0], -far)
    highest = far if limits[1] is None else min(limits[1], far)
    around = (low - step, low - leap, lowest, -1, 0, 1, high + step, high + leap, highest)
    values = {min(max(value, lowest), highest) for value in around} - {low, high}
    if whole and high - low <= INSIDE:
        values.update(range(int(low), int(high) + 1))
    number = int if whole else float
    return Range(low, high, sorted(map(number, values)), whole)


# --- tables -----------------------------------------------------------------------------------


def features(
    prober: Prober, sample: Sample, inputs: Sequence[Tensor], stated: dict[str, Fields]
) -> tuple[tuple[FeatureType, ...], list[str]]:
    """Return the features with the bounds that the graph needs, and these in words.

    Raise PackError where the graph fails inside of what the contract file states.
    """
    typical = {kind.feature.name: [kind.feature.example] for kind in sample.types}
    row = table.feeds(sample.types, inputs, typical)
    probed, notes = [], []
    for kind in sample.types:
        feature, note = kind.feature, ""
        fields, element = stated.get(feature.name, {}), slice(feature.column, feature.column + 1)
        ask = partial(prober.vary, row, feature.input, element)
        if feature.type in ("number", "integer"):
            present = [value for value in sample.columns[feature.name] if value is not None]
            span = outwards(min(present), max(present), kind.whole, kind.stated_bounds())
            feature, note = _bounded(feature, find_bounds(ask, span), fields)
        elif kind.is_string and not feature.image:
            texts = [text for text in UNKNOWN_TEXTS if text not in feature.categories]
            feature, note = _opened(feature, None not in ask(texts), fields)
        probed.append(feature_types.make(feature, kind.dtype))
        notes += [f"{feature.name}: {note}"] * bool(note)
    return tuple(probed), notes


def _bounded(feature: Feature, bounds: Bounds, stated: Fields) -> tuple[Feature, str]:
    """Return the feature with its bounds stated, and a note."""
    both = stated.get("out_of_range") == "accept"
    for side, bound in (("minimum", bounds.minimum), ("maximum", bounds.maximum)):
        if bound is not None and (both or side in stated):
            raise PackError(
                f"feature {feature.name}: the contract file accepts values "
                f"{'below' if side == 'minimum' else 'above'} {_text(bound)}, and the graph fails "
                f"for them; state {side} = {_text(bound)}"
            )
    note = "; ".join(filter(None, [str(bounds), bounds.fails_at("rows")]))
    if (bounds.minimum, bounds.maximum) == (None, None):
        return feature, note
    number = int if feature.type == "integer" else float
    low = feature.minimum if "minimum" in stated else bounds.minimum
    high = feature.maximum if "maximum" in stated else bounds.maximum
    return feature._replace(
        minimum=None if low is None else number(low),
        maximum=None if high is None else number(high),
        out_of_range="reject",
    ), note


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


def tensors(
    prober: Prober, sample: Sample, inputs: Sequence[Tensor], batch: Batch
) -> tuple[tuple[Tensor, ...], list[str]]:
    """Return the inputs with the bounds that the graph needs, and notes about them."""
    base = execution.slice_rows(sample.feeds, 0, 1)
    offset = int(batch == "none")  # of an axis in the feeds, where the instances lead
    groups = _joined(prober, _free_axes(inputs, base, offset), base)
    values = {t.name: _element_bounds(prober, sample.feeds[t.name], t.name, base, groups)
              for t in inputs}  # fmt: skip
    small = _with_least_integers(prober, base)
    lengths = {name: _length_bounds(prober, axes, small) for name, axes in groups.items()}
    bounded = tuple(
        _with_lengths(tensor, groups, lengths, offset)._replace(
            minimum=values[tensor.name].minimum, maximum=values[tensor.name].maximum
        )
        for tensor in inputs
    )
    notes = [f"{name}: {bounds}" for name, bounds in values.items() if str(bounds)]
    for name, bounds in lengths.items():
        if note := bounds.fails_at("instances") or str(bounds):
            notes.append(f"length of {name}: {note}")
    return bounded, notes


def _free_axes(inputs: Sequence[Tensor], base: Samples, offset: int) -> Axes:
    """Return the free axes but the rows', those of one name together.

    A name counts only if its axes have one length in the sample.
    """
    free = [
        (tensor.name, axis + offset, tensor.axes[axis] if tensor.axes else "")
        for tensor in inputs
        for axis, size in enumerate(tensor.shape)
        if size is None and axis + offset > 0
    ]
    lengths = defaultdict[str, set[int]](set)
    for tensor, axis, name in free:
        lengths[name].add(base[tensor].shape[axis])
    groups: Axes = {}
    for tensor, axis, name in free:
        if not name or len(lengths[name]) > 1:
            name = f"axis {axis - offset} of {tensor}"
        if base[tensor].shape[axis]:
            groups.setdefault(name, []).append((tensor, axis))
    return groups


def _resized(base: Samples, axes: Sequence[tuple[str, int]], length: int) -> Samples:
    """Return the instance with some axes repeated or cut to a length."""
    feeds = dict(base)
    for name, axis in axes:
        size = feeds[name].shape[axis]
        feeds[name] = np.take(feeds[name], np.arange(length) % size, axis)
    return feeds


def _size(base: Samples, axes: Sequence[tuple[str, int]]) -> int:
    name, axis = axes[0]
    return int(base[name].shape[axis])


def _joined(prober: Prober, groups: Axes, base: Samples) -> Axes:
    """Return the groups, with those joined that only work at one length."""
    if not groups:
        return {}
    (name, axes), *rest = groups.items()
    size = _size(base, axes)
    equal = [other for other, other_axes in rest if _size(base, other_axes) == size]
    together = axes + [axis for other in equal for axis in groups[other]]
    if (
        equal
        and not prober.takes(_resized(base, axes, size + 1))
        and prober.takes(_resized(base, together, size + 1))
    ):
        axes, rest = together, [(other, value) for other, value in rest if other not in equal]
    return {name: axes, **_joined(prober, dict(rest), base)}


def _element_bounds(prober: Prober, array: Array, name: str, base: Samples, groups: Axes) -> Bounds:
    """Return the bounds of an input's elements; none for texts and flags."""
    if array.dtype.kind not in "iuf" or not base[name].size:
        return Bounds()
    low, high, whole = array.min().item(), array.max().item(), array.dtype.kind != "f"
    # A lookup fails for any index, so all integers are replaced; of floats only the first, so that
    # a bound is not the sum's.
    ask = partial(prober.vary, base, name, ALL if whole else FIRST)
    span = outwards(low, high, whole, number_bounds(array.dtype.name))
    # a failure between values of the sample is not looked for
    values, limit = [value for value in span.values if not low <= value <= high], None
    if whole and values and values[-1] > high:
        one, other = ask([high, high + 1])
        if one and other and [a.shape for a in one] != [a.shape for a in other]:
            limit = max(2 * high, high + 2)  # a client's value must not be the size of any tensor
            values = [*(value for value in values if value < low), high + 1, limit]
    bounds = find_bounds(ask, span._replace(values=values))
    minimum, maximum = bounds.minimum, limit if bounds.maximum is None else bounds.maximum
    if whole and minimum and _moves(prober, base, groups, name, minimum - 1):
        minimum = None
    if whole and maximum and _moves(prober, base, groups, name, maximum + 1):
        maximum = None
    return Bounds(minimum, maximum)


def _moves(prober: Prober, base: Samples, groups: Axes, name: str, value: float) -> bool:
    """Return whether the graph takes a value outside of its bound if an axis is twice as long."""
    instances = (_resized(base, axes, 2 * _size(base, axes)) for axes in groups.values())
    return any(prober.vary(longer, name, ALL, [value])[0] is not None for longer in instances)


def _with_least_integers(prober: Prober, base: Samples) -> Samples:
    """Return the instance with its least integers, so that no index needs a long axis."""
    feeds = {
        name: np.full_like(array, array.min()) if array.dtype.kind in "iu" and array.size else array
        for name, array in base.items()
    }
    return feeds if prober.takes(feeds) else base


def _length_bounds(prober: Prober, axes: list[tuple[str, int]], base: Samples) -> Bounds:
    """Return the bounds of the length of free axes, and lengths between them that fail."""
    size = _size(base, axes)
    values = {size - 1, 1, size + 1, 2 * size, MIN_FREE_LENGTH} - {0, size}

    def ask(lengths: Sequence[int]) -> list[Answer]:
        return [prober.answers(_resized(base, axes, length))[0] for length in lengths]

    return find_bounds(ask, Range(size, size, sorted(values), True))


def _with_lengths(
    tensor: Tensor, groups: Axes, lengths: Mapping[str, Bounds], offset: int
) -> Tensor:
    """Return the tensor with the names and the bounds of its free axes.

    At min_shape one element is stated unless the sample has none: some operators end the process on
    empty tensors, so that is not probed.
    """
    names = list(tensor.axes or [""] * len(tensor.shape))
    min_shape: list[int | None] = [None] * len(tensor.shape)
    max_shape = list(min_shape)
    for group, axes in groups.items():
        low, high, failures = lengths[group]
        for name, axis in axes:
            if name == tensor.name:
                is_named = len(axes) > 1 or group == names[axis - offset]
                names[axis - offset] = group if is_named else ""
                min_shape[axis - offset] = 1 if failures or low is None else int(low)
                max_shape[axis - offset] = None if failures or high is None else int(high)
    return tensor._replace(
        axes=tuple(names) if any(names) else (),
        min_shape=tuple(min_shape) if any(min_shape) else (),
        max_shape=tuple(max_shape) if any(max_shape) else (),
    )
