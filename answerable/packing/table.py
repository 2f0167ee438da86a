"""A table -> features: their types, ranges and categories, as the sample shows them.

Values outside of what is inferred from a sample are counted. Values outside of what the contract
file states are refused.
"""

import csv
import gzip
import io
import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from answerable.packing import feature_types as packed_types
from answerable.packing.contract_file import Fields
from answerable.packing.errors import PackError
from answerable.terminal import listed
from handler import csv_dialect, feature_types
from handler.errors import ArtifactError
from handler.feature_types import FeatureType
from handler.manifest import Feature, Tensor
from handler.model_inputs import dtype as numpy_dtype

MAX_CELL_CHARS = 2**24
CHUNK_ROWS = 20_000  # of a long file

# of a column: strings of a file, or an array of numbers or texts; missing are "" and NaN
Cells = Sequence[str] | NDArray[Any]
Column = list[Any]  # values of one type in their JSON form, None where missing
Columns = dict[str, Column]
Array = NDArray[Any]


def read(path: Path) -> dict[str, Cells]:
    """Return the cells of a CSV file by column. Raise PackError."""
    field_size_limit = csv.field_size_limit(MAX_CELL_CHARS)
    row_number, names = 0, list[str]()
    chunks, rows = list[list[Array]](), list[list[str]]()
    try:
        for row_number, line in enumerate(csv_dialect.lines(_open(path)), 1):
            cells = line or [""] * (len(names) == 1)  # a blank line: no row, or one empty cell
            if row_number == 1:
                names = line
            elif cells and len(cells) != len(names):
                raise PackError(
                    f"{path.name}: row {row_number} has {len(cells)} cells, "
                    f"and the header {len(names)}"
                )
            elif cells:
                rows.append(cells)
            if len(rows) == CHUNK_ROWS:
                chunks.append(_strings(rows))
                rows = []
    except csv.Error as error:
        raise PackError(f"{path.name}: row {row_number + 1}: {error}") from None
    except UnicodeDecodeError:
        raise PackError(f"{path.name} is not UTF-8") from None
    finally:
        csv.field_size_limit(field_size_limit)
    columns: list[Cells] = [list(cells) for cells in zip(*rows, strict=True)]
    if chunks:
        chunks += [_strings(rows)] if rows else []
        columns = [np.concatenate(arrays) for arrays in zip(*chunks, strict=True)]
    if csv_dialect.is_numeric(names):
        raise PackError(f"{path.name} has no header: its first line is numbers, not names")
    check_rows(path.name, len(columns[0]) if columns else 0)
    if len(columns) > 1 and names[0] in csv_dialect.INDEX_NAMES and _is_index(columns[0]):
        del columns[0], names[0]
    check_names(path.name, names)
    return dict(zip(names, columns, strict=True))


def _strings(rows: list[list[str]]) -> list[Array]:
    """Return the columns of many rows as arrays of strings, which take a quarter of the memory."""
    return [np.array(cells, np.dtypes.StringDType()) for cells in zip(*rows, strict=True)]


def _unpacked(cells: Cells) -> Cells:
    """Return the cells of a long file as a list."""
    if isinstance(cells, np.ndarray) and cells.dtype.kind == "T":
        return list(cells.tolist())
    return cells


def check_names(file: str, names: Sequence[str]) -> None:
    """Raise PackError for a column name that is blank, has a line break or is not the only one."""
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise PackError(f"{file}: column {number} has no name: give it one, or drop it")
        if name.splitlines() != [name]:
            raise PackError(f"{file}: the name of column {number} has a line break: rename it")
    counts = Counter(map(str.strip, names))
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise PackError(
            f"{file} has two columns of one name: {_names(repeated)} (blanks around do not count)"
        )


def check_rows(file: str, n_rows: int) -> None:
    """Raise PackError for a sample of fewer than two rows."""
    if n_rows < 2:
        raise PackError(f"{file} has {n_rows} rows; a sample needs at least 2")


