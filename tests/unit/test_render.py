"""Outputs as JSON, checked against the manifest."""

import json
from typing import Any

import numpy as np
import pytest

from handler import prediction_id
from handler.errors import BadOutput, PayloadTooLarge
from handler.manifest import Decision, Limits, Output
from handler.render import ResponseRenderer, Run
from handler.scoring import Scorer


def contract(echo: Scorer, *outputs: Output, response_bytes: int = 1000) -> ResponseRenderer:
    limits = Limits(rows=10, body_bytes=1000, response_bytes=response_bytes, elements=10)
    return ResponseRenderer(echo.manifest._replace(outputs=outputs, limits=limits))


def value(name: str = "y", kind: Any = "value", **fields: Any) -> Output:
    return Output(name=name, tensor=name, dtype="float32", shape=(None, 1), kind=kind, **fields)


def answers(contract: ResponseRenderer, *arrays: Any) -> list[Any]:
    count = len(arrays[0])
    contract.check_outputs(arrays, count)
    return [json.loads(text) for text in contract.render_predictions([(range(count), arrays)])]


def test_numbers_are_as_short_as_their_dtype_allows(echo: Scorer) -> None:
    outputs = [np.array([[0.1], [2.5]], np.float32)]
    texts = contract(echo, value()).render_predictions([(range(2), outputs)])
    assert texts == [b'{"y":0.1}', b'{"y":2.5}']


def test_every_kind_of_output_is_written(echo: Scorer) -> None:
    found = answers(
        contract(
            echo,
            value("100%"),
            value("label", "label", classes=("a,b", 'c"d'))._replace(dtype="string"),
            value("odds", "probabilities", classes=("a,b", "50%"))._replace(shape=(None, 2)),
            value("raw", "tensor")._replace(shape=(None, 2, 2)),
        ),
        np.array([[1.5], [2.5]], np.float32),
        np.array(["a,b", 'c"d'], object)[:, None],
        np.array([[0.25, 0.75], [0.5, 0.5]], np.float32),
        np.arange(8, dtype=np.float32).reshape(2, 2, 2),
    )
    assert found == [
        {"100%": 1.5, "label": "a,b", "odds": {"a,b": 0.25, "50%": 0.75}, "raw": [[0, 1], [2, 3]]},
        {"100%": 2.5, "label": 'c"d', "odds": {"a,b": 0.5, "50%": 0.5}, "raw": [[4, 5], [6, 7]]},
    ]


def test_predictions_have_their_ids_first_in_the_order_of_the_request(echo: Scorer) -> None:
    runs: list[Run] = [
        ((1, 2), [np.array([[1.0], [2.0]], np.float32)]),
        ((0,), [np.array([[0.0]], np.float32)]),
    ]
    ids = [bytes([65 + i]) * prediction_id.ID_CHARS for i in range(3)]
    texts = contract(echo, value()).render_predictions(runs, ids)
    assert texts == [b'{"id":"%b","y":%d.0}' % (ids[i], i) for i in range(3)]
    assert prediction_id.prefix_of(texts[2]) == "C" * prediction_id.REQUEST_PREFIX_CHARS


def test_a_decision_is_threshold_and_band(echo: Scorer) -> None:
    rule = Decision(threshold=0.5, above="approve", below="decline", review=(0.4, 0.6))
    scores = np.array([[0.39], [0.4], [0.6], [0.61]], np.float64)
    found = answers(contract(echo, value(decision=rule)._replace(dtype="float64")), scores)
    assert [row["y_decision"] for row in found] == ["decline", "review", "review", "approve"]
    odds = value(
        "odds", "probabilities", classes=("no", "yes"), decision=Decision(0.5, class_label="yes")
    )
    pairs = np.array([[0.9, 0.1], [0.5, 0.5]], np.float32)
    found = answers(contract(echo, odds._replace(shape=(None, 2))), pairs)
    assert [row["odds_decision"] for row in found] == ["no", "yes"]


@pytest.mark.parametrize(
    "array",
    [
        np.array([[np.nan]], np.float32),
        np.array([[np.inf]], np.float32),
        np.zeros((2, 1), np.float32),
        np.zeros(1, np.float32),
        np.zeros((1, 2), np.float32),
        np.zeros((1, 1), np.float64),
        [{"a": 1.0}],
    ],
    ids=["nan", "inf", "rows", "rank", "width", "dtype", "map"],
)
def test_a_model_s_unusable_answer_is_a_fault(echo: Scorer, array: Any) -> None:
    with pytest.raises(BadOutput):
        contract(echo, value()).check_outputs([array], 1)


def test_an_answer_over_the_limit_is_refused(echo: Scorer) -> None:
    small = contract(echo, value(), response_bytes=60)
    with pytest.raises(PayloadTooLarge, match="60 bytes"):
        small.render_response([b'{"y":1.0}'] * 5)
    body = contract(echo, value()).render_response([b'{"y":1.0}'])
    assert contract(echo, value(), response_bytes=len(body)).render_response([b'{"y":1.0}'])
    with pytest.raises(PayloadTooLarge):
        contract(echo, value(), response_bytes=len(body) - 1).render_response([b'{"y":1.0}'])
