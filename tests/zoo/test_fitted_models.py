"""Fitted models of scikit-learn through every step of the zoo. tests/frameworks has the others."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris, load_linnerud
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from tests.zoo import fitted_models, steps
from tests.zoo.fitted_models import Fitted

X, y = load_iris(return_X_y=True, as_frame=True)
X.columns = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
BODIES, TARGETS = load_linnerud(return_X_y=True, as_frame=True)
SPECIES = np.array(["setosa", "versicolor", "virginica"])


def pipeline() -> Fitted:
    frame = X.assign(garden=np.where(X["sepal_length"] > 5.5, "north", "south"))
    encoder = OneHotEncoder(sparse_output=False)
    columns = ColumnTransformer(
        [("garden", encoder, ["garden"]), ("numbers", StandardScaler(), [*X.columns])]
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=500)).fit(frame, SPECIES[y])
    predictions = {"label": model.predict(frame), "probabilities": model.predict_proba(frame)}
    return Fitted(model, frame, predictions)


def targets() -> Fitted:
    model = LinearRegression().fit(BODIES, TARGETS)
    predictions = dict(zip(TARGETS, model.predict(BODIES).T, strict=True))
    return Fitted(model, BODIES, predictions, {"targets": [*TARGETS]})


def labels() -> Fitted:
    truth = np.stack([TARGETS["Weight"] > 180, TARGETS["Pulse"] > 56], axis=1).astype(int)
    model = MultiOutputClassifier(LogisticRegression()).fit(BODIES, truth)
    names = ["heavy", "fast"]
    predictions = dict(zip(names, model.predict(BODIES).T, strict=True))
    for name, numbers in zip(names, model.predict_proba(BODIES), strict=True):
        predictions[f"{name}_probabilities"] = numbers
    return Fitted(model, BODIES, predictions, {"targets": names})


def best() -> Fitted:
    model = LogisticRegression(max_iter=500).fit(X, SPECIES[y])
    numbers = model.predict_proba(X)
    order = np.argsort(-numbers, axis=1)[:, :2]
    predictions = {
        "label": model.predict(X),
        "probabilities_classes": SPECIES[order],
        "probabilities": np.take_along_axis(numbers, order, axis=1),
    }
    return Fitted(model, X, predictions, {"contract": {"outputs": {"probabilities": {"top_k": 2}}}})


def margins() -> Fitted:
    model = LinearSVC().fit(X, y)
    numbers = model.decision_function(X)
    return Fitted(model, X, {"label": model.predict(X), "scores": numbers})


MODELS: dict[str, Callable[[], Fitted]] = {
    f.__name__: f for f in (pipeline, targets, labels, best, margins)
}


def cases() -> list[Any]:
    slow = pytest.mark.slow
    return [
        pytest.param(
            name, step, marks=[pytest.mark.xdist_group(name), *[slow] * (step in steps.SLOW)]
        )
        for name in MODELS
        for step in steps.STEPS
    ]


@pytest.mark.parametrize(("name", "step"), cases())
def test_fitted_model_passes_the_step(name: str, step: str) -> None:
    fitted_models.run(name, MODELS[name], step)
