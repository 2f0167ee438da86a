"""The messages of an SQS event, as jobs.

A message is a claim check `{"job": id}`, a producer's own body `{"instances": [...]}`, or either of
these in an envelope of SNS or EventBridge. A claim check names its job. The job of a producer's own
message has the id that the producer received: of SQS, SNS or EventBridge.

https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html
https://docs.aws.amazon.com/eventbridge/latest/ref/overiew-event-structure.html
https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
"""

import re
from typing import Any, NamedTuple

import orjson

from handler.errors import ApiError, ServerError
from handler.jobs import storage

_is_instances = re.compile(r'\s*\{\s*"instances"').match
_is_uuid = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


class Job(NamedTuple):
    """A job and its message ids, several for duplicates in one batch.

    `body`: None for a claim check, whose body must be fetched. `group`: of a FIFO queue, else "".
    `sent`: seconds since 1970. `error`: why the message holds no job, or None.
    """

    id: str
    body: str | None
    group: str
    receives: int
    sent: int
    messages: list[str]
    error: ApiError | None = None


def parse_sqs_event(event: Any) -> list[Job]:
    """Return the jobs of an event, those that were delivered before last.

    Raises TypeError, which returns the whole batch to the queue, for an event of another source and
    for a message without an id, because the response could not name it.
    """
    jobs: dict[tuple[str, bool], Job] = {}
    repeated = False
    try:
        for record in event["Records"]:
            message, text, attributes = record["messageId"], record["body"], record["attributes"]
            if not (type(message) is type(text) is str and storage.is_job_id(message)):
                raise TypeError
            id, body, error = _unwrap(message, text)
            if (id, body is None) in jobs:
                jobs[id, body is None].messages.append(message)
                continue
            receives = int(attributes["ApproximateReceiveCount"])
            repeated = repeated or receives > 1
            # the groups of a standard queue are for fairness alone
            fifo = record["eventSourceARN"].endswith(".fifo")
            group = attributes["MessageGroupId"] if fifo else ""
            sent = int(attributes["SentTimestamp"]) // 1000
            if not 0 <= sent < 1 << 40:  # no date has it
                raise ValueError
            jobs[id, body is None] = Job(id, body, group, receives, sent, [message], error)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise TypeError("the event is not one of SQS") from None
    ordered = list(jobs.values())
    # a job that failed before must not take the time of the others again
    return (
        sorted(ordered, key=lambda job: 0 if job.group else job.receives) if repeated else ordered
    )


def own_body(text: str) -> str | None:
    """Return a producer's own body; None for a claim check or an envelope of another service."""
    if storage.parse_claim_check(text) or (not _is_instances(text) and _envelope(text)[0]):
        return None
    return text


def _unwrap(message: str, text: str) -> tuple[str, str | None, ApiError | None]:
    """Return the id and the body of a message's job, None for a claim check, and any error.

    The contract judges a body that is in no envelope: a failed result tells its producer. Nobody
    knows the id of a message that another service wrapped, so it must not become a result.
    """
    id, error = message, None
    for _ in range(3):  # an EventBridge event may come through SNS
        claim = storage.parse_claim_check(text)
        if claim:
            return claim[1], None, None
        if _is_instances(text):
            return id, text, None
        source, inner_id, inner = _envelope(text)
        if not source:
            break
        error = ServerError(f"an envelope of {source} holds no body of this service")
        error.slug = "unknown-message"
        if not isinstance(inner, str) or not isinstance(inner_id, str) or not _is_uuid(inner_id):
            break
        id, text = inner_id, inner
    return message if error else id, text, error


def _envelope(text: str) -> tuple[str, Any, Any]:
    """Return the service that wrapped a message, the id that its producer has, and the content."""
    try:
        envelope = orjson.loads(text)
    except ValueError:
        return "", None, None
    if not isinstance(envelope, dict):
        return "", None, None
    if envelope.get("Type") == "Notification" and "TopicArn" in envelope:
        return "SNS", envelope.get("MessageId"), envelope.get("Message")
    if "detail-type" in envelope and "source" in envelope:
        return "EventBridge", envelope.get("id"), orjson.dumps(envelope.get("detail")).decode()
    if envelope.get("Event") == "s3:TestEvent" or b'"aws:s3"' in orjson.dumps(
        envelope.get("Records")
    ):
        return "S3", None, None
    return "", None, None
