"""`answerable pack`, from a model and its sample to answers through the handler."""

import argparse
import io
import json
import os
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import orjson
import pytest
from onnx import TensorProto, helper

from answerable.__main__ import main
from answerable.commands import pack as command
from answerable.packing import execution, golden, graph
from answerable.packing import pack as pack_module
from answerable.packing.errors import PackError
from answerable.packing.pack import pack
from handler import manifest as manifests
from handler import scoring
from handler.manifest import Alarms, Manifest, OutcomeValue
from tests.fixtures import models

WORDS = ["--name", "model", "--version", "1.0.0", "--owner", "tests", "--reason", "a test"]
Packer = Callable[..., Manifest]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, outside of any repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.fixture
def packed(place: Path) -> Packer:
    """Pack a model's bytes with a table, arrays, or nothing; into model_artifacts/model."""

    def run(model: bytes, sample: Any = None, *words: str, contract: str = "") -> Manifest:
        Path("model.onnx").write_bytes(model)
        words = (*WORDS, *([] if "--threads" in words else ["--threads", "1"]), *words)
        if "" in words:  # `"--threads", ""` leaves the number to be measured
            words = tuple(word for word in words if word not in ("--threads", ""))
        if contract:
            Path("contract.toml").write_text(contract)
            words = (*words, "--contract", "contract.toml")
        if sample is not None and all(isinstance(column, list) for column in sample.values()):
            Path("data.csv").write_text(models.csv(sample))
            words = (*words, "--reference", "data.csv")
        elif sample is not None:
            np.savez("data.npz", **sample)
            words = (*words, "--reference", "data.npz")
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        args = parser.parse_args(["model.onnx", *words])
        return pack(**command.arguments(args)).manifest

    return run


def ask(instances: list[dict[str, Any]]) -> list[Any]:
    body = orjson.dumps({"instances": instances}, option=orjson.OPT_SERIALIZE_NUMPY)
    scorer = scoring.load(Path("model_artifacts/model"))
    return [orjson.loads(text) for text in scorer.predict(body)]


def original(feeds: dict[str, Any]) -> list[Any]:
    """Plain onnxruntime, with its defaults, on the file as it came."""
    return list(ort.InferenceSession("model.onnx").run(None, feeds))


def golden_lines() -> list[Any]:
    lines = Path("model_artifacts/model/golden.jsonl").read_bytes().splitlines()
    return [json.loads(line) for line in lines]


def rows(table: models.Table) -> list[dict[str, Any]]:
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


# --- models, each answering as the original does ---------------------------------------------


def test_a_classifier_s_zipmap_becomes_probabilities_by_class(packed: Packer) -> None:
    table = models.wine_table()
    manifest = packed(models.wine_classifier(), table)
    label, probabilities = manifest.outputs
    assert (label.kind, label.name, label.classes) == (
        "label",
        "label",
        ("barbera", "barolo", "grignolino"),
    )
    assert (probabilities.kind, probabilities.name) == ("probabilities", "probabilities")
    found = ask(rows(table))
    labels, maps = original({"X": np.array(list(table.values()), np.float32).T})
    assert [row["label"] for row in found] == labels.tolist()
    for row, expected in zip(found, maps, strict=True):
        assert row["probabilities"] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert manifest.baseline is not None
    assert set(manifest.baseline.outputs) == {
        "label",
        "probabilities.barbera",
        "probabilities.barolo",
        "probabilities.grignolino",
    }


@pytest.mark.parametrize("model", [models.forest_classifier, lambda: models.wine_classifier(False)])
def test_classes_are_found_without_zipmap(packed: Packer, model: Callable[[], bytes]) -> None:
    manifest = packed(model(), models.wine_table())
    assert [output.kind for output in manifest.outputs] == ["label", "probabilities"]
    assert len(manifest.outputs[0].classes) == 3
    assert manifest.outputs[0].classes == manifest.outputs[1].classes


def scores(post_transform: str = "NONE") -> bytes:
    """Return a linear classifier of x [N, 1] whose scores are x and -x, or their softmax."""
    node = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "probabilities"],
        domain="ai.onnx.ml",
        classlabels_strings=["yes", "no"],
        coefficients=[1.0, -1.0],
        intercepts=[0.0, 0.0],
        post_transform=post_transform,
    )
    outputs = [
        models.tensor("label", ["N"], TensorProto.STRING),
        models.tensor("probabilities", ["N", 2]),
    ]
    return models.graph([node], [models.tensor("x", ["N", 1])], outputs, None, **{"ai.onnx.ml": 3})


