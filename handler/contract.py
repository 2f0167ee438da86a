"""manifest -> validators for rows and tensors; predictions -> JSON.

Validation is pydantic-core's, straight from the JSON text, with the schema written from the
manifest: `pydantic.main` alone would cost a cold start 70 ms. It runs twice at most. The first
pass stops at the first bad row, so that six megabytes of wrong values cost no more than one; the
second looks only as far as it needs to tell the caller of 20 violations.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import orjson

from handler import core_schema as cs
from handler.core_schema import SchemaValidator, ValidationError, from_json
from handler.errors import (
    MAX_VIOLATIONS,
    BadOutput,
    BadRequest,
    ContractViolation,
    PayloadTooLarge,
    Violation,
    pointer,
)
from handler.manifest import BY_CLASS, Decision, Feature, Manifest, Output, Tensor
from handler.model_inputs import Array, Columns, dtype

Row = dict[str, Any]

# a refused value's code and what is said of it, by pydantic-core's error type; {le} and the like
# are the contract's own numbers, nothing of the caller's
MESSAGES = {
    "missing": ("missing", "is required"),
    "float_type": ("type", "must be a number"),
    "int_type": ("type", "must be an integer"),
    "int_from_float": ("type", "must be an integer"),
    "multiple_of": ("type", "must be an integer"),
    "bool_type": ("type", "must be true or false"),
    "string_type": ("type", "must be a string"),
    "string_unicode": ("type", "must be a string"),
    "dict_type": ("type", "must be an object"),
    "list_type": ("type", "must be an array"),
    "finite_number": ("non_finite", "must be a finite number"),
    "less_than_equal": ("out_of_range", "must be at most {le}"),
    "greater_than_equal": ("out_of_range", "must be at least {ge}"),
    "literal_error": ("unknown_category", "must be one of the contract's categories"),
    "string_too_long": ("too_long", "must have at most {max_length} characters"),
    "too_short": ("wrong_length", "must have at least {min_length} items"),
    "too_long": ("wrong_length", "must have at most {max_length} items"),
}
# characters of a body from which on it is faster to validate by column
COLUMNAR_MIN_CHARS = 4096
NESTING_CHECK_MIN_CHARS = 250_000  # characters from which on it is worth counting brackets
FLOAT_MAX = {"float16": 65504.0, "float32": 3.4028234663852886e38, "float64": None}
# the integers that a dtype holds exactly
EXACT = {"float16": 2**11, "float32": 2**24, "float64": 2**53}


def number_bounds(dtype: str) -> tuple[float | None, float | None]:
    """The least and greatest value that the dtype can hold."""
    if dtype.startswith("float"):
        limit = FLOAT_MAX[dtype]
        return (None if limit is None else -limit), limit
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def element_schema(dtype: str) -> cs.CoreSchema:
    """The schema of one tensor element; JSON's 3.0 is an integer, as JSON Schema has it."""
    if dtype == "string":
        return cs.str_schema(strict=True)
    if dtype == "bool":
        return cs.bool_schema(strict=True)
    low, high = number_bounds(dtype)
    return _float(low, high) if dtype.startswith("float") else _integer(low, high)


def _float(low: float | None, high: float | None, step: float | None = None) -> cs.CoreSchema:
    return cs.float_schema(strict=True, allow_inf_nan=False, ge=low, le=high, multiple_of=step)


def _integer(low: float | None, high: float | None) -> cs.CoreSchema:
    whole = cs.int_schema(
        strict=True,
        ge=None if low is None else int(np.ceil(low)) if isinstance(low, float) else low,
        le=None if high is None else int(np.floor(high)) if isinstance(high, float) else high,
    )
    # 1 of 3.0, but not of 3.00000001: pydantic-core's tolerance is relative, so it ends at 2^24
    limit = 2.0**24
    low = -limit if low is None else max(low, -limit)
    high = limit if high is None else min(high, limit)
    return cs.union_schema([whole, _float(low, high, 1)], mode="left_to_right")


