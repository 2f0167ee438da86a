"""Models of XGBoost, LightGBM and CatBoost through the steps of the zoo: `make frameworks`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

xgboost: Any = pytest.importorskip("xgboost", reason="make frameworks")
import catboost  # noqa: E402
import lightgbm  # noqa: E402
from sklearn.datasets import load_breast_cancer, load_linnerud, load_wine  # noqa: E402
from sklearn.impute import SimpleImputer  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402

import answerable  # noqa: E402
from tests.zoo import fitted_models, steps  # noqa: E402
from tests.zoo.fitted_models import Fitted  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own
X, y = load_wine(return_X_y=True, as_frame=True)
X = X.rename(columns=lambda name: name.replace("/", "_"))
TUMOURS, MALIGNANT = load_breast_cancer(return_X_y=True, as_frame=True)
TUMOURS = TUMOURS.iloc[:, :6].rename(columns=lambda name: name.replace(" ", "_"))
BODIES, TARGETS = load_linnerud(return_X_y=True, as_frame=True)
QUIET = {"verbose": 0, "allow_writing_files": False}


def classifier(model: Any, features: Any = X, truth: Any = y) -> Fitted:
    model.fit(features, truth)
    labels, numbers = np.ravel(model.predict(features)), model.predict_proba(features)
    return Fitted(model, features, {"label": labels, "probabilities": numbers})


def regressor(model: Any, name: str = "value") -> Fitted:
    model.fit(X, y)
    return Fitted(model, X, {name: model.predict(X)})


MODELS: dict[str, Callable[[], Fitted]] = {
    "xgboost": lambda: classifier(xgboost.XGBClassifier(n_estimators=10)),
    "xgboost-binary": lambda: classifier(xgboost.XGBClassifier(n_estimators=9), TUMOURS, MALIGNANT),
    "xgboost-regressor": lambda: regressor(xgboost.XGBRegressor(n_estimators=10)),
    "xgboost-pipeline": lambda: classifier(
        make_pipeline(SimpleImputer(), xgboost.XGBClassifier(n_estimators=5))
    ),
    "lightgbm": lambda: classifier(lightgbm.LGBMClassifier(n_estimators=10, verbose=-1)),
    "lightgbm-regressor": lambda: regressor(lightgbm.LGBMRegressor(n_estimators=10, verbose=-1)),
    "catboost": lambda: classifier(catboost.CatBoostClassifier(10, **QUIET)),
    "catboost-regressor": lambda: regressor(catboost.CatBoostRegressor(10, **QUIET), "predictions"),
}


@pytest.mark.parametrize("name", MODELS)
def test_fitted_model_passes_the_steps(name: str) -> None:
    for step in steps.STEPS:
        if (
            step != "stack"
        ):  # needs the CDK; tests/zoo synthesises the stack of scikit-learn's models
            fitted_models.run(name, MODELS[name], step)


def test_file_of_catboost_passes_the_steps(tmp_path: Path) -> None:
    fitted = classifier(catboost.CatBoostClassifier(10, **QUIET))
    fitted.model.save_model(str(tmp_path / "model.cbm"))
    packed = fitted_models.PackedFitted("file", fitted._replace(model=tmp_path / "model.cbm"))
    for step in ("predict", "v2", "jobs", "explain", "report"):
        steps.STEPS[step](packed)


def test_several_targets_that_onnxmltools_converts_wrongly_are_refused() -> None:
    model = xgboost.XGBRegressor(n_estimators=5).fit(BODIES, TARGETS)
    with pytest.raises(answerable.PackError, match="does not predict what the original does"):
        fitted_models.PackedFitted("targets", Fitted(model, BODIES, {}))
