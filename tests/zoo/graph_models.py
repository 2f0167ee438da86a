"""Graphs written by hand: wide tables, odd names, and the kinds of graphs that exporters make."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, load_from_string, numpy_helper

from tests.zoo.registry import Arrays, Built, Table, accepted, misread, refused, zoo

FLOAT, FLOAT16, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE
INT64, UINT8, BOOL, STRING = (
    TensorProto.INT64,
    TensorProto.UINT8,
    TensorProto.BOOL,
    TensorProto.STRING,
)
ROWS = 300

node = helper.make_node


def value(name: str, shape: list[int | str], dtype: int = FLOAT) -> Any:
    """Return a graph's input or output; a string in `shape` names a free axis."""
    return helper.make_tensor_value_info(name, dtype, shape)


def graph(
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    weights: Arrays | None = None,
    opset: int = 18,
    ir_version: int = 9,
    ml: int = 0,
    custom: str = "",
) -> bytes:
    """Return the ONNX bytes of a graph; `ml` adds ai.onnx.ml, `custom` another domain."""
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid("ai.onnx.ml", ml)] if ml else []
    opsets += [helper.make_opsetid(custom, 1)] if custom else []
    body = helper.make_graph(nodes, "zoo", inputs, outputs, tensors)
    model = helper.make_model(body, opset_imports=opsets, ir_version=ir_version)
    return bytes(model.SerializeToString(deterministic=True))


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Return seeded normal numbers with two decimals."""
    return np.random.default_rng(seed).normal(size=shape).round(2).astype(np.float32)


def table(names: list[str], rows: int = ROWS) -> Table:
    """Return a table of numbers with two decimals."""
    columns = np.random.default_rng(1).normal(size=(len(names), rows)).round(2)
    return dict(zip(names, columns.tolist(), strict=True))


# --- tables of any width ----------------------------------------------------------------------


def linear(width: int, output: str = "y") -> bytes:
    """Return a linear model of one tensor [N, width]."""
    return graph(
        [node("MatMul", ["X", "W"], [output])],
        [value("X", ["N", width])],
        [value(output, ["N", 1])],
        {"W": normal(width, 1)},
    )


def linear_columns(names: list[str], output: str = "y") -> bytes:
    """Return a linear model of one tensor [N, 1] per column."""
    return graph(
        [node("Concat", names, ["X_all"], axis=1), node("MatMul", ["X_all", "W_all"], [output])],
        [value(name, ["N", 1]) for name in names],
        [value(output, ["N", 1])],
        {"W_all": normal(len(names), 1)},
    )


@zoo("table")
def table_1() -> Built:
    """A table of one column."""
    return Built(linear(1), table(["temperature"]))


@zoo("table")
def table_15() -> Built:
    """A table of 15 columns, one input each: a few rows make a body of 4,096 characters."""
    names = [f"customer_feature_{i}" for i in range(15)]
    return Built(linear_columns(names), table(names))


@zoo("table", fast=False)
def table_60() -> Built:
    """A table of 60 columns in one tensor."""
    return Built(linear(60), table([f"sensor_{i:02}_mean" for i in range(60)]))


@zoo("table", fast=False)
def table_120() -> Built:
    """A table of 120 columns, one input each."""
    names = [f"customer_feature_{i}" for i in range(120)]
    return Built(linear_columns(names), table(names))


@zoo("table", fast=False)
def table_300() -> Built:
    """A table of 300 columns in one tensor."""
    return Built(linear(300), table([f"spectrum_{400 + 2 * i}_nm" for i in range(300)]))


@zoo(
    "table",
    requests=(
        accepted("inside the sample", price=1.5, count=3, flag=True, kind="b", whole=7),
        misread("a text for a number", price="1.5", count=3, flag=True, kind="b", whole=7),
        misread("half of an integer", price=1.5, count=3.5, flag=True, kind="b", whole=7),
        refused("over int64", price=1.5, count=2**63, flag=True, kind="b", whole=7),
        refused("over int32", price=1.5, count=3, flag=True, kind="b", whole=2**31),
        refused("309 digits", price=10**309, count=3, flag=True, kind="b", whole=7),
    ),
)
def mixed_columns() -> Built:
    """One [N] or [N, 1] input of each dtype: float, int64, bool, string and int32."""
    nodes = [
        node("Cast", ["count"], ["count_f"], to=FLOAT),
        node("Cast", ["flag"], ["flag_f"], to=FLOAT),
        node("Cast", ["whole"], ["whole_f"], to=FLOAT),
        node(
            "LabelEncoder",
            ["kind"],
            ["kind_f"],
            domain="ai.onnx.ml",
            keys_strings=["b"],
            values_floats=[1.0],
            default_float=0.0,
        ),
        node("Sum", ["price", "count_f", "flag_f", "whole_f", "kind_f"], ["cost"]),
    ]
    inputs = [
        value("price", ["N"]),
        value("count", ["N"], INT64),
        value("flag", ["N"], BOOL),
        value("kind", ["N"], STRING),
        value("whole", ["N"], TensorProto.INT32),
    ]
    sample: Table = {
        "price": [i / 4 for i in range(ROWS)],
        "count": [i % 7 for i in range(ROWS)],
        "flag": [i % 3 == 0 for i in range(ROWS)],
        "kind": [("a", "b", "c")[i % 3] for i in range(ROWS)],
        "whole": [i % 11 for i in range(ROWS)],
    }
    return Built(graph(nodes, inputs, [value("cost", ["N"])], ml=3), sample)


# --- names ------------------------------------------------------------------------------------

LONG_NAME = "average_number_of_card_payments_per_customer_over_the_last_twelve_months"
ODD_NAMES = [
    "age_<30",
    "age_>30",
    "a b",
    "a_b",
    "größe",
    "straße (m²)",
    'the "quoted" one',
    "price, net",
    "50%",
    "a/b",
    "a~b",
    "{braces}",
    "[brackets]",
    "<b>bold</b>",
    "$ref",
    "it's",
    "back\\slash",
    "0",
    "ключ",
    "身長",
    "=SUM(A1)",
    LONG_NAME,
]


@zoo("names")
def names_escaped() -> Built:
    """Column names that need escaping, fold to one identifier, or have 72 characters."""
    return Built(linear(len(ODD_NAMES)), table(ODD_NAMES))


@zoo("names")
def names_reserved() -> Built:
    """Columns with the names of the product and its protocols: `id`, `instances`, `inputs`."""
    names = ["id", "prediction_id", "instances", "inputs", "outputs", "parameters", "predictions"]
    return Built(linear(len(names)), table(names))


@zoo("names", fast=False)
def names_inputs() -> Built:
    """Graph inputs with names that need escaping, one per column."""
    names = ["age (years)", "größe", "serving_default_x:0", "a b", "a_b", "id", LONG_NAME]
    return Built(linear_columns(names), table(names))


@zoo("names", expected="prediction_id")
def names_output_prediction_id() -> Built:
    """An output called `prediction_id`, which the Open Inference Protocol has from the product."""
    return Built(linear(3, "prediction_id"), table(["a", "b", "c"]))


@zoo("names", contract='[outputs.id]\nname = "score"\n')
def names_output_renamed() -> Built:
    """An output called `id` that the contract file renames."""
    return Built(linear(3, "id"), table(["a", "b", "c"]))


def sums(names: list[str]) -> Built:
    """Return a graph whose outputs of these names are all the sum of the row."""
    nodes = [node("ReduceSum", ["X", "axes"], [name], keepdims=1) for name in names]
    outputs = [value(name, ["N", 1]) for name in names]
    weights: Arrays = {"axes": np.array([1], np.int64)}
    return Built(graph(nodes, [value("X", ["N", 3])], outputs, weights), table(["a", "b", "c"]))


@zoo("names")
def names_outputs() -> Built:
    """Outputs whose names need escaping."""
    return sums(["StatefulPartitionedCall:0", "größe", "a b", LONG_NAME])


@zoo("names", expected="same name")
def names_outputs_folded() -> Built:
    """Two outputs whose names fold to one identifier: `a b` and `a_b`."""
    return sums(["a b", "a_b"])


# --- the leading axis is not always the rows --------------------------------------------------


def over_axis_0(operator: str, output: Any, inputs: list[str], **attributes: Any) -> Built:
    """Return a graph of one operator over the free leading axis of x[N, 3], and four instances."""
    weights: Arrays = {"axis": np.array(0, np.int64)} if "axis" in inputs else {}
    nodes = [node(operator, inputs, ["y"], **attributes)]
    return Built(graph(nodes, [value("x", ["N", 3])], [output], weights), {"x": normal(4, 5, 3)})


def softmax_over_axis_0() -> bytes:
    """Return Softmax over the free leading axis of x[N, 2, 2]."""
    nodes = [node("Softmax", ["x"], ["y"], axis=0)]
    return graph(nodes, [value("x", ["N", 2, 2])], [value("y", ["N", 2, 2])])


@zoo("graph", batch="none")
def softmax_axis_0() -> Built:
    """Softmax over the free leading axis: an instance is the whole tensor [N, 2, 2]."""
    return Built(softmax_over_axis_0(), {"x": normal(4, 5, 2, 2)})


@zoo("graph", batch="none", fast=False)
def softmax_axis_0_drawn() -> Built:
    """Softmax over the free leading axis, packed without a sample."""
    return Built(softmax_over_axis_0(), None)


@zoo("table", expected="row")
def table_rows_interact() -> Built:
    """A table whose rows interact: each column is centred on the mean of the request's rows."""
    nodes = [node("ReduceMean", ["X", "axes"], ["mean"]), node("Sub", ["X", "mean"], ["y"])]
    weights: Arrays = {"axes": np.array([0], np.int64)}
    model = graph(nodes, [value("X", ["N", 3])], [value("y", ["N", 3])], weights)
    return Built(model, table(["a", "b", "c"]))