def to_cells(array: Array) -> Cells:
    """Return a column of a DataFrame, or an array, as cells: numbers as they are, else text."""
    kind = array.dtype.kind
    if array.dtype in (np.float16, np.float32):  # 0.1, not 0.10000000149011612
        return np.asarray(array.astype(str), np.float64)
    if kind in "biuf":
        return array
    if kind == "M":
        days = array.astype("M8[D]")
        dates = days if (days == array)[~np.isnat(array)].all() else array.astype("M8[us]")
        return list(np.where(np.isnat(array), "", np.datetime_as_string(dates)).tolist())
    values = array.tolist()
    kinds = {type(value) for value in values if not _is_null(value)}
    if kinds and kinds <= {int, float}:
        return np.array([math.nan if _is_null(value) else value for value in values], float)
    texts = ["" if _is_null(value) else str(value) for value in values]
    return texts if kinds <= {bool, date, datetime} else np.array(texts, object)


def _is_null(value: Any) -> bool:
    """Return whether a value of a DataFrame is missing: None, NaN, pandas.NA or NaT."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def identifier(name: str) -> str:
    """Return a column's name as converters spell it."""
    return re.sub(r"\W", "_", name)


def _open(path: Path) -> TextIO:
    """Return the text of a file, which may be compressed by gzip."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise PackError(f"{path.name} is not a gzip file, or is damaged") from None
    except OSError as error:
        raise PackError(f"{path}: {error.strerror}") from None
    if other := csv_dialect.other_format(data):
        raise PackError(f"{path.name} is {other}, not CSV; save the sample as CSV")
    return io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="")


def _is_index(cells: Cells) -> bool:
    """Return whether the cells of a column without a name are distinct, as an index's are."""
    return len(set(_unpacked(cells))) == len(cells)


def is_tabular(inputs: Sequence[Tensor]) -> bool:
    """Return whether there is one [N, F] tensor, or one [N, 1] or [N] per feature."""
    first = inputs[0].shape
    if len(inputs) == 1 and len(first) == 2:
        return _has_rows(first) and first[1] is not None
    return all(_has_rows(t.shape) and t.shape[1:] in ((), (1,)) for t in inputs)


def _has_rows(shape: tuple[int | None, ...]) -> bool:
    return len(shape) > 0 and shape[0] in (None, 1)


def is_text(cells: Cells) -> bool:
    """Return whether a column has other values than numbers, truth values and missing ones."""
    cells = _unpacked(cells)
    if isinstance(cells, np.ndarray):
        return cells.dtype.kind == "O"
    if _to_array(cells, whole=False) is not None:
        return False
    no_text = feature_types.MISSING | feature_types.TRUTH.keys()
    try:
        return not all(
            cell.strip().lower() in no_text or feature_types.parse_number(cell) is not None
            for cell in set(cells)
        )
    except ValueError:
        return True


def match(names: Sequence[str], inputs: Sequence[Tensor], file: str) -> list[tuple[str, Tensor]]:
    """Return which column feeds which input, in the graph's order. Raise PackError."""
    hint = "leave a column out with --ignore COLUMN"
    width = inputs[0].shape[1] if len(inputs) == 1 and len(inputs[0].shape) == 2 else None
    if width is not None and width > 1:
        if len(names) != width:
            raise PackError(
                f"the model takes {width} columns and {file} has {len(names)} "
                f"({_names(names)}); {hint}"
            )
        return [(name, inputs[0]) for name in names]
    expected = [tensor.name for tensor in inputs]
    if width == 1 and len(names) == 1:  # [N, 1]: there is only one way
        return [(names[0], inputs[0])]
    missing = [name for name in expected if name not in names]
    extra = [name for name in names if name not in expected]
    renames = {identifier(name): name for name in extra}
    if missing and sorted(renames) == sorted(missing):  # as skl2onnx spells names
        pairs = _names([f"{renames[name]!r} to {name!r}" for name in missing])
        raise PackError(f"{file} spells columns otherwise than the model: rename {pairs}")
    if missing or extra:
        problems = [f"lacks the columns {_names(missing)}"] if missing else []
        problems += [f"has columns that the model does not take: {_names(extra)}"] if extra else []
        raise PackError(f"{file} {' and '.join(problems)}" + (f"; {hint}" if extra else ""))
    return [(tensor.name, tensor) for tensor in inputs]


