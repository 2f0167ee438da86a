"""The soak of `make soak`, for seconds."""

from collections import Counter
from queue import Queue
from typing import Any

import pytest

from tests.fixtures import events
from tests.soak import __main__ as soak


@pytest.mark.fault(
    "A release in the middle of traffic: a canary, then all calls; `make soak` for half an hour",
    "Every answer is that of the version that gave it, and outcomes of both versions are taken",
)
def test_no_answer_is_wrong_through_a_release() -> None:
    report = soak.soak(8, clients=8, pause=(0.02, 0.1), environments=2)
    assert report.wrong == []
    counts = {f"version {soak.OLD}", f"version {soak.NEW}", f"feedback {soak.NEW}"}
    assert counts <= report.calls.keys()
    assert [len(shares) for shares in report.growth.values()] == [2, 2]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"statusCode": 200, "body": "[2]"}, "another answer"),
        ({"statusCode": 500, "body": "[1]"}, "500"),
        ({"statusCode": "exit"}, "exit"),
    ],
)
def test_a_wrong_answer_is_noticed(answer: dict[str, Any], problem: str) -> None:
    class Service:
        def call(self, event: Any) -> tuple[str, Any]:
            return "7", {"isBase64Encoded": False, **answer}

    call = soak.Call(events.rest("{}"), {"7": (200, [1])})
    ids: Queue[str] = Queue()
    assert problem in soak.one_call(Service(), call, ids, Counter())  # type: ignore[arg-type]


def test_growth_is_of_the_memory_between_calls() -> None:
    first = [[100, 50]] * 2 + [[900, 60]] * 8
    last = [[1, 55], *[[104, 55]] * 8, [900, 80]]
    warm_up, between = [[1, 1]] * 4, [[1, 1]] * 20
    assert soak.growth([*warm_up, *first, *between, *last]) == pytest.approx([0.04, 0.1])
