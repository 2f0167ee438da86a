"""Submit, result, exactly one effect per job.

A job is two objects of one bucket, `jobs/{id}/request.json` and `jobs/{id}/result.json`. Both are
written with `If-None-Match: *`, so whoever comes second finds that it was done: a request sent
again, a message delivered twice, a worker that was killed after its write. The queue carries the
id alone (a claim check). A job ends at the `expires` in its objects' metadata; when the bucket's
lifecycle removes them, some time after, is of no consequence.

Whoever holds an id can ask for the job, unless another caller is known to have submitted it.
"""

import hmac
import os
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

import orjson
from botocore.exceptions import BotoCoreError, ClientError

from handler.errors import BadRequest, Conflict, NotFound, Unavailable
from handler.settings import Settings

THREADS = 16
REQUEST, RESULT = "request.json", "result.json"
ANONYMOUS = "-"  # whose job it is when no caller was known
# an object that is not there, a condition that is not met, another conditional write under way
_EXPECTED_ERROR_CODES = {"NoSuchKey", "404", "PreconditionFailed", "ConditionalRequestConflict"}
is_job_id = re.compile(r"[A-Za-z0-9_-]{1,80}").fullmatch
# of a message, the claim check; anything else is a body
parse_claim_check = re.compile(r'\s*\{\s*"job"\s*:\s*"([\w-]{1,80})"\s*\}\s*', re.ASCII).fullmatch
_is_key = re.compile(r"[\x21-\x7e]{1,255}").fullmatch


class JobStore(NamedTuple):
    """Where jobs are kept, and for how many `seconds`; `threads` talk to it at once."""

    s3: Any
    sqs: Any
    bucket: str
    queue_url: str
    seconds: int
    threads: int = THREADS


class Stored(NamedTuple):
    """An object; `body` is empty where only its head was read."""

    body: bytes
    metadata: dict[str, str]
    etag: str


class SubmittedJob(NamedTuple):
    """What a caller holds of a job."""

    id: str
    document: bytes


@lru_cache
def connect(config: Settings) -> JobStore:
    """The clients, made at the first use: a snapshot of the function never holds any."""
    import boto3
    from botocore.config import Config

    # the first call of an outage fails within 15 s: before the function's time is over
    options = Config(
        connect_timeout=1,
        read_timeout=3,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=THREADS,
    )
    s3, sqs = (boto3.client(name, config=options) for name in ("s3", "sqs"))
    return JobStore(s3, sqs, config.jobs_bucket, config.jobs_queue_url, config.jobs_days * 86400)


def submit(store: JobStore, body: bytes, caller: str = "", key: str | None = None) -> SubmittedJob:
    """Store a body that the contract has accepted, and queue it.

    The same caller's same key (an Idempotency-Key) is the same job. If this fails between the two
    steps, nobody was told of a job; with a key, repeating the call queues what was stored, and a
    repeat sends again whatever has no result yet: a message too many has no effect.

    Raises BadRequest, Conflict (the key stands for another body), Unavailable.
    """
    if key is not None and not _is_key(key):
        raise BadRequest("an Idempotency-Key is 1 to 255 visible ASCII characters")
    id, digest = _id(store, caller, key), sha256(body).hexdigest()
    until = expires({}, store)
    mine = {"caller": _owner(id, caller), "sha256": digest, "expires": str(until)}
    held = put_if_absent(store, id, REQUEST, body, mine)
    if held:
        if held.get("sha256") != digest:
            raise Conflict("send another body under another key")
        until = expires(held, store)
        done = _get_object(store, id, RESULT, store.s3.head_object)
        if done:
            return SubmittedJob(id, render_job(id, done.metadata["status"], until))
    _call_aws(store.sqs.send_message, QueueUrl=store.queue_url, MessageBody=claim_check_message(id))
    return SubmittedJob(id, render_job(id, "queued", until))


def claim_check_message(id: str) -> str:
    """The message that claims a job."""
    return orjson.dumps({"job": id}).decode()


def get_job(store: JobStore, id: str, caller: str = "") -> tuple[bytes, bool]:
    """A job's document, and whether it is finished.

    Raises NotFound, to the wrong caller as well, and Unavailable.
    """
    found = done = None
    if is_job_id(id):
        done = _get_object(store, id, RESULT, store.s3.get_object)
        found = done or _get_object(store, id, REQUEST, store.s3.head_object)
    if not found or found.metadata.get("caller", ANONYMOUS) not in (ANONYMOUS, _owner(id, caller)):
        raise NotFound("there is no such job, or it has expired")
    if done:
        return done.body, True
    return render_job(id, "queued", expires(found.metadata, store)), False


