"""What the versions are asked: rows drawn from a manifest's baseline, or those of records."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from answerable.commands import report
from answerable.simulation.plan import SimulationError
from handler.manifest import Distribution, Feature, Manifest

CHUNK = 1000
Row = dict[str, Any]


def drawn(manifest: Manifest, rng: np.random.Generator) -> Iterator[Row]:
    """Rows without end, each feature drawn for itself: a baseline has no more than that."""
    known = manifest.baseline.features if manifest.baseline else {}
    if not known or any(feature.name not in known for feature in manifest.features):
        raise SimulationError(
            "the manifest has no baseline of features to draw from: use --records"
        )
    while True:
        columns = [
            _column(feature, known[feature.name], rng, CHUNK) for feature in manifest.features
        ]
        names = [feature.name for feature in manifest.features]
        for row in zip(*columns, strict=True):
            yield dict(zip(names, row, strict=True))


def _column(
    feature: Feature, known: Distribution, rng: np.random.Generator, rows: int
) -> list[Any]:
    """Values as the baseline has them: of numbers the quantiles, and in between linear."""
    share, missing = rng.random(rows), rng.random(rows) < known.missing_share
    values: list[Any]
    if feature.type in ("category", "boolean"):
        places = np.searchsorted(known.cdf_right, share).clip(max=len(known.values) - 1)
        values = [known.values[i] for i in places]
    else:
        knots = np.array([[known.cdf_left, known.cdf_right]]).transpose(0, 2, 1).ravel()
        found = np.interp(share, knots, np.repeat(np.array(known.values, float), 2)).tolist()
        values = found if feature.type == "number" else [round(value) for value in found]
        if feature.type == "text":
            values = ["x" * length for length in values]
    return [None if gone else value for value, gone in zip(values, missing, strict=True)]


def bodies(rows: Iterator[Row]) -> Iterator[bytes]:
    """Requests of one row each."""
    for row in rows:
        yield json.dumps({"instances": [row]}).encode()


def recorded(path: Path, manifest: Manifest) -> list[bytes]:
    """The requests in a file of records. Raises RehearsalError where it has no inputs."""
    lost = [f.name for f in manifest.features if f.capture != "keep"]
    if lost:
        raise SimulationError(f"records do not hold {', '.join(lost)}: `capture` takes it out")
    try:
        found = [record["instances"] for record in report.read(str(path)) if "instances" in record]
    except OSError as error:
        raise SimulationError(f"{path}: {error.strerror}") from None
    if not any(found):
        raise SimulationError(f"{path}: no record holds what was sent; CAPTURE=full keeps it")
    return [json.dumps({"instances": instances}).encode() for instances in found if instances]
