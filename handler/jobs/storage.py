"""The storage of jobs: submit a job, fetch it, write its result exactly once.

A job is two objects of one bucket, `jobs/{id}/request.json` and `jobs/{id}/result.json`. Both are
written with `If-None-Match: *`. So a repeated request, a duplicate delivery and a restarted worker
change nothing. The message in the queue holds the id alone (the claim check pattern).

A job ends at the `expires` of its objects' metadata. When the bucket's lifecycle removes the
objects later does not matter. A job can be fetched by its id, unless it has another caller.
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
from handler.iso_time import iso_time
from handler.settings import Settings

THREADS = 16
DAY_SECONDS = 86_400
REQUEST, RESULT = "request.json", "result.json"
ANONYMOUS = "-"  # the owner of a job whose caller is not known
# no such object, a condition that does not hold, another conditional write at the same time
_EXPECTED_ERROR_CODES = {"NoSuchKey", "404", "PreconditionFailed", "ConditionalRequestConflict"}
is_job_id = re.compile(r"[A-Za-z0-9_-]{1,80}").fullmatch
# any other message is a producer's own body
parse_claim_check = re.compile(r'\s*\{\s*"job"\s*:\s*"([\w-]{1,80})"\s*\}\s*', re.ASCII).fullmatch
_is_idempotency_key = re.compile(r"[\x21-\x7e]{1,255}").fullmatch


class JobStore(NamedTuple):
    """The clients and names of a deployment's storage.

    `seconds`: how long a job is kept. `threads`: how many calls run at once.
    """

    s3: Any
    sqs: Any
    bucket: str
    queue_url: str
    seconds: int
    threads: int = THREADS


class StoredObject(NamedTuple):
    """An object of the bucket; `body` is empty if only its head was read."""

    body: bytes
    metadata: dict[str, str]


class SubmittedJob(NamedTuple):
    """The id of a job and the document that its caller receives."""

    id: str
    document: bytes


@lru_cache
def connect(config: Settings) -> JobStore:
    """Return the storage; its clients are created at the first use, never in a snapshot."""
    import boto3
    from botocore.config import Config

    # during an outage a call fails within 15 s, before the function's time is over
    options = Config(
        connect_timeout=1,
        read_timeout=3,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=THREADS,
    )
    s3, sqs = (boto3.client(name, config=options) for name in ("s3", "sqs"))
    seconds = config.job_retention_days * DAY_SECONDS
    return JobStore(s3, sqs, config.jobs_bucket, config.jobs_queue_url, seconds)


def submit(
    store: JobStore, body: bytes, caller: str = "", idempotency_key: str | None = None
) -> SubmittedJob:
    """Store a body that the contract accepts, and queue it.

    The same key of the same caller is the same job. Without a known caller the body belongs to the
    key, so that two callers with one key share a job only if they sent the same. A repeat queues a
    job again that has no result yet, because the first call may have failed between storing and
    queueing.

    Raises BadRequest, Conflict if the caller's key belongs to another body, or Unavailable.
    """
    if idempotency_key is not None and not _is_idempotency_key(idempotency_key):
        raise BadRequest("an Idempotency-Key is 1 to 255 visible ASCII characters")
    digest = sha256(body).hexdigest()
    id = _new_id(store, caller or f"\n{digest}", idempotency_key)
    until = expires({}, store)
    metadata = {"caller": owner(id, caller), "sha256": digest, "expires": str(until)}
    existing = put_if_absent(store, id, REQUEST, body, metadata)
    if existing:
        if existing.get("sha256") != digest:
            raise Conflict("send another body under another key")
        until = expires(existing, store)
        result = _get_object(store, id, RESULT, store.s3.head_object)
        if result:
            return SubmittedJob(id, render_job(id, result.metadata["status"], until))
    _call_aws(
        store.sqs.send_message,
        QueueUrl=store.queue_url,
        MessageBody=claim_check_message(id),
        # a fair queue: the jobs of one caller do not delay those of others
        MessageGroupId=sha256(caller.encode(errors="surrogatepass")).hexdigest(),
    )
    return SubmittedJob(id, render_job(id, "queued", until))


def claim_check_message(id: str) -> str:
    """Return the message that queues a job."""
    return orjson.dumps({"job": id}).decode()


def get_job(store: JobStore, id: str, caller: str = "") -> tuple[bytes, bool]:
    """Return a job's document, and whether it is finished. Raise NotFound or Unavailable."""
    job = result = None
    if is_job_id(id):
        result = _get_object(store, id, RESULT, store.s3.get_object)
        job = result or _get_object(store, id, REQUEST, store.s3.head_object)
    if not job or not may_read(job.metadata.get("caller", ANONYMOUS), id, caller):
        raise NotFound("there is no such job, or it has expired")
    if result:
        return result.body, True
    return render_job(id, "queued", expires(job.metadata, store)), False


