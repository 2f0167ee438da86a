import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from handler.errors import ArtifactError, ContractViolation
from handler.scoring import Scored, Scorer, load
from tests.fixtures import artifact
from tests.fixtures.artifact import ECHO_FEATURES, FLOAT, INT64

GOOD = {f["name"]: f["example"] for f in ECHO_FEATURES}

ROWS = st.fixed_dictionaries(
    {
        "ratio": st.floats(0, 10, width=32),
        "count": st.integers(-5, 1_000_000),
        "colour": st.sampled_from(["red", "blue"]),
        "open": st.booleans(),
        "note/~": st.text(max_size=20),
    },
    optional={"serum": st.none() | st.floats(-2, 2, width=32)},
)


def results(scorer: Scorer, scored: Scored) -> list[Any]:
    return [json.loads(text) for text in scorer.renderer.render_predictions(scored.runs)]


def score(scorer: Scorer, *rows: Any) -> list[Any]:
    return results(scorer, scorer.score(json.dumps({"instances": rows})))


@given(st.lists(ROWS, min_size=1, max_size=8))
@settings(deadline=None)
def test_every_value_reaches_its_own_tensor_and_row(
    echo: Scorer, rows: list[dict[str, Any]]
) -> None:
    scored = echo.score(json.dumps({"instances": rows}))
    serum = [row.get("serum") for row in rows]
    for row, answer, level in zip(rows, results(echo, scored), serum, strict=True):
        assert answer == {
            "ratio": pytest.approx(row["ratio"], rel=1e-6),
            "count": row["count"],
            "colour": [row["colour"]],
            "open": [row["open"]],
            "note": [row["note/~"]],
            "serum": [level is None],
        }
    outside = sum(level is not None and not 0 <= level <= 1 for level in serum)
    assert scored.out_of_range_counts == ({"serum": outside} if outside else {})


def test_a_thousand_rows_keep_their_order(echo: Scorer) -> None:
    rows = [{**GOOD, "count": i} for i in range(1000)]
    assert [row["count"] for row in score(echo, *rows)] == list(range(1000))


def test_a_bound_is_compared_in_the_tensor_s_precision(tmp_path: Path) -> None:
    feature = {
        "name": "x", "input": "x", "type": "number", "minimum": 0.1, "maximum": 0.1,
        "out_of_range": "accept", "example": 0.1,
    }  # fmt: skip
    scorer = load(
        artifact.ratio(tmp_path, helper.make_node("Neg", ["x"], ["y"]), features=[feature])
    )
    assert scorer.score('{"instances":[{"x":0.1}]}').out_of_range_counts == {}
    assert scorer.score('{"instances":[{"x":0.1001},{"x":0},{"x":0.1}]}').out_of_range_counts == {
        "x": 2
    }


def test_features_of_one_tensor_take_their_columns(tmp_path: Path) -> None:
    features = [
        {"name": name, "input": "X", "column": column, "type": "number", "example": 1}
        for name, column in (("c", 2), ("a", 0), ("b", 1))
    ]
    shape = [None, 3]
    directory = artifact.write(
        tmp_path,
        artifact.graph(
            [helper.make_node("Identity", ["X"], ["y"])],
            [("X", FLOAT, shape)],
            [("y", FLOAT, shape)],
        ),
        inputs=[{"name": "X", "dtype": "float32", "shape": shape}],
        features=features,
        outputs=[
            {"name": "y", "tensor": "y", "dtype": "float32", "shape": shape, "kind": "tensor"}
        ],
    )
    found = score(load(directory), {"a": 1, "b": 2, "c": 3}, {"c": 6, "b": 5, "a": 4})
    assert [row["y"] for row in found] == [[1, 2, 3], [4, 5, 6]]


