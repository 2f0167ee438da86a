"""Parquet: read row groups of the contract's columns, and write predictions as columns."""

# ruff: noqa: D102  (the base class has the docstrings)

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from handler.batch import BatchError
from handler.batch.plan import Options, Source
from handler.batch.read import Chunk, Reader
from handler.feature_types import FeatureType
from handler.manifest import BY_CLASS, Output
from handler.model_inputs import Columns
from handler.render import decide
from handler.scoring import Scored, Scorer

# its other pools keep what is freed: 20 MB of a process
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError:
    raise BatchError(
        "Parquet needs pyarrow: install answerable[parquet], or set batch_parquet"
    ) from None

GROUP_ROWS = 1 << 14  # of the output
DECODED_ROWS = 1 << 13  # of the input, at once
DAY = 86_400_000_000  # microseconds


def _open(file: BinaryIO) -> Any:
    try:
        return pq.ParquetFile(file, buffer_size=1 << 20)
    except (pa.ArrowException, OSError):
        raise BatchError("the Parquet file is damaged") from None


class ParquetReader(Reader):
    """Row groups, without the columns that are not needed."""

    def __init__(self, scorer: Scorer, source: Source, options: Options) -> None:
        super().__init__(scorer, source, options)
        self._columns = [name for name in source.columns if name in {*self.names, self.key}]

    @classmethod
    def header(cls, scorer: Scorer, file: BinaryIO, is_gzip: bool) -> tuple[list[str], str]:
        schema = _open(file).schema_arrow
        types = {kind.feature.name: kind for kind in scorer.types}
        for field in schema:
            kind = types.get(field.name)
            if kind and not _fits(kind, field.type):
                raise BatchError(
                    f"the column {kind.feature.name} is {field.type}, and the contract has "
                    f"{kind.name}"
                )
        return list(schema.names), ""

    def chunks(self, file: BinaryIO, start: int, stop: int) -> Iterator[Chunk]:
        opened = _open(file)
        groups = range(start, min(stop, opened.num_row_groups))
        number = 0
        try:
            for batch in opened.iter_batches(
                DECODED_ROWS, groups, self._columns, use_threads=False
            ):
                for first in range(0, batch.num_rows, self.chunk_rows):
                    rows = batch.slice(first, self.chunk_rows)
                    numbers = range(number, number + rows.num_rows)
                    keys = rows.column(self.key) if self.key else []
                    yield Chunk(rows, numbers, keys, {})
                    number += rows.num_rows
        except (pa.ArrowException, OSError) as error:
            raise BatchError("the Parquet file is damaged") from error

    def validate(self, rows: Any) -> Columns:
        return self.validate_columns(
            [
                _values(kind, rows.column(kind.feature.name))
                if kind.feature.name in self.source.columns
                else [None] * rows.num_rows
                for kind in self.scorer.types
            ]
        )

    def select(self, rows: Any, indices: list[int]) -> Any:
        return rows.take(pa.array(indices, pa.int64()))

    def select_keys(self, keys: Any, indices: list[int]) -> Any:
        return self.select(keys, indices)

    def make_writer(self, path: Path) -> Any:
        return ParquetWriter(self.scorer, path, bool(self.key))

    def bytes_per_row(self, file: BinaryIO, rows: int) -> float:
        count: int = _open(file).metadata.num_rows
        return self.source.size / count


def _fits(kind: FeatureType, dtype: Any) -> Any:
    """Return whether a column's type may hold the values of a feature."""
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    if pa.types.is_null(dtype):
        return kind.feature.nullable
    is_text = pa.types.is_string(dtype) or pa.types.is_large_string(dtype)
    if kind.has_json_form:
        return is_text or pa.types.is_date(dtype) or pa.types.is_timestamp(dtype)
    if kind.is_string:
        return is_text
    if kind.name == "boolean":
        return pa.types.is_boolean(dtype)
    return any(
        test(dtype) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    )


def _values(kind: FeatureType, column: Any) -> list[Any]:
    """Return a column's values in JSON form, None for null."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    dtype = column.type
    if pa.types.is_decimal(dtype):
        column = column.cast(pa.float64())
    if not kind.has_json_form:
        if pa.types.is_null(dtype):
            return [None] * len(column)
        # numbers with NaN for null
        return kind.from_tensor(column.to_numpy(zero_copy_only=False))
    if not (pa.types.is_date(dtype) or pa.types.is_timestamp(dtype)):
        texts: list[Any] = column.to_pylist()
        return texts
    days = column.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy(zero_copy_only=False) / DAY
    return kind.from_tensor(days if kind.is_float else np.floor(days))


def row_group_spans(file: BinaryIO, rows: float) -> Iterator[tuple[int, int]]:
    """Yield ranges of row groups that have about so many rows."""
    metadata = _open(file).metadata
    start, count = 0, 0
    for group in range(metadata.num_row_groups):
        count += metadata.row_group(group).num_rows
        if count >= rows or group + 1 == metadata.num_row_groups:
            yield start, group + 1
            start, count = group + 1, 0


class ParquetWriter:
    """Predictions as columns: row, key, id, one or more per output, and the model's version."""

    suffix = ".parquet"

    def __init__(self, scorer: Scorer, path: Path, has_key: bool) -> None:
        self._outputs, self._path, self._has_key = scorer.manifest.outputs, path, has_key
        self._version = scorer.manifest.version
        self._writer: Any = None
        self._tables: list[Any] = []
        self._rows = 0

    def write(self, numbers: Sequence[int], keys: Any, ids: list[bytes], scored: Scored) -> None:
        """Add the predictions of a chunk."""
        columns: dict[str, Any] = {"row": pa.array(numbers, pa.int64())}
        if self._has_key:
            columns["key"] = keys
        columns["id"] = pa.array(ids, pa.string())
        for number, output in enumerate(self._outputs):
            values = scored.outputs[number]
            columns[output.name] = _output_column(output, number, scored)
            if output.decision:
                decisions = map(orjson.loads, decide(output, output.decision, values))
                columns[f"{output.name}_decision"] = pa.array(list(decisions))
        columns["model_version"] = pa.repeat(self._version, len(ids))
        self._tables.append(pa.RecordBatch.from_pydict(columns))
        self._rows += len(numbers)
        if self._rows >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._tables)
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._path, table.schema, use_dictionary=["model_version"]
            )
        self._writer.write_table(table)
        self._tables, self._rows = [], 0

    def close(self) -> None:
        """Finish the file; without predictions there is none."""
        if self._tables:
            self._flush()
        if self._writer:
            self._writer.close()
            self._writer = None


def _output_column(output: Output, number: int, scored: Scored) -> Any:
    """Return an output as a column: a number or label, a struct of classes, or nested lists."""
    values = scored.outputs[number]
    if output.kind in BY_CLASS:
        names = [str(label) for label in output.classes]
        return pa.StructArray.from_arrays([pa.array(column) for column in values.T], names)
    if output.kind in ("value", "label"):
        return pa.array(values.ravel())
    # runs may differ in their shapes
    return pa.array([row for _, outputs in scored.runs for row in outputs[number].tolist()])
