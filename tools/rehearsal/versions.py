"""The artifacts that are rehearsed: copies of what is packed, and new versions made for a story.

A baseline holds each feature's distribution, not how they belong together, so rows drawn from it
get other answers than the sample did, and drift of outputs would be seen where there is none.
Where rows are drawn, the outputs' distributions of a copy are therefore measured again: the
version's own answers to rows that are drawn from its own baseline.
"""

import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import orjson
from onnx import NodeProto, TensorProto, helper, numpy_helper

from handler import compatibility, golden, lineage, scoring
from handler import manifest as manifests
from handler.errors import Refusal
from handler.manifest import Baseline, Business, Distribution, Feature, Manifest
from handler.scoring import Scorer
from tools.packing import artifact, baseline, graph, replay
from tools.rehearsal import traffic
from tools.rehearsal.plan import RehearsalError

SAMPLE, FEW = 2000, 200  # drawn rows that outputs are measured with, and that features are
SLIP = 0.4343  # of log10 instead of the natural log, say
CRASHES = 0.1  # of the live values, at most
NOISE = 0.1  # of outcomes around what the old version answers, in spreads of the output
LEAST = 0.85  # that an outcome should be worth in the mean; with the noise alone it is 0.92
FACTOR = "rehearsal/factor"


def copy(source: Path, target: Path, story: bool = False, measure: bool = True) -> None:
    """Copy an artifact; `measure` its outputs; for a `story`, state a worth of its outcomes."""
    shutil.copytree(source, target)
    manifest = manifests.read(target)
    if measure:
        manifest = manifest._replace(baseline=_measured(scoring.load(target)))
    if story:
        # 1, less the error in spreads of the output; of classes 1 or -1
        worth = Business(value=1.0, cost=1 / (spread(manifest) or 1.0))
        alarms = manifest.alarms._replace(impact=LEAST)
        manifest = manifest._replace(business=worth, alarms=alarms)
    artifact.write(target, manifest)


def spread(manifest: Manifest) -> float:
    """From the first to the last decile of the value that outcomes are compared with; 0.0 where
    that is a class.
    """
    output = lineage.predicted(manifest)[1]
    if output is None or output.kind != "value" or manifest.baseline is None:
        return 0.0
    low, high = _quantiles(manifest.baseline.outputs[output.name], [0.1, 0.9])
    return high - low


def good(old: Path, target: Path) -> None:
    """The same model again."""
    shutil.copytree(old, target)
    _finish(target, manifests.read(old), "the same model, packed again")


def crashing(old: Path, target: Path) -> None:
    """A model whose run fails for values that none of its golden rows has."""
    manifest = manifests.read(old)
    feature, known = _telling(old)
    values = {row.instance[feature.name] for row in golden.read(old)} - {None}
    seen = np.array(sorted(values), float)
    shares = np.interp(seen, np.array(known.values, float), known.upto)
    widest = int(np.diff(shares).argmax())
    share = min(float(np.diff(shares)[widest]), CRASHES)
    low, high = float(seen[widest]), _quantiles(known, [float(shares[widest]) + share])[0]

    def fails(name: str, vector: Callable[[str, float, float], NodeProto]) -> list[NodeProto]:
        return [
            vector("low", low, np.inf),
            vector("high", high, -np.inf),
            helper.make_node("Greater", [name, "rehearsal/low"], ["rehearsal/over"]),
            helper.make_node("Less", [name, "rehearsal/high"], ["rehearsal/under"]),
            helper.make_node("And", ["rehearsal/over", "rehearsal/under"], ["rehearsal/in"]),
            helper.make_node("Cast", ["rehearsal/in"], ["rehearsal/place"], to=TensorProto.INT64),
            vector("table", 1.0, 1.0),
            # a table that is too short: there is no place 1 in it, or none after the last
            helper.make_node("Gather", ["rehearsal/table", "rehearsal/place"], [FACTOR]),
        ]

    _rewrite(old, target, feature, fails)
    _finish(target, manifest, f"its run fails for {feature.name} from {low:.4g} to {high:.4g}")


def silent(old: Path, target: Path) -> None:
    """A model that was trained, and packed, with a feature in another unit than callers send."""
    manifest = manifests.read(old)
    feature, known = _telling(old)

    def scales(name: str, vector: Callable[[str, float, float], NodeProto]) -> list[NodeProto]:
        return [vector("factor", 1 / SLIP, 1.0)]

    _rewrite(old, target, feature, scales)
    measured = manifest.baseline or Baseline(0, {}, {})
    learnt = known._replace(values=tuple(float(value) * SLIP for value in known.values))
    measured = measured._replace(features={**measured.features, feature.name: learnt})
    stated = Feature(**_slipped(feature._asdict(), "minimum", "maximum", "example"))
    features = tuple(stated if f == feature else f for f in manifest.features)
    manifest = manifest._replace(baseline=measured, features=features)
    why = f"trained with {feature.name} in another unit, {SLIP} of what callers send"
    _finish(target, manifest, why, feature.name)


