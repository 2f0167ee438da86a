"""The golden rows of an artifact: instances whose predictions must not change."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from handler.errors import ArtifactError
from handler.manifest import Manifest

FILE_NAME = "golden.jsonl"
TOLERANCE = 1e-5  # of predictions on the machine that recorded them
# Another processor sums in another order, which costs the last digits of a float32.
ELSEWHERE = 10 * TOLERANCE


class Row(NamedTuple):
    """One line of the file; `name` says what the instance stands for."""

    name: str
    instance: dict[str, Any]
    prediction: dict[str, Any]


def content(directory: Path) -> bytes:
    """The file as it is. Raises ArtifactError if it cannot be read."""
    try:
        return Path(directory, FILE_NAME).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{FILE_NAME}: {error.strerror}") from None


def row(line: bytes | str) -> Row:
    """One golden row. Raises ArtifactError for anything else."""
    try:
        return Row(**orjson.loads(line))
    except (ValueError, TypeError):
        raise ArtifactError(f"{FILE_NAME}: a line is not a golden row") from None


def read(directory: Path) -> list[Row]:
    """The golden rows in `directory`. Raises ArtifactError where there are none, or a damaged one.

    That the file is the one that was packed is not asked here: `Model` verifies every hash.
    """
    rows = [row(line) for line in content(directory).splitlines()]
    if not rows:
        raise ArtifactError(f"{FILE_NAME}: there are no golden rows")
    return rows


def tolerance(manifest: Manifest, base: float = ELSEWHERE) -> float:
    """How far from its golden prediction an answer may be; halves have 11 bits."""
    halves = any(output.dtype == "float16" for output in manifest.outputs)
    return base * 100 if halves else base


def deviation(expected: Any, found: Any) -> float:
    """The largest |a - b| / max(1, |b|) in two JSON values; infinite where anything else differs.

    What `found` has besides, such as a prediction's id or a new output, is not asked for.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        parts = [deviation(expected[k], found[k]) if k in found else math.inf for k in expected]
        return max(parts, default=0.0)
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return max(map(deviation, expected, found), default=0.0)
    if isinstance(expected, float) and type(found) in (int, float):
        return float(abs(expected - found) / max(1.0, abs(expected)))
    return 0.0 if expected == found and type(expected) is type(found) else math.inf
