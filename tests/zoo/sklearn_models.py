"""Models of scikit-learn, converted by skl2onnx when they are asked for. All are seeded."""

import warnings
from typing import Any

import numpy as np
import skl2onnx
from numpy.typing import NDArray
from skl2onnx.common.data_types import (
    DoubleTensorType,
    FloatTensorType,
    Int64TensorType,
    StringTensorType,
)
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from tests.zoo.registry import Built, Table, accepted, refused, zoo

OPSETS = {"": 18, "ai.onnx.ml": 3}
ROWS = 300

Matrix = NDArray[Any]


def convert(model: Any, types: list[tuple[str, Any]], **options: Any) -> bytes:
    """Return the ONNX bytes of a fitted model; equal for equal models."""
    with warnings.catch_warnings():
        # skl2onnx reads an attribute of SVC that scikit-learn 1.9 deprecates
        warnings.filterwarnings("ignore", "Attribute `prob[AB]_`", FutureWarning)
        graph = skl2onnx.to_onnx(
            model,
            initial_types=types,
            target_opset=OPSETS,
            options={id(model): options} if options else None,
        )
    graph.graph.name = "zoo"  # skl2onnx draws a random one
    opsets = sorted(graph.opset_import, key=lambda opset: str(opset.domain))
    del graph.opset_import[:]  # their order is random, too
    graph.opset_import.extend(opsets)
    return bytes(graph.SerializeToString(deterministic=True))


def numbers(width: int, rows: int = ROWS, seed: int = 0) -> Matrix:
    """Return seeded normal numbers with three decimals, [rows, width]."""
    return np.random.default_rng(seed).normal(size=(rows, width)).round(3)


def table_of(matrix: Matrix, prefix: str = "x") -> Table:
    """Return a matrix as a table of the columns x0, x1, …"""
    return {f"{prefix}{i}": column for i, column in enumerate(matrix.T.tolist())}


def floats(width: int) -> list[tuple[str, Any]]:
    """Return one float input [N, width]."""
    return [("X", FloatTensorType([None, width]))]


def shop() -> Table:
    """Return a table of age (with gaps), income, visits and city."""
    rng = np.random.default_rng(1)
    ages = rng.integers(18, 90, ROWS).tolist()
    return {
        "age": [None if i % 9 == 4 else float(age) for i, age in enumerate(ages)],
        "income": rng.lognormal(10.5, 0.4, ROWS).round(2).tolist(),
        "visits": rng.integers(1, 6, ROWS).tolist(),
        "city": rng.choice(["Bern", "Lyon", "Oslo", "Zürich"], ROWS).tolist(),
    }


def rows_of(table: Table) -> Matrix:
    """Return a table as an array of objects [rows, columns]; gaps are NaN."""
    columns = [[np.nan if cell is None else cell for cell in column] for column in table.values()]
    return np.array(columns, object).T


SHOP_TYPES = [
    ("age", FloatTensorType([None, 1])),
    ("income", FloatTensorType([None, 1])),
    ("visits", Int64TensorType([None, 1])),
    ("city", StringTensorType([None, 1])),
]


# --- pipelines of a table ---------------------------------------------------------------------


@zoo(
    "table",
    requests=(
        accepted("inside the sample", age=40, income=36000.5, visits=3, city="Bern"),
        accepted(
            "a missing value, as in the sample", age=None, income=36000.5, visits=3, city="Bern"
        ),
        accepted("a city that the encoder ignores", age=40, income=36000.5, visits=3, city="Quito"),
    ),
)
def sk_columns_classifier() -> Built:
    """One input per column: imputer, scaler, OneHotEncoder that ignores, named classes, ZipMap."""
    table = shop()
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), [0, 1]),
            ("visits", StandardScaler(), [2]),
            ("city", OneHotEncoder(handle_unknown="ignore"), [3]),
        ]
    )
    model = make_pipeline(columns, LogisticRegression())
    labels = np.where(np.arange(ROWS) % 3 + np.array(table["visits"]) > 3, "returns", "leaves")
    model.fit(rows_of(table), labels)
    return Built(convert(model, SHOP_TYPES), table)