def test_missing_and_unseen_values_become_what_the_contract_says(tmp_path: Path) -> None:
    parts = [("x", FLOAT, [None]), ("n", INT64, [None, 1]), ("s", artifact.STRING, [None, 1])]
    nodes = [helper.make_node("Identity", [name], [f"{name}_"]) for name, _, _ in parts]
    features = [
        {"name": "x", "input": "x", "type": "number", "nullable": True, "fill_value": -1,
         "example": None},
        {"name": "n", "input": "n", "type": "integer", "nullable": True, "fill_value": 7,
         "example": 1},
        {"name": "s", "input": "s", "type": "category", "categories": ["a"],
         "unknown_category": "accept", "nullable": True, "example": "a"},
    ]  # fmt: skip
    directory = artifact.write(
        tmp_path,
        artifact.graph(nodes, parts, [(f"{n}_", kind, shape) for n, kind, shape in parts]),
        inputs=artifact.tensors(parts),
        features=features,
        outputs=[
            {"name": n, "tensor": f"{n}_", "dtype": artifact.DTYPES[kind], "shape": shape,
             "kind": "tensor"}
            for n, kind, shape in parts
        ],
    )  # fmt: skip
    scorer = load(directory)
    scored = scorer.score('{"instances":[{},{"x":2,"n":3,"s":"new"}]}')
    assert results(scorer, scored) == [
        {"x": -1, "n": [7], "s": [""]},
        {"x": 2, "n": [3], "s": ["new"]},
    ]
    assert scored.out_of_range_counts == {"s": 1}


def sums(directory: Path, shape: list[int | None], batch: str = "dynamic", keep: int = 1) -> Scorer:
    """A tensor contract that sums each instance."""
    axes = list(range(keep, len(shape)))
    nodes = [
        helper.make_node("Constant", [], ["axes"], value_ints=axes),
        helper.make_node("ReduceSum", ["t", "axes"], ["y"], keepdims=0),
    ]
    out = shape[:keep]
    return load(
        artifact.write(
            directory,
            artifact.graph(nodes, [("t", INT64, shape)], [("y", INT64, out)]),
            inputs=[{"name": "t", "dtype": "int64", "shape": shape}],
            outputs=[{"name": "y", "tensor": "y", "dtype": "int64", "shape": out, "kind": "value"}],
            execution={"batch": batch},
        )
    )


def test_instances_of_unequal_shape_are_scored_in_their_order(tmp_path: Path) -> None:
    scorer = sums(tmp_path, [None, None])
    found = score(scorer, {"t": [1]}, {"t": [1, 2]}, {"t": [5]}, {"t": []}, {"t": [3, 4]})
    assert [row["y"] for row in found] == [1, 3, 5, 0, 7]


def test_a_fixed_leading_axis_is_run_row_by_row(tmp_path: Path) -> None:
    assert [
        r["y"] for r in score(sums(tmp_path, [1, 2], "single"), {"t": [1, 2]}, {"t": [3, 4]})
    ] == [
        3,
        7,
    ]


def test_a_graph_without_rows_is_run_by_instance(tmp_path: Path) -> None:
    scorer = sums(tmp_path, [2, 2], "none", keep=0)
    assert [r["y"] for r in score(scorer, {"t": [[1, 2], [3, 4]]}, {"t": [[0, 0], [0, 1]]})] == [
        10,
        1,
    ]


@pytest.mark.parametrize(
    ("instance", "pointer", "code"),
    [
        ({}, "/instances/0/t", "missing"),
        ({"t": 1}, "/instances/0/t", "type"),
        ({"t": [[1, 2], [3]]}, "/instances/0/t/1", "wrong_length"),
        ({"t": [[1, 2], 3]}, "/instances/0/t/1", "type"),
        ({"t": [[1, "2"], [3, 4]]}, "/instances/0/t/0/1", "type"),
        ({"t": [[1, 2.5], [3, 4]]}, "/instances/0/t/0/1", "type"),
        ({"t": [[1, 2**63], [3, 4]]}, "/instances/0/t/0/1", "out_of_range"),
        ({"t": [[1, 2], [3, 4]], "u": 1}, "/instances/0", "unknown_field"),
    ],
)
def test_a_violation_in_a_tensor_points_to_its_element(
    tmp_path: Path, instance: Any, pointer: str, code: str
) -> None:
    scorer = sums(tmp_path, [None, 2, 2])
    with pytest.raises(ContractViolation) as caught:
        score(scorer, instance)
    assert [(v.pointer, v.code) for v in caught.value.violations] == [(pointer, code)]


