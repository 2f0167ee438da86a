"""Every file of events/ gets the answer that events/answers.json states for it."""

import pytest

from handler import app
from handler.settings import Settings
from tests.fixtures import expected_answers
from tests.fixtures.artifact import DIABETES
from tests.fixtures.events import Context

GOOD, BAD = expected_answers.names("good"), expected_answers.names("bad")


@pytest.fixture(scope="module")
def handler() -> app.Handler:
    return app.create(Settings(DIABETES))


def test_every_event_has_an_answer_and_every_answer_an_event() -> None:
    assert set(GOOD + BAD) == set(expected_answers.stated())
    assert len(BAD) >= 25


@pytest.mark.parametrize("name", GOOD + BAD)
def test_an_event_gets_its_answer(handler: app.Handler, name: str) -> None:
    expected_answers.check(name, handler(expected_answers.event(name), Context()))
