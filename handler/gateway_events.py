"""Four fronts, one Request and one Reply.

REST v1 (and HTTP API payload 1.0), HTTP API v2, Function URL (v2's shape) and ALB events:
https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html
https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
https://docs.aws.amazon.com/elasticloadbalancing/latest/application/lambda-functions.html
"""

import re
from binascii import b2a_base64
from typing import Any, NamedTuple

from handler.errors import BadRequest

Event = dict[str, Any]
OCTET_STREAM = "application/octet-stream"
_SAFE_ID = re.compile(r"[A-Za-z0-9=_-]{1,64}").fullmatch


class Request(NamedTuple):
    """`headers` have lower-case names; `body` is as the gateway gave it, base64 or not.

    `binary`: whether a binary reply reaches the client as such, whatever the client asked for; a
    REST API looks at `Accept` first. `parameters`: the parts of the path that the route names.
    `caller`: whom the front has authenticated, "" where it does not know.
    `synthetic`: sent by a release gate or a probe, not by a client. A header could be anybody's,
    who would then be in no metric; what stands in `requestContext` no client can write.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: str
    is_base64: bool
    request_id: str
    binary: bool = False
    parameters: dict[str, str] = {}
    caller: str = ""
    synthetic: bool = False


class Response(NamedTuple):
    """`body` is UTF-8 JSON."""

    status: int
    body: bytes
    headers: dict[str, str]


def parse_event(event: Any) -> Request:
    """Read an event. `request_id` is "" where the front gives none. Raises BadRequest."""
    try:
        context = event["requestContext"]
        if event.get("version") == "2.0":
            method, path = context["http"]["method"], event["rawPath"]
            stage = f"/{context.get('stage')}"
            if stage != "/$default" and (path == stage or path.startswith(f"{stage}/")):
                path = path[len(stage) :] or "/"
        else:
            method, path = event["httpMethod"], event["path"]
            # behind a custom domain `path` begins with the domain's base path mapping
            if event.get("resource") == "/{proxy+}":
                path = f"/{event['pathParameters']['proxy']}"
        headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
        if not headers and event.get("multiValueHeaders"):
            headers = {name.lower(): vs[-1] for name, vs in event["multiValueHeaders"].items()}
        body, request_id = event.get("body"), context.get("requestId")
        known = isinstance(request_id, str) and _SAFE_ID(request_id)
        found = Request(
            method=method,
            path=path,
            headers=headers,
            body="" if body is None else body,
            is_base64=event.get("isBase64Encoded") is True,
            request_id=request_id if known else "",
            binary="version" in event or "elb" in context,
            caller=_caller(context),
            synthetic=context.get("synthetic") is True,
        )
    except (KeyError, TypeError, AttributeError, IndexError):
        found = None
    if found is None or {str} != set(
        map(type, (found.method, found.path, found.body, *found.headers.values()))
    ):
        raise BadRequest("the event is not one of API Gateway, a function URL or an ALB")
    return found


def _caller(context: Event) -> str:
    """An IAM identity, a token's subject, a Lambda authorizer's principal, or an API key's id.

    All sessions of one assumed role are one caller: a session's name changes with every container
    that assumes the role. An ALB's header is left alone, because without an authenticating rule
    anybody may send it.
    """
    identity, authorizer = context.get("identity") or {}, context.get("authorizer") or {}
    arn = identity.get("userArn") or (authorizer.get("iam") or {}).get("userArn")
    if arn:
        return f"iam {arn.rpartition('/')[0] if ':assumed-role/' in arn else arn}"
    claims = authorizer.get("claims") or (authorizer.get("jwt") or {}).get("claims") or {}
    if claims.get("sub"):
        return f"sub {claims.get('iss', '')} {claims['sub']}"
    principal, key = authorizer.get("principalId"), identity.get("apiKeyId")
    return f"principal {principal}" if principal else f"key {key}" if key else ""


def to_gateway_response(event: Any, reply: Response) -> Event:
    """The reply in the form that the event's front expects: base64 for what is no text."""
    headers = reply.headers
    binary = "content-encoding" in headers or headers.get("content-type") == OCTET_STREAM
    body = b2a_base64(reply.body, newline=False).decode() if binary else reply.body.decode()
    answer: Event = {
        "statusCode": reply.status,
        "headers": headers,
        "body": body,
        "isBase64Encoded": binary,
    }
    context = event.get("requestContext") if isinstance(event, dict) else None
    if isinstance(context, dict) and "elb" in context:
        from http import HTTPStatus  # 1 ms, which the other fronts need not wait for

        answer["statusDescription"] = f"{reply.status} {HTTPStatus(reply.status).phrase}"
        if "multiValueHeaders" in event:  # such a target group ignores plain headers
            answer["multiValueHeaders"] = {k: [v] for k, v in answer.pop("headers").items()}
    return answer
