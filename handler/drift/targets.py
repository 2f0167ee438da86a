"""The inputs and outputs that have a baseline, in the order of the bins in a record."""

from typing import NamedTuple

from handler import feature_types
from handler.manifest import MODEL_FILE_NAME, Distribution, Manifest


class Target(NamedTuple):
    """A monitored input or output, `ordered` unless of categories; `baseline_rows` count nulls."""

    name: str
    output: bool
    distribution: Distribution
    ordered: bool
    baseline_rows: int

    @property
    def key(self) -> str:
        """Return a name that no other target of the model has."""
        return f"{'out' if self.output else 'in'}_{self.name}"


def targets(manifest: Manifest) -> list[Target]:
    """Return the inputs, then the outputs that have a baseline."""
    if manifest.baseline is None:
        return []
    types = feature_types.of(manifest)
    unordered = {f"in_{kind.feature.name}" for kind in types if kind.discrete}
    unordered |= {f"out_{output.name}" for output in manifest.outputs if output.kind == "label"}
    baseline = manifest.baseline
    targets = [
        Target(name, output, distribution, True, baseline.rows)
        for output, distributions in ((False, baseline.features), (True, baseline.outputs))
        for name, distribution in distributions.items()
    ]
    return [target._replace(ordered=target.key not in unordered) for target in targets]


def fingerprint(manifest: Manifest) -> str:
    """Return what names a model and its baseline; bins of equal fingerprints may be added up."""
    data = manifest.lineage.data_sha256 or ""
    return f"{manifest.files[MODEL_FILE_NAME].sha256[:16]}-{data[:8]}"
