"""`answerable cost`: what a month of one deployed model costs, idle and with traffic.

A table of public prices and an addition. Left out: the free tier, data transfer to the internet,
and discounts.
"""

import argparse
import math
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from answerable.commands import add_model
from handler import manifest
from handler.batch.finish import GB_SECOND_USD
from handler.batch.plan import SHARD_SECONDS
from handler.drift.targets import targets
from handler.manifest import Manifest
from infra.project import find_model

# USD, us-east-1, from the services' public price pages. Check them before you sign something.
PRICES_OF = "2025-09"
PRICES = {
    "API Gateway REST, request": 3.50e-6,
    "API Gateway HTTP, request": 1.00e-6,
    "Function URL, request": 0.0,
    "Lambda, request": 0.20e-6,
    "Lambda x86_64, GB-second": GB_SECOND_USD[0],
    "Lambda arm64, GB-second": GB_SECOND_USD[1],
    "Lambda provisioned x86_64, GB-second": 4.1667e-6,
    "Lambda provisioned arm64, GB-second": 3.3334e-6,
    "SnapStart cache, GB-second": 1.5046e-6,
    "SnapStart restore, GB": 1.397998e-4,
    "CloudWatch Logs, GB taken in": 0.50,
    "CloudWatch Logs, GB-month kept": 0.03,
    "CloudWatch metric, month": 0.30,
    "CloudWatch alarm, metric and month": 0.10,
    "CloudWatch dashboard, month": 3.00,
    "ECR, GB-month": 0.10,
    "SQS, request": 0.40e-6,
    "S3, PUT request": 5.0e-6,
    "S3, GET request": 0.4e-6,
    "S3, GB-month": 0.023,
    "Step Functions, transition": 2.5e-5,
    "Firehose, GB taken in": 0.029,
    "Firehose, GB partitioned": 0.020,
    "Firehose, GB decompressed": 0.00325,
}
HOURS = 730
SECONDS = HOURS * 3600

# What the stack has; tests/infra/test_cost.py compares it with the template. An alarm is billed by
# the metrics that it reads.
SERVICE_ALARMS, CANARY_ALARMS, ROLLBACK_ALARMS, DRIFT_ALARMS = 8, 11, 2, 5
JOBS_ALARMS, ARCHIVE_ALARMS, BATCH_ALARMS = 4, 1, 1
DASHBOARDS = 1
REQUEST_METRICS, SERVICE_METRICS, JOBS_METRICS, OUTCOME_METRICS = 5, 3, 5, 6
PROBES = 60  # of the rollback, a month; each writes a metric in its hour
MONITOR_SECONDS, PROBE_SECONDS, OPS_GB = 5.0, 10.0, 0.5
MANIFEST_MS = 20.0
IDLE_POLLS = 5 * SECONDS / 20  # of a queue by Lambda: five at a time, of 20 seconds
IMAGE_GB = 0.3  # compressed, the base image included
RECORD_BYTES, ACCESS_LOG_BYTES, PLATFORM_LOG_BYTES = 900, 500, 300
TARGET_BYTES = 3  # of a record
PERIOD_BYTES, PERIOD_TARGET_BYTES = 900, 30  # of the monitor's record
OUTPUT_ROW_BYTES = 140
FIREHOSE_BYTES = 5000  # what a record is rounded up to


# the price of a request, and its access log, by endpoint
ENDPOINTS = {
    "rest": ("API Gateway REST, request", ACCESS_LOG_BYTES),
    "http": ("API Gateway HTTP, request", ACCESS_LOG_BYTES),
    "url": ("Function URL, request", 0),
}


class Item(NamedTuple):
    """A line of the bill: `quantity` x `price`. `group` sums up lines."""

    group: str
    name: str
    quantity: float
    price: str

    @property
    def dollars(self) -> float:
        """Return what this line comes to."""
        return self.quantity * PRICES[self.price]


class Month(NamedTuple):
    """A deployed model and its traffic in a month. Durations are in milliseconds.

    `targets`: inputs and outputs with a baseline. `outcomes`: sent to `/feedback`. `submitted`:
    jobs. `rows`: of batches, of which a worker scores `row_rate` a second. `impact_alarm` and
    `silence_alarm`: whether the outcomes have them.
    """

    requests: int = 0
    endpoint: str = "rest"
    memory: int = 1769
    duration: float = 5.0
    architecture: str = "x86_64"
    cold_share: float = 0.01
    init: float = 600.0
    snapstart: bool = False
    versions: int = 3
    provisioned: int = 0
    targets: int = 0
    impact_alarm: bool = False
    silence_alarm: bool = False
    jobs: bool = False
    batch: bool = False
    submitted: int = 0
    outcomes: int = 0
    archive: bool = False
    rows: int = 0
    row_rate: float = 195_000.0
    active_hours: int = HOURS


