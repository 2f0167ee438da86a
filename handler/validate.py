"""JSON bodies -> validated columns, by schemas that pydantic-core runs without `pydantic`.

A body is validated at most twice. The first pass stops at the first bad row, so six megabytes of
wrong values cost no more than one. The second pass stops after 20 violations.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import Any

import orjson

from handler import core_schema as cs
from handler import fast_bytes, feature_types
from handler.core_schema import SchemaValidator, ValidationError, from_json
from handler.duplicate_keys import reject_duplicate_keys
from handler.errors import MAX_VIOLATIONS, BadRequest, ContractViolation, Violation, pointer
from handler.feature_types import UNION_BRANCHES, FeatureType
from handler.manifest import Manifest, Shape, Tensor
from handler.model_inputs import Columns

Row = dict[str, Any]
PointerFor = Callable[[int, int], str]  # the JSON pointer of a value, by feature and row number

# code and message of a violation, by pydantic-core's error type; {le} and its like are the
# contract's numbers, never the caller's
MESSAGES = {
    "missing": ("missing", "is required"),
    "float_type": ("type", "must be a number"),
    "int_type": ("type", "must be an integer"),
    "int_from_float": ("type", "must be an integer"),
    "bool_type": ("type", "must be true or false"),
    "string_type": ("type", "must be a string"),
    "string_unicode": ("type", "must be a string"),
    "dict_type": ("type", "must be an object"),
    "list_type": ("type", "must be an array"),
    "date": ("type", "must be an ISO 8601 date or date-time"),
    "date_min": ("out_of_range", "must be at least {ge}"),
    "date_max": ("out_of_range", "must be at most {le}"),
    "finite_number": ("non_finite", "must be a finite number"),
    "less_than_equal": ("out_of_range", "must be at most {le}"),
    "greater_than_equal": ("out_of_range", "must be at least {ge}"),
    "literal_error": ("unknown_category", "must be one of the contract's categories"),
    "string_too_long": ("too_long", "must have at most {max_length} characters"),
    "base64": ("type", "must be base64"),
    "picture": ("picture", "must be a JPEG or a PNG that can be decoded"),
    "picture_bytes": ("too_long", "must have at most {max_length} bytes"),
    "picture_pixels": ("too_long", "must have at most {max_length} pixels"),
    "too_short": ("wrong_length", "must have at least {min_length} items"),
    "too_long": ("wrong_length", "must have at most {max_length} items"),
}
_CONTEXT = ("le", "ge", "min_length", "max_length")  # the contract's numbers in an error
# characters from which on validating by column is faster than by row
COLUMNAR_MIN_CHARS = 4096
# characters from which on counting brackets is worth it
NESTING_CHECK_MIN_CHARS = 250_000
# orjson reads no numbers that a double does not hold; nor do we, as JSON's numbers are doubles
MAX_DOUBLE = 1.7976931348623157e308


def example(manifest: Manifest) -> Row:
    """Return an instance that the contract accepts: the packed examples, or the least tensors."""
    if manifest.features:
        return {feature.name: feature.example for feature in manifest.features}
    return {tensor.name: _least(tensor, manifest.row_shape(tensor)) for tensor in manifest.inputs}


def _least(tensor: Tensor, shape: Shape) -> Any:
    """Return nested lists of the least shape, of the accepted value that is the nearest to 0."""
    if shape:
        return [_least(tensor, shape[1:])] * (1 if shape[0] is None else shape[0])
    if tensor.dtype in ("string", "bool"):
        return "" if tensor.dtype == "string" else False
    low, high = feature_types.stated_bounds(tensor.dtype, tensor.minimum, tensor.maximum)
    return min(max(0, low), high)


def accepts_arbitrary_text(types: Sequence[FeatureType]) -> bool:
    """Return whether some value may be a text that the contract does not list."""
    return any(kind.is_string and kind.allowed_values is None for kind in types)


def _max_brackets_per_row(types: Sequence[FeatureType]) -> int:
    """Return the most brackets and braces of a row, those in its strings included; 0: no limit."""
    if not types or accepts_arbitrary_text(types):
        return 0
    count = 1
    for kind in types:
        categories = map(_count_brackets, map(str, kind.feature.categories))
        count += _count_brackets(kind.feature.name) + max(categories, default=0)
    return count


def _count_brackets(text: str | bytes) -> int:
    return fast_bytes.count(text, "[") + fast_bytes.count(text, "{")


def _nested_schema(tensor: Tensor, shape: Shape, max_elements: int) -> cs.CoreSchema:
    schema = feature_types.element_schema(tensor.dtype, tensor.minimum, tensor.maximum)
    for size in reversed(shape):
        longest = max_elements if size is None else size
        schema = cs.list_schema(schema, min_length=size or 0, max_length=longest, fail_fast=True)
    return schema


class RequestValidator:
    """The contract of one manifest, ready to validate."""

    def __init__(self, manifest: Manifest, types: Sequence[FeatureType]) -> None:
        self.manifest, self.types = manifest, types
        schemas = [kind.nullable_schema() for kind in types]
        if types:
            fields = {
                kind.feature.name: cs.typed_dict_field(schema, required=not kind.feature.nullable)
                for kind, schema in zip(types, schemas, strict=True)
            }
        else:
            limit = manifest.limits.elements
            fields = {
                tensor.name: cs.typed_dict_field(
                    _nested_schema(tensor, manifest.row_shape(tensor), limit)
                )
                for tensor in manifest.inputs
            }
        # unknown keys are let in and counted: "forbid" makes an error for each of them
        row = cs.typed_dict_schema(fields, extra_behavior="allow")
        rows = cs.list_schema(row, min_length=1, max_length=manifest.limits.rows, fail_fast=True)
        body = cs.typed_dict_schema(
            {"instances": cs.typed_dict_field(rows)}, extra_behavior="allow"
        )
        self._body = SchemaValidator(body)
        self._row = SchemaValidator(row)
        self._names = list(fields)
        self._column_schemas = [cs.list_schema(schema, fail_fast=True) for schema in schemas]
        self._columns = SchemaValidator(cs.tuple_schema(self._column_schemas, fail_fast=True))
        self._max_rows = manifest.limits.rows
        self._max_brackets = _max_brackets_per_row(types)

    def parse(self, body: str | bytes) -> Columns:
        """Return a body's instances as columns, by feature. Raise BadRequest, ContractViolation."""
        if len(body) <= COLUMNAR_MIN_CHARS:
            try:
                validated = self._body.validate_json(body)
            except ValidationError as error:
                raise self._error(error, lambda: _from_json(body)) from None
            return rows_to_columns(self._check_keys(body, validated, None))
        document = self.parse_json(body)
        columns = self._validate_by_column(document)
        if columns is None:
            return rows_to_columns(self._validate_by_row(body, document))
        reject_duplicate_keys(body, document, 1 + sum(map(len, document["instances"])))
        return columns

    def parse_json(self, body: str | bytes, lists_per_row: int = 0) -> Any:
        """Return the JSON of a body, whose rows may be in so many lists each. Raise BadRequest.

        A large body that nests more than the contract's rows can is refused unread: its objects
        would take 40 times its size. NaN, Infinity and numbers that no double holds are let in,
        as non-finite floats: the schemas refuse them where they are.
        """
        limit = 1000 + self._max_rows * (2 * self._max_brackets + lists_per_row)
        if (
            self._max_brackets
            and len(body) > NESTING_CHECK_MIN_CHARS
            and _count_brackets(body) > limit
        ):
            raise BadRequest("the body nests more than the contract's rows can")
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            try:
                return _from_json(body)
            except ValueError:
                where = f"line {error.lineno} column {error.colno}"
                raise BadRequest(f"the body is not valid JSON ({where})") from None

    def validate_rows(self, rows: Any) -> Columns:
        """Return the columns of parsed instances. Raise ContractViolation."""
        document = {"instances": rows}
        columns = self._validate_by_column(document)
        return columns or rows_to_columns(self._validate_by_row(b"", document))

    def validate_columns(
        self, columns: Sequence[Sequence[Any]], pointer_for: PointerFor
    ) -> Columns:
        """Return the validated columns of a tabular contract. Raise ContractViolation."""
        try:
            validated: Columns = self._columns.validate_python(columns)
        except ValidationError:
            raise ContractViolation(self._column_violations(columns, pointer_for)) from None
        return validated

    def _validate_by_column(self, document: Any) -> Columns | None:
        """Return the columns, a third faster than by row; None if they may not be valid."""
        if not self._column_schemas:
            return None
        try:
            rows = document["instances"]
            if len(document) > 1 or type(rows) is not list or not 0 < len(rows) <= self._max_rows:
                return None
            validated: Columns = self._columns.validate_python(self._to_columns(rows))
        except (ValueError, TypeError, KeyError):  # ValidationError is a ValueError
            return None
        return validated

    def _to_columns(self, rows: list[Row]) -> Sequence[Sequence[Any]]:
        """Return the columns of parsed rows. Raise KeyError for unknown keys."""
        order, names = list(rows[0]), frozenset(self._names)
        if len(order) == len(names) and all(map(order.__eq__, map(list, rows))):
            # all rows have the same keys in the same order: half of the time
            columns = dict(zip(order, zip(*map(dict.values, rows), strict=True), strict=True))
            return [columns[name] for name in self._names]
        if not all(map(names.issuperset, rows)):
            raise KeyError
        return [list(map(dict.get, rows, repeat(name))) for name in self._names]

    def _validate_by_row(self, body: str | bytes, document: Any) -> list[Row]:
        # not from the text: pydantic-core copies the whole input into an error
        try:
            validated = self._body.validate_python(document)
        except ValidationError as error:
            raise self._error(error, lambda: document) from None
        return self._check_keys(body, validated, document)

    def _check_keys(self, body: str | bytes, validated: Any, document: Any) -> list[Row]:
        """Raise for unknown and for duplicate keys; `document` is the body as it was sent."""
        rows: list[Row] = validated["instances"]
        if len(validated) > 1 or sum(map(len, rows)) != len(rows) * len(self._names):
            raise ContractViolation(self._violations(document or _from_json(body)))
        if document is None:
            has_null = any(None in row.values() for row in rows)
            # a null may be a default, whose key is not in the body
            document = orjson.loads(body) if has_null else validated
        reject_duplicate_keys(body, document, 1 + sum(map(len, document["instances"])))
        return rows

    def _error(
        self, error: ValidationError, document: Callable[[], Any]
    ) -> BadRequest | ContractViolation:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            where = first["ctx"]["error"].rpartition(" at ")[2]
            return BadRequest(f"the body is not valid JSON ({where})")
        if first["loc"] in ((), ("instances",)):
            if first["type"] == "string_unicode":
                return BadRequest("the body is not valid UTF-8")
            return ContractViolation([_violation(first)])
        parsed = document()
        if len(parsed["instances"]) > self._max_rows:  # said before anything about the rows
            message = MESSAGES["too_long"][1].format(max_length=self._max_rows)
            return ContractViolation([Violation("/instances", "wrong_length", message)])
        listed = list(islice(self._violations(parsed), MAX_VIOLATIONS + 1))
        return ContractViolation(listed or [_violation(first)])

    def _violations(self, document: Any) -> Iterator[Violation]:
        """Yield the violations of a document that has instances, row by row."""
        if len(document) > 1:
            yield _unknown_field(len(document) - 1)
        for i, row in enumerate(document["instances"]):
            fields = row
            if isinstance(row, dict):
                fields = {name: row[name] for name in self._names if name in row}
                if len(fields) < len(row):
                    yield _unknown_field(len(row) - len(fields), "instances", i)
            try:
                self._row.validate_python(fields)
            except ValidationError as error:
                yield from violations(error, "instances", i)

    def _column_violations(
        self, columns: Sequence[Sequence[Any]], pointer_for: PointerFor
    ) -> Iterator[Violation]:
        for k, (column, schema) in enumerate(zip(columns, self._column_schemas, strict=True)):
            for i, violation in iter_violations(SchemaValidator(schema), column):
                yield violation._replace(pointer=pointer_for(k, i))


