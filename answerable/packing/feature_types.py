"""Feature types at pack time: inference from a sample, JSON Schema, words and test values.

One class per type of handler/feature_types.py, whose objects are their `kind`. Values are in
their JSON form.
"""

# ruff: noqa: D102  (the base class has the docstrings)

import contextlib
import math
import struct
import zlib
from binascii import a2b_base64, b2a_base64
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson

from answerable.terminal import listed
from handler.feature_types import (
    Category,
    FeatureType,
    Number,
    Numeric,
    days_since_epoch,
    iso_date,
    number_bounds,
    stated_bounds,
)
from handler.manifest import Distribution, Tensor

Fields = dict[str, Any]
BadValue = tuple[str, str | None, str]  # kind, JSON text (None: left out) and error code
Accepted = Iterator[tuple[str, str | Numeric]]  # kind and JSON form, of values that are not null

MAX_CATEGORIES = 50  # a sample with more distinct strings is of type text
MIN_REPEATS = 3  # as is one in which strings occur less often than this on average
MIN_TEXT_LENGTH = 256  # the least max_length that is inferred
NOT_FINITE = "not finite"  # kind of a bad value that strict JSON does not have
MAX_EXAMPLE_CHARS = 4096  # of a picture in manifest and OpenAPI document
CLIENT_TEXT = "answerable unknown"  # a client's own text in all test values


