"""Tensors, tables and files -> validated columns, without a row in between.

numpy checks arrays as a whole, which answers for almost every request. Only where an array does
not pass, its values become lists, and the contract's schemas judge them: same codes, same words.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from struct import error, pack
from typing import Any, NamedTuple

import numpy as np

from handler import core_schema as cs
from handler.core_schema import SchemaValidator
from handler.errors import ContractViolation, pointer, violation_error
from handler.feature_types import EXACT, FeatureType, element_schema, stated_bounds
from handler.manifest import Manifest, Tensor
from handler.model_inputs import Array, Columns, dtype, length_problem
from handler.validate import MESSAGES, PointerFor, RequestValidator, iter_violations

Values = list[Any] | Array
DOUBLE = np.dtype(float)
_STRUCT_CODES = {
    "float16": "e", "float32": "f", "float64": "d", "int8": "b", "uint8": "B", "int16": "h",
    "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q",
}  # fmt: skip


def flatten(data: Any, where: str) -> tuple[list[Any], tuple[int, ...]]:
    """Return nested lists flat, in row-major order, and their shape. Raise ContractViolation."""
    if type(data) is not list:
        return [data], ()
    shape = [len(data)]
    while data and type(data[0]) is list:
        lengths = set(map(len, data)) if set(map(type, data)) == {list} else set()
        if len(lengths) != 1:
            raise violation_error(where, "ragged", "the lists differ in length")
        shape += lengths
        data = list(chain.from_iterable(data))
    return data, tuple(shape)


class SentTensor(NamedTuple):
    """The values of one input of the graph in row-major order, as a client sent them.

    `shape`: as the graph has it. `where` and `nested`: the pointer's tokens, and the shape of what
    they point at.
    """

    values: Values
    shape: tuple[int, ...]
    where: tuple[str | int, ...]
    nested: tuple[int, ...]

    def pointer(self, k: int) -> str:
        """Return the pointer of the k-th value."""
        indices: Any = np.unravel_index(k, self.nested)
        return pointer(*self.where, *indices)


def fit_shape(
    manifest: Manifest, tensor: Tensor, shape: tuple[int, ...], where: str, rows: int | None = None
) -> tuple[int, ...]:
    """Return the shape of an input, [N] as [N, 1].

    `rows`: how many the inputs before it have, None if any number will do. Raise ContractViolation
    if the shape is not the graph's.
    """
    is_batched, limit = manifest.has_batch_axis, manifest.limits.elements
    axes = (rows, *tensor.shape[1:]) if is_batched else tensor.shape
    missing_axes = tensor.shape[len(shape) :]
    if missing_axes and set(missing_axes) == {1}:
        shape += (1,) * len(missing_axes)
    if len(shape) != len(axes) or any(
        size not in (None, n) for size, n in zip(axes, shape, strict=True)
    ):
        sizes = ", ".join("any" if size is None else str(size) for size in tensor.shape)
        same_rows = ", and the first axis the same for all inputs" if is_batched else ""
        raise violation_error(where, "shape", f"must be [{sizes}]{same_rows}")
    if math.prod(shape[1:] if is_batched else shape) > limit:
        message = f"a tensor has at most {limit} elements"
        raise violation_error(where, "too_many_elements", message + " per row" * is_batched)
    if is_batched:
        check_row_count(manifest, shape[0], where)
    return shape


def check_row_count(manifest: Manifest, rows: int, where: str) -> None:
    """Raise ContractViolation for no or too many rows."""
    limit = manifest.limits.rows
    if not 0 < rows <= limit:
        code, message = MESSAGES["too_long" if rows else "too_short"]
        raise violation_error(where, code, message.format(max_length=limit, min_length=1))


def tensor_columns(manifest: Manifest, tensors: Mapping[str, SentTensor]) -> Columns:
    """Return the columns of a tensor contract from its inputs. Raise ContractViolation."""
    inputs, sent = manifest.inputs, [tensors[tensor.name] for tensor in manifest.inputs]
    skipped = int(manifest.has_batch_axis)
    if problem := length_problem(inputs, [tensor.shape[skipped:] for tensor in sent]):
        raise violation_error(pointer(*sent[problem[0]].where), "wrong_length", problem[1])
    arrays = [
        to_array(s.values, tensor, s.pointer).reshape(s.shape)
        for s, tensor in zip(sent, inputs, strict=True)
    ]
    return arrays if manifest.has_batch_axis else [[array] for array in arrays]


def to_array(values: Values, tensor: Tensor, pointer_for: Callable[[int], str]) -> Array:
    """Return values, flat from JSON or an array, in an input's dtype. Raise ContractViolation."""
    is_bounded = (tensor.minimum, tensor.maximum) != (None, None)
    target = dtype(tensor.dtype)
    # bounds are compared before a number is rounded to the tensor's dtype
    exact = DOUBLE if is_bounded and target.kind == "f" else target
    array = _array(values, exact) if isinstance(values, list) else values
    if array is None or not (_is_finite(array) and _is_within(array, tensor)):
        elements = values if isinstance(values, list) else values.ravel().tolist()
        _raise_violations(elements, tensor, pointer_for)
        array = np.array(elements, exact)  # 3.0 for an integer
    return array.astype(target, copy=False)


