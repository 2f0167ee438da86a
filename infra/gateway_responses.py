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

Type = apigateway.ResponseType


class GatewayResponseSpec(NamedTuple):
    """A problem. A `status` of None keeps the gateway's, which a template cannot name."""

    status: int | None
    slug: str
    title: str
    detail: str


def _like(error: type[ApiError], detail: str, status: int | None = None) -> GatewayResponseSpec:
    """Return a problem that the function answers, too."""
    return GatewayResponseSpec(status or error.status, error.slug, error.title, detail)


def _forbidden(detail: str) -> GatewayResponseSpec:
    return GatewayResponseSpec(403, "forbidden", "Forbidden", detail)


def _throttled(detail: str) -> GatewayResponseSpec:
    return GatewayResponseSpec(429, "throttled", "Too many requests", detail)


GATEWAY_RESPONSES: dict[str, GatewayResponseSpec] = {
    "BAD_REQUEST_BODY": _like(errors.BadRequest, "the body cannot be parsed"),
    "BAD_REQUEST_PARAMETERS": GatewayResponseSpec(
        400, "malformed-request", "The request cannot be parsed", "a parameter cannot be parsed"
    ),
    "UNAUTHORIZED": GatewayResponseSpec(401, "unauthorized", "Unauthorized", "send credentials"),
    "ACCESS_DENIED": _forbidden("these credentials do not allow the request"),
    "EXPIRED_TOKEN": _forbidden("the credentials have expired"),
    "INVALID_API_KEY": _forbidden("send a valid x-api-key"),
    "INVALID_SIGNATURE": _forbidden("the signature is not valid"),
    # also for a request without a signature
    "MISSING_AUTHENTICATION_TOKEN": _forbidden("send credentials, to a path that exists"),
    "WAF_FILTERED": _forbidden("the firewall refused the request"),
    "RESOURCE_NOT_FOUND": _like(errors.NotFound, "there is no such path"),
    "REQUEST_TOO_LARGE": _like(
        errors.PayloadTooLarge, "the request is over the gateway's limit of 10 MB"
    ),
    "UNSUPPORTED_MEDIA_TYPE": _like(
        errors.UnsupportedMediaType, "the content type is not supported"
    ),
    "THROTTLED": _throttled("wait a moment and send the request again"),
    "QUOTA_EXCEEDED": _throttled("the key's quota is used up"),
    "API_CONFIGURATION_ERROR": _like(errors.ServerError, "the gateway is misconfigured"),
    "AUTHORIZER_CONFIGURATION_ERROR": _like(
        errors.ServerError, "the credentials cannot be checked"
    ),
    "AUTHORIZER_FAILURE": _like(errors.ServerError, "the credentials cannot be checked"),
    "INTEGRATION_FAILURE": _like(errors.ServerError, "the function did not respond", 504),
    "INTEGRATION_TIMEOUT": _like(errors.DeadlineExceeded, "no response in 29 seconds"),
    "DEFAULT_4XX": GatewayResponseSpec(
        None, "refused", "Request refused", "the gateway refused the request"
    ),
    "DEFAULT_5XX": _like(errors.ServerError, "the gateway failed")._replace(status=None),
}


def add(scope: Construct, api: apigateway.IRestApi, *, cors: bool) -> None:
    """Add a gateway response of every type. With `cors`, the pages of any origin may read them."""
    for name, spec in GATEWAY_RESPONSES.items():
        headers = {"Content-Type": PROBLEM_JSON, **COMMON_HEADERS}
        if cors:
            headers["Access-Control-Allow-Origin"] = "*"
        if spec.status == 429:
            headers["Retry-After"] = "1"
        apigateway.GatewayResponse(
            scope,
            name,
            rest_api=api,
            type=Type.of(name),
            status_code=str(spec.status) if spec.status else None,
            response_headers={name: f"'{value}'" for name, value in headers.items()},
            templates={"application/json": json.dumps(_problem(spec))},
        )


def _problem(spec: GatewayResponseSpec) -> dict[str, object]:
    error = ApiError(spec.detail)
    error.slug, error.title = spec.slug, spec.title
    document = error.problem("$context.requestId") | {"status": spec.status}
    return {key: value for key, value in document.items() if value is not None}
