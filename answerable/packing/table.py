"""CSV columns -> features: their types, ranges and categories, as the sample shows them.

What is inferred from a sample is counted when live values leave it; what a human states in the
contract file is enforced.
"""

import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from answerable.packing.contract_file import Fields
from answerable.packing.errors import PackError
from handler.manifest import Feature, Tensor
from handler.model_inputs import dtype as numpy_dtype

CATEGORIES = 50  # no more different strings than that are categories, the rest is text
REPEATS = 3  # and each must stand there that often on average
MISSING = ("", "nan", "na", "n/a", "null", "none")
TRUTH = {"true": True, "false": False}

Column = list[Any]  # values of one type, None where missing
Columns = dict[str, Column]
Array = NDArray[Any]


def read(path: Path, ignore: Sequence[str] = ()) -> dict[str, list[str]]:
    """The cells of a CSV file by column, without the ignored ones. Raises PackError."""
    csv.field_size_limit(2**24)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            names = next(lines, [])
            rows = []
            for row in lines:
                row = row or [""] * (len(names) == 1)  # a blank line: no row, or one empty cell
                if row and len(row) != len(names):
                    raise PackError(
                        f"{path.name}: line {lines.line_num} has {len(row)} cells, "
                        f"and the header {len(names)}"
                    )
                rows += [row] if row else []
    except OSError as error:
        raise PackError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PackError(f"{path.name} is not UTF-8") from None
    except csv.Error as error:
        raise PackError(f"{path.name}: line {lines.line_num}: {error}") from None
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or "" in names:
        raise PackError(f"{path.name}: columns without a name, or with one name: {_list(twice)}")
    unknown = [name for name in ignore if name not in names]
    if unknown:
        raise PackError(f"{path.name} has no column {_list(unknown)} to ignore")
    if len(rows) < 2:
        raise PackError(f"{path.name} has {len(rows)} rows; a sample needs at least 2")
    columns = zip(names, map(list, zip(*rows, strict=True)), strict=True)
    return {name: cells for name, cells in columns if name not in ignore}


def is_tabular(inputs: Sequence[Tensor]) -> bool:
    """One [N, F] tensor, or one [N, 1] or [N] per feature."""
    first = inputs[0].shape
    if len(inputs) == 1 and len(first) == 2:
        return _rows(first) and first[1] is not None
    return all(_rows(t.shape) and t.shape[1:] in ((), (1,)) for t in inputs)


def _rows(shape: tuple[int | None, ...]) -> bool:
    return len(shape) > 0 and shape[0] in (None, 1)


def match(names: Sequence[str], inputs: Sequence[Tensor], file: str) -> list[tuple[str, Tensor]]:
    """Which column feeds which input, in the graph's order. Raises PackError, naming columns."""
    hint = "leave a column out with --ignore COLUMN"
    width = inputs[0].shape[1] if len(inputs) == 1 and len(inputs[0].shape) == 2 else None
    if width is not None and width > 1:
        if len(names) != width:
            raise PackError(
                f"the model takes {width} columns and {file} has {len(names)} "
                f"({_list(names)}); {hint}"
            )
        return [(name, inputs[0]) for name in names]
    wanted = [tensor.name for tensor in inputs]
    if width == 1 and len(names) == 1:  # [N, 1]: there is only one way
        return [(names[0], inputs[0])]
    missing = [name for name in wanted if name not in names]
    extra = [name for name in names if name not in wanted]
    if missing or extra:
        parts = [f"lacks the columns {_list(missing)}"] if missing else []
        parts += [f"has columns that the model does not take: {_list(extra)}"] if extra else []
        raise PackError(f"{file} {' and '.join(parts)}" + (f"; {hint}" if extra else ""))
    return [(tensor.name, tensor) for tensor in inputs]


def features(
    cells: dict[str, list[str]], inputs: Sequence[Tensor], stated: dict[str, Fields], file: str
) -> tuple[tuple[Feature, ...], Columns]:
    """The features in the graph's order, and their values. Raises PackError."""
    matched = match(list(cells), inputs, file)
    unknown = [name for name in stated if name not in cells]
    if unknown:
        raise PackError(f"the contract file states features that are not there: {_list(unknown)}")
    found, columns = [], {}
    for position, (name, tensor) in enumerate(matched):
        place = position if matched[0][1] is matched[-1][1] else 0
        try:
            feature, columns[name] = _infer(cells[name], tensor.dtype, stated.get(name, {}))
        except PackError as error:
            raise PackError(f"column {name}: {error}") from None
        found.append(feature._replace(name=name, input=tensor.name, column=place))
    return tuple(found), columns


def feeds(
    features: Sequence[Feature], inputs: Sequence[Tensor], columns: Columns
) -> dict[str, Array]:
    """The graph's inputs, by name, shape [rows, columns] or [rows]; made without the handler, so
    that it can be checked against this.
    """
    arrays = {}
    for tensor in inputs:
        parts = []
        for feature in sorted(
            (f for f in features if f.input == tensor.name), key=lambda f: f.column
        ):
            hole = feature.fill_value
            if hole is None:
                hole = "" if tensor.dtype == "string" else math.nan
            values = [hole if value is None else value for value in columns[feature.name]]
            parts.append(np.array(values, numpy_dtype(tensor.dtype)))
        arrays[tensor.name] = parts[0] if len(tensor.shape) == 1 else np.stack(parts, axis=1)
    return arrays


# a feature's name and place are known to the caller of _infer
_NOWHERE: Fields = {"name": "", "input": ""}


