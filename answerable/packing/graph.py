"""ONNX graphs: check, make servable, optimise, and write to be memory-mapped."""

import math
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, external_data_helper, numpy_helper

from answerable.packing import file_formats
from answerable.packing.errors import PackError
from handler.encoders import extensions
from handler.manifest import EXTENSION_DOMAINS, Tensor

MODEL, WEIGHTS = "model.onnx", "weights.bin"
LARGE = 8_000_000  # bytes of weights from which on they go to their own, memory-mapped file
# the time of a run depends on its inputs' shapes alone, unless the graph has one of these operators
VALUE_DEPENDENT_SHAPES = (
    "ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile", "Upsample",
)  # fmt: skip
PAGE = 4096  # what is mapped must start at a page, or it is copied
LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
DTYPES: dict[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.INT8: "int8",
    TensorProto.INT16: "int16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.UINT8: "uint8",
    TensorProto.UINT16: "uint16",
    TensorProto.UINT32: "uint32",
    TensorProto.UINT64: "uint64",
    TensorProto.BOOL: "bool",
    TensorProto.STRING: "string",
}
KNOWN_DOMAINS = ("ai.onnx", "ai.onnx.ml")
# onnxruntime's own operators; loading fails for one that it does not have
RUNTIME_DOMAINS = ("com.microsoft", "com.microsoft.nchwc", *EXTENSION_DOMAINS)
CLASSIFIERS = ("TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier")
# operators behind which the classes of a classifier are still in the same order
SAME_CLASSES = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Normalizer", "Softmax")
# exporters' own names of free axes, a new one for each input: tf2onnx, torch
GENERATED_AXIS = re.compile(r"unk__\d+|.*dynamic_axes_\d+")

Classes = tuple[str | int, ...]


class Source(NamedTuple):
    """A servable graph: its weights inside, no ZipMap.

    `classes` are those of its outputs, by tensor name. `notes` are sentences about changes.
    """

    model: ModelProto
    classes: dict[str, Classes]
    notes: tuple[str, ...]


def session(model: Path | bytes, options: ort.SessionOptions | None = None) -> Any:
    """Return an onnxruntime session on the CPU. Raise PackError with onnxruntime's reason."""
    options = options or ort.SessionOptions()
    options.log_severity_level = 4  # its message is in the exception
    try:
        content = model if isinstance(model, bytes) else model.read_bytes()
        if any(domain.encode() in content for domain in EXTENSION_DOMAINS):
            extensions.register(options)
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise PackError(f"onnxruntime cannot load the model: {reason(error)}") from None


def as_packed() -> ort.SessionOptions:
    """Return options to run a graph as it is, as the handler does."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def reason(error: Exception) -> str:
    """Return the cause in an onnxruntime exception, and the remedy where there is one."""
    text = str(error).strip().split("\n")[0]
    if match := re.search(r"IR version: (\d+), max supported IR version: (\d+)", text):
        return (
            f"IR version {match[1]} is newer than onnxruntime {ort.__version__} reads "
            f"({match[2]}); export with an older onnx, or set model.ir_version = {match[2]}"
        )
    if match := re.search(r"Opset (\d+) is under.* domain (\S+) is till opset (\d+)", text):
        return (
            f"opset {match[1]} of {match[2]} is newer than onnxruntime {ort.__version__} has "
            f"({match[3]}); export with opset {match[3]} or older"
        )
    # what onnxruntime puts before the cause: its own file, line and C++ signature
    text = re.sub(r"^\S*/onnxruntime/\S+:\d+ .*?\) (?=[A-Z])", "", text.split(" : ", 2)[-1])
    return text[:300]


def read(path: Path) -> Source:
    """Read a model and make it servable. Raise PackError for one that cannot be packed."""
    try:
        model = onnx.load_model(path, load_external_data=False)
    except OSError as error:
        raise PackError(f"{path}: {error.strerror}") from None
    except Exception:  # protobuf's DecodeError: it has no type stubs
        model = ModelProto()
    if not model.opset_import or not model.graph.output:
        file_formats.check(path, "an ONNX model", "an ONNX model")
        raise PackError(f"{path.name} is not an ONNX model, or it is truncated")
    _internalise(model, path.parent)
    # up to IR version 3 each initialiser had to be an input, too
    constants = {tensor.name for tensor in model.graph.initializer}
    fed = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(fed)
    model.ir_version = max(model.ir_version, 4)
    if not model.graph.input:
        raise PackError("the model has no inputs: its answer is always the same")
    custom = sorted(set(_custom_operators(model)))
    if custom:
        raise PackError(f"custom operators are not supported: {', '.join(custom)}")
    classes, notes = _remove_zipmaps(model.graph), _set_locale(model.graph)
    notes += _flatten_sequences(model)
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.WhichOneof("value")
        if kind not in ("tensor_type", None):
            kind = kind.removesuffix("_type")
            raise PackError(f"{value.name} is a {kind}, and only tensors are supported")
    return Source(model, _all_classes(model.graph, classes), notes)


def inputs(model: ModelProto) -> tuple[Tensor, ...]:
    """Return the graph's inputs. Raise PackError for types that JSON cannot carry."""
    for value in model.graph.input:
        if not value.type.tensor_type.HasField("shape"):
            raise PackError(
                f"{value.name} has no shape, not even a number of axes; export it with one"
            )
    return tuple(describe(value) for value in model.graph.input)


