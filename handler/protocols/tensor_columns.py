"""Whole columns: what arrives as tensors, tables or files becomes columns without a row in between.

Numpy looks at arrays as a whole and says whether all is plainly well. Only where it is not, the
values become lists, and the contract's own validators judge them: the same codes, the same words.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from struct import error, pack
from typing import Any

import numpy as np

from handler import core_schema as cs
from handler.contract import (
    EXACT,
    MESSAGES,
    Contract,
    element_schema,
    iter_violations,
    number_bounds,
)
from handler.core_schema import SchemaValidator
from handler.errors import MAX_VIOLATIONS, ContractViolation, Violation
from handler.manifest import Feature, Manifest
from handler.model_inputs import Array, Columns, dtype

Values = list[Any] | Array
# the JSON pointer of a value, by the number of its feature and its row
Where = Callable[[int, int], str]


def violation_error(pointer: str, code: str, message: str) -> ContractViolation:
    """A refusal for one reason."""
    return ContractViolation([Violation(pointer, code, message)])


def flatten(data: Any, where: str) -> tuple[list[Any], tuple[int, ...]]:
    """Nested lists as one list in row-major order, and their shape.

    Raises ContractViolation where they differ in length or depth.
    """
    if type(data) is not list:
        return [data], ()
    shape = [len(data)]
    while data and type(data[0]) is list:  # what is amiss with the others, `elements` will say
        lengths = set(map(len, data)) if set(map(type, data)) == {list} else set()
        if len(lengths) != 1:
            raise violation_error(where, "ragged", "the lists differ in length")
        shape += lengths
        data = list(chain.from_iterable(data))
    return data, tuple(shape)


def to_array(values: list[Any], kind: str, where: Callable[[int], str]) -> Array:
    """An array [len(values)] of the manifest's dtype `kind`, of values as JSON has them.

    Raises ContractViolation for what the dtype cannot hold.
    """
    made = dtype(kind)
    array = _array(values, made, nulls=False)
    if array is not None:
        return array
    check = SchemaValidator(cs.list_schema(element_schema(kind), fail_fast=True))
    found = [
        violation._replace(pointer=where(i))
        for i, violation in islice(iter_violations(check, values), MAX_VIOLATIONS + 1)
    ]
    if found:
        raise ContractViolation(found)
    return np.array(values, made)  # 3.0 for an integer


def _array(values: list[Any], made: np.dtype[Any], nulls: bool = True) -> Array | None:
    """An array of JSON's values, null as NaN; None if that is not plainly possible.

    In the tensor's own dtype, because clients write 0.1 as it is in theirs: 0.10000000149011612.
    """
    if made.kind in "bO":
        plain = set(map(type, values)) <= {bool if made.kind == "b" else str}
        return np.array(values, made) if plain else None
    array = _packed(values, made)
    if array is None and nulls and made.kind == "f" and None in values:
        array = _packed([math.nan if value is None else value for value in values], made)
    return array


def _packed(values: list[Any], made: np.dtype[Any]) -> Array | None:
    """By `struct`, which is twice as fast as numpy, and refuses what JSON has but flags."""
    try:
        array: Array = np.frombuffer(pack(f"<{len(values)}{_CODES[made.name]}", *values), made)
    except (error, OverflowError):
        return None
    # so what became 0 or 1 is looked at
    for i in np.flatnonzero((array == 0) | (array == 1)).tolist():
        if values[i] is True or values[i] is False:
            return None
    return array


_CODES = {"float16": "e", "float32": "f", "float64": "d", "int8": "b", "uint8": "B", "int16": "h",
          "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q"}  # fmt: skip


def convert(values: Array, kind: str, where: str) -> Array:
    """Return an array of the same kind of values as the manifest's dtype `kind`.

    Floats are rounded. Raise ContractViolation if an integer does not fit.
    """
    if values.dtype.kind == "O" or values.dtype == dtype(kind):
        return values
    if values.dtype.kind in "iu" and values.size:
        bounds = np.iinfo(kind)
        for code, is_outside in (
            ("greater_than_equal", int(values.min()) < bounds.min),
            ("less_than_equal", int(values.max()) > bounds.max),
        ):
            if is_outside:
                name, message = MESSAGES[code]
                message = message.format(ge=bounds.min, le=bounds.max)
                raise violation_error(where, name, message)
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is refused
        return values.astype(kind)


class TensorValidator:
    """Columns of a tabular contract."""

    def __init__(self, manifest: Manifest, contract: Contract) -> None:
        self.contract = contract
        self.features = manifest.features
        self._checks = {
            tensor.name: _FastCheck(
                tensor.dtype, [f for f in self.features if f.input == tensor.name]
            )
            for tensor in manifest.inputs
        }

    def columns(self, tensors: Mapping[str, Values], where: Where) -> Columns:
        """Columns of the graph's inputs [rows, features]: arrays, or flat lists from JSON.

        Raises ContractViolation for values that are not in the contract; NaN is null.
        """
        arrays: dict[str, Array] = {}
        for name, values in tensors.items():
            check = self._checks[name]
            array = values if isinstance(values, np.ndarray) else _array(values, check.dtype)
            if array is not None:
                arrays[name] = array.reshape(-1, check.width)
        if len(arrays) == len(tensors) and all(self._checks[k].plain(v) for k, v in arrays.items()):
            return [_nan_to_none(f, arrays[f.input][:, f.column]) for f in self.features]
        lists = []
        for feature in self.features:
            sent, width = tensors[feature.input], self._checks[feature.input].width
            given = sent[feature.column :: width] if isinstance(sent, list) else []
            column = given
            if feature.input in arrays:
                column = _to_json_values(feature, arrays[feature.input][:, feature.column])
            if None in given:  # which is not a NaN to those who do not take it
                column = [v if g is not None else g for v, g in zip(column, given, strict=True)]
            if feature.type == "boolean":
                column = [_FLAGS.get(v, v) if type(v) in (int, float) else v for v in column]
            lists.append(column)
        return self.contract.validated(lists, where)

    def inputs(self, matrix: Array) -> dict[str, Array]:
        """The graph's inputs, made of a matrix [rows, features] in the contract's order."""
        found = {}
        for name, check in self._checks.items():
            part = matrix[:, [self.features.index(feature) for feature in check.features]]
            with np.errstate(over="ignore"):  # inf is refused
                found[name] = part.astype(check.dtype) if check.dtype.kind == "f" else part
        return found


class _FastCheck:
    """What can be seen at once of the values of one input: a bound per feature, in its dtype."""

    def __init__(self, kind: str, features: Sequence[Feature]) -> None:
        self.features = sorted(features, key=lambda feature: feature.column)
        self.width, self.dtype = len(self.features), dtype(kind)
        if self.dtype.kind in "iuf":
            bounds = [_bounds(feature, kind) for feature in self.features]
            self.low, self.high = (np.array(side, self.dtype) for side in zip(*bounds, strict=True))
        fraction = self.dtype.kind == "f"
        self.whole = [
            i for i, f in enumerate(self.features) if fraction and f.type in ("integer", "boolean")
        ]
        self.sets = [
            (i, f.categories)
            for i, f in enumerate(self.features)
            if f.type == "category" and f.unknown_category == "reject"
        ]
        self.nullable = np.array([fraction and f.nullable for f in self.features])
        self.nulls = bool(self.nullable.any())

    def plain(self, array: Array) -> bool:
        """Whether the contract plainly takes all of [rows, features]; if not, it may still do."""
        if array.dtype != self.dtype:
            return False
        if self.dtype.kind == "b":
            return all(feature.type == "boolean" for feature in self.features)
        if self.dtype.kind == "O":
            return self._strings(array)
        good = (array >= self.low) & (array <= self.high)  # a NaN is neither
        if not good.all() and not (self.nulls and (good | (np.isnan(array) & self.nullable)).all()):
            return False
        for i in self.whole:
            column = array[:, i]
            if not ((np.floor(column) == column) | np.isnan(column)).all():
                return False
        return all(np.isin(array[:, i], self._known(i)).all() for i, _ in self.sets)

    def _known(self, i: int) -> Array:
        known = np.array(self.features[i].categories, self.dtype)
        return np.append(known, np.nan) if self.nullable[i] else known

    def _strings(self, array: Array) -> bool:
        for i, feature in enumerate(self.features):
            column = array[:, i].tolist()
            if feature.type not in ("text", "category"):
                return False
            if feature.max_length is not None and max(map(len, column)) > feature.max_length:
                return False
        return all(frozenset(known).issuperset(array[:, i].tolist()) for i, known in self.sets)


def _bounds(feature: Feature, kind: str) -> tuple[float, float]:
    """The least and greatest value of a feature, as its dtype can hold them."""
    low, high = number_bounds(kind)
    if low is None or high is None:
        low, high = -float(np.finfo(kind).max), float(np.finfo(kind).max)
    if feature.type == "boolean":
        return 0, 1
    if feature.type not in ("number", "integer"):
        return low, high
    least, most = low, high
    if feature.type == "integer" and kind in EXACT:
        least, most = -EXACT[kind], EXACT[kind]
    if feature.out_of_range == "reject":
        least = least if feature.minimum is None else max(low, feature.minimum)
        most = most if feature.maximum is None else min(high, feature.maximum)
    if kind in EXACT:
        return least, most
    return int(np.ceil(least)), int(np.floor(most))


def _nan_to_none(feature: Feature, column: Array) -> Values:
    """A column that is well; a list with None for NaN where there are nulls."""
    if not feature.nullable:
        return column
    if column.dtype.kind == "f" and np.isnan(column).any():
        return [None if value != value else value for value in column.tolist()]
    return list(column.tolist()) if feature.fill_value is not None else column


_FLAGS = {0: False, 1: True}


def _to_json_values(feature: Feature, column: Array) -> list[Any]:
    """A column as the validators take it from JSON: None for null, 3 for 3.0."""
    if column.dtype.kind != "f":
        values: list[Any] = column.tolist()
        return values
    with np.errstate(all="ignore"):  # a client's bytes may be a NaN that signals
        exact = column.astype(float)
        for bound in (feature.minimum, feature.maximum, *feature.categories):
            if isinstance(bound, int | float):  # 0.1 as float32 has it is the contract's 0.1
                exact[column == column.dtype.type(bound)] = bound
    values = exact.tolist()
    if feature.nullable:
        values = [None if value != value else value for value in values]
    if feature.type == "integer":
        values = [int(v) if v is not None and v == v // 1 else v for v in values]
    return values
