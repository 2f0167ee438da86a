"""Values that a contract accepts or refuses, for the contract cases: one class per feature type."""

import contextlib
import math
from collections.abc import Iterator

import numpy as np

from handler.feature_types import Category, FeatureType, Number, Numeric, iso_date, stated_bounds
from handler.manifest import Distribution, Tensor

BadValue = tuple[str, str | None, str]  # kind, JSON text (None: left out) and error code
Accepted = Iterator[tuple[str, str | Numeric]]  # kind and JSON form, of values that are not null

NOT_FINITE = "not finite"  # kind of a bad value that strict JSON does not have
CLIENT_TEXT = "answerable unknown"  # a client's own text in all test values


class ValueCases:
    """The values of a feature's type; `wrong_type` is the error code of a value of another type."""

    wrong_type = "type"

    def __init__(self, kind: FeatureType) -> None:
        self.kind = kind

    def accepted(self, baseline: Distribution | None) -> Accepted:
        """Yield accepted values."""
        raise NotImplementedError

    def bad(self) -> Iterator[BadValue]:
        """Yield one bad value for each rule, in JSON form."""
        if not self.kind.feature.nullable:
            yield "missing", None, "missing"
            yield "null", "null", self.wrong_type
        yield "wrong type", "{}", self.wrong_type
        yield "wrong type", "[]", self.wrong_type
        yield from self._bad()

    def bad_elements(self) -> Iterator[BadValue]:
        """Yield one bad value for each rule, as an element of a tensor in JSON."""
        yield from self.bad()

    def _bad(self) -> Iterator[BadValue]:
        raise NotImplementedError


