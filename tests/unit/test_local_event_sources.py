import base64
import gzip
from typing import Any

import orjson
import pytest

from answerable.local import event_sources
from answerable.local.event_sources import HttpRequest
from handler import gateway_events
from handler.http import COMMON_HEADERS, PROBLEM_JSON, Response

CALL = HttpRequest(
    method="POST",
    path="/predict",
    headers=[("host", "localhost:8000"), ("content-type", "application/json"), ("te", "trailers")],
    body=b'{"instances":[]}',
    query="a=1&a=2%20&b=",
)
each_event_source = pytest.mark.parametrize("event_source", list(event_sources.EVENT_SOURCES))


def event(event_source: str, **fields: Any) -> dict[str, Any]:
    made = event_sources.make_event(event_source, CALL._replace(**fields), "id-1")
    return dict(orjson.loads(orjson.dumps(made)))


@each_event_source
def test_the_handler_reads_the_same_request_from_every_event_source(event_source: str) -> None:
    request = gateway_events.parse_event(event(event_source))
    assert request[:2] == ("POST", "/predict")
    assert (request.body, request.is_base64) == ('{"instances":[]}', False)
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-forwarded-port"] == "8000"
    assert "te" not in request.headers
    assert request.request_id == ("" if event_source == "alb" else "id-1")


@each_event_source
@pytest.mark.parametrize("kind", ["application/octet-stream", "image/png", "application/json"])
def test_what_is_not_text_comes_as_base64(event_source: str, kind: str) -> None:
    body = b"\xff\xfe\x00"
    made = event(event_source, headers=[("content-type", kind)], body=body)
    assert made["isBase64Encoded"] is True
    assert base64.b64decode(made["body"]) == body


@each_event_source
def test_a_packed_body_comes_as_base64(event_source: str) -> None:
    headers = [("content-type", "application/json"), ("content-encoding", "gzip")]
    made = event(event_source, headers=headers, body=gzip.compress(b"{}"))
    assert made["isBase64Encoded"] is True
    assert gzip.decompress(base64.b64decode(made["body"])) == b"{}"


def test_each_event_source_encodes_a_query_differently() -> None:
    rest, http, alb = event("rest"), event("http"), event("alb")
    assert rest["queryStringParameters"] == {"a": "2 ", "b": ""}
    assert rest["multiValueQueryStringParameters"] == {"a": ["1", "2 "], "b": [""]}
    assert (http["rawQueryString"], http["queryStringParameters"]["a"]) == (CALL.query, "1,2 ")
    assert alb["queryStringParameters"] == {"a": "2%20", "b": ""}
    assert event("rest", query="")["queryStringParameters"] is None
    assert "queryStringParameters" not in event("http", query="")


def test_headers_that_come_twice() -> None:
    twice = [("x-a", "1"), ("x-a", "2"), ("cookie", "c=1; d=2")]
    rest, http, alb = (
        event(event_source, headers=twice) for event_source in ("rest", "http", "alb")
    )
    assert (rest["headers"]["X-A"], rest["multiValueHeaders"]["X-A"]) == ("2", ["1", "2"])
    assert (http["headers"]["x-a"], http["cookies"]) == ("1,2", ["c=1", "d=2"])
    assert "cookie" not in http["headers"]
    assert alb["headers"]["x-a"] == "2"


@each_event_source
def test_a_result_becomes_the_response(event_source: str) -> None:
    response = Response(422, b'{"a":"\xc3\xa4"}', {"content-type": PROBLEM_JSON})
    result = gateway_events.to_gateway_response(event(event_source), response)
    headers = {**COMMON_HEADERS, "content-type": PROBLEM_JSON}
    assert event_sources.parse_response(result) == (422, [*headers.items()], response.body)


def test_multi_value_headers_and_base64_of_a_reply() -> None:
    reply = {"statusCode": 200, "multiValueHeaders": {"a": ["1", "2"]}, "body": "/w==",
             "isBase64Encoded": True}  # fmt: skip
    assert event_sources.parse_response(reply) == (200, [("a", "1"), ("a", "2")], b"\xff")


@pytest.mark.parametrize(
    "reply", [None, "text", {}, {"statusCode": 200, "body": "x" * event_sources.MAX_PAYLOAD_BYTES}]
)
def test_a_result_that_no_event_source_accepts(reply: Any) -> None:
    with pytest.raises(ValueError, match="result"):
        event_sources.parse_response(reply)
