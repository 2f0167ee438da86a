"""Feature types: one class owns what a type means to a request, from JSON to the graph's tensor.

A class covers validation, CSV cells, bounds and drift. answerable/packing/feature_types.py has
the rest: inference from a sample, JSON Schema and test values. `of(manifest)` makes one object
per feature, once per model. Requests only use what `__init__` prepared, and the pydantic-core
schemas.

Values have two forms. In JSON, a date is an ISO 8601 string. In validated columns and in tensors,
it is a number of days. All other types have the same form in both.
"""

# ruff: noqa: D102  (the base class has the docstrings)

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import orjson

from handler import core_schema as cs
from handler.core_schema import PydanticCustomError, PydanticKnownError
from handler.errors import ArtifactError
from handler.manifest import Bound, Distribution, Feature, Manifest

Array = np.ndarray[Any, np.dtype[Any]]
Fields = dict[str, Any]
Numeric = int | float

# the largest doubles that round to a finite value of the dtype
FLOAT_MAX = {"float16": 65519.99999999999, "float32": 3.4028235677973362e38, "float64": math.inf}
# up to these, a float dtype holds every integer exactly
EXACT = {"float16": 2**11, "float32": 2**24, "float64": 2**53}
# spellings in CSV; strings have one for missing only, the empty cell
MISSING = frozenset(("", "nan", "na", "n/a", "null", "none"))
TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_DAY = EPOCH.toordinal()
FIRST_DATE, LAST_DATE = "0001-01-01", "9999-12-31"
DAY = timedelta(days=1)
MAX_INTEGER_CHARS = 20  # of any integer that a tensor holds
UNION_BRANCHES = "\0int", "\0float"  # in the location of an error; no feature has such a name


def number_bounds(dtype: str) -> tuple[Numeric, Numeric]:
    """Return the bounds of a dtype's numbers before they are rounded to it, or infinities."""
    if dtype.startswith("float"):
        return -FLOAT_MAX[dtype], FLOAT_MAX[dtype]
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def float_schema(low: Numeric, high: Numeric) -> cs.CoreSchema:
    """Return the schema of a finite JSON number within inclusive bounds."""
    return cs.float_schema(strict=True, allow_inf_nan=False, ge=low, le=high)


def integer_schema(low: Numeric, high: Numeric) -> cs.CoreSchema:
    """Return the schema of a whole JSON number, `3.0` included, within inclusive bounds.

    Bounds are compared as integers: doubles would take 2^63 for 2^63 - 1. A double over 2^53 may
    have been rounded from another integer (orjson does so from 2^64), so it is refused.
    """
    minimum, maximum = math.ceil(low), math.floor(high)

    def whole(value: Any) -> int:
        if type(value) is not float:
            raise PydanticKnownError("float_type")
        if not math.isfinite(value):
            raise PydanticKnownError("finite_number")
        if value != value // 1:
            raise PydanticKnownError("int_from_float")
        number, is_rounded = int(value), abs(value) > EXACT["float64"]
        if number < minimum + is_rounded:
            raise PydanticKnownError("greater_than_equal", {"ge": minimum})
        if number > maximum - is_rounded:
            raise PydanticKnownError("less_than_equal", {"le": maximum})
        if is_rounded:
            raise PydanticKnownError("int_from_float")
        return number

    integer = cs.int_schema(strict=True, ge=minimum, le=maximum)
    branches = integer, cs.plain_function_schema(whole)
    choices = list(zip(branches, UNION_BRANCHES, strict=True))
    return cs.union_schema(choices, mode="left_to_right")


def element_schema(
    dtype: str, minimum: Numeric | None = None, maximum: Numeric | None = None
) -> cs.CoreSchema:
    """Return the schema of one tensor element; stated bounds narrow those of the dtype."""
    if dtype == "string":
        return cs.str_schema(strict=True)
    if dtype == "bool":
        return cs.bool_schema(strict=True)
    low, high = stated_bounds(dtype, minimum, maximum)
    return float_schema(low, high) if dtype.startswith("float") else integer_schema(low, high)


