"""The worker: queue event in, batch response out, 10 and 1000 messages of one row each.

Beside it Powertools' BatchProcessor, which calls its handler once a message. Both validate, score
and write results, to a dict in place of S3; how many rows one worker scores with S3's client and a
server in between is measured on its own, for messages of one row and of a hundred.
"""

import contextlib
import json
import logging
import marshal
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import cases, warm
from benchmarks.results import Rounds
from handler import manifest as manifests
from handler.settings import Settings

TURNS = {"batch 10": warm.Turn(10, 64), "batch 1000": warm.Turn(1000, 4)}
BUCKET = "benchmark"


def write_events(path: Path, model_dir: Path) -> str:
    """Write events for a child, by number of messages; return the path."""
    manifest = manifests.read(model_dir)
    contents = {}
    for count, _, _ in TURNS.values():
        rows = cases.rows(manifest, count, warm.EVENTS[count])
        contents[count] = ([event([[row] for row in each]) for each in rows], rows)
    path.write_bytes(marshal.dumps(contents))
    return str(path)


def with_s3(model_dir: Path, rounds: int) -> Rounds:
    """The seconds that a row takes with S3, in messages of one row and of a hundred."""
    manifest = manifests.read(model_dir)
    seconds: Rounds = {}
    with _bucket():
        from handler.jobs import worker

        handle = worker.create(Settings(model_dir, jobs_bucket=BUCKET))
        for i in range(-1, rounds):  # round -1 warms up
            for size, name in ((1, "one by one"), (100, "in messages of a hundred")):
                parts = cases.rows(manifest, size, 100)
                sent = event(parts, f"{i}-{size}")
                with open(os.devnull, "w") as records, contextlib.redirect_stdout(records):
                    start = time.perf_counter()
                    answer = handle(sent, None)
                    took = time.perf_counter() - start
                if answer["batchItemFailures"]:
                    raise RuntimeError("the worker gave messages back")
                if i >= 0:
                    seconds.setdefault(name, []).append(took / (size * len(parts)))
    return seconds


@contextlib.contextmanager
def _bucket() -> Iterator[None]:
    """A bucket of a server in this process, which boto3's clients find."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    found = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with patch.dict(os.environ, found):
            boto3.client("s3").create_bucket(Bucket=BUCKET)
            yield
    finally:
        server.stop()


def event(messages: list[list[dict[str, Any]]], prefix: str = "") -> dict[str, Any]:
    """Messages with these instances as the event source mapping hands them over."""
    sent = str(int(time.time() * 1e3))
    return {
        "Records": [
            {
                "messageId": f"{prefix}059f36b4-87a3-44ab-83d2-{i:012}",
                "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a…",
                "body": json.dumps({"instances": instances}),
                "attributes": {
                    "ApproximateReceiveCount": "1",
                    "SentTimestamp": sent,
                    "SenderId": "AIDAIENQZJOLO23YVJ4VO",
                    "ApproximateFirstReceiveTimestamp": sent,
                },
                "messageAttributes": {},
                "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:eu-central-1:123456789012:jobs",
                "awsRegion": "eu-central-1",
            }
            for i, instances in enumerate(messages)
        ]
    }