def feature_schema(feature: Feature, dtype: str) -> cs.CoreSchema:
    """The schema of one feature's value, null included where the contract takes it."""
    if feature.type == "text":
        schema: cs.CoreSchema = cs.str_schema(strict=True, max_length=feature.max_length)
    elif feature.type == "boolean":
        schema = cs.bool_schema(strict=True)
    elif feature.type == "category" and feature.unknown_category == "accept":
        schema = element_schema(dtype)
    elif feature.type == "category":
        schema = cs.literal_schema(list(feature.categories))
        if not isinstance(feature.categories[0], str):  # a literal 1 would take true
            schema = cs.chain_schema([_float(None, None), schema])
    else:
        low, high = feature_bounds(feature, dtype)
        schema = _integer(low, high) if feature.type == "integer" else _float(low, high)
    if feature.nullable:
        return cs.default_schema(cs.nullable_schema(schema), None)
    return schema


def feature_bounds(feature: Feature, dtype: str) -> tuple[float | None, float | None]:
    """The least and greatest number that is taken: the stated range, or what the dtype holds."""
    low, high = number_bounds(dtype)
    if feature.type == "integer" and dtype in EXACT:
        low, high = -EXACT[dtype], EXACT[dtype]
    if feature.out_of_range == "reject":
        low = low if feature.minimum is None else feature.minimum
        high = high if feature.maximum is None else feature.maximum
    return low, high


def _row_schema(manifest: Manifest) -> cs.CoreSchema:
    if not manifest.features:
        skip = 0 if manifest.execution.batch == "none" else 1
        fields = {
            tensor.name: cs.typed_dict_field(_nested(tensor, skip, manifest.limits.elements))
            for tensor in manifest.inputs
        }
    else:
        dtypes = {tensor.name: tensor.dtype for tensor in manifest.inputs}
        fields = {
            feature.name: cs.typed_dict_field(
                feature_schema(feature, dtypes[feature.input]), required=not feature.nullable
            )
            for feature in manifest.features
        }
    # unknown keys are let in and counted by `rows`: "forbid" makes an error for each of them
    return cs.typed_dict_schema(fields, extra_behavior="allow")


def _column_schemas(manifest: Manifest) -> list[cs.CoreSchema]:
    dtypes = {tensor.name: tensor.dtype for tensor in manifest.inputs}
    return [
        cs.list_schema(feature_schema(f, dtypes[f.input]), fail_fast=True)
        for f in manifest.features
    ]


def _nested(tensor: Tensor, skip: int, elements: int) -> cs.CoreSchema:
    schema = element_schema(tensor.dtype)
    for size in reversed(tensor.shape[skip:]):
        most = elements if size is None else size
        schema = cs.list_schema(schema, min_length=size or 0, max_length=most, fail_fast=True)
    return schema


def example(manifest: Manifest) -> Row:
    """An instance that the contract accepts: the packed examples, or zeros of the least shape."""
    if manifest.features:
        return {feature.name: feature.example for feature in manifest.features}
    skip = 0 if manifest.execution.batch == "none" else 1
    return {tensor.name: _zeros(tensor.dtype, tensor.shape[skip:]) for tensor in manifest.inputs}


def _zeros(dtype: str, shape: tuple[int | None, ...]) -> Any:
    if not shape:
        return {"string": "", "bool": False}.get(dtype, 0)
    return [_zeros(dtype, shape[1:])] * (1 if shape[0] is None else shape[0])


def accepts_arbitrary_text(features: Sequence[Feature]) -> bool:
    """Whether a value may be a text that the contract does not know."""
    return any(f.type == "text" or f.unknown_category == "accept" for f in features)


def _max_brackets_per_row(features: Sequence[Feature]) -> int:
    """The most brackets and braces a row has, those in its strings too; 0 if there is no saying."""
    if not features or accepts_arbitrary_text(features):
        return 0
    texts = [[f.name, max(map(str, f.categories), key=_count, default="")] for f in features]
    return 1 + sum(_count(text) for pair in texts for text in pair)