def stated_bounds(
    dtype: str, minimum: Numeric | None, maximum: Numeric | None
) -> tuple[Numeric, Numeric]:
    """Return the enforced bounds: the stated ones, within those of the dtype.

    A bound also covers its own rounding to a float dtype: a maximum of 0.1 takes float32's
    0.10000000149011612, which is what a client with float32 data sends.
    """
    low, high = number_bounds(dtype)
    if minimum is not None:
        low = max(low, min(minimum, _rounded(minimum, dtype)))
    if maximum is not None:
        high = min(high, max(maximum, _rounded(maximum, dtype)))
    return low, high


def _rounded(value: Numeric, dtype: str) -> Numeric:
    """Return `value` in the precision of a float dtype; unchanged if it does not fit."""
    if abs(value) > FLOAT_MAX.get(dtype, 0):
        return value
    return float(np.dtype(dtype).type(value))


def is_missing(cell: str, is_string: bool) -> bool:
    """Return whether a CSV cell means a missing value."""
    return cell == "" if is_string else cell.strip().lower() in MISSING


def parse_number(cell: str) -> Numeric:
    """Return the number in a CSV cell. Raise ValueError for anything else, `1_000` included."""
    text = cell.strip()
    if not text.isascii() or "_" in text:
        raise ValueError
    # more digits than any integer tensor holds need no exact value; a float reads any number
    return (
        int(text) if len(text) <= MAX_INTEGER_CHARS and text.lstrip("+-").isdigit() else float(text)
    )


def days_since_epoch(text: str) -> Numeric:
    """Return an ISO 8601 date or date-time (default UTC) as days from 1970. Raise ValueError."""
    if not (text.isascii() and text[4:5] == text[7:8] == "-" and text[10:11] in ("", "T", " ")):
        raise ValueError
    if len(text) == 10:
        return date.fromisoformat(text).toordinal() - EPOCH_DAY
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - EPOCH) / DAY


def iso_date(days: Numeric) -> str:
    """Return the date, or date-time (UTC), of days since 1970. Raise OverflowError, ValueError."""
    if days == days // 1:
        return date.fromordinal(EPOCH_DAY + int(days)).isoformat()
    return (EPOCH + timedelta(days=days)).isoformat().replace("+00:00", "Z")