def get_request(store: JobStore, id: str) -> StoredObject | None:
    """Return a job's request, None if it is absent or expired. Raises Unavailable."""
    return _get_object(store, id, REQUEST, store.s3.get_object)


def write_result(
    store: JobStore, id: str, status: str, document: bytes, caller: str, until: int
) -> None:
    """Write a job's result unless it has one. Raises Unavailable."""
    metadata = {"caller": caller, "expires": str(until), "status": status}
    put_if_absent(store, id, RESULT, document, metadata)


def expires(metadata: dict[str, str], store: JobStore) -> int:
    """Return when a job ends, in seconds since 1970; without metadata, counted from now."""
    return int(metadata.get("expires", int(time.time()) + store.seconds))


def render_job(id: str, status: str, until: int, fields: bytes = b"") -> bytes:
    """Return a job as JSON, with `fields` (that begin with a comma) behind it.

    It is also the content of the result object. A job that is scored twice gives the same bytes.
    """
    job = f'{{"job":{{"id":"{id}","status":"{status}","expires_at":"{iso_time(until)}"}}'
    return b"%b%b}" % (job.encode(), fields)


def _new_id(store: JobStore, owner: str, idempotency_key: str | None) -> str:
    """Return 192 bits in base64: random, or of owner and key under a secret.

    The secret is needed because a key can be guessed.
    """
    if idempotency_key is None:
        bits = os.urandom(24)
    else:
        text = f"{owner}\n{idempotency_key}".encode(errors="surrogatepass")
        bits = hmac.digest(_secret(store), text, "sha256")[:24]
    return urlsafe_b64encode(bits).decode()


@lru_cache
def _secret(store: JobStore) -> bytes:
    """Return the secret of the ids, which the first call creates.

    It is kept in the bucket, as well protected as the jobs. A secret in the environment or the
    template could be read by more people.
    """
    key = {"Bucket": store.bucket, "Key": "secret"}
    _call_aws(store.s3.put_object, **key, Body=os.urandom(32), IfNoneMatch="*")
    response = _call_aws(store.s3.get_object, **key)
    if not response:
        raise Unavailable("the secret of the jobs' ids could not be read")
    secret: bytes = response["Body"]
    return secret


def owner(id: str, caller: str) -> str:
    """Return a caller as it is stored, different for each of the caller's jobs and batches."""
    if not caller:
        return ANONYMOUS
    return sha256(f"{id}\n{caller}".encode(errors="surrogatepass")).hexdigest()


def may_read(stored_owner: str, id: str, caller: str) -> bool:
    """Return whether a job or batch of an owner may be read: by the same caller, or it has none."""
    return stored_owner in (ANONYMOUS, owner(id, caller))


def put_if_absent(
    store: JobStore, id: str, name: str, body: bytes, metadata: dict[str, str]
) -> dict[str, str] | None:
    """Write an object, or return the metadata of one that has not expired. Raise Unavailable."""
    key = {"Bucket": store.bucket, "Key": f"jobs/{id}/{name}"}
    condition = {"IfNoneMatch": "*"}
    for _ in range(5):
        written = _call_aws(
            store.s3.put_object,
            **key,
            Body=body,
            Metadata=metadata,
            ContentType="application/json",
            **condition,
        )
        if written is not None:
            return None
        head = _call_aws(store.s3.head_object, **key)
        if head and not _is_expired(head["Metadata"]):
            existing: dict[str, str] = head["Metadata"]
            return existing
        condition = {"IfMatch": head["ETag"]} if head else {"IfNoneMatch": "*"}
    raise Unavailable("S3 would not settle a conditional write")


def _get_object(
    store: JobStore, id: str, name: str, read: Callable[..., Any]
) -> StoredObject | None:
    response = _call_aws(read, Bucket=store.bucket, Key=f"jobs/{id}/{name}")
    if not response or _is_expired(response["Metadata"]):
        return None
    return StoredObject(response.get("Body", b""), response["Metadata"])


def _is_expired(metadata: dict[str, str]) -> bool:
    return int(metadata.get("expires", 1 << 40)) <= time.time()


def _call_aws(call: Callable[..., Any], **parameters: Any) -> dict[str, Any] | None:
    """Return a response with its body read, None for an expected error. Raise Unavailable."""
    try:
        response: dict[str, Any] = call(**parameters)
        return {**response, "Body": response["Body"].read()} if "Body" in response else response
    except ClientError as error:
        reason = error.response["Error"]["Code"]
        if reason in _EXPECTED_ERROR_CODES:
            return None
    except (BotoCoreError, OSError) as error:
        reason = type(error).__name__
    raise Unavailable(f"the storage of jobs is not available ({reason})")
