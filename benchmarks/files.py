"""Score one file by `answerable batch`, by hand and by MLflow, in turns: rows a second.

`python -m benchmarks.files --rows 10000000 [--mlflow PYTHON]`: PYTHON has mlflow and onnxruntime.
10,000,000 rows take 4 GB of the disk for temporary files.
"""

import argparse
import contextlib
import csv
import ctypes
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import cases
from benchmarks.results import renew
from handler import manifest as manifests
from infra.project import find_model

DIFFERENT_ROWS = 50_000
PR_SET_CHILD_SUBREAPER = 36
START, END = "<!-- files: written by `python -m benchmarks.files` -->", "<!-- /files -->"
PEER = Path(__file__).parent / "peers/pandas_file.py"


def write_input(path: Path, model: Path, rows: int) -> None:
    """Write rows as the suffix says; after DIFFERENT_ROWS they repeat."""
    (distinct,) = cases.rows(manifests.read(model), min(rows, DIFFERENT_ROWS), 1)
    counts = [min(len(distinct), rows - first) for first in range(0, rows, len(distinct))]
    if path.suffix == ".parquet":
        table = pa.Table.from_pylist(distinct)
        with pq.ParquetWriter(path, table.schema) as writer:
            for count in counts:
                writer.write_table(table.slice(0, count))
        return
    if path.suffix == ".csv":
        text = io.StringIO()
        csv.DictWriter(text, list(distinct[0]), lineterminator="\n").writerows(distinct)
        lines, header = text.getvalue().splitlines(keepends=True), f"{','.join(distinct[0])}\n"
    else:
        lines, header = [json.dumps(row) + "\n" for row in distinct], ""
    with path.open("w") as file:
        file.write(header)
        for count in counts:
            file.writelines(lines[:count])


def measure(command: list[str]) -> tuple[float, float]:
    """Return the CPU and the wall seconds of a command and of what it leaves running."""
    # its fork server is waited for here, because it ends after the command
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    ended = subprocess.run(command, capture_output=True, env=environment)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{ended.stderr.decode()}")
    wall = time.perf_counter() - start
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall


def compare(suffix: str, folder: Path, model: Path, args: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the table for a format: one program each, measured in turns."""
    source, target = folder / f"in.{suffix}", folder / "out"
    write_input(source, model, args.rows)
    by_hand = [str(PEER), str(model / "model.onnx"), str(source), str(target)]
    commands = {
        "answerable batch": [
            *(sys.executable, "-m", "answerable", "batch", str(source)),
            *("-o", str(target), "--model", str(model)),
        ],
        "by hand": [sys.executable, *by_hand],
    }
    if args.mlflow:
        commands["MLflow"] = [args.mlflow, str(PEER), str(folder / "mlflow"), *by_hand[2:]]
    seconds: dict[str, list[tuple[float, float]]] = {title: [] for title in commands}
    for _ in range(args.rounds):
        for title, command in commands.items():
            seconds[title].append(measure(command))
            cpu, wall = seconds[title][-1]
            print(f"{suffix}, {title}: {cpu:.1f} CPU s, {wall:.1f} s", file=sys.stderr, flush=True)
            shutil.rmtree(target, ignore_errors=True)
            target.unlink(missing_ok=True)
    source.unlink()
    rates = {
        title: [args.rows / median(side) for side in zip(*pairs, strict=True)]
        for title, pairs in seconds.items()
    }
    hand_cpu, hand_wall = rates["by hand"]
    for title, (cpu, wall) in rates.items():
        ratios = f"{cpu / hand_cpu:.2f} | {wall / hand_wall:.2f}"
        yield f"| {suffix} | {title} | {cpu:,.0f} | {wall:,.0f} | {ratios} |\n"


def main() -> None:
    """Print a table of rows per second, and put it into a file on request."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.files", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--formats", nargs="+", default=["csv", "jsonl", "parquet"])
    parser.add_argument("--mlflow", metavar="PYTHON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="whose table to renew")
    args = parser.parse_args()
    model = find_model("diabetes")
    text = (
        f"{args.rows:,} rows, rounds: {args.rounds} (medians), {date.today()}, load "
        f"{os.getloadavg()[0]:.1f} before the start.\n\n"
        "| format | by | rows per CPU second | rows per second | x by hand, CPU | x by hand, clock "
        "|\n|---|---|---:|---:|---:|---:|\n"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.mlflow:
            write_input(sample := folder / "sample.csv", model, 1000)
            script = str(PEER.with_name("mlflow_model.py"))
            arguments = map(str, (model / "model.onnx", sample, folder / "mlflow"))
            subprocess.run([args.mlflow, script, *arguments], check=True, capture_output=True)
        for suffix in args.formats:
            text += "".join(compare(suffix, folder, model, args))
    print(text)
    if args.markdown:
        renew(args.markdown, START, END, text)


if __name__ == "__main__":
    main()
