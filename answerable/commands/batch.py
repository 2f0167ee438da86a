"""`answerable batch`: score a file of any size, here or with a deployed stack.

    answerable batch customers.parquet -o out/            on this machine, with all cores
    answerable batch s3://bucket/customers.parquet --stack NAME        with a deployed stack
    answerable batch status RUN, answerable batch resume RUN

RUN is the folder of a local run, or the id that a stack's run has. A run that was interrupted
continues with `resume`: the parts that are done stay as they are.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from answerable.commands import InputError, add_model, warn
from handler.batch import BatchError, finish
from handler.batch.plan import MAX_REFUSED_PERCENT, Options, Plan, read_shards
from handler.batch.storage import Folder, connect
from infra.project import find_model

MAX_CRASHES = 3  # of worker processes
BASE_MEGABYTES = 100  # of the command itself, and of the libraries that the workers share
POLL_SECONDS = 5.0


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
    add("--stack", metavar="NAME", help="run in this stack instead, as answerable-churn-prod")
    add("--wait", action="store_true", help="with --stack: show the progress until the end")
    add("--part-bytes", type=int, default=0, metavar="N", help="of a part (default: by the rate)")
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help="default: all cores")
    add("--memory", type=int, default=400, metavar="MB", help="of all workers (default: 400)")


def main(args: argparse.Namespace) -> int:
    """Start, resume or describe a run. Raise BatchError if it fails."""
    *action, subject = args.words
    if len(action) > 1 or {*action} - {"status", "resume"}:
        raise InputError("name one INPUT, or status RUN, or resume RUN")
    if args.stack:
        return _on_stack(args, action, subject)
    if action == ["status"]:
        print_json(finish.status(Folder(subject)))
        return 0
    if not action and not args.output:
        raise InputError("a local run needs -o DIR, and a deployed one --stack NAME")
    folder = Path(subject) if action else args.output
    try:
        document = run_local(folder, "" if action else subject, args)
    except KeyboardInterrupt:
        model = f" --model {args.model}" if args.model else ""
        warn(f"interrupted; answerable batch resume {folder}{model} continues")
        return 130
    print_json({name: document[name] for name in ("rows", "refused", "worker_seconds")})
    return 0


def print_json(document: dict[str, Any]) -> None:
    """Print a document to stdout."""
    print(json.dumps(document, indent=2))


def _on_stack(args: argparse.Namespace, action: list[str], subject: str) -> int:
    """Start, resume or describe a run of a stack; with `--wait`, until it ends."""
    import boto3

    from answerable.stack import stack_outputs
    from handler.batch import api
    from handler.settings import Settings

    (stack,) = boto3.client("cloudformation").describe_stacks(StackName=args.stack)["Stacks"]
    outputs = stack_outputs(stack)
    if "BatchBucket" not in outputs:
        raise InputError(f"{args.stack} has no batches")
    machine = outputs["BatchStateMachine"]
    # what the caller may read is for IAM to say, not for the list of the API
    config = Settings(None, batch_bucket=outputs["BatchBucket"], batch_state_machine=machine,
                      batch_input_uris=("s3://",))  # fmt: skip
    if action:
        document = api.get(config, subject, None)
    else:
        request = {"input": subject, "key": args.key, "ignore_unknown": args.ignore_unknown,
                   "max_refused_percent": args.max_refused}  # fmt: skip
        document = api.start(config, json.dumps(request))
    if action == ["resume"]:
        connect(f"s3://{outputs['BatchBucket']}/runs/{subject}").delete(finish.FAILURE)
        boto3.client("stepfunctions").start_execution(
            stateMachineArn=machine,
            name=f"{subject}-{int(time.time())}",
            input=json.dumps({"run": subject}),
        )
    if args.wait:
        id = document["batch"]["id"]
        with _progress() as progress:
            bar = progress.add_task("", total=None)
            while True:
                document = api.get(config, id, None)
                batch = document["batch"]
                if batch["status"] in ("succeeded", "failed"):
                    break
                total = batch.get("estimated_rows")
                progress.update(bar, completed=batch.get("rows", 0), total=total)
                time.sleep(POLL_SECONDS)
    print_json(document["batch"])
    return int(document["batch"]["status"] == "failed")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.completed:,.0f} rows"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def run_local(folder: Path, inputs: str, args: argparse.Namespace) -> dict[str, Any]:
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
                with _Pool(1, job) as pool:
                    plan, megabytes = pool.submit(_plan, inputs, options, args.workers).result()
                workers = count_workers(args.workers, args.memory, megabytes)
                with _Pool(workers, job, plan.sources[0].format) as pool, _progress() as progress:
                    bar = progress.add_task("", total=plan.rows)
                    shards = read_shards(Folder(str(folder)))
                    for future in as_completed([pool.submit(_score, shard) for shard in shards]):
                        progress.advance(bar, future.result())
                return finish.finish(Folder(str(folder)), plan)
            except BrokenProcessPool:
                warn("a worker process ended; its parts are repeated")
    finally:
        shutil.rmtree(folder / ".tmp", ignore_errors=True)
    raise BatchError(
        f"worker processes ended {MAX_CRASHES} times: too little memory, or a part that "
        "the model cannot score"
    )


def count_workers(stated: int, memory: int, worker_megabytes: float) -> int:
    """Return how many workers fit into the memory; one at least."""
    fitting = int((memory - BASE_MEGABYTES) / worker_megabytes)
    if fitting < stated:
        warn(f"{max(1, fitting)} of {stated} workers: more need more --memory than {memory} MB")
    return max(1, min(stated, fitting))


class _Pool(ProcessPoolExecutor):
    """Worker processes. For a format, they share the memory of the libraries that it needs."""

    def __init__(self, workers: int, job: tuple[str, str], format: str = "") -> None:
        # no fork of this process, because onnxruntime's threads do not survive one
        context: Any = multiprocessing.get_context("forkserver" if format else "spawn")
        if format:
            reader = "handler.batch.parquet" if format == "parquet" else "handler.batch.read"
            context.set_forkserver_preload([__name__, "onnxruntime", reader])
        super().__init__(workers, context, _load, job)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind:
            for process in multiprocessing.active_children():  # they may be busy for a minute
                process.terminate()
        self.shutdown(cancel_futures=True)


_state: Any = None  # of a worker process: the scorer, the function that makes ids, the run


class _NoPandas(MetaPathFinder):
    """Prevent pyarrow's import of pandas, which takes 45 MB of each worker."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        """Raise ModuleNotFoundError for pandas."""
        if name == "pandas":
            raise ModuleNotFoundError(name)


