"""Readers of input files: CSV, JSON lines and Parquet, in chunks of the contract's row limit.

A row of a text file is a line, so a quoted cell of a CSV file cannot hold a line break. pyarrow is
imported for Parquet alone.
"""

# ruff: noqa: D102  (the base class has the docstrings)

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from handler import csv_dialect
from handler.batch import BatchError
from handler.batch.plan import Options, Source
from handler.duplicate_keys import reject_duplicate_keys
from handler.errors import BadRequest, Violation, pointer
from handler.model_inputs import Columns
from handler.scoring import Scored, Scorer

CSV, JSONL, PARQUET = "csv", "jsonl", "parquet"
MAX_LINE_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"
MAX_CHUNK_ROWS = 1 << 16  # a prediction id has two bytes for the row
DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error)
MALFORMED = Violation("", "malformed", "is not a row of the format")
RAGGED = Violation("", "ragged", "has another number of cells than the header")


class Chunk(NamedTuple):
    """Rows of a part. `numbers`: of the rows in the part, from 0. `malformed`: rows by number.

    `rows` is what the reader validates. `keys`: of the key column, empty without one.
    """

    rows: Any
    numbers: Sequence[int]
    keys: Any
    malformed: dict[int, Violation]


def detect_format(uri: str, file: BinaryIO) -> tuple[str, bool]:
    """Return the format and whether it is in gzip. Raise BatchError for any other format."""
    start = file.read(4)
    is_gzip = start.startswith(b"\x1f\x8b")
    if start == b"PAR1":
        return PARQUET, False
    if uri.lower().removesuffix(".gz").endswith(".parquet"):
        raise BatchError("the file is not Parquet")
    if not is_gzip and (other := csv_dialect.other_format(start)):
        raise BatchError(f"the file is {other}, not CSV, JSON lines or Parquet")
    try:
        first = _unpack(file, is_gzip).read(1 << 16).lstrip(b"\xef\xbb\xbf \t\r\n")
    except DAMAGED:
        raise BatchError("the gzip file is damaged") from None
    if not first:
        raise BatchError("the file is empty")
    if first.startswith(b"["):
        raise BatchError("the file is a JSON array; write one object per line")
    return JSONL if first.startswith(b"{") else CSV, is_gzip


def reader_class(format: str) -> "type[Reader]":
    """Return the reader of a format. Raise BatchError if Parquet is not installed."""
    if format == PARQUET:
        from handler.batch.parquet import ParquetReader

        return ParquetReader
    return CsvReader if format == CSV else JsonLinesReader


def _unpack(file: BinaryIO, is_gzip: bool) -> Any:
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if is_gzip else file


class JsonLinesWriter:
    """Predictions as JSON lines: row, key, id, outputs, and the model's version."""

    suffix = ".jsonl"

    def __init__(self, scorer: Scorer, path: Path, has_key: bool) -> None:
        self._file, self._has_key = path.open("wb"), has_key
        self._renderer = scorer.renderer
        version = orjson.dumps(scorer.manifest.version).replace(b"%", b"%%")
        key = b'"key":%b,' if has_key else b""
        fields = self._renderer.template_with_id[1:-1]
        self._template = b'{"row":%d,' + key + fields + b',"model_version":' + version + b"}\n"

    def write(self, numbers: Sequence[int], keys: Any, ids: list[bytes], scored: Scored) -> None:
        """Add the predictions of a chunk."""
        texts = [list(map(orjson.dumps, keys))] if self._has_key else []
        columns = [numbers, *texts, ids]
        self._file.write(b"".join(self._renderer.render_rows(self._template, columns, scored.runs)))

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


