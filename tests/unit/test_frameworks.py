"""Models of scikit-learn, packed from the object; parity with the original model's predictions.

The other frameworks are not in the project's environment: tests/frameworks has theirs.
"""

import gzip
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import skl2onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeRegressor

import answerable
from answerable.__main__ import main
from answerable.packing.pack import Packed
from handler.manifest import public_document
from handler.release import golden
from tests.zoo.registry import FILES

ROWS = 200
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pack(model: Any, X: Any, **options: Any) -> Packed:
    facts: dict[str, Any] = {
        "name": "model",
        "version": "1.0.0",
        "owner": "tests",
        "reason": "a test",
    }
    return answerable.pack(model, X, **facts, threads=1, **options)


def refused(model: Any, X: Any, **options: Any) -> str:
    with pytest.raises(answerable.PackError) as caught:
        pack(model, X, **options)
    return str(caught.value)


def customers() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "age (years)": rng.integers(18, 90, ROWS),
            "mean income": rng.lognormal(10, 0.4, ROWS).round(2),
            "plan": rng.choice(["basic", "plus", "pro"], ROWS),
            "vip": rng.random(ROWS) < 0.5,
        }
    )


def pipeline(frame: pd.DataFrame) -> Any:
    columns = ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["mean income", "age (years)"]),
            ("plan", OneHotEncoder(sparse_output=False), ["plan"]),
            ("vip", "passthrough", ["vip"]),
        ]
    )
    labels = np.where(frame["age (years)"] + 20 * frame["vip"] > 60, "stays", "leaves")
    return make_pipeline(columns, LogisticRegression()).fit(frame, labels)


def numbers(columns: int = 3) -> pd.DataFrame:
    values = np.random.default_rng(4).normal(size=(ROWS, columns)).round(3)
    return pd.DataFrame(values, columns=[f"x{i}" for i in range(columns)])


def test_pipeline_of_named_columns_predicts_as_scikit_learn() -> None:
    frame = customers()
    model = pipeline(frame)
    packed = pack(model, frame.assign(target=model.predict(frame)))
    parity = packed.manifest.lineage.parity
    assert parity is not None
    assert parity.source.startswith("scikit-learn ")
    assert (parity.rows, parity.flipped_labels) == (ROWS, 0)
    assert 0 < parity.max_difference < 1e-5
    assert "left out the column target" in packed.facts["note"]
    assert {"scikit-learn", "skl2onnx"} <= packed.manifest.lineage.versions.keys()
    assert public_document(packed.directory)["lineage"]["parity"]["rows"] == ROWS
    types = {feature.name: feature.type for feature in packed.manifest.features}
    assert types == {
        "age (years)": "number", "mean income": "number", "plan": "category", "vip": "boolean",
    }  # fmt: skip
    rows = frame[:5].to_dict("records")
    labels = [prediction["label"] for prediction in answerable.load("model").predict(rows)]
    assert labels == model.predict(frame[:5]).tolist()


@pytest.mark.parametrize("form", ["csv", "csv.gz", "dict", "npz", "array"])
def test_reference_has_any_form_that_people_have(form: str) -> None:
    frame = numbers()
    model = LinearRegression().fit(frame, frame["x0"] - frame["x1"])
    frame.to_csv("data.csv", index=False)
    Path("data.csv.gz").write_bytes(gzip.compress(Path("data.csv").read_bytes()))
    arrays = {name: frame[name].to_numpy() for name in frame}
    np.savez("data.npz", **arrays)
    forms = {"dict": arrays, "array": frame.to_numpy()}
    packed = pack(model, forms.get(form, f"data.{form}"))
    assert packed.manifest.features == pack(model, frame, replace=True).manifest.features


