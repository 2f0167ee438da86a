"""HTTP request -> the event of an event source; the function's result -> HTTP response.

This is the inverse of `handler.gateway_events`, after the same documentation (links there).
"""

import base64
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

import orjson

Event = dict[str, Any]
MEBIBYTE = 1024 * 1024
# limits of the request body at the event source, and of Lambda's event and result
MAX_BODY_BYTES = {
    source: mebibytes * MEBIBYTE
    for source, mebibytes in (("rest", 10), ("http", 10), ("url", 6), ("alb", 1))
}
MAX_PAYLOAD_BYTES = 6 * MEBIBYTE
TEXT_TYPES = ("application/json", "application/javascript", "application/xml")
HOP_BY_HOP = {"connection", "expect", "keep-alive", "te", "transfer-encoding", "upgrade"}
ACCOUNT, REGION = "123456789012", "us-east-1"


class HttpRequest(NamedTuple):
    """An HTTP request. `path` and `query` are as they were sent; header names are lower-case."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    query: str = ""
    client: str = "127.0.0.1"


class HttpResponse(NamedTuple):
    """An HTTP response."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def make_event(event_source: str, request: HttpRequest, request_id: str) -> Event:
    """Return the event that a source, a key of EVENT_SOURCES, makes of a request.

    Of the event's context it has what the function reads, and the client's address.
    """
    trace = f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]}"
    headers = [(name, value) for name, value in request.headers if name not in HOP_BY_HOP]
    host = next((value for name, value in headers if name == "host"), "localhost")
    headers += [
        ("x-amzn-trace-id", trace),
        ("x-forwarded-for", request.client),
        ("x-forwarded-port", host.rpartition(":")[2] if ":" in host else "80"),
        ("x-forwarded-proto", "http"),
    ]
    body, is_base64 = _encode_body(request.body, dict(headers))
    event = EVENT_SOURCES[event_source](request._replace(headers=headers), request_id)
    return {**event, "body": body, "isBase64Encoded": is_base64}


def _encode_body(body: bytes, headers: dict[str, str]) -> tuple[str, bool]:
    """Return text as it is; compressed bodies, binary types and invalid UTF-8 as base64."""
    media_type = headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
    is_text = (
        media_type.startswith("text/")
        or media_type in TEXT_TYPES
        or media_type.endswith(("+json", "+xml"))
    )
    if not body or (is_text and headers.get("content-encoding", "identity") == "identity"):
        try:
            return body.decode(), False
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode(), True


def _multi_values(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return values


def _comma_separated(pairs: list[tuple[str, str]]) -> dict[str, str]:
    return {name: ",".join(values) for name, values in _multi_values(pairs).items()}


def _rest(request: HttpRequest, request_id: str) -> Event:
    """Return the event of a REST API with the resource `{proxy+}`, as infra/api.py makes it."""
    # a REST API keeps the case of names, and drops the length
    headers = [(n.title(), v) for n, v in request.headers if n != "content-length"]
    query = parse_qsl(request.query, keep_blank_values=True)
    return {
        "resource": "/" if request.path == "/" else "/{proxy+}",
        "path": request.path,
        "httpMethod": request.method,
        "headers": dict(headers),
        "multiValueHeaders": _multi_values(headers),
        "queryStringParameters": dict(query) or None,
        "multiValueQueryStringParameters": _multi_values(query) or None,
        "pathParameters": {"proxy": request.path[1:]} if request.path != "/" else None,
        "requestContext": {
            # that of a custom domain, which has no stage
            "domainName": dict(headers).get("Host", "localhost"),
            "path": request.path,
            "identity": {"sourceIp": request.client},
            "requestId": request_id,
            "stage": "local",
        },
    }


def _payload_2(request: HttpRequest, request_id: str) -> Event:
    """Return the event of an HTTP API or of a function's URL."""
    headers = [(name, value) for name, value in request.headers if name != "cookie"]
    cookies = [value for name, value in request.headers if name == "cookie"]
    path = unquote(request.path)
    event: Event = {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": request.query,
        "headers": _comma_separated(headers),
        "requestContext": {
            "domainName": dict(headers).get("host", "localhost"),
            "http": {"method": request.method, "path": path, "sourceIp": request.client},
            "requestId": request_id,
            "stage": "$default",
        },
    }
    if cookies:
        event["cookies"] = [text.strip() for line in cookies for text in line.split(";")]
    if request.query:
        query = parse_qsl(request.query, keep_blank_values=True)
        event["queryStringParameters"] = _comma_separated(query)
    return event


def _alb(request: HttpRequest, request_id: str) -> Event:
    """Return the event of an ALB without multi-value headers: the last value of each counts."""
    group = f"arn:aws:elasticloadbalancing:{REGION}:{ACCOUNT}:targetgroup/local/0123456789abcdef"
    pairs = (pair.partition("=") for pair in request.query.split("&") if pair)
    return {
        "requestContext": {"elb": {"targetGroupArn": group}},
        "httpMethod": request.method,
        "path": request.path,
        "queryStringParameters": {name: value for name, _, value in pairs},
        "headers": dict(request.headers),
    }


EVENT_SOURCES: dict[str, Callable[[HttpRequest, str], Event]] = {
    "rest": _rest,
    "http": _payload_2,
    "url": _payload_2,
    "alb": _alb,
}


def parse_response(result: Event) -> HttpResponse:
    """Return the response of the function's result. Raise ValueError where the source sends 502."""
    try:
        if len(orjson.dumps(result)) > MAX_PAYLOAD_BYTES:
            raise ValueError("the result is over Lambda's 6 MB")
        headers = [(name, str(value)) for name, value in (result.get("headers") or {}).items()]
        for name, values in (result.get("multiValueHeaders") or {}).items():
            headers += [(name, str(value)) for value in values]
        body = result.get("body") or ""
        content = base64.b64decode(body) if result.get("isBase64Encoded") else body.encode()
        return HttpResponse(int(result["statusCode"]), headers, content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("the result is not one that an event source accepts") from error