def bill(month: Month) -> list[Item]:
    """Return every line whose quantity is not zero."""
    gigabytes, compute = month.memory / 1024, f"Lambda {month.architecture}, GB-second"
    provisioned = f"Lambda provisioned {month.architecture}, GB-second"
    alarm, metric = "CloudWatch alarm, metric and month", "CloudWatch metric, month"
    logged, kept = "CloudWatch Logs, GB taken in", "CloudWatch Logs, GB-month kept"
    alarms = SERVICE_ALARMS + CANARY_ALARMS + ROLLBACK_ALARMS + month.silence_alarm
    # a sum and a count of each service: of the API, of jobs and of batches
    alarms += month.impact_alarm * 2 * (1 + month.jobs + month.batch)
    price, access_log_bytes = ENDPOINTS[month.endpoint]
    # a metric is billed for the hours in which it is written
    active = month.active_hours / HOURS
    seconds = max(1, round(month.duration)) / 1000  # of a call, billed in whole milliseconds
    cold = month.requests * month.cold_share
    manifest_calls = HOURS * (month.init + MANIFEST_MS) / 1000 * gigabytes
    periods = HOURS * (PERIOD_BYTES + PERIOD_TARGET_BYTES * month.targets) / 1e9
    record = RECORD_BYTES + TARGET_BYTES * month.targets
    logs = month.requests * (record + access_log_bytes + PLATFORM_LOG_BYTES) / 1e9
    archived = month.requests * record / 1e9 * month.archive
    taken = month.requests * max(record, FIREHOSE_BYTES) / 1e9 * month.archive
    batch_parts = math.ceil(month.rows / month.row_rate / SHARD_SECONDS)
    lines = (
        ("service", "alarms", alarms, alarm),
        ("service", "dashboard", DASHBOARDS, "CloudWatch dashboard, month"),
        ("service", "image, all kept versions", IMAGE_GB + 0.03 * month.versions, "ECR, GB-month"),
        ("service", "rollback probe's metric", PROBES / HOURS, metric),
        ("service", "rollback probe", PROBES * PROBE_SECONDS * OPS_GB, compute),
        ("service", "snapshots of kept versions",
         month.snapstart * month.versions * gigabytes * SECONDS, "SnapStart cache, GB-second"),
        ("service", "provisioned", month.provisioned * gigabytes * SECONDS, provisioned),
        # the monitor's metrics cost only while something has drifted
        ("drift", "alarms", DRIFT_ALARMS, alarm),
        ("drift", "monitor", HOURS * MONITOR_SECONDS * OPS_GB, compute),
        ("drift", "the live version, asked for its manifest", manifest_calls, compute),
        ("drift", "monitor's records", periods, logged),
        ("drift", "a year of these, kept", 13 * periods, kept),
        ("jobs", "alarms", JOBS_ALARMS * month.jobs, alarm),
        ("jobs", "polls of the empty queue", IDLE_POLLS * month.jobs, "SQS, request"),
        ("archive", "alarm", ARCHIVE_ALARMS * month.archive, alarm),
        ("batch", "alarm", BATCH_ALARMS * month.batch, alarm),
        ("traffic", "requests at the endpoint", month.requests, price),
        ("traffic", "requests at the function", month.requests, "Lambda, request"),
        ("traffic", "compute", month.requests * seconds * gigabytes, compute),
        ("traffic", "restores", cold * gigabytes * month.snapstart, "SnapStart restore, GB"),
        ("traffic", "inits of cold starts",
         cold * month.init / 1000 * gigabytes * (not month.snapstart), compute),
        ("traffic", "records and access logs", logs, logged),
        ("traffic", "the same, kept for a month", logs, kept),
        ("traffic", "request metrics",
         (REQUEST_METRICS + SERVICE_METRICS) * active * bool(month.requests), metric),
        ("traffic", "outcome metrics", OUTCOME_METRICS * active * bool(month.outcomes), metric),
        ("archive", "records", taken, "Firehose, GB taken in"),
        ("archive", "records, decompressed", archived, "Firehose, GB decompressed"),
        ("archive", "records, partitioned", archived, "Firehose, GB partitioned"),
        ("archive", "a month of records", archived / 10, "S3, GB-month"),
        # a job is two messages and two objects, and a batch for every ten
        ("jobs", "messages sent, received, deleted", 3 * month.submitted, "SQS, request"),
        ("jobs", "requests and results", 3 * month.submitted, "S3, PUT request"),
        ("jobs", "requests and results read", 2 * month.submitted, "S3, GET request"),
        ("jobs", "compute", month.submitted * seconds * gigabytes, compute),
        ("batch", "compute", month.rows / month.row_rate * gigabytes, compute),
        ("batch", "parts", batch_parts, "Lambda, request"),
        # a child execution starts, calls the worker and ends
        ("batch", "steps of parts", 3 * batch_parts, "Step Functions, transition"),
        ("batch", "outputs and summaries", 2 * batch_parts, "S3, PUT request"),
        ("batch", "inputs, plans and summaries read", 22 * batch_parts, "S3, GET request"),
        ("batch", "a month of outputs", month.rows * OUTPUT_ROW_BYTES / 1e9, "S3, GB-month"),
        ("jobs", "metrics", JOBS_METRICS * active * bool(month.submitted), metric),
    )  # fmt: skip
    return [Item(*line) for line in lines if line[2]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: what is deployed, and what reaches it."""
    default = Month()
    parser.epilog = f"Prices of {PRICES_OF} in us-east-1, without the free tier."
    add = parser.add_argument
    add("--requests", type=int, default=1_000_000, help="a month (default: 1000000)")
    add("--endpoint", choices=[*ENDPOINTS], default=default.endpoint)
    add("--memory", type=int, default=default.memory, help="MB (default: %(default)s)")
    add("--duration", type=float, default=default.duration, help="ms a call (default: %(default)s)")
    add("--architecture", choices=["x86_64", "arm64"], default=default.architecture)
    add("--cold-share", type=float, default=default.cold_share, help="default: %(default)s")
    add("--init", type=float, default=default.init, help="ms of an init (default: %(default)s)")
    add("--snapstart", action="store_true")
    add("--versions", type=int, default=default.versions, help="kept (default: %(default)s)")
    add("--provisioned", type=int, default=0, help="environments kept warm")
    add_model(parser)
    add("--jobs", action="store_true", help="with jobs")
    add("--submitted", type=int, default=0, metavar="N", help="jobs a month")
    add("--outcomes", type=int, default=0, metavar="N", help="outcomes a month")
    add("--archive", action="store_true", help="with the archive")
    add("--batch", action="store_true", help="with batches")
    add("--rows", type=int, default=0, metavar="N", help="rows of batches a month")
    add("--row-rate", type=float, default=default.row_rate, metavar="N",
        help="rows a second that a worker scores: `rows_per_second` of a run's status, divided by "
        "its workers (default: %(default)g)")  # fmt: skip
    add("--active-hours", type=int, default=HOURS, help="hours with traffic (default: all)")


def main(args: argparse.Namespace) -> int:
    """Print the bill and its two sums."""
    model = manifest.read(find_model(args.model))
    settings = {name: getattr(args, name) for name in Month._fields if hasattr(args, name)}
    settings["batch"] |= args.rows > 0
    month = Month(**settings | of_model(model))
    items = bill(month)
    idle = sum(item.dollars for item in bill(month._replace(requests=0, submitted=0, rows=0)))
    drift = sum(item.dollars for item in items if item.group == "drift")
    table = Table("for", "what", "quantity", "price of one", "USD")
    table.title = f"A month in USD (prices of {PRICES_OF}, us-east-1, no free tier)"
    table.columns[2].justify = table.columns[4].justify = "right"
    for item in items:
        quantity = f"{item.quantity:,.3f}".rstrip("0").rstrip(".")
        table.add_row(item.group, item.name, quantity, item.price, f"{item.dollars:,.2f}")
    table.add_section()
    sums = {"an idle month": idle, "drift alone": drift}
    for endpoint in ENDPOINTS:
        lines = bill(month._replace(endpoint=endpoint))
        name = f"with {month.requests:,} requests, endpoint={endpoint}"
        sums[name] = sum(item.dollars for item in lines)
    for name, dollars in sums.items():
        table.add_row("", name, "", "", f"{dollars:,.2f}")
    Console().print(table)
    return 0


def of_model(model: Manifest) -> dict[str, int]:
    """Return the fields of a month that the model decides."""
    limits = model.alarms
    return {
        "targets": len(targets(model)),
        "impact_alarm": limits.min_daily_impact is not None and model.outcome_value is not None,
        "silence_alarm": limits.max_days_without_outcomes > 0,
    }