def test_pack_scores_are_not_called_probabilities(packed: Packer) -> None:
    table = {"x": [-0.834, 0.5, 2.0]}
    manifest = packed(scores(), table)
    assert [(o.name, o.kind) for o in manifest.outputs] == [
        ("label", "label"),
        ("scores", "scores"),
    ]
    assert ask([{"x": -0.834}]) == [{"label": "no", "scores": {"yes": -0.834, "no": 0.834}}]
    assert packed(scores("SOFTMAX"), table, "--replace").outputs[1].kind == "probabilities"


def test_pack_scores_stated_as_probabilities_are_refused(packed: Packer) -> None:
    contract = '[outputs.probabilities]\nkind = "probabilities"'
    with pytest.raises(PackError, match="0 to 1 and add up to 1"):
        packed(scores(), {"x": [-0.834, 0.5, 2.0]}, contract=contract)


def test_pack_difference_by_optimisation_is_refused_with_the_remedy(
    packed: Packer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = pack_module._original

    def shifted(*args: Any) -> tuple[golden.Original, list[str]]:
        original, notes = read(*args)
        run = original.run
        return original._replace(run=lambda feeds: [y + 0.001 for y in run(feeds)]), notes

    monkeypatch.setattr(pack_module, "_original", shifted)
    table = models.regressor_table()
    with pytest.raises(PackError, match=r"optimising the graph changes its answers .*--tolerance"):
        packed(models.regressor(), table)
    assert packed(models.regressor(), table, "--tolerance", "0.01")


def test_pack_empty_axis_before_another_is_refused(packed: Packer) -> None:
    model = models.graph(
        [helper.make_node("Abs", ["x"], ["y"])],
        [models.tensor("x", ["a", "b", 4])],
        [models.tensor("y", ["a", "b", 4])],
    )
    with pytest.raises(PackError, match="empty axis before another"):
        packed(model, {"x": np.zeros((2, 3, 0, 4), np.float32)})


def test_a_regressor_of_one_tensor(packed: Packer) -> None:
    table = models.regressor_table()
    manifest = packed(models.regressor(), table)
    assert [(f.name, f.input, f.column) for f in manifest.features] == [
        ("a", "X", 0),
        ("b", "X", 1),
        ("c", "X", 2),
    ]
    (expected,) = original({"X": np.array(list(table.values()), np.float32).T})
    found = [row["value"] for row in ask(rows(table))]
    assert found == pytest.approx(expected.ravel().tolist(), rel=1e-5, abs=1e-5)


def test_text_and_a_number_that_may_be_missing(packed: Packer) -> None:
    table = models.reviews_table()
    manifest = packed(models.text_classifier(), table, "--ignore", "liked")
    review, stars = manifest.features
    assert (review.type, review.max_length, review.nullable) == ("text", 256, False)
    assert (stars.type, stars.nullable) == ("number", True)
    # Lambda's image has no en_US.UTF-8, and neither need this machine
    normalizer = onnx.load("model_artifacts/model/model.onnx").graph.node
    locales = [a.s for node in normalizer for a in node.attribute if a.name == "locale"]
    assert locales == [b"C.UTF-8"]
    good, bad = ask([{"review": "a LOVELY thing", "stars": None}, {"review": "awful"}])
    assert (good["label"], bad["label"]) == (1, 0)


def test_one_input_per_feature_of_every_type(packed: Packer) -> None:
    table = models.mixed_table()
    manifest = packed(models.mixed(), table)
    assert [f.type for f in manifest.features] == ["number", "integer", "boolean", "category"]
    found = [row["cost"] for row in ask(rows(table))]
    expected = [
        p + 10 * c + 100 * f + 1000 * (k == "b") for p, c, f, k in zip(*table.values(), strict=True)
    ]
    assert found == pytest.approx(expected)
    names = [line["name"] for line in golden_lines()]
    for edge in ("minimum of price", "maximum of count", "true of flag", "category 3 of kind"):
        assert edge in names


def test_pack_threads_are_measured_where_weights_have_a_file_of_their_own(
    packed: Packer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "LARGE", 10_000)
    images = np.random.default_rng(0).random((3, 3, 16, 16), np.float32)
    manifest = packed(models.image_classifier(width=16), {"image": images}, "--threads", "")
    assert "weights.bin" in manifest.files


def test_images_as_tensors_with_large_weights_in_their_own_file(
    packed: Packer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "LARGE", 10_000)
    images = np.random.default_rng(0).random((3, 3, 16, 16), np.float32)
    manifest = packed(models.image_classifier(width=16), {"image": images})
    assert set(manifest.files) == {"model.onnx", "weights.bin", "golden.jsonl", "openapi.json"}
    assert manifest.files["model.onnx"].bytes < 10_000 < manifest.files["weights.bin"].bytes
    model = onnx.load("model_artifacts/model/model.onnx", load_external_data=False)
    offsets = [
        int(entry.value)
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    ]
    assert offsets
    assert all(offset % graph.PAGE == 0 for offset in offsets)
    found = [row["logits"] for row in ask([{"image": image} for image in images])]
    np.testing.assert_allclose(found, original({"image": images})[0], rtol=1e-5, atol=1e-5)


def test_tokens_of_any_length(packed: Packer) -> None:
    manifest = packed(models.token_model())
    assert manifest.inputs[0].shape == (None, None)
    assert manifest.outputs[0].shape == (None, None, 4)
    assert [line["name"] for line in golden_lines()][:1] == ["drawn instance 1"]
    short, long = ask([{"tokens": [3]}, {"tokens": [1, 2, 31, 7]}])
    for row, tokens in ((short, [3]), (long, [1, 2, 31, 7])):
        scores, mean = original({"tokens": np.array([tokens])})
        np.testing.assert_allclose(row["scores"], scores[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(row["mean"], mean[0], rtol=1e-5, atol=1e-5)


def test_an_integer_without_known_classes_is_a_number(packed: Packer) -> None:
    model = models.graph(
        [helper.make_node("ArgMax", ["x"], ["cluster"], axis=1, keepdims=0)],
        [models.tensor("x", ["N", 3])],
        [models.tensor("cluster", ["N"], TensorProto.INT64)],
    )
    manifest = packed(model, {"a": [1.0, 0.0], "b": [0.0, 0.0], "c": [0.0, 2.0]})
    assert manifest.outputs[0].kind == "value"
    assert ask([{"a": 0, "b": 1, "c": 0}]) == [{"cluster": 1}]


# --- what is in the artifact -----------------------------------------------------------------


def test_the_artifact_says_what_it_is(packed: Packer) -> None:
    Path("metrics.json").write_text('{"mae": 1.5, "rows": 20}')
    manifest = packed(
        models.regressor(),
        models.regressor_table(),
        *("--metrics", "metrics.json", "--metric", "r2=0.5"),
        contract="""
            description = "Three numbers"
            runbook = "https://example.com"
            [features.a]
            unit = "m"
            minimum = -10
            [features.b]
            type = "category"
            [features.c]
            type = "integer"
            out_of_range = "reject"
            [outputs.variable]
            name = "y"
            unit = "€"
            decision = { threshold = 20, above = "high", below = "low", review = [19, 21] }
            [limits]
            rows = 5
        """,
    )
    assert manifest == manifests.read(Path("model_artifacts/model"))
    a, b, c = manifest.features
    assert (a.unit, a.minimum, a.maximum, a.out_of_range) == ("m", -10, None, "reject")
    assert b.categories == (0.5, 1.5, 2.5)
    assert (c.type, c.out_of_range, c.maximum) == (
        "integer",
        "reject",
        max(models.regressor_table()["c"]),
    )
    assert manifest.description == "Three numbers"
    assert manifest.limits.rows == 5
    assert manifest.lineage.metrics == {"mae": 1.5, "rows": 20, "r2": 0.5}
    assert manifest.lineage.reason == "a test"
    assert manifest.lineage.git_commit is None
    assert set(manifest.lineage.versions) == {"onnx", "onnxruntime", "python", "skl2onnx"}
    (row,) = ask([{"a": 0, "b": 0.5, "c": 99}])
    assert (row["y"], row["y_decision"]) == (pytest.approx(50), "high")
    text = Path("model_artifacts/model/manifest.json").read_text()
    assert '"categories": [0.5, 1.5, 2.5]' in text
    assert "€" in text
    assert '"unknown_category"' not in text  # a default


def test_packing_again_gives_the_same_bytes(packed: Packer) -> None:
    folder = Path("model_artifacts/model")

    def contents() -> dict[str, Any]:
        found: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
        found["manifest.json"] = json.loads(found["manifest.json"])
        del found["manifest.json"]["lineage"]["packed_at"], found["manifest.sha256"]
        return found

    packed(models.wine_classifier(), models.wine_table())
    first = contents()
    packed(models.wine_classifier(), models.wine_table())
    assert contents() == first
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_golden_rows_cover_every_edge_even_of_many_features(packed: Packer) -> None:
    width = 40
    model = models.graph(
        [helper.make_node("ReduceSum", ["X", "axes"], ["y"])],
        [models.tensor("X", ["N", width])],
        [models.tensor("y", ["N", 1])],
        {"axes": np.array([1])},
    )
    table: models.Table = {f"f{i}": [float(i), float(2 * i), 0.5] for i in range(width)}
    packed(model, table)
    lines = golden_lines()
    assert len(lines) == 64
    for name, column in table.items():
        seen = {line["instance"][name] for line in lines}
        assert {min(column), max(column)} <= seen
    answers = ask([line["instance"] for line in lines])
    for line, answer in zip(lines, answers, strict=True):
        assert answer["y"] == pytest.approx(line["prediction"]["y"], rel=1e-6)


def test_the_body_limit_lets_full_requests_through(packed: Packer) -> None:
    table = models.reviews_table()
    manifest = packed(models.text_classifier(), table, "--ignore", "liked")
    row = {"review": "é" * 256, "stars": -1.2345678e-30}
    body = json.dumps({"instances": [row] * manifest.limits.rows}, ensure_ascii=False)
    assert len(body.encode()) <= manifest.limits.body_bytes <= 6_000_000


def test_alarms_and_the_worth_of_outcomes_are_stated(packed: Packer) -> None:
    contract = "[alarms]\ndrift_threshold = 0.1\nmin_daily_impact = 2.0\n"
    contract += "[outcome_value]\nunit = 'EUR'\ncost = 0.5\n"
    contract += "[outcome_value.outcomes.a]\nb = 1.5\n[features.a]\nlog_policy = 'drop'\n"
    manifest = packed(models.regressor(), models.regressor_table(), contract=contract)
    assert manifest.alarms == Alarms(drift_threshold=0.1, min_daily_impact=2.0)
    assert manifest.outcome_value == OutcomeValue("EUR", cost=0.5, outcomes={"a": {"b": 1.5}})
    assert [f.log_policy for f in manifest.features if f.name == "a"] == ["drop"]


# --- rows and threads ------------------------------------------------------------------------


def centred(outputs: list[Any], *nodes: Any) -> bytes:
    x = models.tensor("x", ["N", 3])
    return models.graph(list(nodes), [x], outputs, {"axes": np.array([0])})


def test_pack_rows_that_interact_are_one_instance_or_refused(packed: Packer) -> None:
    model = centred(
        [models.tensor("y", ["N", 3])],
        helper.make_node("ReduceMean", ["x", "axes"], ["m"]),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    )
    with pytest.raises(PackError, match="the rows of the table interact"):
        packed(model, {"a": [1.0, 5.0], "b": [2.0, 6.0], "c": [3.0, 7.0]})
    manifest = packed(model, {"x": np.array([[1, 2, 3], [5, 6, 7]], np.float32)})
    assert manifest.execution.batch == "none"
    assert ask([{"x": [[1, 2, 3], [5, 6, 7]]}]) == [{"y": [[-2, -2, -2], [2, 2, 2]]}]


def test_pack_dynamically_quantised_rows_run_alone(packed: Packer) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    model = models.graph(nodes, [models.tensor("x", ["N", 2])], [models.tensor("y", ["N", 2])])
    manifest = packed(model, {"a": [1.0, 300.0, 7.0], "b": [2.0, 500.0, 3.0]})
    assert manifest.execution.batch == "single"


def test_pack_random_answers_are_refused(packed: Packer) -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    model = models.graph(nodes, [models.tensor("x", [2])], [models.tensor("y", [2])])
    with pytest.raises(PackError, match="answers one instance differently each time"):
        packed(model)


def test_a_graph_without_rows_takes_whole_tensors(packed: Packer) -> None:
    model = centred(
        [models.tensor("y", [])], helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    )
    manifest = packed(model, {"x": np.ones((4, 3), np.float32)})
    assert manifest.execution.batch == "none"
    assert ask([{"x": [[1, 2, 3], [4, 5, 6]]}, {"x": [[1, 1, 1]]}]) == [{"y": 21}, {"y": 3}]
    with pytest.raises(PackError, match="the rows of the table interact"):
        packed(model, {"a": [1.0, 5.0], "b": [2.0, 6.0], "c": [3.0, 7.0]})


def test_a_fixed_leading_axis_is_run_row_by_row(packed: Packer) -> None:
    manifest = packed(models.image_classifier(size=4, batch=1))
    assert manifest.execution.batch == "single"
    assert manifest.outputs[0].shape == (1, 10)
    image = np.ones((3, 4, 4), np.float32)
    found = ask([{"image": image}, {"image": image * 0}])
    expected = [original({"image": i[None]})[0][0] for i in (image, image * 0)]
    np.testing.assert_allclose([row["logits"] for row in found], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("times", "threads"),
    [
        ({1: [0.010, 0.020], 2: [0.0099, 0.019]}, 1),  # no gain
        ({1: [0.010, 0.020], 2: [0.007, 0.019]}, 2),  # clearly better at one row
        ({1: [0.010, 0.020], 2: [0.0105, 0.011]}, 2),  # much better at many
        ({1: [0.010, 0.020], 2: [0.015, 0.008]}, 1),  # hurts at one row
        ({1: [1e-5, 2e-5], 2: [5e-6, 1e-5]}, 1),  # too little to be felt
        ({1: [0.010, 0.030], 2: [0.006, 0.018], 3: [0.0059, 0.0178]}, 2),  # three is no better
        ({1: [0.010]}, 1),
    ],
)
def test_threads_must_be_worth_their_vcpu(times: dict[int, list[float]], threads: int) -> None:
    assert execution.choose_threads(times) == threads


def test_threads_are_measured_unless_stated(
    packed: Packer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Manifest] = []

    def measured(directory: Path, manifest: Manifest, _: Any) -> dict[int, list[float]]:
        seen.append(manifest)
        return {1: [0.01, 0.02], 2: [0.005, 0.01]}

    monkeypatch.setattr(execution, "threads", measured)
    Path("model.onnx").write_bytes(models.regressor())
    Path("data.csv").write_text(models.csv(models.regressor_table()))
    assert main(["pack", "model.onnx", "--reference", "data.csv", *WORDS]) == 0
    assert manifests.read(Path("model_artifacts/model")).execution.intra_op_threads == 2
    assert seen


# --- refusals --------------------------------------------------------------------------------


def refused(packed: Packer, *args: Any, **options: Any) -> str:
    with pytest.raises(PackError) as caught:
        packed(*args, **options)
    root = Path("model_artifacts")
    assert not root.exists() or not list(root.iterdir())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" * 9, b"{}"])
def test_what_is_not_onnx(packed: Packer, content: bytes) -> None:
    assert "not an ONNX model" in refused(packed, content)


def test_a_truncated_model(packed: Packer) -> None:
    model = models.forest_classifier()
    for cut in (1, 50, len(model) // 2):
        assert "truncated" in refused(packed, model[:-cut], models.wine_table())


def test_custom_operators_are_named(packed: Packer) -> None:
    model = models.graph(
        [
            helper.make_node("Magic", ["x"], ["t"], domain="acme"),
            helper.make_node("Nonsense", ["t"], ["y"]),
        ],
        [models.tensor("x", ["N", 1])],
        [models.tensor("y", ["N", 1])],
        acme=1,
    )
    assert refused(packed, model).endswith("acme.Magic, ai.onnx.Nonsense")


@pytest.mark.parametrize("dtype", [TensorProto.COMPLEX64, TensorProto.BFLOAT16])
def test_types_that_json_cannot_carry(packed: Packer, dtype: int) -> None:
    model = models.graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        [models.tensor("x", ["N", 1], dtype)],
        [models.tensor("y", ["N", 1], dtype)],
    )
    assert "x has the unsupported type" in refused(packed, model)


def test_sequences_that_are_no_zipmap(packed: Packer) -> None:
    model = models.graph(
        [helper.make_node("SplitToSequence", ["x"], ["y"])],
        [models.tensor("x", ["N", 1])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )
    assert "y is a sequence" in refused(packed, model)


def test_sequence_of_tensors_is_flattened(packed: Packer) -> None:
    model = models.graph(
        [
            helper.make_node("Neg", ["x"], ["z"]),
            helper.make_node("SequenceConstruct", ["x", "z"], ["y"]),
        ],
        [models.tensor("x", ["N", 1])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["N", 1])],
    )
    outputs = packed(model, {"x": [1.0, 2.0, 3.5]}).outputs
    assert [(output.name, output.kind) for output in outputs] == [
        ("y_0", "value"),
        ("y_1", "value"),
    ]
    assert ask([{"x": 2.0}]) == [{"y_0": 2.0, "y_1": -2.0}]


def test_columns_that_do_not_match_are_named(packed: Packer) -> None:
    table = models.mixed_table()
    more = table | {"target": table["price"], "id": table["count"]}
    message = refused(packed, models.mixed(), more)
    assert "target" in message
    assert "--ignore" in message
    del table["kind"]
    assert "lacks the columns kind" in refused(packed, models.mixed(), table)
    message = refused(packed, models.regressor(), models.mixed_table())
    assert "takes 3 columns and data.csv has 4 (price, count, flag, kind)" in message
    table = models.regressor_table()
    assert "no column nope" in refused(packed, models.regressor(), table, "--ignore", "nope")


def test_samples_that_are_none(packed: Packer) -> None:
    one = {name: column[:1] for name, column in models.regressor_table().items()}
    assert "at least 2" in refused(packed, models.regressor(), one)
    assert "--reference" in refused(packed, models.regressor())
    assert "lacks image" in refused(packed, models.image_classifier(), {"x": np.ones((2, 1))})
    message = refused(packed, models.image_classifier(), {"image": np.ones((2, 3, 9, 9))})
    assert "has the shape [2, 3, 9, 9], and the model takes [any, 3, 16, 16]" in message
    message = refused(packed, models.image_classifier(), {"a": [1.0, 2.0]})
    assert "tensor contract" in message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--version", "1.0"], "semantic version"),
        (["--version", "v1.0.0"], "semantic version"),
        (["--name", "My_Model"], "for example my-model"),
        (["--owner", " "], "owner: "),
        (["--metric", "mae"], "metric"),
        (["--metric", "mae=nan"], "metric"),
    ],
)
def test_words_without_meaning(packed: Packer, words: list[str], said: str) -> None:
    assert said in refused(packed, models.regressor(), models.regressor_table(), *words)


@pytest.mark.parametrize("shape", [(2**31,), (2**50,), (2**62, 2**62)])
def test_an_npz_whose_header_says_any_size_is_one_line(
    packed: Packer, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as file:
        file.writestr("image.npy", header.getvalue())
    words = ("--reference", "huge.npz")
    assert "huge.npz: " in refused(packed, models.image_classifier(), None, *words)


@pytest.mark.parametrize(
    ("contract", "said"),
    [
        ("owner = 'me'", "unknown key owner"),
        ("limits.rows = inf", "contract.toml: limits.rows is inf, which is not a finite number"),
        ("features.a.minimum = nan", "features.a.minimum is nan, which is not a finite number"),
        ("outputs.variable.decision = {threshold = -inf}", "decision.threshold is -inf, which"),
        ("features.a.categories = [1, inf]", "features.a.categories is inf, which"),
        ("features.a.unit = 10:30:00", "features.a.unit is a time of day"),
        ("alarms.max_days_without_outcomes = -3", "max_days_without_outcomes is 0 to 7"),
        ("outcome_value.max_outcome_age_days = -1", "max_outcome_age_days is below 1"),
        (
            "outputs.variable.decision = {threshold = 1, review = [5, 1]}",
            "output value: review from 5 to 1",
        ),
        ("[features.a]\nminium = 3", "unknown key features.a.minium"),
        ("[features.z]\nunit = 'm'", "not there: z"),
        ("[features.a]\nminimum = 5", "outside of the stated contract"),
        ("[features.a]\nminimum = 'low'", "wrong type"),
        ("[features.a]\nunit = 3", "feature a/unit"),
        ("[features.a]\ntype = 'text'", "a float32 tensor cannot be of type text"),
        ("[features.a]\ncategories = ['x']", "cannot be stated for type number"),
        ("[features.a]\ntype = 'integer'", "is no integer"),
        ("[outputs.z]\nunit = 'm'", "there are variable"),
        ("[outputs.value]\nkind = 'label'\nclasses = ['a', 'b']", "cannot be of kind label"),
        ("[outputs.value]\ndecision = {above = 'x'}", "no threshold"),
        ("[outputs.value.decision]\nthreshold = 1\nunder = 'x'", "decision.under"),
        ("[limits]\nrows = 'many'", "limits.rows"),
        ("[limits]\nspeed = 1", "limits.speed"),
        ("[alarms]\ndrift_threshold = 'much'", "alarms/drift_threshold"),
        ("[alarms]\ndrift_hours = 48", "drift_hours"),
        ("[outcome_value]\nprofit = 1", "outcome_value.profit"),
        ("[features", "contract.toml"),
    ],
)
def test_contract_files_with_mistakes(packed: Packer, contract: str, said: str) -> None:
    message = refused(packed, models.regressor(), models.regressor_table(), contract=contract)
    assert said in message


def external(location: str, size: int = 48) -> bytes:
    """`y = x + W` with W's 12 floats in another file."""
    model = onnx.load_from_string(
        models.graph(
            [helper.make_node("Add", ["x", "W"], ["y"])],
            [models.tensor("x", ["N", 12])],
            [models.tensor("y", ["N", 12])],
            {"W": np.arange(12, dtype=np.float32)},
        )
    )
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(size))):
        weight.external_data.add(key=key, value=value)
    return bytes(model.SerializeToString())


