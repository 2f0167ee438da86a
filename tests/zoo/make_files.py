"""Make the models in files/ that need heavy converters, with their samples and true predictions.

Run it from the root of the project, in an environment of its own (Python 3.11):

    pip install torch==2.13.0 xgboost==3.2.0 lightgbm==4.7.0 catboost==1.2.10 \
        onnxmltools==1.16.0 skl2onnx==1.20.0 onnx==1.23.2 onnxscript==0.7.2 \
        scikit-learn==1.9.1 numpy==2.4.6 pandas==3.1.1
    python -m tests.zoo.make_files [NAME …]

Each model gets three files. NAME.onnx is the export. NAME.csv or NAME.npz is the sample.
NAME.expected.npz has the framework's own predictions on the sample, one array per ONNX output.
The framework predicts from the numbers as the sample has them, in float64.
"""

# The converters are not in the project's environment.
# mypy: disable-error-code="import-not-found, import-untyped", allow-subclassing-any

import csv
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import onnx
import onnxmltools
import pandas
import torch
import xgboost
from numpy.typing import NDArray
from onnxmltools.convert.common.data_types import FloatTensorType
from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx.common import data_types as skl2onnx_types
from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

FILES = Path(__file__).parent / "files"
OPSET = 15  # the newest that all of the boosters' converters write

Array = NDArray[Any]
Table = dict[str, list[Any]]
Arrays = dict[str, Array]
MAKERS: dict[str, Callable[[str], None]] = {}


def maker(make: Callable[[str], None]) -> Callable[[str], None]:
    """Register a function under its name, with hyphens."""
    MAKERS[make.__name__.replace("_", "-")] = make
    return make


def customers(rows: int = 400, missing: bool = True) -> Table:
    """Return six columns of customers; two have gaps, and `region` is a code from 0 to 4."""
    rng = np.random.default_rng(7)
    income = rng.lognormal(10.5, 0.4, rows).round(1)
    tenure = rng.exponential(5, rows).round(2)
    gaps = rng.random((2, rows)) < (0.15 if missing else 0)
    return {
        "age": rng.integers(18, 90, rows).tolist(),
        "income": [None if gap else v for gap, v in zip(gaps[0], income.tolist(), strict=True)],
        "visits": rng.poisson(3, rows).tolist(),
        "tenure": [None if gap else v for gap, v in zip(gaps[1], tenure.tolist(), strict=True)],
        "score": rng.normal(size=rows).round(3).tolist(),
        "region": rng.integers(0, 5, rows).tolist(),
    }


def matrix(table: Table, dtype: type = np.float64) -> Array:
    """Return the table as [rows, columns]; gaps are NaN."""
    columns = [[np.nan if cell is None else cell for cell in column] for column in table.values()]
    return np.array(columns, dtype).T


def spend(table: Table) -> Array:
    """Return a target that depends on all columns and on the gaps."""
    age, income, visits, tenure, score, region = matrix(table).T
    bonus = np.array([0.0, 4.0, -3.0, 8.0, 1.0])[region.astype(int)]
    value = np.nan_to_num(income, nan=60000) / 4000 + visits * np.nan_to_num(tenure, nan=-2) / 3
    return np.asarray(value + bonus + 2 * score - (age - 50) ** 2 / 200, np.float64)


def write(name: str, model: Any, sample: Table | Arrays, expected: Arrays) -> None:
    """Write the files of a model: the graph, its sample and the framework's predictions."""
    model.graph.name = name
    del model.metadata_props[:]  # CatBoost puts the time of its training there
    model.doc_string = ""
    opsets = sorted(model.opset_import, key=lambda opset: str(opset.domain))
    del model.opset_import[:]  # their order is random in skl2onnx's exports
    model.opset_import.extend(opsets)
    onnx.save(model, FILES / f"{name}.onnx")
    if all(isinstance(column, list) for column in sample.values()):
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(sample)
        lines.writerows(zip(*sample.values(), strict=True))
        (FILES / f"{name}.csv").write_text(text.getvalue(), encoding="utf-8")
    else:
        np.savez_compressed(FILES / f"{name}.npz", **sample)
    np.savez_compressed(FILES / f"{name}.expected.npz", **expected)  # type: ignore[arg-type]


# --- boosters ---------------------------------------------------------------------------------


def tensor_types(width: int) -> list[Any]:
    """Return the input of the booster exports: one float tensor [N, width]."""
    return [("X", FloatTensorType([None, width]))]


