"""The error responses of API Gateway itself, in the shape of handler/errors.py.

Their sentences are fixed: the gateway's own messages may quote the request.
"""

import json
from typing import NamedTuple

from aws_cdk import aws_apigateway as apigateway
from constructs import Construct

from handler import errors
from handler.errors import ApiError

Type = apigateway.ResponseType


class GatewayResponseSpec(NamedTuple):
    """`status` None keeps the gateway's own, which a template cannot name."""

    status: int | None
    kind: str
    title: str
    detail: str


def _as(error: type[ApiError]) -> tuple[int, str, str]:
    """Return status, slug and title of the function's own error of that kind."""
    return error.status, error.slug, error.title


_FORBIDDEN = 403, "forbidden", "Not allowed"
_THROTTLED = 429, "throttled", "Too many requests"
_FAULT = _as(errors.ServerError)
# fmt: off
GATEWAY_RESPONSES = {name: GatewayResponseSpec(*fields) for name, fields in {
    "BAD_REQUEST_BODY": (*_as(errors.BadRequest), "the body cannot be read"),
    "BAD_REQUEST_PARAMETERS":
        (400, "malformed-request", "The request cannot be read", "a parameter cannot be read"),
    "UNAUTHORIZED": (401, "unauthorized", "Unauthorized", "send credentials"),
    "ACCESS_DENIED": (*_FORBIDDEN, "these credentials may not do this"),
    "EXPIRED_TOKEN": (*_FORBIDDEN, "the credentials have expired"),
    "INVALID_API_KEY": (*_FORBIDDEN, "send a valid x-api-key"),
    "INVALID_SIGNATURE": (*_FORBIDDEN, "the signature is not valid"),
    # also for a request without any signature
    "MISSING_AUTHENTICATION_TOKEN":
        (*_FORBIDDEN, "send credentials, and ask for a path that there is"),
    "WAF_FILTERED": (*_FORBIDDEN, "the firewall refused the request"),
    "RESOURCE_NOT_FOUND": (*_as(errors.NotFound), "there is nothing at this path"),
    "REQUEST_TOO_LARGE":
        (*_as(errors.PayloadTooLarge), "the request is over the gateway's 10 MB"),
    "UNSUPPORTED_MEDIA_TYPE":
        (*_as(errors.UnsupportedMediaType), "the content type is not supported"),
    "THROTTLED": (*_THROTTLED, "wait a moment and send it again"),
    "QUOTA_EXCEEDED": (*_THROTTLED, "the key's quota is used up"),
    "API_CONFIGURATION_ERROR": (*_FAULT, "the gateway is not configured well"),
    "AUTHORIZER_CONFIGURATION_ERROR": (*_FAULT, "the credentials cannot be checked"),
    "AUTHORIZER_FAILURE": (*_FAULT, "the credentials cannot be checked"),
    "INTEGRATION_FAILURE": (504, *_FAULT[1:], "the function did not answer"),
    "INTEGRATION_TIMEOUT": (*_as(errors.DeadlineExceeded), "no answer in 29 seconds"),
    "DEFAULT_4XX": (None, "refused", "Refused", "the gateway refused the request"),
    "DEFAULT_5XX": (None, *_FAULT[1:], "the gateway could not serve this"),
}.items()}
# fmt: on


def add(scope: Construct, api: apigateway.IRestApi) -> None:
    """Add a gateway response for every type."""
    for name, response in GATEWAY_RESPONSES.items():
        headers = {"Content-Type": "'application/problem+json'"}
        if response.status == 429:
            headers["Retry-After"] = "'1'"
        apigateway.GatewayResponse(
            scope,
            name,
            rest_api=api,
            type=Type.of(name),
            status_code=str(response.status) if response.status else None,
            response_headers=headers,
            templates={"application/json": json.dumps(_problem(response))},
        )


def _problem(response: GatewayResponseSpec) -> dict[str, object]:
    problem: dict[str, object] = {
        "type": f"urn:responseable:problem:{response.kind}",
        "title": response.title,
        "status": response.status,
        "detail": response.detail,
        "instance": "$context.requestId",
        "error": response.detail,
    }
    return {key: value for key, value in problem.items() if value is not None}
