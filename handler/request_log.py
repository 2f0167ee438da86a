"""One record per request: one JSON line, one write.

The line is at once the structured log, the audit entry and the CloudWatch metrics, in the embedded
metric format:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
Nothing in it is a value or a key that the client sent, unless CAPTURE says so. Powertools' Logger
and Metrics would write two lines and take 110 µs; they are kept for what is not a request.

The metrics, by service and version of the function:

    Requests, Rejects, Faults, Latency (ms)   of every request but a GET
    Rows                                      predictions made
    Unseen                                    rows with a value of a kind the baseline does not know
    in_<feature>, out_<output>                the bin, 1 to 10, of each value: see handler/drift/bins.py
    Labels, LabelAge (hours)                  outcomes that came, of the version that predicted
    Error, Correct, Impact                    their absolute error, agreement and worth
    Jobs, FailedJobs, Retries                 jobs done, of these failed; messages given back

and by service alone

    NoWayBack                                 1 if there is no going back: handler/release/auto_rollback.py
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import orjson

from handler.drift.bins import Binner
from handler.drift.statistic import DIMENSIONS, NAMESPACE
from handler.errors import ApiError
from handler.manifest import Feature, Manifest
from handler.scoring import Scored
from handler.settings import Settings

UNITS = {
    "Requests": "Count",
    "Rows": "Count",
    "Rejects": "Count",
    "Faults": "Count",
    "Latency": "Milliseconds",
}
BATCH_UNITS = {
    "Jobs": "Count",
    "FailedJobs": "Count",
    "Retries": "Count",
    "Rows": "Count",
    "Latency": "Milliseconds",
}
METRICS = 100  # CloudWatch takes no more from one directive
# CloudWatch takes 1 MB of one event, but Lambda splits what it carries there at 256 KB
MAX_LINE_BYTES = 256_000
CAPTURE_BYTES = 180_000  # of that for what is captured
Record = Callable[..., None]


def make_request_log(settings: Settings, manifest: Manifest | None) -> Record:
    """The function that writes a request's record, everything constant being serialised once."""
    ranker = Binner(manifest) if manifest and manifest.baseline else None
    plain, scoring = emf_metric_directives(UNITS), _with_ranks(UNITS, ranker)
    constant = _constant(settings, manifest)
    capture = _capturer(settings, manifest)

    def record(
        *,
        request_id: str,
        route: str,
        status: int,
        problem: str | None,
        rows: int,
        latency_ms: float,
        timings_ms: dict[str, float],
        cold: bool,
        unusual: dict[str, int],
        scored: Scored | None = None,
        predictions: Sequence[bytes] = (),
        prediction: str = "",
        outcomes: Sequence[dict[str, Any]] = (),
        synthetic: bool = False,
    ) -> None:
        """`route` is one of ours ("-" for any other); `problem` the kind of a refusal. A synthetic
        request is recorded and marked, and in no metric.

        `scored` is ranked; of `predictions`, as they were answered, and of its rows is kept what
        CAPTURE allows. `prediction` is what the ids of the request begin with. `outcomes`: lines of
        their own, one for each version that is told how its predictions turned out.
        """
        line: dict[str, Any] = {
            "level": "INFO" if status < 500 else "ERROR",
            "message": "request",
            "timestamp": time.time_ns() // 1_000_000,
            "request_id": request_id,
            "route": route,
            "status": status,
            **constant,
        }
        if problem:
            line["problem"] = problem
        if cold:
            line["cold_start"] = True
        if unusual:
            line["unusual"] = unusual
        if prediction:
            line["prediction"] = prediction
        if synthetic:
            line["synthetic"] = True
        elif not route.startswith("GET "):  # a look at /ping or /model is not traffic
            ranked = _ranked(ranker, request_id, scored)
            metrics = scoring if "Unseen" in ranked else plain
            line["_aws"] = {"Timestamp": line["timestamp"], "CloudWatchMetrics": metrics}
            line["Requests"] = 1
            line["Rows"] = rows
            line["Rejects"] = int(400 <= status < 500)
            line["Faults"] = int(status >= 500)
            line["timings_ms"] = {step: _round_3(value) for step, value in timings_ms.items()}
            line |= ranked
        line["Latency"] = _round_3(latency_ms)
        # what is asked of a version before or after a release is nobody's request: not kept
        if scored is not None and capture is not None and predictions and not synthetic:
            line.update(capture(scored, predictions))
        text = orjson.dumps(line)
        if len(text) > MAX_LINE_BYTES:
            text = orjson.dumps(_truncate_record(line, plain))
        for outcome in outcomes:
            text += b"\n" + orjson.dumps(
                {**outcome, "request_id": request_id, "service": constant["service"]}
            )
        _write(text)

    return record


