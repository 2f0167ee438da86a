"""Every event of events/ through Lambda's own runtime client: REST, HTTP API, function URL, ALB."""

from collections.abc import Iterator

import pytest

from tests.fixtures import expected_answers
from tests.fixtures.artifact import DIABETES
from tests.runtime.environment import Environment


@pytest.fixture(scope="module")
def environment() -> Iterator[Environment]:
    with Environment(DIABETES) as made:
        yield made


def test_the_events_have_payload_2_of_http_apis_and_function_urls() -> None:
    events = map(expected_answers.event, [*expected_answers.names("good")])
    domains = [e["requestContext"]["domainName"] for e in events if e.get("version") == "2.0"]
    assert {domain.split(".")[1] for domain in domains} == {"execute-api", "lambda-url"}


@pytest.mark.parametrize("name", [*expected_answers.names("good"), *expected_answers.names("bad")])
def test_event_is_answered_as_stated_by_the_runtime_client(
    environment: Environment, name: str
) -> None:
    answer = environment.invoke(expected_answers.event(name))
    assert answer.what == "response"
    expected_answers.check(name, answer.content)
