"""The reference: the data that a model is packed with, in the forms that people have it in."""

import hashlib
import importlib
import zipfile
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from answerable.packing import file_formats, table
from answerable.packing.errors import PackError
from answerable.packing.table import Array, Cells
from handler.hashes import path_sha256

PICTURES, SUFFIXES = "pictures in a folder", (".jpg", ".jpeg", ".png")
# a column of one of these names, or one that the model does not take, is the target
TARGETS = ("target", "label", "y", "class", "outcome", "response")


class Reference(NamedTuple):
    """A table as `columns`, or tensors as `arrays`; one-dimensional arrays are both.

    `name` stands in messages. `notes` are sentences for the summary. `targets` are the columns that
    were left out, if the model predicts several.
    """

    name: str
    sha256: str
    columns: dict[str, Cells] = {}
    arrays: dict[str, Array] = {}
    notes: tuple[str, ...] = ()
    targets: dict[str, Cells] = {}


def read(X: Any, ignore: Sequence[str] = (), name: str = "X") -> Reference | None:
    """Return the reference in `X`, without the ignored columns. Raise PackError.

    `X`: a file (.csv, .csv.gz, .parquet, .npz), a folder of JPEG and PNG files, a DataFrame, an
    array, a dict of arrays, or None.
    `name`: what messages call it, if it is no file.
    """
    if X is None:
        return None
    if isinstance(X, (str, Path)):
        return _read_file(Path(X), ignore)
    if hasattr(X, "columns") and hasattr(X, "to_numpy"):  # pandas, polars
        table.check_names(name, list(map(str, X.columns)))
        columns = {str(column): table.to_cells(X[column].to_numpy()) for column in X.columns}
        return Reference(name, _digest(columns), _without(columns, ignore, name))
    if isinstance(X, np.ndarray):
        return Reference(name, _digest({name: X}), arrays={"": X})
    if not isinstance(X, Mapping):
        raise PackError(
            f"{name} is a path, a DataFrame, an array or a dict of arrays, not {type(X).__name__}"
        )
    arrays = {str(key): np.asarray(array) for key, array in X.items()}
    return _of_arrays(name, _digest(arrays), arrays, ignore)


def _read_file(path: Path, ignore: Sequence[str]) -> Reference:
    if path.suffix == ".npz":
        arrays = _read_arrays(path)
        return _of_arrays(path.name, path_sha256(path), arrays, ignore)
    if path.is_dir():
        pictures = _read_pictures(path)
        return Reference(path.name, _digest(pictures), pictures)
    columns = _read_parquet(path) if path.suffix in (".parquet", ".pq") else table.read(path)
    return Reference(path.name, path_sha256(path), _without(columns, ignore, path.name))


def _read_pictures(folder: Path) -> dict[str, Cells]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    table.check_rows(folder.name, len(files))
    return {PICTURES: [b64encode(file.read_bytes()).decode() for file in files]}


def _of_arrays(
    name: str, digest: str, arrays: dict[str, Array], ignore: Sequence[str]
) -> Reference:
    columns: dict[str, Cells] = {}
    if {array.ndim for array in arrays.values()} == {1} and len({*map(len, arrays.values())}) == 1:
        table.check_names(name, list(arrays))
        cells = {column: table.to_cells(array) for column, array in arrays.items()}
        columns = _without(cells, ignore, name)
    return Reference(name, digest, columns, arrays)


def _without(columns: dict[str, Cells], ignore: Sequence[str], file: str) -> dict[str, Cells]:
    if unknown := [name for name in ignore if name not in columns]:
        raise PackError(f"{file} has no column {', '.join(unknown)} to ignore")
    table.check_rows(file, len(next(iter(columns.values()), ())))
    return {name: cells for name, cells in columns.items() if name not in ignore}


def _read_arrays(path: Path) -> dict[str, Array]:
    try:
        file_formats.check(path, "an .npz of arrays", file_formats.ZIP)
        with open(path, "rb") as content, np.load(content, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, OverflowError, zipfile.BadZipFile) as error:
        raise PackError(f"{path}: not a readable .npz ({error})") from None
    except MemoryError as error:  # a header may say any size
        raise PackError(f"{path}: an array is too large for this machine ({error})") from None


def _read_parquet(path: Path) -> dict[str, Cells]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise PackError(
            "pyarrow, which reads Parquet, is not installed: pip install pyarrow"
        ) from None
    try:
        data = parquet.read_table(path)
    except Exception as error:  # pyarrow's own classes, and OSError
        reason = " ".join(str(error).split())[:200]
        raise PackError(f"{path.name} is not a readable Parquet file: {reason}") from None
    names = [name for name in data.column_names if not name.startswith("__index_level_")]
    table.check_names(path.name, names)
    return {name: table.to_cells(data.column(name).to_numpy()) for name in names}


def _digest(columns: Mapping[str, Any]) -> str:
    """Return the SHA-256 of columns or arrays that come from no file."""
    digest = hashlib.sha256()
    for name, values in columns.items():
        digest.update(name.encode())
        if isinstance(values, np.ndarray) and values.dtype.kind != "O":
            digest.update(np.ascontiguousarray(values).data)
        else:
            digest.update("\0".join(map(str, values)).encode())
    return digest.hexdigest()


def as_table(reference: Reference, names: Sequence[str]) -> Reference:
    """Return a matrix as a table, for a model that takes one. `names`: of the columns, or ()."""
    matrices = list(reference.arrays.values())
    if reference.columns or len(matrices) != 1 or matrices[0].ndim != 2:
        return reference
    names = names or [f"x{i}" for i in range(matrices[0].shape[1])]
    if len(names) != matrices[0].shape[1]:
        raise PackError(
            f"{reference.name} has {matrices[0].shape[1]} columns, and the model {len(names)}"
        )
    columns = zip(names, map(table.to_cells, matrices[0].T), strict=True)
    return reference._replace(columns=dict(columns))


def select(reference: Reference, names: Sequence[str], width: int | None) -> Reference:
    """Return the columns that the model takes, in its order, without the target.

    `names`: of the model's columns, or () if only their number `width` is known.
    """
    columns, notes = reference.columns, list(reference.notes)
    spelt = {table.identifier(name): name for name in columns}
    expected = [n if n in columns else spelt.get(table.identifier(n), n) for n in names]
    extra = [name for name in columns if name not in expected]
    if not names:
        extra = [name for name in columns if name.lower() in TARGETS]
    if len(extra) == 1 and len(columns) - 1 == (len(names) or width):
        columns = {name: cells for name, cells in columns.items() if name != extra[0]}
        notes.append(f"left out the column {extra[0]}, which the model does not take")
    if names and sorted(expected) == sorted(columns) and expected != list(columns):
        columns = {name: columns[name] for name in expected}
        notes.append("the columns are in the model's order, which is not the reference's")
    return reference._replace(columns=columns, notes=tuple(notes))


def without_targets(
    reference: Reference, names: Sequence[str], targets: Sequence[str]
) -> Reference:
    """Return the reference without its targets, if it has several.

    `names`: of the model's columns, or (). `targets`: the stated names, or ().
    """
    columns = reference.columns
    extra = [n for n in targets if n in columns] or [n for n in columns if names and n not in names]
    if len(extra) < 2 or len(columns) - len(extra) < len(names):
        return reference
    note = f"left out the columns {', '.join(extra)}, which are the model's targets"
    return reference._replace(
        columns={name: cells for name, cells in columns.items() if name not in extra},
        targets={name: columns[name] for name in extra},
        notes=(*reference.notes, note),
    )
