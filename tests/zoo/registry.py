"""The form of a zoo model, and the registry that each model's function is entered in.

This module knows nothing of the product.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

FILES = Path(__file__).parent / "files"
PACKS = "packs"

Array = NDArray[Any]
Arrays = dict[str, Array]
Table = dict[str, list[Any]]
Encode = Callable[[dict[str, list[str]]], Arrays]
Kind = Literal["table", "text", "picture", "tensor", "tokens", "names", "graph"]
Batch = Literal["dynamic", "single", "none"]


class Paths(NamedTuple):
    """The files of a built model; `sample` and `contract` are None where there is none."""

    model: Path
    sample: Path | None
    contract: Path | None


class Built(NamedTuple):
    """What a model's function returns: ONNX bytes, and a table (CSV), arrays (npz) or nothing.

    The leading axis of each array is the instances, whatever the graph's own axes mean.
    """

    model: bytes
    sample: Table | Arrays | None


class Request(NamedTuple):
    """One instance picked by hand, and the status that a right product answers.

    The keys of `instance` are feature names (table) or input names (tensor, without the leading
    axis where that is the rows). `misread` says that plain onnxruntime does not notice what is
    wrong with the instance: it answers, and the answer is wrong.
    """

    instance: dict[str, Any]
    status: Literal[200, 422]
    why: str
    misread: bool = False


class ZooModel(NamedTuple):
    """One model of the zoo.

    `expected` is "packs", or a regular expression that the refusal of `pack` matches, ignoring
    case. `batch` says how plain onnxruntime runs the sample: all rows at once ("dynamic"), one by
    one with a leading axis of 1 ("single"), or one by one as they are ("none").
    `fast` models belong to the quick test run, all models to the slow one. `contract` is the text
    of a TOML contract file. `tolerance` is the largest |a - b| / max(1, |b|) between the graph and
    its framework, for models that have the framework's predictions. `valid` says whether
    onnx.checker accepts the graph, `runs` whether onnxruntime does. `files` lie beside the contract
    file. `encode` makes the graph's inputs of the sample's cells, as training would.
    """

    name: str
    kind: Kind
    description: str
    build: Callable[[], Built]
    fast: bool
    expected: str
    batch: Batch
    ignore: tuple[str, ...]
    contract: str
    requests: tuple[Request, ...]
    tolerance: float
    valid: bool
    runs: bool
    files: Mapping[str, Callable[[], bytes]]
    encode: Encode | None

    def make(self, directory: Path) -> Paths:
        """Write the model, its sample and its contract file into the directory."""
        built = self.build()
        model = directory / "model.onnx"
        model.write_bytes(built.model)
        sample = write_sample(directory, built.sample)
        contract = None
        if self.contract:
            contract = directory / "contract.toml"
            contract.write_text(self.contract, encoding="utf-8")
        for name, content in self.files.items():
            (directory / name).write_bytes(content())
        return Paths(model, sample, contract)

    def predictions(self) -> Arrays | None:
        """Return the framework's own predictions on the sample by ONNX output, if committed."""
        path = FILES / f"{self.name}.expected.npz"
        return load_arrays(path) if path.exists() else None


ZOO: dict[str, ZooModel] = {}


def zoo(
    kind: Kind,
    *,
    fast: bool = True,
    expected: str = PACKS,
    batch: Batch = "dynamic",
    ignore: tuple[str, ...] = (),
    contract: str = "",
    requests: tuple[Request, ...] = (),
    tolerance: float = 1e-5,
    valid: bool = True,
    runs: bool = True,
    files: Mapping[str, Callable[[], bytes]] = {},
    encode: Encode | None = None,
) -> Callable[[Callable[[], Built]], Callable[[], Built]]:
    """Enter the decorated function in the zoo.

    The model's name is the function's, with hyphens. Its description is the docstring's first line.
    """

    def register(build: Callable[[], Built]) -> Callable[[], Built]:
        name = build.__name__.replace("_", "-")
        if name in ZOO:
            raise ValueError(f"two zoo models are called {name}")
        ZOO[name] = ZooModel(
            name=name,
            kind=kind,
            description=(build.__doc__ or "").strip().split("\n")[0],
            build=build,
            fast=fast,
            expected=expected,
            batch=batch,
            ignore=ignore,
            contract=contract,
            requests=requests,
            tolerance=tolerance,
            valid=valid,
            runs=runs,
            files=files,
            encode=encode,
        )
        return build

    return register


def accepted(why: str, /, **instance: Any) -> Request:
    """Return a request that must be answered with 200; names that are no identifiers go in `**`."""
    return Request(instance, 200, why)


def refused(why: str, /, **instance: Any) -> Request:
    """Return a request that must be answered with 422."""
    return Request(instance, 422, why)


def misread(why: str, /, **instance: Any) -> Request:
    """Return a request for 422 that plain onnxruntime would answer."""
    return Request(instance, 422, why, misread=True)


# --- samples ----------------------------------------------------------------------------------


def write_sample(directory: Path, sample: Table | Arrays | None) -> Path | None:
    """Write sample.csv for a table, sample.npz for arrays."""
    if sample is None:
        return None
    if any(isinstance(values, np.ndarray) for values in sample.values()):
        path = directory / "sample.npz"
        np.savez(path, **sample)
        return path
    path = directory / "sample.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(sample)
        lines.writerows(zip(*sample.values(), strict=True))  # None becomes an empty cell
    return path


