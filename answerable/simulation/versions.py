"""The versions of a rehearsal: copies of what is packed, and new ones made for a story.

A baseline holds each feature's distribution, not how they belong together, so rows drawn from it
get other answers than the sample did, and drift of outputs would be seen where there is none.
Where rows are drawn, the outputs' distributions of a copy are therefore measured again: the
version's own answers to rows that are drawn from its own baseline.
"""

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import orjson
from onnx import TensorProto, helper, numpy_helper

from answerable.packing import artifact, baseline, graph, verification
from answerable.simulation import traffic
from answerable.simulation.plan import SimulationError
from handler import manifest as manifests
from handler import prediction_id, scoring
from handler.errors import ApiError, ArtifactError
from handler.manifest import Distribution, Feature, Manifest, OutcomeValue
from handler.release import compatibility, golden

SAMPLE, FEW = 2000, 200  # drawn rows that outputs are measured with, and that features are
SLIP = 0.4343  # of log10 instead of the natural log, say
CRASHES = 0.1  # of the live values, at most
NOISE = 0.1  # of outcomes around what the old version answers, in spreads of the output
LEAST = 0.85  # that an outcome should be worth in the mean; with the noise alone it is 0.92


def copy(source: Path, target: Path, *, measure: bool, worth: bool) -> None:
    """Copy an artifact; `measure` its outputs; state what outcomes are `worth`."""
    shutil.copytree(source, target)
    manifest = manifests.read(target)
    if measure:
        manifest = _measured(target, manifest)
    if worth:  # 1, less the error in spreads of the output; of classes 1 or -1
        business = OutcomeValue(value=1.0, cost=1 / (spread(manifest) or 1.0))
        alarms = manifest.alarms._replace(min_daily_impact=LEAST)
        manifest = manifest._replace(outcome_value=business, alarms=alarms)
    artifact.write(target, manifest)


