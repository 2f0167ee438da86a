"""Models of the frameworks that the project's environment does not have: `make frameworks`."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

xgboost: Any = pytest.importorskip("xgboost", reason="make frameworks")
import catboost  # noqa: E402
import lightgbm  # noqa: E402
import pandas as pd  # noqa: E402
import skops.io  # noqa: E402
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.datasets import load_breast_cancer, load_wine  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler  # noqa: E402

import answerable  # noqa: E402
from handler.manifest import Parity  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own
ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples/notebook/frameworks.ipynb"

X, y = load_wine(return_X_y=True, as_frame=True)
TUMOURS, MALIGNANT = load_breast_cancer(return_X_y=True, as_frame=True)
BINARY = (y == 1).astype(int)
QUIET = {"verbose": 0, "allow_writing_files": False}


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pack(model: Any, sample: Any, **options: Any) -> Parity:
    facts: dict[str, Any] = {"name": "model", "version": "1.0.0", "owner": "t", "reason": "t"}
    packed = answerable.pack(model, sample, **facts, threads=1, **options)
    assert packed.manifest.lineage.parity is not None
    return packed.manifest.lineage.parity


def refused(model: Any, sample: Any, **options: Any) -> str:
    with pytest.raises(answerable.PackError) as caught:
        pack(model, sample, **options)
    return str(caught.value)


MODELS: dict[str, Callable[[], Any]] = {
    "xgboost-multiclass": lambda: xgboost.XGBClassifier(n_estimators=10).fit(X, y),
    "xgboost-binary": lambda: xgboost.XGBClassifier(n_estimators=10).fit(X, BINARY),
    "xgboost-regressor": lambda: xgboost.XGBRegressor(n_estimators=10).fit(X.to_numpy(), y),
    "xgboost-booster": lambda: xgboost.XGBClassifier(n_estimators=5).fit(X, y).get_booster(),
    "lightgbm-multiclass": lambda: lightgbm.LGBMClassifier(n_estimators=10).fit(X, y),
    "lightgbm-binary": lambda: lightgbm.LGBMClassifier(n_estimators=10).fit(X, BINARY),
    "lightgbm-regressor": lambda: lightgbm.LGBMRegressor(n_estimators=10).fit(X.to_numpy(), y),
    "lightgbm-booster": lambda: lightgbm.LGBMClassifier(n_estimators=5).fit(X, y).booster_,
    "lightgbm-booster-binary": lambda: lightgbm.LGBMClassifier().fit(X, BINARY).booster_,
    "catboost-multiclass": lambda: catboost.CatBoostClassifier(10, **QUIET).fit(X, y),
    "catboost-names": lambda: catboost.CatBoostClassifier(10, **QUIET).fit(X, y.map(str)),
    "catboost-regressor": lambda: catboost.CatBoostRegressor(10, **QUIET).fit(X.to_numpy(), y),
}


@pytest.mark.parametrize("name", MODELS)
def test_packed_model_predicts_as_its_framework(name: str) -> None:
    parity = pack(MODELS[name](), X.assign(target=y))
    assert parity.source.startswith(name.partition("-")[0])
    assert (parity.rows, parity.flipped_labels) == (len(X), 0)
    assert parity.max_difference <= 1e-6 < parity.tolerance


def test_frameworks_own_files_are_read() -> None:
    xgboost.XGBClassifier(n_estimators=5).fit(X, y).save_model("model.json")
    xgboost.XGBRegressor(n_estimators=5).fit(X, y).save_model("model.ubj")
    lightgbm.LGBMClassifier(n_estimators=5).fit(X, y).booster_.save_model("model.txt")
    catboost.CatBoostClassifier(5, **QUIET).fit(X, y).save_model("model.cbm")
    catboost.CatBoostRegressor(5, **QUIET).fit(X, y).save_model("regressor.cbm")
    skops.io.dump(LogisticRegression().fit(X, y), "model.skops")
    X.to_parquet("data.parquet")
    X.to_csv("data.csv", index=False)
    for file in (
        "model.json",
        "model.ubj",
        "model.txt",
        "model.cbm",
        "regressor.cbm",
        "model.skops",
    ):
        for data in ("data.parquet", "data.csv"):
            assert pack(file, data, replace=True).rows == len(X)
    for file in ("model.json", "model.txt", "model.cbm"):
        Path(file).write_text("[]")
        assert f"{file} cannot be read" in refused(file, X)


def test_rankers_are_packed() -> None:
    rows = len(X) // 2 * 2
    data, relevance = X[:rows], y[:rows]
    groups, sizes = np.repeat(range(rows // 2), 2), [2] * (rows // 2)
    for model in (
        xgboost.XGBRanker(n_estimators=5).fit(data, relevance, qid=groups),
        lightgbm.LGBMRanker(n_estimators=5, verbose=-1).fit(data, relevance, group=sizes),
        catboost.CatBoostRanker(iterations=5, **QUIET).fit(data, relevance, group_id=groups),
    ):
        assert pack(model, data, replace=True).rows == rows


@pytest.mark.parametrize(
    "model",
    [
        xgboost.XGBRegressor(),
        xgboost.XGBRanker(),
        xgboost.XGBClassifier(),
        lightgbm.LGBMRegressor(),
        make_pipeline(StandardScaler(), xgboost.XGBRegressor()),
    ],
)
def test_model_that_is_not_fitted_is_called_so(model: Any) -> None:
    assert refused(model, X) == "the model is not fitted: call its fit() first"
    catboost_model = catboost.CatBoostRegressor()
    assert "Use fit() to train model" in refused(catboost_model, X)


def test_skops_with_unknown_types_needs_trust() -> None:
    model = make_pipeline(FunctionTransformer(no_change), LogisticRegression()).fit(X, y)
    skops.io.dump(model, "model.skops")
    assert "no_change, which skops does not know: pass --trust" in refused("model.skops", X)
    assert "skl2onnx cannot convert" in refused("model.skops", X, trust=True)


def no_change(matrix: Any) -> Any:
    return matrix


@pytest.mark.parametrize("framework", ["xgboost", "lightgbm"])
def test_boosters_are_steps_of_a_pipeline(framework: str) -> None:
    frame = TUMOURS.iloc[:, :4].assign(
        clinic=np.where(TUMOURS["mean area"] % 3 > 1, "east", "west")
    )
    encoder = OneHotEncoder(sparse_output=False, handle_unknown="ignore")
    columns = ColumnTransformer([("clinic", encoder, ["clinic"])], remainder="passthrough")
    kind = {"xgboost": xgboost.XGBClassifier, "lightgbm": lightgbm.LGBMClassifier}[framework]
    model = make_pipeline(columns, kind(n_estimators=10)).fit(frame, MALIGNANT)
    assert pack(model, frame).flipped_labels == 0


def test_parquet_has_typed_columns() -> None:
    frame = pd.DataFrame(
        {
            "amount": pd.array([1.5, None] * 20, "Float64"),
            "count": pd.array([1, None, 3, 4] * 10, "Int64"),
            "code": ["1", "2"] * 20,
        }
    )
    columns = ColumnTransformer(
        [("code", OneHotEncoder(sparse_output=False), ["code"])], remainder="passthrough"
    )
    target = np.arange(40) % 7
    model = make_pipeline(columns, lightgbm.LGBMRegressor(n_estimators=5, min_child_samples=2))
    model.fit(frame.astype({"amount": float, "count": float}), target)
    frame.to_parquet("data.parquet")
    pack(model, "data.parquet")
    features = {f.name: f for f in answerable.load("model").manifest.features}
    assert (features["code"].type, features["code"].categories) == ("category", ("1", "2"))
    assert features["amount"].nullable
    assert features["count"].nullable


def test_what_boosters_exports_do_not_take_is_said() -> None:
    model = MODELS["xgboost-regressor"]()
    assert "take no float64" in refused(model, X, double=True)
    assert "column alcohol is text" in refused(model, X.assign(alcohol="strong"))
    frame = pd.DataFrame({"plan": ["a", "b", "c", "d"] * 10, "n": range(40)})
    boolean = lightgbm.LGBMClassifier(n_estimators=5).fit(X, BINARY == 1)
    assert "its classes are booleans: train it on 0 and 1" in refused(boolean, X)
    encoded = catboost.CatBoostRegressor(5, cat_features=["plan"], **QUIET).fit(frame, frame["n"])
    assert "column plan is text" in refused(encoded, frame)


def test_notebook_runs_and_is_committed_without_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of `python -m answerable serve`
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    namespace: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for cell in code:
            exec(compile("".join(cell["source"]), cell["id"], "exec"), namespace)
    for framework in ("sklearn", "xgboost", "lightgbm", "catboost"):
        assert printed.getvalue().count(f"wine-{framework}") >= 4
    assert "violations: []" in printed.getvalue()
