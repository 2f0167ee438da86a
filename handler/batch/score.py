"""Score a part: validate its rows, run the model on the valid ones, and write both kinds.

A part has up to three files: its predictions, its refused rows, and last its summary, which says
that it is done. Their bytes depend on the input, the model and the secret of prediction ids alone.
"""

import os
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from zlib import crc32

import orjson

from handler import prediction_id
from handler.batch import BatchError, read, storage
from handler.batch.plan import Plan, Shard
from handler.batch.read import Chunk, Reader
from handler.batch.storage import Storage
from handler.errors import ContractViolation, Violation
from handler.prediction_id import IdGenerator
from handler.scoring import Scored, Scorer

SUMMARIES, REFUSED = "summaries", "refused"
MEMORY_GB = int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", 0)) / 1024
MIN_JUDGED_ROWS = 10_000  # of a part, before its share of refused rows ends the run


class ScoredChunk(NamedTuple):
    """`numbers` and `keys` of the rows that were scored, and the violations of the others."""

    numbers: Sequence[int]
    keys: Any
    scored: Scored | None
    refused: dict[int, list[Violation]]


class ScoredShard(NamedTuple):
    """`summary`: its document. `sample`: one of its runs, for drift; None if it was done before."""

    summary: dict[str, Any]
    sample: Scored | None


def score_chunk(scorer: Scorer, reader: Reader, chunk: Chunk) -> ScoredChunk:
    """Score the rows of a chunk that the contract takes. Raise ServerError if the model fails."""
    rows, numbers, keys, malformed = chunk
    refused = {number: [violation] for number, violation in malformed.items()}
    while len(numbers):
        try:
            return ScoredChunk(numbers, keys, scorer.score_columns(reader.validate(rows)), refused)
        except ContractViolation as error:
            invalid = _by_row(error)
        for i, violations in invalid.items():
            try:  # the list for a chunk may end before a row's is complete
                reader.validate(reader.select(rows, [i]))
            except ContractViolation as error:
                violations = _by_row(error)[0]
            refused[numbers[i]] = violations
        kept = [i for i in range(len(numbers)) if i not in invalid]
        rows, numbers = reader.select(rows, kept), [numbers[i] for i in kept]
        keys = reader.select_keys(keys, kept) if len(keys) else keys
    return ScoredChunk(numbers, keys, None, refused)


def _by_row(error: ContractViolation) -> dict[int, list[Violation]]:
    """Return the violations of each row, with pointers into the row."""
    violations: dict[int, list[Violation]] = {}
    for violation in error.violations:
        row, slash, column = violation.pointer.removeprefix("/instances/").partition("/")
        violations.setdefault(int(row), []).append(violation._replace(pointer=slash + column))
    return violations


def score_shard(
    scorer: Scorer, make_ids: IdGenerator, run: Storage, plan: Plan, shard: Shard
) -> ScoredShard:
    """Score a part, unless it is done. Raise BatchError or ServerError."""
    if done := run.read(f"{SUMMARIES}/{shard.name}.json"):
        return ScoredShard(orjson.loads(done), None)
    start, source = time.perf_counter(), plan.sources[shard.source]
    reader = read.reader_class(source.format)(scorer, source, plan.options)
    nonce = crc32(f"{source.etag} {shard.start}".encode())
    rows = refused_rows = runs = 0
    sample, prefix = None, ""
    with (
        TemporaryDirectory(dir=run.spool) as folder,
        storage.connect(source.uri).open(source.etag) as file,
        (refused_path := Path(folder, "refused")).open("wb") as refused_file,
        closing(reader.make_writer(output_path := Path(folder, "output"))) as output,
    ):
        for chunk in reader.chunks(file, shard.start, shard.stop):
            done_chunk = score_chunk(scorer, reader, chunk)
            rows += len(chunk.numbers) + len(chunk.malformed)
            for number, violations in sorted(done_chunk.refused.items()):
                refused_rows += 1
                refused_file.writelines(
                    orjson.dumps({"row": number, **violation._asdict()}) + b"\n"
                    for violation in violations
                )
            _check_share(plan, shard, refused_rows, rows, is_done=False)
            if (scored := done_chunk.scored) is None:
                continue
            # the time of the input, so that the same input has the same ids
            request = prediction_id.IdRequest(
                len(done_chunk.numbers), (nonce + runs) & 0xFFFFFFFF, source.modified
            )
            ids = make_ids(scored.outputs, [request])
            prefix = prefix or ids[0][: prediction_id.REQUEST_PREFIX_CHARS].decode()
            runs += 1
            if crc32(b"%d" % runs) % runs == 0:  # each run has the same chance
                sample = scored
            output.write(done_chunk.numbers, done_chunk.keys, ids, scored)
        _check_share(plan, shard, refused_rows, rows, is_done=True)
        output.close()
        refused_file.close()
        # a file that grew or was replaced meanwhile
        storage.connect(source.uri).open(source.etag).close()
        if refused_rows:
            run.put(f"{REFUSED}/{shard.name}.jsonl", refused_path)
        name = f"{shard.name}{output.suffix}" if runs else None
        summary = {
            "number": shard.number,
            "file": name,
            "sha256": run.put(name, output_path) if name else None,
            "rows": rows,
            "refused": refused_rows,
            "runs": runs,
            "prediction_id_prefix": prefix,
            "seconds": (seconds := round(time.perf_counter() - start, 3)),
            "gigabyte_seconds": seconds * MEMORY_GB,
        }
        storage.put_json(run, f"{SUMMARIES}/{shard.name}.json", summary)
    return ScoredShard(summary, sample)


def _check_share(plan: Plan, shard: Shard, refused: int, rows: int, *, is_done: bool) -> None:
    """Raise BatchError if too many of a part's rows are refused."""
    limit = plan.options.max_refused_percent
    if refused * 100 > limit * rows and (is_done or rows >= MIN_JUDGED_ROWS):
        raise BatchError(
            f"{shard.name}: {refused} of its first {rows} rows are refused, over the limit of "
            f"{limit:g} %"
        )
