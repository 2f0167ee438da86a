"""What API Gateway itself answers, in the shape of handler/errors.py.

The sentences are ours and fixed: the gateway's own messages may quote the request (an invalid
signature comes back with the headers it was made from).
"""

import json
from typing import NamedTuple

from aws_cdk import aws_apigateway as apigateway
from constructs import Construct

Type = apigateway.ResponseType


class GatewayResponseSpec(NamedTuple):
    """`status` None leaves the one the gateway chose, which a template cannot name."""

    status: int | None
    kind: str
    title: str
    detail: str


GATEWAY_RESPONSES: dict[str, GatewayResponseSpec] = {
    "BAD_REQUEST_BODY": GatewayResponseSpec(
        400, "malformed-body", "The request body cannot be read", "the body cannot be read"
    ),
    "BAD_REQUEST_PARAMETERS": GatewayResponseSpec(
        400, "malformed-request", "The request cannot be read", "a parameter cannot be read"
    ),
    "UNAUTHORIZED": GatewayResponseSpec(401, "unauthorized", "Who is asking?", "send credentials"),
    "ACCESS_DENIED": GatewayResponseSpec(
        403, "forbidden", "Not allowed", "these credentials may not do this"
    ),
    "EXPIRED_TOKEN": GatewayResponseSpec(
        403, "forbidden", "Not allowed", "the credentials have expired"
    ),
    "INVALID_API_KEY": GatewayResponseSpec(
        403, "forbidden", "Not allowed", "send a valid x-api-key"
    ),
    "INVALID_SIGNATURE": GatewayResponseSpec(
        403, "forbidden", "Not allowed", "the signature is not valid"
    ),
    # also the answer to a request without any signature
    "MISSING_AUTHENTICATION_TOKEN": GatewayResponseSpec(
        403, "forbidden", "Not allowed", "send credentials, and ask for a path that there is"
    ),
    "WAF_FILTERED": GatewayResponseSpec(
        403, "forbidden", "Not allowed", "the firewall refused the request"
    ),
    "RESOURCE_NOT_FOUND": GatewayResponseSpec(
        404, "not-found", "There is nothing at this path", "there is nothing at this path"
    ),
    "REQUEST_TOO_LARGE": GatewayResponseSpec(
        413, "payload-too-large", "Too large", "the request is over the gateway's 10 MB"
    ),
    "UNSUPPORTED_MEDIA_TYPE": GatewayResponseSpec(
        415,
        "unsupported-media-type",
        "The content type is not supported",
        "the content type is not supported",
    ),
    "THROTTLED": GatewayResponseSpec(
        429, "throttled", "Too many requests", "wait a moment and send it again"
    ),
    "QUOTA_EXCEEDED": GatewayResponseSpec(
        429, "throttled", "Too many requests", "the key's quota is used up"
    ),
    "API_CONFIGURATION_ERROR": GatewayResponseSpec(
        500, "server-error", "Internal server error", "the gateway is not configured well"
    ),
    "AUTHORIZER_CONFIGURATION_ERROR": GatewayResponseSpec(
        500, "server-error", "Internal server error", "the credentials cannot be checked"
    ),
    "AUTHORIZER_FAILURE": GatewayResponseSpec(
        500, "server-error", "Internal server error", "the credentials cannot be checked"
    ),
    "INTEGRATION_FAILURE": GatewayResponseSpec(
        504, "server-error", "Internal server error", "the function did not answer"
    ),
    "INTEGRATION_TIMEOUT": GatewayResponseSpec(
        504, "deadline-exceeded", "The model did not answer in time", "no answer in 29 seconds"
    ),
    "DEFAULT_4XX": GatewayResponseSpec(
        None, "refused", "Refused", "the gateway refused the request"
    ),
    "DEFAULT_5XX": GatewayResponseSpec(
        None, "server-error", "Internal server error", "the gateway could not serve this"
    ),
}


def add(scope: Construct, api: apigateway.IRestApi) -> None:
    """One gateway response for every type there is."""
    for name, answer in GATEWAY_RESPONSES.items():
        headers = {"Content-Type": "'application/problem+json'"}
        if answer.status == 429:
            headers["Retry-After"] = "'1'"
        apigateway.GatewayResponse(
            scope,
            name,
            rest_api=api,
            type=Type.of(name),
            status_code=str(answer.status) if answer.status else None,
            response_headers=headers,
            templates={"application/json": json.dumps(_problem(answer))},
        )


def _problem(answer: GatewayResponseSpec) -> dict[str, object]:
    problem: dict[str, object] = {
        "type": f"urn:answerable:problem:{answer.kind}",
        "title": answer.title,
        "status": answer.status,
        "detail": answer.detail,
        "instance": "$context.requestId",
        "error": answer.detail,
    }
    return {key: value for key, value in problem.items() if value is not None}