class FeatureType:
    """A feature's type, prepared for the feature and for the dtype of its tensor.

    All attributes are in the graph's form, and None where there are none. `low` and `high` are the
    enforced bounds, or infinite. Values outside of `counted_range` or `known_categories` are
    accepted and counted. `fill` replaces null; None means NaN.
    """

    name: ClassVar[str]
    tensor_kinds: ClassVar[str]  # numpy's kinds of the dtypes it goes into
    is_number: ClassVar[bool] = False  # a JSON number
    ranged: ClassVar[bool] = False  # has a minimum and a maximum
    discrete: ClassVar[bool] = False  # drift: the baseline lists values, not quantiles
    has_json_form: ClassVar[bool] = False  # validated values differ from those in JSON
    binned_by_length: ClassVar[bool] = False  # drift: of the number of characters
    is_encoded: ClassVar[bool] = False  # `encode` makes the graph's inputs
    summaries: ClassVar[tuple[str, ...]] = ()  # drift: of these attributes of a validated value
    encoding: Any = None  # the manifest's Tokenizer or Image
    directory: Path | None = None  # of the artifact
    low: Numeric = -math.inf
    high: Numeric = math.inf
    counted_range: tuple[float, float] | None = None
    known_categories: frozenset[Any] | None = None
    allowed_values: Sequence[Any] | None = None  # the only values, apart from null
    whole = False  # has only whole numbers
    max_length: int | None = None
    empty: str | None = None  # what an empty cell is

    def __init__(self, feature: Feature, dtype: str) -> None:
        self.feature, self.dtype = feature, dtype
        self.is_string, self.is_float = dtype == "string", dtype.startswith("float")
        fill = feature.fill_value
        if fill is None:
            self.fill: Any = "" if self.is_string else None
        else:
            self.fill = self.to_graph(fill)

    # validation ---------------------------------------------------------------------------------

    def schema(self) -> cs.CoreSchema:
        """Return the pydantic-core schema of a value that is not null."""
        raise NotImplementedError

    def nullable_schema(self) -> cs.CoreSchema:
        """Return the schema of a value, null included where the contract takes it."""
        if self.feature.nullable:
            return cs.default_schema(cs.nullable_schema(self.schema()), None)
        return self.schema()

    def to_graph(self, value: Any) -> Any:
        """Return a JSON value in the graph's form."""
        return value

    def to_json(self, value: Any) -> Any:
        """Return a validated value, or null, in its JSON form."""
        return value

    def from_tensor(self, column: Array) -> list[Any]:
        """Return the values of a tensor's column in their JSON form, None for NaN if nullable."""
        values: list[Any] = column.tolist()
        if self.feature.nullable and column.dtype.kind == "f":
            values = [None if value != value else value for value in values]
        return self.from_numbers(values)

    def from_numbers(self, values: list[Any]) -> list[Any]:
        """Return the values of a tensor sent as JSON in the JSON form of the feature."""
        return values

    def parse(self, value: Any) -> Any:
        """Return the validated value of an encoded feature. Raise ValueError."""
        raise NotImplementedError

    def encode(self, values: Iterable[Any]) -> dict[str, Array]:
        """Return the graph's inputs [rows, …] by name, from validated or from JSON values."""
        raise NotImplementedError

    # CSV ----------------------------------------------------------------------------------------

    def parse_cell(self, cell: str) -> Any:
        """Return a cell's value in JSON form. Raise ValueError if it has none."""
        raise NotImplementedError

    def parse_cells(self, cells: Sequence[str], max_errors: int) -> list[Any]:
        """Return a column's values in JSON form, None for missing.

        A cell that has no value stays text, which validation refuses. After `max_errors` of them
        the rest is left unread.
        """
        if self.is_string:
            return [cell or self.empty for cell in cells]
        values: list[Any] = []
        errors = 0
        for i, cell in enumerate(cells):
            try:
                values.append(None if is_missing(cell, False) else self.parse_cell(cell))
            except ValueError:
                values.append(cell)
                errors += 1
                if errors > max_errors:
                    return [*values, *cells[i + 1 :]]
        return values

    # bounds and drift ---------------------------------------------------------------------------

    def stated_bounds(self) -> tuple[Numeric, Numeric]:
        """Return the enforced bounds as they are stated, without their rounding."""
        return self.low, self.high

    def is_sampled(self, value: Any, baseline: Distribution) -> bool:
        """Return whether a validated value is within what the sample showed."""
        if value is None or value != value:
            return baseline.missing_share > 0
        if self.binned_by_length:
            value = len(value)
        if self.discrete:
            return value in baseline.values
        i = bisect_left(baseline.values, value)
        if i < len(baseline.values) and baseline.values[i] == value:
            return True
        # between two values of the baseline there may be others of the sample, or none
        return 0 < i < len(baseline.values) and baseline.cdf_left[i] > baseline.cdf_right[i - 1]


class Number(FeatureType):
    """A finite number."""

    name, tensor_kinds, ranged, is_number = "number", "fiu", True, True

    def __init__(self, feature: Feature, dtype: str) -> None:
        super().__init__(feature, dtype)
        self.whole = self.whole or not self.is_float
        self.minimum, self.maximum = map(self._bound, (feature.minimum, feature.maximum))
        enforced = feature.out_of_range == "reject"
        bounds = (self.minimum, self.maximum) if enforced else (None, None)
        self.low, self.high = self._enforced(*bounds)
        if not enforced:
            self.counted_range = stated_bounds(dtype, self.minimum, self.maximum)

    def _bound(self, bound: Bound) -> Numeric | None:
        """Return a bound of the manifest in the graph's form."""
        if isinstance(bound, str):
            raise ValueError
        return bound

    def _enforced(
        self, minimum: Numeric | None, maximum: Numeric | None
    ) -> tuple[Numeric, Numeric]:
        return stated_bounds(self.dtype, minimum, maximum)

    def schema(self) -> cs.CoreSchema:
        make = integer_schema if self.whole else float_schema
        return make(self.low, self.high)

    def parse_cell(self, cell: str) -> Any:
        value = parse_number(cell)
        return None if value != value else value

    def parse_cells(self, cells: Sequence[str], max_errors: int) -> list[Any]:
        # orjson takes half of the time of `float`; a cell is one value if it has no comma
        text = ",".join([cell or "null" for cell in cells] if "" in cells else cells)
        try:
            values: list[Any] = orjson.loads(f"[{text}]")
        except ValueError:
            values = []
        if len(values) == len(cells) == text.count(",") + 1:
            return values
        return super().parse_cells(cells, max_errors)

    def stated_bounds(self) -> tuple[Numeric, Numeric]:
        if self.feature.out_of_range == "accept":
            return self.low, self.high
        return (
            self.low if self.minimum is None else self.minimum,
            self.high if self.maximum is None else self.maximum,
        )


