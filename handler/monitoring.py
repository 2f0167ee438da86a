"""One record per request: one JSON line, one write.

The line is at once the structured log and the CloudWatch metrics, in the embedded metric format:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
Nothing in it is a value or a key that the client sent. Powertools' Logger and Metrics would write
two lines and take 110 µs; they are kept for what is not a request.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import orjson

from handler.errors import Refusal
from handler.manifest import Manifest
from handler.settings import Settings

NAMESPACE = "Answerable"
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
Record = Callable[..., None]


def _metrics(units: dict[str, str]) -> orjson.Fragment:
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [["service", "version"]],
        "Metrics": [{"Name": name, "Unit": unit} for name, unit in units.items()],
    }
    return orjson.Fragment(orjson.dumps([directive]))


def _constant(settings: Settings, manifest: Manifest | None) -> dict[str, Any]:
    model = {"name": manifest.name, "version": manifest.version} if manifest else None
    return {
        "service": settings.service or (manifest.name if manifest else settings.function),
        "version": settings.function_version,
        "model": orjson.Fragment(orjson.dumps(model)),
    }


def _write(line: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(line).decode() + "\n")
    sys.stdout.flush()


def recorder(settings: Settings, manifest: Manifest | None) -> Record:
    """The function that writes a request's record, everything constant being serialised once."""
    metrics, constant = _metrics(UNITS), _constant(settings, manifest)

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
    ) -> None:
        """`route` is one of ours ("-" for any other); `problem` the kind of a refusal."""
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
        if not route.startswith("GET "):  # a look at /ping or /model is not traffic
            line["_aws"] = {"Timestamp": line["timestamp"], "CloudWatchMetrics": metrics}
            line["Requests"] = 1
            line["Rows"] = rows
            line["Rejects"] = int(400 <= status < 500)
            line["Faults"] = int(status >= 500)
            line["timings_ms"] = {step: _micro(value) for step, value in timings_ms.items()}
        line["Latency"] = _micro(latency_ms)
        _write(line)

    return record


def batch_recorder(settings: Settings, manifest: Manifest) -> Record:
    """The function that writes the record of a batch of jobs, and a line per one gone wrong."""
    metrics, constant = _metrics(BATCH_UNITS), _constant(settings, manifest)

    def record(
        *,
        request_id: str,
        messages: int,
        succeeded: int,
        failed: dict[str, str],
        retries: dict[str, Refusal],
        rows: int,
        latency_ms: float,
        cold: bool,
    ) -> None:
        """`failed`: kinds of problem by job, which are done; `retries`: by message given back."""
        line: dict[str, Any] = {
            "level": "WARNING" if retries else "INFO",
            "message": "batch",
            "timestamp": time.time_ns() // 1_000_000,
            "request_id": request_id,
            "messages": messages,
            **constant,
        }
        if cold:
            line["cold_start"] = True
        told = {key: line[key] for key in ("timestamp", "request_id", *constant)}
        for job, problem in failed.items():
            _write(
                {"level": "INFO", "message": "failed job", "job": job, "problem": problem} | told
            )
        for message, refusal in retries.items():
            what = {"problem": refusal.kind, "detail": refusal.detail, "message_id": message}
            _write({"level": "WARNING", "message": "retry", **what, **told})
        line["_aws"] = {"Timestamp": line["timestamp"], "CloudWatchMetrics": metrics}
        line["Jobs"], line["FailedJobs"] = succeeded + len(failed), len(failed)
        line["Retries"], line["Rows"] = len(retries), rows
        line["Latency"] = _micro(latency_ms)
        _write(line)

    return record


def _micro(milliseconds: float) -> float:
    """Cut to three decimals, without the way through text that `round` takes."""
    return int(milliseconds * 1e3) / 1e3


def event(level: str, message: str, **fields: Any) -> None:
    """Log what is not a request, with Powertools. Imported when needed: 20 ms of a cold start."""
    from aws_lambda_powertools import Logger

    log = Logger(service=NAMESPACE.lower(), use_rfc3339=True)
    getattr(log, level)(message, extra=fields)


def trace(error: BaseException) -> list[str]:
    """Where an error came from. Its message is left out: it may quote what the client sent."""
    places = []
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{step.tb_lineno} {code.co_name}")
        step = step.tb_next
    return places