@zoo("graph", batch="none", fast=False)
def argmax_axis_0() -> Built:
    """ArgMax over the free leading axis: the output has no free axis at all."""
    return over_axis_0("ArgMax", value("y", [1, 3], INT64), ["x"], axis=0)


@zoo("graph", batch="none", fast=False)
def cumsum_axis_0() -> Built:
    """CumSum over the free leading axis."""
    return over_axis_0("CumSum", value("y", ["N", 3]), ["x", "axis"])


@zoo("graph", batch="none")
def softmax_fixed() -> Built:
    """Softmax over axis 0 of a fixed [2, 2, 2]: the first axis is no batch."""
    nodes = [node("Softmax", ["x"], ["y"], axis=0)]
    model = graph(nodes, [value("x", [2, 2, 2])], [value("y", [2, 2, 2])])
    return Built(model, {"x": normal(4, 2, 2, 2)})


@zoo("graph", batch="none", fast=False)
def gather_boxes() -> Built:
    """Two free leading axes of different names: Gather(boxes[N, 4], keep[K])."""
    nodes = [node("Gather", ["boxes", "keep"], ["kept"], axis=0)]
    inputs = [value("boxes", ["N", 4]), value("keep", ["K"], INT64)]
    sample: Arrays = {
        "boxes": normal(3, 6, 4),
        "keep": np.array([[0, 2], [5, 1], [3, 3]], np.int64),
    }
    return Built(graph(nodes, inputs, [value("kept", ["K", 4])]), sample)


