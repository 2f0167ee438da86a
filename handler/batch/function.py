"""The Lambda entry point of a batch's worker: `handler.batch.function.lambda_handler`.

The state machine (infra/batch.py) calls it to `plan` a run, and once for each `part`. Importing
this module loads the model, in Lambda's init phase.
"""

import time
from typing import TYPE_CHECKING, Any

from handler import prediction_id, request_log, scoring, settings
from handler.batch import control, plan, score
from handler.batch.plan import Options
from handler.batch.storage import Storage
from handler.request_log import FinishedJob

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_config = settings.read()
_scorer = scoring.load(settings.model_dir(_config))
_make_ids = prediction_id.make_id_generator(
    _scorer.manifest, _config.function_version, _config.prediction_id_secret, prediction_id.BATCH
)
_record = request_log.make_batch_log(_config, _scorer.manifest)


def lambda_handler(event: Any, context: "LambdaContext") -> Any:
    """Do one step. A BatchError ends the run with its text; any other error is retried."""
    with control.recorded(event["request"]) as run:
        return {"plan": _plan, "part": _score}[event["step"]](event, context, run)


def _plan(event: Any, context: "LambdaContext", run: Storage) -> Any:
    """Plan the run. Return where its parts are listed."""
    request = event["request"]
    uri = str(request.get("input", ""))  # absent if the run is resumed
    if "object" in request:
        uri = f"s3://{request['bucket']['name']}/{request['object']['key']}"
    options = Options(**{**event["options"], **request.get("options", {})})
    id = control.run_id(request)
    plan.make_plan(_scorer, run, id, uri, options, function_version=_config.function_version)
    return {"shards": f"runs/{id}/{plan.SHARDS}"}


def _score(event: Any, context: "LambdaContext", run: Storage) -> None:
    """Score one part, and write its record."""
    start = time.perf_counter()
    shard = plan.Shard(**event["shard"])
    planned = plan.load_plan(_scorer.manifest, run)
    scored = score.score_shard(_scorer, _make_ids, run, planned, shard)
    if scored.sample is None:
        return
    rows = scored.summary["rows"] - scored.summary["refused"]
    job = FinishedJob(
        id=f"{planned.id}/{shard.name}",
        problem="",
        rows=rows,
        prediction_id_prefix=scored.summary["prediction_id_prefix"],
        payload={name: scored.summary[name] for name in ("runs", "refused")},
    )
    _record(
        request_id=context.aws_request_id,
        messages=1,
        finished=[job],
        retries={},
        rows=rows,
        latency_ms=(time.perf_counter() - start) * 1e3,
        cold=False,
        scored=scored.sample,
    )
