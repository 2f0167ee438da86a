"""A client's value that only the graph refuses is a 422 at its row; the model's faults are 500."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from handler import app
from handler.settings import Settings
from tests.fixtures import artifact, events, protocols
from tests.fixtures.artifact import FLOAT, INT64
from tests.fixtures.events import Context


@pytest.fixture(scope="module")
def lookup(tmp_path_factory: pytest.TempPathFactory) -> app.Handler:
    """Return a model that looks a row up in a table of ten: other indices make the run fail."""
    table = helper.make_tensor("table", FLOAT, [10], [float(i) for i in range(10)])
    graph = artifact.graph(
        [
            helper.make_node("Constant", [], ["t"], value=table),
            helper.make_node("Gather", ["t", "item"], ["y"]),
        ],
        [("item", INT64, [None, 1])],
        [("y", FLOAT, [None, 1])],
    )
    return handler(tmp_path_factory.mktemp("lookup"), graph, "item", "int64", "integer")


@pytest.fixture(scope="module")
def logarithm(tmp_path_factory: pytest.TempPathFactory) -> app.Handler:
    """Return a model that answers with -inf for 0 and with NaN below."""
    graph = artifact.graph(
        [helper.make_node("Log", ["x"], ["y"])],
        [("x", FLOAT, [None, 1])],
        [("y", FLOAT, [None, 1])],
    )
    return handler(tmp_path_factory.mktemp("logarithm"), graph, "x", "float32", "number")


def handler(directory: Path, graph: Any, name: str, dtype: str, kind: str) -> app.Handler:
    feature = {"name": name, "input": name, "type": kind, "example": 1}
    output = {"name": "y", "tensor": "y", "dtype": "float32", "shape": [None, 1], "kind": "value"}
    inputs = [{"name": name, "dtype": dtype, "shape": [None, 1]}]
    artifact.write(directory, graph, inputs=inputs, features=[feature], outputs=[output])
    return app.create(Settings(directory))


def post(
    app_handler: app.Handler, body: Any, path: str = "/predict", kind: str = "application/json"
) -> tuple[int, Any]:
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    answer = app_handler(events.rest(text, path, headers={"Content-Type": kind}), Context())
    document = json.loads(answer["body"])
    if answer["statusCode"] == 200:
        return 200, [prediction["y"] for prediction in document["predictions"]]
    return answer["statusCode"], [(v["pointer"], v["code"]) for v in document.get("errors", ())]


@pytest.mark.fault(
    "a value that the contract takes makes the run fail, or its output NaN",
    "422 model_rejected at the row; 500 only if the model fails on its own example too",
)
@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_a_row_that_the_graph_refuses_is_named(lookup: app.Handler, rows: int) -> None:
    items = [i % 10 for i in range(rows)]
    assert post(lookup, {"instances": [{"item": i} for i in items]}) == (200, items)
    items[rows // 2] = 11
    status, errors = post(lookup, {"instances": [{"item": i} for i in items]})
    assert (status, errors) == (422, [(f"/instances/{rows // 2}", "model_rejected")])


def test_at_most_twenty_rows_are_named(lookup: app.Handler) -> None:
    for rows in (20, 21, 500):
        more = "; only the first are listed" if rows > 20 else ""
        text = json.dumps({"instances": [{"item": 99}] * rows})
        answer = lookup(events.rest(text), Context())
        problem = json.loads(answer["body"])
        assert problem["detail"] == f"20 violations of the contract{more}"
        pointers = [error["pointer"] for error in problem["errors"]]
        assert pointers == [f"/instances/{i}" for i in range(20)]


def test_rows_without_a_finite_output_are_named(logarithm: app.Handler) -> None:
    rows = [{"x": x} for x in (1, 0, 2, -1)]
    expected = [("/instances/1", "model_rejected"), ("/instances/3", "model_rejected")]
    assert post(logarithm, {"instances": rows}) == (422, expected)


def test_every_protocol_points_at_its_rows(logarithm: app.Handler) -> None:
    for body, where in (
        ({"instances": [{"x": 1}, {"x": 0}]}, "/instances/1"),
        ({"dataframe_records": [{"x": 1}, {"x": 0}]}, "/dataframe_records/1"),
        ({"dataframe_split": {"columns": ["x"], "data": [[1], [0]]}}, "/dataframe_split/data/1"),
        ({"inputs": [[1], [0]]}, "/inputs/1"),
        ({"inputs": {"x": [1, 0]}}, "/inputs"),
    ):
        assert post(logarithm, body, "/invocations") == (422, [(where, "model_rejected")])
    text = "x\n1\n0\n"
    assert post(logarithm, text, "/invocations", "text/csv") == (422, [("/1", "model_rejected")])
    file = io.BytesIO()
    np.save(file, np.array([[1.0], [0.0]]))
    sent = post(logarithm, file.getvalue(), "/invocations", "application/x-npy")
    assert sent == (422, [("/1", "model_rejected")])
    status, problem, _ = protocols.ask(
        logarithm, protocols.as_json({"x": np.array([[1], [0]], np.float32)})
    )
    assert (status, problem["errors"][0]["pointer"]) == (422, "/inputs")
    assert "row 1" in problem["errors"][0]["message"]


def test_a_row_as_in_the_sample_is_the_model_s_fault(tmp_path: Path) -> None:
    """Or a new version that fails for what callers usually send would not be rolled back."""
    distribution = {"rows": 9, "missing_share": 0.0, "values": [0.0, 5.0],
                    "cdf_left": [0.0, 0.5], "cdf_right": [0.5, 1.0]}  # fmt: skip
    baseline = {"rows": 9, "features": {"x": distribution}, "outputs": {}}
    node = helper.make_node("Log", ["x"], ["y"])
    log = app.create(Settings(artifact.ratio(tmp_path, node, baseline=baseline)))
    assert post(log, {"instances": [{"x": 1}, {"x": 0}]})[0] == 500
    rejected = [("/instances/1", "model_rejected")]
    assert post(log, {"instances": [{"x": 1}, {"x": -1}]}) == (422, rejected)


def test_a_fault_on_the_own_example_is_the_model_s(
    logarithm: app.Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr("onnxruntime.InferenceSession.run", broken)
    assert post(logarithm, {"instances": [{"x": 1}]})[0] == 500
