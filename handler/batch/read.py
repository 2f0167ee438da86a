"""Readers of input files: CSV, JSON lines and Parquet, in chunks of the contract's row limit.

A row of a text file is a line, so a quoted cell of a CSV file cannot hold a line break. pyarrow is
imported for Parquet alone.
"""

# ruff: noqa: D102  (the base class has the docstrings)

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

import orjson

from handler import csv_dialect
from handler.batch import BatchError
from handler.batch.plan import Options, Source
from handler.duplicate_keys import reject_duplicate_keys
from handler.errors import BadRequest, Violation, pointer
from handler.model_inputs import Columns
from handler.scoring import Scorer

CSV, JSONL, PARQUET = "csv", "jsonl", "parquet"
MAX_LINE_BYTES = 1 << 20
MAX_CHUNK_ROWS = 1 << 16  # a prediction id has two bytes for the row
DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error)
MALFORMED = Violation("", "malformed", "is not a row of the format")
RAGGED = Violation("", "ragged", "has another number of cells than the header")


class Chunk(NamedTuple):
    """Rows of a part. `numbers`: of the rows in the part, from 0. `malformed`: rows by number.

    `keys`: of the key column, empty without one.
    """

    rows: Any
    numbers: Sequence[int]
    keys: Any
    malformed: dict[int, Violation]


def row_pointer(column: str, row: int) -> str:
    """Return the pointer of a value in a chunk, as in the body of a `/predict`."""
    return pointer("instances", row, column)


def detect_format(uri: str, file: BinaryIO) -> tuple[str, bool]:
    """Return the format and whether it is in gzip. Raise BatchError for any other format."""
    start = file.read(4)
    is_gzip = start.startswith(b"\x1f\x8b")
    if not start:
        raise BatchError("the file is empty")
    name = uri.lower().removesuffix(".gz")
    if start == b"PAR1":
        return PARQUET, False
    if name.endswith(".parquet"):
        raise BatchError("the file is not Parquet")
    if not is_gzip and (other := csv_dialect.other_format(start)):
        raise BatchError(f"the file is {other}, not CSV, JSON lines or Parquet")
    file.seek(0)
    try:
        first = _unpack(file, is_gzip).read(1 << 16).lstrip(b"\xef\xbb\xbf \t\r\n")
    except DAMAGED:
        raise BatchError("the gzip file is damaged") from None
    if first.startswith(b"["):
        raise BatchError("the file is a JSON array; write one object per line")
    return JSONL if first.startswith(b"{") else CSV, is_gzip


def reader_class(format: str) -> "type[Reader]":
    """Return the reader of a format. Raise BatchError if Parquet is not installed."""
    if format == PARQUET:
        from handler.batch.parquet import ParquetReader

        return ParquetReader
    return CsvReader if format == CSV else JsonLinesReader


def make_reader(scorer: Scorer, source: Source, options: Options) -> "Reader":
    """Return the reader of a file."""
    return reader_class(source.format)(scorer, source, options)


def _unpack(file: BinaryIO, is_gzip: bool) -> Any:
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if is_gzip else file


def _lines(file: Any, start: int, stop: int, count: int) -> Iterator[list[bytes]]:
    """Yield the lines that begin in a range of bytes, up to `count` at once, without blank ones."""
    next_line = partial(file.readline, MAX_LINE_BYTES)
    if start:  # the line that begins before belongs to the part before
        file.seek(start - 1)
        while (line := next_line()) and line[-1:] != b"\n":
            pass
    position = file.tell()
    while position < stop and (lines := list(islice(iter(next_line, b""), count))):
        if max(map(len, lines)) == MAX_LINE_BYTES:
            raise BatchError(f"a line is longer than {MAX_LINE_BYTES} bytes")
        size = sum(map(len, lines))
        while position + size - len(lines[-1]) >= stop:
            size -= len(lines.pop())
        position += size
        yield [line for line in lines if line not in (b"\n", b"\r\n")]


