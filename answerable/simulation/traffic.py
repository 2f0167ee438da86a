"""Make the requests of a simulation: rows drawn from a baseline, or those of records."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from answerable.commands import report
from answerable.packing import feature_types as packed_types
from answerable.simulation.plan import SimulationError
from handler import feature_types
from handler.feature_types import FeatureType
from handler.manifest import Distribution, Manifest

CHUNK_ROWS = 1000
Row = dict[str, Any]


def draw_rows(manifest: Manifest, rng: np.random.Generator) -> Iterator[Row]:
    """Yield rows without end, each feature drawn independently from its baseline."""
    baseline = manifest.baseline.features if manifest.baseline else {}
    if not baseline or any(feature.name not in baseline for feature in manifest.features):
        raise SimulationError(
            "the manifest has no baseline of features to draw from: use --records"
        )
    types = feature_types.of(manifest)
    names = [feature.name for feature in manifest.features]
    while True:
        columns = [_draw_column(kind, baseline[kind.feature.name], rng) for kind in types]
        for row in zip(*columns, strict=True):
            yield dict(zip(names, row, strict=True))


def _draw_column(kind: FeatureType, baseline: Distribution, rng: np.random.Generator) -> list[Any]:
    """Draw by the inverse of the baseline's distribution, linear between its quantiles."""
    shares, missing = rng.random(CHUNK_ROWS), rng.random(CHUNK_ROWS) < baseline.missing_share
    values: list[Any]
    if kind.discrete:
        indices = np.searchsorted(baseline.cdf_right, shares).clip(max=len(baseline.values) - 1)
        values = [baseline.values[i] for i in indices]
    else:
        knots = np.array([[baseline.cdf_left, baseline.cdf_right]]).transpose(0, 2, 1).ravel()
        values = np.interp(shares, knots, np.repeat(np.array(baseline.values, float), 2)).tolist()
        values = list(map(packed_types.of(kind).draw, values))
    return [None if null else value for value, null in zip(values, missing, strict=True)]


def make_bodies(rows: Iterator[Row]) -> Iterator[bytes]:
    """Yield requests of one row each."""
    for row in rows:
        yield json.dumps({"instances": [row]}).encode()


def read_recorded(path: Path, manifest: Manifest) -> list[bytes]:
    """Return the requests in a file of records. Raises SimulationError if it has no inputs."""
    dropped = [f.name for f in manifest.features if f.log_policy != "keep"]
    if dropped:
        raise SimulationError(f"records do not hold {', '.join(dropped)}: see `log_policy`")
    requests = [record["instances"] for record in report.read(str(path)) if "instances" in record]
    if not any(requests):
        raise SimulationError(f"{path}: no record holds inputs; payload logging keeps them")
    return [json.dumps({"instances": instances}).encode() for instances in requests if instances]