@pytest.mark.slow
@pytest.mark.parametrize("form", ["model.onnx", "model.joblib"])
def test_reference_of_half_a_million_rows_takes_600_mb(form: str) -> None:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(rng.normal(size=(500_000, 8)).round(4)).add_prefix("x")
    frame = frame.assign(
        plan=rng.choice(["basic", "plus"], len(frame)), n=rng.integers(0, 9, len(frame))
    )
    frame.loc[::17, "x0"] = np.nan
    frame.to_csv("data.csv", index=False)
    columns = ColumnTransformer(
        [
            ("plan", OneHotEncoder(sparse_output=False), ["plan"]),
            ("x", SimpleImputer(), ["x0", "x7"]),
        ]
    )
    model = make_pipeline(columns, LinearRegression()).fit(frame[:999], frame["x7"][:999])
    joblib.dump(model, "model.joblib")
    names = [name for name in frame if name != "plan"]
    types: list[Any] = [(name, FloatTensorType([None, 1])) for name in names]
    types.insert(8, ("plan", StringTensorType([None, 1])))
    Path("model.onnx").write_bytes(skl2onnx.to_onnx(model, initial_types=types).SerializeToString())
    script = (
        f"import answerable; answerable.pack({form!r}, 'data.csv', name='model', "
        "version='1.0.0', owner='tests', reason='a test', threads=1, trust=True)\n"
        # not ru_maxrss, which begins with the peak of the process that started this one
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    env = os.environ | {"PYTHONPATH": str(FILES.parents[2])}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert int(done.stdout) < 600_000
    baseline = answerable.load("model").manifest.baseline
    assert baseline is not None
    assert baseline.rows == 500_000


def test_columns_are_put_into_the_model_s_order() -> None:
    frame = numbers()
    model = LinearRegression().fit(frame, frame["x0"] - 2 * frame["x2"])
    packed = pack(model, frame[["x2", "x0", "x1"]])
    assert [feature.name for feature in packed.manifest.features] == ["x0", "x1", "x2"]
    assert "in the model's order" in packed.facts["note"]
    assert "X lacks the columns x2" in refused(model, frame[["x0", "x1"]])
    unnamed = LinearRegression().fit(frame.to_numpy(), frame["x0"])
    assert "takes 3 columns and X has 2 (x0, x1)" in refused(unnamed, frame[["x0", "x1"]])


def test_swapped_columns_of_one_tensor_are_named() -> None:
    frame = numbers()
    model = LinearRegression().fit(frame, frame["x0"] - 2 * frame["x2"])
    graph = skl2onnx.to_onnx(model, initial_types=[("X", FloatTensorType([None, 3]))])
    swapped = frame[["x2", "x1", "x0"]]
    message = refused(graph, swapped, expected={"p": model.predict(frame)})
    assert "with the columns x2 and x0 swapped it does" in message
    assert pack(graph, frame, expected={"p": model.predict(frame)}).manifest.lineage.parity


def test_predictions_of_any_origin_are_compared() -> None:
    frame = numbers()
    labels = np.where(frame["x0"] > 0.3, "yes", "no")
    model = LogisticRegression().fit(frame, labels)
    types = [("X", FloatTensorType([None, 3]))]
    graph = skl2onnx.to_onnx(model, initial_types=types, options={id(model): {"zipmap": False}})
    truth = pd.DataFrame(model.predict_proba(frame), columns=["probabilities_no", "yes"])
    truth = truth.rename(columns={"probabilities_no": "no"}).assign(label=model.predict(frame))
    truth.to_csv("expected.csv", index=False)
    parity = pack(graph, frame, expected="expected.csv").manifest.lineage.parity
    assert parity is not None
    assert (parity.source, parity.flipped_labels) == ("expected.csv", 0)
    assert 0 < parity.max_difference < 1e-5
    truth.loc[7, ["no", "yes"]] = [0.0, 1.0]
    message = refused(graph, frame, expected=truth)
    assert "1 of them differ by more than the tolerance 1e-4" in message
    assert "in row 8" in message
    assert "expected has 3 predictions, and the sample 200 rows" in refused(
        graph, frame, expected=truth[:3]
    )
    assert "outputs: label, probabilities" in refused(
        graph, frame, expected={"z": [1, 2], "y": [1, 2]}
    )
    assert "a prediction is no number" in refused(
        graph, frame, expected=truth.assign(no="many", yes="few")
    )


def test_float32_that_does_not_distinguish_values_is_named() -> None:
    name = "lgbm-timestamps"
    expected = FILES / f"{name}.expected.npz"
    message = refused(FILES / f"{name}.onnx", FILES / f"{name}.csv", expected=expected)
    assert "at most 4.8 and on average 0.35 from lgbm-timestamps.expected.npz" in message
    assert "float32 does not distinguish values of created_at" in message
    assert "in row 375, not " in message
    packed = pack(FILES / f"{name}.onnx", FILES / f"{name}.csv", expected=expected, tolerance=5)
    assert packed.manifest.lineage.parity is not None
    assert packed.manifest.lineage.parity.max_difference == 4.8


def test_double_distinguishes_what_float32_does_not() -> None:
    frame = pd.DataFrame({"seconds": 1_790_000_000.0 + np.arange(ROWS)})
    model = DecisionTreeRegressor().fit(frame - 1_790_000_000, np.arange(ROWS) % 7)
    model = make_pipeline(StandardScaler(), model).fit(frame, np.arange(ROWS) % 7)
    message = refused(model, frame)
    assert "does not distinguish values of seconds" in message
    assert "--double" in message
    packed = pack(model, frame, double=True)
    assert packed.manifest.inputs[0].dtype == "float64"
    assert packed.manifest.lineage.parity is not None
    assert packed.manifest.lineage.parity.max_difference < 1e-6


def test_estimators_that_converters_are_known_to_fail_on() -> None:
    frame = numbers()
    histogram = HistGradientBoostingRegressor(max_iter=5).fit(frame, frame["x0"])
    assert pack(histogram, frame).manifest.lineage.parity
    votes = np.where(frame["x0"] + frame["x1"] > 0, "yes", "no")  # an even number of trees may tie
    forest = RandomForestClassifier(2, max_depth=2, random_state=0).fit(frame, votes)
    assert pack(forest, frame, replace=True).manifest.lineage.parity
    distant = frame + 100
    assert "--double" in refused(KMeans(2, random_state=0).fit(distant), distant)
    assert "skl2onnx cannot convert the model" in refused(Unknown().fit(frame), frame)


class Unknown(LinearRegression):  # type: ignore[misc]
    """An estimator without a converter."""

    def fit(self, X: Any, y: Any = None) -> "Unknown":
        super().fit(X, np.ones(len(X)))
        return self


def test_outputs_of_many_targets_are_flattened() -> None:
    frame = numbers()
    targets = np.stack([frame["x0"] > 0, frame["x1"] > 0.5], axis=1)
    model = MultiOutputClassifier(LogisticRegression()).fit(frame, targets)
    packed = pack(model, frame)
    kinds = {output.name: output.kind for output in packed.manifest.outputs}
    assert kinds["probabilities_0"] == kinds["probabilities_1"] == "probabilities"
    assert "the sequence probabilities is flattened" in packed.facts["note"]
    (prediction,) = answerable.load("model").predict(frame[:1])
    expected = [float(array[0, 1]) for array in model.predict_proba(frame[:1])]
    values = [prediction[f"probabilities_{i}"]["1"] for i in range(2)]
    assert values == pytest.approx(expected, abs=1e-5)


def test_pickle_is_read_only_with_trust() -> None:
    frame = numbers()
    joblib.dump(LinearRegression().fit(frame, frame["x0"]), "model.joblib")
    assert "runs any code in it: pass --trust" in refused("model.joblib", frame)
    assert pack("model.joblib", frame, trust=True).manifest.lineage.parity
    for content in (
        b"no pickle",
        b"hello world\n",
        b"a,b\n1,2\n",
        Path("model.joblib").read_bytes()[:90],
    ):
        Path("damaged.joblib").write_bytes(content)
        message = refused("damaged.joblib", frame, trust=True)
        assert (
            message == "damaged.joblib cannot be read: it is damaged, or no pickle; write it again"
        )
    assert "none.joblib: no such file" in refused("none.joblib", frame)


def test_mlflow_folder_is_read_without_mlflow() -> None:
    frame = numbers()
    model = LinearRegression().fit(frame, frame["x0"])
    Path("run").mkdir()
    joblib.dump(model, "run/model.pkl")
    flavors: dict[str, Any] = {"sklearn": {"pickled_model": "model.pkl"}, "python_function": {}}
    Path("run/MLmodel").write_text(json.dumps({"flavors": flavors}))  # JSON is YAML
    assert "--trust" in refused("run", frame)
    assert pack("run", frame, trust=True).manifest.lineage.parity
    types = [("X", FloatTensorType([None, 3]))]
    content = skl2onnx.to_onnx(model, initial_types=types).SerializeToString()
    Path("run/model.onnx").write_bytes(content)
    Path("run/MLmodel").write_text(json.dumps({"flavors": {"onnx": {"data": "model.onnx"}}}))
    assert pack(Path("run"), frame, replace=True).manifest.lineage.parity is None
    Path("run/MLmodel").write_text(json.dumps({"flavors": {"prophet": {}}}))
    assert "its flavors, prophet, cannot be packed" in refused("run", frame)
    Path("run/MLmodel").write_text("flavors")
    assert "MLmodel cannot be read" in refused("run", frame)


@pytest.mark.skipif(not EXAMPLES.exists(), reason="the examples are deleted, as a project may do")
def test_cancer_example_decides_and_has_outcomes_worth_money() -> None:
    runpy.run_path(str(EXAMPLES / "breast_cancer/train.py"))["main"]("artifacts")
    model = answerable.load("artifacts/breast-cancer")
    manifest = model.manifest
    assert manifest.lineage.parity is not None
    assert manifest.lineage.parity.max_difference < 1e-5
    assert manifest.lineage.metrics["held_out_recall"] > 0.95
    assert manifest.outcome_value is not None
    assert manifest.outcome_value.outcomes["benign"]["malignant"] == -60000
    (line,) = [r for r in golden.read(model.directory) if r.name == "row 1 of the sample"]
    assert line.prediction["probabilities_decision"] == "biopsy"


def test_written_contract_states_nothing_and_can_be_edited() -> None:
    frame = customers()
    model = pipeline(frame)
    joblib.dump(model, "model.joblib")
    frame.to_parquet("data.parquet")
    words = ["pack", "model.joblib", "--trust", "--reference", "data.parquet", "--name", "model"]
    words += ["--version", "1.0.0", "--owner", "tests", "--reason", "a test", "--threads", "1"]
    assert main([*words, "--write-contract", "contract.toml"]) == 0
    inferred = answerable.load("model").manifest
    assert main([*words, "--contract", "contract.toml"]) == 0  # the same content
    assert answerable.load("model").manifest.features == inferred.features
    text = Path("contract.toml").read_text()
    assert '[features."age (years)"]\n# type = "number"' in text
    assert '# categories = ["basic", "plus", "pro"]' in text
    Path("contract.toml").write_text(re.sub(r"# (?=\w+ =|\[)", "", text))
    assert main([*words, "--contract", "contract.toml", "--replace"]) == 0
    edited = answerable.load("model").manifest
    assert edited.outputs[1].decision is not None
    assert edited.features[0].maximum == inferred.features[0].maximum
    assert edited.features[0].fill_value == inferred.features[0].example
    assert edited.alarms.min_daily_impact == 0
    assert main([*words, "--write-contract", "contract.toml"]) == 2  # it exists


@pytest.mark.parametrize("classifier", [LogisticRegression(), LinearSVC()])
def test_vectoriser_of_a_column_of_texts_predicts_as_scikit_learn(classifier: Any) -> None:
    texts = pd.Series(["good and fast", "bad, slow", "great", "a terrible thing"] * 10)
    model = make_pipeline(TfidfVectorizer(), classifier).fit(texts, [1, 0] * 20)
    packed = pack(model, pd.DataFrame({"review": texts}))
    parity = packed.manifest.lineage.parity
    assert parity is not None
    assert parity.rows == len(texts)
    name = packed.manifest.outputs[1].name
    assert name == ("scores" if isinstance(classifier, LinearSVC) else "probabilities")


def test_model_that_cannot_predict_the_reference_is_refused() -> None:
    texts = pd.Series(["good and fast", "bad, slow", "great", "a terrible thing"] * 10)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [1, 0] * 20)
    frame = pd.DataFrame({"review": texts.where(texts.index != 3)})
    assert "the model cannot predict the reference: " in refused(model, frame)