def test_external_data_beside_the_model_is_taken_in(packed: Packer) -> None:
    Path("w.bin").write_bytes(np.arange(12, dtype=np.float32).tobytes())
    table: models.Table = {f"f{i}": [0.0, 1.0] for i in range(12)}
    manifest = packed(external("w.bin"), table)
    assert set(manifest.files) == {"model.onnx", "golden.jsonl", "openapi.json"}
    assert ask([dict.fromkeys(table, 1)]) == [{"y": list(range(1, 13))}]


def test_external_data_from_elsewhere(packed: Packer, place: Path) -> None:
    weights = np.arange(12, dtype=np.float32).tobytes()
    outside = place.parent / f"{place.name}-outside"
    outside.mkdir()
    (outside / "w.bin").write_bytes(weights)
    Path("soft.bin").symlink_to(outside / "w.bin")
    Path("folder").symlink_to(outside)
    os.link(outside / "w.bin", "hard.bin")
    Path("short.bin").write_bytes(weights[:20])
    table: models.Table = {f"f{i}": [0.0, 1.0] for i in range(12)}
    for location, said in (
        (f"../{outside.name}/w.bin", "points outside the directory"),
        (str(outside / "w.bin"), "should be a relative path"),
        ("soft.bin", "symbolic link"),
        ("folder/w.bin", "resolves outside model directory"),
        ("hard.bin", "hard link"),
        ("short.bin", "cannot be read"),
        ("none.bin", "is not regular file"),
        (".", "external data"),
        ("", "external data"),
    ):
        assert said in refused(packed, external(location), table), location


