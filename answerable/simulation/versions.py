"""Make the versions of a simulation: copies of packed artifacts, and candidates for a scenario.

A baseline holds each feature's distribution, but not their dependence. Rows drawn from it give
other outputs than the sample did, which would look like drift of the outputs. So where rows are
drawn, a copy's output distributions are measured again on rows drawn from its own baseline.
"""

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import orjson
from onnx import numpy_helper

from answerable.packing import artifact, baseline, graph, verification
from answerable.simulation import traffic
from answerable.simulation.plan import SimulationError
from handler import manifest as manifests
from handler import prediction_id, scoring
from handler.errors import ApiError, ArtifactError
from handler.manifest import Distribution, Feature, Manifest, OutcomeValue
from handler.release import compatibility, golden

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
    rows, step = (
        traffic.draw_rows(manifest, np.random.default_rng(0)),
        min(100, manifest.limits.rows),
    )
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


def make_healthy(current: Path, target: Path) -> None:
    """Make the same model again."""
    shutil.copytree(current, target)
    _finish(target, manifests.read(current), "the same model, packed again")


def make_crash(current: Path, target: Path) -> None:
    """Make a model whose run fails for values that no golden row has."""
    manifest, (feature, distribution) = manifests.read(current), _most_effective_number(current)
    values = {row.instance[feature.name] for row in golden.read(current)} - {None}
    tested = np.array(sorted(values), float)
    shares = np.interp(tested, np.array(distribution.values, float), distribution.cdf_right)
    widest = int(np.diff(shares).argmax())
    share = min(float(np.diff(shares)[widest]), MAX_CRASH_SHARE)
    low = float(tested[widest])
    high = _quantiles(distribution, [float(shares[widest]) + share])[0]
    _rewrite(current, target, feature, low=low, high=high)
    _finish(target, manifest, f"its run fails for {feature.name} from {low:.4g} to {high:.4g}")


def make_silent_error(current: Path, target: Path) -> None:
    """Make a model that was trained and packed with a feature in another unit than is sent."""
    manifest, (feature, distribution) = manifests.read(current), _most_effective_number(current)
    _rewrite(current, target, feature, factor=1 / UNIT_FACTOR)
    if manifest.baseline:
        values = tuple(float(value) * UNIT_FACTOR for value in distribution.values)
        features = {
            **manifest.baseline.features,
            feature.name: distribution._replace(values=values),
        }
        manifest = manifest._replace(baseline=manifest.baseline._replace(features=features))
    converted = Feature(**_convert(feature._asdict(), "minimum", "maximum", "example"))
    manifest = manifest._replace(
        features=tuple(converted if f == feature else f for f in manifest.features)
    )
    reason = f"trained with {feature.name} in another unit, {UNIT_FACTOR} of what callers send"
    _finish(target, manifest, reason, feature.name)


# The graph that changes an input's column. Index 1 is out of the table's range, and fails.
CHANGE = """change (KIND[N] original) => (KIND[N] simulation_changed) {
    simulation_over = Greater(original, simulation_low)
    simulation_under = Less(original, simulation_high)
    simulation_inside = And(simulation_over, simulation_under)
    simulation_index = Cast<to=7>(simulation_inside)
    simulation_one = Gather(simulation_table, simulation_index)
    simulation_scaled = Mul(original, simulation_factor)
    simulation_changed = Mul(simulation_scaled, simulation_one)
}"""
SCENARIOS = {"healthy": make_healthy, "crash": make_crash, "silent-error": make_silent_error}


def _finish(directory: Path, manifest: Manifest, reason: str, converted: str = "") -> None:
    """Write the next version's manifest, and golden rows of its own predictions."""
    rows = golden.read(directory)
    (directory / golden.FILE_NAME).unlink()
    manifest = manifest._replace(
        version=compatibility.minimum_next_version(manifest.version, compatibility.PATCH),
        lineage=manifest.lineage._replace(reason=reason),
        files=artifact.files(directory),
    )
    artifact.write(directory, manifest)
    instances = [(row.name, _convert(row.instance, converted)) for row in rows]
    verification.write_golden(directory / golden.FILE_NAME, scoring.load(directory), instances)
    artifact.write(directory, manifest._replace(files=artifact.files(directory)))


def _rewrite(
    current: Path,
    target: Path,
    feature: Feature,
    *,
    factor: float = 1.0,
    low: float = np.inf,
    high: float = np.inf,
) -> None:
    """Write the graph with a feature multiplied by `factor`, failing between `low` and `high`."""
    shutil.copytree(current, target)
    model = onnx.load_model(target / graph.MODEL)
    (tensor,) = (t for t in manifests.read(current).inputs if t.name == feature.input)
    width = (tensor.shape[1] if len(tensor.shape) == 2 else 1) or 1
    kind = {"float16": "float16", "float32": "float", "float64": "double"}[tensor.dtype]
    columns = {"low": (low, np.inf), "high": (high, np.inf), "factor": (factor, 1.0)}
    constants = [numpy_helper.from_array(np.ones(1, tensor.dtype), "simulation_table")]
    for name, (value, default) in columns.items():
        array = np.full(width, default, tensor.dtype)
        array[feature.column] = value
        constants.append(numpy_helper.from_array(array, f"simulation_{name}"))
    changed = onnx.parser.parse_graph(CHANGE.replace("KIND", kind))
    for node in (*model.graph.node, *changed.node):
        for i, name in enumerate(node.input):
            if name == tensor.name:
                node.input[i] = "simulation_changed"
            elif name == "original":
                node.input[i] = tensor.name
    nodes = [*changed.node, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    graph.save(model, target)


def _most_effective_number(current: Path) -> tuple[Feature, Distribution]:
    """Return the number whose unit changes the predictions most. Raises SimulationError."""
    scorer = scoring.load(current)
    manifest = scorer.manifest
    floats = {tensor.name for tensor in manifest.inputs if tensor.dtype.startswith("float")}
    drawn = traffic.draw_rows(manifest, np.random.default_rng(0))
    rows = list(itertools.islice(drawn, FEATURE_ROWS))

    def predict(converted: str = "") -> list[Any]:
        instances = [_convert(row, converted) for row in rows]
        return [orjson.loads(text) for text in verification.predict(scorer, instances)]

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


def _convert(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the values with those of `names` in the other unit."""
    converted = {n: values[n] * UNIT_FACTOR for n in names if values.get(n) is not None}
    return {**values, **converted}


def _quantiles(distribution: Distribution, shares: Sequence[float]) -> list[float]:
    values = np.array(distribution.values, float)
    quantiles: list[float] = np.interp(shares, distribution.cdf_right, values).tolist()
    return quantiles
