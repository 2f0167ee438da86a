"""`answerable batch`: score a file of any size, here or with a deployed stack.

    answerable batch customers.parquet -o out/            on this machine, with all cores
    answerable batch s3://bucket/customers.parquet        with the stack of a stage
    answerable batch status RUN, answerable batch resume RUN

RUN is the folder of a local run, or the id that a stack's run has. A run that was interrupted
continues with `resume`: the parts that are done stay as they are.
"""

import argparse
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from answerable.commands import add_model
from answerable.terminal import plain
from handler.batch import BatchError
from handler.batch.plan import MAX_REFUSED_PERCENT, Options, Plan, read_shards
from handler.batch.storage import Folder
from handler.errors import ApiError, ArtifactError
from infra.project import find_model

MAX_CRASHES = 3  # of worker processes
ACTIONS = ("status", "resume")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("words", nargs="+", metavar="INPUT", help="a file or a folder; or: status RUN, resume RUN")
    add("-o", "--output", type=Path, metavar="DIR", help="a new folder for a local run")
    add_model(parser)
    add("--key", default="", metavar="COLUMN", help="a column that the output repeats as `key`")
    add("--ignore-unknown", action="store_true", help="skip columns that are not in the contract")
    add(
        "--max-refused",
        type=float,
        default=MAX_REFUSED_PERCENT,
        metavar="PERCENT",
        help="of a part's rows, before the run fails (default: %(default)g)",
    )
    add("--part-bytes", type=int, default=0, metavar="N", help="of a part (default: by the rate)")
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help="default: all cores")


def main(args: argparse.Namespace) -> int:
    """Start, resume or describe a run; return 1 if it fails, 2 for arguments that do not fit."""
    console = Console(stderr=True)
    action = args.words[0] if args.words[0] in ACTIONS and len(args.words) == 2 else ""
    try:
        if action == "status":
            console.print_json(data=_status(args.words[1]))
            return 0
        if action == "resume":
            folder, inputs = Path(args.words[1]), ""
        elif len(args.words) == 1 and args.output:
            folder, inputs = args.output, args.words[0]
        else:
            console.print("batch: one INPUT and -o DIR, or status RUN, or resume RUN", style="red")
            return 2
        document = run_local(folder, inputs, args, console)
    except (BatchError, ArtifactError, ApiError) as error:
        console.print(plain(f"batch: {error}", "red"))
        return 1
    except KeyboardInterrupt:
        console.print(
            f"batch: interrupted; answerable batch resume {folder} continues", style="red"
        )
        return 130
    for name in ("rows", "refused", "seconds"):
        console.print(f"{name:8}{document[name]:>14,}", highlight=False)
    return 0


def _status(run: str) -> dict[str, Any]:
    from handler.batch.finish import status

    return status(Folder(run))


def run_local(
    folder: Path, inputs: str, args: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """Run or resume a batch in a folder; return its manifest. Raise BatchError."""
    if inputs and folder.exists() and any(folder.iterdir()):
        raise BatchError(
            f"{folder} is not empty; `answerable batch resume {folder}` continues a run"
        )
    if not inputs and not folder.is_dir():
        raise BatchError(f"there is no folder {folder}")
    options = Options(args.key, args.ignore_unknown, args.max_refused, args.part_bytes)
    job = (str(find_model(args.model)), str(folder))
    try:
        for _ in range(MAX_CRASHES):
            try:
                return _run_in_pool(job, (inputs, options, args.workers), console)
            except BrokenProcessPool:
                console.print(
                    "batch: a worker process ended; its parts are repeated", style="yellow"
                )
    finally:
        shutil.rmtree(folder / ".tmp", ignore_errors=True)
    raise BatchError(
        f"worker processes ended {MAX_CRASHES} times: too little memory, or a part that "
        "the model cannot score"
    )


def _run_in_pool(job: tuple[str, str], request: Any, console: Console) -> dict[str, Any]:
    """Plan, score the parts that are not done, and finish, all in worker processes."""
    workers = request[2]
    run = Folder(job[1])
    context = multiprocessing.get_context("spawn")  # onnxruntime's threads do not survive a fork
    pool = ProcessPoolExecutor(workers, context, _load, job)
    columns = (
        TextColumn("{task.completed:,.0f} rows"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    try:
        plan: Plan = pool.submit(_plan, *request).result()
        futures = [pool.submit(_score, shard) for shard in read_shards(run)]
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            bar = progress.add_task("", total=plan.rows, rate="")
            for future in as_completed(futures):
                progress.advance(bar, future.result())
                task = progress.tasks[0]
                progress.update(
                    bar, rate=f"{task.completed / max(task.elapsed or 0, 1e-9):,.0f} rows/s"
                )
        document: dict[str, Any] = pool.submit(_finish).result()
        return document
    except BaseException:
        for process in multiprocessing.active_children():  # they may be busy for a minute
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_state: Any = None  # of a worker process: the scorer, the function that makes ids, the run


def _load(model: str, folder: str) -> None:
    from handler import prediction_id, scoring

    global _state
    scorer = scoring.load(Path(model))
    secret = os.environ.get("PREDICTION_ID_SECRET", "").strip()
    make_ids = prediction_id.make_id_generator(
        scorer.manifest, "$LATEST", secret, prediction_id.BATCH
    )
    _state = scorer, make_ids, Folder(folder)


def _plan(inputs: str, options: Options, workers: int) -> Plan:
    from handler.batch import plan

    scorer, _, run = _state
    if not inputs:
        return plan.load_plan(scorer.manifest, run)
    # several parts for each worker, so that they end at the same time
    return plan.make_plan(scorer, run, run.uri, inputs, options, workers=4 * workers)


def _score(shard: Any) -> int:
    from handler.batch import plan, score

    scorer, make_ids, run = _state
    scored = score.score_shard(scorer, make_ids, run, plan.load_plan(scorer.manifest, run), shard)
    rows: int = scored.summary["rows"]
    return rows


def _finish() -> dict[str, Any]:
    from handler.batch import finish, plan

    run = _state[2]
    return finish.finish(run, plan.read_plan(run))
