"""The record of a request or of a batch of jobs: log, audit entry and metrics in one JSON line.

A record never holds a value or a key that a client sent, unless `log_payloads` allows it. The
`log_policy` of a feature then decides about its values. Metrics: see handler/metrics.py. All lines
of one call are written at once, because one line so written takes 3 µs, and a logging library's 60.

The record of a server error has a `caller_hash`, which says whether one caller meets the errors or
many do. It is keyed with PREDICTION_ID_SECRET and names nobody. Callers that the gateway does not
authenticate have none.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from handler import feature_types, metrics, prediction_id, settings
from handler.drift.bins import Binner
from handler.drift.targets import fingerprint
from handler.errors import ApiError
from handler.http import Request
from handler.manifest import Feature, Manifest
from handler.model_inputs import Columns
from handler.scoring import Scored
from handler.settings import Settings

# of all versions together too, with which a canary's errors are compared: see infra/alarms.py
SERVICE_METRICS = (metrics.REQUESTS, metrics.CLIENT_ERRORS, metrics.SERVER_ERRORS)
REQUEST_METRICS = (*SERVICE_METRICS, metrics.ROWS, metrics.LATENCY)
BATCH_METRICS = (metrics.JOBS, metrics.FAILED_JOBS, metrics.RETRIES, metrics.ROWS, metrics.LATENCY)
# CloudWatch takes 1 MB of one event, but Lambda splits a line at 256 KB
MAX_LINE_BYTES = 256_000
MAX_PAYLOAD_BYTES = 180_000  # of these
Record = Callable[..., None]
# W3C's traceparent, and the header that API Gateway adds for X-Ray
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
_XRAY = re.compile(r"(?:^|;)Root=1-([0-9a-f]{8})-([0-9a-f]{24})(?:;|$)").search
# the columns of a request, and its predictions as JSON -> fields of a record
LogPayloads = Callable[[Columns, Sequence[bytes]], dict[str, Any]]


class FinishedJob(NamedTuple):
    """A job with a result: its problem, or its rows, ids' prefix and fields of a LogPayloads."""

    id: str
    problem: str
    rows: int
    prediction_id_prefix: str
    payload: dict[str, Any]


def trace_id(headers: Mapping[str, str]) -> str:
    """Return the 32 hex digits of a request's trace, "" if no header has a valid one."""
    if match := _TRACEPARENT(headers.get("traceparent", "")):
        return match[1]
    match = _XRAY(headers.get("x-amzn-trace-id", ""))
    return match[1] + match[2] if match else ""


def make_request_log(config: Settings, manifest: Manifest | None) -> Record:
    """Return the function that writes the record of a request."""
    binner = Binner(manifest) if manifest and manifest.baseline else None
    directives = _serialized_directives(REQUEST_METRICS, SERVICE_METRICS)
    constants = _constants(config, manifest)
    error_names = (*REQUEST_METRICS, metrics.LOG_ERRORS)
    error_directives = _serialized_directives(error_names, SERVICE_METRICS)
    log_payloads = None
    if manifest and config.log_payloads != "off":
        log_payloads = make_payload_logger(config, manifest)
    secret = config.prediction_id_secret
    outputs = [output.name for output in manifest.outputs] if manifest else []

    def build(
        *,
        request: Request | None,
        request_id: str,
        route: str,
        status: int,
        problem: str,
        latency_ms: float,
        cold: bool,
        scored: Scored | None,
        log_error: str,
        predictions: Sequence[bytes] = (),
        ids: Sequence[bytes] = (),
        outcomes: Sequence[dict[str, Any]] = (),
    ) -> list[bytes | dict[str, Any]]:
        line = metrics.log_line(
            "INFO" if status < 500 else "ERROR",
            "request",
            request_id=request_id,
            route=route,
            status=status,
            **constants,
        )
        if problem:
            line["problem"] = problem
        if cold:
            line["cold_start"] = True
        if scored and scored.out_of_range_counts:
            line["out_of_range_counts"] = scored.out_of_range_counts
        if status >= 500 and request and request.caller and secret:
            line["caller_hash"] = _hash(secret, b"caller", request.caller)
        if ids:
            line["prediction_id_prefix"] = ids[0][: prediction_id.REQUEST_PREFIX_CHARS].decode()
        if request and (trace := trace_id(request.headers)):
            line["trace_id"] = trace
        is_synthetic = request is not None and request.synthetic
        if is_synthetic:
            line["synthetic"] = True
        elif not route.startswith("GET "):  # GET /ping or /model is not traffic
            line["_aws"] = metrics.emf(line, directives)
            line[metrics.REQUESTS] = 1
            line[metrics.ROWS] = scored.rows if scored else 0
            line[metrics.CLIENT_ERRORS] = int(400 <= status < 500)
            line[metrics.SERVER_ERRORS] = int(status >= 500)
            seconds = scored.seconds.items() if scored else ()
            line["timings_ms"] = {step: _round_3(value * 1e3) for step, value in seconds}
        line[metrics.LATENCY] = _round_3(latency_ms)
        if log_error:
            line["log_error"] = log_error
            line[metrics.LOG_ERRORS] = 1
            line["_aws"] = metrics.emf(line, error_directives)
        elif scored and not is_synthetic:
            line |= _bins(binner, request_id, scored)
            if log_payloads:
                rows = zip(*scored.outputs, strict=True) if not predictions else ()
                rendered = [_dump(dict(zip(outputs, row, strict=True))) for row in rows]
                line |= log_payloads(scored.columns, predictions or rendered)
        text = orjson.dumps(line)
        if len(text) > MAX_LINE_BYTES:
            text = orjson.dumps(_truncate_record(line, directives))
        shared = {"request_id": request_id, "service": constants["service"]}
        return [text, *({**shared, **outcome} for outcome in outcomes)]

    def record(**fields: Any) -> None:
        """Write the record of a request, and a line for each of the `outcomes`.

        A synthetic request counts in no metric, and its payload is not logged. It raises nothing:
        a record that cannot be made is written without bins, payload and outcomes, and counts as a
        log error.
        """
        try:
            metrics.write(*build(**fields))
        except Exception as error:
            fields |= {"outcomes": (), "log_error": type(error).__name__}
            metrics.write(*build(**fields))

    return record