def _count(text: str | bytes) -> int:
    if isinstance(text, str):
        return text.count("[") + text.count("{")
    return text.count(b"[") + text.count(b"{")


class Contract:
    """The contract of one manifest, ready to validate and to answer."""

    def __init__(self, manifest: Manifest) -> None:
        row = _row_schema(manifest)
        rows = cs.list_schema(row, min_length=1, max_length=manifest.limits.rows, fail_fast=True)
        body = cs.typed_dict_schema(
            {"instances": cs.typed_dict_field(rows)}, extra_behavior="allow"
        )
        self._body = SchemaValidator(body)
        self._row = SchemaValidator(row)
        self._names = [f.name for f in manifest.features] or [t.name for t in manifest.inputs]
        self._schemas = _column_schemas(manifest)
        self._columns = SchemaValidator(cs.tuple_schema(self._schemas, fail_fast=True))
        self._limit = manifest.limits.rows
        self._marks = _max_brackets_per_row(manifest.features)
        # where the shapes have no axis for the rows, `Model.run` adds one
        self._whole = manifest.execution.batch == "none"
        self._response_bytes = manifest.limits.response_bytes
        self._outputs = [(output, _serializer(output)) for output in manifest.outputs]
        self._promised = [_expected_output(output, self._whole) for output in manifest.outputs]
        fields = [
            b'"%b":%%b' % orjson.dumps(o.name)[1:-1].replace(b"%", b"%%") for o in manifest.outputs
        ]
        fields += [b'"%b":%%b' % key for key in map(_decision_key, manifest.outputs) if key]
        self._template = b"{%b}" % b",".join(fields)
        self._suffix = b'],"model":%b}' % orjson.dumps(
            {"name": manifest.name, "version": manifest.version}
        )

    def columns(self, body: str | bytes) -> Columns:
        """The instances of a body, as one column per feature (per input of a tensor contract).

        Raises BadRequest for what is not JSON, ContractViolation for what is not in the contract.
        """
        if len(body) <= COLUMNAR_MIN_CHARS:
            return rows_to_columns(self.rows(body))
        document = self.parsed(body)
        return self._by_column(body, document) or rows_to_columns(self._rows(body, document))

    def parse_instances(self, instances: Any) -> Columns:
        """Return the columns of instances that are already parsed. Raise as `columns` does.

        The caller has rejected duplicate keys.
        """
        document = {"instances": instances}
        return self._by_column("", document) or rows_to_columns(self._rows("", document))

    def parsed(self, body: str | bytes, lists: int = 0) -> Any:
        """The JSON of a large body, and of any in another protocol, where each row may be in so
        many `lists`. Raises BadRequest.

        If it is LARGE and nests more than any table does, it is refused unread: its objects would
        take 40 times its size.
        """
        most = 1000 + self._limit * (2 * self._marks + lists)
        if self._marks and len(body) > NESTING_CHECK_MIN_CHARS and _count(body) > most:
            raise BadRequest("the body nests more than the contract's rows can")
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            where = f"line {error.lineno} column {error.colno}"
            raise BadRequest(f"the body is not valid JSON ({where})") from None

    def _by_column(self, body: str | bytes, document: Any) -> Columns | None:
        """The same, a third faster for many rows, if all is well; None if it is not plain that it
        is: `_rows` judges then.
        """
        if not self._schemas:
            return None
        try:
            rows = document["instances"]
            if len(document) > 1 or type(rows) is not list or not 0 < len(rows) <= self._limit:
                return None
            columns = [list(map(dict.get, rows, repeat(name))) for name in self._names]
            keys = sum(map(len, rows))
            if keys != len(rows) * len(self._names):
                known = frozenset(self._names)
                if not all(map(known.issuperset, rows)):
                    return None
            validated: Columns = self._columns.validate_python(columns)
        except (ValueError, TypeError, KeyError):  # ValidationError is a ValueError
            return None
        reject_duplicate_keys(body, document, keys + 1)
        return validated

    def rows(self, body: str | bytes) -> list[Row]:
        """The same as rows, each with every feature in the contract's order.

        Those of several bodies become columns by `stacked`.
        """
        if len(body) > COLUMNAR_MIN_CHARS:
            return self._rows(body, self.parsed(body))
        try:
            document = self._body.validate_json(body)
        except ValidationError as error:
            raise self._refusal(error, lambda: from_json(body)) from None
        return self._known(body, document)

    def _rows(self, body: str | bytes, sent: Any) -> list[Row]:
        """Not from the text: pydantic-core would copy all that an error is about."""
        try:
            document = self._body.validate_python(sent)
        except ValidationError as error:
            raise self._refusal(error, lambda: sent) from None
        return self._known(body, document, sent)

    def _known(self, body: str | bytes, document: Any, sent: Any = None) -> list[Row]:
        rows: list[Row] = document["instances"]
        if len(document) > 1 or sum(map(len, rows)) != len(rows) * len(self._names):
            raise ContractViolation(list(self._unknown(document)))
        if sent is None and any(None in row.values() for row in rows):
            sent = orjson.loads(body)  # what is null may have been left out, so is no name in it
        sent = sent or document
        reject_duplicate_keys(body, sent, 1 + sum(map(len, sent["instances"])))
        return rows

    def validated(
        self, columns: Sequence[Sequence[Any]], where: Callable[[int, int], str]
    ) -> Columns:
        """Columns of a tabular contract, as lists; `where` points at a value by feature and row.

        Raises ContractViolation for what is not in the contract.
        """
        try:
            found: Columns = self._columns.validate_python(columns)
        except ValidationError:
            raise ContractViolation(list(self._in_columns(columns, where))) from None
        return found

    def _in_columns(
        self, columns: Sequence[Sequence[Any]], where: Callable[[int, int], str]
    ) -> Iterator[Violation]:
        """Column by column, until there are more than can be told."""
        found = 0
        for k, (column, schema) in enumerate(zip(columns, self._schemas, strict=True)):
            for i, violation in iter_violations(SchemaValidator(schema), column):
                found += 1
                yield violation._replace(pointer=where(k, i))
                if found > MAX_VIOLATIONS:
                    return

    def predictions(self, outputs: Sequence[Array], count: int) -> list[bytes]:
        """One JSON object per row, from the outputs in the manifest's order, shape [rows, …].

        Raises BadOutput where an output is not what was promised, or is not finite.
        """
        self._checked(outputs, count)
        columns: list[Sequence[bytes]] = []
        decisions: list[Sequence[bytes]] = []
        for (output, write), values in zip(self._outputs, outputs, strict=True):
            try:
                columns.append(write(values))
            except FloatingPointError:
                raise BadOutput(f"{output.name} is not finite") from None
            if output.decision:
                decisions.append(_decide(output, output.decision, values))
        return list(map(self._template.__mod__, zip(*columns, *decisions, strict=True)))

    def _checked(self, outputs: Sequence[Array], count: int) -> None:
        for (output, _), (kind, rank, fixed), values in zip(
            self._outputs, self._promised, outputs, strict=True
        ):
            if not isinstance(values, np.ndarray) or values.dtype != kind:  # a map, say
                raise BadOutput(f"{output.name} does not have the type of the contract")
            shape = values.shape
            if len(shape) != rank or shape[0] != count or any(shape[i] != n for i, n in fixed):
                raise BadOutput(f"{output.name} does not have the shape of the contract")

    def finite(self, outputs: Sequence[Array], count: int) -> None:
        """Raises BadOutput where an output is not what was promised, or is not finite."""
        self._checked(outputs, count)
        for (output, _), values in zip(self._outputs, outputs, strict=True):
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise BadOutput(f"{output.name} is not finite")

    def answer(self, predictions: list[bytes]) -> bytes:
        """The whole response. Raises PayloadTooLarge if it is over the contract's limit."""
        body = b'{"predictions":[' + b",".join(predictions) + self._suffix
        if len(body) > self._response_bytes:
            raise PayloadTooLarge.response(self._response_bytes)
        return body

    def _refusal(
        self, error: ValidationError, sent: Callable[[], Any]
    ) -> BadRequest | ContractViolation:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            where = first["ctx"]["error"].rpartition(" at ")[2]
            return BadRequest(f"the body is not valid JSON ({where})")
        if first["loc"] in ((), ("instances",)):
            if first["type"] == "string_unicode":
                return BadRequest("the body is not valid UTF-8")
            return ContractViolation([_violation(first)])
        instances = sent()["instances"]
        if len(instances) > self._limit:  # said before anything of the rows that are too many
            message = MESSAGES["too_long"][1].format(max_length=self._limit)
            return ContractViolation([Violation("/instances", "wrong_length", message)])
        found = list(self._violations(instances))
        return ContractViolation(found or [_violation(first)])

    def _violations(self, instances: list[Any]) -> Iterator[Violation]:
        """Row by row, until there are more than can be told."""
        found = 0
        for i, row in enumerate(instances):
            known = row
            if isinstance(row, dict):
                known = {name: row[name] for name in self._names if name in row}
                if len(known) < len(row):
                    found += 1
                    yield _unknown_field(len(row) - len(known), "instances", i)
            try:
                self._row.validate_python(known)
            except ValidationError as error:
                told = violations(error, "instances", i)
                found += len(told)
                yield from told
            if found > MAX_VIOLATIONS:
                return

    def _unknown(self, document: dict[str, Any]) -> Iterator[Violation]:
        if len(document) > 1:
            yield _unknown_field(len(document) - 1)
        for i, row in enumerate(document["instances"]):
            if len(row) > len(self._names):
                yield _unknown_field(len(row) - len(self._names), "instances", i)


