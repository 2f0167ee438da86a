"""Events of every front for any request, and the context that Lambda passes."""

import base64
from typing import Any

HEADERS = {"Content-Type": "application/json", "Host": "api.example", "User-Agent": "tests"}


class Context:
    """A Lambda context with `milliseconds` to go."""

    aws_request_id = "11111111-2222-3333-4444-555555555555"

    def __init__(self, milliseconds: int = 10_000) -> None:
        self.milliseconds = milliseconds

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


def rest(
    body: str | bytes | None,
    path: str = "/predict",
    method: str = "POST",
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    """API Gateway REST, payload 1.0; bytes travel as base64."""
    return {
        "resource": path,
        "path": path,
        "httpMethod": method,
        "headers": HEADERS if headers is None else headers,
        "requestContext": {"requestId": "rest-1", "stage": "prod"},
        "body": base64.b64encode(body).decode() if isinstance(body, bytes) else body,
        "isBase64Encoded": isinstance(body, bytes),
    }


def http(
    body: str | None, path: str = "/predict", method: str = "POST", stage: str = "$default"
) -> dict[str, Any]:
    """API Gateway HTTP, payload 2.0, which is also a function URL's."""
    return {
        "version": "2.0",
        "rawPath": path if stage == "$default" else f"/{stage}{path}",
        "headers": {name.lower(): value for name, value in HEADERS.items()},
        "requestContext": {
            "http": {"method": method, "path": path},
            "requestId": "http-1",
            "stage": stage,
        },
        "body": body,
        "isBase64Encoded": False,
    }


def alb(
    body: str | None, path: str = "/predict", method: str = "POST", multi: bool = False
) -> dict[str, Any]:
    """An Application Load Balancer's, with or without multi-value headers."""
    headers = {name.lower(): value for name, value in HEADERS.items()}
    values = {"multiValueHeaders": {k: [v] for k, v in headers.items()}}
    return {
        "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:test"}},
        "httpMethod": method,
        "path": path,
        **(values if multi else {"headers": headers}),
        "body": body,
        "isBase64Encoded": False,
    }
