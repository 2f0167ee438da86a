"""Builders of the small models that the tests (and the benchmark) pack: each returns ONNX bytes.

Everything is seeded: the same call gives the same bytes.
"""

import functools
from typing import Any

import numpy as np
import skl2onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Table = dict[str, list[Any]]
OPSET = 18


def csv(table: Table) -> str:
    """A table of columns as CSV text; None becomes an empty cell."""
    lines = [",".join(table)]
    for row in zip(*table.values(), strict=True):
        lines.append(",".join("" if cell is None else f'"{cell}"' for cell in row))
    return "\n".join(lines) + "\n"


def _bytes(model: ModelProto) -> bytes:
    model.graph.name = "test"  # skl2onnx draws a random one
    return bytes(model.SerializeToString(deterministic=True))


def graph(
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    weights: dict[str, np.ndarray] | None = None,
    **imports: int,
) -> bytes:
    """An ONNX model from its parts; `imports` are further operator sets, as domain=version."""
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    opsets = [helper.make_opsetid("", OPSET)]
    opsets += [helper.make_opsetid(domain, version) for domain, version in imports.items()]
    body = helper.make_graph(nodes, "test", inputs, outputs, tensors)
    return bytes(
        helper.make_model(
            body, opset_imports=opsets, ir_version=9, producer_name="tests"
        ).SerializeToString(deterministic=True)
    )


def tensor(name: str, shape: list[Any], dtype: int = TensorProto.FLOAT) -> Any:
    """A graph input or output; strings and None in `shape` are free axes."""
    return helper.make_tensor_value_info(name, dtype, shape)


@functools.cache
def wine_classifier(zipmap: bool = True) -> bytes:
    """Three classes of wine from one [N, 13] tensor; skl2onnx's ZipMap on the probabilities."""
    wine = load_wine()
    names = np.array(["barolo", "grignolino", "barbera"])
    model = make_pipeline(StandardScaler(), LogisticRegression(random_state=0))
    model.fit(wine.data, names[wine.target])
    options = {id(model): {"zipmap": zipmap}}
    return _bytes(
        skl2onnx.to_onnx(
            model,
            initial_types=[("X", FloatTensorType([None, 13]))],
            options=options,
            target_opset=OPSET,
        )
    )


@functools.cache
def forest_classifier() -> bytes:
    """The wine data as integer classes, from a forest, without ZipMap."""
    wine = load_wine()
    model = RandomForestClassifier(5, max_depth=3, random_state=0).fit(wine.data, wine.target)
    return _bytes(
        skl2onnx.to_onnx(
            model,
            initial_types=[("X", FloatTensorType([None, 13]))],
            options={id(model): {"zipmap": False}},
            target_opset=OPSET,
        )
    )


def wine_table() -> Table:
    """The 178 wines, 13 columns, in the order of the [N, 13] tensor."""
    wine = load_wine()
    return dict(zip(wine.feature_names, wine.data.T.tolist(), strict=True))


@functools.cache
def regressor() -> bytes:
    """A linear model of one [N, 3] tensor: y = 2a - b + 0.5c + 1."""
    rows = np.random.default_rng(0).normal(size=(50, 3))
    model = LinearRegression().fit(rows, rows @ [2.0, -1.0, 0.5] + 1)
    return _bytes(
        skl2onnx.to_onnx(
            model, initial_types=[("X", FloatTensorType([None, 3]))], target_opset=OPSET
        )
    )


def regressor_table(rows: int = 60) -> Table:
    """Three columns for `regressor`: a continuous, b from few values, c whole numbers."""
    rng = np.random.default_rng(1)
    return {
        "a": rng.normal(size=rows).round(4).tolist(),
        "b": rng.choice([0.5, 1.5, 2.5], rows).tolist(),
        "c": rng.integers(0, 100, rows).tolist(),
    }


def reviews_table(rows: int = 60) -> Table:
    """Texts (nearly all different), a category, a number that may be missing, and the target."""
    rng = np.random.default_rng(2)
    good, bad = ["lovely", "great", "fine"], ["poor", "awful", "broken"]
    liked = rng.integers(0, 2, rows)
    return {
        "review": [
            f"a {rng.choice(good if like else bad)} thing, number {i}"
            for i, like in enumerate(liked)
        ],
        "stars": [float(3 + 2 * like) if i % 10 else None for i, like in enumerate(liked)],
        "liked": liked.tolist(),
    }


@functools.cache
def text_classifier() -> bytes:
    """Tf-idf of a string [N, 1] and an imputed number [N, 1] -> liked or not (0, 1), ZipMap."""
    table = reviews_table()
    stars = [np.nan if value is None else value for value in table["stars"]]
    rows = np.array([table["review"], stars], object).T
    columns = ColumnTransformer(
        [
            ("words", TfidfVectorizer(token_pattern="[a-z]+"), 0),
            ("stars", SimpleImputer(), [1]),
        ]
    )
    model = make_pipeline(columns, LogisticRegression(random_state=0))
    model.fit(rows, table["liked"])
    return _bytes(
        skl2onnx.to_onnx(
            model,
            initial_types=[
                ("review", StringTensorType([None, 1])),
                ("stars", FloatTensorType([None, 1])),
            ],
            target_opset=OPSET,
        )
    )