def _infer(cells: list[str], dtype: str, stated: Fields) -> tuple[Feature, Column]:
    strings = dtype == "string"
    holes = ("",) if strings else MISSING
    filled = [cell for cell in cells if (cell if strings else cell.strip().lower()) not in holes]
    if not filled:
        raise PackError("has no values")
    kind = stated.get("type") or _kind(filled, dtype)
    parse = _parser(kind, dtype, filled)
    values: Column = []
    for number, cell in enumerate(cells, 2):
        hole = (cell if strings else cell.strip().lower()) in holes
        try:
            values.append(None if hole else parse(cell))
        except (ValueError, KeyError, OverflowError):
            raise PackError(
                f"{cell[:40]!r} in row {number} is no {kind} that {dtype} can hold"
            ) from None
    present = [value for value in values if value is not None]
    fields: Fields = {"type": kind, "example": _example(present, kind)}
    if kind in ("number", "integer"):
        fields |= _range(present, stated)
    elif kind == "category":
        fields["categories"] = tuple(sorted(set(present)))
    elif kind == "text":
        fields["max_length"] = max(2 * max(map(len, present)), 256)
    fields["nullable"] = len(present) < len(values) or stated.get("fill_value") is not None
    feature = Feature(**(_NOWHERE | fields | stated))
    _check(feature, dtype, values)
    return feature, values


def _kind(filled: list[str], dtype: str) -> str:
    if dtype == "string":
        distinct = len(set(filled))
        return "category" if distinct <= min(CATEGORIES, len(filled) / REPEATS) else "text"
    if dtype == "bool" or {cell.strip().lower() for cell in filled} <= set(TRUTH):
        return "boolean"
    return "number" if dtype.startswith("float") else "integer"


def _parser(kind: str, dtype: str, filled: list[str]) -> Callable[[str], Any]:
    """The function that reads a cell. Raises PackError where a type and a tensor do not go."""
    fits = {
        "string": ("category", "text"),
        "bool": ("boolean",),
    }.get(dtype, ("number", "integer", "boolean", "category"))
    if kind not in fits:
        raise PackError(f"a {dtype} tensor cannot be of type {kind}; it may be {', '.join(fits)}")
    if dtype == "string":
        return str
    if kind == "boolean":
        return lambda cell: (TRUTH | {"1": True, "0": False, "1.0": True, "0.0": False})[
            cell.strip().lower()
        ]
    held = np.dtype(dtype)

    def number(cell: str) -> float:
        value = float(cell)
        with np.errstate(over="ignore"):
            if not math.isfinite(value) or (held.kind == "f" and not np.isfinite(held.type(value))):
                raise ValueError
        return value

    def integer(cell: str) -> int:
        value = int(cell) if re.fullmatch(r"\s*[-+]?\d+\s*", cell) else number(cell)
        if value != int(value) or (held.kind in "iu" and held.type(int(value)) != value):
            raise ValueError
        return int(value)

    if kind == "category" and held.kind == "f":
        try:
            return integer if all(float(cell).is_integer() for cell in filled) else number
        except ValueError:
            return number
    # a number in an integer tensor can only be whole
    return number if kind == "number" and held.kind == "f" else integer


def _range(present: Column, stated: Fields) -> Fields:
    """Inferred bounds are counted. A stated bound is enforced, and then alone: an inferred one
    beside it would be enforced too, although nobody has stated it.
    """
    bounded = bool(stated.keys() & {"minimum", "maximum"})
    policy = stated.get("out_of_range", "reject" if bounded else "accept")
    if bounded and policy == "reject":
        return {"out_of_range": policy}
    return {"minimum": min(present), "maximum": max(present), "out_of_range": policy}


def _example(present: Column, kind: str) -> Any:
    """A typical value: one that is there, not a mean that may not be possible."""
    if kind in ("number", "integer"):
        return sorted(present)[(len(present) - 1) // 2]
    if kind == "text":
        return sorted(present, key=lambda text: (len(text), text))[(len(present) - 1) // 2]
    counts = Counter(present)
    return min(counts, key=lambda value: (-counts[value], value))


def _check(feature: Feature, dtype: str, values: Column) -> None:
    """What is stated goes together, and the sample keeps the contract that is made from it."""
    present = [value for value in values if value is not None]
    if len(present) < len(values) and not feature.nullable:
        raise PackError("has missing values, and the contract file says that it is not nullable")
    if (
        feature.nullable
        and feature.fill_value is None
        and not dtype.startswith(("float", "string"))
    ):
        raise PackError(
            f"a {dtype} tensor cannot hold missing values; state what they become, as `fill_value`"
        )
    ranged = feature.type in ("number", "integer")
    low, high = feature.minimum, feature.maximum
    wrong = [
        name
        for name, fits in (
            ("minimum", ranged or low is None),
            ("maximum", ranged or high is None),
            ("categories", feature.type == "category" or not feature.categories),
            ("max_length", feature.type == "text" or feature.max_length is None),
        )
        if not fits
    ]
    if wrong:
        raise PackError(f"{_list(wrong)} cannot be stated for type {feature.type}")
    outside = 0
    checked = present if feature.example in present else [*present, feature.example]
    try:
        if ranged:
            low, high = -math.inf if low is None else low, math.inf if high is None else high
            if low > high:
                raise PackError(f"its minimum {low} is over its maximum {high}")
            outside = sum(not low <= value <= high for value in checked)
            outside *= feature.out_of_range == "reject"
        elif feature.type == "category" and feature.unknown_category == "reject":
            outside = sum(value not in feature.categories for value in checked)
        elif feature.type == "text" and feature.max_length is not None:
            outside = sum(len(value) > feature.max_length for value in checked)
    except TypeError:
        raise PackError("the contract file has a value of the wrong type") from None
    if outside:
        raise PackError(f"{outside} of its values are outside of the stated contract")


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:10])
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown
