"""Score one file by `answerable batch`, by hand and by MLflow, in turns: rows a second.

`python -m benchmarks.files --rows 10000000 [--mlflow PYTHON]`: PYTHON has mlflow and onnxruntime.
"""

import argparse
import contextlib
import csv
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import cases
from handler import manifest as manifests
from infra.project import find_model

DIFFERENT_ROWS = 50_000
PR_SET_CHILD_SUBREAPER = 36
PEER = Path(__file__).parent / "peers/pandas_file.py"


def write_input(path: Path, model: Path, rows: int) -> None:
    """Write rows as the suffix says; after DIFFERENT_ROWS they repeat."""
    (distinct,) = cases.rows(manifests.read(model), min(rows, DIFFERENT_ROWS), 1)
    if path.suffix == ".parquet":
        table = pa.Table.from_pylist(distinct)
        with pq.ParquetWriter(path, table.schema) as writer:
            for start in range(0, rows, len(distinct)):
                writer.write_table(table.slice(0, rows - start))
        return
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(distinct[0]), lineterminator="\n")
        if path.suffix == ".csv":
            writer.writeheader()
        for start in range(0, rows, len(distinct)):
            block = islice(distinct, rows - start)
            if path.suffix == ".csv":
                writer.writerows(block)
            else:
                file.writelines(json.dumps(row) + "\n" for row in block)


def measure(command: list[str]) -> tuple[float, float]:
    """Return the CPU and the wall seconds of a command and of what it leaves running."""
    # its fork server is waited for here, because it ends after the command
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    wall = time.perf_counter() - start
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall


def main() -> None:
    """Print a table of rows per second."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--formats", nargs="+", default=["csv", "jsonl", "parquet"])
    parser.add_argument("--mlflow", metavar="PYTHON")
    args = parser.parse_args()
    model = find_model("diabetes")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.mlflow:
            write_input(sample := folder / "sample.csv", model, 1000)
            script = str(PEER.with_name("mlflow_model.py"))
            arguments = map(str, (model / "model.onnx", sample, folder / "mlflow"))
            subprocess.run([args.mlflow, script, *arguments], check=True, capture_output=True)
        print("| format | by | rows per CPU second | rows per second |\n|---|---|---:|---:|")
        for suffix in args.formats:
            source, target = folder / f"in.{suffix}", folder / "out"
            write_input(source, model, args.rows)
            by_hand = [str(PEER), str(model / "model.onnx"), str(source), str(target)]
            commands = {
                "answerable": [
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
                    shutil.rmtree(target, ignore_errors=True)
                    target.unlink(missing_ok=True)
            for title, pairs in seconds.items():
                rates = [args.rows / median(side) for side in zip(*pairs, strict=True)]
                print(f"| {suffix} | {title} | {rates[0]:,.0f} | {rates[1]:,.0f} |", flush=True)
            source.unlink()


if __name__ == "__main__":
    main()