@maker
def xgb_classifier(name: str) -> None:
    """XGBoost, two classes, missing values."""
    table = customers()
    x, y = matrix(table), (spend(table) > 14).astype(int)
    model = xgboost.XGBClassifier(n_estimators=25, max_depth=3, random_state=0, n_jobs=1).fit(x, y)
    graph = onnxmltools.convert_xgboost(model, initial_types=tensor_types(6), target_opset=OPSET)
    expected = {"label": model.predict(x), "probabilities": model.predict_proba(x)}
    write(name, graph, table, expected)


@maker
def xgb_multiclass(name: str) -> None:
    """XGBoost, four classes, no missing values."""
    table = customers(missing=False)
    y = np.digitize(spend(table), [10, 15, 20])
    x = matrix(table)
    model = xgboost.XGBClassifier(n_estimators=12, max_depth=3, random_state=0, n_jobs=1).fit(x, y)
    graph = onnxmltools.convert_xgboost(model, initial_types=tensor_types(6), target_opset=OPSET)
    expected = {"label": model.predict(x), "probabilities": model.predict_proba(x)}
    write(name, graph, table, expected)


@maker
def xgb_regressor(name: str) -> None:
    """XGBoost, one number, missing values."""
    table = customers()
    x, y = matrix(table), spend(table)
    model = xgboost.XGBRegressor(n_estimators=25, max_depth=3, random_state=0, n_jobs=1).fit(x, y)
    graph = onnxmltools.convert_xgboost(model, initial_types=tensor_types(6), target_opset=OPSET)
    write(name, graph, table, {"variable": model.predict(x)})


@maker
def xgb_categories(name: str) -> None:
    """An XGBoost classifier behind a OneHotEncoder that takes unknown categories."""
    update_registered_converter(
        xgboost.XGBClassifier,
        "XGBoostXGBClassifier",
        calculate_linear_classifier_output_shapes,
        convert_xgboost,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
    )
    table = customers(missing=False)
    y = (spend(table) > 14).astype(int)
    cities = np.array(["Bern", "Lyon", "Oslo", "Riga", "Turin"])
    table["city"] = cities[table.pop("region")].tolist()
    numbers = [column for column in table if column != "city"]
    columns = ColumnTransformer(
        [
            ("city", OneHotEncoder(handle_unknown="ignore", sparse_output=False), [len(numbers)]),
            ("numbers", "passthrough", list(range(len(numbers)))),
        ]
    )
    booster = xgboost.XGBClassifier(n_estimators=20, max_depth=3, random_state=0, n_jobs=1)
    model = make_pipeline(columns, booster)
    x = np.array(list(table.values()), object).T
    model.fit(x, y)
    types = [(column, skl2onnx_types.FloatTensorType([None, 1])) for column in numbers]
    graph = to_onnx(
        model,
        initial_types=[*types, ("city", skl2onnx_types.StringTensorType([None, 1]))],
        target_opset={"": OPSET, "ai.onnx.ml": 3},
    )
    expected = {"output_label": model.predict(x), "output_probability": model.predict_proba(x)}
    write(name, graph, table, expected)


@maker
def xgb_native_categories(name: str) -> None:
    """XGBoost with its own categorical splits on `region`, missing values."""
    table = customers()
    frame = pandas.DataFrame({f"f{i}": column for i, column in enumerate(table.values())})
    frame = frame.astype(float).astype({"f5": pandas.CategoricalDtype(range(5))})
    model = xgboost.XGBRegressor(
        n_estimators=20,
        max_depth=3,
        random_state=0,
        n_jobs=1,
        enable_categorical=True,
        max_cat_to_onehot=1,
    ).fit(frame, spend(table))
    graph = onnxmltools.convert_xgboost(model, initial_types=tensor_types(6), target_opset=OPSET)
    write(name, graph, table, {"variable": model.predict(frame)})


@maker
def lgbm_classifier(name: str) -> None:
    """LightGBM, three classes with names, missing values."""
    table = customers()
    x = matrix(table)
    y = np.array(["low", "middle", "high"])[np.digitize(spend(table), [11, 18])]
    model = lightgbm.LGBMClassifier(
        n_estimators=12, num_leaves=8, random_state=0, n_jobs=1, deterministic=True, verbose=-1
    ).fit(x, y)
    graph = onnxmltools.convert_lightgbm(model, initial_types=tensor_types(6), target_opset=OPSET)
    expected = {"label": model.predict(x), "probabilities": model.predict_proba(x)}
    write(name, graph, table, expected)


@maker
def lgbm_regressor(name: str) -> None:
    """LightGBM, one number, missing values, and `region` as a category."""
    table = customers()
    x, y = matrix(table), spend(table)
    model = lightgbm.LGBMRegressor(
        n_estimators=25, num_leaves=8, random_state=0, n_jobs=1, deterministic=True, verbose=-1
    ).fit(x, y, categorical_feature=[5])
    graph = onnxmltools.convert_lightgbm(model, initial_types=tensor_types(6), target_opset=OPSET)
    write(name, graph, table, {"variable": model.predict(x)})