def test_what_is_no_model_is_refused() -> None:
    frame = numbers()
    assert "a dict cannot be packed" in refused({}, frame)
    assert "is not installed: pip install 'answerable[boosters]'" in refused(_touch("m.cbm"), frame)
    assert "is not installed: pip install 'mlflow'" in refused("models:/churn@champion", frame)
    model = LinearRegression().fit(frame, frame["x0"])
    assert "give one" in refused(model, None)
    assert "no column nope" in refused(model, frame, ignore=["nope"])


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["x0", ""], "column 2 has no name"),
        (["x0", " \u00a0"], "column 2 has no name"),
        (["x0", "b\nc"], "the name of column 2 has a line break"),
        (["x0", "b\r"], "the name of column 2 has a line break"),
        (["x0", "x0 "], "two columns of one name"),
    ],
)
def test_column_name_that_cannot_be_sent_is_refused(names: list[str], problem: str) -> None:
    matrix = numbers().iloc[:, :2].to_numpy()
    model = LinearRegression().fit(matrix, matrix[:, 0])
    frame = pd.DataFrame(matrix, columns=names)
    frame.to_parquet("data.parquet")
    for data in (frame, dict(frame), "data.parquet"):
        assert problem in refused(model, data)


def _touch(name: str) -> str:
    Path(name).write_bytes(b"content")
    return name


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html>", "a web page or XML"),
        (b'{"detail":"not found"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x08\x09", "an ONNX model"),
        (b"\x80\x05", "a pickle"),
        (b"PK\x03\x04", "a zip archive"),
    ],
)
@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("model.onnx", "an ONNX model"),
        ("model.pt", "an ONNX model"),
        ("model.joblib", "a pickle"),
        ("model.pkl", "a pickle"),
        ("model.skops", "a skops file"),
        ("model.json", "an XGBoost model"),
        ("model.txt", "a LightGBM model"),
        ("model.cbm", "a CatBoost model"),
        ("data.npz", "an .npz of arrays"),
    ],
)
def test_file_of_another_format_is_named(
    file: str, expected: str, content: bytes, name: str
) -> None:
    Path(file).write_bytes(content)
    model, data = (LinearRegression(), file) if file == "data.npz" else (file, numbers())
    message = refused(model, data, trust=True)
    is_own = name == expected or (file, name) in (
        ("model.skops", "a zip archive"), ("data.npz", "a zip archive"), ("model.json", "JSON")
    )  # fmt: skip
    assert is_own or (message.startswith(f"{file} is ") and name in message)
    assert is_own or f", not {expected}: " in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "model",
    [
        LinearRegression(),
        LogisticRegression(),
        make_pipeline(StandardScaler(), LogisticRegression()),
        GridSearchCV(LinearRegression(), {"fit_intercept": [True]}),
    ],
)
def test_model_that_is_not_fitted_is_called_so(model: Any) -> None:
    for data in (numbers(), numbers().to_numpy()):
        assert refused(model, data) == "the model is not fitted: call its fit() first"