class Reader:
    """The rows of one file. Options and columns were checked when the run was planned."""

    def __init__(self, scorer: Scorer, source: Source, options: Options) -> None:
        self.scorer, self.source, self.options = scorer, source, options
        self.key = options.key
        self.names = [f.name for f in scorer.manifest.features or scorer.manifest.inputs]
        self.chunk_rows = min(scorer.manifest.limits.rows, MAX_CHUNK_ROWS)

    @classmethod
    def header(cls, scorer: Scorer, file: BinaryIO, is_gzip: bool) -> tuple[list[str], str]:
        """Return the names of the columns and the delimiter. Raise BatchError."""
        return [], ""

    def chunks(self, file: BinaryIO, start: int, stop: int) -> Iterator[Chunk]:
        """Yield the rows of a part in chunks. Raise BatchError for a damaged file."""
        number = 0
        try:
            for lines in self._lines(_unpack(file, self.source.is_gzip), start, stop):
                rows, keys, malformed = self.parse(lines)
                numbers: Sequence[int] = range(number, number + len(lines))
                if malformed:
                    numbers = [i + number for i in range(len(lines)) if i not in malformed]
                refused = {i + number: violation for i, violation in malformed.items()}
                yield Chunk(rows, numbers, keys, refused)
                number += len(lines)
        except DAMAGED:
            raise BatchError("the gzip file is damaged") from None

    def _lines(self, file: Any, start: int, stop: int) -> Iterator[list[bytes]]:
        """Yield the lines that begin in a range of bytes, without the header and blank ones."""
        next_line = partial(file.readline, MAX_LINE_BYTES)
        if start:  # the line that begins before belongs to the part before
            file.seek(start - 1)
        elif self.source.format == JSONL and file.read(3) != BOM:
            file.seek(0)
        if start or self.source.format == CSV:
            while (line := next_line()) and line[-1:] != b"\n":
                pass
        position = file.tell()
        while position < stop and (lines := list(islice(iter(next_line, b""), self.chunk_rows))):
            sizes = list(map(len, lines))
            if max(sizes) == MAX_LINE_BYTES:
                raise BatchError(f"a line is longer than {MAX_LINE_BYTES} bytes")
            position += sum(sizes)
            while position - sizes[-1] >= stop:
                lines.pop()
                position -= sizes.pop()
            if min(sizes) <= len(b"\r\n"):
                lines = [line for line in lines if line not in (b"\n", b"\r\n")]
            yield lines

    def parse(self, lines: list[bytes]) -> tuple[Any, Any, dict[int, Violation]]:
        """Return the rows without the malformed lines, their keys, and the malformed lines."""
        raise NotImplementedError

    def validate(self, rows: Any) -> Columns:
        """Return the validated columns. Raise ContractViolation, pointing into a `/predict`."""
        raise NotImplementedError

    def validate_columns(self, columns: list[Any]) -> Columns:
        """Return the validated columns of the features. Raise ContractViolation."""
        return self.scorer.validator.validate_columns(
            columns, lambda k, row: pointer("instances", row, self.names[k])
        )

    def select(self, rows: Any, indices: list[int]) -> Any:
        """Return some of the rows."""
        return [rows[i] for i in indices]

    def select_keys(self, keys: Any, indices: list[int]) -> Any:
        """Return some of the keys."""
        return [keys[i] for i in indices]

    def make_writer(self, path: Path) -> Any:
        """Return the writer of predictions in the format that goes with the input's."""
        return JsonLinesWriter(self.scorer, path, bool(self.key))

    def bytes_per_row(self, file: BinaryIO, rows: int) -> float:
        """Return the bytes of a row, after `rows` were read."""
        return file.tell() / rows