@zoo("graph", batch="none", fast=False, expected="different shapes")
def width_of_the_values() -> Built:
    """NonZero: the size of the output depends on the values."""
    nodes = [node("NonZero", ["x"], ["where"])]
    model = graph(nodes, [value("x", [6])], [value("where", [1, "K"], INT64)])
    return Built(model, {"x": np.array([[0, 1, 0, 2, 0, 3], [0] * 6, [1] * 6], np.float32)})


@zoo("graph", batch="none", fast=False)
def width_of_the_longest_row() -> Built:
    """Each row is cut at the longest length of its batch: rows alone have another width."""
    nodes = [
        node("ReduceMax", ["length"], ["longest"], keepdims=1),
        node("Slice", ["x", "zero", "longest", "one"], ["cut"]),
    ]
    model = graph(
        nodes,
        [value("x", ["N", 8]), value("length", ["N"], INT64)],
        [value("cut", ["N", "longest"])],
        {"zero": np.array([0], np.int64), "one": np.array([1], np.int64)},
    )
    sample: Arrays = {"x": normal(3, 4, 8), "length": np.array([[1, 2, 3, 4]] * 3, np.int64)}
    return Built(model, sample)


# --- ranks, dtypes and outputs ----------------------------------------------------------------


@zoo("graph", batch="none")
def scalar_input() -> Built:
    """A rank-0 input beside a tensor: Add(x[N, 3, 3], k[])."""
    nodes = [node("Add", ["x", "k"], ["y"])]
    inputs = [value("x", ["N", 3, 3]), value("k", [])]
    sample: Arrays = {"x": normal(4, 2, 3, 3), "k": np.array([0.5, 1, -1, 2], np.float32)}
    return Built(graph(nodes, inputs, [value("y", ["N", 3, 3])]), sample)