@maker
def lgbm_timestamps(name: str) -> None:
    """LightGBM on seconds since 1970: the export's float32 thresholds cannot tell them apart."""
    rng = np.random.default_rng(8)
    table: Table = {
        "created_at": (1_790_000_000 + rng.integers(0, 3600, 400)).tolist(),
        "amount": rng.gamma(2, 40, 400).round(2).tolist(),
    }
    x = matrix(table)
    y = np.sin((x[:, 0] - 1_790_000_000) / 300) * 10 + x[:, 1] / 50
    model = lightgbm.LGBMRegressor(
        n_estimators=20, num_leaves=8, random_state=0, n_jobs=1, deterministic=True, verbose=-1
    ).fit(x, y)
    graph = onnxmltools.convert_lightgbm(model, initial_types=tensor_types(2), target_opset=OPSET)
    write(name, graph, table, {"variable": model.predict(x)})


def catboost_graph(model: Any) -> Any:
    """Return CatBoost's export; CatBoost writes it to a file only."""
    path = FILES / "catboost.tmp"
    model.save_model(str(path), format="onnx")
    graph = onnx.load(path)
    path.unlink()
    return graph


@maker
def catboost_classifier(name: str) -> None:
    """CatBoost, two classes with names, missing values."""
    table = customers()
    x, y = matrix(table), np.where(spend(table) > 14, "stays", "leaves")
    model = catboost.CatBoostClassifier(
        iterations=25, depth=4, random_seed=0, thread_count=1, verbose=0, allow_writing_files=False
    ).fit(x, y)
    expected = {"label": model.predict(x).astype(str), "probabilities": model.predict_proba(x)}
    write(name, catboost_graph(model), table, expected)


@maker
def catboost_regressor(name: str) -> None:
    """CatBoost, one number, missing values."""
    table = customers()
    x, y = matrix(table), spend(table)
    model = catboost.CatBoostRegressor(
        iterations=25, depth=4, random_seed=0, thread_count=1, verbose=0, allow_writing_files=False
    ).fit(x, y)
    write(name, catboost_graph(model), table, {"predictions": model.predict(x)})


# --- torch ------------------------------------------------------------------------------------


