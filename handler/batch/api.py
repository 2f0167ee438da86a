"""`POST /batches`, `POST /batches?upload` and `GET /batches/{id}`, in a deployment with batches."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import orjson

from handler.batch import BatchError, finish, storage
from handler.errors import BadRequest, ContractViolation, NotFound, Unavailable, Violation, pointer
from handler.jobs.storage import ANONYMOUS, may_read, owner
from handler.request_log import error_summary
from handler.settings import Settings

REQUEST = "request.json"
MAX_BODY_BYTES = 10_000
UPLOAD_SECONDS = 3600
_is_id = re.compile(r"[A-Za-z0-9-]{1,64}").fullmatch
OPTIONS = {"key": str, "ignore_unknown": bool, "max_refused_percent": float | int}


def start(config: Settings, body: str | bytes, caller: str = "") -> dict[str, Any]:
    """Start a run of a file in an allowed bucket. Raise ContractViolation, Unavailable."""
    import boto3

    request = _parse(config, body)
    id = _new_id()
    document = {"run": id, "input": request.pop("input"), "options": request}
    with _aws():
        storage.put_json(_run(config, id), REQUEST, {**document, "caller": owner(id, caller)})
        boto3.client("stepfunctions").start_execution(
            stateMachineArn=config.batch_state_machine,
            name=id,
            input=orjson.dumps(document).decode(),
        )
    return {"batch": {"id": id, "status": "queued"}}


def upload(config: Settings, caller: str = "") -> dict[str, Any]:
    """Return a presigned PUT. A run starts when the object is there."""
    id = _new_id()
    with _aws():
        storage.put_json(_run(config, id), REQUEST, {"run": id, "caller": owner(id, caller)})
        url = storage.s3_client().generate_presigned_url(
            "put_object",
            Params={"Bucket": config.batch_bucket, "Key": f"input/uploads/{id}"},
            ExpiresIn=UPLOAD_SECONDS,
        )
    upload = {"method": "PUT", "url": url, "expires_in": UPLOAD_SECONDS}
    return {"batch": {"id": id, "status": "queued"}, "upload": upload}


def get(config: Settings, id: str, caller: str | None = "") -> dict[str, Any]:
    """Return the status of a run. Raise NotFound, also for a run of another caller.

    A caller of None may read each run, as one who has access to the bucket. A run that an object
    under `input/` started has no caller.
    """
    if _is_id(id):
        with _aws():
            run = _run(config, id)
            request = orjson.loads(run.read(REQUEST) or b"{}")
            stored_owner = request.get("caller", ANONYMOUS)
            if caller is not None and not may_read(stored_owner, id, caller):
                raise NotFound("there is no such batch")
            with contextlib.suppress(BatchError):
                return {"batch": {"id": id, **finish.status(run)}}
            if request:
                return {"batch": {"id": id, "status": "queued"}}
    raise NotFound("there is no such batch")


@contextlib.contextmanager
def _aws() -> Iterator[None]:
    """Raise Unavailable for a call of AWS that fails."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, OSError) as error:
        raise Unavailable(f"batches are not available ({error_summary(error)})") from None


def _parse(config: Settings, body: str | bytes) -> dict[str, Any]:
    try:
        request = orjson.loads(body)
    except ValueError:
        raise BadRequest("the body is not valid JSON") from None
    if type(request) is not dict or not set(request) <= {"input", *OPTIONS}:
        raise _violation("", f"must be an object with input, {', '.join(OPTIONS)}")
    uri = request.get("input")
    allowed = (f"s3://{config.batch_bucket}/input/", *config.batch_input_uris)
    if type(uri) is not str or not uri.startswith(allowed) or "/../" in uri:
        raise _violation("input", f"must begin with one of {', '.join(allowed)}")
    for name, kind in OPTIONS.items():
        if name in request and not isinstance(request[name], kind):
            raise _violation(name, "has another type")
    percent = request.get("max_refused_percent", 0)
    if not 0 <= percent <= 100 or percent is True:
        raise _violation("max_refused_percent", "must be from 0 to 100")
    return request


def _violation(name: str, message: str) -> ContractViolation:
    return ContractViolation([Violation(pointer(name) if name else "", "invalid", message)])


def _run(config: Settings, id: str) -> storage.Storage:
    return storage.connect(f"s3://{config.batch_bucket}/runs/{id}")


def _new_id() -> str:
    """Return an id that sorts by time."""
    return f"{time.strftime('%Y%m%dt%H%M%S', time.gmtime())}-{os.urandom(8).hex()}"