@zoo("table")
def sk_tensor_regressor() -> Built:
    """One input [N, 8]: scaler and gradient boosting."""
    x = numbers(8)
    model = make_pipeline(
        StandardScaler(), GradientBoostingRegressor(n_estimators=20, max_depth=2, random_state=0)
    )
    model.fit(x, x[:, 0] * 2 - np.abs(x[:, 1]) + 1)
    return Built(convert(model, floats(8)), table_of(x))


@zoo(
    "table",
    requests=(
        accepted("a known city", city="Oslo", visits=2),
        refused("an unknown city: the encoder fails", city="Quito", visits=2),
        refused("an empty text is an unknown city", city="", visits=2),
    ),
)
def sk_onehot_strict() -> Built:
    """OneHotEncoder with handle_unknown="error" on a text: the graph fails for unknown ones."""
    table = {name: shop()[name] for name in ("city", "visits")}
    columns = ColumnTransformer(
        [("city", OneHotEncoder(), [0]), ("visits", StandardScaler(), [1])], sparse_threshold=0
    )
    model = make_pipeline(columns, Ridge())
    model.fit(rows_of(table), np.array(table["visits"]) * 1.5)
    types = [SHOP_TYPES[3], SHOP_TYPES[2]]
    return Built(convert(model, types), table)


@zoo(
    "table",
    fast=False,
    requests=(
        accepted("a known code", grade=5),
        refused("code 6, where the model knows 1 to 5", grade=6),
        refused("code 0", grade=0),
        refused("code -1", grade=-1),
    ),
)
def sk_onehot_codes() -> Built:
    """OneHotEncoder with handle_unknown="error" on an int64 code from 1 to 5."""
    codes = np.array(shop()["visits"], np.int64).reshape(-1, 1)
    model = make_pipeline(OneHotEncoder(sparse_output=False), LinearRegression())
    model.fit(codes, codes.ravel() ** 2)
    types = [("grade", Int64TensorType([None, 1]))]
    return Built(convert(model, types), {"grade": codes.ravel().tolist()})


@zoo("table", fast=False, ignore=("target", "row"))
def sk_target_in_sample() -> Built:
    """The sample has two columns that are no features: the target and a row number."""
    x = numbers(3)
    target = (x @ [2.0, -1.0, 0.5]).round(3)
    model = LinearRegression().fit(x, target)
    table = {"row": list(range(ROWS)), **table_of(x), "target": target.tolist()}
    return Built(convert(model, floats(3)), table)


# --- texts ------------------------------------------------------------------------------------


def reviews() -> tuple[list[str], list[int]]:
    """Return texts, nearly all different, and whether each is a good one."""
    rng = np.random.default_rng(2)
    liked = rng.integers(0, 2, ROWS)
    words = [["poor", "awful", "broken"], ["lovely", "great", "fine"]]
    texts = [f"a {rng.choice(words[like])} thing, no. {i}" for i, like in enumerate(liked)]
    return texts, liked.tolist()


TEXTS = (
    accepted("words of the sample", review="a lovely thing"),
    accepted("unknown words only", review="quiet umbrella"),
    accepted("other scripts", review="очень хорошо 很好 👍"),
)


@zoo("text", ignore=("liked",), requests=TEXTS)
def sk_text_tfidf() -> Built:
    """TF-IDF of one string column and a logistic regression."""
    texts, liked = reviews()
    model = make_pipeline(TfidfVectorizer(token_pattern="[a-z]+"), LogisticRegression())
    model.fit(texts, liked)
    types = [("review", StringTensorType([None, 1]))]
    table: Table = {"review": texts, "liked": liked}
    return Built(convert(model, types), table)


@zoo("text", fast=False)
def sk_text_and_numbers() -> Built:
    """Word counts of a string column beside an imputed number with gaps."""
    texts, liked = reviews()
    stars = [float(3 + 2 * like) if i % 10 else None for i, like in enumerate(liked)]
    table: Table = {"review": texts, "stars": stars}
    columns = ColumnTransformer(
        [
            ("words", CountVectorizer(token_pattern="[a-z]+", max_features=20), 0),
            ("stars", SimpleImputer(), [1]),
        ]
    )
    model = make_pipeline(columns, LogisticRegression())
    model.fit(rows_of(table), liked)
    types = [("review", StringTensorType([None, 1])), ("stars", FloatTensorType([None, 1]))]
    return Built(convert(model, types), table)


