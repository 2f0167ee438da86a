"""An HTTP request -> the event that a front would send the function; the function's reply -> HTTP.

The inverse of `handler.gateway_events`, as the four fronts document it (links there). An event travels
as JSON text, here as in Lambda: what would not survive the journey does not survive it here.
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
# of a request body at the front, then of the event (or the reply) between the front and Lambda
BODY_BYTES = {
    "rest": 10 * MEBIBYTE,
    "http": 10 * MEBIBYTE,
    "url": 6 * MEBIBYTE,
    "alb": MEBIBYTE,
}
PAYLOAD_BYTES = 6 * MEBIBYTE
TEXT = ("application/json", "application/javascript", "application/xml")
HOP_BY_HOP = {"connection", "expect", "keep-alive", "te", "transfer-encoding", "upgrade"}
ACCOUNT, REGION, API = "123456789012", "us-east-1", "local00000"


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


def make_event(front: str, call: HttpRequest, request_id: str) -> Event:
    """The event, in full, that `front` (a key of FRONTS) makes of a call."""
    trace = f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]}"
    headers = [(name, value) for name, value in call.headers if name not in HOP_BY_HOP]
    host = next((value for name, value in headers if name == "host"), "localhost")
    headers += [
        ("x-amzn-trace-id", trace),
        ("x-forwarded-for", call.client),
        ("x-forwarded-port", host.rpartition(":")[2] if ":" in host else "80"),
        ("x-forwarded-proto", "http"),
    ]
    body, is_base64 = _body(call.body, dict(headers))
    call = call._replace(headers=headers)
    return {**EVENT_SOURCES[front](call, request_id), "body": body, "isBase64Encoded": is_base64}


def _body(body: bytes, headers: dict[str, str]) -> tuple[str, bool]:
    """Text as it is; what is packed, of a binary type, or no UTF-8, as base64."""
    kind = headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
    text = kind.startswith("text/") or kind in TEXT or kind.endswith(("+json", "+xml"))
    if not body or (text and headers.get("content-encoding", "identity") == "identity"):
        try:
            return body.decode(), False
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode(), True


def _many(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def _joined(pairs: list[tuple[str, str]]) -> dict[str, str]:
    return {name: ",".join(values) for name, values in _many(pairs).items()}


def _rest(call: HttpRequest, request_id: str) -> Event:
    """REST API, with the one `{proxy+}` resource that infra/api.py gives it."""
    # a REST API passes names on as clients write them, and keeps the length for itself
    headers = [(n.title(), v) for n, v in call.headers if n != "content-length"]
    query = parse_qsl(call.query, keep_blank_values=True)
    resource = "/" if call.path == "/" else "/{proxy+}"
    now = time.time()
    return {
        "resource": resource,
        "path": call.path,
        "httpMethod": call.method,
        "headers": dict(headers),
        "multiValueHeaders": _many(headers),
        "queryStringParameters": dict(query) or None,
        "multiValueQueryStringParameters": _many(query) or None,
        "pathParameters": {"proxy": call.path[1:]} if call.path != "/" else None,
        "stageVariables": None,
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": API,
            "domainName": f"{API}.execute-api.{REGION}.amazonaws.com",
            "domainPrefix": API,
            "extendedRequestId": base64.b64encode(uuid.uuid4().bytes[:11]).decode(),
            "httpMethod": call.method,
            "identity": {
                "sourceIp": call.client,
                "userAgent": dict(headers).get("User-Agent"),
                "user": None,
            },
            "path": f"/local{call.path}",
            "protocol": "HTTP/1.1",
            "requestId": request_id,
            "requestTime": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)),
            "requestTimeEpoch": int(now * 1e3),
            "resourceId": "proxy0",
            "resourcePath": resource,
            "stage": "local",
        },
    }


def _payload_2(call: HttpRequest, request_id: str, account: str, domain: str) -> Event:
    headers = [(name, value) for name, value in call.headers if name != "cookie"]
    cookies = [value for name, value in call.headers if name == "cookie"]
    now, path = time.time(), unquote(call.path)
    made: Event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": call.query,
        "headers": _joined(headers),
        "requestContext": {
            "accountId": account,
            "apiId": API,
            "domainName": f"{API}.{domain}",
            "domainPrefix": API,
            "http": {
                "method": call.method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": call.client,
                "userAgent": dict(headers).get("user-agent", ""),
            },
            "requestId": request_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)),
            "timeEpoch": int(now * 1e3),
        },
    }
    if cookies:
        made["cookies"] = [part.strip() for line in cookies for part in line.split(";")]
    if call.query:
        made["queryStringParameters"] = _joined(parse_qsl(call.query, keep_blank_values=True))
    return made


def _http(call: HttpRequest, request_id: str) -> Event:
    return _payload_2(call, request_id, ACCOUNT, f"execute-api.{REGION}.amazonaws.com")


def _url(call: HttpRequest, request_id: str) -> Event:
    return _payload_2(call, request_id, "anonymous", f"lambda-url.{REGION}.on.aws")


def _alb(call: HttpRequest, request_id: str) -> Event:
    """A target group without multi-value headers: the last of each counts; nothing is decoded."""
    group = f"arn:aws:elasticloadbalancing:{REGION}:{ACCOUNT}:targetgroup/local/0123456789abcdef"
    pairs = (part.partition("=") for part in call.query.split("&") if part)
    return {
        "requestContext": {"elb": {"targetGroupArn": group}},
        "httpMethod": call.method,
        "path": call.path,
        "queryStringParameters": {name: value for name, _, value in pairs},
        "headers": dict(call.headers),
    }


EVENT_SOURCES: dict[str, Callable[[HttpRequest, str], Event]] = {
    "rest": _rest,
    "http": _http,
    "url": _url,
    "alb": _alb,
}


def parse_response(reply: Event) -> HttpResponse:
    """What a front makes of the function's reply. Raises ValueError where it would answer 502."""
    try:
        if len(orjson.dumps(reply)) > PAYLOAD_BYTES:
            raise ValueError("the reply is over Lambda's 6 MB")
        headers = [(name, str(value)) for name, value in (reply.get("headers") or {}).items()]
        for name, values in (reply.get("multiValueHeaders") or {}).items():
            headers += [(name, str(value)) for value in values]
        body = reply.get("body") or ""
        content = base64.b64decode(body) if reply.get("isBase64Encoded") else body.encode()
        return HttpResponse(int(reply["statusCode"]), headers, content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("the reply is not one that a front takes") from error
