"""The Lambda entry point of a batch's steps without a model: `handler.batch.control.on_step`.

`pin` chooses the version of the worker that does a run, `finish` and `fail` end it.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import orjson

from handler.batch import BatchError, finish, plan, storage
from handler.batch.storage import Storage
from handler.release import rollback

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


def on_step(event: Any, context: "LambdaContext") -> Any:
    """Do one step of the state machine (infra/batch.py)."""
    with recorded(event["request"]) as run:
        return {"pin": _pin, "finish": _finish, "fail": _fail}[event["step"]](event, run)


@contextlib.contextmanager
def recorded(request: Any) -> Iterator[Storage]:
    """Yield the storage of a run. A BatchError is written there, and raised."""
    run = storage.connect(f"s3://{os.environ['BATCH_BUCKET']}/runs/{run_id(request)}")
    try:
        yield run
    except BatchError as error:
        storage.put_json(run, finish.FAILURE, {"problem": str(error)})
        raise


def run_id(request: Any) -> str:
    """Return the id of a run: the one that a caller has, or one of the upload, which has no other.

    EventBridge may deliver an upload twice. Both are one run.
    """
    if "run" in request:
        return str(request["run"])
    key = request["object"]["key"]
    if key.startswith(prefix := "input/uploads/"):
        return str(key.removeprefix(prefix))
    upload = f"{key} {request['object']['etag']} {request['object'].get('sequencer', '')}"
    return hashlib.sha256(upload.encode()).hexdigest()[:24]


def _pin(event: Any, run: Storage) -> Any:
    """Return the worker's version for the run: of its plan, or with the model that is live."""
    import boto3

    client: Any = boto3.client
    service = rollback.Service(client, os.environ["SCORING_FUNCTION"])
    worker = os.environ["WORKER_FUNCTION"]
    if run.read(plan.PLAN) is not None:  # the run is resumed
        run.delete(finish.FAILURE)
        version = plan.read_plan(run).function_version
    else:
        live = service.alias()["FunctionVersion"]
        # a version is described by its model (infra/function.py); the images may differ by pyarrow
        model = next(v["Description"] for v in service.versions() if v["Version"] == live)
        workers = (v["Version"] for v in service.versions(worker) if v["Description"] == model)
        version = next(workers, "")
        if not version:
            raise BatchError(
                f"no version of the batch function has the model that is live, {model}"
            )
    return {"function": f"{worker}:{version}"}


def _finish(event: Any, run: Storage) -> Any:
    """Finish the run, and say so on EventBridge."""
    document = finish.finish(run, plan.read_plan(run))
    del document["parts"], document["inputs"]
    return _announce("Batch Succeeded", document)


def _fail(event: Any, run: Storage) -> Any:
    """Say on EventBridge why the run failed."""
    storage.put_json(run, finish.FAILURE, {"problem": f"a step failed: {event['error']['Error']}"})
    return _announce("Batch Failed", {"run": run_id(event["request"]), **finish.status(run)})


def _announce(detail_type: str, document: Any) -> Any:
    import boto3

    detail = orjson.dumps(document).decode()
    entry = {"Source": "answerable", "DetailType": detail_type, "Detail": detail}
    boto3.client("events").put_events(Entries=[entry])
    return orjson.loads(detail)