# --- kinds of outputs -------------------------------------------------------------------------


@zoo("table", fast=False)
def sk_svc_scores() -> Built:
    """SVC without probabilities, three classes: three scores of any sign."""
    x = numbers(3)
    model = SVC(random_state=0).fit(x, np.digitize(x[:, 0], [-0.5, 0.5]))
    return Built(convert(model, floats(3), zipmap=False), table_of(x))


@zoo("table")
def sk_isolation_forest() -> Built:
    """IsolationForest: the labels -1 and 1, and a score."""
    x = numbers(4)
    model = IsolationForest(n_estimators=8, max_samples=64, random_state=0).fit(x)
    return Built(convert(model, floats(4)), table_of(x))


@zoo("table", fast=False)
def sk_kmeans() -> Built:
    """KMeans: the number of a cluster and the distances to all four."""
    x = numbers(3)
    model = KMeans(4, n_init=1, random_state=0).fit(x)
    return Built(convert(model, floats(3)), table_of(x))


@zoo("table")
def sk_multi_target() -> Built:
    """A forest that predicts three numbers."""
    x = numbers(5)
    targets = np.stack([x[:, 0], x[:, 1] * x[:, 2], np.abs(x[:, 3])], axis=1)
    model = RandomForestRegressor(5, max_depth=4, random_state=0).fit(x, targets)
    return Built(convert(model, floats(5)), table_of(x))


@zoo("table", fast=False)
def sk_multi_label() -> Built:
    """A small network with three labels that do not exclude each other."""
    x = numbers(4)
    labels = (x[:, :3] + x[:, 1:] > 0).astype(int)
    model = MLPClassifier((6,), solver="lbfgs", max_iter=2000, random_state=0).fit(x, labels)
    return Built(convert(model, floats(4), zipmap=False), table_of(x))


@zoo("table", fast=False)
def sk_calibrated() -> Built:
    """A calibrated classifier with two classes."""
    x = numbers(4)
    model = CalibratedClassifierCV(GaussianNB(), cv=3).fit(x, (x[:, 0] + x[:, 1] > 0).astype(int))
    return Built(convert(model, floats(4)), table_of(x))


@zoo("table")
def sk_float64() -> Built:
    """A linear model in float64: [N, 4] doubles to doubles."""
    x = numbers(4)
    model = LinearRegression().fit(x, x @ [1.0, -2.0, 0.25, 1e-9])
    return Built(convert(model, [("X", DoubleTensorType([None, 4]))]), table_of(x))


@zoo("table", fast=False)
def sk_neighbours() -> Built:
    """The mean of the five nearest neighbours, by onnxruntime's own operator CDist."""
    x = numbers(2)
    model = KNeighborsRegressor(5).fit(x, x[:, 0] ** 2)
    # without `optim` skl2onnx writes a Scan, with a count of all its conversions in the names
    return Built(convert(model, floats(2), optim="cdist"), table_of(x))


@zoo("table", fast=False)
def sk_pca() -> Built:
    """Three principal components of eight columns: one output [N, 3]."""
    x = numbers(8) * np.arange(1, 9)
    return Built(convert(PCA(3, random_state=0).fit(x), floats(8)), table_of(x.round(3)))


@zoo("table")
def sk_forest_labels() -> Built:
    """A forest with the integer classes 10, 20 and 30, without ZipMap."""
    x = numbers(4)
    labels = np.array([10, 20, 30])[np.digitize(x[:, 0], [-0.5, 0.5])]
    model = RandomForestClassifier(5, max_depth=3, random_state=0).fit(x, labels)
    return Built(convert(model, floats(4), zipmap=False), table_of(x))


DECISION = """
[outputs.probabilities.decision]
class_label = "churns"
threshold = 0.3
above = "call"
below = "wait"
review = [0.25, 0.35]
"""


@zoo("table", contract=DECISION)
def sk_decision() -> Built:
    """Probabilities of named classes, and a stated decision on one of them with a band."""
    x = numbers(3)
    labels = np.where(x[:, 0] + x[:, 1] / 2 > 0.4, "churns", "stays")
    model = LogisticRegression().fit(x, labels)
    return Built(convert(model, floats(3), zipmap=False), table_of(x))