class Reader:
    """The rows of one file. Options and columns were checked when the run was planned.

    `is_columnar`: the predictions are written as columns, and not rendered as JSON.
    """

    is_columnar = False

    def __init__(self, scorer: Scorer, source: Source, options: Options) -> None:
        self.scorer, self.source, self.options = scorer, source, options
        self.key = options.key
        self.chunk_rows = min(scorer.manifest.limits.rows, MAX_CHUNK_ROWS)

    @classmethod
    def header(cls, scorer: Scorer, file: BinaryIO, is_gzip: bool) -> tuple[list[str], str]:
        """Return the names of the columns and the delimiter. Raise BatchError."""
        raise NotImplementedError

    def chunks(self, file: BinaryIO, start: int, stop: int) -> Iterator[Chunk]:
        """Yield the rows of a part in chunks. Raise BatchError for a damaged file."""
        number = 0
        try:
            unpacked = _unpack(file, self.source.is_gzip)
            for lines in _lines(unpacked, start, stop, self.chunk_rows):
                if start == number == 0:
                    lines = self.after_header(lines)
                parsed, malformed = self.parse(lines)
                rows = [row for row in parsed if row is not None] if malformed else parsed
                numbers: Sequence[int] = range(number, number + len(lines))
                if malformed:
                    numbers = [i + number for i, row in enumerate(parsed) if row is not None]
                refused = {i + number: violation for i, violation in malformed.items()}
                yield Chunk(rows, numbers, self.take_keys(rows) if self.key else [], refused)
                number += len(lines)
        except DAMAGED:
            raise BatchError("the gzip file is damaged") from None

    def after_header(self, lines: list[bytes]) -> list[bytes]:
        """Return the lines that are rows."""
        return lines

    def parse(self, lines: list[bytes]) -> tuple[list[Any], dict[int, Violation]]:
        """Return the row of each line, None where it is malformed, and the malformed ones."""
        raise NotImplementedError

    def take_keys(self, rows: Any) -> Any:
        """Return the values of the key column."""
        raise NotImplementedError

    def validate(self, rows: Any) -> Columns:
        """Return the validated columns. Raise ContractViolation, pointing into a `/predict`."""
        raise NotImplementedError

    def select(self, rows: Any, indices: list[int]) -> Any:
        """Return some of the rows, or of their keys."""
        return [rows[i] for i in indices]

    def bytes_per_row(self, file: BinaryIO, rows: int) -> float:
        """Return the bytes of a row, after `rows` were read."""
        return file.tell() / rows


class CsvReader(Reader):
    """CSV in the dialect that packing reads, with a header."""

    def __init__(self, scorer: Scorer, source: Source, options: Options) -> None:
        super().__init__(scorer, source, options)
        index = {name: i for i, name in enumerate(source.columns)}
        self._types = [(kind, index.get(kind.feature.name)) for kind in scorer.types]
        self._names = [kind.feature.name for kind in scorer.types]
        self._key = index.get(self.key, 0)

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

    def after_header(self, lines: list[bytes]) -> list[bytes]:
        return lines[1:]

    def parse(self, lines: list[bytes]) -> tuple[list[Any], dict[int, Violation]]:
        width = len(self.source.columns)
        try:
            rows: list[Any] = list(self._split(map(bytes.decode, lines)))
        except (ValueError, csv.Error):
            rows = []
        if len(rows) == len(lines) and set(map(len, rows)) <= {width}:
            return rows, {}
        rows = [self._parse_line(line) for line in lines]
        refused: dict[int, Violation] = {}
        for i, row in enumerate(rows):
            if row is None or len(row) != width:
                refused[i] = MALFORMED if row is None else RAGGED
                rows[i] = None
        return rows, refused

    def _split(self, lines: Iterator[str]) -> Iterator[list[str]]:
        return csv.reader(lines, strict=True, delimiter=self.source.delimiter)

    def _parse_line(self, line: bytes) -> list[str] | None:
        try:
            (row,) = self._split(iter([line.decode()]))
        except (ValueError, csv.Error):
            return None
        return row

    def take_keys(self, rows: Any) -> Any:
        return [row[self._key] for row in rows]

    def validate(self, rows: Any) -> Columns:
        cells = list(zip(*rows, strict=True))
        columns = [
            [None] * len(rows) if i is None else kind.parse_cells(cells[i], len(rows))
            for kind, i in self._types
        ]
        return self.scorer.validator.validate_columns(
            columns, lambda k, row: row_pointer(self._names[k], row)
        )


class JsonLinesReader(Reader):
    """One JSON object per line, as an instance of `/predict`."""

    @classmethod
    def header(cls, scorer: Scorer, file: BinaryIO, is_gzip: bool) -> tuple[list[str], str]:
        return [], ""

    @cached_property
    def _names(self) -> list[str]:
        manifest = self.scorer.manifest
        return [field.name for field in manifest.features or manifest.inputs]

    def parse(self, lines: list[bytes]) -> tuple[list[Any], dict[int, Violation]]:
        try:
            rows: list[Any] = list(map(orjson.loads, lines))
            reject_duplicate_keys(b"".join(lines), rows, sum(map(len, rows)))
        except (ValueError, TypeError, BadRequest):
            rows = [self._parse_line(line) for line in lines]
        return rows, {i: MALFORMED for i, row in enumerate(rows) if row is None}

    def _parse_line(self, line: bytes) -> Any:
        try:
            row = self.scorer.validator.parse_json(line)
            reject_duplicate_keys(line, row)
        except BadRequest:
            return None
        return row

    def take_keys(self, rows: Any) -> Any:
        take = dict.get if self.key in self._names else dict.pop
        return [take(row, self.key, None) if type(row) is dict else None for row in rows]

    def validate(self, rows: Any) -> Columns:
        if self.options.ignore_unknown:
            rows = [
                {name: row[name] for name in self._names if name in row}
                if type(row) is dict
                else row
                for row in rows
            ]
        return self.scorer.validator.validate_rows(rows)