@zoo("graph", batch="none", fast=False)
def scalars_only() -> Built:
    """Rank-0 inputs and a rank-0 output."""
    nodes = [node("Mul", ["width", "height"], ["area"])]
    sample: Arrays = {
        "width": np.array([1, 2.5, 4], np.float32),
        "height": np.array([2, 2, 0.5], np.float32),
    }
    return Built(
        graph(nodes, [value("width", []), value("height", [])], [value("area", [])]), sample
    )


@zoo("graph", batch="none", expected="no inputs")
def no_inputs() -> Built:
    """A graph without inputs: it always returns the same three numbers."""
    nodes = [node("Identity", ["W"], ["y"])]
    return Built(graph(nodes, [], [value("y", [3])], {"W": normal(3)}), None)


@zoo("graph")
def string_tensor() -> Built:
    """Strings [N] beside a tensor [N, 2, 2]: no table, although one input looks like a column."""
    nodes = [
        node(
            "LabelEncoder",
            ["word"],
            ["factor"],
            domain="ai.onnx.ml",
            keys_strings=["double", "half"],
            values_floats=[2.0, 0.5],
            default_float=1.0,
        ),
        node("Unsqueeze", ["factor", "axes"], ["factors"]),
        node("Mul", ["image", "factors"], ["scaled"]),
    ]
    model = graph(
        nodes,
        [value("word", ["N"], STRING), value("image", ["N", 2, 2])],
        [value("scaled", ["N", 2, 2])],
        {"axes": np.array([1, 2], np.int64)},
        ml=3,
    )
    return Built(
        model, {"word": np.array(["double", "half", "as it is"]), "image": normal(3, 2, 2)}
    )


@zoo("text", fast=False)
def string_to_string() -> Built:
    """A text [N] and its label [N]: strings in, strings out."""
    nodes = [
        node(
            "LabelEncoder",
            ["country"],
            ["continent"],
            domain="ai.onnx.ml",
            keys_strings=["Kenya", "Peru", "Nepal"],
            values_strings=["Africa", "America", "Asia"],
            default_string="unknown",
        )
    ]
    model = graph(
        nodes, [value("country", ["N"], STRING)], [value("continent", ["N"], STRING)], ml=3
    )
    return Built(model, {"country": ["Kenya", "Peru", "Nepal", "Chile"] * 20})


