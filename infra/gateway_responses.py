"""The responses of API Gateway itself, in the format of handler/errors.py.

The texts are fixed, because the gateway's own messages may quote the request.
"""

import json
from typing import NamedTuple

from aws_cdk import aws_apigateway as apigateway
from constructs import Construct

from handler import errors
from handler.errors import ApiError
from handler.http import COMMON_HEADERS, PROBLEM_JSON


class Problem(NamedTuple):
    """A problem. A `status` of None keeps the gateway's, which a template cannot name."""

    status: int | None
    slug: str
    title: str


def _like(error: type[ApiError]) -> Problem:
    """Return a problem that the function answers, too."""
    return Problem(error.status, error.slug, error.title)


FORBIDDEN = Problem(403, "forbidden", "Forbidden")
THROTTLED = Problem(429, "throttled", "Too many requests")
SERVER_ERROR, TIMEOUT = _like(errors.ServerError), _like(errors.DeadlineExceeded)
MALFORMED = Problem(400, "malformed-request", "The request cannot be parsed")
UNREADABLE_TYPE = _like(errors.UnsupportedMediaType)

GATEWAY_RESPONSES: dict[str, tuple[Problem, str]] = {
    "BAD_REQUEST_BODY": (_like(errors.BadRequest), "the body cannot be parsed"),
    "BAD_REQUEST_PARAMETERS": (MALFORMED, "a parameter cannot be parsed"),
    "UNAUTHORIZED": (Problem(401, "unauthorized", "Unauthorized"), "send credentials"),
    "ACCESS_DENIED": (FORBIDDEN, "these credentials do not allow the request"),
    "EXPIRED_TOKEN": (FORBIDDEN, "the credentials have expired"),
    "INVALID_API_KEY": (FORBIDDEN, "send a valid x-api-key"),
    "INVALID_SIGNATURE": (FORBIDDEN, "the signature is not valid"),
    # also for a request without a signature
    "MISSING_AUTHENTICATION_TOKEN": (FORBIDDEN, "send credentials, to a path that exists"),
    "WAF_FILTERED": (FORBIDDEN, "the firewall refused the request"),
    "RESOURCE_NOT_FOUND": (_like(errors.NotFound), "there is no such path"),
    "REQUEST_TOO_LARGE": (
        _like(errors.PayloadTooLarge),
        "the request is over the gateway's limit of 10 MB",
    ),
    "UNSUPPORTED_MEDIA_TYPE": (UNREADABLE_TYPE, "the content type is not supported"),
    "THROTTLED": (THROTTLED, "wait a moment and send the request again"),
    "QUOTA_EXCEEDED": (THROTTLED, "the key's quota is used up"),
    "API_CONFIGURATION_ERROR": (SERVER_ERROR, "the gateway is misconfigured"),
    "AUTHORIZER_CONFIGURATION_ERROR": (SERVER_ERROR, "the credentials cannot be checked"),
    "AUTHORIZER_FAILURE": (SERVER_ERROR, "the credentials cannot be checked"),
    "INTEGRATION_FAILURE": (SERVER_ERROR._replace(status=504), "the function did not respond"),
    "INTEGRATION_TIMEOUT": (TIMEOUT, "no response in 29 seconds"),
    "DEFAULT_4XX": (Problem(None, "refused", "Request refused"), "the gateway refused the request"),
    "DEFAULT_5XX": (SERVER_ERROR._replace(status=None), "the gateway failed"),
}


def add(scope: Construct, api: apigateway.IRestApi, *, cors: bool) -> None:
    """Add a gateway response of every type. With `cors`, the pages of any origin may read them."""
    for name, (problem, detail) in GATEWAY_RESPONSES.items():
        headers = {"Content-Type": PROBLEM_JSON, **COMMON_HEADERS}
        if cors:
            headers["Access-Control-Allow-Origin"] = "*"
        if problem == THROTTLED:
            headers["Retry-After"] = "1"
        error = ApiError(detail)
        error.slug, error.title = problem.slug, problem.title
        document = error.problem("$context.requestId") | {"status": problem.status}
        apigateway.GatewayResponse(
            scope,
            name,
            rest_api=api,
            type=apigateway.ResponseType.of(name),
            status_code=str(problem.status) if problem.status else None,
            response_headers={name: f"'{value}'" for name, value in headers.items()},
            templates={
                "application/json": json.dumps({k: v for k, v in document.items() if v is not None})
            },
        )
