from typing import Any

import pytest

from handler import gateway_events
from handler.errors import BadRequest
from handler.http import COMMON_HEADERS, Response
from tests.fixtures import events

REPLY = Response(200, b'{"a":1}', {"content-type": "application/json"})


@pytest.mark.parametrize(
    "event",
    [
        events.rest("{}"),
        events.http("{}"),
        events.http("{}", stage="prod"),
        events.alb("{}"),
        events.alb("{}", multi=True),
    ],
    ids=["rest", "http", "http with a stage", "alb", "alb multi-value"],
)
def test_every_event_source_becomes_the_same_request(event: dict[str, Any]) -> None:
    request = gateway_events.parse_event(event)
    assert (request.method, request.path, request.body) == ("POST", "/predict", "{}")
    assert request.headers["content-type"] == "application/json"
    assert not request.is_base64


def test_a_stage_is_taken_off_only_where_it_is_one() -> None:
    assert (
        gateway_events.parse_event(events.http("", path="/prodigy", stage="prod")).path
        == "/prodigy"
    )
    event = events.http("", stage="prod")
    event["rawPath"] = "/prodigy"  # a custom domain sends no stage
    assert gateway_events.parse_event(event).path == "/prodigy"
    event["rawPath"] = "/prod"
    assert gateway_events.parse_event(event).path == "/"


def test_a_base_path_mapping_does_not_reach_the_routes() -> None:
    event = events.rest("{}", path="/ml/predict")
    event |= {"resource": "/{proxy+}", "pathParameters": {"proxy": "predict"}}
    assert gateway_events.parse_event(event).path == "/predict"


def test_headers_may_be_null_and_the_last_of_many_counts() -> None:
    event = events.rest(None)
    event["headers"] = None
    assert gateway_events.parse_event(event).headers == {}
    event["multiValueHeaders"] = {"Content-Type": ["text/plain", "application/json"]}
    assert gateway_events.parse_event(event).headers == {"content-type": "application/json"}


@pytest.mark.parametrize("request_id", [None, 7, "", "a b", "x" * 65, "<script>"])
def test_a_request_id_that_no_gateway_makes_is_dropped(request_id: Any) -> None:
    event = events.rest("{}")
    event["requestContext"]["requestId"] = request_id
    assert gateway_events.parse_event(event).request_id == ""


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        "x",
        {},
        {"Records": []},
        {"requestContext": None},
        {**events.rest("{}"), "path": None},
        {**events.rest("{}"), "body": 5},
        {**events.rest("{}"), "headers": [1]},
        {**events.rest("{}"), "headers": {"a": 1}},
        {**events.rest("{}"), "headers": None, "multiValueHeaders": {"a": []}},
        {**events.rest("{}"), "resource": "/{proxy+}", "pathParameters": None},
        {**events.http("{}"), "requestContext": {"http": 3}},
    ],
)
def test_what_is_no_gateway_event_is_refused(event: Any) -> None:
    with pytest.raises(BadRequest):
        gateway_events.parse_event(event)


def test_a_reply_has_its_event_source_s_form() -> None:
    rest = gateway_events.to_gateway_response(events.rest(""), REPLY)
    assert rest == {
        "statusCode": 200,
        "headers": {**COMMON_HEADERS, "content-type": "application/json"},
        "body": '{"a":1}',
        "isBase64Encoded": False,
    }
    single = gateway_events.to_gateway_response(events.alb(""), REPLY)
    assert single["statusDescription"] == "200 OK"
    multi = gateway_events.to_gateway_response(events.alb("", multi=True), REPLY)
    assert multi["multiValueHeaders"] == {k: [v] for k, v in single["headers"].items()}
    assert "headers" not in multi


def http_1(path: str, resource: str, stage: str = "$default", **fields: Any) -> dict[str, Any]:
    """Return the event of an HTTP API with payload 1.0."""
    event = {**events.rest("{}", path=path), "version": "1.0", "resource": resource, **fields}
    event["requestContext"] = {"requestId": "http-1", "stage": stage}
    return event


def test_the_stage_of_a_payload_1_event_is_not_part_of_the_path() -> None:
    event = http_1("/prod/predict", "$default", "prod")
    assert gateway_events.parse_event(event).path == "/predict"
    event = http_1("/prod/predict", "/{proxy+}", "prod", pathParameters={"proxy": "predict"})
    assert gateway_events.parse_event(event).path == "/predict"


def test_the_root_behind_a_base_path_mapping_is_the_root() -> None:
    event = {**events.rest(None, "/ml", "GET"), "resource": "/"}
    assert gateway_events.parse_event(event).path == "/"


def test_only_the_default_route_of_an_http_api_may_have_an_api_mapping() -> None:
    assert gateway_events.parse_event(http_1("/ml/predict", "$default")).may_have_base_path
    proxy = http_1("/ml/predict", "/{proxy+}", pathParameters={"proxy": "predict"})
    for event in (events.rest("{}"), events.http("{}"), events.alb("{}"), proxy):
        assert not gateway_events.parse_event(event).may_have_base_path