STORIES = {"good": good, "crashing": crashing, "silent": silent}


def _finish(directory: Path, manifest: Manifest, why: str, slipped: str = "") -> None:
    """Make the next version of what is in the folder, with golden rows of its own answers."""
    rows = golden.read(directory)
    (directory / golden.FILE_NAME).unlink()
    manifest = manifest._replace(
        version=compatibility.least(manifest.version, compatibility.PATCH),
        lineage=manifest.lineage._replace(why=why),
        files=artifact.files(directory),
    )
    artifact.write(directory, manifest)
    scorer = scoring.load(directory)
    instances = [(row.name, _slipped(row.instance, slipped)) for row in rows]
    replay.record(directory / golden.FILE_NAME, scorer, instances)
    artifact.write(directory, manifest._replace(files=artifact.files(directory)))


def _rewrite(
    old: Path,
    target: Path,
    feature: Feature,
    nodes: Callable[[str, Callable[[str, float, float], NodeProto]], Sequence[NodeProto]],
) -> None:
    """The old graph with its input times a factor; `nodes` make that, from the input's name and
    what makes constants: a name, the value for the feature, and that for its neighbours.
    """
    shutil.copytree(old, target)
    model = onnx.load_model(target / graph.MODEL)
    (tensor,) = (t for t in manifests.read(old).inputs if t.name == feature.input)
    width = (tensor.shape[1] if len(tensor.shape) == 2 else 1) or 1

    def vector(name: str, value: float, others: float) -> NodeProto:
        array = np.full(width, others, tensor.dtype)
        array[feature.column] = value
        constant = numpy_helper.from_array(array)
        return helper.make_node("Constant", [], [f"rehearsal/{name}"], value=constant)

    changed = f"rehearsal/{tensor.name}"
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = changed if name == tensor.name else name
    known = list(model.graph.node)
    made = [*nodes(tensor.name, vector), helper.make_node("Mul", [tensor.name, FACTOR], [changed])]
    del model.graph.node[:]
    model.graph.node.extend([*made, *known])
    graph.save(model, target)


def _measured(scorer: Scorer) -> Baseline | None:
    """The baseline with the outputs that rows drawn from it get, or as it was if it gets none."""
    manifest = scorer.manifest
    rows = traffic.drawn(manifest, np.random.default_rng(0))
    step = min(SAMPLE, manifest.limits.rows)
    try:
        parts = [
            scorer.score(orjson.dumps({"instances": [next(rows) for _ in range(step)]})).outputs
            for _ in range(SAMPLE // step)
        ]
    except Refusal:
        return manifest.baseline
    answers = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    outputs = baseline.measure((), {}, manifest.outputs, answers).outputs
    return manifest.baseline and manifest.baseline._replace(outputs=outputs)


def _telling(old: Path) -> tuple[Feature, Distribution]:
    """The number that the answers change most with if its unit does. Raises RehearsalError."""
    scorer = scoring.load(old)
    manifest = scorer.manifest
    floats = {tensor.name for tensor in manifest.inputs if tensor.dtype.startswith("float")}
    candidates = [
        feature
        for feature in manifest.features
        if feature.type == "number" and feature.input in floats and feature.out_of_range == "accept"
    ]
    if not candidates or manifest.baseline is None:
        raise RehearsalError("no feature is a number without stated bounds: rehearse it with --new")

    rows = list(itertools.islice(traffic.drawn(manifest, np.random.default_rng(0)), FEW))
    answers = [orjson.loads(text) for text in replay.ask(scorer, rows)]

    def effect(feature: Feature) -> float:
        found = replay.ask(scorer, [_slipped(row, feature.name) for row in rows])
        pairs = zip(answers, map(orjson.loads, found), strict=True)
        return sum(min(1.0, golden.deviation(was, now)) for was, now in pairs)

    feature = max(candidates, key=effect)
    return feature, manifest.baseline.features[feature.name]


def _slipped(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """The values, those of the names in the other unit."""
    return {
        name: value * SLIP if name in names and value is not None else value
        for name, value in values.items()
    }


def _quantiles(known: Distribution, shares: Sequence[float]) -> list[float]:
    found: list[float] = np.interp(shares, known.upto, np.array(known.values, float)).tolist()
    return found