def make_batch_log(settings: Settings, manifest: Manifest) -> Record:
    """The function that writes the record of a batch of jobs, and a line for each gone wrong."""
    ranker = Binner(manifest) if manifest.baseline else None
    plain, scoring = emf_metric_directives(BATCH_UNITS), _with_ranks(BATCH_UNITS, ranker)
    constant = _constant(settings, manifest)

    def record(
        *,
        request_id: str,
        messages: int,
        succeeded: int,
        failed: dict[str, str],
        retries: dict[str, ApiError],
        rows: int,
        latency_ms: float,
        cold: bool,
        scored: Scored | None,
    ) -> None:
        """`failed`: kinds of problem by job, which are done; `retries`: by message given back.
        `scored`: the run that is ranked.
        """
        line: dict[str, Any] = {
            "level": "WARNING" if retries else "INFO",
            "message": "batch",
            "timestamp": time.time_ns() // 1_000_000,
            "request_id": request_id,
            "messages": messages,
            **constant,
        }
        told = {key: line[key] for key in ("timestamp", "request_id", *constant)}
        lines: list[dict[str, Any]] = [
            {"level": "INFO", "message": "failed job", "job": job, "problem": kind, **told}
            for job, kind in failed.items()
        ]
        for message, refusal in retries.items():
            what = {"message_id": message, "problem": refusal.kind, "detail": refusal.detail}
            lines.append({"level": "WARNING", "message": "retry", **what, **told})
        if cold:
            line["cold_start"] = True
        ranked = _ranked(ranker, request_id, scored)
        metrics = scoring if "Unseen" in ranked else plain
        line["_aws"] = {"Timestamp": line["timestamp"], "CloudWatchMetrics": metrics}
        line["Jobs"], line["FailedJobs"] = succeeded + len(failed), len(failed)
        line["Retries"], line["Rows"] = len(retries), rows
        line["Latency"] = _round_3(latency_ms)
        line |= ranked
        _write(b"\n".join(map(orjson.dumps, [*lines, line])))

    return record


def _write(text: bytes) -> None:
    """Lines in one write. What cannot be written is lost, for the answer is the caller's: metrics
    miss it, and Lambda's own count of invocations shows how many.
    """
    with suppress(OSError, ValueError, AttributeError):  # full, closed, or never there
        sys.stdout.write(text.decode() + "\n")
        sys.stdout.flush()


def _constant(settings: Settings, manifest: Manifest | None) -> dict[str, Any]:
    model = {"name": manifest.name, "version": manifest.version} if manifest else None
    return {
        "service": settings.service or (manifest.name if manifest else settings.function),
        "version": settings.function_version,
        "model": orjson.Fragment(orjson.dumps(model)),
    }


def _with_ranks(units: dict[str, str], ranker: Binner | None) -> orjson.Fragment:
    watched = {"Unseen": "Count", **dict.fromkeys(ranker.metrics)} if ranker else {}
    return emf_metric_directives({**units, **watched})


def emf_metric_directives(units: dict[str, Any]) -> orjson.Fragment:
    """The metric directives of a record, METRICS names in each; a unit of None is left out."""
    metrics = [{"Name": k, "Unit": u} if u else {"Name": k} for k, u in units.items()]
    parts = [metrics[i : i + METRICS] for i in range(0, len(metrics), METRICS)]
    return orjson.Fragment(
        orjson.dumps(
            [{"Namespace": NAMESPACE, "Dimensions": DIMENSIONS, "Metrics": part} for part in parts]
        )
    )


