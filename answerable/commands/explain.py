"""`answerable explain ID`: what one prediction was made of, months later.

The id alone says when, by which version and what was predicted. The artifact is looked for by the
hash of its model, in model_artifacts and then in the history of git; the record of the request,
with what was captured, in files or in CloudWatch Logs.
"""

import argparse
import datetime
import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from handler import manifest as manifests
from handler import prediction_id
from handler.errors import ArtifactError
from handler.manifest import FILE_NAME, Manifest
from handler.prediction_id import CLASS, NOTHING, BadId, Prediction

DAY_MS = 86_400_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `trace`."""
    add = parser.add_argument
    add("id", metavar="ID", help="a prediction's id, as /predict gave it")
    add("--records", type=Path, nargs="*", default=[], metavar="FILE", help="records to look in")
    add("--log-group", metavar="NAME", help="a CloudWatch log group to look in (needs boto3)")
    add(
        "--artifacts",
        type=Path,
        default=Path("model_artifacts"),
        metavar="DIR",
        help="where the artifacts are (default: model_artifacts)",
    )


def main(args: argparse.Namespace) -> int:
    """Explain the prediction; 2 where the id says nothing, 1 where its model is not found."""
    out, problems = Console(highlight=False), Console(stderr=True, highlight=False)
    secret = os.environ.get("FEEDBACK_SECRET", "")
    try:
        told = prediction_id.parse(args.id)
    except BadId:
        problems.print(Text(f"trace: {args.id[:80]!r} is not a prediction id", "red"))
        return 2
    found = find(told, args.artifacts)
    facts = [*_prediction(told, found[0] if found else None), ("seal", _seal(args.id, secret))]
    if found:
        facts += _model(*found)
    record = None
    for one in _records(args, told):
        record = one
        break
    facts += _audit(record, told)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, Text(value))
    out.print(table)
    if found is None:
        problems.print(Text(f"no artifact here or in git has a model {told.model}…", "yellow"))
        return 1
    return 0


def find(told: Prediction, artifacts: Path) -> tuple[Manifest, str] | None:
    """The manifest of the model that predicted, and where it is. The newest, of several."""
    for file in sorted(artifacts.glob(f"*/{FILE_NAME}")):
        try:
            manifest = manifests.read(file.parent)
        except ArtifactError:
            continue
        if _is(manifest, told):
            return manifest, str(file.parent)
    for commit, path in _history(artifacts):
        try:
            manifest = manifests.parse(_git(artifacts, "show", f"{commit}:./{path}"))
        except (ArtifactError, subprocess.CalledProcessError):
            continue
        if _is(manifest, told):
            return manifest, f"git show {commit[:12]}:{path}"
    return None


def _is(manifest: Manifest, told: Prediction) -> bool:
    same = manifest.files["model.onnx"].sha256.startswith(told.model)
    return same and prediction_id.model_name_checksum(manifest.name) == told.name


def _history(artifacts: Path) -> Iterator[tuple[str, str]]:
    """Every commit that changed a manifest, and the manifest's path in it."""
    try:
        text = _git(
            artifacts, "log", "--all", "--relative", "--format=%x00%H", "--name-only",
            "--diff-filter=AM", "--", f"*{FILE_NAME}",
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return
    for entry in text.split("\0")[1:]:
        commit, *paths = entry.split()
        yield from ((commit, path) for path in paths)


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603
        ["git", *arguments],  # noqa: S607
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def _prediction(told: Prediction, manifest: Manifest | None) -> Iterator[tuple[str, str]]:
    moment = datetime.datetime.fromtimestamp(told.milliseconds / 1000, datetime.UTC)
    yield "when", moment.isoformat(" ", "milliseconds")
    name = manifest.name if manifest else "a model that is not known here"
    yield "model", f"{name} {manifest.version if manifest else told.version}"
    yield "function version", told.function_version
    output = prediction_id.primary_output(manifest)[1] if manifest else None
    if told.kind == CLASS:
        classes = {
            prediction_id.label_checksum(label): str(label)
            for label in (output.classes if output else ())
        }
        yield "predicted", classes.get(told.value, f"a class (CRC-32 {int(told.value):08x})")
    elif told.kind != NOTHING:
        unit = f" {output.unit}" if output and output.unit else ""
        yield "predicted", f"{told.value:.7g}{unit}"
    yield "request", f"{told.request}…, row {told.row + 1} of it"


def _seal(id: str, secret: str) -> str:
    try:
        prediction_id.parse(id, *prediction_id.verifiers(secret))
    except BadId:
        return "WRONG" if secret else "not a checksum: set FEEDBACK_SECRET, or the id was changed"
    return "right: this service made it" if secret else "a checksum, right; it proves no origin"


def _model(manifest: Manifest, place: str) -> Iterator[tuple[str, str]]:
    told, known = manifest.lineage, manifest.baseline
    yield "why", told.reason
    yield "owner", manifest.owner
    yield "packed", told.packed_at
    yield "artifact", place
    for name, file in manifest.files.items():
        yield name, f"sha256 {file.sha256}"
    yield "source model", f"sha256 {told.source_sha256}"
    if told.data_sha256:
        yield "data", f"sha256 {told.data_sha256}"
    if told.git_commit:
        yield "git commit", told.git_commit
    if told.metrics:
        yield "metrics", ", ".join(f"{name} {value:g}" for name, value in told.metrics.items())
    fields = ", ".join(part.name for part in manifest.features or manifest.inputs)
    yield "contract", f"{manifest.contract}: {fields}"
    if known:
        yield (
            "baseline",
            f"{known.rows} rows, {len(known.features) + len(known.outputs)} distributions",
        )


def _records(args: argparse.Namespace, told: Prediction) -> Iterator[dict[str, Any]]:
    """The records of the prediction's request."""
    for path in args.records:
        with open(path, encoding="utf-8") as lines:
            yield from _parsed(lines, told)
    if args.log_group:
        try:
            import boto3
        except ModuleNotFoundError:
            raise SystemExit("trace: --log-group needs boto3: pip install boto3") from None
        pages = (
            boto3.client("logs")
            .get_paginator("filter_log_events")
            .paginate(
                logGroupName=args.log_group,
                filterPattern=f'"{told.request}"',
                startTime=told.milliseconds - 60_000,
                endTime=told.milliseconds + DAY_MS // 24,
            )
        )
        for page in pages:
            yield from _parsed((event["message"] for event in page["events"]), told)


def _parsed(lines: Iterable[str], told: Prediction) -> Iterator[dict[str, Any]]:
    for line in lines:
        if told.request in line:
            record = json.loads(line)
            if record.get("prediction") == told.request:
                yield record


def _audit(record: dict[str, Any] | None, told: Prediction) -> Iterator[tuple[str, str]]:
    """What the request's record has of the row."""
    if record is None:
        return
    yield "request id", record["request_id"]
    yield "rows", str(record["Rows"])
    yield "took", f"{record['Latency']:g} ms"
    for name in ("unusual", "missing"):
        if name in record:
            yield f"{name} (request)", json.dumps(record[name], ensure_ascii=False)
    for name, title in (("instances", "input"), ("predictions", "answer")):
        if told.row < len(record.get(name, ())):
            yield title, json.dumps(record[name][told.row], ensure_ascii=False)