class CsvReader(Reader):
    """CSV in the dialect that packing reads, with a header. Rows are columns of cells by number."""

    def __init__(self, scorer: Scorer, source: Source, options: Options) -> None:
        super().__init__(scorer, source, options)
        index = {name: i for i, name in enumerate(source.columns)}
        self._types = [(kind, index.get(kind.feature.name)) for kind in scorer.types]
        self._key = index[self.key] if self.key else None
        self._numbers = {i for i in (self._key, *(i for _, i in self._types)) if i is not None}

    @classmethod
    def header(cls, scorer: Scorer, file: BinaryIO, is_gzip: bool) -> tuple[list[str], str]:
        first = _unpack(file, is_gzip).readline(MAX_LINE_BYTES)
        try:
            text = first.decode("utf-8-sig")
            names = next(csv_dialect.lines(text), [])
        except (ValueError, csv.Error):
            raise BatchError("the file is not CSV in UTF-8") from None
        if not any(names) or csv_dialect.is_numeric(names):
            raise BatchError("the first line is no header")
        return names, csv_dialect.delimiter(text)

    def parse(self, lines: list[bytes]) -> tuple[Any, Any, dict[int, Violation]]:
        refused: dict[int, Violation] = {}
        width, delimiter = len(self.source.columns), self.source.delimiter
        content = b"".join(lines).replace(b"\r\n", b"\n").removesuffix(b"\n")
        cells: list[str] = []
        if content.isascii() and b'"' not in content and b"\r" not in content:
            # a mark after each line; a quarter of the time of csv.reader
            mark = f"{delimiter}\n{delimiter}"
            cells = (content.decode().replace("\n", mark) + mark).split(delimiter)
        if 0 < cells[width :: width + 1].count("\n") == len(lines):
            columns = {i: cells[i : -1 : width + 1] for i in self._numbers}
        else:
            rows = self._split(lines)
            if rows is None or set(map(len, rows)) != {width}:
                for i, line in enumerate(lines):
                    row = self._split([line])
                    if row is None or len(row) != 1 or len(row[0]) != width:
                        refused[i] = RAGGED if row and len(row) == 1 else MALFORMED
                rows = self._split([line for i, line in enumerate(lines) if i not in refused]) or []
            columns = {i: [row[i] for row in rows] for i in self._numbers}
        return columns, [] if self._key is None else columns[self._key], refused

    def _split(self, lines: list[bytes]) -> list[list[str]] | None:
        """Return the cells of each line, None if one is malformed."""
        texts = map(bytes.decode, lines)
        try:
            rows = list(csv.reader(texts, strict=True, delimiter=self.source.delimiter))
        except (ValueError, csv.Error):
            return None
        return rows if len(rows) == len(lines) else None

    def validate(self, rows: Any) -> Columns:
        count = len(next(iter(rows.values())))
        columns = [
            [None] * count if i is None else kind.parse_cells(rows[i], count)
            for kind, i in self._types
        ]
        return self.validate_columns(columns)

    def select(self, rows: Any, indices: list[int]) -> Any:
        return {i: [column[k] for k in indices] for i, column in rows.items()}


class JsonLinesReader(Reader):
    """One JSON object per line, as an instance of `/predict`."""

    def parse(self, lines: list[bytes]) -> tuple[Any, Any, dict[int, Violation]]:
        refused: dict[int, Violation] = {}
        try:
            rows: list[Any] = list(map(orjson.loads, lines))
            reject_duplicate_keys(b"".join(lines), rows, sum(map(len, rows)))
        except (ValueError, TypeError, BadRequest):
            rows = []
            for i, line in enumerate(lines):
                try:
                    row = self.scorer.validator.parse_json(line)
                    reject_duplicate_keys(line, row)
                    rows.append(row)
                except BadRequest:
                    refused[i] = MALFORMED
        keys: list[Any] = []
        if self.key:
            take = dict.get if self.key in self.names else dict.pop
            keys = [take(row, self.key, None) if type(row) is dict else None for row in rows]
        return rows, keys, refused

    def validate(self, rows: Any) -> Columns:
        if self.options.ignore_unknown:
            rows = [
                {name: row[name] for name in self.names if name in row}
                if type(row) is dict
                else row
                for row in rows
            ]
        return self.scorer.validator.validate_rows(rows)
