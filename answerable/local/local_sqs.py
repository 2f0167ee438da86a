"""Jobs on this machine: moto's S3 and SQS in this process, and the real worker, which polls.

They start with the first call of `/jobs`. If JOBS_BUCKET is set, nothing is started.
"""

import contextlib
import logging
import os
import socket
import threading
import traceback
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import orjson

from answerable.local.event_sources import ACCOUNT, REGION
from answerable.local.local_lambda import Context, LocalLambda
from handler import settings

BUCKET = QUEUE = "jobs"
DEAD_LETTERS = "jobs-dead-letters"
MAX_RECEIVE_COUNT = 3
VISIBILITY_SECONDS = 5  # minutes in AWS; here somebody waits for the retry


class LocalQueue:
    """S3, SQS and the worker behind a listener. `start` is idempotent and thread-safe."""

    def __init__(self, listener: socket.socket) -> None:
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._listener, self._lock, self._started = listener, threading.Lock(), False
        self.stopped = threading.Event()

    def start(self, environment: LocalLambda) -> None:
        """Serve S3 and SQS, and poll the queue with the worker."""
        with self._lock:
            if self._started:
                return
            self._serve()
            sqs = self._create()
            threading.Thread(target=self._poll, args=(sqs, environment), daemon=True).start()
            self._started = True

    def _serve(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        app: Any = DomainDispatcherApplication(create_backend_app)
        descriptor = self._listener.fileno()
        server = make_server("127.0.0.1", 0, app, threaded=True, fd=descriptor)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def _create(self) -> Any:
        import boto3

        boto3.client("s3").create_bucket(Bucket=BUCKET)
        sqs: Any = boto3.client("sqs")
        sqs.create_queue(QueueName=DEAD_LETTERS)
        dead = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{DEAD_LETTERS}"
        policy = {"deadLetterTargetArn": dead, "maxReceiveCount": MAX_RECEIVE_COUNT}
        attributes = {
            "VisibilityTimeout": str(VISIBILITY_SECONDS),
            "RedrivePolicy": orjson.dumps(policy).decode(),
        }
        sqs.create_queue(QueueName=QUEUE, Attributes=attributes)
        return sqs

    def _poll(self, sqs: Any, environment: LocalLambda) -> None:
        """Do what an event source mapping does."""
        from handler.jobs import worker

        url, served, handle = os.environ["JOBS_QUEUE_URL"], None, None
        while not self.stopped.is_set():
            try:
                if handle is None or served is not environment.served:  # packed again
                    config = settings.read()._replace(model_dir=environment.directory)
                    served, handle = environment.served, worker.create(config)
                received = sqs.receive_message(
                    QueueUrl=url,
                    MaxNumberOfMessages=10,
                    WaitTimeSeconds=1,
                    MessageSystemAttributeNames=["All"],
                )
                messages = received.get("Messages", [])
                if not messages:
                    continue
                result = handle(event(messages), Context(environment.timeout))
                failed = {item["itemIdentifier"] for item in result["batchItemFailures"]}
                for message in messages:
                    if message["MessageId"] not in failed:
                        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            except Exception:  # as for a function that fails, SQS delivers again
                traceback.print_exc()
                self.stopped.wait(1)


def event(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the event that Lambda makes of received messages."""
    records = [
        {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"],
            "messageAttributes": {},
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{QUEUE}",
            "awsRegion": REGION,
        }
        for message in messages
    ]
    return {"Records": records}


@contextlib.contextmanager
def prepared() -> Iterator[LocalQueue | None]:
    """Yield a queue to start later, with its settings in the environment; None if they are set.

    The listener is open from the beginning, so that the port is known.
    """
    if os.environ.get("JOBS_BUCKET"):
        yield None
        return
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        queue = LocalQueue(listener)
        environ = {
            "JOBS_BUCKET": BUCKET,
            "JOBS_QUEUE_URL": f"{queue.url}/{ACCOUNT}/{QUEUE}",
            "JOBS_MAX_RECEIVE_COUNT": str(MAX_RECEIVE_COUNT),
            "AWS_ENDPOINT_URL": queue.url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
        }
        with patch.dict(os.environ, environ):
            for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):  # use no real account
                os.environ.pop(name, None)
            try:
                yield queue
            finally:
                queue.stopped.set()