def _load(model: str, folder: str) -> None:
    from handler import prediction_id, scoring

    global _state
    sys.meta_path.insert(0, _NoPandas())
    scorer = scoring.load(Path(model))
    secret = os.environ.get("PREDICTION_ID_SECRET", "").strip()
    make_ids = prediction_id.make_id_generator(
        scorer.manifest, "$LATEST", secret, prediction_id.BATCH
    )
    _state = scorer, make_ids, Folder(folder)


def _plan(inputs: str, options: Options, workers: int) -> tuple[Plan, float]:
    """Return the plan, and the memory in MB of a worker that has scored a sample."""
    from handler.batch import plan

    scorer, _, run = _state
    if inputs:
        # several parts for each worker, so that they end at the same time
        plan.make_plan(scorer, run, run.uri, inputs, options, workers=4 * workers)
    planned = plan.load_plan(scorer.manifest, run)
    if not inputs:
        plan.measure(scorer, planned.sources[0], planned.options)
    return planned, _private_megabytes()


def _private_megabytes() -> float:
    """Return the most memory that this process took without files; off Linux an estimate."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 100.0
    fields = dict(line.split(":", 1) for line in lines)
    return (int(fields["VmHWM"].split()[0]) - int(fields["RssFile"].split()[0])) / 1024


def _score(shard: Any) -> int:
    """Score a part; return its rows."""
    from handler.batch import plan, score

    scorer, make_ids, run = _state
    scored = score.score_shard(scorer, make_ids, run, plan.load_plan(scorer.manifest, run), shard)
    rows: int = scored.summary["rows"]
    return rows