def zipmap(rows: int) -> bytes:
    """Return a linear classifier with ZipMap and a fixed number of rows."""
    nodes = [
        node(
            "LinearClassifier",
            ["X"],
            ["label", "scores"],
            domain="ai.onnx.ml",
            classlabels_strings=["cat", "dog"],
            coefficients=[-1.0, 0.5, 0.25, 1.0, -0.5, -0.25],
            intercepts=[0.1, -0.1],
            post_transform="SOFTMAX",
        ),
        node(
            "ZipMap",
            ["scores"],
            ["probabilities"],
            domain="ai.onnx.ml",
            classlabels_strings=["cat", "dog"],
        ),
    ]
    maps = helper.make_sequence_type_proto(
        helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, []))
    )
    outputs = [
        value("label", [rows], STRING),
        helper.make_value_info("probabilities", maps),
    ]
    return graph(nodes, [value("X", [rows, 3])], outputs, ml=3)


@zoo("table", batch="single", fast=False)
def zipmap_one_row() -> Built:
    """ZipMap behind a fixed batch of one row."""
    return Built(zipmap(1), table(["a", "b", "c"]))


@zoo("graph", batch="none", fast=False)
def zipmap_four_rows() -> Built:
    """ZipMap behind a fixed batch of four rows: an instance is the tensor [4, 3]."""
    return Built(zipmap(4), {"X": normal(3, 4, 3)})


@zoo(
    "tensor",
    requests=(
        accepted("a small image", image=[[[0.5] * 8] * 6] * 3),
        accepted("a wide image", image=[[[0.5] * 64] * 8] * 3),
    ),
)
def detector() -> Built:
    """Two free inner axes: image [N, 3, height, width] to a heat map and the best score."""
    nodes = [
        node("Conv", ["image", "w"], ["map"], pads=[1] * 4, strides=[2, 2]),
        node("Sigmoid", ["map"], ["heat"]),
        node("GlobalMaxPool", ["heat"], ["peak"]),
        node("Flatten", ["peak"], ["best"]),
    ]
    model = graph(
        nodes,
        [value("image", ["N", 3, "height", "width"])],
        [value("heat", ["N", 2, "h", "w"]), value("best", ["N", 2])],
        {"w": normal(2, 3, 3, 3)},
    )
    return Built(model, {"image": normal(3, 3, 16, 12)})


@zoo("table", fast=False, contract="[features.x]\nminimum = -1000\nmaximum = 1000\n")
def float16_output() -> Built:
    """A float16 output, whose values JSON has with few digits; bounds are stated."""
    nodes = [node("Mul", ["x", "factor"], ["y32"]), node("Cast", ["y32"], ["y"], to=FLOAT16)]
    model = graph(
        nodes,
        [value("x", ["N", 1])],
        [value("y", ["N", 1], FLOAT16)],
        {"factor": np.array([1.5], np.float32)},
    )
    return Built(model, table(["x"]))


@zoo(
    "table",
    fast=False,
    requests=(
        accepted("inside of float16", x=1.5),
        refused("100,000 is infinite in float16", x=100_000),
    ),
)
def float16_input() -> Built:
    """A float16 input: numbers over 65,504 become infinite."""
    nodes = [node("Add", ["x", "x"], ["twice"]), node("Cast", ["twice"], ["y"], to=FLOAT)]
    return Built(
        graph(nodes, [value("x", ["N", 1], FLOAT16)], [value("y", ["N", 1])]), table(["x"])
    )


@zoo("tensor", fast=False)
def bytes_image() -> Built:
    """A uint8 image [N, 4, 4, 3] to the mean of its channels and to a mask of booleans."""
    nodes = [
        node("Cast", ["image"], ["floats"], to=FLOAT),
        node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        node("Greater", ["floats", "limit"], ["bright"]),
    ]
    model = graph(
        nodes,
        [value("image", ["N", 4, 4, 3], UINT8)],
        [value("mean", ["N", 3]), value("bright", ["N", 4, 4, 3], BOOL)],
        {"axes": np.array([1, 2], np.int64), "limit": np.array(127, np.float32)},
    )
    pixels = np.random.default_rng(2).integers(0, 256, (4, 4, 4, 3)).astype(np.uint8)
    return Built(model, {"image": pixels})


