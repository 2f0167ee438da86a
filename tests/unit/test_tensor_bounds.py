"""Bounds of a tensor contract: of values, of lengths, and lengths that inputs share."""

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from handler import app
from handler.errors import ContractViolation
from handler.manifest import Tensor
from handler.protocols import tensor_columns
from handler.settings import Settings
from tests.fixtures import artifact, events, protocols
from tests.fixtures.artifact import FLOAT, INT64
from tests.fixtures.events import Context

FIELDS = {"axes": ["batch", "sequence"], "min_shape": [None, 2], "max_shape": [None, 4]}


@pytest.fixture(scope="module")
def handler(tmp_path_factory: pytest.TempPathFactory) -> app.Handler:
    """Return a model of tokens and their mask, of one free length, which answers with both."""
    values = [("tokens", INT64, [None, None]), ("mask", FLOAT, [None, None])]
    outputs = [(f"{name}_out", kind, shape) for name, kind, shape in values]
    graph = artifact.graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name, _, _ in values],
        values,
        outputs,
    )
    tokens, mask = artifact.tensors(values)
    directory = artifact.write(
        tmp_path_factory.mktemp("tokens"),
        graph,
        inputs=[
            {**tokens, **FIELDS, "minimum": 0, "maximum": 9},
            {**mask, **FIELDS, "minimum": 0.1},
        ],
        outputs=[
            {**tensor, "tensor": tensor["name"], "kind": "tensor"}
            for tensor in artifact.tensors(outputs)
        ],
    )
    return app.create(Settings(directory))


def post(handler: app.Handler, path: str, body: Any) -> tuple[int, list[tuple[str, str]]]:
    answer = handler(events.rest(json.dumps(body), path), Context())
    document = json.loads(answer["body"])
    return answer["statusCode"], [(v["pointer"], v["code"]) for v in document.get("errors", ())]


def ask(handler: app.Handler, event: Any) -> tuple[int, list[tuple[str, str]]]:
    status, document, _ = protocols.ask(handler, event)
    return status, [(v["pointer"], v["code"]) for v in document.get("errors", ())]


@pytest.mark.parametrize(
    ("tokens", "mask", "status", "code"),
    [
        ([0, 9], [0.1, 1], 200, ""),
        ([0, 9.0], [0.10000000149011612, 1], 200, ""),  # 0.1 as float32 has it
        ([0, 10], [1, 1], 422, "out_of_range"),
        ([-1, 0], [1, 1], 422, "out_of_range"),
        ([0, 0], [0.09999999, 1], 422, "out_of_range"),
        ([1], [1], 422, "wrong_length"),
        ([1] * 5, [1] * 5, 422, "wrong_length"),
        ([1, 2, 3], [1, 1], 422, "wrong_length"),
    ],
)
def test_bounds_hold_on_every_protocol(
    handler: app.Handler, tokens: list[Any], mask: list[Any], status: int, code: str
) -> None:
    instance = {"tokens": tokens, "mask": mask}
    codes = [code] if code else []
    arrays = {"tokens": np.array([tokens], np.int64), "mask": np.array([mask], np.float32)}
    for sent in (
        post(handler, "/predict", {"instances": [instance]}),
        post(handler, "/predict", {"instances": [instance] * 300}),
        post(handler, "/invocations", {"instances": [instance]}),
        post(handler, "/invocations", {"inputs": {k: [v] for k, v in instance.items()}}),
        ask(handler, protocols.as_json(arrays)),
        ask(handler, protocols.as_json(arrays, nested=True)),
        ask(handler, protocols.as_binary(arrays)),
    ):
        assert sent[0] == status
        assert [c for _, c in sent[1]][:1] == codes


def test_a_violation_points_at_the_element(handler: app.Handler) -> None:
    instance = {"tokens": [0, 10], "mask": [1, 1]}
    assert post(handler, "/predict", {"instances": [instance]})[1][0][0] == "/instances/0/tokens/1"
    body = {"inputs": {key: [value] for key, value in instance.items()}}
    assert post(handler, "/invocations", body)[1][0][0] == "/inputs/tokens/0/1"
    arrays = {"tokens": np.array([[0, 10]]), "mask": np.ones((1, 2), np.float32)}
    assert ask(handler, protocols.as_binary(arrays))[1][0][0] == "/inputs/0/data/1"


def test_an_array_is_bounded_too(tmp_path: Path) -> None:
    values = [("x", FLOAT, [None, 2])]
    graph = artifact.graph(
        [helper.make_node("Identity", ["x"], ["y"])], values, [("y", FLOAT, [None, 2])]
    )
    tensor = artifact.tensors(values)[0]
    output = {**tensor, "name": "y", "tensor": "y", "kind": "tensor"}
    directory = artifact.write(
        tmp_path, graph, inputs=[{**tensor, "minimum": 18}], outputs=[output]
    )
    handler = app.create(Settings(directory))
    for dtype in (np.float64, np.float32):
        for value, status in ((18, 200), (17.9, 422), (17.9999999, 422)):
            file = io.BytesIO()
            np.save(file, np.array([[20, value]], dtype))
            headers = {"Content-Type": "application/x-npy"}
            answer = handler(
                events.rest(file.getvalue(), "/invocations", headers=headers), Context()
            )
            rounded = dtype is np.float32 and value == 17.9999999  # float32 has no such number
            assert answer["statusCode"] == (200 if rounded else status)


@pytest.mark.fault(
    "A tensor of a million zeros and ones as JSON",
    "It costs as much memory as any other numbers, and flags among them are 422",
)
def test_many_zeros_and_ones_cost_no_more_than_other_numbers() -> None:
    tensor = Tensor("x", "int64", (None, None))

    def peak(values: list[Any]) -> int:
        tracemalloc.start()
        tensor_columns.to_array(values, tensor, str)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak([1] * 1_000_000) < 1.5 * peak([7] * 1_000_000)
    for values in ([1] * 100 + [True], [7] * 100 + [False]):
        with pytest.raises(ContractViolation) as error:
            tensor_columns.to_array(values, tensor, str)
        assert [(v.pointer, v.code) for v in error.value.violations] == [("100", "type")]
