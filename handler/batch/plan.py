"""The plan of a run: its input files, what they hold, and the parts that they are scored in.

A part of a text file is a range of bytes: the lines that begin in it. A part of a Parquet file is a
range of row groups. A gzip file is one part. The size comes from the rate that a sample has.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import orjson

from handler.batch import BatchError, storage
from handler.batch.storage import Entry, Storage
from handler.iso_time import iso_time
from handler.manifest import Manifest
from handler.scoring import Scorer

PLAN, SHARDS = "plan.json", "shards.json"
SHARD_SECONDS = 30.0
MIN_SHARD_BYTES, MAX_SHARD_BYTES = 1 << 20, 256 << 20
MAX_SHARDS = 10_000  # so that the results of a Distributed Map stay under 256 kB
MAX_GZIP_BYTES = 1 << 30  # one part of a quarter of an hour, which is Lambda's limit
MAX_REFUSED_PERCENT = 5.0
WHOLE_FILE = 1 << 62
SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Options:
    """The options of a run.

    `key`: the column that the output repeats, "" for none. `ignore_unknown`: columns that are not
    in the contract are no violation. `max_refused_percent`: of a part's rows, before the run fails.
    `part_bytes`: the size of a part, 0 for the one that the measured rate suggests.
    """

    key: str = ""
    ignore_unknown: bool = False
    max_refused_percent: float = MAX_REFUSED_PERCENT
    part_bytes: int = 0


@dataclass(frozen=True)
class Source(Entry):
    """An input file. `columns`: its names, of JSON lines none; `delimiter`: of CSV."""

    format: str
    is_gzip: bool
    columns: list[str]
    delimiter: str


@dataclass(frozen=True)
class Shard:
    """A part of the input: bytes, or row groups, from `start` to before `stop`."""

    number: int
    source: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Return the name of its files, without the suffix."""
        return f"part-{self.number:05}"


@dataclass(frozen=True)
class Plan:
    """A run as it was planned. `rows`: how many there are, estimated from a sample."""

    id: str
    started: str
    model: dict[str, str]
    function_version: str
    options: Options
    sources: list[Source]
    shards: int
    rows: int


def model_of(manifest: Manifest) -> dict[str, str]:
    """Return what a plan records of its model."""
    sha256 = manifest.files["model.onnx"].sha256
    return {"name": manifest.name, "version": manifest.version, "sha256": sha256}


def make_plan(
    scorer: Scorer,
    run: Storage,
    id: str,
    uri: str,
    options: Options,
    *,
    function_version: str = "$LATEST",
    workers: int = 1,
) -> Plan:
    """Inspect the input, write the plan and its parts unless they exist, and return the plan.

    `workers`: how many parts there are at least where the input is large enough. Raise BatchError.
    """
    if run.read(PLAN) is not None:
        return load_plan(scorer.manifest, run)
    entries = storage.connect(uri).inputs()
    if not entries:
        raise BatchError("there is no input file")
    sources = [_inspect(scorer, entry, options) for entry in entries]
    if len({(source.format, *sorted(source.columns)) for source in sources}) > 1:
        raise BatchError("the input files differ in their format or in their columns")
    bytes_per_row, seconds_per_row = measure(scorer, sources[0], options)
    total = sum(source.size for source in sources)
    size = min(SHARD_SECONDS / seconds_per_row * bytes_per_row, MAX_SHARD_BYTES, total / workers)
    # a power of two, so that the same input has the same parts though the rate varies
    rounded = 2 ** round(math.log2(max(size, MIN_SHARD_BYTES)))
    size = max(options.part_bytes or rounded, total / MAX_SHARDS)
    shards = [
        Shard(number, *span) for number, span in enumerate(_spans(sources, size, bytes_per_row))
    ]
    plan = Plan(
        id=id,
        started=iso_time(int(time.time())),
        model=model_of(scorer.manifest),
        function_version=function_version,
        options=options,
        sources=sources,
        shards=len(shards),
        rows=round(total / bytes_per_row),
    )
    storage.put_json(run, SHARDS, shards)
    storage.put_json(run, PLAN, plan)
    return load_plan(scorer.manifest, run)


