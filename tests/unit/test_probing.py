"""What pack finds out about values and lengths that the sample does not have."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from answerable.packing import execution, graph, probing, sample, table
from answerable.packing.errors import PackError
from answerable.packing.execution import Batch, Samples
from answerable.packing.probing import Prober
from handler.manifest import Feature, Tensor
from tests.fixtures import models

node = helper.make_node
INT64, STRING = TensorProto.INT64, TensorProto.STRING
VECTORS = {"vectors": np.arange(20, dtype=np.float32).reshape(10, 2)}


def probe_table(
    model: bytes, cells: dict[str, list[Any]], stated: dict[str, Any] | None = None
) -> tuple[dict[str, Feature], list[str]]:
    """Return the features of a packed table by name, and the notes."""
    read = onnx.load_from_string(model)
    inputs = graph.inputs(read)
    texts = {name: [str(cell) for cell in column] for name, column in cells.items()}
    types, columns = table.features(texts, inputs, stated or {}, "data.csv")
    feeds = table.feeds(types, inputs, columns)
    prober = Prober(graph.session(model), "dynamic")
    example = sample.Sample(feeds, "dynamic", types, columns)
    probed, notes = probing.features(prober, example, inputs, stated or {})
    return {kind.feature.name: kind.feature for kind in probed}, notes


def probe_tensors(
    model: bytes, feeds: Samples, batch: Batch = "dynamic"
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the inputs of a tensor contract by name, and the notes."""
    inputs = graph.inputs(onnx.load_from_string(model))
    prober = Prober(graph.session(model), batch)
    probed, notes = probing.tensors(prober, sample.Sample(feeds, batch), inputs, batch)
    return {tensor.name: tensor for tensor in probed}, notes


def one_node(operator: str, dtype: int = TensorProto.FLOAT, **attributes: Any) -> bytes:
    """Return a graph of one operator from x [N, 1] to y [N, 1]."""
    shape: list[Any] = ["N", 1]
    inputs, outputs = [models.tensor("x", shape, dtype)], [models.tensor("y", shape, dtype)]
    return models.graph([node(operator, ["x"], ["y"], **attributes)], inputs, outputs)


def lookup(subtract: int = 0) -> bytes:
    """Return a lookup in ten rows by x [N, 1] less a constant."""
    nodes = [node("Sub", ["x", "first"], ["i"]), node("Gather", ["vectors", "i"], ["y"])]
    return models.graph(
        nodes,
        [models.tensor("x", ["N", 1], INT64)],
        [models.tensor("y", ["N", 1, 2])],
        {**VECTORS, "first": np.array(subtract)},
    )


@pytest.mark.parametrize(
    ("operator", "values", "minimum", "maximum"),
    [
        ("Exp", [0.0, 9.0, 4.5], None, 88.7),
        ("Acosh", [2.0, 3.0, 4.0], 1.0, None),
        ("Log", [0.5, 3.0, 4.0], 1e-12, None),
        ("Sqrt", [0.5, 3.0, 4.0], 0.0, None),
        ("Asin", [0.0, 0.5, -0.25], -1.0, 1.0),
        ("Abs", [0.5, 3.0, 4.0], None, None),
    ],
)
def test_features_number_bounds_are_those_of_the_graph(
    operator: str, values: list[float], minimum: float | None, maximum: float | None
) -> None:
    features, notes = probe_table(one_node(operator), {"x": values})
    feature = features["x"]
    if (minimum, maximum) == (None, None):
        assert (feature.minimum, feature.maximum, feature.out_of_range) == (0.5, 4, "accept")
        assert notes == []
        return
    assert feature.out_of_range == "reject"
    for actual, expected in ((feature.minimum, minimum), (feature.maximum, maximum)):
        assert actual == (expected if expected is None else pytest.approx(expected, rel=1e-3))
    assert len(notes) == 1


@pytest.mark.parametrize(("first", "bounds"), [(0, (0, 9)), (1, (1, 10)), (-5, (-5, 4))])
def test_features_lookup_refuses_negative_indices(first: int, bounds: tuple[int, int]) -> None:
    values = [first + i for i in (1, 2, 3, 4)]
    features, notes = probe_table(lookup(first), {"x": values})
    assert (features["x"].minimum, features["x"].maximum) == bounds
    assert notes == [f"x: {bounds[0]} to {bounds[1]}"]