def expected_names(inputs: Sequence[Tensor]) -> tuple[list[str], int | None]:
    """Return the names of the columns that the graph takes, or [] and their number."""
    first = inputs[0].shape
    if len(inputs) == 1 and len(first) == 2 and first[1] != 1:
        return [], first[1]
    return [tensor.name for tensor in inputs], None


def features(
    cells: dict[str, Any], inputs: Sequence[Tensor], stated: dict[str, Fields], file: str
) -> tuple[tuple[FeatureType, ...], Columns]:
    """Return the features' types in the graph's order, and their values. Raise PackError.

    The cells are removed from their dict, which frees their memory.
    """
    matched = match(list(cells), inputs, file)
    unknown = [name for name in stated if name not in cells]
    if unknown:
        raise PackError(f"the contract file states features that are not there: {_names(unknown)}")
    types, columns = [], {}
    for number, (name, tensor) in enumerate(matched):
        column = number if matched[0][1] is matched[-1][1] else 0
        position = {"name": name, "input": tensor.name, "column": column}
        try:
            kind, columns[name] = infer(
                cells.pop(name), tensor.dtype, position, stated.get(name, {})
            )
        except (PackError, ArtifactError) as error:
            reason = str(error).removeprefix(f"feature {name}: ")
            raise PackError(f"column {name}: {reason}") from None
        types.append(kind)
    return tuple(types), columns


def feeds(
    types: Sequence[FeatureType], inputs: Sequence[Tensor], columns: Columns
) -> dict[str, Array]:
    """Return the graph's inputs by name, shape [rows, columns] or [rows].

    The `types` of one tensor are in the order of its columns.
    Made without the handler's code, which is checked against the result.
    """
    arrays = {}
    for tensor in inputs:
        rows = []
        for kind in (kind for kind in types if kind.feature.input == tensor.name):
            fill, values = math.nan if kind.fill is None else kind.fill, columns[kind.feature.name]
            if kind.has_json_form:
                values = [None if value is None else kind.to_graph(value) for value in values]
            values = [fill if value is None else value for value in values]
            rows.append(np.array(values, numpy_dtype(tensor.dtype)))
        arrays[tensor.name] = rows[0] if len(tensor.shape) == 1 else np.stack(rows, axis=1)
    return arrays


def infer(cells: Cells, dtype: str, position: Fields, stated: Fields) -> tuple[FeatureType, Column]:
    """Return the type of one column, and its values. Raise PackError, ArtifactError.

    `position`: the feature's name, input and column. `stated`: its fields in the contract file.
    """
    position |= {key: stated[key] for key in ("tokenizer", "image") if key in stated}
    cells, name = _unpacked(cells), stated.get("type")
    if read_at_once := _read_numbers(cells, dtype, name):
        name, values = read_at_once
    else:
        cells, is_string = _to_text(cells), dtype == "string"
        present = [cell for cell in cells if not feature_types.is_missing(cell, is_string)]
        if not present:
            raise PackError("has no values")
        name = name or packed_types.infer_name(present, dtype)
        values = _read_text(cells, name, dtype, position)
    reader = _reader(name, dtype, position)
    values_present = [value for value in values if value is not None]
    nullable = len(values_present) < len(values) or stated.get("fill_value") is not None
    fields = {
        **position,
        "type": name,
        "nullable": nullable,
        "example": reader.example(values_present),
        **reader.inferred(values_present, stated),
        **stated,
    }
    kind = feature_types.make(Feature(**fields), dtype)
    _check(kind, values)
    return kind, values


def _reader(name: str, dtype: str, position: Fields) -> packed_types.PackedType:
    """Return the type that reads cells: it states nothing yet."""
    fields: Fields = {"type": name, "nullable": True, "categories": ("",) * (name == "category")}
    return packed_types.of(feature_types.make(Feature(**fields, **position), dtype))