def mixed() -> bytes:
    """One [N, 1] input of each kind: float, int64, bool, string -> one float.

    price + 10 x count + 100 x flag + 1000 x (kind == "b").
    """
    to_float = functools.partial(helper.make_node, "Cast", to=TensorProto.FLOAT)
    return graph(
        [
            to_float(["count"], ["count_f"]),
            to_float(["flag"], ["flag_f"]),
            helper.make_node(
                "LabelEncoder",
                ["kind"],
                ["kind_f"],
                domain="ai.onnx.ml",
                keys_strings=["b"],
                values_floats=[1.0],
                default_float=0.0,
            ),
            helper.make_node("Concat", ["price", "count_f", "flag_f", "kind_f"], ["all"], axis=1),
            helper.make_node("MatMul", ["all", "W"], ["cost"]),
        ],
        [
            tensor("price", ["N", 1]),
            tensor("count", ["N", 1], TensorProto.INT64),
            tensor("flag", ["N", 1], TensorProto.BOOL),
            tensor("kind", ["N", 1], TensorProto.STRING),
        ],
        [tensor("cost", ["N", 1])],
        {"W": np.array([[1], [10], [100], [1000]], np.float32)},
        **{"ai.onnx.ml": 3},
    )


def mixed_table(rows: int = 30) -> Table:
    """A table for `mixed`."""
    return {
        "price": [i / 4 for i in range(rows)],
        "count": [i % 7 for i in range(rows)],
        "flag": [i % 3 == 0 for i in range(rows)],
        "kind": [("a", "b", "c")[i % 3] for i in range(rows)],
    }


def image_classifier(size: int = 16, width: int = 8, batch: str | int | None = "N") -> bytes:
    """A small CNN: [batch, 3, size, size] -> [batch, 10] logits, random weights."""
    rng = np.random.default_rng(3)

    def weight(*shape: int) -> np.ndarray:
        return np.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[1:])), np.float32)

    weights = {
        "w1": weight(width, 3, 3, 3),
        "b1": weight(width, 1).ravel(),
        "w2": weight(2 * width, width, 3, 3),
        "w3": weight(10, 2 * width),
    }
    return graph(
        [
            helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1] * 4, strides=[2] * 2),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1] * 4, strides=[2] * 2),
            helper.make_node("Relu", ["c2"], ["r2"]),
            helper.make_node("GlobalAveragePool", ["r2"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w3"], ["logits"], transB=1),
        ],
        [tensor("image", [batch, 3, size, size])],
        [tensor("logits", [batch, 10])],
        weights,
    )


def large_image_classifier() -> bytes:
    """A CNN with 47 MB of random weights: [N, 3, 224, 224] -> [N, 10], for the benchmark."""
    rng = np.random.default_rng(4)
    nodes, weights, name, channels = [], {}, "image", 3
    for i, width in enumerate([64, 128, 256, 512, 512, 1024]):
        scale = np.sqrt(2 / (channels * 9))
        weights[f"w{i}"] = (rng.normal(size=(width, channels, 3, 3)) * scale).astype(np.float32)
        weights[f"b{i}"] = np.zeros(width, np.float32)
        nodes += [
            helper.make_node(
                "Conv", [name, f"w{i}", f"b{i}"], [f"c{i}"], pads=[1] * 4, strides=[2] * 2
            ),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
        ]
        name, channels = f"r{i}", width
    hidden = 3060  # brings the sum to 47 MB
    weights["hidden"] = (rng.normal(size=(hidden, channels)) / 32).astype(np.float32)
    weights["out"] = (rng.normal(size=(10, hidden)) / 55).astype(np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [name], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "hidden"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["hr"]),
        helper.make_node("Gemm", ["hr", "out"], ["logits"], transB=1),
    ]
    return graph(
        nodes, [tensor("image", ["N", 3, 224, 224])], [tensor("logits", ["N", 10])], weights
    )


def token_model(vocabulary: int = 32) -> bytes:
    """Integer tokens [batch, sequence] -> per-token scores [batch, sequence, 4] and their mean."""
    rng = np.random.default_rng(5)
    return graph(
        [
            helper.make_node("Gather", ["table", "tokens"], ["scores"]),
            helper.make_node("ReduceMean", ["scores", "axes"], ["mean"], keepdims=0),
        ],
        [tensor("tokens", ["batch", "sequence"], TensorProto.INT64)],
        [tensor("scores", ["batch", "sequence", 4]), tensor("mean", ["batch", 4])],
        {
            "table": rng.normal(size=(vocabulary, 4)).astype(np.float32),
            "axes": np.array([1], np.int64),
        },
    )