def _ranked(ranker: Binner | None, request_id: str, scored: Scored | None) -> dict[str, Any]:
    """What the record says of ranks. `ranked`: how many rows, where not all of them."""
    if ranker is None or scored is None:
        return {}
    try:
        ranks = ranker.rank(request_id, scored.columns, scored.outputs)
    except Exception as error:  # the answer is good, whatever is wrong with its ranks
        return {"unranked": type(error).__name__}
    found = {"Unseen": ranks.novel, **ranks.bins}
    if ranks.missing:
        found["missing"] = ranks.missing
    if ranks.rows < len(scored.columns[0]):
        found["ranked"] = ranks.rows
    return found


def _truncate_record(line: dict[str, Any], metrics: orjson.Fragment) -> dict[str, Any]:
    """What must not get lost of a record that is too long: its metrics but the ranks."""
    left_out = ("unusual", "missing", "predictions", "instances", "captured", "Unseen")
    kept = {k: v for k, v in line.items() if k not in left_out and not isinstance(v, list)}
    if "_aws" in line:
        kept["_aws"] = {"Timestamp": line["timestamp"], "CloudWatchMetrics": metrics}
    return kept | {"truncated": True}


def _capturer(
    settings: Settings, manifest: Manifest | None
) -> Callable[[Scored, Sequence[bytes]], dict[str, Any]] | None:
    """The function that picks what of a scored request may stand in its record."""
    if settings.capture == "off" or manifest is None:
        return None
    redact = redactor(manifest.features, settings.secret) if settings.capture == "full" else None
    names = [part.name for part in manifest.features or manifest.inputs]

    def capture(scored: Scored, predictions: Sequence[bytes]) -> dict[str, Any]:
        found: dict[str, Any] = {"predictions": [], **({"instances": []} if redact else {})}
        size = 0
        for values, text in zip(zip(*scored.columns, strict=True), predictions, strict=True):
            row = dict(zip(names, values, strict=True))
            instance = orjson.dumps(redact(row)) if redact else b""
            size += len(text) + len(instance) + 2
            if size > CAPTURE_BYTES:
                break
            found["predictions"].append(orjson.Fragment(text))
            if redact:
                found["instances"].append(orjson.Fragment(instance))
        found["captured"] = len(found["predictions"])
        return found

    return capture


def redactor(features: Sequence[Feature], secret: str) -> Callable[[dict[str, Any]], Any]:
    """Rows without what their features' `capture` takes out.

    A hash has a key, or else a birthday is found by trying them all: without one it is left out.
    """
    kept = {f.name: f.capture == "hash" for f in features if f.capture != "drop"}
    if all(f.capture == "keep" for f in features):
        return lambda row: row

    def redact(row: dict[str, Any]) -> dict[str, Any]:
        from hashlib import blake2s

        result = {}
        for name, hashed in kept.items():
            value = row[name]
            if not hashed or value is None:
                result[name] = value
            elif secret:
                key = blake2s(secret.encode()).digest()
                digest = blake2s(orjson.dumps([name, value]), key=key, digest_size=8).hexdigest()
                result[name] = f"hash:{digest}"
        return result

    return redact


def _round_3(milliseconds: float) -> float:
    """Cut to three decimals, without the way through text that `round` takes."""
    return int(milliseconds * 1e3) / 1e3


def log(level: str, message: str, **fields: Any) -> None:
    """Log what is not a request, with Powertools. Imported when needed: 20 ms of a cold start."""
    from aws_lambda_powertools import Logger

    log = Logger(service=NAMESPACE.lower(), use_rfc3339=True)
    getattr(log, level)(message, extra=fields)


def failure(error: BaseException) -> str:
    """An error in words that quote nobody: its kind, and AWS's code where it has one."""
    code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
    return f"{type(error).__name__} {code}".rstrip()


def trace(error: BaseException) -> list[str]:
    """Where an error came from. Its message is left out: it may quote what the client sent."""
    places = []
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{step.tb_lineno} {code.co_name}")
        step = step.tb_next
    return places