def test_features_failure_inside_of_the_range_is_only_noted() -> None:
    nodes = [node("Div", ["a", "x"], ["y"])]
    inputs = [models.tensor(name, ["N", 1], INT64) for name in "ax"]
    model = models.graph(nodes, inputs, [models.tensor("y", ["N", 1], INT64)])
    features, notes = probe_table(model, {"a": [1, 2, 3], "x": [-2, 3, 1]})
    assert features["x"].out_of_range == "accept"
    assert notes == ["x: fails at 0, which nothing can state: such rows get 422"]


@pytest.mark.parametrize(
    ("stated", "side"),
    [({"minimum": -1.0}, "minimum"), ({"out_of_range": "accept"}, "minimum")],
)
def test_features_statement_that_the_graph_fails_in_is_refused(
    stated: dict[str, Any], side: str
) -> None:
    with pytest.raises(PackError, match=f"feature x: .* the graph fails .*state {side}"):
        probe_table(one_node("Sqrt"), {"x": [1.0, 2.0, 3.0]}, {"x": stated})


def test_features_stated_bounds_stay() -> None:
    stated = {"x": {"minimum": 0.5, "maximum": 20.0}}
    features, notes = probe_table(one_node("Log"), {"x": [1.0, 2.0, 3.0]}, stated)
    assert (features["x"].minimum, features["x"].maximum, notes) == (0.5, 20.0, [])


def encoder(strict: bool) -> bytes:
    """Return an encoder of the texts a and b that fails for others, or gives them 0."""
    if not strict:
        nodes = [
            node(
                "LabelEncoder",
                ["x"],
                ["y"],
                domain="ai.onnx.ml",
                keys_strings=["a", "b"],
                values_floats=[1.0, 2.0],
                default_float=0.0,
            )
        ]
    else:
        nodes = [
            node("OneHotEncoder", ["x"], ["hot"], domain="ai.onnx.ml", cats_strings=["a", "b"],
                 zeros=0),
            node("ReduceSum", ["hot", "axis"], ["y"], keepdims=0),
        ]  # fmt: skip
    weights = {"axis": np.array([2])} if strict else None
    inputs = [models.tensor("x", ["N", 1], STRING)]
    return models.graph(nodes, inputs, [models.tensor("y", ["N", 1])], weights, **{"ai.onnx.ml": 3})


CITIES = {"x": ["a", "b"] * 5}


@pytest.mark.parametrize(("strict", "policy"), [(True, "reject"), (False, "accept")])
def test_features_unknown_category_policy_is_the_graph_s(strict: bool, policy: str) -> None:
    features, notes = probe_table(encoder(strict), CITIES)
    assert features["x"].unknown_category == policy
    assert bool(notes) is not strict


@pytest.mark.parametrize("stated", [{"unknown_category": "reject"}, {"categories": ("a", "b")}])
def test_features_stated_categories_stay(stated: dict[str, Any]) -> None:
    features, notes = probe_table(encoder(strict=False), CITIES, {"x": stated})
    assert (features["x"].unknown_category, notes) == ("reject", [])


def test_features_unknown_category_stated_against_the_graph_is_refused() -> None:
    with pytest.raises(PackError, match="unknown categories, and the graph fails"):
        probe_table(encoder(strict=True), CITIES, {"x": {"unknown_category": "accept"}})


def test_tensors_positions_bound_the_length() -> None:
    nodes = [
        node("Gather", ["vectors", "tokens"], ["t"]),
        node("Shape", ["tokens"], ["n"], start=1),
        node("Squeeze", ["n"], ["length"]),
        node("Range", ["zero", "length", "one"], ["places"]),
        node("Gather", ["vectors", "places"], ["p"]),
        node("Add", ["t", "p"], ["y"]),
    ]
    weights = VECTORS | {"zero": np.array(0), "one": np.array(1)}
    model = models.graph(
        nodes,
        [models.tensor("tokens", ["batch", "words"], INT64)],
        [models.tensor("y", ["batch", "words", 2])],
        weights,
    )
    inputs, notes = probe_tensors(model, {"tokens": np.array([[1, 2, 3]])})
    tokens = inputs["tokens"]
    assert (tokens.minimum, tokens.maximum) == (0, 9)
    assert (tokens.min_shape, tokens.max_shape) == ((None, 1), (None, 10))
    assert notes == ["tokens: 0 to 9", "length of words: at most 10"]