class NumberCases(ValueCases):
    """Values of a number or an integer."""

    kind: Number

    def accepted(self, baseline: Distribution | None) -> Accepted:
        """Yield values around the stated range, or else around the sample's."""
        kind = self.kind
        low, high = kind.minimum, kind.maximum
        if baseline and baseline.values:
            first, last = float(baseline.values[0]), float(baseline.values[-1])
            low, high = first if low is None else low, last if high is None else high
        edges = [edge for edge in (low, high) if edge is not None]
        middle = sum(edges) / (len(edges) or 1)
        inside = middle // 1 if kind.whole else middle
        if baseline and baseline.values:
            inside = float(baseline.values[len(baseline.values) // 2])  # the sample has it
        outside = [
            float(text or 0) for _, text, _ in outside_bounds(low, high, kind.whole, kind.dtype)
        ]
        for name, values in (
            ("inside the sample", [inside]),
            ("at the sample's bounds", edges),
            ("just outside the sample", outside),
        ):
            for value in values:
                if kind.low is not None and value < kind.low:
                    continue
                if kind.high is None or value <= kind.high:
                    yield name, int(value) if kind.whole else value

    def _bad(self) -> Iterator[BadValue]:
        kind = self.kind
        yield "flag", "true", "type"
        yield from bad_numbers(kind.dtype)
        yield from outside_bounds(kind.low, kind.high, kind.whole)
        if kind.whole and kind.low != kind.high:
            example = float(kind.feature.example or 0)
            yield "fraction", str(example + (-0.5 if example == kind.high else 0.5)), "type"


class DateCases(NumberCases):
    """Values of a date; an element of a tensor is a number of days."""

    def accepted(self, baseline: Distribution | None) -> Accepted:
        """Yield the numbers' values that are dates."""
        for name, value in super().accepted(baseline):
            with contextlib.suppress(ValueError, OverflowError):
                yield name, iso_date(float(value))

    def _bad(self) -> Iterator[BadValue]:
        yield "number for a date", "1", "type"
        for text in (CLIENT_TEXT, "2024-02-30", "20240101", "2024-01-01T25:00", "", "12-31-2024"):
            yield "no date", f'"{text}"', "type"
        for bound, way in ((self.kind.low, -1), (self.kind.high, 1)):
            if bound is not None and math.isfinite(bound):
                with contextlib.suppress(ValueError, OverflowError):
                    text = iso_date(_next_integer(bound, way))
                    yield "just outside", f'"{text}"', "out_of_range"

    def bad_elements(self) -> Iterator[BadValue]:
        """Yield bad numbers of days."""
        yield "text for a number", '"2024-01-01"', "type"
        yield NOT_FINITE, "NaN", "non_finite"
        yield from outside_bounds(self.kind.low, self.kind.high, True)


class CategoryCases(ValueCases):
    """Values of a category."""

    kind: Category

    def __init__(self, kind: FeatureType) -> None:
        super().__init__(kind)
        if self.kind.closed and kind.is_string:
            self.wrong_type = "unknown_category"

    def accepted(self, baseline: Distribution | None) -> Accepted:
        """Yield the categories, and another value if the contract takes it."""
        for value in self.kind.feature.categories:
            yield "each category", value
        if not self.kind.closed:
            numbers = [v for v in self.kind.feature.categories if not isinstance(v, str)]
            yield "an unknown category", max(numbers) + 1 if numbers else "a new category"

    def _bad(self) -> Iterator[BadValue]:
        kind = self.kind
        yield "flag", "true", self.wrong_type
        if kind.is_string:
            yield "number for text", "1", self.wrong_type
            if kind.closed:
                yield "unknown category", f'"{CLIENT_TEXT}"', "unknown_category"
            return
        yield from bad_numbers("" if kind.closed else kind.dtype)
        if kind.closed:
            greatest = max(map(float, kind.feature.categories))
            yield "unknown category", str(greatest + 1), "unknown_category"


class BooleanCases(ValueCases):
    """Values of a flag; an element of a tensor may be a number."""

    def accepted(self, baseline: Distribution | None) -> Accepted:
        """Yield both flags."""
        yield from (("each category", True), ("each category", False))

    def _bad(self) -> Iterator[BadValue]:
        yield "number for a flag", "1", "type"
        yield "text for a flag", '"true"', "type"
        yield "text for a flag", f'"{CLIENT_TEXT}"', "type"

    def bad_elements(self) -> Iterator[BadValue]:
        """Yield the bad values that are no numbers."""
        yield from (bad for bad in self.bad() if bad[0] != "number for a flag")


class TextCases(ValueCases):
    """Values of a text."""

    def accepted(self, baseline: Distribution | None) -> Accepted:
        """Yield an empty and a long text."""
        yield "an empty text", ""
        yield "a long text", "é" * min(self.kind.max_length or 1000, 1000)

    def _bad(self) -> Iterator[BadValue]:
        yield "flag", "true", "type"
        yield "number for text", "1", "type"
        limit = self.kind.max_length
        if limit is not None and limit < 10_000:
            text = CLIENT_TEXT.ljust(limit + 1, "é")[: limit + 1]
            yield "too long", f'"{text}"', "too_long"


_CASES: dict[str, type[ValueCases]] = {
    "boolean": BooleanCases,
    "category": CategoryCases,
    "text": TextCases,
    "date": DateCases,
    "number": NumberCases,
    "integer": NumberCases,
}


def of(kind: FeatureType) -> ValueCases:
    """Return the values of a feature's type."""
    return _CASES[kind.name](kind)


def bad_numbers(dtype: str) -> Iterator[BadValue]:
    """Yield what is not a number, or not one that a tensor of `dtype` holds ("": of any)."""
    yield "text for a number", '"1"', "type"
    yield "text for a number", f'"{CLIENT_TEXT}"', "type"
    for text in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 310, "-" + "9" * 400):
        yield NOT_FINITE, text, "non_finite"
    if dtype == "float32":
        yield "overflow", "1e39", "out_of_range"


def bad_elements(tensor: Tensor) -> Iterator[BadValue]:
    """Yield bad values of one element of a tensor contract's input."""
    yield "null", "null", "type"
    yield "too deep", "[0]", "type"
    yield "wrong type", "{}", "type"
    if tensor.dtype != "bool":
        yield "flag", "true", "type"
    if tensor.dtype in ("bool", "string"):
        yield "number for another", "1", "type"
        return
    yield from bad_numbers(tensor.dtype)
    whole = not tensor.dtype.startswith("float")
    bounds = stated_bounds(tensor.dtype, tensor.minimum, tensor.maximum)
    yield from outside_bounds(*bounds, whole)
    if whole:
        yield "fraction", "0.5", "type"


def outside_bounds(
    low: Numeric | None, high: Numeric | None, whole: bool, dtype: str = "float64"
) -> Iterator[BadValue]:
    """Yield the next integers, or numbers of a float dtype, below and above the bounds."""
    for bound, way in ((low, -1), (high, 1)):
        if bound is None:
            continue
        value: Numeric
        if whole:
            value = _next_integer(bound, way)
        else:
            as_dtype = np.dtype(dtype).type
            with np.errstate(over="ignore"):
                value = float(np.nextafter(as_dtype(bound), as_dtype(way * math.inf)))
        if math.isfinite(value):
            yield "just outside", repr(value), "out_of_range"


def _next_integer(bound: Numeric, way: int) -> int:
    """Return the next integer below (`way` -1) or above (1) a bound."""
    return (math.ceil(bound) if way < 0 else math.floor(bound)) + way