@zoo("table", fast=False)
def labels_only() -> Built:
    """One int64 output [N]: a class without probabilities."""
    nodes = [node("MatMul", ["X", "W"], ["scores"]), node("ArgMax", ["scores"], ["label"], axis=1)]
    nodes[1].attribute.append(helper.make_attribute("keepdims", 0))
    model = graph(
        nodes, [value("X", ["N", 4])], [value("label", ["N"], INT64)], {"W": normal(4, 3)}
    )
    return Built(model, table(["a", "b", "c", "d"]))


DECISION = """
[outputs.risk]
unit = "share"
[outputs.risk.decision]
threshold = 0.5
above = "decline"
below = "approve"
"""


@zoo("table", contract=DECISION)
def decision_threshold() -> Built:
    """One number between 0 and 1 with a stated threshold."""
    nodes = [node("MatMul", ["X", "W"], ["logit"]), node("Sigmoid", ["logit"], ["risk"])]
    model = graph(nodes, [value("X", ["N", 3])], [value("risk", ["N", 1])], {"W": normal(3, 1)})
    return Built(model, table(["debt", "income", "age"]))


# --- what the graph cannot take ---------------------------------------------------------------


@zoo(
    "tokens",
    requests=(
        accepted("the last token", tokens=[31]),
        accepted("a longer text than the sample's", tokens=[1] * 40),
        refused("a token too far", tokens=[1, 32]),
        refused("token 99999", tokens=[99999]),
        misread("token -1, which Gather counts from the end", tokens=[1, -1]),
    ),
)
def token_lookup() -> Built:
    """Tokens [batch, sequence] below 32, looked up and averaged."""
    nodes = [
        node("Gather", ["vectors", "tokens"], ["scores"]),
        node("ReduceMean", ["scores", "axes"], ["mean"], keepdims=0),
    ]
    model = graph(
        nodes,
        [value("tokens", ["batch", "sequence"], INT64)],
        [value("scores", ["batch", "sequence", 4]), value("mean", ["batch", 4])],
        {"vectors": normal(32, 4), "axes": np.array([1], np.int64)},
    )
    return Built(model, {"tokens": np.random.default_rng(3).integers(0, 32, (6, 7))})


@zoo(
    "table",
    fast=False,
    requests=(
        accepted("inside the sample", total=12, count=-3),
        refused("0 is inside the sample's range, and the graph fails", total=12, count=0),
    ),
)
def integer_division() -> Built:
    """An integer division: it fails at 0, in the middle of the sample's range."""
    nodes = [node("Div", ["total", "count"], ["per_item"])]
    inputs = [value("total", ["N", 1], INT64), value("count", ["N", 1], INT64)]
    rng = np.random.default_rng(4)
    sample: Table = {
        "total": rng.integers(-100, 100, ROWS).tolist(),
        "count": (rng.integers(1, 6, ROWS) * rng.choice([-1, 1], ROWS)).tolist(),
    }
    return Built(graph(nodes, inputs, [value("per_item", ["N", 1], INT64)]), sample)


@zoo(
    "table",
    fast=False,
    requests=(
        accepted("5 days", days=5),
        refused("a number of days whose exponential is infinite in float32", days=100),
    ),
)
def exponential() -> Built:
    """Exp: infinite far above the sample, 0 far below it."""
    nodes = [node("Exp", ["days"], ["growth"])]
    sample = {"days": np.random.default_rng(5).uniform(0, 9, ROWS).round(2).tolist()}
    return Built(graph(nodes, [value("days", ["N", 1])], [value("growth", ["N", 1])]), sample)


