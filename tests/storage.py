"""S3 and SQS as jobs use them: in memory, in a folder that survives a kill, and out of order."""

import io
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from hashlib import md5
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from handler.jobs import Store

DAY = 86400


def error(code: str, status: int = 400) -> ClientError:
    return ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Test"
    )


class Memory:
    """Both clients. `written` has the keys of all writes that took place, in their order."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, dict[str, str], str]] = {}
        self.sent: list[str] = []
        self.written: list[str] = []
        self._lock = threading.Lock()

    def put_object(
        self,
        *,
        Bucket: str,
        Key: str,
        Body: bytes,
        Metadata: dict[str, str] | None = None,
        ContentType: str = "",
        IfNoneMatch: str = "",
        IfMatch: str = "",
    ) -> Any:
        with self._lock:
            there = self.objects.get(Key)
            if IfMatch and not there:
                raise error("NoSuchKey", 404)
            if (IfNoneMatch and there) or (IfMatch and there and there[2] != IfMatch):
                raise error("PreconditionFailed", 412)
            # as S3's, a tag is of the content alone
            self.objects[Key] = (Body, Metadata or {}, md5(Body).hexdigest())
            self.written.append(Key)
        return {"ETag": ""}

    def head_object(self, *, Bucket: str, Key: str) -> Any:
        if Key not in self.objects:
            raise error("404", 404)
        _, metadata, tag = self.objects[Key]
        return {"Metadata": metadata, "ETag": tag}

    def get_object(self, *, Bucket: str, Key: str) -> Any:
        if Key not in self.objects:
            raise error("NoSuchKey", 404)
        body, metadata, tag = self.objects[Key]
        return {"Body": io.BytesIO(body), "Metadata": metadata, "ETag": tag}

    def send_message(self, *, QueueUrl: str, MessageBody: str) -> Any:
        self.sent.append(MessageBody)
        return {}


class Folder:
    """S3 in files. A write is one `link`, so it takes place wholly or not at all, and once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.root.mkdir(exist_ok=True)

    def _path(self, key: str) -> Path:
        return self.root / key.replace("/", "~")

    def put_object(
        self, *, Key: str, Body: bytes, Metadata: dict[str, str], IfNoneMatch: str, **_: Any
    ) -> Any:
        draft = self.root / f".{uuid.uuid4()}"
        draft.write_bytes(json.dumps(Metadata).encode() + b"\n" + Body)
        try:
            os.link(draft, self._path(Key))
        except FileExistsError:
            raise error("PreconditionFailed", 412) from None
        finally:
            draft.unlink()
        # a write's trace, of one line: a doubled one would show
        with open(self.root / ".written", "a") as log:
            log.write(Key + "\n")
        return {"ETag": ""}

    def get_object(self, *, Key: str, **_: Any) -> Any:
        try:
            metadata, _line, body = self._path(Key).read_bytes().partition(b"\n")
        except FileNotFoundError:
            raise error("NoSuchKey", 404) from None
        return {"Metadata": json.loads(metadata), "ETag": "", "Body": io.BytesIO(body)}

    head_object = get_object


class Faulty:
    """A client whose calls first meet `fault(name of the call, its number)`, which may raise."""

    def __init__(self, client: Any, fault: Callable[[str, int], None]) -> None:
        self._client, self._fault, self._calls = client, fault, 0

    def __getattr__(self, name: str) -> Any:
        def call(**parameters: Any) -> Any:
            self._calls += 1
            self._fault(name, self._calls)
            return getattr(self._client, name)(**parameters)

        return call


def store(client: Any, seconds: int = DAY) -> Store:
    return Store(client, client, "bucket", "queue", seconds)


def record(body: str, id: str, group: str = "", receives: int = 1, sent: int = 0) -> dict[str, Any]:
    """One message as the event source mapping hands it over."""
    attributes = {
        "ApproximateReceiveCount": str(receives),
        "AWSTraceHeader": "Root=1-68b1c2d3-0123456789abcdef01234567",
        "SentTimestamp": str((sent or int(time.time())) * 1000),
        "SenderId": "AROAEXAMPLE:producer",
        "ApproximateFirstReceiveTimestamp": str(int(time.time()) * 1000),
    }
    if group:
        attributes |= {"MessageGroupId": group, "SequenceNumber": "1", "MessageDeduplicationId": id}
    return {
        "messageId": id,
        "receiptHandle": "AQEBexample",
        "body": body,
        "attributes": attributes,
        "messageAttributes": {},
        "md5OfBody": md5(body.encode(errors="surrogatepass")).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:eu-central-1:123456789012:jobs{'.fifo' * bool(group)}",
        "awsRegion": "eu-central-1",
    }


def event(*records: dict[str, Any]) -> dict[str, Any]:
    return {"Records": list(records)}
