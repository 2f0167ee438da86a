"""Batches on this machine: plan, parts, finish, in each format."""

import contextlib
import gzip
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from answerable.__main__ import main
from answerable.commands import batch
from handler import manifest as manifests
from handler import prediction_id, scoring
from handler.batch import BatchError, finish, plan, read, score
from handler.batch.plan import Options, Plan
from handler.batch.storage import Folder
from handler.hashes import path_sha256
from handler.scoring import Scorer
from tests.fixtures import artifact
from tests.fixtures.artifact import DIABETES

SEED = 20261128
FORMATS = ("csv", "jsonl", "csv.gz", "jsonl.gz", "parquet")
GOOD: dict[str, Any] = {
    "ratio": 0.5, "count": 3, "colour": "red", "open": True, "note/~": 'a, "b"', "serum": None,
}  # fmt: skip


def rows_of(count: int) -> list[dict[str, Any]]:
    """Return distinct valid rows with a key."""
    return [{"customer": f"c{i}", **GOOD, "count": i, "ratio": i % 7 / 2} for i in range(count)]


def write_rows(path: Path, rows: list[dict[str, Any]], **parquet: Any) -> Path:
    """Write rows as the name's suffix says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, **parquet)
        return path
    if ".csv" in path.name:
        import csv
        import io

        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue()
    else:
        content = "".join(json.dumps(row) + "\n" for row in rows)
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def make_ids(scorer: Scorer) -> prediction_id.IdGenerator:
    return prediction_id.make_id_generator(scorer.manifest, "7", "secret", prediction_id.BATCH)


def run_batch(
    scorer: Scorer, inputs: Path, folder: Path, options: Options | None = None
) -> dict[str, Any]:
    """Plan, score and finish a run in this process; return its manifest."""
    run = Folder(str(folder))
    made = plan.make_plan(scorer, run, "r1", str(inputs), options or Options(key="customer"))
    for shard in plan.read_shards(run):
        score.score_shard(scorer, make_ids(scorer), run, made, shard)
    return finish.finish(run, made)


def predictions(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of all parts, in order."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("part-*")):
        if path.suffix == ".parquet":
            rows += pq.read_table(path).to_pylist()
        else:
            rows += map(json.loads, path.read_text().splitlines())
    return rows


def refusals(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("refused/part-*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


@pytest.fixture
def small(tmp_path: Path) -> Scorer:
    """The echo model with runs of ten rows."""
    limits = {"rows": 10, "body_bytes": 10**6, "response_bytes": 10**6, "elements": 10**4}
    return scoring.load(artifact.echo(tmp_path / "model", limits=limits))


@pytest.mark.parametrize("suffix", FORMATS)
def test_batch_scores_each_row_once_and_in_order(
    small: Scorer, tmp_path: Path, suffix: str
) -> None:
    inputs = write_rows(tmp_path / f"in.{suffix}", rows_of(137), row_group_size=20)
    manifest = run_batch(small, inputs, tmp_path / "out", Options("customer", part_bytes=1000))
    parts = manifest["parts"]
    assert len(parts) == 1 if suffix.endswith("gz") else len(parts) > 3
    assert (manifest["rows"], manifest["refused"]) == (137, 0)
    rows = predictions(tmp_path / "out")
    assert [row["key"] for row in rows] == [f"c{i}" for i in range(137)]
    assert [row["count"] for row in rows] == list(range(137))
    assert {row["note"][0] for row in rows} == {GOOD["note/~"]}
    assert {row["model_version"] for row in rows} == {"1.2.3"}
    assert len({row["id"] for row in rows}) == 137
    first = [part["first_row"] for part in parts]
    assert [first[i] + row["row"] for i, row in zip(_part_of_rows(parts), rows, strict=True)] == [
        *range(137)
    ]
    assert (tmp_path / "out/_SUCCESS").exists()
    assert not refusals(tmp_path / "out")


def _part_of_rows(parts: list[dict[str, Any]]) -> list[int]:
    return [i for i, part in enumerate(parts) for _ in range(part["rows"] - part["refused"])]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "csv.gz", "jsonl.gz"])
def test_batch_a_byte_order_mark_is_skipped(small: Scorer, tmp_path: Path, suffix: str) -> None:
    inputs = write_rows(tmp_path / f"in.{suffix}", rows_of(30))
    content = inputs.read_bytes()
    if suffix.endswith("gz"):
        content = gzip.compress(read.BOM + gzip.decompress(content))
    inputs.write_bytes(content if suffix.endswith("gz") else read.BOM + content)
    assert run_batch(small, inputs, tmp_path / "out")["rows"] == 30
    assert [row["key"] for row in predictions(tmp_path / "out")] == [f"c{i}" for i in range(30)]


@pytest.mark.parametrize("suffix", FORMATS)
def test_batch_the_same_input_gives_the_same_bytes(
    small: Scorer, tmp_path: Path, suffix: str
) -> None:
    inputs = write_rows(tmp_path / f"in.{suffix}", rows_of(50), row_group_size=20)
    contents = []
    for name in ("one", "two"):
        run_batch(small, inputs, tmp_path / name, Options("customer", part_bytes=1000))
        contents.append({p.name: p.read_bytes() for p in (tmp_path / name).glob("part-*")})
    assert contents[0] == contents[1]


def test_batch_predictions_are_those_of_predict(tmp_path: Path) -> None:
    scorer = scoring.load(DIABETES)
    row = {feature.name: feature.example for feature in scorer.manifest.features}
    expected = json.loads(scorer.predict(json.dumps({"instances": [row]}))[0])
    for suffix in FORMATS:
        inputs = write_rows(tmp_path / f"in.{suffix}", [row])
        run_batch(scorer, inputs, tmp_path / suffix, Options())
        (scored,) = predictions(tmp_path / suffix)
        assert scored["progression"] == pytest.approx(expected["progression"], rel=1e-6)
        assert "key" not in scored


@pytest.mark.parametrize("suffix", FORMATS)
def test_batch_refuses_bad_rows_and_scores_the_others(
    small: Scorer, tmp_path: Path, suffix: str
) -> None:
    rows = rows_of(60)
    bad = {
        3: ("ratio", -1.0),
        4: ("colour", "green"),
        31: ("note/~", "x" * 21),
        59: ("count", 2**40),
    }
    for number, (name, value) in bad.items():
        rows[number][name] = value
    rows[31]["ratio"] = 99.0  # two violations
    inputs = write_rows(tmp_path / f"in.{suffix}", rows)
    options = Options("customer", max_refused_percent=10)
    manifest = run_batch(small, inputs, tmp_path / "out", options)
    assert (manifest["rows"], manifest["refused"]) == (60, 4)
    assert {(r["row"], r["pointer"], r["code"]) for r in refusals(tmp_path / "out")} == {
        (3, "/ratio", "out_of_range"),
        (4, "/colour", "unknown_category"),
        (31, "/note~1~0", "too_long"),
        (31, "/ratio", "out_of_range"),
        (59, "/count", "out_of_range"),
    }
    keys = [row["key"] for row in predictions(tmp_path / "out")]
    assert keys == [f"c{i}" for i in range(60) if i not in bad]
    text = (tmp_path / "out/refused/part-00000.jsonl").read_text()
    assert "green" not in text
    assert "xxx" not in text


@pytest.mark.parametrize(
    ("suffix", "lines", "codes"),
    [
        ("csv", ['c,1,1,red,true,"a"x,', "c,1,1,red,true,a", 'c,1,1,red,true,"open,'],
         ["malformed", "ragged", "malformed"]),
        ("jsonl", ['{"ratio":', "3", '{"ratio":1,"ratio":2}', '{"ratio":NaN}'],
         ["malformed", "type", "malformed", "non_finite"]),
    ],
)  # fmt: skip
def test_batch_a_malformed_line_is_one_refused_row(
    small: Scorer, tmp_path: Path, suffix: str, lines: list[str], codes: list[str]
) -> None:
    inputs = write_rows(tmp_path / f"in.{suffix}", rows_of(30))
    content = inputs.read_text().splitlines()
    middle = len(content) - 10
    inputs.write_text("\n".join([*content[:middle], *lines, "", *content[middle:]]))
    options = Options("customer", max_refused_percent=50)
    manifest = run_batch(small, inputs, tmp_path / "out", options)
    assert (manifest["rows"], manifest["refused"]) == (30 + len(lines), len(lines))
    first: dict[int, str] = {}
    for refusal in refusals(tmp_path / "out"):
        first.setdefault(refusal["row"], refusal["code"])
    assert list(first.values()) == codes
    assert list(first) == list(range(20, 20 + len(lines)))
    assert [row["key"] for row in predictions(tmp_path / "out")] == [f"c{i}" for i in range(30)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "csv.gz"])
def test_batch_rows_have_the_numbers_that_pandas_gives_them(
    small: Scorer, tmp_path: Path, suffix: str
) -> None:
    import pandas as pd

    rows = rows_of(40)
    rows[7]["colour"] = rows[33]["colour"] = "green"
    inputs = write_rows(tmp_path / f"in.{suffix}", rows)
    data = inputs.read_bytes()
    text = gzip.decompress(data) if suffix.endswith("gz") else data
    lines = text.replace(b"\n", b"\n\r\n").replace(b'\n{"', b'\n\n{"')
    inputs.write_bytes(gzip.compress(lines) if suffix.endswith("gz") else lines)
    frame = pd.read_csv(inputs) if "csv" in suffix else pd.read_json(inputs, lines=True)
    options = Options("customer", max_refused_percent=10)
    assert run_batch(small, inputs, tmp_path / "out", options)["rows"] == len(frame) == 40
    numbers = [refusal["row"] for refusal in refusals(tmp_path / "out")]
    assert numbers == frame.index[frame["colour"] == "green"].tolist() == [7, 33]


def test_batch_bytes_that_are_no_utf8_are_one_refused_row(small: Scorer, tmp_path: Path) -> None:
    inputs = write_rows(tmp_path / "in.csv", rows_of(30))
    inputs.write_bytes(inputs.read_bytes().replace(b"c7,", b"c\xff,"))
    run_batch(small, inputs, tmp_path / "out")
    assert [r["row"] for r in refusals(tmp_path / "out")] == [7]


@pytest.mark.parametrize("suffix", FORMATS)
def test_batch_the_model_rejects_one_row_and_scores_the_others(tmp_path: Path, suffix: str) -> None:
    from onnx import helper

    reciprocal = helper.make_node("Reciprocal", ["x"], ["y"])  # infinite at 0
    scorer = scoring.load(artifact.ratio(tmp_path / "model", reciprocal))
    rows = [{"x": float(i - 5)} for i in range(50)]
    inputs = write_rows(tmp_path / f"in.{suffix}", rows)
    manifest = run_batch(scorer, inputs, tmp_path / "out", Options())
    assert manifest["refused"] == 1
    (refusal,) = refusals(tmp_path / "out")
    assert (refusal["row"], refusal["pointer"], refusal["code"]) == (5, "", "model_rejected")


def test_batch_too_many_refused_rows_end_the_run(small: Scorer, tmp_path: Path) -> None:
    rows = rows_of(100)
    for row in rows[40:46]:
        row["ratio"] = 77
    inputs = write_rows(tmp_path / "in.csv", rows)
    with pytest.raises(BatchError, match=r"part-00000: 6 of its first 100 rows .* limit of 5 %"):
        run_batch(small, inputs, tmp_path / "out")
    assert not list((tmp_path / "out").glob("part-*"))
    with pytest.raises(BatchError, match="1 of 1 parts are missing, first part-00000"):
        finish.finish(Folder(str(tmp_path / "out")), plan.read_plan(Folder(str(tmp_path / "out"))))


def test_batch_many_refused_rows_end_the_run_early(
    small: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "MIN_JUDGED_ROWS", 20)
    inputs = write_rows(tmp_path / "in.jsonl", [{"ratio": 1}] * 20_000)
    with pytest.raises(BatchError, match="20 of its first 20 rows"):
        run_batch(small, inputs, tmp_path / "out", Options())


def edit(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def csv_with(old: bytes = b"", new: bytes = b"") -> Callable[[Path], Path]:
    """Return the maker of a CSV file of nine rows in which some bytes are others."""
    return lambda folder: edit(
        write_rows(folder / "a.csv", rows_of(9)), lambda content: content.replace(old, new)
    )


def holds(name: str, content: bytes) -> Callable[[Path], Path]:
    """Return the maker of a file with a content."""
    return lambda folder: edit(folder / name, lambda _: content)


def cut(name: str, stop: int) -> Callable[[Path], Path]:
    """Return the maker of a file of nine rows that is cut."""
    return lambda folder: edit(write_rows(folder / name, rows_of(9)), lambda b: b[:stop])


def mixed(name: str, **row: Any) -> Callable[[Path], Path]:
    """Return the maker of two files, the second with other columns."""

    def make(folder: Path) -> Path:
        write_rows(folder / "in" / name, [{**row_, **row} for row_ in rows_of(9)])
        return write_rows(folder / "in/a.csv", rows_of(9))

    return make


WRONG_FILES: list[tuple[str, Callable[[Path], Path], str]] = [
    ("empty", holds("a.csv", b""), "is empty"),
    ("header only", lambda d: edit(csv_with()(d), lambda b: b.split(b"\n")[0]), "no rows"),
    ("no header", holds("a.csv", b"1,2.5,3\n"), "is no header"),
    ("no rows in Parquet", lambda d: _parquet_schema(d), "no rows"),
    ("an Excel workbook", holds("a.csv", b"PK\x03\x04..."), "an Excel workbook"),
    ("a JSON array", holds("a.json", b'[{"ratio": 1}]'), "one object per line"),
    ("damaged gzip", cut("a.csv.gz", 60), "gzip file is damaged"),
    ("damaged Parquet", cut("a.parquet", -9), "Parquet file is damaged"),
    ("no Parquet", holds("a.parquet", b"ratio,count\n"), "is not Parquet"),
    ("a missing column", csv_with(b"colour", b"x"), "the column colour is missing"),
    ("an unknown column", csv_with(b"serum", b"sreum"), "1 columns are not in the contract"),
    ("a duplicate column", csv_with(b"serum", b"count"), "one name"),
    ("no key", csv_with(b"customer", b"id"), "the key column is missing"),
    ("another type", lambda d: write_rows(d / "a.parquet", [{**GOOD, "ratio": "1", "customer": 1}]),
     "the column ratio is string, and the contract has number"),
    ("mixed formats", mixed("b.jsonl"), "differ in their format"),
    ("mixed columns", mixed("b.csv", extra=1), "columns are not in the contract"),
    ("no file", lambda d: d / "none.csv", "No such file"),
    ("an empty folder", lambda d: d / "in/a.csv", "no input file"),
    ("UTF-16", lambda d: edit(csv_with()(d), lambda b: b.decode().encode("utf-16")), "in UTF-8"),
    ("nothing in gzip", holds("a.csv.gz", gzip.compress(b"")), "is empty"),
    ("header only in gzip", holds("a.csv.gz", gzip.compress(b"customer,ratio,count,colour,open,"
     b"note/~,serum\n")), "no rows"),
    ("one long line", lambda d: edit(csv_with()(d), lambda b: b + b"x" * (1 << 20)),
     "a line is longer"),
]  # fmt: skip


def _parquet_schema(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(rows_of(1)).slice(0, 0), folder / "a.parquet")
    return folder / "a.parquet"


@pytest.mark.parametrize(("name", "make", "message"), WRONG_FILES, ids=[w[0] for w in WRONG_FILES])
def test_batch_a_wrong_input_is_a_clear_error(
    small: Scorer,
    tmp_path: Path,
    name: str,
    make: Callable[[Path], Path],
    message: str,
) -> None:
    (tmp_path / "in").mkdir()
    for file in ("a.csv", "a.csv.gz", "a.json", "a.parquet"):
        (tmp_path / file).touch()
    path = make(tmp_path)
    inputs = path.parent if path.parent.name == "in" else path
    with pytest.raises(BatchError, match=message):
        run_batch(small, inputs, tmp_path / "out")
    assert not (tmp_path / "out/plan.json").exists() or name == "one long line"


def test_batch_unknown_columns_are_skipped_on_request(small: Scorer, tmp_path: Path) -> None:
    for suffix in FORMATS:
        rows = [{**row, "street": "Main"} for row in rows_of(20)]
        inputs = write_rows(tmp_path / f"in.{suffix}", rows)
        with pytest.raises(BatchError):
            run_batch(small, inputs, tmp_path / f"strict-{suffix}")
        options = Options("customer", ignore_unknown=True)
        assert run_batch(small, inputs, tmp_path / suffix, options)["refused"] == 0


def test_batch_a_nullable_column_may_be_absent(small: Scorer, tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "serum"} for row in rows_of(20)]
    for suffix in FORMATS:
        inputs = write_rows(tmp_path / f"in.{suffix}", rows)
        assert run_batch(small, inputs, tmp_path / suffix)["refused"] == 0
        assert {row["serum"][0] for row in predictions(tmp_path / suffix)} == {True}


def test_batch_a_file_that_changes_ends_the_run(small: Scorer, tmp_path: Path) -> None:
    inputs = write_rows(tmp_path / "in.csv", rows_of(60))
    run = Folder(str(tmp_path / "out"))
    made = plan.make_plan(small, run, "r1", str(inputs), Options("customer", part_bytes=1000))
    shards = plan.read_shards(run)
    score.score_shard(small, make_ids(small), run, made, shards[0])
    with inputs.open("a") as file:
        file.write(inputs.read_text().splitlines()[-1] + "\n")
    with pytest.raises(BatchError, match="the input changed"):
        score.score_shard(small, make_ids(small), run, made, shards[1])


def test_batch_a_part_has_the_bytes_of_half_a_minute(
    small: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = write_rows(tmp_path / "in.csv", rows_of(1000))
    size = inputs.stat().st_size
    monkeypatch.setattr(plan, "MIN_SHARD_BYTES", 1)
    # 100 rows of 40 bytes take 30 seconds
    monkeypatch.setattr(plan, "measure", lambda scorer, source, options: (40.0, 0.3))
    run = Folder(str(tmp_path / "out"))
    made = plan.make_plan(small, run, "r1", str(inputs), Options("customer"))
    assert abs(made.shards - size / 4096) < 2


def test_batch_a_file_that_changes_while_it_is_read_ends_the_run(
    small: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = write_rows(tmp_path / "in.csv", rows_of(60))
    run = Folder(str(tmp_path / "out"))
    made = plan.make_plan(small, run, "r1", str(inputs), Options("customer"))
    score_chunk = score.score_chunk

    def change(*args: Any) -> Any:
        inputs.write_text(inputs.read_text() + "x")
        return score_chunk(*args)

    monkeypatch.setattr(score, "score_chunk", change)
    with pytest.raises(BatchError, match="the input changed"):
        score.score_shard(small, make_ids(small), run, made, plan.read_shards(run)[0])
    assert not list((tmp_path / "out").glob("part-*"))


def test_batch_a_part_that_is_done_is_not_scored_again(
    small: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = write_rows(tmp_path / "in.csv", rows_of(30))
    first = run_batch(small, inputs, tmp_path / "out")
    monkeypatch.setattr(score, "score_chunk", None)
    run = Folder(str(tmp_path / "out"))
    again = score.score_shard(
        small, make_ids(small), run, plan.read_plan(run), plan.read_shards(run)[0]
    )
    assert again.summary["sha256"] == first["parts"][0]["sha256"]
    assert again.sample is None


def test_batch_a_part_without_a_summary_keeps_its_first_output(
    small: Scorer, tmp_path: Path
) -> None:
    inputs = write_rows(tmp_path / "in.csv", rows_of(30))
    run_batch(small, inputs, tmp_path / "out")
    run = Folder(str(tmp_path / "out"))
    (tmp_path / "out/summaries/part-00000.json").unlink()
    (tmp_path / "out/part-00000.jsonl").write_text("of another CPU")
    scored = score.score_shard(
        small, make_ids(small), run, plan.read_plan(run), plan.read_shards(run)[0]
    )
    assert (tmp_path / "out/part-00000.jsonl").read_text() == "of another CPU"
    assert scored.summary["sha256"] == path_sha256(tmp_path / "out/part-00000.jsonl")


def test_batch_another_model_cannot_resume_a_run(small: Scorer, tmp_path: Path) -> None:
    inputs = write_rows(tmp_path / "in.csv", rows_of(30))
    run_batch(small, inputs, tmp_path / "out")
    other = scoring.load(artifact.echo(tmp_path / "other", version="2.0.0"))
    with pytest.raises(BatchError, match=r"began with another model, test 1\.2\.3"):
        plan.load_plan(other.manifest, Folder(str(tmp_path / "out")))


def test_batch_a_classifier_writes_a_column_per_class(tmp_path: Path) -> None:
    scorer = scoring.load(artifact.classifier(tmp_path / "model"))
    row = {"size": 0.5, "years": None, "open:now": True, "grade": 2.5}
    for suffix in ("jsonl", "parquet"):
        inputs = write_rows(tmp_path / f"in.{suffix}", [row, {**row, "years": 4}])
        run_batch(scorer, inputs, tmp_path / suffix, Options())
    lines, columns = predictions(tmp_path / "jsonl"), predictions(tmp_path / "parquet")
    assert set(columns[0]["odds"]) == {"0", "1", "2", "3"}
    for left, right in zip(lines, columns, strict=True):
        assert left["label"] == right["label"]
        assert left["odds"] == pytest.approx(right["odds"], rel=1e-6)


@pytest.mark.parametrize("suffix", FORMATS)
def test_batch_a_null_is_refused_where_the_contract_has_none(
    small: Scorer, tmp_path: Path, suffix: str
) -> None:
    nullable = scoring.load(artifact.classifier(tmp_path / "nullable"))
    row = {"size": 0.5, "years": 4, "open:now": True, "grade": 2.5}
    inputs = write_rows(
        tmp_path / f"in.{suffix}", [row, {**row, "years": None}, {**row, "open:now": None}]
    )
    some = Options(max_refused_percent=50)
    assert run_batch(nullable, inputs, tmp_path / "years", some)["refused"] == 1
    rows = [{**row, "serum": 1.5} for row in rows_of(19)]
    rows[3]["colour"] = None
    rows[15]["note/~"] = "x" * 21 if "csv" in suffix else None  # an empty cell is a text
    inputs = write_rows(tmp_path / f"in.{suffix}", rows)
    options = Options("customer", max_refused_percent=50)
    assert run_batch(small, inputs, tmp_path / "out", options)["refused"] == 2
    assert {(refusal["row"], refusal["pointer"]) for refusal in refusals(tmp_path / "out")} == {
        (3, "/colour"),
        (15, "/note~1~0"),
    }


def test_batch_tensors_are_json_lines(tmp_path: Path) -> None:
    scorer = scoring.load(artifact.pair(tmp_path / "model"))
    rows = [{"image": [[1.0] * n, [2.0] * n], "words": ["x"] * n} for n in (1, 2, 3)] * 5
    rows[4] = {"image": [[1.0], [2.0, 3.0]], "words": ["x"]}
    inputs = write_rows(tmp_path / "in.jsonl", rows)
    options = Options(max_refused_percent=50)
    assert run_batch(scorer, inputs, tmp_path / "out", options)["refused"] == 1
    assert predictions(tmp_path / "out")[0]["words_out"] == ["x"]
    with pytest.raises(BatchError, match="only JSON lines"):
        run_batch(
            scorer, write_rows(tmp_path / "in.csv", [{"image": 1}]), tmp_path / "csv", options
        )


def test_batch_dates_and_decimals_of_parquet(tmp_path: Path) -> None:
    import datetime
    import decimal

    from onnx import helper

    node = helper.make_node("Identity", ["x"], ["y"])
    feature = {
        "name": "x",
        "input": "x",
        "type": "date",
        "nullable": False,
        "example": "2026-01-02",
    }
    dates = scoring.load(artifact.ratio(tmp_path / "dates", node, features=[feature]))
    numbers = scoring.load(artifact.ratio(tmp_path / "numbers", node))
    moment = datetime.datetime(1970, 1, 3, 12, tzinfo=datetime.UTC)
    cases: list[tuple[Scorer, Any, float]] = [
        (dates, datetime.date(1970, 1, 3), 2.0),
        (dates, moment, 2.5),
        (dates, "1970-01-03", 2.0),
        (numbers, decimal.Decimal("2.50"), 2.5),
        (numbers, 3, 3.0),
    ]
    for i, (scorer, value, expected) in enumerate(cases):
        inputs = write_rows(tmp_path / f"{i}.parquet", [{"x": value}, {"x": value}])
        run_batch(scorer, inputs, tmp_path / str(i), Options())
        assert [row["y"] for row in predictions(tmp_path / str(i))] == [expected] * 2


def test_batch_a_dictionary_column_is_read_as_its_values(small: Scorer, tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows_of(25))
    index = table.schema.names.index("colour")
    table = table.set_column(index, "colour", table["colour"].dictionary_encode())
    pq.write_table(table, tmp_path / "in.parquet")
    assert run_batch(small, tmp_path / "in.parquet", tmp_path / "out")["refused"] == 0


def test_batch_any_split_of_a_text_reads_each_line_once(small: Scorer, tmp_path: Path) -> None:
    random.seed(SEED)
    inputs = write_rows(tmp_path / "in.csv", rows_of(40))
    text = inputs.read_bytes().replace(b"\nc7,", b"\r\nc7,").removesuffix(b"\n")
    inputs.write_bytes(text)
    source = plan._inspect(small, Folder(str(inputs)).inputs()[0], Options("customer"))
    for _ in range(200):
        count = random.randrange(1, 60)
        edges = sorted({0, len(text), *(random.randrange(len(text)) for _ in range(count))})
        keys: list[str] = []
        for start, stop in pairwise(edges):
            reader = read.reader_class("csv")(small, source, Options("customer"))
            with inputs.open("rb") as file:
                for chunk in reader.chunks(file, start, stop):
                    assert not chunk.malformed
                    keys += chunk.keys
        assert keys == [f"c{i}" for i in range(40)], edges


def test_batch_lines_without_quotes_are_split_as_the_csv_module_does(
    small: Scorer, tmp_path: Path
) -> None:
    random.seed(SEED)
    inputs = write_rows(tmp_path / "in.csv", rows_of(2))
    source = plan._inspect(small, Folder(str(inputs)).inputs()[0], Options("customer"))
    reader = read.CsvReader(small, source, Options("customer"))
    good, short = b"c,1,2,red,true,a,", b"c,1,2,red,true,a"
    cells = [good, short, good + b",", b"c\r" + good[1:], "é".encode() + good, b'"c"' + good[1:]]
    for _ in range(500):
        lines = [random.choice(cells) + random.choice([b"\n", b"\n", b"\r\n"]) for _ in range(3)]
        if random.random() < 0.5:
            lines[-1] = lines[-1].strip()
        columns, keys, refused = reader.parse(lines)
        rows = [reader._split([line]) for line in lines]
        expected = [row[0] for row in rows if row and len(row) == 1 and len(row[0]) == 7]
        assert columns == {i: [row[i] for row in expected] for i in range(7)}, lines
        assert keys == columns[0]
        assert len(refused) + len(expected) == len(lines)


def test_batch_workers_do_not_load_pandas(small: Scorer, tmp_path: Path) -> None:
    inputs = write_rows(tmp_path / "in.parquet", rows_of(60))
    code = (
        "import sys; from answerable.commands import batch as b; from handler.batch import plan;"
        "b._load(*sys.argv[1:3]); p, _ = b._plan(sys.argv[3], plan.Options('customer'), 1);"
        "b._score(plan.read_shards(b._state[2])[0]); sys.exit('pandas' in sys.modules)"
    )
    words = [sys.executable, "-c", code, f"{tmp_path}/model", f"{tmp_path}/out", str(inputs)]
    subprocess.run(words, check=True)
    assert len(predictions(tmp_path / "out")) == 60


def test_batch_part_sizes_are_powers_of_two(small: Scorer, tmp_path: Path) -> None:
    inputs = write_rows(tmp_path / "in.jsonl", rows_of(40_000))
    made = plan.make_plan(
        small, Folder(str(tmp_path / "out")), "r", str(inputs), Options("customer"), workers=100
    )
    assert made.shards == round(inputs.stat().st_size / (1 << 20))
    assert made.rows == pytest.approx(40_000, rel=0.1)


def test_batch_status_says_what_is_done(small: Scorer, tmp_path: Path) -> None:
    inputs = write_rows(tmp_path / "in.csv", rows_of(60))
    run = Folder(str(tmp_path / "out"))
    made = plan.make_plan(small, run, "r1", str(inputs), Options("customer", part_bytes=1000))
    shards = plan.read_shards(run)
    score.score_shard(small, make_ids(small), run, made, shards[0])
    running = finish.status(run)
    assert (running["status"], running["parts_done"]) == ("running", 1)
    assert 0 < running["rows"] < 60
    assert running["estimated_finish"] >= running["started"]
    for shard in shards:
        score.score_shard(small, make_ids(small), run, made, shard)
    finish.finish(run, made)
    assert finish.status(run)["status"] == "succeeded"
    assert finish.status(run)["rows"] == 60
    with pytest.raises(BatchError, match="no such run"):
        finish.status(Folder(str(tmp_path / "other")))


# the command, with its worker processes, which a socket of this machine starts


def command(*words: str | Path) -> int:
    return main(["batch", *map(str, words)])


@pytest.mark.enable_socket
def test_batch_command_scores_a_file(
    small: Scorer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = write_rows(tmp_path / "in.csv", rows_of(300))
    out = tmp_path / "out"
    arguments = ("--model", f"{tmp_path}/model", "--key", "customer", "--workers", "2")
    assert command(inputs, "-o", out, *arguments, "--part-bytes", "2000") == 0
    printed = json.loads(capsys.readouterr().out)
    # a time from start to finish would include the pause before a resume
    assert list(printed) == ["rows", "refused", "worker_seconds"]
    assert [row["key"] for row in predictions(out)] == [f"c{i}" for i in range(300)]
    assert not (out / ".tmp").exists()
    assert command(inputs, "-o", out, *arguments) == 1
    assert "is not empty" in " ".join(capsys.readouterr().err.split())
    capsys.readouterr()
    assert command("status", out) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "succeeded"
    # a run that lost some of its parts, as if it had been interrupted
    before = {path.name: path.read_bytes() for path in out.glob("part-*")}
    for name in ("_SUCCESS", "manifest.json", "summaries/part-00001.json", "part-00001.jsonl"):
        (out / name).unlink()
    assert command("resume", out, *arguments) == 0
    assert {path.name: path.read_bytes() for path in out.glob("part-*")} == before
    assert command("resume", tmp_path / "none", *arguments) == 1
    assert command(inputs) == 2


@pytest.mark.enable_socket
@pytest.mark.fault("a worker process of a batch is killed", "another scores its parts, once")
def test_batch_command_repeats_the_parts_of_a_killed_worker(
    small: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = write_rows(tmp_path / "in.csv", rows_of(300))
    monkeypatch.setattr(batch, "_score", _die_once)
    arguments = ("--model", f"{tmp_path}/model", "--key", "customer", "--workers", "2")
    assert command(inputs, "-o", tmp_path / "out", *arguments, "--part-bytes", "2000") == 0
    assert (tmp_path / "out/.died").exists()
    assert [row["key"] for row in predictions(tmp_path / "out")] == [f"c{i}" for i in range(300)]


def _die_once(shard: Any) -> int:
    mark = Path(batch._state[2].uri, ".died")
    if shard.number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), 9)
    return batch._score(shard)


@pytest.mark.enable_socket
@pytest.mark.fault(
    "a part of a batch kills every worker", "the run fails, and the parts that are done stay so"
)
def test_batch_command_a_poisoned_part_ends_the_run(
    small: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    inputs = write_rows(tmp_path / "in.csv", rows_of(300))
    monkeypatch.setattr(batch, "_score", _die)
    arguments = ("--model", f"{tmp_path}/model", "--key", "customer", "--workers", "1")
    assert command(inputs, "-o", tmp_path / "out", *arguments, "--part-bytes", "2000") == 1
    assert "ended 3 times" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out/_SUCCESS").exists()
    assert (tmp_path / "out/summaries/part-00001.json").exists()


def _die(shard: Any) -> int:
    if shard.number == 2:
        os.kill(os.getpid(), 9)
    return batch._score(shard)


def test_batch_workers_fit_into_the_memory() -> None:
    assert batch.count_workers(2, 400, 40) == 2
    assert batch.count_workers(64, 400, 40) == 7
    assert batch.count_workers(64, 4000, 40) == 64
    assert batch.count_workers(8, 400, 1000) == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_batch_command_with_sixteen_workers_stays_below_400_mb(tmp_path: Path, suffix: str) -> None:
    rows = [{f.name: f.example for f in manifests.read(DIABETES).features}] * 200_000
    inputs = write_rows(tmp_path / f"in.{suffix}", rows)
    words = [str(inputs), "-o", str(tmp_path / "out"), "--model", str(DIABETES)]
    words += ["--workers", "16", "--part-bytes", str(inputs.stat().st_size // 40)]
    process = subprocess.Popen(
        [sys.executable, "-m", "answerable", "batch", *words], stderr=subprocess.PIPE, text=True
    )
    sizes = [0.0]
    while process.poll() is None:
        sizes.append(sum(map(_resident_megabytes, _descendants(process.pid))))
        time.sleep(0.05)
    assert process.returncode == 0
    assert "of 16 workers" in process.communicate()[1]
    assert 100 < max(sizes) < 400


def _descendants(pid: int) -> list[int]:
    """Return a process and those that it and its children started."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *(id for child in children for id in _descendants(int(child)))]
    return []


