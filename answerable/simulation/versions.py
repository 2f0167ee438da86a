"""Make the versions of a simulation: copies of packed artifacts, and the fault of a candidate.

A baseline holds each feature's distribution, but not their dependence. Rows drawn from it give
other outputs than the sample did, which would look like drift of the outputs. So where rows are
drawn, a copy's output distributions are measured again on rows drawn from its own baseline.
"""

import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from answerable.packing import artifact, baseline
from answerable.packing.golden import predict as predict_rows
from answerable.simulation import traffic
from answerable.simulation.plan import SimulationError
from handler import manifest as manifests
from handler import prediction_id, scoring
from handler.errors import ApiError, ArtifactError, ServerError
from handler.manifest import Distribution, Feature, Manifest, OutcomeValue
from handler.release import compatibility, golden
from handler.session import Session

OUTPUT_ROWS, FEATURE_ROWS = 2000, 200  # drawn to measure outputs, and effects of features
UNIT_FACTOR = 0.4343  # log10 instead of the natural logarithm, say
MAX_CRASH_SHARE = 0.1  # of the live values
NOISE = 0.1  # of outcomes around the current version's predictions, in spreads of the output
MIN_DAILY_IMPACT = 0.85  # of a prediction; the noise alone leaves 0.92


def copy(source: Path, target: Path, *, measure: bool, outcomes: bool) -> None:
    """Copy an artifact; `measure` its outputs; state what `outcomes` are worth."""
    shutil.copytree(source, target)
    manifest = manifests.read(target)
    if measure:
        manifest = _measure_outputs(target, manifest)
    if outcomes:  # 1, less the error in spreads of the output; 1 or -1 for classes
        value = OutcomeValue(value=1.0, cost=1 / (spread(manifest) or 1.0))
        alarms = manifest.alarms._replace(min_daily_impact=MIN_DAILY_IMPACT)
        manifest = manifest._replace(outcome_value=value, alarms=alarms)
    artifact.write(target, manifest)


def _measure_outputs(directory: Path, manifest: Manifest) -> Manifest:
    rows = traffic.draw_rows(manifest, np.random.default_rng(0))
    step = min(100, manifest.limits.rows)
    try:
        scorer = scoring.load(directory)
        chunks = [
            scorer.score(orjson.dumps({"instances": list(itertools.islice(rows, step))})).outputs
            for _ in range(OUTPUT_ROWS // step)
        ]
    except (ArtifactError, ApiError):  # the hook or an alarm will report it
        return manifest
    outputs = [np.concatenate(arrays) for arrays in zip(*chunks, strict=True)]
    measured = baseline.measure((), {}, manifest.outputs, outputs).outputs
    return manifest._replace(
        baseline=manifest.baseline and manifest.baseline._replace(outputs=measured)
    )


def spread(manifest: Manifest) -> float:
    """Return the primary output's first to last decile; 0.0 if it is a class."""
    output = prediction_id.primary_output(manifest)[1]
    if output is None or output.kind != "value" or manifest.baseline is None:
        return 0.0
    low, high = _quantiles(manifest.baseline.outputs[output.name], [0.1, 0.9])
    return high - low


class Fault(NamedTuple):
    """The fault of a scenario's candidate.

    `reason` is what its manifest says. `scaled`: callers send the feature in another unit than the
    candidate was trained with. `failing`: its run fails for a feature's values of an open interval.
    """

    reason: str = "the same model, packed again"
    scaled: str = ""
    failing: tuple[Feature, float, float] | None = None

    def alter(self, body: bytes) -> bytes:
        """Return a body of instances as the candidate would understand it."""
        if not self.scaled:
            return body
        document = orjson.loads(body)
        rows = [_scale(row, self.scaled, 1 / UNIT_FACTOR) for row in document["instances"]]
        return orjson.dumps({**document, "instances": rows})

    def session(self, directory: Path, manifest: Manifest) -> Session:
        """Return a session of the candidate."""
        session = Session(directory, manifest)
        if self.failing:
            feature, low, high = self.failing
            run = session.run

            def run_or_fail(feeds: Mapping[str, Any], deadline: float | None = None) -> Any:
                array = feeds[feature.input]
                values = array[:, feature.column] if array.ndim == 2 else array
                if ((low < values) & (values < high)).any():
                    raise ServerError("the model failed (simulated)")
                return run(feeds, deadline)

            session.run = run_or_fail  # type: ignore[method-assign]
        return session


NO_FAULT = Fault()


def make_candidate(scenario: str, current: Path, target: Path) -> Fault:
    """Write the next version of the same model; return its fault. Raise SimulationError."""
    fault = SCENARIOS[scenario](current)
    shutil.copytree(current, target)
    manifest = manifests.read(target)
    number = compatibility.minimum_next_version(manifest.version, compatibility.PATCH)
    lineage = manifest.lineage._replace(reason=fault.reason)
    artifact.write(target, manifest._replace(version=number, lineage=lineage))
    return fault


def _crash(current: Path) -> Fault:
    """Return a fault for values that no golden row has."""
    feature, distribution = _most_effective_number(current)
    values = {row.instance[feature.name] for row in golden.read(current)} - {None}
    tested = np.array(sorted(values), float)
    shares = np.interp(tested, np.array(distribution.values, float), distribution.cdf_right)
    widest = int(np.diff(shares).argmax())
    share = min(float(np.diff(shares)[widest]), MAX_CRASH_SHARE)
    low = float(tested[widest])
    high = _quantiles(distribution, [float(shares[widest]) + share])[0]
    reason = f"its run fails for {feature.name} from {low:.4g} to {high:.4g}"
    return Fault(reason, failing=(feature, low, high))


def _silent_error(current: Path) -> Fault:
    feature, _ = _most_effective_number(current)
    reason = f"trained with {feature.name} in another unit, {UNIT_FACTOR} of what callers send"
    return Fault(reason, scaled=feature.name)


SCENARIOS = {"healthy": lambda _: NO_FAULT, "crash": _crash, "silent-error": _silent_error}


def _most_effective_number(current: Path) -> tuple[Feature, Distribution]:
    """Return the number whose unit changes the predictions most. Raises SimulationError."""
    scorer = scoring.load(current)
    manifest = scorer.manifest
    floats = {tensor.name for tensor in manifest.inputs if tensor.dtype.startswith("float")}
    drawn = traffic.draw_rows(manifest, np.random.default_rng(0))
    rows = list(itertools.islice(drawn, FEATURE_ROWS))

    def predict(scaled: str = "") -> list[Any]:
        instances = [_scale(row, scaled, UNIT_FACTOR) for row in rows]
        return [orjson.loads(text) for text in predict_rows(scorer, instances)]

    predictions = predict()
    effects = {
        sum(map(golden.deviation, predictions, predict(feature.name))): feature
        for feature in manifest.features
        if feature.type == "number" and feature.input in floats and feature.out_of_range == "accept"
    }
    if not effects or manifest.baseline is None:
        raise SimulationError(
            "no feature is a number without stated bounds: give a --candidate instead"
        )
    feature = effects[max(effects)]
    return feature, manifest.baseline.features[feature.name]


def _scale(row: dict[str, Any], name: str, factor: float) -> dict[str, Any]:
    """Return a row with the number `name` in another unit, if it is there."""
    return row if row.get(name) is None else {**row, name: row[name] * factor}


def _quantiles(distribution: Distribution, shares: Sequence[float]) -> list[float]:
    values = np.array(distribution.values, float)
    quantiles: list[float] = np.interp(shares, distribution.cdf_right, values).tolist()
    return quantiles