class Integer(Number):
    """A whole number; JSON's 3.0 is one. In a float tensor, one that the dtype holds exactly."""

    name, whole = "integer", True

    def _enforced(
        self, minimum: Numeric | None, maximum: Numeric | None
    ) -> tuple[Numeric, Numeric]:
        low, high = stated_bounds(self.dtype, minimum, maximum)
        exact = EXACT.get(self.dtype, math.inf)
        low = max(low, -exact) if minimum is None else low
        return low, min(high, exact) if maximum is None else high


def nearest_date(days: Numeric, limit: str) -> str:
    """Return the date of a number of days; `limit` if no date has it."""
    try:
        return iso_date(days)
    except (ValueError, OverflowError):
        return limit


class NoDate(float):
    """A finite number of days in a tensor that is before or after all dates."""


class Date(Number):
    """An ISO 8601 date or date-time; days since 1970-01-01 UTC, whole in an integer tensor."""

    name, is_number, has_json_form = "date", False, True

    def _bound(self, bound: Bound) -> Numeric | None:
        if bound is None:
            return None
        if not isinstance(bound, str):
            raise ValueError
        number: Numeric = self.to_graph(bound)
        return number

    def to_graph(self, value: Any) -> Any:
        days = days_since_epoch(value)
        return days if self.is_float else math.floor(days)

    def to_json(self, value: Any) -> Any:
        return None if value is None else iso_date(value)

    def schema(self) -> cs.CoreSchema:
        low, high = self.low, self.high

        def days(text: Any) -> Numeric:
            if type(text) is NoDate:
                if text < 0:
                    raise PydanticCustomError("date_min", "", {"ge": nearest_date(low, FIRST_DATE)})
                raise PydanticCustomError("date_max", "", {"le": nearest_date(high, LAST_DATE)})
            if type(text) is float and not math.isfinite(text):
                raise PydanticKnownError("finite_number")
            if type(text) is not str:
                raise PydanticKnownError("string_type")
            try:
                value: Numeric = self.to_graph(text)
            except ValueError:
                raise PydanticCustomError("date", "") from None
            if value < low:
                raise PydanticCustomError("date_min", "", {"ge": iso_date(low)})
            if value > high:
                raise PydanticCustomError("date_max", "", {"le": iso_date(high)})
            return value

        return cs.plain_function_schema(days)

    def from_numbers(self, values: list[Any]) -> list[Any]:
        """Return days as ISO dates; a value that is no date becomes one that is refused."""
        dates: list[Any] = []
        for value in values:
            try:
                dates.append(
                    iso_date(value) if type(value) in (int, float) else None if value is None else 0
                )
            except (ValueError, OverflowError):
                dates.append(NoDate(value) if math.isfinite(value) else value)
        return dates

    def parse_cell(self, cell: str) -> Any:
        return cell.strip()

    def parse_cells(self, cells: Sequence[str], max_errors: int) -> list[Any]:
        return FeatureType.parse_cells(self, cells, max_errors)