def _read_text(cells: Sequence[str], name: str, dtype: str, position: Fields) -> Column:
    """Return the values of a column's cells. Raise PackError, ArtifactError."""
    reader, values = _reader(name, dtype, position), list[Any]()
    for number, cell in enumerate(cells, 2):  # the header is row 1
        try:
            is_missing = feature_types.is_missing(cell, dtype == "string")
            values.append(None if is_missing else reader.read_cell(cell))
        except (ValueError, OverflowError):
            raise PackError(
                f"{cell[:40]!r} in row {number} is no {name} that {dtype} can hold"
            ) from None
    return values


def _read_numbers(cells: Cells, dtype: str, name: str | None) -> tuple[str, Column] | None:
    """Return the type and the values of a column of plain numbers, quickly; None for any other.

    `name`: the stated type, if any.
    """
    name = name or ("integer" if "int" in dtype else "number")
    if dtype in ("string", "bool") or name not in ("number", "integer"):
        return None
    array = cells if isinstance(cells, np.ndarray) else _to_array(cells, name == "integer")
    if array is None or array.dtype.kind in "bO":
        return None
    present = array[~np.isnan(array)]
    low, high = feature_types.number_bounds(dtype)
    if not present.size or not np.isfinite(present).all():
        return None
    if present.min() < low or present.max() > high:
        return None
    if name == "integer" and (present != np.floor(present)).any():
        return None
    if present.size == array.size:
        return name, array.astype(int if name == "integer" else float).tolist()
    convert = int if name == "integer" else float
    return name, [None if value != value else convert(value) for value in array.tolist()]


def _to_array(cells: Sequence[str], whole: bool) -> Array | None:
    """Return a column's cells as numbers, NaN where empty; None if a cell needs a closer look."""
    text = "".join(cells)
    if not text.isascii() or "_" in text:
        return None
    try:
        if whole and "" not in cells:
            return np.array(list(map(int, cells)), np.int64)
        return np.array([float(cell) if cell else math.nan for cell in cells])
    except (ValueError, OverflowError):
        return None


def _to_text(cells: Cells) -> Sequence[str]:
    if isinstance(cells, np.ndarray):
        return ["" if value != value else str(value) for value in cells.tolist()]
    return cells


def _check(kind: FeatureType, values: Column) -> None:
    """Raise PackError where the stated fields contradict each other or the sample."""
    feature = kind.feature
    present = [value for value in values if value is not None]
    if len(present) < len(values) and not feature.nullable:
        raise PackError("has missing values, and the contract file says that it is not nullable")
    if feature.nullable and feature.image:
        raise PackError("has missing values, and a picture cannot be missing")
    if feature.nullable and kind.fill is None and not kind.is_float:
        raise PackError(
            f"a {kind.dtype} tensor cannot hold missing values; state what they become, "
            "as `fill_value`"
        )
    fits = {
        "minimum": kind.ranged or feature.minimum is None,
        "maximum": kind.ranged or feature.maximum is None,
        "categories": feature.type == "category" or not feature.categories,
        "max_length": feature.type == "text" or feature.max_length is None,
    }
    if wrong := [name for name, is_right in fits.items() if not is_right]:
        remedy = '; state type = "category" too' if "categories" in wrong else ""
        raise PackError(f"{_names(wrong)} cannot be stated for type {feature.type}{remedy}")
    checked = present if feature.example in present else [*present, feature.example]
    try:
        packed = packed_types.of(kind)
        if packed.is_empty():
            raise PackError(f"its minimum {feature.minimum} is over its maximum {feature.maximum}")
        suspects = {min(checked), max(checked)} if kind.is_number else set(checked)
        is_all_inside = not any(map(packed.is_outside, suspects))
        outside = 0 if is_all_inside else sum(map(packed.is_outside, checked))
    except (TypeError, ValueError):
        raise PackError("the contract file has a value of the wrong type") from None
    if outside:
        raise PackError(f"{outside} of its values are outside of the stated contract")


def _names(names: Sequence[str]) -> str:
    return listed(names, 10)