def load_plan(manifest: Manifest, run: Storage) -> Plan:
    """Return the plan of a run. Raise BatchError if there is none, or it is of another model."""
    plan = read_plan(run)
    if plan.model != model_of(manifest):
        began = f"{plan.model['name']} {plan.model['version']}"
        raise BatchError(f"the run began with another model, {began}: resume it with that one")
    return plan


def read_plan(run: Storage) -> Plan:
    """Return the plan of a run of any model. Raise BatchError if there is none."""
    content = run.read(PLAN)
    if content is None:
        raise BatchError("there is no such run")
    fields = orjson.loads(content)
    sources = [Source(**source) for source in fields["sources"]]
    return Plan(**{**fields, "options": Options(**fields["options"]), "sources": sources})


def read_shards(run: Storage) -> list[Shard]:
    """Return the parts of a run."""
    return [Shard(**shard) for shard in orjson.loads(run.read(SHARDS) or b"[]")]


def _inspect(scorer: Scorer, entry: Entry, options: Options) -> Source:
    """Return what an input file holds. Raise BatchError if the model cannot score it."""
    from handler.batch import read

    with storage.connect(entry.uri).open(entry.etag) as file:
        try:
            format, is_gzip = read.detect_format(entry.uri, file)
            if is_gzip and entry.size > MAX_GZIP_BYTES:
                raise BatchError("a gzip file is one part: split it into files of up to 1 GB")
            columns, delimiter = read.reader_class(format).header(scorer, file, is_gzip)
            if format != read.JSONL:
                _check_columns(scorer.manifest, columns, options)
        except BatchError as error:
            name = entry.uri.rpartition("/")[2]
            raise BatchError(f"{name}: {error}") from None
    return Source(**vars(entry), format=format, is_gzip=is_gzip, columns=columns,
                  delimiter=delimiter)  # fmt: skip


def _check_columns(manifest: Manifest, columns: list[str], options: Options) -> None:
    """Raise BatchError for missing, unknown and duplicate columns, without unknown names."""
    if not manifest.features:
        raise BatchError("the model takes tensors, which only JSON lines hold")
    features = {feature.name: feature.nullable for feature in manifest.features}
    if len(set(columns)) < len(columns):
        raise BatchError("two columns have one name")
    if options.key and options.key not in columns:
        raise BatchError("the key column is missing")
    # a misspelled name must not become a column of nulls
    missing = [
        name
        for name, nullable in features.items()
        if name not in columns and (not nullable or options.ignore_unknown)
    ]
    if missing:
        raise BatchError(f"the column {missing[0]} is missing")
    unknown = len(set(columns) - {*features, options.key})
    if unknown and not options.ignore_unknown:
        raise BatchError(f"{unknown} columns are not in the contract; --ignore-unknown skips them")


def measure(scorer: Scorer, source: Source, options: Options) -> tuple[float, float]:
    """Return bytes and seconds per row of the first rows. Raise BatchError without rows."""
    from handler.batch import read, score

    reader = read.reader_class(source.format)(scorer, source, options)
    rows, start = 0, time.process_time()
    with storage.connect(source.uri).open(source.etag) as file:
        for chunk in reader.chunks(file, 0, WHOLE_FILE):
            rows += len(chunk.numbers) + len(chunk.malformed)
            score.score_chunk(scorer, reader, chunk)
            if time.process_time() - start > SAMPLE_SECONDS:
                break
        if not rows:
            raise BatchError("the input has no rows")
        # a clock of milliseconds, as under a limit of CPU time, may not have ticked
        seconds = max(time.process_time() - start, 1e-6)
        return reader.bytes_per_row(file, rows), seconds / rows


def _spans(
    sources: list[Source], size: float, bytes_per_row: float
) -> Iterator[tuple[int, int, int]]:
    """Yield source, start and stop of each part of about `size` bytes."""
    from handler.batch import read

    for index, source in enumerate(sources):
        if source.is_gzip:
            yield index, 0, WHOLE_FILE
        elif source.format == read.PARQUET:
            from handler.batch.parquet import row_group_spans

            with storage.connect(source.uri).open(source.etag) as file:
                spans = row_group_spans(file, size / bytes_per_row)
                yield from ((index, *span) for span in spans)
        else:
            count = max(1, round(source.size / size))
            edges = [source.size * i // count for i in range(count + 1)]
            yield from ((index, *span) for span in pairwise(edges))
