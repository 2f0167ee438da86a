"""Where a packed version comes from: what goes into the manifest's lineage."""

import json
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnxruntime

from answerable.packing.artifact import sha256
from answerable.packing.errors import PackError
from handler.manifest import Lineage


class Sources(NamedTuple):
    """What a model is packed from: its file, the SHA-256 of the sample, versions of packages."""

    model: Path
    sample_sha256: str | None
    versions: Mapping[str, str]


def lineage(
    reason: str, sources: Sources, producer: str, metrics: Mapping[str, float], target: Path
) -> Lineage:
    """Return the lineage of a model that is packed now, from this working tree, into `target`."""
    versions = {
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }
    name, _, version = producer.partition(" ")
    return Lineage(
        reason=reason,
        packed_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        source_sha256=sha256(sources.model),
        data_sha256=sources.sample_sha256,
        git_commit=commit(target),
        versions={**versions, **({name: version} if name and version else {}), **sources.versions},
        metrics=dict(metrics),
    )


def commit(target: Path) -> str | None:
    """HEAD of the repository we are in; "-dirty" if anything but the artifact itself differs."""

    def git(*words: str) -> str:
        command = ["git", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        return done.stdout.strip()

    try:
        head = git("rev-parse", "--verify", "HEAD")
        root = Path(git("rev-parse", "--show-toplevel"))
        own = target.resolve()
        spare = [f":(top,exclude){own.relative_to(root)}"] if own.is_relative_to(root) else []
        changed = git("status", "--porcelain", "--", ":/", *spare)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}-dirty" if changed else head


def metrics(file: Path | None, pairs: Sequence[str]) -> dict[str, float]:
    """Training metrics from a JSON object of numbers and from `name=value` words."""
    found: dict[str, Any] = {}
    if file:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise PackError(f"{file}: {error.strerror}") from None
        except ValueError:
            raise PackError(f"{file} is not JSON") from None
        if not isinstance(content, dict):
            raise PackError(f"{file} is not a JSON object of names and numbers")
        found |= content
    found |= dict(pair.partition("=")[::2] for pair in pairs)
    try:
        return {name: _number(value) for name, value in found.items()}
    except (TypeError, ValueError):
        raise PackError("a metric must be name=number") from None


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or isinstance(value, bool):
        raise ValueError
    return int(number) if number.is_integer() else number
