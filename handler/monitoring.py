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
Record = Callable[..., None]


def recorder(settings: Settings, manifest: Manifest | None) -> Record:
    """The function that writes a request's record, everything constant being serialised once."""
    model = {"name": manifest.name, "version": manifest.version} if manifest else None
    metrics = orjson.Fragment(
        orjson.dumps(
            [
                {
                    "Namespace": NAMESPACE,
                    "Dimensions": [["service", "version"]],
                    "Metrics": [{"Name": name, "Unit": unit} for name, unit in UNITS.items()],
                }
            ]
        )
    )
    constant = {
        "service": settings.service or (manifest.name if manifest else settings.function),
        "version": settings.function_version,
        "model": orjson.Fragment(orjson.dumps(model)),
    }

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
        synthetic: bool = False,
    ) -> None:
        """`route` is one of ours ("-" for any other); `problem` the kind of a refusal. A synthetic
        request is recorded and marked, and in no metric.
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
        if synthetic:
            line["synthetic"] = True
        elif not route.startswith("GET "):  # a look at /ping or /model is not traffic
            line["_aws"] = {"Timestamp": line["timestamp"], "CloudWatchMetrics": metrics}
            line["Requests"] = 1
            line["Rows"] = rows
            line["Rejects"] = int(400 <= status < 500)
            line["Faults"] = int(status >= 500)
            line["timings_ms"] = {step: _micro(value) for step, value in timings_ms.items()}
        line["Latency"] = _micro(latency_ms)
        sys.stdout.write(orjson.dumps(line).decode() + "\n")
        sys.stdout.flush()

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
