"""Fitted models of frameworks -> ONNX, and the framework's own predictions to compare with.

One class per framework. A framework and its converter are imported when a model needs them.
"""

import copy
import importlib
import io
import json
import pickle
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import onnx
import yaml
from onnx import ModelProto, TensorProto

from answerable.packing import file_formats, reference, table
from answerable.packing.errors import PackError
from answerable.packing.file_formats import ZIP
from answerable.packing.reference import Reference
from answerable.packing.table import Array, Columns
from handler.manifest import Tensor

OPSETS = {"": 18, "ai.onnx.ml": 3}  # of skl2onnx: trees with float64 thresholds need ml 3
BOOSTER_OPSET = 15  # the newest that onnxmltools' booster converters write
TORCH_OPSET = 18
PICKLES = (".joblib", ".pkl", ".pickle")
BOOSTER_FILES = {".json": "xgboost", ".ubj": "xgboost", ".txt": "lightgbm", ".cbm": "catboost"}
NOT_FITTED = "the model is not fitted: call its fit() first"
# by suffix, the content of a model's file, and the formats that it may begin as
CONTENTS = {
    **dict.fromkeys(PICKLES, ("a pickle", "a pickle", "gzip")),
    ".skops": ("a skops file", ZIP),
    ".json": ("an XGBoost model", "JSON"),
    ".ubj": ("an XGBoost model", "JSON"),
    ".txt": ("a LightGBM model",),
    ".cbm": ("a CatBoost model",),
}
# the converters' names of outputs, and the methods that return the same
METHODS = {
    "label": ("predict",),
    "predictions": ("predict",),
    "probabilities": ("predict_proba", "decision_function"),
    "scores": ("decision_function", "transform"),
    "variable": ("predict", "transform"),
}

Arrays = dict[str, Array]
Options = Mapping[str, Any]