# --- old, new and foreign graphs --------------------------------------------------------------


@zoo("graph")
def ir3_equal_initialisers() -> Built:
    """IR 3: two equal initialisers, both also inputs, as exporters of 2018 wrote them."""
    shape: Any = np.array([0, 3], np.int64)
    nodes = [
        node("Reshape", ["x", "s1"], ["r1"]),
        node("Softmax", ["r1"], ["soft"], axis=1),
        node("Reshape", ["soft", "s2"], ["y"]),
    ]
    model = graph(
        nodes,
        [value("x", ["N", 3, 1]), value("s1", [2], INT64), value("s2", [2], INT64)],
        [value("y", ["N", 3])],
        {"s1": shape, "s2": shape},
        opset=8,
        ir_version=3,
    )
    return Built(model, {"x": normal(4, 3, 1)})


@zoo("table", fast=False)
def ir3_default_weights() -> Built:
    """IR 3, opset 7: the weights of a Gemm are inputs with initialisers."""
    model = graph(
        [node("Gemm", ["X", "W", "b"], ["y"])],
        [value("X", ["N", 3]), value("W", [3, 2]), value("b", [2])],
        [value("y", ["N", 2])],
        {"W": normal(3, 2), "b": normal(2)},
        opset=7,
        ir_version=3,
    )
    return Built(model, table(["a", "b", "c"]))


@zoo("graph", expected="opset", runs=False)
def opset_too_new() -> Built:
    """Operator set 99."""
    model = load_from_string(linear(3))
    model.opset_import[0].version = 99
    return Built(bytes(model.SerializeToString(deterministic=True)), table(["a", "b", "c"]))


@zoo("graph", expected=r"com\.example", runs=False)
def custom_operator() -> Built:
    """An operator of a domain that onnxruntime does not have."""
    model = graph(
        [node("Fancy", ["X"], ["y"], domain="com.example")],
        [value("X", ["N", 3])],
        [value("y", ["N", 1])],
        custom="com.example",
    )
    return Built(model, table(["a", "b", "c"]))


@zoo("graph", expected="sequence")
def sequence_output() -> Built:
    """An output that is a sequence of tensors, and no tensor."""
    nodes = [node("SplitToSequence", ["X"], ["parts"], axis=1, keepdims=1)]
    parts = helper.make_value_info(
        "parts", helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, ["N", 1]))
    )
    return Built(graph(nodes, [value("X", ["N", 3])], [parts]), table(["a", "b", "c"]))


@zoo("table", fast=False)
def metadata_of_a_build() -> Built:
    """A producer version of many lines, markup in the description, and metadata."""
    model = load_from_string(linear(3))
    model.producer_name = "trainer"
    model.producer_version = "Git info:\n    Commit: 0000000\n" + "    Line: [red]x[/red]\n" * 12
    model.doc_string = "<script>alert(1)</script> [bold]A model[/bold]\n\nof two paragraphs"
    helper.set_model_props(model, {"training": '{"loss": "RMSE"}' * 200})
    return Built(bytes(model.SerializeToString(deterministic=True)), table(["a", "b", "c"]))


@zoo("graph", batch="none", fast=False)
def control_flow() -> Built:
    """If: one of two branches runs, by the sum of the tensor."""

    def branch(name: str, operator: str) -> Any:
        nodes = [node(operator, ["x"], [name])]
        return helper.make_graph(nodes, name, [], [value(name, ["N", 2, 2])])

    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["positive"]),
        node(
            "If",
            ["positive"],
            ["y"],
            then_branch=branch("then", "Abs"),
            else_branch=branch("else", "Neg"),
        ),
    ]
    model = graph(
        nodes,
        [value("x", ["N", 2, 2])],
        [value("y", ["N", 2, 2])],
        {"zero": np.array(0, np.float32)},
    )
    return Built(model, {"x": normal(4, 3, 2, 2)})