class PackedType:
    """A feature's type at pack time; `wrong_type` is the error code of a value of another type."""

    wrong_type = "type"

    def __init__(self, kind: FeatureType) -> None:
        self.kind, self.feature = kind, kind.feature

    # the sample ---------------------------------------------------------------------------------

    def read_cell(self, cell: str) -> Any:
        """Return a cell's value. Raise ValueError also for what the tensor cannot hold."""
        return self.kind.parse_cell(cell)

    def inferred(self, values: Sequence[Any], stated: Fields) -> Fields:
        """Return the fields of the feature that a sample's values show."""
        return {}

    def example(self, values: Sequence[Any]) -> Any:
        """Return a typical value: one that occurs, not a mean that may not be possible."""
        counts = Counter(values)
        return min(counts, key=lambda value: (-counts[value], value))

    def is_outside(self, value: Any) -> bool:
        """Return whether the stated contract refuses a value."""
        return False

    def is_empty(self) -> bool:
        """Return whether the stated range holds no value."""
        return False

    def edges(self, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        """Yield name and value of the contract's edges."""
        yield from ()

    def max_json_chars(self) -> int:
        """Return how long a value's JSON is at most."""
        return 25

    def draw(self, value: Any) -> Any:
        """Return a value for a number that was drawn from the baseline."""
        return value

    # documents ----------------------------------------------------------------------------------

    def json_schema(self) -> Fields:
        """Return the JSON Schema of a value, null and description included."""
        feature = self.feature
        schema, remark = self._json_schema()
        if feature.nullable:
            schema = {"anyOf": [schema, {"type": "null"}]}
        unit = f"Unit: {feature.unit}." if feature.unit else ""
        if text := " ".join(filter(None, (feature.description, unit, remark))):
            schema["description"] = text
        if feature.example is not None:
            schema["examples"] = [feature.example]
        return schema

    def _json_schema(self) -> tuple[Fields, str]:
        """Return the schema of a value that is not null, and a remark for its description."""
        raise NotImplementedError

    def span(self) -> str:
        """Return the range or the categories in words."""
        raise NotImplementedError

    def policy(self) -> str:
        """Return what happens to a value outside of `span`."""
        kind = self.kind
        return "counted" if kind.counted_range or kind.known_categories else "refused"

    # test values --------------------------------------------------------------------------------

    def accepted(self, baseline: Distribution | None) -> Accepted:
        """Yield accepted values."""
        raise NotImplementedError

    def bad(self) -> Iterator[BadValue]:
        """Yield one bad value for each rule."""
        if not self.feature.nullable:
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


class PackedNumber(PackedType):
    """A number at pack time."""

    kind: Number

    def read_cell(self, cell: str) -> Any:
        value = self.kind.parse_cell(cell)
        if not self.kind.whole:
            value = float(value)
        elif value == value // 1:
            value = int(value)
        return _checked(value, self.kind.dtype, self.kind.whole)

    def inferred(self, values: Sequence[Any], stated: Fields) -> Fields:
        """Return the sample's range, which is counted.

        A stated bound is enforced, and alone: an inferred one beside it would be enforced too.
        """
        bounded = bool(stated.keys() & {"minimum", "maximum"})
        policy = stated.get("out_of_range", "reject" if bounded else "accept")
        if bounded and policy == "reject":
            return {"out_of_range": policy}
        ordered = self._sorted(values)
        return {"minimum": ordered[0], "maximum": ordered[-1], "out_of_range": policy}

    def example(self, values: Sequence[Any]) -> Any:
        return self._sorted(values)[(len(values) - 1) // 2]

    def _sorted(self, values: Sequence[Any]) -> list[Any]:
        if self.kind.has_json_form:
            return sorted(values, key=self.kind.to_graph)
        return np.sort(values).tolist() if isinstance(values[0], float) else sorted(values)

    def is_empty(self) -> bool:
        low, high = self.kind.minimum, self.kind.maximum
        return low is not None and high is not None and not low <= high

    def is_outside(self, value: Any) -> bool:
        number = self.kind.to_graph(value)
        low, high = self.kind.minimum, self.kind.maximum
        low, high = -math.inf if low is None else low, math.inf if high is None else high
        is_within: bool = low <= number <= high
        return not is_within and self.feature.out_of_range == "reject"

    def edges(self, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        low, high = self.feature.minimum, self.feature.maximum
        yield "minimum", min(values) if low is None else low
        yield "maximum", max(values) if high is None else high

    def draw(self, value: Any) -> Any:
        return round(value) if self.kind.name == "integer" else value

    def _json_schema(self) -> tuple[Fields, str]:
        low, high = self.feature.minimum, self.feature.maximum
        schema: Fields = {"type": self.kind.name}
        if self.feature.out_of_range == "reject":
            return schema | _limits(low, high), ""
        return schema, f"Usual range: {low} to {high}." if low is not None else ""

    def span(self) -> str:
        low, high = (
            "…" if bound is None else bound if isinstance(bound, str) else f"{bound:g}"
            for bound in (self.feature.minimum, self.feature.maximum)
        )
        return f"{low} to {high} {self.feature.unit}".rstrip()

    def accepted(self, baseline: Distribution | None) -> Accepted:
        """Yield values around the stated range, or else around the sample's."""
        kind = self.kind
        low, high = kind.minimum, kind.maximum
        sample = [float(value) for value in baseline.values] if baseline else []
        if sample:
            low, high = sample[0] if low is None else low, sample[-1] if high is None else high
        edges = [edge for edge in (low, high) if edge is not None]
        middle = sum(edges) / (len(edges) or 1)
        inside = sample[len(sample) // 2] if sample else middle // 1 if kind.whole else middle
        outside = outside_bounds(low, high, kind.whole, kind.dtype)
        named = [("inside the sample", inside)]
        named += [("at the sample's bounds", edge) for edge in edges]
        named += [("just outside the sample", float(text or 0)) for _, text, _ in outside]
        lowest = -math.inf if kind.low is None else kind.low
        highest = math.inf if kind.high is None else kind.high
        for name, value in named:
            if lowest <= value <= highest:
                yield name, int(value) if kind.whole else value

    def _bad(self) -> Iterator[BadValue]:
        kind = self.kind
        yield "flag", "true", "type"
        yield from bad_numbers(kind.dtype)
        yield from outside_bounds(kind.low, kind.high, kind.whole)
        if kind.whole and kind.low != kind.high:
            example = float(self.feature.example or 0)
            yield "fraction", str(example + (-0.5 if example == kind.high else 0.5)), "type"


class PackedDate(PackedNumber):
    """A date at pack time; an element of a tensor is a number of days."""

    def read_cell(self, cell: str) -> Any:
        text = cell.strip()
        _checked(self.kind.to_graph(text), self.kind.dtype, self.kind.whole)
        return text

    def max_json_chars(self) -> int:
        return 37

    def draw(self, value: Any) -> Any:
        return iso_date(round(value))

    def _json_schema(self) -> tuple[Fields, str]:
        low, high = self.feature.minimum, self.feature.maximum
        schema = {"type": "string", "anyOf": [{"format": "date"}, {"format": "date-time"}]}
        if low is None and high is None:
            return schema, "ISO 8601."
        usual = "Usual range" if self.feature.out_of_range == "accept" else "Range"
        return schema, f"ISO 8601. {usual}: {low or '…'} to {high or '…'}."

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
        yield "text for a number", '"2024-01-01"', "type"
        yield NOT_FINITE, "NaN", "non_finite"
        yield from outside_bounds(self.kind.low, self.kind.high, True)


class PackedCategory(PackedType):
    """A category at pack time."""

    kind: Category

    def __init__(self, kind: FeatureType) -> None:
        super().__init__(kind)
        if self.kind.closed and kind.is_string:
            self.wrong_type = "unknown_category"

    def read_cell(self, cell: str) -> Any:
        value = self.kind.parse_cell(cell)
        if self.kind.is_string:
            return value
        return _checked(value, self.kind.dtype, not self.kind.is_float)

    def inferred(self, values: Sequence[Any], stated: Fields) -> Fields:
        if not self.kind.is_string and all(value == value // 1 for value in values):
            values = [int(value) for value in values]
        return {"categories": tuple(sorted(set(values)))}

    def is_outside(self, value: Any) -> bool:
        return self.kind.closed and value not in self.feature.categories

    def edges(self, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        for number, value in enumerate(self.feature.categories, 1):
            yield f"category {number}", value

    def max_json_chars(self) -> int:
        if not self.kind.closed:
            return 25
        return max(len(orjson.dumps(value)) for value in self.feature.categories)

    def _json_schema(self) -> tuple[Fields, str]:
        if self.kind.closed:
            return choice_json_schema(self.feature.categories), ""
        listed = ", ".join(map(str, self.feature.categories))
        return element_json_schema(self.kind.dtype), f"Known: {listed}."

    def span(self) -> str:
        return listed(self.feature.categories, 6)

    def accepted(self, baseline: Distribution | None) -> Accepted:
        """Yield the categories, and another value if the contract takes it."""
        for value in self.feature.categories:
            yield "each category", value
        if not self.kind.closed:
            numbers = [v for v in self.feature.categories if not isinstance(v, str)]
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
            greatest = max(map(float, self.feature.categories))
            yield "unknown category", str(greatest + 1), "unknown_category"


class PackedBoolean(PackedType):
    """A flag at pack time; an element of a tensor may be a number."""

    def edges(self, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        yield from (("false", False), ("true", True))

    def _json_schema(self) -> tuple[Fields, str]:
        return {"type": "boolean"}, ""

    def span(self) -> str:
        return "true, false"

    def accepted(self, baseline: Distribution | None) -> Accepted:
        yield from (("each category", True), ("each category", False))

    def _bad(self) -> Iterator[BadValue]:
        yield "number for a flag", "1", "type"
        yield "text for a flag", '"true"', "type"
        yield "text for a flag", f'"{CLIENT_TEXT}"', "type"

    def bad_elements(self) -> Iterator[BadValue]:
        yield from (bad for bad in self.bad() if bad[0] != "number for a flag")


class PackedText(PackedType):
    """A text at pack time."""

    def inferred(self, values: Sequence[Any], stated: Fields) -> Fields:
        return {"max_length": max(2 * max(map(len, values)), MIN_TEXT_LENGTH)}

    def example(self, values: Sequence[Any]) -> Any:
        return sorted(values, key=lambda text: (len(text), text))[(len(values) - 1) // 2]

    def is_outside(self, value: Any) -> bool:
        return self.kind.max_length is not None and len(value) > self.kind.max_length

    def edges(self, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
        yield "shortest", min(values, key=len)
        yield "longest", max(values, key=len)

    def max_json_chars(self) -> int:
        return 4 * (self.kind.max_length or 1024) + 2  # UTF-8 takes up to four bytes

    def draw(self, value: Any) -> Any:
        return "x" * round(value)

    def _json_schema(self) -> tuple[Fields, str]:
        limit = {} if self.kind.max_length is None else {"maxLength": self.kind.max_length}
        return {"type": "string", **limit}, ""

    def span(self) -> str:
        return f"up to {self.kind.max_length} characters"

    def accepted(self, baseline: Distribution | None) -> Accepted:
        yield "an empty text", ""
        yield "a long text", "é" * min(self.kind.max_length or 1000, 1000)

    def _bad(self) -> Iterator[BadValue]:
        yield "flag", "true", "type"
        yield "number for text", "1", "type"
        limit = self.kind.max_length
        if limit is not None and limit < 10_000:
            text = CLIENT_TEXT.ljust(limit + 1, "é")[: limit + 1]
            yield "too long", f'"{text}"', "too_long"


class PackedTokens(PackedText):
    """A text with a tokenizer at pack time; an array is of token ids."""

    def _json_schema(self) -> tuple[Fields, str]:
        text, _ = super()._json_schema()
        limit = self.kind.encoding.max_tokens
        ids = {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": limit}
        return {"anyOf": [text, ids]}, f"A text or its token ids. Cut after {limit} tokens."

    def span(self) -> str:
        return f"{super().span()}, cut after {self.kind.encoding.max_tokens} tokens"

    def accepted(self, baseline: Distribution | None) -> Accepted:
        """Yield hostile texts of the greatest length, too."""
        yield from super().accepted(baseline)
        length = self.kind.max_length or 100_000
        for text in ("e\u0301\u0327", "\u0301", "\0", "👩\u200d"):
            yield "a hostile text", (text * length)[:length]

    def bad(self) -> Iterator[BadValue]:
        for name, text, code in super().bad():
            yield name, text, "wrong_length" if text == "[]" else code

    def bad_elements(self) -> Iterator[BadValue]:
        yield from super().bad()


class PackedImage(PackedType):
    """A picture at pack time."""

    def read_cell(self, cell: str) -> Any:
        self.kind.parse(cell)
        return cell

    def inferred(self, values: Sequence[Any], stated: Fields) -> Fields:
        return {"log_policy": "drop"}

    def example(self, values: Sequence[Any]) -> Any:
        """Return the smallest picture of the sample, or a black one if that is large."""
        smallest = min(values, key=len)
        if len(smallest) <= MAX_EXAMPLE_CHARS:
            return smallest
        height, width = self.kind.encoding.size
        return _base64(png(width, height, bytes((3 * width + 1) * height)))

    def max_json_chars(self) -> int:
        limit: int = self.kind.encoding.max_bytes
        return limit // 3 * 4 + 6

    def _json_schema(self) -> tuple[Fields, str]:
        limits = self.kind.encoding
        schema = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/*"}
        return schema, (
            f"JPEG or PNG in base64, at most {limits.max_bytes} bytes and "
            f"{limits.max_pixels} pixels."
        )

    def span(self) -> str:
        height, width = self.kind.encoding.size
        return f"JPEG or PNG, as {width} x {height}"

    def accepted(self, baseline: Distribution | None) -> Accepted:
        yield "a picture", str(self.feature.example)
        yield "one pixel", _base64(png(1, 1, bytes(4)))
        yield "a polyglot", _base64(png(1, 1, bytes(4)) + b"PK\3\4<script>")

    def _bad(self) -> Iterator[BadValue]:
        yield "number for a picture", "1", "type"
        yield "no base64", '"é"', "type"
        whole = a2b_base64(str(self.feature.example))
        for name, data in (
            ("no picture", b"GIF89a"),
            ("no picture", b""),
            ("no picture", CLIENT_TEXT.encode()),
            ("a truncated picture", whole[: len(whole) // 2]),
            ("a truncated picture", whole[:33]),
            ("a broken picture", png(9, 9, bytes(9))),
            ("a broken picture", b"\xff\xd8" + b"\xff\xe1\0\2" * 2000),
        ):
            yield name, f'"{_base64(data)}"', "picture"
        bomb = _base64(png(50_000, 50_000, bytes(2_000_000)))
        yield "a picture of too many pixels", f'"{bomb}"', "too_long"


_TYPES: dict[str, type[PackedType]] = {
    "boolean": PackedBoolean,
    "category": PackedCategory,
    "text": PackedText,
    "image": PackedImage,
    "date": PackedDate,
    "number": PackedNumber,
    "integer": PackedNumber,
}


def of(kind: FeatureType) -> PackedType:
    """Return the pack-time part of a feature's type."""
    return (PackedTokens if kind.feature.tokenizer else _TYPES[kind.name])(kind)


def infer_name(cells: Sequence[str], dtype: str) -> str:
    """Return the name of the type that the present cells of a sample look like."""
    if dtype == "string":
        distinct = len(set(cells))
        return "category" if distinct <= min(MAX_CATEGORIES, len(cells) / MIN_REPEATS) else "text"
    if dtype == "bool" or {cell.strip().lower() for cell in cells} <= {"true", "false"}:
        return "boolean"
    with contextlib.suppress(ValueError):
        if all(days_since_epoch(cell.strip()) is not None for cell in cells):
            return "date"
    return "number" if dtype.startswith("float") else "integer"


def png(width: int, height: int, rows: bytes) -> bytes:
    """Return a PNG of RGB pixels; each of `rows` begins with the byte of its filter."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _base64(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode()


def _checked(value: Numeric, dtype: str, whole: bool) -> Numeric:
    """Return a number that a tensor holds. Raise ValueError for one that it does not."""
    low, high = number_bounds(dtype)
    if not math.isfinite(value) or (whole and value != value // 1):
        raise ValueError
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError
    return value


def element_json_schema(
    dtype: str, minimum: Numeric | None = None, maximum: Numeric | None = None
) -> Fields:
    """Return the JSON Schema of one tensor element."""
    if dtype in ("string", "bool"):
        return {"type": "string" if dtype == "string" else "boolean"}
    if dtype.startswith("float"):
        return {"type": "number"} | _limits(minimum, maximum)
    return {"type": "integer"} | _limits(*stated_bounds(dtype, minimum, maximum))


def choice_json_schema(values: Sequence[Any]) -> Fields:
    """Return the JSON Schema of one of `values`.

    Generators of clients fail on an enum of other types than one of texts or integers, and ignore
    a condition.
    """
    types = {type(value) for value in values}
    if types == {bool}:
        return {"type": "boolean"} if len(values) == 2 else {"const": values[0]}
    if types in ({str}, {int}):
        return {"enum": [*values]}
    return {"type": "number", "if": {"type": "number"}, "then": {"enum": [*values]}}


def _limits(low: Any, high: Any) -> Fields:
    bounds = {"minimum": low, "maximum": high}
    return {name: bound for name, bound in bounds.items() if bound is not None}


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