class Framework:
    """A fitted model of one framework.

    `packages`: the distributions whose versions the lineage names, the framework's first.
    `takes_double`: the converter makes graphs of float64, too. `chunk_rows`: predicted at once.
    """

    packages: ClassVar[tuple[str, ...]]
    takes_double: ClassVar[bool] = False
    chunk_rows: ClassVar[int] = 50_000

    def __init__(self, model: Any) -> None:
        self.model = model

    def versions(self) -> dict[str, str]:
        """Return the versions of the framework and its converter; the framework's is first."""
        installed = {d.metadata["Name"]: d.version for d in metadata.distributions()}
        return {name: installed[name] for name in self.packages if name in installed}

    @property
    def title(self) -> str:
        """Return the framework's name and version."""
        return " ".join(next(iter(self.versions().items()), ()))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Return the names of the columns that the model was fitted on; () if it has none."""
        return tuple(map(str, getattr(self.model, "feature_names_in_", ())))

    def convert(self, inputs: Mapping[str, str], double: bool, options: Options) -> ModelProto:
        """Return the model as ONNX.

        `inputs`: names and dtypes of the columns or arrays, in their order. `double`: the graph
        takes float64. `options`: more arguments of the converter. Raise PackError for a model that
        the converter does not take.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                graph = self._convert(dict(inputs), double, dict(options))
        except (PackError, MemoryError):
            raise
        except Exception as error:  # converters raise any class
            if not self._is_fitted():
                raise PackError(NOT_FITTED) from None
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            if np.asarray(getattr(self.model, "classes_", ())).dtype.kind == "b":
                reason += "; its classes are booleans: train it on 0 and 1"
            raise PackError(f"{self.packages[-1]} cannot convert the model: {reason}") from None
        return _deterministic(graph)

    def _convert(self, inputs: dict[str, str], double: bool, options: Any) -> ModelProto:
        raise NotImplementedError

    def _is_fitted(self) -> bool:
        """Return False if the framework says that the model is not fitted."""
        return True

    def predict(self, columns: Mapping[str, Any], tensors: Sequence[str]) -> Arrays:
        """Return the framework's own predictions by tensor, as far as a method returns them."""
        n_rows = len(next(iter(columns.values())))
        try:
            chunks = [
                self._predict({k: v[i : i + self.chunk_rows] for k, v in columns.items()}, tensors)
                for i in range(0, n_rows, self.chunk_rows)
            ]
        except Exception as error:  # of the framework, or of a custom step
            reason = " ".join(str(error).split())[:300]
            raise PackError(f"the model cannot predict the reference: {reason}") from None
        return {tensor: np.concatenate([chunk[tensor] for chunk in chunks]) for tensor in chunks[0]}

    def _predict(self, columns: Columns, tensors: Sequence[str]) -> Arrays:
        rows, results = self._rows(columns), {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # columns without names
            for tensor in tensors:
                name, _, index = tensor.rpartition("_")  # probabilities_0, of a list of arrays
                is_listed = name in METHODS and index.isdigit()
                names = METHODS.get(name if is_listed else tensor, METHODS["variable"])
                if method := next((name for name in names if hasattr(self.model, name)), None):
                    result = getattr(self.model, method)(rows)
                    results[tensor] = np.asarray(result[int(index)] if is_listed else result)
        return results

    def _rows(self, columns: Columns) -> Any:
        """Return the rows of a table as the model was fitted on them: named, or as an array."""
        if self.feature_names:
            return importlib.import_module("pandas").DataFrame(columns)
        has_text = any(isinstance(v, str) for values in columns.values() for v in values)
        if has_text and not hasattr(self.model, "n_features_in_"):  # a vectoriser of texts
            return next(iter(columns.values()))
        return np.array(list(columns.values()), object if has_text else float).T


class ScikitLearn(Framework):
    """An estimator or a pipeline. Its steps may be models of XGBoost and LightGBM."""

    packages = ("scikit-learn", "skl2onnx")
    takes_double = True

    def _convert(self, inputs: dict[str, str], double: bool, options: Any) -> ModelProto:
        _import("skl2onnx", "sklearn")
        types = importlib.import_module("skl2onnx.common.data_types")
        steps = [self.model, *self.model.get_params().values()]
        for step in steps:
            _register_booster(step)
        number = types.DoubleTensorType if double else types.FloatTensorType
        selects = any(type(step).__name__ == "ColumnTransformer" for step in steps)
        if selects or "string" in inputs.values():
            by_dtype = {"string": types.StringTensorType}
            columns = [(n, by_dtype.get(dtype, number)([None, 1])) for n, dtype in inputs.items()]
        else:
            columns = [("X", number([None, len(inputs)]))]
        if hasattr(self.model, "classes_"):
            options = {"zipmap": False} | options
        try:
            graph = _skl2onnx(self.model, columns, options)
        except NameError:  # a converter without that option
            graph = _skl2onnx(
                self.model, columns, {k: options[k] for k in options if k != "zipmap"}
            )
        _rename(graph, [value.name for value in graph.graph.input], list(inputs))
        makers = {name: node.op_type for node in graph.graph.node for name in node.output}
        for value in graph.graph.output:  # declared as float64, which the operator has not
            if makers.get(value.name) == "TreeEnsembleRegressor":
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        return graph

    def _is_fitted(self) -> bool:
        validation = importlib.import_module("sklearn.utils.validation")
        try:
            validation.check_is_fitted(self.model)
        except ValueError:
            return False
        return True


class Booster(Framework):
    """A model of trees, exported with one tensor of float32."""

    def _convert(self, inputs: dict[str, str], double: bool, options: Any) -> ModelProto:
        if double:
            raise PackError(f"exported {self.packages[0]} models take no float64; leave out double")
        if texts := [name for name, dtype in inputs.items() if dtype == "string"]:
            raise PackError(
                f"column {texts[0]} is text, and exported {self.packages[0]} models take numbers: "
                "encode it in a scikit-learn pipeline around the model, or before"
            )
        return self._export(len(inputs), options)

    def _export(self, width: int, options: Any) -> ModelProto:
        convert = getattr(_import("onnxmltools", "boosters"), f"convert_{self.packages[0]}")
        types = importlib.import_module("onnxmltools.convert.common.data_types")
        tensor = [("X", types.FloatTensorType([None, width]))]
        defaults = {"initial_types": tensor, "target_opset": BOOSTER_OPSET}
        graph: ModelProto = convert(self._exported(), **{**defaults, **options})
        return graph

    def _exported(self) -> Any:
        return self.model


class XGBoost(Booster):
    """A model of XGBoost. A plain Booster becomes a classifier or a regressor by its objective."""

    packages = ("xgboost", "xgboost-cpu", "onnxmltools")

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        if type(model).__name__ == "Booster":
            xgboost = importlib.import_module("xgboost")
            objective = json.loads(model.save_config())["learner"]["objective"]["name"]
            classifies = objective.startswith(("binary:", "multi:"))
            self.model = (xgboost.XGBClassifier if classifies else xgboost.XGBRegressor)()
            self.model.load_model(model.save_raw())

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Return the booster's names of the columns."""
        return tuple(self.model.get_booster().feature_names or ())

    def _exported(self) -> Any:
        model = copy.deepcopy(self.model)
        if type(model).__name__ == "XGBRanker":  # the converter does not take it
            model = XGBoost(model.get_booster()).model
        model.get_booster().feature_names = None  # the converter takes f0, f1, … only
        return model


class LightGBM(Booster):
    """A model of LightGBM. A plain Booster predicts by its objective."""

    packages = ("lightgbm", "onnxmltools")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Return the booster's names of the columns; () for the generated ones."""
        names = tuple(getattr(self.model, "booster_", self.model).feature_name())
        return () if names == tuple(f"Column_{i}" for i in range(len(names))) else names

    def _predict(self, columns: Columns, tensors: Sequence[str]) -> Arrays:
        """Return the predictions; those of a Booster are probabilities if it classifies."""
        if hasattr(self.model, "booster_"):
            return super()._predict(columns, tensors)
        result = np.asarray(self.model.predict(self._rows(columns)))
        if len(tensors) == 1:
            return {tensors[0]: result}
        result = np.stack([1 - result, result], axis=1) if result.ndim == 1 else result
        return {"probabilities": result, "label": result.argmax(axis=1)}


class CatBoost(Booster):
    """A model of CatBoost, which has its own export."""

    packages = ("catboost",)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Return the model's names of the columns; () for the generated ones."""
        names = tuple(map(str, self.model.feature_names_ or ()))
        return () if names == tuple(str(i) for i in range(len(names))) else names

    def _export(self, width: int, options: Any) -> ModelProto:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            self.model.save_model(str(path), format="onnx", export_parameters=options)
            return onnx.load_model(path)


class Torch(Framework):
    """A torch.nn.Module or torch.export.ExportedProgram.

    Its inputs are the sample's arrays, in the order of `forward`, or a table as one array.
    """

    packages = ("torch", "onnxscript")
    chunk_rows = 1000

    def __init__(self, model: Any) -> None:
        is_program = not hasattr(model, "eval")
        super().__init__(model.module() if is_program else model.eval())
        self._program = model if is_program else None
        self._example: Arrays = {}

    def example(self, arrays: Arrays) -> None:
        """Set the arrays that the module is run with. An array without a name is the only one."""
        self._example = {name or "input": array for name, array in arrays.items()}

    @property
    def inputs(self) -> dict[str, str]:
        """Return the dtypes of the inputs."""
        return {name: str(array.dtype) for name, array in self._example.items()}

    def _convert(self, inputs: dict[str, str], double: bool, options: Any) -> ModelProto:
        torch = _import("torch", "torch")
        rows = torch.export.Dim("batch")
        # of one row, export would fix the number of rows
        arrays = {name: np.resize(a, (2, *a.shape[1:])) for name, a in self._example.items()}
        program = torch.onnx.export(
            self._program or self.model,
            _tensors(arrays),
            **{
                "input_names": list(inputs),
                "dynamic_shapes": None if self._program else tuple({0: rows} for _ in inputs),
                "opset_version": TORCH_OPSET,
                "dynamo": True,
                "verbose": False,
            }
            | options,
        )
        file = io.BytesIO()
        program.save(file, external_data=False)
        graph = onnx.load_model_from_string(file.getvalue())
        taken = {name for node in graph.graph.node for name in node.output}
        keys = [key for key, _ in self._run(arrays)]
        tensors = [value.name for value in graph.graph.output]
        names = [t if k in ("", *taken) else k for k, t in zip(keys, tensors, strict=True)]
        _rename(graph, tensors, names)
        return graph

    def predict(self, columns: Mapping[str, Any], tensors: Sequence[str]) -> Arrays:
        """Return the module's outputs for the example, whatever the `columns`."""
        return super().predict(self._example, tensors)

    def _predict(self, columns: Columns, tensors: Sequence[str]) -> Arrays:
        results = self._run(columns)
        return {tensor: result for tensor, (_, result) in zip(tensors, results, strict=True)}

    def _run(self, arrays: Mapping[str, Any]) -> list[tuple[str, Array]]:
        """Return the outputs and their keys, "" for those of a tuple."""
        torch = importlib.import_module("torch")
        with torch.no_grad():
            return [(name, tensor.numpy()) for name, tensor in _flat(self.model(*_tensors(arrays)))]


def _tensors(arrays: Mapping[str, Any]) -> tuple[Any, ...]:
    torch = importlib.import_module("torch")
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays.values())