def _resident_megabytes(pid: int) -> float:
    """Return the memory of a process; of what it shares its share."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(text.partition("\nPss:")[2].split()[0]) / 1024
    return 0.0


def test_batch_plan_survives_its_json(small: Scorer, tmp_path: Path) -> None:
    inputs = write_rows(tmp_path / "in.csv", rows_of(30))
    run = Folder(str(tmp_path / "out"))
    made: Plan = plan.make_plan(small, run, "r1", str(inputs), Options("customer"))
    assert plan.read_plan(run) == made
    again = plan.make_plan(small, run, "other", "elsewhere", Options())
    assert again == made  # a run has one plan


def test_batch_files_of_a_folder_are_one_input(small: Scorer, tmp_path: Path) -> None:
    (tmp_path / "in/day=2").mkdir(parents=True)
    write_rows(tmp_path / "in/a.csv", rows_of(30)[:20])
    write_rows(tmp_path / "in/day=2/b.csv", rows_of(30)[20:])
    (tmp_path / "in/_SUCCESS").touch()
    (tmp_path / "in/.hidden").write_text("x")
    manifest = run_batch(small, tmp_path / "in", tmp_path / "out")
    assert len(manifest["parts"]) == 2
    assert [row["key"] for row in predictions(tmp_path / "out")] == [f"c{i}" for i in range(30)]
    # another column order is no other schema
    rows = [{name: row[name] for name in reversed(row)} for row in rows_of(9)]
    write_rows(tmp_path / "in/a.csv", rows)
    run_batch(small, tmp_path / "in", tmp_path / "again")
    write_rows(tmp_path / "in/a.csv", [{k: v for k, v in r.items() if k != "serum"} for r in rows])
    with pytest.raises(BatchError, match="or in their columns"):
        run_batch(small, tmp_path / "in", tmp_path / "mixed")


@pytest.mark.parametrize("suffix", FORMATS)
def test_batch_every_violation_of_a_row_is_listed(
    small: Scorer, tmp_path: Path, suffix: str
) -> None:
    rows = [{**row, "ratio": -1.0, "count": -9, "serum": 0.5} for row in rows_of(10)]
    rows = [{**row, "colour": "green"} for row in rows]  # 30 violations, over the 20 of a response
    inputs = write_rows(tmp_path / f"in.{suffix}", rows)
    run_batch(small, inputs, tmp_path / "out", Options("customer", max_refused_percent=100))
    listed = Counter(refusal["row"] for refusal in refusals(tmp_path / "out"))
    assert listed == dict.fromkeys(range(10), 3)


def test_batch_a_clock_that_does_not_tick_is_no_error(
    small: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = write_rows(tmp_path / "in.csv", rows_of(15))
    monkeypatch.setattr("handler.batch.plan.time.process_time", lambda: 1.0)
    assert run_batch(small, inputs, tmp_path / "out", Options("customer"))["rows"] == 15


@pytest.mark.parametrize("suffix", FORMATS)
def test_batch_a_part_without_predictions_has_no_file(
    small: Scorer, tmp_path: Path, suffix: str
) -> None:
    rows = [{**row, "ratio": -1.0} for row in rows_of(15)]
    inputs = write_rows(tmp_path / f"in.{suffix}", rows)
    options = Options("customer", max_refused_percent=100)
    manifest = run_batch(small, inputs, tmp_path / "out", options)
    assert (manifest["rows"], manifest["refused"]) == (15, 15)
    assert [part["file"] for part in manifest["parts"]] == [None]
    assert not list((tmp_path / "out").glob("part-*"))
