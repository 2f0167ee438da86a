"""The tree of refusals. Each owns its HTTP status and problem type (RFC 9457).

    ArtifactError             the packed model cannot be used (init, answerable)
    Refusal
    ├── BadRequest            400  malformed-body
    ├── NotFound              404  not-found
    │   └── RequestGone       404  request-gone         of a job, when its turn came
    ├── MethodNotAllowed      405  method-not-allowed
    ├── Conflict              409  conflict             of an Idempotency-Key
    ├── PayloadTooLarge       413  payload-too-large
    ├── UnsupportedMediaType  415  unsupported-media-type
    ├── ContractViolation     422  contract-violation   with the list of violations
    └── Fault                 500  fault                ours, not the caller's
        ├── BadOutput         500  bad-output
        ├── NotReady          503  not-ready
        ├── Unavailable       503  unavailable          S3 or SQS, with Retry-After
        └── DeadlineExceeded  504  deadline-exceeded

No message here, and none made from them, holds a value or a key that the client sent.
"""

from typing import Any, NamedTuple

MAX_VIOLATIONS = 20


class ArtifactError(Exception):
    """The packed model is missing, damaged, or not what its manifest says."""


class Violation(NamedTuple):
    """One breach of the contract: a JSON pointer (RFC 6901), a stable code, a sentence."""

    pointer: str
    code: str
    message: str


def pointer(*parts: str | int) -> str:
    """A JSON pointer (RFC 6901); the parts are names of the contract or numbers, never a key."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


class ApiError(Exception):
    """An answer other than a prediction. `detail` is one sentence for the caller."""

    status = 500
    kind = "fault"
    title = "Something went wrong on our side"

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}
        self.violations: tuple[Violation, ...] = ()

    def problem(self, request_id: str) -> dict[str, Any]:
        """The `application/problem+json` document. `error` repeats the detail, and says the first
        of the violations: it is all that clients of the Open Inference Protocol show.
        """
        error = self.detail
        for violation in self.violations[:1]:
            error = f"{error}: {violation.pointer} {violation.message}"
        document: dict[str, Any] = {
            "type": f"urn:answerable:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": request_id,
            "error": error,
        }
        if self.violations:
            document["errors"] = [violation._asdict() for violation in self.violations]
        return document


class BadRequest(ApiError):
    """The body cannot be read: not JSON, not UTF-8, broken base64 or gzip."""

    status, kind, title = 400, "malformed-body", "The request body cannot be read"


class NotFound(ApiError):
    """No such path."""

    status, kind, title = 404, "not-found", "There is nothing at this path"


class JobInputExpired(NotFound):
    """A job's request had expired when the job's turn came."""

    kind, title = "request-gone", "The job's request is no longer there"


class MethodNotAllowed(ApiError):
    """The path exists, but not for this method; the answer carries `Allow`."""

    status, kind, title = 405, "method-not-allowed", "This path does not take that method"


class Conflict(ApiError):
    """An Idempotency-Key that stands for another body already."""

    status, kind, title = 409, "conflict", "The Idempotency-Key belongs to another request"


class PayloadTooLarge(ApiError):
    """The body, or the answer it would get, is over the contract's limit in bytes."""

    status, kind, title = 413, "payload-too-large", "Too large"


class UnsupportedMediaType(ApiError):
    """A content type or content coding that this path does not read."""

    status, kind, title = 415, "unsupported-media-type", "The content type is not supported"


class ContractViolation(ApiError):
    """The body is JSON, but breaks the contract; at most 20 violations are told."""

    status, kind, title = 422, "contract-violation", "The request breaks the model's contract"

    def __init__(self, violations: list[Violation]) -> None:
        told = violations[:MAX_VIOLATIONS]
        more = "; only the first are listed" if len(violations) > len(told) else ""
        plural = "violation" if len(told) == 1 else "violations"
        super().__init__(f"{len(told)} {plural} of the contract{more}")
        self.violations = tuple(told)


class ServerError(ApiError):
    """Ours: the request was good and may be sent again."""


class BadOutput(ServerError):
    """The model answered with something that is not in its contract (NaN, Inf, a wrong shape)."""

    kind, title = "bad-output", "The model's answer was not usable"


class NotReady(ServerError):
    """The model could not be loaded."""

    status, kind, title = 503, "not-ready", "The model is not loaded"


class Unavailable(ServerError):
    """A service that jobs need refuses, throttles or is silent; the answer says when again."""

    status, kind, title = 503, "unavailable", "A service that jobs need is not available"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"retry-after": "5"})


class UnknownMessage(ServerError):
    """A message of the queue from another service, without a body of ours; it stays a message."""

    kind, title = "unknown-message", "The message holds no job"


class DeadlineExceeded(ServerError):
    """The run was stopped because the function's time was nearly used up."""

    status, kind, title = 504, "deadline-exceeded", "The model did not answer in time"