class Category(FeatureType):
    """One of the listed strings or numbers."""

    name, tensor_kinds, discrete = "category", "Ofiu", True

    def __init__(self, feature: Feature, dtype: str) -> None:
        super().__init__(feature, dtype)
        if not feature.categories:
            raise ArtifactError(f"feature {feature.name}: a category without categories")
        self.closed = feature.unknown_category == "reject"
        values = feature.categories
        if self.is_float:  # a client with float32 data sends 0.1 as float32 has it
            values += tuple(_rounded(v, dtype) for v in values if not isinstance(v, str))
        if not self.is_string:
            self.low, self.high = number_bounds(dtype)
        if self.closed:
            self.allowed_values = values
        else:
            self.known_categories = frozenset((*values, self.fill))

    def schema(self) -> cs.CoreSchema:
        if not self.closed:
            return element_schema(self.dtype)
        schema = cs.literal_schema(list(dict.fromkeys(self.allowed_values or ())))
        if self.is_string:
            return schema
        # a literal 1 would take true
        return cs.chain_schema([float_schema(-math.inf, math.inf), schema])

    def parse_cell(self, cell: str) -> Any:
        return cell if self.is_string else parse_number(cell)


class Boolean(FeatureType):
    """True or false; 1 or 0 in a tensor of numbers."""

    name, tensor_kinds, discrete = "boolean", "bfiu", True
    low, high, whole = 0, 1, True

    def schema(self) -> cs.CoreSchema:
        return cs.bool_schema(strict=True)

    def from_numbers(self, values: list[Any]) -> list[Any]:
        flags = {0: False, 1: True}
        return [flags.get(v, v) if type(v) in (int, float) else v for v in values]

    def parse_cell(self, cell: str) -> Any:
        value = TRUTH.get(cell.strip().lower())
        if value is None:
            raise ValueError
        return value


class Text(FeatureType):
    """Any string up to `max_length` characters."""

    name, tensor_kinds, binned_by_length = "text", "O", True

    def __init__(self, feature: Feature, dtype: str) -> None:
        super().__init__(feature, dtype)
        self.max_length = feature.max_length
        self.empty = None if feature.nullable else ""

    def schema(self) -> cs.CoreSchema:
        return cs.str_schema(strict=True, max_length=self.max_length)

    def parse_cell(self, cell: str) -> Any:
        return cell


# in the order in which packing tries a sample's cells
TYPES: dict[str, type[FeatureType]] = {
    cls.name: cls for cls in (Boolean, Category, Text, Date, Number, Integer)
}


def make(feature: Feature, dtype: str) -> FeatureType:
    """Return a feature's type for a tensor of `dtype`. Raise ArtifactError if they do not fit."""
    cls, fitting = _class(feature), fitting_types(dtype)
    if cls is not None and cls.is_encoded and dtype == "string":
        fitting = [cls.name]
    if cls is None or feature.type not in fitting:
        raise ArtifactError(
            f"feature {feature.name}: a {dtype} tensor cannot be of type {feature.type}; "
            f"it may be {', '.join(fitting)}"
        )
    try:
        return cls(feature, dtype)
    except (TypeError, ValueError):
        raise ArtifactError(f"feature {feature.name}: a value of the wrong type") from None


def _class(feature: Feature) -> type[FeatureType] | None:
    """Return the class of a feature. Those that need another library are imported here."""
    if feature.image:
        from handler.encoders.image import ImageType

        return ImageType
    if feature.tokenizer:
        from handler.encoders.text import TokenizedTextType

        return TokenizedTextType
    return TYPES.get(feature.type)


def fitting_types(dtype: str) -> list[str]:
    """Return the names of the types that a tensor of `dtype` may have."""
    kind = "O" if dtype == "string" else np.dtype(dtype).kind
    return [name for name, cls in TYPES.items() if kind in cls.tensor_kinds]


def of(manifest: Manifest, directory: Path | None = None) -> tuple[FeatureType, ...]:
    """Return the types of all features; `directory` is the artifact's, for a tokenizer."""
    dtypes = {tensor.name: tensor.dtype for tensor in manifest.inputs}
    types = tuple(make(feature, dtypes[feature.input]) for feature in manifest.features)
    baseline = manifest.baseline.features if manifest.baseline else {}
    for kind in types:
        kind.directory = directory
        counted = baseline.get(kind.feature.name)
        if counted and not kind.discrete and {*map(type, counted.values)} - {int, float}:
            raise ArtifactError(f"baseline of {kind.feature.name}: a value that is no number")
    return types
