"""`answerable redrive STACK`: return the dead letters of a stack's jobs to their queue.

SQS's own StartMessageMoveTask is not used, because it gives every message a new id. A producer
knows its own message by the id that SendMessage returned, and that id is also the job's. So the
body is stored as the request of a job with the first id, and a claim check is sent for it.

The order of the steps (store, send, delete) loses nothing wherever it stops. A message that was
sent already is delivered twice, and a job has one result however often it is delivered.

An envelope of another service is sent as it is: its job has the id in the envelope.
"""

import argparse
import time
import uuid
from hashlib import sha256
from typing import Any, NamedTuple

from answerable.commands import InputError
from answerable.stack import stack_outputs
from handler.jobs import storage
from handler.jobs.messages import own_body
from handler.jobs.storage import DAY_SECONDS, JobStore

OUTPUTS = ("JobsQueueUrl", "JobsDeadLettersUrl", "JobsBucket", "JobsDays")


class Counts(NamedTuple):
    """Messages that were sent again, and those of them that were a producer's own."""

    sent: int = 0
    from_producers: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("stack", help="the CloudFormation stack, as answerable-diabetes-dev")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many messages")
    parser.add_argument("--dry-run", action="store_true", help="only count them")


def redrive(store: JobStore, dead_letters_url: str, limit: int | None = None) -> Counts:
    """Send dead letters again until there are none, or `limit` is reached. Raises Unavailable."""
    counts = Counts()
    while limit is None or counts.sent < limit:
        batch = store.sqs.receive_message(
            QueueUrl=dead_letters_url,
            MaxNumberOfMessages=10 if limit is None else min(10, limit - counts.sent),
            WaitTimeSeconds=1,
            MessageSystemAttributeNames=["All"],
        )
        if not batch.get("Messages"):
            break
        for message in batch["Messages"]:
            from_producer = _send(store, message)
            store.sqs.delete_message(
                QueueUrl=dead_letters_url, ReceiptHandle=message["ReceiptHandle"]
            )
            counts = Counts(counts.sent + 1, counts.from_producers + from_producer)
    return counts


def _send(store: JobStore, message: dict[str, Any]) -> bool:
    """Send a message again; return whether it was a producer's own."""
    text, id = message["Body"], message["MessageId"]
    body = own_body(text)
    if body is not None:
        content = body.encode(errors="surrogatepass")
        metadata = {
            "caller": storage.ANONYMOUS,
            "sha256": sha256(content).hexdigest(),
            "expires": str(int(time.time()) + store.seconds),
        }
        storage.put_if_absent(store, id, storage.REQUEST, content, metadata)
        text = storage.claim_check_message(id)
    options: dict[str, str] = {}
    if group := message["Attributes"].get("MessageGroupId"):
        options["MessageGroupId"] = group
        if store.queue_url.endswith(".fifo"):
            options["MessageDeduplicationId"] = str(uuid.uuid4())
    store.sqs.send_message(QueueUrl=store.queue_url, MessageBody=text, **options)
    return body is not None


def main(args: argparse.Namespace) -> int:
    """Count or send."""
    import boto3

    (stack,) = boto3.client("cloudformation").describe_stacks(StackName=args.stack)["Stacks"]
    outputs = stack_outputs(stack)
    if not set(OUTPUTS) <= outputs.keys():
        raise InputError(f"{args.stack} has no jobs")
    queue_url, dead_letters_url, bucket, days = (outputs[name] for name in OUTPUTS)
    sqs = boto3.client("sqs")
    response = sqs.get_queue_attributes(
        QueueUrl=dead_letters_url, AttributeNames=["ApproximateNumberOfMessages"]
    )
    waiting = int(response["Attributes"]["ApproximateNumberOfMessages"])
    if args.dry_run:
        print(f"{waiting} dead letters")
        return 0
    store = JobStore(boto3.client("s3"), sqs, bucket, queue_url, int(days) * DAY_SECONDS)
    counts = redrive(store, dead_letters_url, args.limit)
    print(
        f"{counts.sent} of about {waiting} dead letters sent again, "
        f"{counts.from_producers} from producers"
    )
    return 0
