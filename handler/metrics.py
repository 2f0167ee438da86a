"""The CloudWatch metrics: namespace, names, units, dimensions, and the one writer of log lines.

A metric is a field of a JSON line in the embedded metric format (EMF):
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
Lines go to stdout without a log level in between, so no setting silences a metric.

The dimensions are `service` and `version`, the number of the Lambda function's version. The worker
of jobs counts its versions by itself, so its service has a name of its own: `jobs_service`.
"""

import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import orjson

NAMESPACE = "Answerable"
BY_VERSION = ("service", "version")
BY_SERVICE = ("service",)

# one value a request (except a GET), or a batch of jobs
REQUESTS = "Requests"
CLIENT_ERRORS = "ClientErrors"  # answered with 4xx
SERVER_ERRORS = "ServerErrors"  # answered with 5xx
LATENCY = "Latency"  # ms
LOG_ERRORS = "LogErrors"  # records that lost a part, only where there are any
ROWS = "Rows"  # predictions
JOBS = "Jobs"  # that ended
FAILED_JOBS = "FailedJobs"  # of these, with a problem
RETRIES = "Retries"  # messages returned to the queue
# one value an outcome, filed under the version that predicted
OUTCOMES = "Outcomes"
OUTCOME_AGE = "OutcomeAge"  # hours since the prediction
ABSOLUTE_ERROR = "AbsoluteError"
CORRECT = "Correct"  # 1 or 0
IMPACT = "Impact"  # in the unit of the manifest's `outcome_value`
# one value an hour, by service alone, and only if it is not 0: see handler/drift/monitor.py
DRIFTED_OUTPUTS = "DriftedOutputs"
DRIFTED_INPUTS = "DriftedInputs"
UNSEEN_INPUTS = "UnseenInputs"  # inputs with unseen values, if too many rows have any
# one value a probe, by service alone: 1 if the version before is not fit to take traffic
ROLLBACK_UNAVAILABLE = "RollbackUnavailable"
# one value a probe, by service alone: 1 if the alias is not at the stack's version
ALIAS_MOVED = "AliasMoved"

UNITS = {LATENCY: "Milliseconds"} | dict.fromkeys((
    REQUESTS, CLIENT_ERRORS, SERVER_ERRORS, LOG_ERRORS, ROWS, JOBS, FAILED_JOBS, RETRIES, OUTCOMES,
    ROLLBACK_UNAVAILABLE, ALIAS_MOVED, DRIFTED_OUTPUTS, DRIFTED_INPUTS, UNSEEN_INPUTS,
), "Count")  # fmt: skip
# CloudWatch's limits: metrics of one directive, values of one metric in one line
MAX_METRICS = 100
MAX_VALUES = 100


def jobs_service(service: str) -> str:
    """Return the `service` dimension of the worker that scores a service's jobs."""
    return f"{service}-jobs"


def batch_service(service: str) -> str:
    """Return the `service` dimension of the function that scores a service's batches."""
    return f"{service}-batch"


def directives(
    names: Iterable[str], dimensions: tuple[str, ...] = BY_VERSION
) -> list[dict[str, Any]]:
    """Return the metric directives for `names`, at most MAX_METRICS in each."""
    metrics = [
        {"Name": name, "Unit": UNITS[name]} if name in UNITS else {"Name": name} for name in names
    ]
    return [
        {
            "Namespace": NAMESPACE,
            "Dimensions": [dimensions],
            "Metrics": metrics[i : i + MAX_METRICS],
        }
        for i in range(0, len(metrics), MAX_METRICS)
    ]


def log_line(level: str, message: str, **fields: Any) -> dict[str, Any]:
    """Return a log line: level, message and time in milliseconds since 1970, then `fields`."""
    return {"level": level, "message": message, "timestamp": time.time_ns() // 1_000_000, **fields}


def emf(line: Mapping[str, Any], directives: Any) -> dict[str, Any]:
    """Return the `_aws` field that makes metrics of a line; `directives` may be serialised."""
    return {"Timestamp": line["timestamp"], "CloudWatchMetrics": directives}


def write(*lines: Any) -> None:
    """Write lines, objects or JSON, to stdout in one call. One that cannot be written is lost."""
    texts = [text if isinstance(text, bytes) else orjson.dumps(text) for text in lines]
    with suppress(OSError, ValueError, AttributeError):  # full, closed, or never there
        sys.stdout.write(b"\n".join(texts).decode() + "\n")
        sys.stdout.flush()
