"""Small artifacts written by hand, so that the handler's tests do not depend on `tools pack`."""

import hashlib
from pathlib import Path
from typing import Any

import orjson
from onnx import TensorProto, helper

FLOAT, INT64, STRING, BOOL = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.STRING,
    TensorProto.BOOL,
)
DTYPES = {FLOAT: "float32", INT64: "int64", STRING: "string", BOOL: "bool"}


def graph(nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> bytes:
    """An ONNX model of opset 18; inputs and outputs are (name, type, shape)."""
    taken, given = [[helper.make_tensor_value_info(*v) for v in vs] for vs in (inputs, outputs)]
    body = helper.make_graph(nodes, "test", taken, given)
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=9)
    return bytes(model.SerializeToString())


def write(directory: Path, model: bytes, **fields: Any) -> Path:
    """An artifact of `model` in `directory`, its manifest made of `fields` and of defaults."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(model)
    digest = {"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)}
    manifest = {
        "format": 1,
        "name": "test",
        "version": "1.2.3",
        "owner": "tests",
        "contract": "tabular" if fields.get("features") else "tensor",
        "files": {"model.onnx": digest},
        "opset": {"": 18},
        "limits": {
            "rows": 1000,
            "body_bytes": 1_000_000,
            "response_bytes": 1_000_000,
            "elements": 10_000,
        },
        "execution": {},
        "lineage": {"why": "tests", "packed_at": "2026-01-01T00:00:00Z", "source_sha256": "0"},
        **fields,
    }
    (directory / "manifest.json").write_bytes(orjson.dumps(manifest))
    return directory


ECHO_FEATURES: list[dict[str, Any]] = [
    {"name": "ratio", "input": "ratio", "type": "number", "minimum": 0, "maximum": 10,
     "example": 0.5},
    {"name": "count", "input": "count", "type": "integer", "minimum": -5, "maximum": 1_000_000,
     "example": 3},
    {"name": "colour", "input": "colour", "type": "category", "categories": ["red", "blue"],
     "example": "red"},
    {"name": "open", "input": "open", "type": "boolean", "example": True},
    {"name": "note/~", "input": "note", "type": "text", "max_length": 20, "example": "hello"},
    {"name": "serum", "input": "serum", "type": "number", "nullable": True, "minimum": 0,
     "maximum": 1, "out_of_range": "accept", "example": 0.25},
]  # fmt: skip
ECHO_INPUTS = [
    ("ratio", FLOAT, [None, 1]),
    ("count", INT64, [None, 1]),
    ("colour", STRING, [None, 1]),
    ("open", BOOL, [None, 1]),
    ("note", STRING, [None, 1]),
    ("serum", FLOAT, [None, 1]),
]


def tensors(inputs: list[Any]) -> list[dict[str, Any]]:
    """The manifest's `inputs` of a graph's."""
    return [{"name": n, "dtype": DTYPES[t], "shape": shape} for n, t, shape in inputs]


def echo(directory: Path, **fields: Any) -> Path:
    """A tabular model of every feature type that answers with its own inputs.

    `serum` comes back as whether it was missing, because NaN is no legal answer.
    """
    nodes = [
        helper.make_node("Identity", [name], [f"{name}_out"])
        for name, _, _ in ECHO_INPUTS
        if name != "serum"
    ]
    nodes.append(helper.make_node("IsNaN", ["serum"], ["serum_out"]))
    outputs = [
        (f"{name}_out", BOOL if name == "serum" else kind, shape)
        for name, kind, shape in ECHO_INPUTS
    ]
    kinds = {FLOAT: "value", INT64: "value", STRING: "tensor", BOOL: "tensor"}
    return write(
        directory,
        graph(nodes, ECHO_INPUTS, outputs),
        **{
            "inputs": tensors(ECHO_INPUTS),
            "features": ECHO_FEATURES,
            "outputs": [
                {
                    "name": tensor.removesuffix("_out"),
                    "tensor": tensor,
                    "dtype": DTYPES[kind],
                    "shape": shape,
                    "kind": kinds[kind],
                }
                for tensor, kind, shape in outputs
            ],
            **fields,
        },
    )


def classifier(directory: Path, **fields: Any) -> Path:
    """One [N,4] tensor, with a number, an integer, a flag and a numeric category for columns; a
    label and the probabilities of four classes out.
    """
    nodes = [
        helper.make_node("Softmax", ["x"], ["odds"], axis=1),
        helper.make_node("ArgMax", ["odds"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [("label", INT64, [None]), ("odds", FLOAT, [None, 4])]
    features = [
        {"name": "size", "type": "number", "minimum": -2.5, "maximum": 9.1, "example": 0.5},
        {"name": "years", "type": "integer", "minimum": 0, "nullable": True, "missing": 3,
         "example": 1},
        {"name": "open:now", "type": "boolean", "example": True},
        {"name": "grade", "type": "category", "categories": [1, 2.5], "example": 2.5},
    ]  # fmt: skip
    parts = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 4]}],
        "features": [{**f, "input": "x", "column": i} for i, f in enumerate(features)],
        "outputs": [
            {"name": name, "tensor": name, "dtype": DTYPES[kind], "shape": shape,
             "kind": "label" if name == "label" else "probabilities", "classes": [0, 1, 2, 3]}
            for name, kind, shape in outputs
        ],
        **fields,
    }  # fmt: skip
    return write(directory, graph(nodes, [("x", FLOAT, [None, 4])], outputs), **parts)


def pair(directory: Path, **fields: Any) -> Path:
    """A tensor contract of two inputs, numbers and words, that answers with both."""
    inputs = [("image", FLOAT, [None, 2, None]), ("words", STRING, [None, None])]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name, _, _ in inputs]
    outputs = [(f"{name}_out", kind, shape) for name, kind, shape in inputs]
    told = [{**t, "tensor": t["name"], "kind": "tensor"} for t in tensors(outputs)]
    parts = {"inputs": tensors(inputs), "outputs": told, **fields}
    return write(directory, graph(nodes, inputs, outputs), **parts)


def ratio(directory: Path, *nodes: Any, **fields: Any) -> Path:
    """One float feature `x` in, the output `y` of a few ONNX nodes out."""
    model = graph(list(nodes), [("x", FLOAT, [None, 1])], [("y", FLOAT, [None, 1])])
    output = {"name": "y", "tensor": "y", "dtype": "float32", "shape": [None, 1], "kind": "value"}
    feature = {"name": "x", "input": "x", "type": "number", "example": 1.0}
    parts = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 1]}],
        "features": [feature],
        "outputs": [output],
        **fields,
    }
    return write(directory, model, **parts)


def endless(directory: Path) -> Path:
    """`x` in; a loop that in practice never ends wherever `x` is positive."""
    less = helper.make_graph(
        [
            helper.make_node("Identity", ["cond"], ["again"]),
            helper.make_node("Identity", ["value"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", INT64, []),
            helper.make_tensor_value_info("cond", BOOL, []),
            helper.make_tensor_value_info("value", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("again", BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, None),
        ],
    )
    return ratio(
        directory,
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "zero"], ["positive"]),
        helper.make_node("Loop", ["", "positive", "x"], ["y"], body=less),
        features=[{"name": "x", "input": "x", "type": "number", "example": -1.0}],
    )


def hungry(directory: Path) -> Path:
    """`x` in and out; the run takes 4 bytes of memory for each of `x`, and fails below 0."""
    return ratio(
        directory,
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["size"], to=INT64),
        helper.make_node("Constant", [], ["axis"], value_ints=[0]),
        helper.make_node("Unsqueeze", ["size", "axis"], ["sizes"]),
        helper.make_node("ConstantOfShape", ["sizes"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    )