def rows_to_columns(rows: Iterable[Row]) -> Columns:
    """Return the columns of validated rows."""
    return list(zip(*map(dict.values, rows), strict=True))


def _from_json(body: str | bytes) -> Any:
    """Return the JSON of a body with its numbers as doubles hold them. Raise ValueError.

    Slower than orjson, and it reads NaN, Infinity and integers of up to 4,300 digits.
    """
    import re

    data = body.encode() if isinstance(body, str) else body  # or lone surrogates are a TypeError
    whole = [from_json(data)]  # in a list, because the document itself may be a number
    if re.search(b"[0-9]{309}", data):
        pending: list[Any] = [whole]
        for value in pending:
            for key, item in value.items() if type(value) is dict else enumerate(value):
                if type(item) in (dict, list):
                    pending.append(item)
                elif type(item) is int and abs(item) > MAX_DOUBLE:
                    value[key] = math.inf
    return whole[0]


def _unknown_field(count: int, *where: str | int) -> Violation:
    """Return a violation that points at the object: the key is the client's."""
    plural = "field that is" if count == 1 else "fields that are"
    return Violation(pointer(*where), "unknown_field", f"has {count} {plural} not in the contract")


def iter_violations(
    validator: SchemaValidator, values: Sequence[Any]
) -> Iterator[tuple[int, Violation]]:
    """Yield the values that a list's validator refuses, by index. It stops at the first itself."""
    start = 0
    while True:
        try:
            validator.validate_python(values[start:])
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            start += int(first["loc"][0]) + 1
            yield start - 1, violations(error)[0]
        else:
            return


