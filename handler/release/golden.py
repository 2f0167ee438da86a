"""The golden rows of an artifact: instances with the predictions that the model must return."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from handler.errors import ArtifactError
from handler.manifest import Manifest

FILE_NAME = "golden.jsonl"
TOLERANCE = 1e-5  # on the machine that recorded the predictions
# another processor sums in another order, which changes the last digits of a float32
ELSEWHERE = 10 * TOLERANCE


class Row(NamedTuple):
    """One line of the file; `name` says which case the instance covers."""

    name: str
    instance: dict[str, Any]
    prediction: dict[str, Any]


def content(directory: Path) -> bytes:
    """Return the file's bytes. Raises ArtifactError if it cannot be read."""
    try:
        return Path(directory, FILE_NAME).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{FILE_NAME}: {error.strerror}") from None


def row(line: bytes | str) -> Row:
    """Parse one golden row. Raises ArtifactError if the line is none."""
    try:
        return Row(**orjson.loads(line))
    except (ValueError, TypeError):
        raise ArtifactError(f"{FILE_NAME}: a line is not a golden row") from None


def read(directory: Path) -> list[Row]:
    """Return an artifact's golden rows; the load verifies their hash. Raise ArtifactError."""
    rows = [row(line) for line in content(directory).splitlines()]
    if not rows:
        raise ArtifactError(f"{FILE_NAME}: there are no golden rows")
    return rows


def tolerance(manifest: Manifest, base: float = ELSEWHERE) -> float:
    """Return the largest allowed deviation; a float16 has 11 bits only."""
    has_float16 = any(output.dtype == "float16" for output in manifest.outputs)
    return base * 100 if has_float16 else base


def deviation(expected: Any, actual: Any) -> float:
    """Return the largest |a - b| / max(1, |b|) of two JSON values, infinite if others differ.

    What only `actual` has, such as a prediction's id or a new output, is ignored.
    """
    if isinstance(expected, dict) and isinstance(actual, dict):
        deviations = (
            deviation(v, actual[k]) if k in actual else math.inf for k, v in expected.items()
        )
        return max(deviations, default=0.0)
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        return max(map(deviation, expected, actual), default=0.0)
    if isinstance(expected, float) and type(actual) in (int, float):
        return float(abs(expected - actual) / max(1.0, abs(expected)))
    return 0.0 if expected == actual and type(expected) is type(actual) else math.inf
