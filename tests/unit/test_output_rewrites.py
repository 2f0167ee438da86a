"""Outputs of several targets, the best of many classes, and tensors as base64."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from onnx import helper
from sklearn.datasets import load_digits, load_linnerud
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.svm import LinearSVC

import answerable
from answerable.packing import openapi, output_fields
from answerable.packing.pack import Packed
from handler import app, prediction_id
from handler.drift.targets import targets
from handler.release import compatibility, golden
from handler.settings import Settings
from tests.fixtures import artifact, protocols
from tests.fixtures.artifact import FLOAT
from tests.fixtures.events import Context

FEATURES, TARGETS = load_linnerud(return_X_y=True, as_frame=True)
LABELS = pd.DataFrame(
    {
        "heavy": np.where(TARGETS["Weight"] > 180, "yes", "no"),
        "fast": (TARGETS["Pulse"] > 56).astype(int),
    }
)
WORDS = [f"class {i}" for i in range(1000)]


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pack(model: Any, X: Any, **options: Any) -> Packed:
    facts: dict[str, Any] = {"name": "m", "version": "1.0.0", "owner": "tests", "reason": "a test"}
    return answerable.pack(model, X, **facts, threads=1, replace=True, **options)


def refused(model: Any, X: Any, **options: Any) -> str:
    with pytest.raises(answerable.PackError) as caught:
        pack(model, X, **options)
    return str(caught.value)


def with_targets(*names: str) -> pd.DataFrame:
    return pd.concat([FEATURES, TARGETS[list(names)]], axis=1)


def outputs(**fields: Any) -> dict[str, Any]:
    return {"outputs": fields}


@pytest.mark.parametrize("estimator", [LinearRegression(), RandomForestRegressor(5)])
def test_targets_of_a_dataframe_are_fields_of_their_own(estimator: Any) -> None:
    model = estimator.fit(FEATURES, TARGETS)
    decision = {"threshold": 180, "above": "heavy", "below": "light"}
    contract = outputs(Weight={"unit": "lbs", "decision": decision})
    packed = pack(model, with_targets("Weight", "Waist", "Pulse"), contract=contract)
    names = ["Weight", "Waist", "Pulse"]
    assert [output.name for output in packed.manifest.outputs] == names
    assert {output.kind for output in packed.manifest.outputs} == {"value"}
    assert packed.manifest.outputs[0].unit == "lbs"
    assert [t.name for t in targets(packed.manifest) if t.output] == names
    assert packed.manifest.lineage.parity is not None
    assert "left out the columns Weight, Waist, Pulse" in packed.facts["note"]
    (prediction,) = answerable.load("m").predict(FEATURES[:1])
    values = [prediction[name] for name in names]
    assert values == pytest.approx(model.predict(FEATURES[:1])[0].tolist(), rel=1e-5)
    assert prediction["Weight_decision"] == ("heavy" if values[0] >= 180 else "light")
    schema = openapi.prediction_schema(packed.manifest)["properties"]
    assert schema["Weight"] == {"type": "number", "description": "Unit: lbs."}


def test_targets_in_another_order_are_refused() -> None:
    model = LinearRegression().fit(FEATURES, TARGETS)
    message = refused(model, with_targets("Waist", "Weight", "Pulse"))
    assert "the columns Waist and Weight in the other order" in message
    stated = pack(model, with_targets("Waist", "Weight", "Pulse"), targets=[*TARGETS])
    assert [output.name for output in stated.manifest.outputs] == [*TARGETS]
    labels = MultiOutputClassifier(LogisticRegression()).fit(FEATURES, LABELS.astype(str))
    assert "in the other order" in refused(
        labels, pd.concat([FEATURES, LABELS.iloc[:, ::-1]], axis=1)
    )


def test_target_names_are_stated_for_a_model_without_a_table() -> None:
    model = LinearRegression().fit(FEATURES.to_numpy(), TARGETS)
    packed = pack(model, FEATURES.to_numpy(), targets=["kilograms", "waist (cm)", "pulse"])
    assert packed.manifest.outputs[1].name == "waist (cm)"
    contract = outputs(value={"targets": ["a", "b", "c"], "unit": "u"}, b={"unit": "cm"})
    packed = pack(model, FEATURES.to_numpy(), contract=contract)
    assert [output.unit for output in packed.manifest.outputs] == ["u", "cm", "u"]
    assert "no output has one column for each of a, b:" in refused(
        model, FEATURES.to_numpy(), targets=["a", "b"]
    )
    assert "2 targets are stated, and it has 3 columns" in refused(
        model, FEATURES.to_numpy(), contract=outputs(variable={"targets": ["a", "b"]})
    )
    for wrong in ("abc", [1, 2, 3], ["a", "", "b"], []):
        assert "targets must be a list of names" in refused(
            model, FEATURES.to_numpy(), contract=outputs(variable={"targets": wrong})
        )
    assert "an answer has a field key of its own" in refused(
        model, FEATURES.to_numpy(), targets=["key", "row", "model_version"]
    )
    assert "two targets have one name" in refused(
        model, FEATURES.to_numpy(), targets=["a", "a", "b"]
    )


def test_columns_that_are_no_targets_are_refused() -> None:
    model = LinearRegression().fit(FEATURES, TARGETS["Pulse"])
    assert "one column for each of Weight, Pulse: leave columns" in refused(
        model, with_targets("Weight", "Pulse")
    )


def test_labels_of_several_targets_have_their_classes_and_probabilities() -> None:
    frame = pd.concat([FEATURES, LABELS], axis=1)
    model = MultiOutputClassifier(LogisticRegression()).fit(
        FEATURES, (LABELS == ["yes", 1]).astype(int)
    )
    packed = pack(model, frame.assign(heavy=(LABELS["heavy"] == "yes").astype(int)))
    fields = {output.name: (output.kind, output.classes) for output in packed.manifest.outputs}
    assert fields == {
        "heavy": ("label", (0, 1)),
        "fast": ("label", (0, 1)),
        "heavy_probabilities": ("probabilities", (0, 1)),
        "fast_probabilities": ("probabilities", (0, 1)),
    }
    (prediction,) = answerable.load("m").predict(FEATURES[:1])
    assert [prediction["heavy"], prediction["fast"]] == model.predict(FEATURES[:1])[0].tolist()


@pytest.mark.parametrize("as_text", [False, True])
def test_best_classes_are_answered_with_their_numbers(as_text: bool) -> None:
    images, y = load_digits(return_X_y=True)
    images, y = images[:300] / 16, y[:300]
    model = LogisticRegression(max_iter=1000).fit(
        images, [f"digit {i}" for i in y] if as_text else y
    )
    contract = outputs(probabilities={"top_k": 3, "description": "sure"})
    packed = pack(model, images, contract=contract)
    kinds = {output.name: output.kind for output in packed.manifest.outputs}
    assert kinds == {"label": "label", "probabilities_classes": "tensor", "probabilities": "tensor"}
    assert next(t.name for t in targets(packed.manifest) if t.output) == "label"
    (prediction,) = answerable.load("m").predict(pd.DataFrame(images[:1]).add_prefix("x"))
    numbers = model.predict_proba(images[:1])[0]
    best = np.argsort(-numbers)[:3]
    assert prediction["probabilities_classes"] == model.classes_[best].tolist()
    assert prediction["probabilities"] == pytest.approx(numbers[best].tolist(), abs=1e-5)
    schema = openapi.prediction_schema(packed.manifest)["properties"]
    assert schema["probabilities_classes"]["items"] == {"enum": model.classes_.tolist()}
    assert schema["probabilities"]["description"] == "sure"


def scores() -> bytes:
    """Return a graph of logits [N, 1000] alone: x times 1, 2, …"""
    nodes = [
        helper.make_node("Constant", [], ["w"], value_floats=[float(i) for i in range(1000)]),
        helper.make_node("Mul", ["x", "w"], ["logits"]),
    ]
    return artifact.graph(nodes, [("x", FLOAT, ["N", 1])], [("logits", FLOAT, ["N", 1000])])


def test_best_of_a_thousand_scores_has_a_label_to_monitor() -> None:
    frame = pd.DataFrame({"x": [1.0, -1.0, 2.0, 0.0]})  # at 0, all classes are equally likely
    contract = outputs(logits={"top_k": 5, "classes": WORDS, "kind": "scores"})
    packed = pack(scores(), frame, contract=contract)
    label = packed.manifest.outputs[2]
    assert (label.name, label.kind, len(label.classes)) == ("logits_label", "label", 1000)
    assert prediction_id.primary_output(packed.manifest)[1] == label
    predictions = answerable.load("m").predict(frame)
    assert predictions[0] == {
        "logits_classes": [f"class {i}" for i in range(999, 994, -1)],
        "logits": [999.0, 998.0, 997.0, 996.0, 995.0],
        "logits_label": "class 999",
    }
    numbers = [p["logits_label"].removeprefix("class ") for p in predictions]
    assert numbers == ["999", "0", "999", "0"]
    assert len(json.dumps(predictions[0])) < 200
    lambda_handler = app.create(Settings(model_dir=packed.directory))
    body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}
    event = protocols.event(json.dumps(body), "/v2/models/m/infer")
    document = json.loads(lambda_handler(event, Context())["body"])
    names = [tensor["name"] for tensor in document["outputs"]]
    assert names == ["logits_classes", "logits_top", "logits_label"]
    before = pack(scores(), frame, contract=outputs(logits={"classes": WORDS}))
    changes = compatibility.changes(before.manifest, packed.manifest)
    assert any("logits" in str(change) for change in changes)


def test_top_k_that_cannot_be_is_refused() -> None:
    frame = pd.DataFrame({"x": [1.0, -1.0]})
    for k in (0, 1001, True, "5"):
        fields = {"top_k": k, "classes": WORDS}
        assert "top_k is 1 to 1000" in refused(scores(), frame, contract=outputs(logits=fields))
    message = refused(scores(), frame, contract=outputs(logits={"top_k": 5}))
    assert "output logits: top_k needs one number per class, and 0 classes are stated" in message
    decided = {"top_k": 2, "classes": WORDS, "decision": {"threshold": 1, "class_label": "class 1"}}
    message = refused(scores(), frame, contract=outputs(logits=decided))
    assert "there is nothing to decide on" in message


def test_best_classes_of_a_decision_function_are_compared_by_label() -> None:
    images, y = load_digits(n_class=3, return_X_y=True)
    contract = outputs(probabilities={"top_k": 1, "classes": [0, 1, 2]})
    packed = pack(LinearSVC().fit(images, y), images, contract=contract)
    assert [output.name for output in packed.manifest.outputs][1:] == ["scores_classes", "scores"]


def test_ties_among_the_best_are_rows_that_rounding_decides() -> None:
    array = np.array([[3, 2, 1, 0], [3, 2, 1, 1 + 1e-7], [3, 2, 2, 1]], np.float32)
    assert output_fields.ties(array, 1).tolist() == [False, False, False]
    assert output_fields.ties(array, 2).tolist() == [False, False, True]
    assert output_fields.ties(array, 3).tolist() == [False, True, True]


@pytest.mark.parametrize("as_frame", [False, True])
def test_a_single_target_keeps_the_output_s_name_unless_it_is_stated(as_frame: bool) -> None:
    column = TARGETS[["Pulse"]] if as_frame else TARGETS["Pulse"]
    model = LinearRegression().fit(FEATURES, column)
    packed = pack(model, FEATURES.assign(Pulse=column))
    assert [output.name for output in packed.manifest.outputs] == ["value"]
    packed = pack(model, FEATURES, targets=["Pulse"])
    assert [output.name for output in packed.manifest.outputs] == ["Pulse"]
    parity = packed.manifest.lineage.parity
    assert parity is not None
    assert parity.rows == len(FEATURES)


def embeddings(kind: int = FLOAT) -> bytes:
    nodes = [
        helper.make_node("Constant", [], ["w"], value_floats=[1.0, 0.5, 1 / 3]),
        helper.make_node("Mul", ["x", "w"], ["float"]),
        helper.make_node("Cast", ["float"], ["embedding"], to=kind),
    ]
    return artifact.graph(nodes, [("x", FLOAT, ["N", 1])], [("embedding", kind, ["N", 3])])


def ask(directory: Path, path: str, **headers: str) -> dict[str, Any]:
    event = protocols.event('{"instances":[{"x":1},{"x":-3}]}', path, **headers)
    answer: dict[str, Any] = app.create(Settings(model_dir=directory))(event, Context())
    assert answer["statusCode"] == 200
    return answer


@pytest.mark.parametrize("path", ["/predict", "/invocations", "/v1/models/m:predict"])
@pytest.mark.parametrize("kind", [FLOAT, 10, 11])
def test_embeddings_are_base64_on_request(path: str, kind: int) -> None:
    frame = pd.DataFrame({"x": [1.0, -3.0, 2.0]})
    packed = pack(embeddings(kind), frame)
    plain = ask(packed.directory, path)
    assert plain["headers"]["content-type"] == "application/json"
    lists = [row["embedding"] for row in json.loads(plain["body"])["predictions"]]
    answer = ask(packed.directory, path, accept="application/json; tensors=base64")
    rows = json.loads(answer["body"])["predictions"]
    document = openapi.document(packed.manifest)
    content = document["paths"]["/predict"]["post"]["responses"]["200"]
    if kind == 11:  # float64 would lose digits
        assert answer["headers"]["content-type"] == "application/json"
        assert [row["embedding"] for row in rows] == lists
        assert [*content["content"]] == ["application/json"]
        return
    assert answer["headers"]["content-type"] == "application/json;tensors=base64"
    for row, numbers in zip(rows, lists, strict=True):
        decoded = np.frombuffer(base64.b64decode(row["embedding"]), "<f4")
        assert decoded.tolist() == pytest.approx(numbers, rel=1e-3)
        assert kind == 10 or decoded.tolist() == np.float32(numbers).tolist()
    schema = content["content"]["application/json;tensors=base64"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Base64Predictions"}
    item = document["components"]["schemas"]["Base64Prediction"]["properties"]["embedding"]
    assert item["contentEncoding"] == "base64"


def test_models_without_tensors_ignore_the_wish_for_base64() -> None:
    model = LinearRegression().fit(FEATURES, TARGETS["Pulse"])
    packed = pack(model, FEATURES)
    body = json.dumps({"instances": [golden.read(packed.directory)[0].instance]})
    event = protocols.event(body, "/predict", accept="application/json;tensors=base64")
    answer = app.create(Settings(model_dir=packed.directory))(event, Context())
    assert answer["headers"]["content-type"] == "application/json"