def violations(error: ValidationError, *where: str | int) -> list[Violation]:
    """Return the violations of an error, one per pointer."""
    by_pointer: dict[str, Violation] = {}
    for detail in error.errors(include_url=False, include_input=False):
        violation = _violation(detail, *where)
        # the branch for whole floats says the most about a float, and "float_type" about the rest
        if violation.pointer not in by_pointer or detail["type"] != "float_type":
            by_pointer[violation.pointer] = violation
    return list(by_pointer.values())


def _violation(detail: Any, *where: str | int) -> Violation:
    code, message = MESSAGES.get(detail["type"], ("invalid", "is not in the contract"))
    location = [step for step in detail["loc"] if step not in UNION_BRANCHES]
    context = detail.get("ctx", {})
    bounds = {name: _shortest(context[name]) for name in _CONTEXT if name in context}
    return Violation(pointer(*where, *location), code, message.format(**bounds))


def _shortest(bound: Any) -> Any:
    """Return a bound as people write it: 10 for 10.0, 0.1 for what float32 makes of it."""
    if not isinstance(bound, float):
        return bound
    if bound == bound // 1:
        return int(bound)
    import numpy as np

    with np.errstate(over="ignore"):
        rounded = (np.float32(bound), np.float16(bound))
    return min((str(v) for v in (bound, *rounded) if float(v) == bound), key=len)