def _is_finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _is_within(array: Array, tensor: Tensor) -> bool:
    is_unbounded = tensor.minimum is None and tensor.maximum is None
    if is_unbounded and (array.dtype == dtype(tensor.dtype) or array.dtype.kind not in "iuf"):
        return True
    low, high = stated_bounds(tensor.dtype, tensor.minimum, tensor.maximum)
    return bool((array >= low).all() and (array <= high).all())


def _raise_violations(values: list[Any], tensor: Tensor, pointer_for: Callable[[int], str]) -> None:
    schema = element_schema(tensor.dtype, tensor.minimum, tensor.maximum)
    validator = SchemaValidator(cs.list_schema(schema, fail_fast=True))
    error = ContractViolation(
        violation._replace(pointer=pointer_for(i))
        for i, violation in iter_violations(validator, values)
    )
    if error.violations:
        raise error


def _array(values: list[Any], target: np.dtype[Any], nulls: bool = False) -> Array | None:
    """Return JSON's values as an array, `nulls` as NaN; None where they need a closer look."""
    if target.kind in "bO":
        is_plain = set(map(type, values)) <= {bool if target.kind == "b" else str}
        return np.array(values, target) if is_plain else None
    array = _struct_pack(values, target)
    null_count = 0
    if array is None and nulls and target.kind == "f" and (null_count := values.count(None)):
        array = _struct_pack([math.nan if v is None else v for v in values], target)
    if array is not None and target.kind == "f" and np.isnan(array).sum() > null_count:
        return None
    return array


def _struct_pack(values: list[Any], target: np.dtype[Any]) -> Array | None:
    """Return an array by `struct`: twice as fast as numpy, and it only takes numbers and flags."""
    try:
        code = _STRUCT_CODES[target.name]
        array: Array = np.frombuffer(pack(f"<{len(values)}{code}", *values), target)
    except (error, OverflowError):
        return None
    # flags became 0 or 1; a list of many indices would take 40 bytes each
    suspects = np.flatnonzero((array == 0) | (array == 1))
    some = values if len(suspects) * 8 > len(values) else map(values.__getitem__, suspects.tolist())
    return None if bool in set(map(type, some)) else array


class TensorValidator:
    """Validates the tensors of a tabular contract."""

    def __init__(self, manifest: Manifest, validator: RequestValidator) -> None:
        self._validator, self._types = validator, validator.types
        self._checks = {}
        for tensor in manifest.inputs:
            types = [kind for kind in self._types if kind.feature.input == tensor.name]
            self._checks[tensor.name] = _FastCheck(tensor.dtype, types)

    def columns(self, tensors: Mapping[str, Values], pointer_for: PointerFor) -> Columns:
        """Return the columns of the graph's inputs [rows, features], by name.

        An input is an array, in which NaN is null, or a flat list from JSON. Raise
        ContractViolation for values that are not in the contract.
        """
        arrays: dict[str, Array] = {}
        for name, values in tensors.items():
            check = self._checks[name]
            array: Array | None
            if isinstance(values, list):
                array = _array(values, check.compare_dtype, nulls=True)
            else:
                array = values
            if array is not None:
                arrays[name] = array.reshape(-1, check.width)
        are_plain = len(arrays) == len(tensors)
        if are_plain and all(self._checks[name].accepts(a) for name, a in arrays.items()):
            return [
                _nan_to_none(kind, arrays[kind.feature.input][:, kind.feature.column])
                for kind in self._types
            ]
        lists = []
        for kind in self._types:
            name, column = kind.feature.input, kind.feature.column
            values = tensors[name]
            if isinstance(values, list):
                lists.append(kind.from_numbers(values[column :: self._checks[name].width]))
            else:
                lists.append(kind.from_tensor(arrays[name][:, column]))
        return self._validator.validate_columns(lists, pointer_for)

    def split(self, matrix: Array) -> dict[str, Array]:
        """Return the graph's inputs from a matrix [rows, features] in the contract's order."""
        return {
            name: matrix[:, [self._types.index(kind) for kind in check.types]]
            for name, check in self._checks.items()
        }