def outputs(model: ModelProto) -> tuple[Tensor, ...]:
    """Return the graph's outputs in its order, with the shapes that it declares."""
    return tuple(describe(value) for value in model.graph.output)


def rows_share_name(model: ModelProto) -> bool:
    """Return whether the names of the inputs' axes let the leading axes be the same rows.

    Axes of different names differ in length, and so do not hold one row for each instance.
    """
    axes = [value.type.tensor_type.shape.dim for value in model.graph.input]
    leading = {
        axis[0].dim_param
        for axis in axes
        if axis and axis[0].dim_param and not GENERATED_AXIS.fullmatch(axis[0].dim_param)
    }
    inner = {size.dim_param for axis in axes for size in axis[1:]}
    return len(leading) < 2 and not leading & inner


def quantises_dynamically(model: ModelProto) -> bool:
    """Return whether a node scales its input by the largest value of the run."""
    return any(node.op_type.startswith("DynamicQuantize") for node in _nodes(model))


def describe(value: onnx.ValueInfoProto) -> Tensor:
    """Return a graph's input or output in the manifest's form; free axes are None."""
    kind = value.type.tensor_type
    if kind.elem_type not in DTYPES:
        name = TensorProto.DataType.Name(kind.elem_type).lower()
        raise PackError(f"{value.name} has the unsupported type {name}")
    sizes = [axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim]
    # some exporters write a free axis as 0 or -1
    shape = tuple(size if size and size > 0 else None for size in sizes)
    axes = tuple(axis.dim_param for axis in kind.shape.dim)
    return Tensor(value.name, DTYPES[kind.elem_type], shape, axes if any(axes) else ())


def optimise(model: ModelProto, level: str) -> ModelProto:
    """Return the graph as onnxruntime runs it at `level`: loading it optimises nothing."""
    if model.ByteSize() >= 2**31:
        raise PackError("the model is over 2 GB, which is more than a function can load in time")
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder, MODEL))
        session(model.SerializeToString(), options)
        optimised = onnx.load_model(Path(folder, MODEL))
    # onnxruntime keeps initializers in a hash map; the same model must give the same bytes
    ordered = sorted(optimised.graph.initializer, key=lambda tensor: tensor.name)
    del optimised.graph.initializer[:]
    optimised.graph.initializer.extend(ordered)
    return optimised


def save(model: ModelProto, directory: Path) -> None:
    """Write model.onnx and, where the weights are large, weights.bin."""
    if sum(map(_bytes, model.graph.initializer)) > LARGE:
        copy, offset = ModelProto(), 0
        copy.CopyFrom(model)
        for tensor in copy.graph.initializer:
            if _bytes(tensor) >= PAGE:
                if not tensor.raw_data:
                    tensor.CopyFrom(
                        numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
                    )
                external_data_helper.set_external_data(
                    tensor, WEIGHTS, offset, len(tensor.raw_data)
                )
                offset += -(-len(tensor.raw_data) // PAGE) * PAGE
        model = external_data_helper.write_external_data_tensors(copy, str(directory))
    (directory / MODEL).write_bytes(model.SerializeToString(deterministic=True))


def traits(directory: Path) -> dict[str, bool]:
    """Return what the manifest's `execution` says of a saved graph."""
    model = onnx.load_model(directory / MODEL, load_external_data=False)
    operators = {node.op_type for node in _nodes(model)}
    return {
        "external_data": (directory / WEIGHTS).exists(),
        "value_dependent_shapes": not operators.isdisjoint(VALUE_DEPENDENT_SHAPES),
    }


def _bytes(tensor: TensorProto) -> int:
    """Return the bytes of a tensor's numbers; 0 for strings, which cannot be memory-mapped."""
    if tensor.data_type == TensorProto.STRING:
        return 0
    itemsize = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    return int(itemsize * math.prod(tensor.dims))


def _graphs(model: ModelProto) -> Iterator[Any]:
    """Yield the main graph, the model's functions, and every graph inside them."""
    todo: list[Any] = [model.graph, *model.functions]
    while todo:
        graph = todo.pop()
        yield graph
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            todo += [attribute.g] if attribute.HasField("g") else list(attribute.graphs)


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    for graph in _graphs(model):
        yield from graph.node


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    sparse: list[onnx.SparseTensorProto] = []
    for graph in _graphs(model):
        if isinstance(graph, GraphProto):
            yield from graph.initializer
            sparse += graph.sparse_initializer
    for attribute in (attribute for node in _nodes(model) for attribute in node.attribute):
        yield from [attribute.t] if attribute.HasField("t") else attribute.tensors
        sparse += [attribute.sparse_tensor] * attribute.HasField("sparse_tensor")
        sparse += attribute.sparse_tensors
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def _internalise(model: ModelProto, folder: Path) -> None:
    """Load external weights into the model. Raise PackError.

    The model's author chose the paths, so one might name /etc/passwd: onnx refuses those outside of
    the folder, and links.
    """
    for tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder.resolve()))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            detail = str(error).split("\n")[0]
            raise PackError(
                f"the external data of {tensor.name} cannot be read: {detail}"
            ) from None
        if len(tensor.raw_data) != _bytes(tensor):
            raise PackError(f"the external data of {tensor.name} is truncated")