def get_request(store: JobStore, id: str) -> Stored | None:
    """What was submitted; None if it is not there, or no more. Raises Unavailable."""
    return _get_object(store, id, REQUEST, store.s3.get_object)


def write_result(
    store: JobStore, id: str, status: str, text: bytes, caller: str, until: int
) -> None:
    """Write a job's result, unless there is one. Raises Unavailable."""
    told = {"caller": caller, "expires": str(until), "status": status}
    put_if_absent(store, id, RESULT, text, told)


def expires(metadata: dict[str, str], store: JobStore) -> int:
    """When a job ends, on time.time()'s clock; of a request that was not put here, from now on."""
    return int(metadata.get("expires", int(time.time()) + store.seconds))


def render_job(id: str, status: str, until: int, part: bytes = b"") -> bytes:
    """A job as JSON. It is the result object's content too, so it tells nothing but of the job:
    whoever scores it again makes the same bytes. `part` begins with a comma.
    """
    job = f'{{"job":{{"id":"{id}","status":"{status}","expires_at":"{_date(until)}"}}'
    return b"%b%b}" % (job.encode(), part)


@lru_cache
def _date(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _id(store: JobStore, caller: str, key: str | None) -> str:
    """192 bits: random, or of caller and key under a secret, because keys can be guessed."""
    if key is None:
        bits = os.urandom(24)
    else:
        text = f"{caller}\n{key}".encode(errors="surrogatepass")
        bits = hmac.digest(_secret(store), text, "sha256")[:24]
    return urlsafe_b64encode(bits).decode()


@lru_cache
def _secret(store: JobStore) -> bytes:
    """Made by whoever needs it first, and kept beside the jobs: their bucket is as well guarded as
    they are, and a secret in the environment or the template would be read by more.
    """
    place = {"Bucket": store.bucket, "Key": "secret"}
    _call_aws(store.s3.put_object, **place, Body=os.urandom(32), IfNoneMatch="*")
    found = _call_aws(store.s3.get_object, **place)
    if not found:
        raise Unavailable("the secret of the jobs' ids could not be read")
    secret: bytes = found["Body"]
    return secret


def _owner(id: str, caller: str) -> str:
    """A caller as the job's metadata has it: two jobs do not show that they have the same."""
    return (
        sha256(f"{id}\n{caller}".encode(errors="surrogatepass")).hexdigest()
        if caller
        else ANONYMOUS
    )


def put_if_absent(
    store: JobStore, id: str, name: str, body: bytes, metadata: dict[str, str]
) -> dict[str, str] | None:
    """Write an object unless it is there; what is there has its metadata returned.

    One that has expired is not there, though the lifecycle has yet to remove it.
    """
    condition = {"IfNoneMatch": "*"}
    for _ in range(5):
        written = _call_aws(
            store.s3.put_object,
            Bucket=store.bucket,
            Key=f"jobs/{id}/{name}",
            Body=body,
            Metadata=metadata,
            ContentType="application/json",
            **condition,
        )
        if written is not None:
            return None
        answer = _call_aws(store.s3.head_object, Bucket=store.bucket, Key=f"jobs/{id}/{name}")
        if answer and not _expired(answer["Metadata"]):
            held: dict[str, str] = answer["Metadata"]
            return held
        condition = {"IfMatch": answer["ETag"]} if answer else {"IfNoneMatch": "*"}
    raise Unavailable("S3 would not settle a conditional write")


def _get_object(store: JobStore, id: str, name: str, read: Callable[..., Any]) -> Stored | None:
    found = _call_aws(read, Bucket=store.bucket, Key=f"jobs/{id}/{name}")
    if not found or _expired(found["Metadata"]):
        return None
    return Stored(found.get("Body", b""), found["Metadata"], found["ETag"])


def _expired(metadata: dict[str, str]) -> bool:
    return int(metadata.get("expires", 1 << 40)) <= time.time()


def _call_aws(call: Callable[..., Any], **parameters: Any) -> dict[str, Any] | None:
    """The answer of S3 or SQS, read to its end; None for one of `_NO`. Raises Unavailable."""
    try:
        answer: dict[str, Any] = call(**parameters)
        return {**answer, "Body": answer["Body"].read()} if "Body" in answer else answer
    except ClientError as error:
        why = error.response["Error"]["Code"]
        if why in _EXPECTED_ERROR_CODES:
            return None
    except (BotoCoreError, OSError) as error:
        why = type(error).__name__
    raise Unavailable(f"the jobs' storage is not available ({why})")