def rows_to_columns(rows: Iterable[Row]) -> Columns:
    """The columns of validated rows."""
    return list(zip(*map(dict.values, rows), strict=True))


def reject_duplicate_keys(body: str | bytes, document: Any, keys: int | None = None) -> None:
    """Raises BadRequest where a name stands twice in an object: readers differ in which of the two
    counts (RFC 8259, section 4), so one may have checked what another scores.

    `document` is what the body was read as, and `keys` how many names that has, if it is known. In
    the body each has a colon; only where there are more, in strings perhaps, all is looked at.
    """
    colons = body.count(":") if isinstance(body, str) else body.count(b":")
    if colons <= (_count_keys(document) if keys is None else keys):
        return
    import re

    text = body if isinstance(body, str) else body.decode()
    strings = re.findall(r'"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?', text)
    if len(strings) - strings.count("") > _count_keys(document, deep=True):
        raise BadRequest("an object in the body has the same name twice")


def _count_keys(document: Any, deep: bool = False) -> int:
    """How many names there are in all; unless `deep`, none in lists that begin with a value."""
    found, todo = 0, [document]
    for part in todo:
        if type(part) is dict:
            found += len(part)
            todo += part.values()
        elif type(part) is list and part and (deep or type(part[0]) in (dict, list)):
            todo += part
    return found