def _measured(directory: Path, manifest: Manifest) -> Manifest:
    drawn, step = traffic.drawn(manifest, np.random.default_rng(0)), min(100, manifest.limits.rows)
    try:
        scorer = scoring.load(directory)
        parts = [
            scorer.score(orjson.dumps({"instances": list(itertools.islice(drawn, step))})).outputs
            for _ in range(SAMPLE // step)
        ]
    except (ArtifactError, ApiError):  # the gate, or an alarm, has something to say of that
        return manifest
    answers = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    outputs = baseline.measure((), {}, manifest.outputs, answers).outputs
    known = manifest.baseline
    return manifest._replace(baseline=known and known._replace(outputs=outputs))


def spread(manifest: Manifest) -> float:
    """From the first to the last decile of the value that outcomes are compared with; 0.0 where
    that is a class.
    """
    output = prediction_id.primary_output(manifest)[1]
    if output is None or output.kind != "value" or manifest.baseline is None:
        return 0.0
    low, high = _quantiles(manifest.baseline.outputs[output.name], [0.1, 0.9])
    return high - low


def good(old: Path, target: Path) -> None:
    """The same model again."""
    shutil.copytree(old, target)
    _next(target, manifests.read(old), "the same model, packed again")


def crashing(old: Path, target: Path) -> None:
    """A model whose run fails for values that none of its golden rows has."""
    manifest, (feature, known) = manifests.read(old), _telling(old)
    values = {row.instance[feature.name] for row in golden.read(old)} - {None}
    seen = np.array(sorted(values), float)
    shares = np.interp(seen, np.array(known.values, float), known.cdf_right)
    widest = int(np.diff(shares).argmax())
    share = min(float(np.diff(shares)[widest]), CRASHES)
    low, high = float(seen[widest]), _quantiles(known, [float(shares[widest]) + share])[0]
    _rewrite(old, target, feature, low=low, high=high)
    _next(target, manifest, f"its run fails for {feature.name} from {low:.4g} to {high:.4g}")


def silent(old: Path, target: Path) -> None:
    """A model that was trained, and packed, with a feature in another unit than callers send."""
    manifest, (feature, known) = manifests.read(old), _telling(old)
    _rewrite(old, target, feature, factor=1 / SLIP)
    if manifest.baseline:
        learnt = known._replace(values=tuple(float(value) * SLIP for value in known.values))
        measured = {**manifest.baseline.features, feature.name: learnt}
        manifest = manifest._replace(baseline=manifest.baseline._replace(features=measured))
    stated = Feature(**_slipped(feature._asdict(), "minimum", "maximum", "example"))
    features = tuple(stated if f == feature else f for f in manifest.features)
    why = f"trained with {feature.name} in another unit, {SLIP} of what callers send"
    _next(target, manifest._replace(features=features), why, feature.name)


SCENARIOS = {"good": good, "crashing": crashing, "silent": silent}


def _next(directory: Path, manifest: Manifest, why: str, slipped: str = "") -> None:
    """Make the next version of what is in the folder, with golden rows of its own answers."""
    rows = golden.read(directory)
    (directory / golden.FILE_NAME).unlink()
    manifest = manifest._replace(
        version=compatibility.minimum_next_version(manifest.version, compatibility.PATCH),
        lineage=manifest.lineage._replace(reason=why),
        files=artifact.files(directory),
    )
    artifact.write(directory, manifest)
    instances = [(row.name, _slipped(row.instance, slipped)) for row in rows]
    verification.write_golden(directory / golden.FILE_NAME, scoring.load(directory), instances)
    artifact.write(directory, manifest._replace(files=artifact.files(directory)))


def _rewrite(
    old: Path,
    target: Path,
    feature: Feature,
    *,
    factor: float = 1.0,
    low: float = np.inf,
    high: float = np.inf,
) -> None:
    """The old graph, in which a feature is multiplied, and fails between two values."""
    shutil.copytree(old, target)
    model = onnx.load_model(target / graph.MODEL)
    (tensor,) = (t for t in manifests.read(old).inputs if t.name == feature.input)
    width = (tensor.shape[1] if len(tensor.shape) == 2 else 1) or 1
    table = numpy_helper.from_array(np.ones(1, tensor.dtype))
    nodes: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Constant", [], "table", {"value": table})
    ]
    for name, value, others in (
        ("low", low, np.inf), ("high", high, np.inf), ("factor", factor, 1.0),
    ):  # fmt: skip
        array = np.full(width, others, tensor.dtype)
        array[feature.column] = value
        nodes.append(("Constant", [], name, {"value": numpy_helper.from_array(array)}))
    nodes += [
        ("Greater", [tensor.name, "low"], "over", {}),
        ("Less", [tensor.name, "high"], "under", {}),
        ("And", ["over", "under"], "inside", {}),
        ("Cast", ["inside"], "place", {"to": TensorProto.INT64}),
        ("Gather", ["table", "place"], "one", {}),  # there is only place 0
        ("Mul", [tensor.name, "factor"], "scaled", {}),
        ("Mul", ["scaled", "one"], "changed", {}),
    ]
    known = list(model.graph.node)
    for node in known:
        for i, name in enumerate(node.input):
            node.input[i] = "rehearsal/changed" if name == tensor.name else name
    del model.graph.node[:]
    for kind, inputs, output, attributes in nodes:
        named = [name if name == tensor.name else f"rehearsal/{name}" for name in inputs]
        made = helper.make_node(kind, named, [f"rehearsal/{output}"], **attributes)
        model.graph.node.append(made)
    model.graph.node.extend(known)
    graph.save(model, target)


def _telling(old: Path) -> tuple[Feature, Distribution]:
    """The number that the answers change most with if its unit does. Raises RehearsalError."""
    scorer = scoring.load(old)
    manifest = scorer.manifest
    floats = {tensor.name for tensor in manifest.inputs if tensor.dtype.startswith("float")}
    rows = list(itertools.islice(traffic.drawn(manifest, np.random.default_rng(0)), FEW))

    def asked(slipped: str = "") -> list[Any]:
        slips = [_slipped(row, slipped) for row in rows]
        return [orjson.loads(text) for text in verification.predict(scorer, slips)]

    answers = asked()
    effects = {
        sum(map(golden.deviation, answers, asked(feature.name))): feature
        for feature in manifest.features
        if feature.type == "number" and feature.input in floats and feature.out_of_range == "accept"
    }
    if not effects or manifest.baseline is None:
        raise SimulationError(
            "no feature is a number without stated bounds: rehearse it with --new"
        )
    feature = effects[max(effects)]
    return feature, manifest.baseline.features[feature.name]


def _slipped(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """The values, those of the names in the other unit."""
    slip = {name: values[name] * SLIP for name in names if values.get(name) is not None}
    return {**values, **slip}


def _quantiles(known: Distribution, shares: Sequence[float]) -> list[float]:
    found: list[float] = np.interp(shares, known.cdf_right, np.array(known.values, float)).tolist()
    return found
