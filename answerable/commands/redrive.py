"""`answerable redrive`: the dead letters of a stack's jobs go back to their queue.

One by one, rather than by SQS's own StartMessageMoveTask: that gives each message a new id, and a
producer's own message is known to its producer by the id that it had. So its body is stored as the
request of a job under that id, and what is sent is the claim check. Stopped at any point, nothing
is lost, and what was sent already is no more than a message delivered twice.
"""

import argparse
import re
import sys
import time
import uuid
from hashlib import sha256
from typing import Any, NamedTuple

from handler.errors import Unavailable
from handler.jobs import storage
from handler.jobs.storage import JobStore

OUTPUTS = ("JobsQueueUrl", "JobsDeadLettersUrl", "JobsBucket", "JobsDays")


class Counts(NamedTuple):
    """Messages that were sent again; of these, those that were producers' own."""

    sent: int = 0
    own: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("stack", help="the CloudFormation stack, as answerable-diabetes-dev")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many messages")
    parser.add_argument("--dry-run", action="store_true", help="only count them")


def redrive(store: JobStore, dead_letters: str, limit: int | None = None) -> Counts:
    """Send dead letters again, until there are none or `limit` is reached. Raises Unavailable."""
    counts = Counts()
    while limit is None or counts.sent < limit:
        most = 10 if limit is None else min(10, limit - counts.sent)
        found = store.sqs.receive_message(
            QueueUrl=dead_letters,
            MaxNumberOfMessages=most,
            WaitTimeSeconds=1,
            MessageSystemAttributeNames=["All"],
        )
        if not found.get("Messages"):
            break
        for message in found["Messages"]:
            own = _send(store, message)
            store.sqs.delete_message(QueueUrl=dead_letters, ReceiptHandle=message["ReceiptHandle"])
            counts = Counts(counts.sent + 1, counts.own + own)
    return counts


def _send(store: JobStore, message: dict[str, Any]) -> bool:
    """Send a message again, and tell whether it was a producer's own."""
    body, own = message["Body"], not storage.parse_claim_check(message["Body"])
    if own:
        content = body.encode(errors="surrogatepass")
        until = str(int(time.time()) + store.seconds)
        told = {
            "caller": storage.ANONYMOUS,
            "sha256": sha256(content).hexdigest(),
            "expires": until,
        }
        storage.put_if_absent(store, message["MessageId"], storage.REQUEST, content, told)
        body = storage.claim_check_message(message["MessageId"])
    group = message["Attributes"].get("MessageGroupId")
    fifo: dict[str, str] = {}
    if group and store.queue_url.endswith(".fifo"):
        fifo = {"MessageGroupId": group, "MessageDeduplicationId": str(uuid.uuid4())}
    store.sqs.send_message(QueueUrl=store.queue_url, MessageBody=body, **fifo)
    return own


def main(args: argparse.Namespace) -> int:
    """Count or send."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        (stack,) = boto3.client("cloudformation").describe_stacks(StackName=args.stack)["Stacks"]
        outputs = {item["OutputKey"]: item["OutputValue"] for item in stack.get("Outputs", [])}
        if not set(OUTPUTS) <= outputs.keys():
            print(f"{args.stack} has no jobs", file=sys.stderr)
            return 1
        queue, dead_letters, bucket, days = (outputs[name] for name in OUTPUTS)
        sqs = boto3.client("sqs")
        told = sqs.get_queue_attributes(
            QueueUrl=dead_letters, AttributeNames=["ApproximateNumberOfMessages"]
        )
        waiting = int(told["Attributes"]["ApproximateNumberOfMessages"])
        if args.dry_run:
            print(f"{waiting} dead letters")
            return 0
        store = JobStore(boto3.client("s3"), sqs, bucket, queue, int(days) * 86400)
        counts = redrive(store, dead_letters, args.limit)
    except (BotoCoreError, ClientError, Unavailable) as error:
        print(re.sub(r"\s+", " ", str(error)), file=sys.stderr)
        return 1
    print(
        f"{counts.sent} of about {waiting} dead letters sent again, {counts.own} of producers' own"
    )
    return 0