def _unknown_field(count: int, *where: str | int) -> Violation:
    """Points at the object, not at the key: that is the client's."""
    plural = "field that is" if count == 1 else "fields that are"
    return Violation(pointer(*where), "unknown_field", f"has {count} {plural} not in the contract")


def iter_violations(
    check: SchemaValidator, values: Sequence[Any]
) -> Iterator[tuple[int, Violation]]:
    """The values that a list's validator, which stops at the first, refuses, with their index."""
    start = 0
    while True:
        try:
            check.validate_python(values[start:])
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            start += int(first["loc"][0]) + 1
            yield start - 1, violations(error)[0]
        else:
            return


def violations(error: ValidationError, *where: str | int) -> list[Violation]:
    """What is to be told of an error, one violation for each place."""
    told: dict[str, Violation] = {}
    for detail in error.errors(include_url=False, include_input=False):
        violation = _violation(detail, *where)
        # an integer is tried as an int, then as a whole float, which knows more of a number's
        # breach but calls anything else no number
        if violation.pointer not in told or detail["type"] != "float_type":
            told[violation.pointer] = violation
    return list(told.values())


def _violation(detail: Any, *where: str | int) -> Violation:
    code, message = MESSAGES.get(detail["type"], ("invalid", "is not in the contract"))
    place = [part for part in detail["loc"] if part not in _BRANCHES]
    bounds = {name: int(v) if v == v // 1 else v for name, v in _bounds(detail)}
    return Violation(pointer(*where, *place), code, message.format(**bounds))


def _bounds(detail: Any) -> Iterator[tuple[str, Any]]:
    """The contract's numbers in an error."""
    context = detail.get("ctx", {})
    return ((name, context[name]) for name in _NAMED if name in context)


_NAMED = ("le", "ge", "min_length", "max_length")
# what pydantic-core puts into the location for the branches of the unions above
_BRANCHES = {"int", "float", "constrained-int", "constrained-float"}


def _expected_output(output: Output, whole: bool) -> tuple[Any, int, list[tuple[int, int]]]:
    """An output's dtype, its rank with the rows' axis, and the sizes of the others as promised."""
    axes = output.shape if whole else output.shape[1:]
    sizes: Sequence[int | None] = axes
    if output.kind in ("value", "label"):
        sizes = [1] * len(axes)
    elif output.kind in BY_CLASS:
        sizes = [*axes[:-1], len(output.classes)]
    fixed = [(i, size) for i, size in enumerate(sizes, 1) if size is not None]
    return dtype(output.dtype), len(axes) + 1, fixed


def _serializer(output: Output) -> Callable[[Array], Sequence[bytes]]:
    """Values [rows, …] -> one JSON fragment per row, in the shortest form of their own dtype."""
    if output.kind == "label" and output.classes:
        known = {value: orjson.dumps(value) for value in output.classes}

        def labels(values: Array) -> list[bytes]:
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise FloatingPointError
            return [known.get(v) or orjson.dumps(v) for v in values.ravel().tolist()]

        return labels
    if output.kind in BY_CLASS:
        names = [orjson.dumps(str(value)) for value in output.classes]
        template = b"{%b}" % b",".join(b"%b:%%b" % name.replace(b"%", b"%%") for name in names)
        width = len(names)

        def numbers(values: Array) -> list[bytes]:
            parts = _json_numbers(values)
            return [template % tuple(parts[i : i + width]) for i in range(0, len(parts), width)]

        return numbers
    if output.kind == "value":
        return _json_numbers

    def tensor(values: Array) -> list[bytes]:
        if values.ndim == 1 and values.dtype.kind != "O":
            return _json_numbers(values)
        rows = values.tolist() if values.dtype.kind == "O" else np.ascontiguousarray(values)
        return [_to_json(row) for row in rows]

    return tensor


def _json_numbers(values: Array) -> list[bytes]:
    """Every number's JSON, from one serialisation: far cheaper than one each."""
    return _to_json(values.ravel())[1:-1].split(b",")


def _to_json(values: Any) -> bytes:
    """The JSON of an array. Raises FloatingPointError for NaN and Inf, which it has no form for."""
    text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in text and isinstance(values, np.ndarray):  # cheaper than a look at the numbers
        raise FloatingPointError
    return text


def _decision_key(output: Output) -> bytes | None:
    return orjson.dumps(f"{output.name}_decision")[1:-1] if output.decision else None


def _decide(output: Output, decision: Decision, values: Array) -> list[bytes]:
    if decision.class_label is not None:
        values = values[:, output.classes.index(decision.class_label)]
    above, below, review = map(orjson.dumps, (decision.above, decision.below, "review"))
    low, high = decision.review or (np.inf, -np.inf)
    return [
        review if low <= value <= high else above if value >= decision.threshold else below
        for value in values.ravel().tolist()
    ]
