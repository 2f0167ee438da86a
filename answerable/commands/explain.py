"""`answerable explain ID`: show what a prediction was made of.

The id says when, by which version, and what was predicted. The artifact is found by the hash of its
model, in model_artifacts and then in the history of git. The record of the request or of the job,
with its payload if payloads are logged, is found in files or in CloudWatch Logs.
"""

import argparse
import datetime
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from answerable.commands import InputError, warn
from answerable.commands.report import read_lines
from answerable.git import ERRORS, git
from answerable.terminal import table
from handler import manifest as manifests
from handler import metrics, prediction_id
from handler.errors import ArtifactError
from handler.manifest import FILE_NAME, Manifest
from handler.prediction_id import API, BATCH, CLASS, NO_VALUE, WORKER, BadId, Prediction

HOUR_MS = 3_600_000
Facts = Iterator[tuple[str, str]]
SOURCES = {API: "the API", WORKER: "the worker of jobs", BATCH: "a batch"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("id", metavar="ID", help="the id of a prediction")
    add("--records", type=Path, nargs="*", default=[], metavar="FILE", help="files of log lines")
    add("--log-group", metavar="NAME", help="a CloudWatch log group, of the API or of the worker")
    add(
        "--artifacts",
        type=Path,
        default=Path("model_artifacts"),
        metavar="DIR",
        help="where the artifacts are (default: model_artifacts)",
    )


def main(args: argparse.Namespace) -> int:
    """Print the prediction; return 1 if its model is not found."""
    try:
        prediction = prediction_id.parse(args.id)
    except BadId:
        raise InputError(f"{args.id[:80]!r} is not a prediction id") from None
    located = find(prediction, args.artifacts)
    record = next(_records(args, prediction), None)
    secret = os.environ.get("PREDICTION_ID_SECRET", "")
    facts = [*_prediction(prediction, located[0] if located else None)]
    facts.append(("signature", _signature(args.id, secret)))
    if located:
        facts += _model(*located)
    if record:
        facts += _record(record, prediction)
    Console(highlight=False).print(table(("", ""), facts))
    if located is None:
        warn(f"no artifact here or in git has a model {prediction.model}…")
        return 1
    return 0


def find(prediction: Prediction, artifacts: Path) -> tuple[Manifest, str] | None:
    """Return the manifest of the model that predicted, and where it is; the newest of several.

    Raises InputError if there is no folder `artifacts`.
    """
    if not artifacts.is_dir():
        raise InputError(f"{artifacts} is not a folder")
    for file in sorted(artifacts.glob(f"*/{FILE_NAME}")):
        try:
            manifest = manifests.read(file.parent)
        except ArtifactError:
            continue
        if _predicted(manifest, prediction):
            return manifest, str(file.parent)
    for commit, path in _history(artifacts):
        try:
            manifest = manifests.parse(git("show", f"{commit}:./{path}", cwd=artifacts))
        except (ArtifactError, *ERRORS):
            continue
        if _predicted(manifest, prediction):
            return manifest, f"git show {commit[:12]}:{path}"
    return None


def _predicted(manifest: Manifest, prediction: Prediction) -> bool:
    """Return whether a model made a prediction."""
    same = manifest.files["model.onnx"].sha256.startswith(prediction.model)
    checksum = prediction_id.model_name_checksum(manifest.name)
    return same and checksum == prediction.name_checksum


def _history(artifacts: Path) -> Iterator[tuple[str, str]]:
    """Yield every commit that changed a manifest, with the manifest's path."""
    try:
        text = git(
            "log", "--all", "--relative", "--format=%x00%H", "--name-only", "--diff-filter=AM",
            "--", f"*{FILE_NAME}", cwd=artifacts,
        )  # fmt: skip
    except ERRORS:
        return
    for entry in text.decode().split("\0")[1:]:
        commit, *paths = entry.split()
        yield from ((commit, path) for path in paths)


def _prediction(prediction: Prediction, manifest: Manifest | None) -> Facts:
    try:
        seconds = prediction.milliseconds / 1000
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
        yield "when", moment.isoformat(" ", "milliseconds")
    except (ValueError, OverflowError, OSError):  # an id that was made up
        yield "when", "a time that no calendar has"
    name = manifest.name if manifest else "unknown"
    yield "model", f"{name} {manifest.version if manifest else prediction.version}"
    yield "predicted by", SOURCES[prediction.source]
    yield "function version", prediction.function_version
    output = prediction_id.primary_output(manifest)[1] if manifest else None
    if prediction.kind == CLASS:
        labels = {
            prediction_id.label_checksum(label): str(label)
            for label in (output.classes if output else ())
        }
        yield "predicted", labels.get(prediction.value, "a class that is not in the manifest")
    elif prediction.kind != NO_VALUE:
        unit = f" {output.unit}" if output and output.unit else ""
        yield "predicted", f"{prediction.value:.7g}{unit}"
    yield "request", f"{prediction.prefix}…, row {prediction.row + 1}"


def _signature(id: str, secret: str) -> str:
    try:
        prediction_id.parse(id, *prediction_id.verifiers(secret))
    except BadId:
        if secret:
            return "INVALID: another service made the id, or it was changed"
        return "not verified: set PREDICTION_ID_SECRET, or the id was changed"
    return "valid: this service made the id" if secret else "none; the checksum is valid"


def _model(manifest: Manifest, location: str) -> Facts:
    lineage, baseline = manifest.lineage, manifest.baseline
    distributions = len(baseline.features) + len(baseline.outputs) if baseline else 0
    fields = ", ".join(field.name for field in manifest.features or manifest.inputs)
    facts = {
        "reason": lineage.reason,
        "owner": manifest.owner,
        "packed": lineage.packed_at,
        "artifact": location,
        **{name: f"sha256 {file.sha256}" for name, file in manifest.files.items()},
        "source model": f"sha256 {lineage.source_sha256}",
        "data": f"sha256 {lineage.data_sha256}" if lineage.data_sha256 else "",
        "git commit": lineage.git_commit,
        "metrics": ", ".join(f"{name} {value:g}" for name, value in lineage.metrics.items()),
        "contract": f"{manifest.contract}: {fields}",
        "baseline": f"{baseline.rows} rows, {distributions} distributions" if baseline else "",
    }
    yield from ((name, fact) for name, fact in facts.items() if fact)


def _records(args: argparse.Namespace, prediction: Prediction) -> Iterator[dict[str, Any]]:
    """Yield the records of the prediction's request or job. Raise OSError or InputError."""
    for path in args.records:
        yield from _matching(read_lines(path), prediction)
    if args.log_group:
        yield from _matching(_log_events(args.log_group, prediction), prediction)


def _log_events(log_group: str, prediction: Prediction) -> Iterator[str]:
    """Yield the lines of a log group that hold the prediction's prefix."""
    import boto3

    # a job may wait for its turn, and its ids are of when it was submitted
    hours = 1 if prediction.source == API else 15 * 24
    pages = (
        boto3.client("logs")
        .get_paginator("filter_log_events")
        .paginate(
            logGroupName=log_group,
            filterPattern=f"%{_searched(prediction)}%",  # a part of a word
            startTime=max(0, prediction.milliseconds - 60_000),
            endTime=prediction.milliseconds + hours * HOUR_MS,
        )
    )
    for page in pages:
        yield from (event["message"] for event in page["events"])


def _matching(lines: Iterable[str], prediction: Prediction) -> Iterator[dict[str, Any]]:
    """Yield the records of the prediction's request among lines of any kind."""
    for line in lines:
        if _searched(prediction) not in line:
            continue
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and _is_of(record, prediction):
            yield record


def _searched(prediction: Prediction) -> str:
    """Return the text that the record of a prediction holds."""
    is_batch = prediction.source == BATCH
    return prediction.prefix[: prediction_id.INPUT_PREFIX_CHARS] if is_batch else prediction.prefix


def _is_of(record: dict[str, Any], prediction: Prediction) -> bool:
    """Return whether a record is of a prediction's request, job or part of a batch."""
    first = str(record.get("prediction_id_prefix"))
    if prediction.source != BATCH or "runs" not in record:
        return first == prediction.prefix
    distance = prediction_id.nonce_of(prediction.prefix) - prediction_id.nonce_of(first)
    return bool(distance % (1 << 32) < record["runs"])


def _record(record: dict[str, Any], prediction: Prediction) -> Facts:
    """Yield what a record holds of the prediction; a job's line has no metrics."""
    yield "request id", str(record.get("request_id"))
    if "job" in record:
        yield "job", str(record["job"])
    yield "rows", str(record.get(metrics.ROWS, record.get("rows")))
    if metrics.LATENCY in record:
        yield "latency", f"{record[metrics.LATENCY]:g} ms"
    for name, title in (
        ("out_of_range_counts", "out of range (request)"),
        ("missing_counts", "missing (request)"),
    ):
        if name in record:
            yield title, json.dumps(record[name], ensure_ascii=False)
    for name, title in (("instances", "input"), ("predictions", "answer")):
        if prediction.row < len(record.get(name, ())):
            yield title, json.dumps(record[name][prediction.row], ensure_ascii=False)