def _custom_operators(model: ModelProto) -> Iterator[str]:
    functions = {(function.domain, function.name) for function in model.functions}
    for node in _nodes(model):
        domain = node.domain or "ai.onnx"
        if (node.domain, node.op_type) in functions or domain in RUNTIME_DOMAINS:
            continue
        schema = "" if domain == "ai.onnx" else domain
        if domain not in KNOWN_DOMAINS or not onnx.defs.has(node.op_type, schema):
            yield f"{domain}.{node.op_type}"


def _attribute(node: NodeProto, *names: str) -> Classes:
    """Return the first of the named attributes that has values, with strings decoded."""
    for attribute in node.attribute:
        if attribute.name in names and (values := onnx.helper.get_attribute_value(attribute)):
            return tuple(v.decode() if isinstance(v, bytes) else int(v) for v in values)
    return ()


def _remove_zipmaps(graph: GraphProto) -> dict[str, Classes]:
    """Replace each ZipMap's list of N maps by floats [N, classes], under the same name.

    Return the classes, which were the maps' keys, by output.
    """
    classes = {}
    used = {name for node in graph.node for name in node.input}
    results = {value.name: value for value in graph.output}
    for node in graph.node:
        if node.op_type != "ZipMap" or node.output[0] not in results or node.output[0] in used:
            continue
        name = node.output[0]
        classes[name] = _attribute(node, "classlabels_strings", "classlabels_int64s")
        results[name].CopyFrom(
            onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, len(classes[name])])
        )
        node.CopyFrom(onnx.helper.make_node("Identity", [node.input[0]], [name], node.name))
    return classes


def _flatten_sequences(model: ModelProto) -> tuple[str, ...]:
    """Replace each output that is a sequence of tensors by those tensors, `name_0`, `name_1`, …"""
    graph, notes = model.graph, []
    makers = {name: node for node in graph.node for name in node.output}
    outputs = list(graph.output)
    del graph.output[:]
    for value in outputs:
        node = makers.get(value.name)
        if not node or node.op_type != "SequenceConstruct":
            graph.output.append(value)
            continue
        kind = value.type.sequence_type.elem_type
        for i, tensor in enumerate(node.input):
            name = f"{value.name}_{i}"
            graph.node.append(onnx.helper.make_node("Identity", [tensor], [name]))
            graph.output.append(onnx.helper.make_value_info(name, kind))
        graph.node.remove(node)
        names = f"{value.name}_0 to {value.name}_{len(node.input) - 1}"
        notes.append(f"the sequence {value.name} is flattened to the outputs {names}")
    return tuple(notes)


def _set_locale(graph: GraphProto) -> tuple[str, ...]:
    """Set the locale of StringNormalizers to C.UTF-8, which maps letters in the same way.

    Lambda's image has no en_US.UTF-8, onnxruntime's default. Return the notes.
    """
    notes: tuple[str, ...] = ()
    for node in graph.node:
        named = [attribute for attribute in node.attribute if attribute.name == "locale"]
        default = not named or named[0].s in (b"", b"en_US", b"en_US.UTF-8")
        if node.op_type == "StringNormalizer" and default:
            for attribute in named:
                node.attribute.remove(attribute)
            node.attribute.append(onnx.helper.make_attribute("locale", "C.UTF-8"))
            notes = ("StringNormalizer's locale is now C.UTF-8: Lambda has no en_US.UTF-8",)
    return notes


def _all_classes(graph: GraphProto, zipmaps: dict[str, Classes]) -> dict[str, Classes]:
    """Return the classes of a classifier's outputs, as far as the graph states them."""
    by_output = dict(zipmaps)
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for value in graph.output:
        node = makers.get(value.name)
        while node is not None and node.op_type in SAME_CLASSES:
            node = makers.get(node.input[0])
        if value.name in by_output or node is None:
            continue
        if node.op_type in CLASSIFIERS:
            by_output[value.name] = _attribute(
                node, "classlabels_strings", "classlabels_int64s", "classlabels_ints"
            )
        # by which skl2onnx looks up the most likely class
        elif node.op_type == "ArrayFeatureExtractor" and node.input[0] in constants:
            array = np.ravel(numpy_helper.to_array(constants[node.input[0]])).tolist()
            by_output[value.name] = tuple(v.decode() if isinstance(v, bytes) else v for v in array)
    return {name: classes for name, classes in by_output.items() if classes}