def test_tensors_axes_that_only_work_at_one_length_get_one_name() -> None:
    inputs = [models.tensor("a", ["N", "n1"]), models.tensor("b", ["N", "n2"])]
    model = models.graph([node("Add", ["a", "b"], ["y"])], inputs, [models.tensor("y", ["N", "n"])])
    feeds = {name: np.ones((1, 3), np.float32) for name in "ab"}
    probed, _ = probe_tensors(model, feeds)
    assert probed["a"].axes[1] == probed["b"].axes[1]


def test_tensors_bound_that_moves_with_a_length_is_not_stated() -> None:
    inputs = [models.tensor("boxes", ["N", 4]), models.tensor("keep", ["K"], INT64)]
    nodes = [node("Gather", ["boxes", "keep"], ["y"])]
    model = models.graph(nodes, inputs, [models.tensor("y", ["K", 4])])
    feeds = {"boxes": np.ones((1, 6, 4), np.float32), "keep": np.array([[0, 2]])}
    probed, _ = probe_tensors(model, feeds, "none")
    assert (probed["keep"].minimum, probed["keep"].maximum) == (0, None)


def test_tensors_value_that_sets_a_size_is_bounded() -> None:
    nodes = [node("ConstantOfShape", ["size"], ["y"])]
    model = models.graph(
        nodes, [models.tensor("size", [2], INT64)], [models.tensor("y", ["a", "b"])]
    )
    probed, _ = probe_tensors(model, {"size": np.array([[3, 4]])}, "none")
    assert probed["size"].maximum == 8


def test_tensors_run_that_takes_all_memory_fails_instead() -> None:
    nodes = [
        node("ConstantOfShape", ["size"], ["big"]),
        node("ReduceSum", ["big"], ["y"], keepdims=0),
    ]
    model = models.graph(nodes, [models.tensor("size", [2], INT64)], [models.tensor("y", [])])
    probed, _ = probe_tensors(model, {"size": np.array([[3, 4]])}, "none")
    assert probed["size"].maximum is not None
    assert probed["size"].maximum < 100_000


def test_tensors_loop_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "RUN_SECONDS", 0.2)
    body = helper.make_graph(
        [node("Identity", ["go_in"], ["go_out"]), node("Add", ["sum_in", "sum_in"], ["sum_out"])],
        "body",
        [models.tensor("i", [], INT64), models.tensor("go_in", [], TensorProto.BOOL),
         models.tensor("sum_in", [])],
        [models.tensor("go_out", [], TensorProto.BOOL), models.tensor("sum_out", [])],
    )  # fmt: skip
    zero = numpy_helper.from_array(np.array(0, np.float32))
    nodes = [
        node("Constant", [], ["zero"], value=zero),
        node("Loop", ["rounds", "", "zero"], ["y"], body=body),
    ]
    model = models.graph(nodes, [models.tensor("rounds", [], INT64)], [models.tensor("y", [])])
    prober = Prober(graph.session(model), "none", seconds=1.5)
    rounds = np.array([10**12, 3])
    assert [answer is None for answer in prober.answers({"rounds": rounds})] == [True, False]


def test_prober_out_of_time_says_so() -> None:
    prober = Prober(graph.session(one_node("Abs")), "dynamic", seconds=-1)
    assert prober.answers({"x": np.ones((2, 1), np.float32)}) == [(), ()]
    assert not prober.complete


@pytest.mark.parametrize(("rows", "batch"), [(1, "dynamic"), (2, "dynamic"), (9, "dynamic")])
def test_batch_of_few_rows_is_found(rows: int, batch: Batch) -> None:
    run = execution.runner(graph.session(one_node("Abs")))
    feeds = {"x": np.arange(rows, dtype=np.float32).reshape(-1, 1)}
    assert execution.batch(run, "dynamic", feeds) == batch
    softmax = execution.runner(graph.session(one_node("Softmax", axis=0)))
    assert execution.batch(softmax, "dynamic", feeds) == "none"