def make_batch_log(config: Settings, manifest: Manifest) -> Record:
    """Return the function that writes the record of a batch, and a line for each of its jobs."""
    binner = Binner(manifest) if manifest.baseline else None
    directives = _serialized_directives(BATCH_METRICS)
    constants = _constants(config, manifest)

    def record(
        *,
        request_id: str,
        messages: int,
        finished: Sequence[FinishedJob],
        retries: Mapping[str, ApiError],
        rows: int,
        latency_ms: float,
        cold: bool,
        scored: Scored | None,
    ) -> None:
        """Write the record of a batch; `retries` are by message id, the run `scored` is binned."""
        shared = {"request_id": request_id, **constants}
        lines: list[Any] = [
            metrics.log_line(
                "WARNING", "retry", message_id=id, problem=error.slug, detail=error.detail, **shared
            )
            for id, error in retries.items()
        ]
        # serialised once, because a batch may hold a thousand jobs
        start = orjson.dumps(metrics.log_line("INFO", "job", **shared))[:-1]
        lines += [b"%b,%b" % (start, orjson.dumps(_job_fields(job))[1:]) for job in finished]
        line = metrics.log_line(
            "WARNING" if retries else "INFO", "batch", messages=messages, **shared
        )
        if cold:
            line["cold_start"] = True
        line["_aws"] = metrics.emf(line, directives)
        line[metrics.JOBS] = len(finished)
        line[metrics.FAILED_JOBS] = sum(bool(job.problem) for job in finished)
        line[metrics.RETRIES] = len(retries)
        line[metrics.ROWS] = rows
        line[metrics.LATENCY] = _round_3(latency_ms)
        metrics.write(*lines, line | _bins(binner, request_id, scored))

    return record


def _job_fields(job: FinishedJob) -> dict[str, Any]:
    """Return the fields of a job's line that other jobs do not share."""
    fields: dict[str, Any] = {"job": job.id, "rows": job.rows}
    if job.problem:
        return {**fields, "status": "failed", "problem": job.problem}
    prefix = job.prediction_id_prefix
    return {**fields, "status": "succeeded", "prediction_id_prefix": prefix, **job.payload}


def _constants(config: Settings, manifest: Manifest | None) -> dict[str, Any]:
    """Return the fields that all records of an environment share."""
    model = None
    if manifest:
        model = {"name": manifest.name, "version": manifest.version}
        model["fingerprint"] = fingerprint(manifest)
    return {
        "service": config.service or (manifest.name if manifest else config.function),
        "version": config.function_version,
        "model": orjson.Fragment(orjson.dumps(model)),
    }


def _serialized_directives(names: Sequence[str], by_service: Sequence[str] = ()) -> orjson.Fragment:
    """Return the JSON of the directives for `names` by version, and for others by service alone."""
    directives = metrics.directives(names) + metrics.directives(by_service, metrics.BY_SERVICE)
    return orjson.Fragment(orjson.dumps(directives))


def _bins(binner: Binner | None, request_id: str, scored: Scored | None) -> dict[str, Any]:
    """Return a record's drift fields, `bins` in the order of the targets, without empty ones."""
    if binner is None or scored is None:
        return {}
    try:
        binned = binner.bin(request_id, scored.columns, scored.outputs)
    except Exception as error:  # the prediction is good without its bins
        return {"drift_error": type(error).__name__}
    fields = {
        "bins": binned.bins,
        "missing_counts": binned.missing,
        "unseen_counts": binned.unseen,
        "unseen_rows": binned.unseen_rows if binned.unseen else 0,
        "sampled_rows": binned.rows if binned.rows < scored.rows else 0,
    }
    return {name: value for name, value in fields.items() if value}


