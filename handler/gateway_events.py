"""Lambda events of four event sources -> Request; Response -> what the event source expects.

REST API v1 (and HTTP API payload 1.0), HTTP API payload 2.0, function URL (payload 2.0), ALB:
https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html
https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
https://docs.aws.amazon.com/elasticloadbalancing/latest/application/lambda-functions.html
"""

import re
from binascii import b2a_base64
from typing import Any

from handler.errors import BadRequest
from handler.http import COMMON_HEADERS, OCTET_STREAM, OPENAPI_PATH, Request, Response

Event = dict[str, Any]
_SAFE_ID = re.compile(r"[A-Za-z0-9=_-]{1,64}").fullmatch


def parse_event(event: Any) -> Request:
    """Return the request of an event. Raise BadRequest for any other event."""
    try:
        context = event["requestContext"]
        version, resource = event.get("version"), event.get("resource")
        if version == "2.0":
            method, path = context["http"]["method"], event["rawPath"]
        else:
            method, path = event["httpMethod"], event["path"]
            # behind a custom domain `path` begins with the domain's base path mapping
            if resource == "/{proxy+}":
                path = f"/{event['pathParameters']['proxy']}"
            elif resource == "/":
                path = "/"
        stage = f"/{context.get('stage')}"
        if version and stage != "/$default" and f"{path}/".startswith(f"{stage}/"):
            path = path[len(stage) :] or "/"
        headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
        if not headers and event.get("multiValueHeaders"):
            headers = {name.lower(): vs[-1] for name, vs in event["multiValueHeaders"].items()}
        body, request_id = event.get("body"), context.get("requestId")
        request = Request(
            method=method,
            path=path,
            may_have_base_path=version == "1.0" and resource == "$default",
            headers=headers,
            body="" if body is None else body,
            is_base64=event.get("isBase64Encoded") is True,
            request_id=request_id if isinstance(request_id, str) and _SAFE_ID(request_id) else "",
            supports_binary_response=version is not None or "elb" in context,
            caller=_caller(context),
            synthetic=context.get("synthetic") is True,
            base_url=_base_url(context, headers) if path == OPENAPI_PATH else "",
            has_upload_parameter="upload" in (event.get("queryStringParameters") or ""),
        )
    except (KeyError, TypeError, AttributeError, IndexError):
        request = None
    if request is None or {str} != set(
        map(type, (request.method, request.path, request.body, *request.headers.values()))
    ):
        raise BadRequest("the event is not from API Gateway, a function URL or an ALB")
    return request


def _base_url(context: Event, headers: dict[str, str]) -> str:
    """Return the URL of the API, without the slash at its end; an ALB names no domain."""
    domain = context.get("domainName")
    if not domain:
        return ""
    path = context.get("path") or context["http"]["path"]
    scheme = "http" if headers.get("x-forwarded-proto") == "http" else "https"
    return f"{scheme}://{domain}{path.removesuffix(OPENAPI_PATH)}"


def _caller(context: Event) -> str:
    """Return the IAM identity, token subject, authorizer principal or API key id, or "".

    All sessions of an assumed role are one caller: every container has a session name of its own.
    An ALB's identity header is not read. Without an authentication rule, clients can set it.
    """
    identity, authorizer = context.get("identity") or {}, context.get("authorizer") or {}
    arn = identity.get("userArn") or (authorizer.get("iam") or {}).get("userArn")
    if arn:
        return f"iam {arn.rpartition('/')[0] if ':assumed-role/' in arn else arn}"
    claims = authorizer.get("claims") or (authorizer.get("jwt") or {}).get("claims") or {}
    if claims.get("sub"):
        return f"sub {claims.get('iss', '')} {claims['sub']}"
    # an HTTP API has what a Lambda authorizer returned under `lambda`
    principal = (authorizer.get("lambda") or authorizer).get("principalId")
    key = identity.get("apiKeyId")
    return f"principal {principal}" if principal else f"key {key}" if key else ""


def add_cors(request: Request, response: Response, origins: frozenset[str]) -> Response:
    """Return the response that a browser shows to a page of one of `origins`; "*" is any."""
    origin = request.headers.get("origin")
    if not origin or not origins & {origin, "*"}:
        return response
    headers = {
        **response.headers,
        "access-control-allow-origin": origin,
        "access-control-expose-headers": "location, retry-after",
        "vary": ", ".join(filter(None, [response.headers.get("vary"), "origin"])),
    }
    return response._replace(headers=headers)


def to_gateway_response(event: Any, response: Response) -> Event:
    """Return the response in the format of the event's source; binary bodies as base64."""
    headers = {**COMMON_HEADERS, **response.headers}
    is_binary = "content-encoding" in headers or headers.get("content-type") == OCTET_STREAM
    body = response.body
    result: Event = {
        "statusCode": response.status,
        "headers": headers,
        "body": b2a_base64(body, newline=False).decode() if is_binary else body.decode(),
        "isBase64Encoded": is_binary,
    }
    context = event.get("requestContext") if isinstance(event, dict) else None
    if isinstance(context, dict) and "elb" in context:
        from http import HTTPStatus  # 1 ms, which only an ALB's requests pay

        result["statusDescription"] = f"{response.status} {HTTPStatus(response.status).phrase}"
        if "multiValueHeaders" in event:  # such a target group ignores `headers`
            result["multiValueHeaders"] = {k: [v] for k, v in result.pop("headers").items()}
    return result