class _FastCheck:
    """A check of all values of one input at once, by one pair of bounds per feature."""

    def __init__(self, dtype_name: str, types: Sequence[FeatureType]) -> None:
        self.types = sorted(types, key=lambda kind: kind.feature.column)
        self.width, self.dtype = len(self.types), dtype(dtype_name)
        is_float = self.dtype.kind == "f"
        # bounds are compared before a number is rounded to the tensor's dtype
        self.compare_dtype = DOUBLE if is_float else self.dtype
        if self.dtype.kind in "iuf":
            bounds = [_array_bounds(kind, self.dtype) for kind in self.types]
            self.low, self.high = (
                np.array(side, self.compare_dtype) for side in zip(*bounds, strict=True)
            )
        self.whole = [i for i, kind in enumerate(self.types) if is_float and kind.whole]
        self.allowed: list[tuple[int, Any]] = []  # a set of strings, or an array of numbers
        for i, kind in enumerate(self.types):
            if kind.allowed_values is not None:
                nan = [np.nan] * (is_float and kind.feature.nullable)
                values = [*kind.allowed_values, *nan]
                self.allowed.append((i, frozenset(values) if kind.is_string else values))
        self.nullable = np.array([is_float and kind.feature.nullable for kind in self.types])
        self.any_nullable = bool(self.nullable.any())
        self.is_encoded = any(kind.is_encoded for kind in self.types)

    def accepts(self, array: Array) -> bool:
        """Return whether the contract takes all of [rows, features]; False if that is not plain."""
        kind, target = array.dtype.kind, self.dtype
        if target.kind == "f":
            if kind not in "fiu" or array.dtype.itemsize > DOUBLE.itemsize:
                return False
        elif array.dtype != target:
            return False
        if kind == "b":
            return True
        if kind == "O":
            return not self.is_encoded and self._accepts_strings(array)
        return self._accepts_numbers(array)

    @np.errstate(invalid="ignore")  # a client's bytes may be a NaN that signals
    def _accepts_numbers(self, array: Array) -> bool:
        good = (array >= self.low) & (array <= self.high)  # a NaN is neither
        if self.any_nullable and array.dtype.kind == "f":
            good |= np.isnan(array) & self.nullable
        if not good.all():
            return False
        for i in self.whole:
            column = array[:, i]
            if not ((np.floor(column) == column) | np.isnan(column)).all():
                return False
        return all(np.isin(array[:, i], allowed).all() for i, allowed in self.allowed)

    def _accepts_strings(self, array: Array) -> bool:
        for i, kind in enumerate(self.types):
            limit = kind.max_length
            if limit is not None and max(map(len, array[:, i].tolist())) > limit:
                return False
        return all(allowed.issuperset(array[:, i].tolist()) for i, allowed in self.allowed)


def _array_bounds(kind: FeatureType, target: np.dtype[Any]) -> tuple[float, float]:
    """Return a feature's enforced bounds as numbers of the dtype that is compared in."""
    low, high = kind.low, kind.high
    if target.kind == "f":
        # a double that is as large may have been rounded, so it gets a closer look
        limit = EXACT[target.name] - 1 if kind.whole else np.finfo(float).max
        return max(low, -limit), min(high, limit)
    return math.ceil(low), math.floor(high)


def _nan_to_none(kind: FeatureType, column: Array) -> Values:
    """Return an accepted column; as a list with None for NaN where there are nulls."""
    if not kind.feature.nullable:
        return column
    if column.dtype.kind == "f" and np.isnan(column).any():
        return [None if value != value else value for value in column.tolist()]
    return list(column.tolist()) if kind.fill is not None else column
