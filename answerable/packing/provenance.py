"""The lineage of a packed version: the sources, the commit and the versions of the tools."""

import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnxruntime

from answerable.git import ERRORS, git
from answerable.packing.errors import PackError
from handler.hashes import path_sha256
from handler.iso_time import iso_time
from handler.manifest import Lineage


class Sources(NamedTuple):
    """The model's file, the SHA-256 of the sample, and versions of packages that made the model."""

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
        packed_at=iso_time(int(time.time())),
        source_sha256=path_sha256(sources.model),
        data_sha256=sources.sample_sha256,
        git_commit=commit(target),
        versions={**versions, **({name: version} if name and version else {}), **sources.versions},
        metrics=dict(metrics),
    )


def commit(target: Path) -> str | None:
    """Return HEAD of the current repository, with "-dirty" if more than the artifact differs."""
    try:
        top, head = git("rev-parse", "--show-toplevel", "HEAD").decode().split()
        folder, root = target.resolve(), Path(top)
        inside = folder.is_relative_to(root)
        spare = [f":(top,exclude){folder.relative_to(root)}"] if inside else []
        changed = git("status", "--porcelain", "--", ":/", *spare)
    except ERRORS:
        return None
    return f"{head}-dirty" if changed else head


def metrics(file: Path | None, pairs: Sequence[str]) -> dict[str, float]:
    """Return training metrics from a JSON object of numbers and from `name=value` words."""
    values: dict[str, Any] = {}
    if file:
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise PackError(f"{file}: {error.strerror}") from None
        except ValueError:
            raise PackError(f"{file} is not JSON") from None
        if not isinstance(values, dict):
            raise PackError(f"{file} is not a JSON object of names and numbers")
    values |= dict(pair.partition("=")[::2] for pair in pairs)
    try:
        return {name: _number(value) for name, value in values.items()}
    except (TypeError, ValueError):
        raise PackError("a metric must be name=number") from None


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or isinstance(value, bool):
        raise ValueError
    return int(number) if number.is_integer() else number
