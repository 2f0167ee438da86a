"""The exceptions that become error responses (RFC 9457). None quotes what a client sent."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

MAX_VIOLATIONS = 20


class ArtifactError(Exception):
    """The packed model is missing, damaged, or differs from its manifest."""


class Violation(NamedTuple):
    """One violation of the contract: JSON pointer (RFC 6901), stable code, message."""

    pointer: str
    code: str
    message: str


def pointer(*tokens: str | int) -> str:
    """Return the JSON pointer (RFC 6901) of names of the contract and indices."""
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


class ApiError(Exception):
    """An error response. `detail` is one sentence for the caller."""

    status = 500
    slug = "server-error"
    title = "Internal server error"

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}
        self.violations: tuple[Violation, ...] = ()

    def problem(self, request_id: str) -> dict[str, Any]:
        """Return the problem document; clients of the Open Inference Protocol show `error`."""
        error = self.detail
        for violation in self.violations[:1]:
            error = f"{error}: {f'{violation.pointer} {violation.message}'.strip()}"
        document: dict[str, Any] = {
            "type": problem_type(self.slug),
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": request_id,
            "error": error,
        }
        if self.violations:
            document["errors"] = [violation._asdict() for violation in self.violations]
        return document


def problem_type(slug: str) -> str:
    """Return the URI of a problem type."""
    return f"urn:answerable:problem:{slug}"


class BadRequest(ApiError):
    """The body cannot be parsed: invalid JSON, UTF-8, base64 or gzip."""

    status, slug, title = 400, "malformed-body", "The request body cannot be parsed"


class NotFound(ApiError):
    """There is no such path, model or job."""

    status, slug, title = 404, "not-found", "Not found"


class JobInputExpired(NotFound):
    """The request of a job expired before the job was run."""

    slug, title = "job-input-expired", "The job's request has expired"


class MethodNotAllowed(ApiError):
    """The path does not support the method. The response has an `Allow` header."""

    status, slug, title = 405, "method-not-allowed", "Method not allowed"


class Conflict(ApiError):
    """The Idempotency-Key was used with another body."""

    status, slug, title = 409, "conflict", "The Idempotency-Key was used for another request"


class PayloadTooLarge(ApiError):
    """The body or the response is over its limit in bytes."""

    status, slug, title = 413, "payload-too-large", "Payload too large"

    @classmethod
    def request(cls, limit: int) -> "PayloadTooLarge":
        """Return the error for a body of more than `limit` bytes."""
        return cls(f"the body is over the limit of {limit} bytes")

    @classmethod
    def response(cls, limit: int) -> "PayloadTooLarge":
        """Return the error for a response of more than `limit` bytes."""
        return cls(f"the response would be over the limit of {limit} bytes; send fewer rows")


class UnsupportedMediaType(ApiError):
    """The path does not support the content type or the content coding."""

    status, slug, title = 415, "unsupported-media-type", "Unsupported media type"


class ContractViolation(ApiError):
    """The body violates the contract. At most 20 violations are listed."""

    status, slug, title = 422, "contract-violation", "The request violates the model's contract"

    def __init__(self, violations: Iterable[Violation]) -> None:
        first = list(islice(violations, MAX_VIOLATIONS + 1))
        listed = first[:MAX_VIOLATIONS]
        more = "; only the first are listed" if len(first) > len(listed) else ""
        plural = "violation" if len(listed) == 1 else "violations"
        super().__init__(f"{len(listed)} {plural} of the contract{more}")
        self.violations = tuple(listed)


def violation_error(where: str, code: str, message: str) -> ContractViolation:
    """Return the error for a single violation."""
    return ContractViolation([Violation(where, code, message)])


class ServerError(ApiError):
    """The server failed. The same request may be sent again."""


class BadOutput(ServerError):
    """The model returned a wrong shape or dtype, NaN or infinity."""

    slug, title = "bad-output", "The model returned an invalid output"
    rows: Sequence[int] = ()  # the numbers of the rows with NaN or infinity


class NotReady(ServerError):
    """The model could not be loaded."""

    status, slug, title = 503, "not-ready", "The model is not loaded"


class Unavailable(ServerError):
    """S3 or SQS refused, throttled or did not answer. The response has a `Retry-After` header."""

    status, slug, title = 503, "unavailable", "A service that jobs need is unavailable"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"retry-after": "5"})


class DeadlineExceeded(ServerError):
    """The model did not finish before the function's deadline."""

    status, slug, title = 504, "deadline-exceeded", "The model did not finish in time"
