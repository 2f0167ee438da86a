"""Every file of events/ gets the answer that events/answers.json states for it."""

import pytest

from handler import api
from handler.settings import Settings, read
from tests import answers
from tests.events import Context

GOOD, BAD = answers.names("good"), answers.names("bad")


@pytest.fixture(scope="module")
def handler() -> api.Handler:
    return api.create(Settings(read({}).model_dir))


def test_every_event_has_an_answer_and_every_answer_an_event() -> None:
    assert set(GOOD + BAD) == set(answers.stated())
    assert len(BAD) >= 25


@pytest.mark.parametrize("name", GOOD + BAD)
def test_an_event_gets_its_answer(handler: api.Handler, name: str) -> None:
    answers.check(name, handler(answers.event(name), Context()))