def export(
    module: torch.nn.Module,
    arguments: tuple[torch.Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    free: tuple[dict[int, str], ...] = (),
    dynamo: bool = True,
) -> Any:
    """Return the ONNX export; `free` names the free axes of each input."""
    file = io.BytesIO()
    if not dynamo:
        axes = dict(zip(inputs, free, strict=True)) if free else None
        torch.onnx.export(
            module,
            arguments,
            file,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=18,
            dynamo=False,
        )
        return onnx.load_from_string(file.getvalue())
    names = sorted({name for axes in free for name in axes.values()})
    dims = {name: torch.export.Dim(name) for name in names}
    shapes = tuple({axis: dims[name] for axis, name in axes.items()} for axes in free)
    program = torch.onnx.export(
        module,
        arguments,
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=shapes or None,
        opset_version=18,
        dynamo=True,
        verbose=False,
    )
    program.save(file, external_data=False)
    graph = onnx.load_from_string(file.getvalue())
    for node in graph.graph.node:  # the exporter's stack traces hold the paths of this machine
        del node.metadata_props[:]
    for value in [*graph.graph.input, *graph.graph.output, *graph.graph.value_info]:
        del value.metadata_props[:]
    for tensor in graph.graph.initializer:
        del tensor.metadata_props[:]
    del graph.graph.metadata_props[:]
    return graph


def normal(*shape: int) -> Array:
    """Return seeded float32 numbers with two decimals."""
    return np.random.default_rng(9).normal(size=shape).round(2).astype(np.float32)


class Images(torch.nn.Module):
    """A small CNN: [N, 3, 16, 16] -> scores of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 16, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(16, 10),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits [N, 10]."""
        return self.body(image)


@maker
def cnn_fixed_batch(name: str) -> None:
    """A CNN that takes one image, [1, 3, 16, 16]."""
    module, images = Images().eval(), normal(4, 3, 16, 16)
    graph = export(module, (torch.from_numpy(images[:1]),), ["image"], ["logits"])
    write(name, graph, {"image": images}, {"logits": run(module, images)})


@maker
def cnn_free_batch(name: str) -> None:
    """A CNN that takes any number of images, exported by the older, tracing exporter."""
    module, images = Images().eval(), normal(4, 3, 16, 16)
    arguments = (torch.from_numpy(images[:2]),)
    graph = export(module, arguments, ["image"], ["logits"], ({0: "batch"},), dynamo=False)
    write(name, graph, {"image": images}, {"logits": run(module, images)})


class Series(torch.nn.Module):
    """A GRU and a linear layer on each of its steps, or on the last one."""

    def __init__(self, features: int, batch_first: bool) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(features, 8, batch_first=batch_first)
        self.head = torch.nn.Linear(8, 2)
        self.batch_first = batch_first

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Return [batch, 2] of the last step if batch-first, else [time, batch, 2]."""
        steps, _ = self.gru(series)
        return self.head(steps[:, -1] if self.batch_first else steps)


@maker
def gru_batch_first(name: str) -> None:
    """A GRU over [batch, time, 3] with a free time axis: two numbers for each series."""
    module, series = Series(3, batch_first=True).eval(), normal(6, 12, 3)
    free = ({0: "batch", 1: "time"},)
    arguments = (torch.from_numpy(series[:2]),)
    graph = export(module, arguments, ["series"], ["forecast"], free, dynamo=False)
    write(name, graph, {"series": series}, {"forecast": run(module, series)})


@maker
def gru_sequence_first(name: str) -> None:
    """A GRU over [time, 1, 4]: the free leading axis is the time, not the rows."""
    module, series = Series(4, batch_first=False).eval(), normal(4, 10, 1, 4)
    free = ({0: "time"},)
    arguments = (torch.from_numpy(series[0]),)
    graph = export(module, arguments, ["series"], ["steps"], free, dynamo=False)
    expected = np.stack([run(module, one) for one in series])
    write(name, graph, {"series": series}, {"steps": expected})


class Tokens(torch.nn.Module):
    """A transformer of one layer as BERT's exports are: three int64 inputs of one free length."""

    def __init__(self, vocabulary: int = 100, longest: int = 32, width: int = 16) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(vocabulary, width)
        self.places = torch.nn.Embedding(longest, width)
        self.types = torch.nn.Embedding(2, width)
        self.query, self.key, self.value = (torch.nn.Linear(width, width) for _ in range(3))
        self.norm = torch.nn.LayerNorm(width)
        self.head = torch.nn.Linear(width, 2)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits [batch, 2] and the hidden states [batch, sequence, 16]."""
        places = torch.arange(input_ids.shape[1]).unsqueeze(0)
        x = self.words(input_ids) + self.places(places) + self.types(token_type_ids)
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 4
        scores = scores + (1 - attention_mask.unsqueeze(1).float()) * -1e4
        hidden = self.norm(x + torch.softmax(scores, -1) @ self.value(x))
        return self.head(hidden[:, 0]), hidden


@maker
def bert_tokens(name: str) -> None:
    """A BERT-like classifier: input_ids, attention_mask and token_type_ids, [batch, sequence]."""
    rng = np.random.default_rng(10)
    lengths = np.array([9, 4, 7, 9, 5])
    mask = (np.arange(9) < lengths[:, None]).astype(np.int64)
    arrays = {
        "input_ids": rng.integers(1, 100, (5, 9)) * mask,
        "attention_mask": mask,
        "token_type_ids": (np.arange(9) >= 4).astype(np.int64) * mask,
    }
    module = Tokens().eval()
    tensors = tuple(torch.from_numpy(array) for array in arrays.values())
    axes = {0: "batch", 1: "sequence"}
    graph = export(module, tensors, list(arrays), ["logits", "hidden"], (axes, axes, axes))
    with torch.no_grad():
        logits, hidden = module(*tensors)
    write(name, graph, arrays, {"logits": logits.numpy(), "hidden": hidden.numpy()})


class Encoder(torch.nn.Module):
    """A table's row -> a unit vector of 24 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, 24)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return embeddings [N, 24] of length 1."""
        return torch.nn.functional.normalize(self.body(x))


@maker
def embedding_output(name: str) -> None:
    """An encoder of a table's rows: one output [N, 24]."""
    rows = normal(300, 5)
    module = Encoder().eval()
    arguments = (torch.from_numpy(rows[:2]),)
    graph = export(module, arguments, ["x"], ["embedding"], ({0: "batch"},))
    columns = np.array(rows.T, np.float64).round(2).tolist()
    table = {f"signal_{i}": column for i, column in enumerate(columns)}
    write(name, graph, table, {"embedding": run(module, rows)})


def run(module: torch.nn.Module, array: Array) -> Array:
    """Return the module's output for one input."""
    with torch.no_grad():
        result: Array = module(torch.from_numpy(array)).numpy()
    return result


def main(names: list[str]) -> None:
    """Make the named models, or all of them."""
    for name in names or MAKERS:
        torch.manual_seed(0)
        MAKERS[name](name)
        print(name, (FILES / f"{name}.onnx").stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1:])