@pytest.mark.fault(
    "A model to be packed answers NaN",
    "It is not packed",
)
def test_a_model_that_answers_nan(packed: Packer) -> None:
    model = models.graph(
        [helper.make_node("Log", ["x"], ["y"])],
        [models.tensor("x", ["N", 1])],
        [models.tensor("y", ["N", 1])],
    )
    assert "y is not finite in row 2" in refused(packed, model, {"x": [1.0, -1.0, 2.0]})
    message = refused(packed, model, {"x": [1.0, 2.0, None]})
    assert "x is missing there" in message
    manifest = packed(model, {"x": [1.0, 2.0, None]}, contract="[features.x]\nfill_value = 1.0")
    assert manifest.features[0].nullable
    assert ask([{"x": None}, {}]) == [{"y": 0}, {"y": 0}]


@pytest.mark.fault(
    "Packing fails",
    "The artifact that was there stays",
)
def test_an_artifact_stays_when_its_successor_is_refused(
    packed: Packer, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(models.regressor(), models.regressor_table())
    folder = Path("model_artifacts/model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    wrong = models.graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [models.tensor("x", ["N", 3])],
        [models.tensor("y", ["N", 3])],
    )
    changed = onnx.load_from_string(wrong.replace(b"Add", b"Mul"))
    monkeypatch.setattr(graph, "optimise", lambda *_: changed)
    with pytest.raises(PackError, match="from the original's"):
        packed(wrong, models.regressor_table())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_folder_that_is_no_artifact_is_left_alone(packed: Packer) -> None:
    Path("model_artifacts/model").mkdir(parents=True)
    Path("model_artifacts/model/thesis.tex").write_text("precious")
    with pytest.raises(PackError, match="left alone"):
        packed(models.regressor(), models.regressor_table())
    assert Path("model_artifacts/model/thesis.tex").read_text() == "precious"


# --- at the terminal -------------------------------------------------------------------------


def test_pack_prints_a_summary(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.onnx").write_bytes(models.mixed())
    Path("d.csv").write_text(models.csv(models.mixed_table()))
    assert main(["pack", "m.onnx", "--reference", "d.csv", *WORDS, "--threads", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for words in ("Packed model 1.0.0", "kind", "a, b, c", "counted", "golden.jsonl", "42 rows"):
        assert words in out
    assert max(map(len, out.splitlines())) <= 100


def test_the_command_refuses_in_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.onnx").write_bytes(b"[bold]no")
    assert main(["pack", "m.onnx", *WORDS]) == 2
    assert capsys.readouterr() == ("", "pack: m.onnx is not an ONNX model, or it is truncated\n")
    assert main(["pack", "none.onnx", *WORDS]) == 2
    assert capsys.readouterr() == ("", "pack: none.onnx: No such file or directory\n")
    assert [path.name for path in place.iterdir()] == ["m.onnx"]


def test_a_command_s_words_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["pack", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 0
    assert "--reference" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["no-such-command"])


# --- what may follow what ------------------------------------------------------------------------

BOUNDED = "[features.a]\nminimum = {low}\nmaximum = {high}\n"


def test_a_narrowed_contract_needs_a_major_version(packed: Packer) -> None:
    model, table = models.regressor(), models.regressor_table()
    packed(model, table, contract=BOUNDED.format(low=-100, high=100))
    narrow = BOUNDED.format(low=-100, high=90)
    with pytest.raises(PackError, match=r"a: maximum 100.* -> 90.*2\.0\.0 is the least version"):
        packed(model, table, "--version", "1.1.0", contract=narrow)
    assert packed(model, table, "--version", "2.0.0", contract=narrow).version == "2.0.0"
    wide = BOUNDED.format(low=-100, high=95)
    with pytest.raises(PackError, match=r"2\.1\.0 is the least version after 2\.0\.0"):
        packed(model, table, "--version", "2.0.1", contract=wide)
    packed(model, table, "--version", "2.1.0", contract=wide)


def test_a_version_is_replaced_only_when_that_is_meant(packed: Packer) -> None:
    model, table = models.regressor(), models.regressor_table()
    packed(model, table)
    packed(model, table)  # the same again is nothing to refuse
    bounded = BOUNDED.format(low=-100, high=100)
    with pytest.raises(PackError, match=r"other content.*--replace"):
        packed(model, table, contract=bounded)
    packed(model, table, "--replace", contract=bounded)


def test_what_is_replaced_still_follows_what_was_committed(packed: Packer, place: Path) -> None:
    def git(*words: str) -> None:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *words]
        subprocess.run(command, check=True, capture_output=True)

    model, table = models.regressor(), models.regressor_table()
    packed(model, table, contract=BOUNDED.format(low=-100, high=100))
    git("init")
    git("add", "model_artifacts")
    git("commit", "-m", "1.0.0")
    packed(model, table, "--version", "1.1.0", contract=BOUNDED.format(low=-100, high=110))
    with pytest.raises(PackError, match=r"2\.0\.0 is the least version after 1\.0\.0"):
        packed(
            model, table, "--version", "1.1.0", "--replace",
            contract=BOUNDED.format(low=-100, high=90),
        )  # fmt: skip


def test_what_cannot_be_compared_is_said(packed: Packer) -> None:
    packed(models.regressor(), models.regressor_table())
    Path("model_artifacts/model/manifest.json").write_text("{}")
    with pytest.raises(PackError, match=r"cannot be compared \(manifest\.json: .*move it away"):
        packed(models.regressor(), models.regressor_table())


def test_the_summary_tells_what_is_coming(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    table = models.regressor_table()
    table["[/x] \x1b[31m"] = table.pop("a")
    Path("m.onnx").write_bytes(models.regressor())
    Path("d.csv").write_text(models.csv(table))
    Path("c.toml").write_text(
        "[outputs.value.decision]\nthreshold = 20.000000001\nabove = 'call'\nbelow = 'leave'\n"
        "review = [19, 21]\n"
    )
    words = ["pack", "m.onnx", "--reference", "d.csv", "--threads", "1", "--contract", "c.toml"]
    for version in ("1.0.0", "1.0.1"):
        assert main([*words, *WORDS, "--version", version]) == 0
    out = capsys.readouterr().out
    text = " ".join(out.split())
    assert "[/x] \\x1b[31m" in out
    assert "\x1b" not in out
    assert "call from 20, else leave; review 19 to 21" in text
    assert re.search(r"conformance [\d,]+ requests answered as the contract says", text)
    assert re.search(r"an idle month about \d+\.\d\d USD", text)
    assert "replaces 1.0.0, which stays as model@1.0.0: answerable diff model@1.0.0 model" in text
    assert not re.search(r"\d\.\d{8}", out)


def test_a_producer_that_logs_is_cut(packed: Packer) -> None:
    model = onnx.load_from_string(models.regressor())
    model.producer_version = "1.2.8\n" + "built by somebody\n" * 10
    manifest = packed(model.SerializeToString(), models.regressor_table())
    assert manifest.producer == "skl2onnx 1.2.8"
    assert manifest.lineage.versions["skl2onnx"] == "1.2.8"


def test_pack_ir_version_that_is_too_new_is_refused_with_cause_and_remedy(packed: Packer) -> None:
    case = Path(__file__).parents[1] / "zoo/files/cases/g-ir99.onnx"
    with pytest.raises(PackError, match=r"IR version 99 is newer than onnxruntime .* export"):
        packed(case.read_bytes(), {"x": [1.0, 2.0, 3.0]})