def _flat(results: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the tensors in nested tuples, lists and dicts, with the keys of the dicts."""
    if isinstance(results, Mapping):
        for key, result in results.items():
            yield from _flat(result, str(key))
    elif isinstance(results, (tuple, list)):
        for result in results:
            yield from _flat(result)
    elif results is not None:
        yield name, results


# the first package in the classes of an object; boosters' classes inherit scikit-learn's
FRAMEWORKS: dict[str, type[Framework]] = {
    "xgboost": XGBoost,
    "lightgbm": LightGBM,
    "catboost": CatBoost,
    "torch": Torch,
    "sklearn": ScikitLearn,
}


def open_model(model: Any, trust: bool = False) -> Framework | None:
    """Return a model of a framework; None for one that is ONNX already.

    `model`: an object, or a file or MLflow folder. `trust`: unpickle, which runs any code that the
    file holds. Raise PackError for an object of no known framework.
    """
    if isinstance(model, (bytes, ModelProto)):
        return None
    if isinstance(model, (str, Path)):
        return _open_file(Path(model), trust)
    packages = [base.__module__.partition(".")[0] for base in type(model).__mro__]
    for package, framework in FRAMEWORKS.items():
        if package in packages:
            return framework(model)
    raise PackError(
        f"a {type(model).__name__} cannot be packed; give an ONNX model, or a fitted model of "
        f"{', '.join(FRAMEWORKS)}"
    )


def locate(model: Any) -> Any:
    """Return the folder of a model in MLflow's registry, or its ONNX file; any other as it is."""
    if isinstance(model, str) and model.startswith("models:/"):
        try:
            model = _import("mlflow.artifacts", "").download_artifacts(artifact_uri=model)
        except PackError:
            raise
        except Exception as error:  # of MLflow, of its database or of the network
            raise PackError(f"MLflow cannot read {model}: {' '.join(str(error).split())}") from None
    if isinstance(model, (str, Path)) and Path(model, "MLmodel").is_file():
        flavors = _flavors(Path(model))
        return Path(model, flavors["onnx"]["data"]) if "onnx" in flavors else model
    return model


def convert(
    framework: Framework,
    data: Reference | None,
    double: bool,
    options: Options,
    targets: Sequence[str] = (),
) -> tuple[Reference, ModelProto]:
    """Return the reference with the columns that the model takes, and the model as ONNX.

    `targets`: the names of several targets, which the reference may have, too.
    """
    if data is None:
        raise PackError("a framework's model is converted for a sample of its inputs: give one")
    if isinstance(framework, Torch):
        try:
            matrix = [np.asarray(cells, np.float32) for cells in data.columns.values()]
        except ValueError:
            raise PackError(f"{data.name} has text, and a torch module takes numbers") from None
        framework.example(data.arrays or {"": np.stack(matrix, axis=1)})
        data = data._replace(columns={} if data.arrays else data.columns)
        inputs = framework.inputs
    else:
        try:
            names = framework.feature_names
        except AttributeError:  # of XGBoost and LightGBM
            raise PackError(NOT_FITTED) from None
        width = getattr(framework.model, "n_features_in_", None)
        data = reference.as_table(data, names)
        data = reference.without_targets(data._replace(arrays={}), names, targets)
        data = reference.select(data, names, width)
        if names:
            spelt = [Tensor(table.identifier(name), "float32", (None, 1)) for name in names]
            table.match(list(map(table.identifier, data.columns)), spelt, data.name)
        elif width:
            table.match(list(data.columns), [Tensor("X", "float32", (None, width))], data.name)
        inputs = {
            name: "string" if table.is_text(cells) else "number"
            for name, cells in data.columns.items()
        }
    return data, framework.convert(inputs, double, options)


def _open_file(path: Path, trust: bool) -> Framework | None:
    if path.suffix not in CONTENTS:
        return _open_mlflow(path, trust) if (path / "MLmodel").is_file() else None
    if not path.is_file():
        raise PackError(f"{path}: no such file")
    file_formats.check(path, *CONTENTS[path.suffix])
    try:
        if package := BOOSTER_FILES.get(path.suffix):
            return _open_booster(path, package)
        return open_model(_unpickle(path, trust))
    except PackError:
        raise
    except (EOFError, LookupError, pickle.UnpicklingError):  # without a readable text
        reason = "it is damaged, or no pickle; write it again"
    except Exception as error:  # of the framework that reads the file
        reason = " ".join(str(error).partition("Stack trace")[0].split())[:200]
    raise PackError(f"{path.name} cannot be read: {reason}")


def _open_booster(path: Path, package: str) -> Framework:
    """Return the model in a booster's own file."""
    booster = _import(package, "boosters")
    if package == "lightgbm":
        return LightGBM(booster.Booster(model_file=path))
    if package == "xgboost":
        return XGBoost(booster.Booster(model_file=path))
    classes = booster.CatBoost().load_model(str(path)).classes_
    model = booster.CatBoostClassifier() if len(classes) else booster.CatBoostRegressor()
    return CatBoost(model.load_model(str(path)))


def _open_mlflow(path: Path, trust: bool) -> Framework | None:
    """Return the model of an MLflow folder, read by the framework and without MLflow."""
    flavors = _flavors(path)
    if "onnx" in flavors:
        return None
    flavor = next((name for name in (*FRAMEWORKS, "pytorch") if name in flavors), "")
    if not flavor:
        raise PackError(f"{path}: its flavors, {', '.join(flavors)}, cannot be packed")
    if flavor == "pytorch":
        _check_trust(path, trust)
        torch = _import("torch", "torch")
        (file,) = (path / "data").glob("model.pt[h2]")
        is_program = file.suffix == ".pt2"
        return Torch(
            torch.export.load(file) if is_program else torch.load(file, weights_only=False)
        )
    fields = flavors[flavor]
    file = path / (fields.get("data") or fields.get("pickled_model") or "model.pkl")
    if file.suffix in (*PICKLES, ".skops"):
        return _open_file(file, trust)
    return _open_booster(file, flavor)


def _flavors(path: Path) -> dict[str, Any]:
    try:
        flavors = yaml.safe_load((path / "MLmodel").read_text(encoding="utf-8"))["flavors"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        raise PackError(f"{path}/MLmodel cannot be read") from None
    return dict(flavors)


def _check_trust(path: Path, trust: bool) -> None:
    if not trust:
        raise PackError(
            f"{path.name} is a pickle, and reading a pickle runs any code in it: pass --trust "
            "(trust=True) if you trust its origin, or save the model with skops"
        )


def _unpickle(path: Path, trust: bool) -> Any:
    if path.suffix != ".skops":
        _check_trust(path, trust)
        return _import("joblib", "sklearn").load(path)
    skops = _import("skops.io", "sklearn")
    unknown = skops.get_untrusted_types(file=path)
    if unknown and not trust:
        raise PackError(
            f"{path.name} holds the types {', '.join(unknown)}, which skops does not know: pass "
            "--trust (trust=True) if you trust its origin"
        )
    return skops.load(path, trusted=unknown)


def _import(module: str, extra: str) -> Any:
    """Import a module of a framework. Raise PackError, with how to install it, if it is absent."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        name = f"answerable[{extra}]" if extra else package
        raise PackError(f"{package} is not installed: pip install '{name}'") from None


def _skl2onnx(model: Any, columns: Any, options: Options) -> ModelProto:
    trees = importlib.import_module("skl2onnx.common.tree_ensemble")
    # without options, skl2onnx gives a pipeline's LinearSVC one that its converter refuses
    by_step: dict[Any, Options] = {type(step): {} for step in model.get_params().values()}
    add_node = trees.add_node

    def add_integers(*values: Any, **named: Any) -> None:
        add_node(*values, **{k: int(v) if isinstance(v, bool) else v for k, v in named.items()})

    # protobuf refuses the booleans in HistGradientBoosting's leaves
    with patch.object(trees, "add_node", add_integers):
        graph: ModelProto = importlib.import_module("skl2onnx").to_onnx(
            model,
            initial_types=columns,
            target_opset=OPSETS,
            options={id(model): options} if options else by_step,
        )
    return graph


def _register_booster(step: Any) -> None:
    """Let skl2onnx convert a step of XGBoost or LightGBM by onnxmltools' converter."""
    package, kind = type(step).__module__.partition(".")[0], type(step).__name__
    if package not in ("xgboost", "lightgbm") or not hasattr(step, "predict"):
        return
    _import("onnxmltools", "boosters")
    module = {"xgboost": "XGBoost", "lightgbm": "LightGbm"}[package]
    converters = importlib.import_module(
        f"onnxmltools.convert.{package}.operator_converters.{module}"
    )
    shapes = importlib.import_module("skl2onnx.common.shape_calculator")
    model_type, options = "regressor", {}
    if hasattr(step, "predict_proba"):
        model_type = "classifier"
        options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    importlib.import_module("skl2onnx").update_registered_converter(
        type(step),
        f"{package}{kind}",
        getattr(shapes, f"calculate_linear_{model_type}_output_shapes"),
        getattr(converters, f"convert_{package}"),
        options=options,
    )


def _rename(model: ModelProto, tensors: Iterable[str], names: Sequence[str]) -> None:
    """Give the graph's tensors other names: skl2onnx spells columns otherwise."""
    old = list(tensors)
    renames = dict(zip(old, names, strict=True)) if len(old) == len(names) else {}
    for value in (*model.graph.input, *model.graph.output):
        value.name = renames.get(value.name, value.name)
    for node in model.graph.node:
        for list_of_names in (node.input, node.output):
            list_of_names[:] = [renames.get(name, name) for name in list_of_names]


def _deterministic(model: ModelProto) -> ModelProto:
    """Return the graph without what differs each time: names drawn at random, dates, paths."""
    graph = model.graph
    graph.name, model.doc_string = "model", ""
    opsets = sorted(model.opset_import, key=lambda opset: str(opset.domain))
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for item in (model, graph, *graph.node, *values):
        del item.metadata_props[:]
    return model