def read_table(path: Path) -> dict[str, list[str]]:
    """Return the cells of a CSV file by column."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file, strict=True))
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def load_arrays(path: Path) -> Arrays:
    """Return the arrays of an npz file."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def committed(name: str, folder: Path = FILES, sample: str = "") -> Built:
    """Return a model of files/ with its sample: `sample`, or the file that has the model's name."""
    model = (folder / f"{name}.onnx").read_bytes()
    if sample or (folder / f"{name}.csv").exists():
        cells = read_table(folder / (sample or f"{name}.csv"))
        return Built(model, dict(cells))
    return Built(model, load_arrays(folder / f"{name}.npz"))


# --- plain onnxruntime ------------------------------------------------------------------------

TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}


def open_session(path: Path) -> Any:
    """Return a session of the file as it is, but with a locale that any machine has.

    The session logs nothing: some exports declare shapes that they do not have.
    """
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "StringNormalizer" and not any(
            a.name == "locale" for a in node.attribute
        ):
            node.attribute.append(onnx.helper.make_attribute("locale", "C.UTF-8"))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if any(opset.domain == "ai.onnx.contrib" for opset in model.opset_import):
        import onnxruntime_extensions  # type: ignore[import-untyped]

        options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
    return ort.InferenceSession(model.SerializeToString(), options)


def feeds(
    session: Any, sample: Path, ignore: Sequence[str] = (), encode: Encode | None = None
) -> Arrays:
    """Return the sample as the graph's inputs, the instances as the leading axis."""
    inputs = session.get_inputs()
    if encode:
        return encode(read_table(sample))
    if sample.suffix == ".npz":
        arrays = load_arrays(sample)
        return {tensor.name: cast(arrays[tensor.name], tensor.type) for tensor in inputs}
    table = {name: cells for name, cells in read_table(sample).items() if name not in ignore}
    if len(inputs) == 1 and len(inputs[0].shape) == 2:  # [N, F]: the columns in their order
        columns = [column(cells, inputs[0].type) for cells in table.values()]
        return {inputs[0].name: np.stack(columns, axis=1)}
    columns = [column(table[tensor.name], tensor.type) for tensor in inputs]
    return {
        tensor.name: values.reshape(-1, 1) if len(tensor.shape) == 2 else values
        for tensor, values in zip(inputs, columns, strict=True)
    }


def drawn(session: Any, batch: Batch) -> Arrays:
    """Return three seeded instances of float inputs, for models without a sample."""
    rng = np.random.default_rng(6)
    arrays = {}
    for tensor in session.get_inputs():
        axes = tensor.shape if batch == "none" else tensor.shape[1:]
        shape = (3, *(axis if isinstance(axis, int) else 5 for axis in axes))
        arrays[tensor.name] = cast(rng.normal(size=shape).round(2), tensor.type)
    return arrays


def instance_feeds(
    session: Any, instance: Mapping[str, Any], batch: Batch, encode: Encode | None = None
) -> Arrays:
    """Return one instance as the graph's inputs. Raises what numpy raises for a wrong value."""
    inputs = session.get_inputs()
    if encode:
        return encode({name: [value] for name, value in instance.items()})
    if inputs[0].name not in instance or len(inputs) < len(instance):  # [N, F]
        row = [np.nan if cell is None else cell for cell in instance.values()]
        return {inputs[0].name: np.array([row], TYPES[inputs[0].type])}
    arrays = {}
    for tensor in inputs:
        value = instance[tensor.name]
        array = np.array(np.nan if value is None else value, TYPES[tensor.type])
        if batch != "none":
            array = array.reshape(1, *array.shape)
        column = array.ndim < len(tensor.shape) == 2  # a feature whose input is [N, 1]
        arrays[tensor.name] = array.reshape(1, 1) if column else array
    return arrays


def cast(array: Array, kind: str) -> Array:
    """Return the array in the dtype of an ONNX tensor type; texts become Python strings."""
    if TYPES[kind] == "object":
        return array.astype(str).astype(object)
    return array.astype(TYPES[kind])


def column(cells: Sequence[str], kind: str) -> Array:
    """Return a column's cells in the dtype of an ONNX tensor type; an empty number is NaN."""
    if TYPES[kind] == "object":
        return np.array(cells, object)
    words = {"": "nan", "True": "1", "False": "0"}
    numbers = [words.get(cell, cell) for cell in cells]
    if "int" in TYPES[kind]:
        return np.array([int(number) for number in numbers], TYPES[kind])
    return np.array(numbers, np.float64).astype(TYPES[kind])


def run_plain(session: Any, arrays: Mapping[str, Array], batch: Batch) -> dict[str, list[Array]]:
    """Return each output as one array per instance, as plain onnxruntime computes it."""
    names = [output.name for output in session.get_outputs()]
    if not arrays:
        return {
            name: [dense(value)] for name, value in zip(names, session.run(None, {}), strict=True)
        }
    if batch == "dynamic":
        results = session.run(None, dict(arrays))
        return {
            name: [np.asarray(row) for row in dense(value)]
            for name, value in zip(names, results, strict=True)
        }
    outputs: dict[str, list[Array]] = {name: [] for name in names}
    for i in range(len(next(iter(arrays.values())))):
        one = {
            name: array[i : i + 1] if batch == "single" else np.asarray(array[i])
            for name, array in arrays.items()
        }
        for name, value in zip(names, session.run(None, one), strict=True):
            outputs[name].append(np.asarray(dense(value)[0]) if batch == "single" else dense(value))
    return outputs


def dense(value: Any) -> Array:
    """Return a tensor as it is, and ZipMap's maps as [rows, classes]."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return np.array([list(row.values()) for row in value])
    return np.asarray(value)