def _truncate_record(line: dict[str, Any], directives: orjson.Fragment) -> dict[str, Any]:
    """Return a record without payload, counts by feature and bins: what makes it long."""
    long = ("out_of_range_counts", "missing_counts", "unseen_counts", "unseen_rows", "logged_rows")
    short = {k: v for k, v in line.items() if k not in long and not isinstance(v, list)}
    if "_aws" in line:
        short["_aws"] = metrics.emf(line, directives)
    return short | {"truncated": True}


def make_payload_logger(config: Settings, manifest: Manifest) -> LogPayloads:
    """Return the function that selects what of a payload its record may hold."""
    if config.log_payloads == "off":
        return lambda columns, predictions: {}
    names = [field.name for field in manifest.features or manifest.inputs]
    full = config.log_payloads == "full"
    redact = redactor(manifest.features, config.prediction_id_secret)
    types = [kind for kind in feature_types.of(manifest) if kind.has_json_form]

    def log_payloads(columns: Columns, predictions: Sequence[bytes]) -> dict[str, Any]:
        instances: list[orjson.Fragment] = []
        logged: list[orjson.Fragment] = []
        size = 0
        for values, prediction in zip(zip(*columns, strict=True), predictions, strict=True):
            row = dict(zip(names, values, strict=True))
            row |= {k.feature.name: k.to_json(row[k.feature.name]) for k in types}
            instance = _dump(redact(row)) if full else b""
            size += len(prediction) + len(instance) + 2
            if size > MAX_PAYLOAD_BYTES:
                break
            logged.append(orjson.Fragment(prediction))
            instances.append(orjson.Fragment(instance))
        payload = {"predictions": logged, "logged_rows": len(logged)}
        return {"instances": instances, **payload} if full else payload

    return log_payloads


def _dump(value: Any) -> bytes:
    """Return the JSON of a value that may hold arrays or numbers of numpy."""
    return orjson.dumps(
        value, option=orjson.OPT_SERIALIZE_NUMPY, default=lambda array: array.tolist()
    )


def redactor(
    features: Sequence[Feature], secret: str
) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Return the function that applies each feature's `log_policy` to a row.

    A hash has a key, because values such as a birthday could otherwise be found by trying all of
    them. Without a secret a hashed value is dropped.
    """
    if all(f.log_policy == "keep" for f in features):
        return lambda row: row

    def redact(row: Mapping[str, Any]) -> dict[str, Any]:
        fields = {}
        for feature in features:
            name, value = feature.name, row[feature.name]
            if feature.log_policy == "keep" or (feature.log_policy == "hash" and value is None):
                fields[name] = value
            elif feature.log_policy == "hash" and secret:
                fields[name] = f"hash:{_hash(secret, b'redact', [name, value])}"
        return fields

    return redact


def _hash(secret: str, purpose: bytes, value: Any) -> str:
    """Return 16 hex digits of a value under the key for a purpose."""
    from handler.hashes import blake2s

    key = prediction_id.derive_key(secret, purpose)
    return blake2s(_dump(value), key=key, digest_size=8).hexdigest()


def _round_3(milliseconds: float) -> float:
    """Return a number cut to three decimals; `round` takes longer, because it goes through text."""
    return int(milliseconds * 1e3) / 1e3


def log(level: settings.LogLevel, message: str, **fields: Any) -> None:
    """Write a log line that is no record, if LOG_LEVEL allows it.

    Powertools' Logger writes it. Its import takes 20 ms, which a request without errors never pays.
    """
    import logging
    from io import StringIO

    from aws_lambda_powertools import Logger

    logging.raiseExceptions = False  # with stdout closed, logging would print the line to stderr
    lowest = settings.log_level()
    logger = Logger(
        service=metrics.NAMESPACE.lower(),
        level=lowest,
        stream=sys.stdout or StringIO(),  # without a stream, logging writes to stderr
        use_rfc3339=True,
    )
    logger.setLevel(lowest)  # Powertools sets the level only once
    getattr(logger, level.lower())(message, extra=fields)


def error_summary(error: BaseException) -> str:
    """Return an error's type, and AWS's code where it has one; never its text."""
    code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
    return f"{type(error).__name__} {code}".rstrip()


def stack_trace(error: BaseException) -> list[str]:
    """Return where an error was raised, without its text: it may quote what the client sent."""
    frames = []
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        frames.append(f"{code.co_filename.rpartition('/')[2]}:{step.tb_lineno} {code.co_name}")
        step = step.tb_next
    return frames