def test_ragged_and_oversized_tensors_are_refused(tmp_path: Path) -> None:
    scorer = sums(tmp_path, [None, None, None])
    for value, code in ([[1, 2], [3]], "ragged"), ([[0] * 5001] * 2, "too_many_elements"):
        with pytest.raises(ContractViolation) as caught:
            score(scorer, {"t": value})
        assert caught.value.violations[0].code == code


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_outputs_of_a_graph_without_rows_keep_their_own_axes(tmp_path: Path, rank: int) -> None:
    shape = [2] * rank
    scorer = load(
        artifact.write(
            tmp_path,
            artifact.graph(
                [helper.make_node("Identity", ["t"], ["y"])],
                [("t", INT64, shape)],
                [("y", INT64, shape)],
            ),
            inputs=[{"name": "t", "dtype": "int64", "shape": shape}],
            outputs=[
                {"name": "y", "tensor": "y", "dtype": "int64", "shape": shape, "kind": "tensor"}
            ],
            execution={"batch": "none"},
        )
    )
    value = np.arange(2**rank).reshape(shape).tolist()
    assert score(scorer, {"t": value}) == [{"y": value}]


def test_a_tensor_model_that_cannot_take_zeros_is_served(tmp_path: Path) -> None:
    shape = [None, 2]
    model = artifact.graph(
        [helper.make_node("Log", ["t"], ["y"])], [("t", FLOAT, shape)], [("y", FLOAT, shape)]
    )
    tensor = {"name": "t", "dtype": "float32", "shape": shape}
    output = {**tensor, "name": "y", "tensor": "y", "kind": "tensor"}
    scorer = load(artifact.write(tmp_path, model, inputs=[tensor], outputs=[output]))
    assert score(scorer, {"t": [1, 1]}) == [{"y": [0, 0]}]


@pytest.mark.fault(
    "The model answers NaN or infinity",
    "422 at the row, never a null or an invalid document",
)
def test_an_answer_that_is_not_finite_is_a_violation_not_a_null(tmp_path: Path) -> None:
    scorer = load(artifact.ratio(tmp_path, helper.make_node("Log", ["x"], ["y"])))
    assert score(scorer, {"x": 1}) == [{"y": 0}]
    with pytest.raises(ContractViolation) as caught:
        score(scorer, {"x": 1}, {"x": 0})
    assert caught.value.violations[0].pointer == "/instances/1"


@pytest.mark.fault(
    "The model fails on its contract's own example",
    "It is not served: 503 with the reason",
)
def test_a_model_that_fails_on_its_example_is_not_served(tmp_path: Path) -> None:
    feature = {"name": "x", "input": "x", "type": "number", "example": -1.0}
    directory = artifact.ratio(tmp_path, helper.make_node("Log", ["x"], ["y"]), features=[feature])
    with pytest.raises(ArtifactError, match="its own example"):
        load(directory)


def test_float64_keeps_its_digits(tmp_path: Path) -> None:
    shape = [None, 1]
    model = artifact.graph(
        [helper.make_node("Identity", ["x"], ["y"])], [("x", 11, shape)], [("y", 11, shape)]
    )
    tensor = {"name": "x", "dtype": "float64", "shape": shape}
    scorer = load(
        artifact.write(
            tmp_path,
            model,
            inputs=[tensor],
            features=[{"name": "x", "input": "x", "type": "number", "example": 1}],
            outputs=[{**tensor, "name": "y", "tensor": "y", "kind": "value"}],
        )
    )
    assert score(scorer, {"x": np.pi})[0]["y"] == np.pi


def test_times_are_those_of_their_steps(echo: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(100.0)  # each look at the clock is a second after the last
    monkeypatch.setattr("handler.scoring.perf_counter", lambda: next(ticks))
    scored = echo.score(json.dumps({"instances": [GOOD]}))
    assert scored.seconds == {"validate": 1, "run": 1, "convert": 2}
