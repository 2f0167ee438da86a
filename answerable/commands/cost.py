"""`answerable cost`: what a month of one deployed model costs, idle and with traffic.

A table of public prices and an addition. Left out: the free tier, data transfer to the internet,
and discounts.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from answerable.commands import add_model
from handler import manifest
from handler.drift.targets import targets
from handler.errors import ArtifactError
from handler.manifest import Manifest
from infra.project import find_model

# USD, us-east-1, from the services' public price pages. Check them before you sign something.
PRICES_OF = "2025-09"
PRICES = {
    "API Gateway REST, request": 3.50e-6,
    "API Gateway HTTP, request": 1.00e-6,
    "Function URL, request": 0.0,
    "Lambda, request": 0.20e-6,
    "Lambda x86_64, GB-second": 1.66667e-5,
    "Lambda arm64, GB-second": 1.33334e-5,
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
    "Firehose, GB taken in": 0.029,
    "Firehose, GB partitioned": 0.020,
    "Firehose, GB decompressed": 0.00325,
}
HOURS = 730
SECONDS = HOURS * 3600

# What the stack has; tests/infra/test_cost.py compares it with the template. An alarm is billed by
# the metrics that it reads.
SERVICE_ALARMS, CANARY_ALARMS, ROLLBACK_ALARMS, DRIFT_ALARMS = 8, 7, 1, 5
JOBS_ALARMS, ARCHIVE_ALARMS = 4, 1
DASHBOARDS = 1
REQUEST_METRICS, JOBS_METRICS, OUTCOME_METRICS = 5, 5, 6
PROBES = 60  # of the rollback, a month; each writes a metric in its hour
MONITOR_SECONDS, PROBE_SECONDS, OPS_GB = 5.0, 10.0, 0.5
MANIFEST_MS = 20.0
IDLE_POLLS = 5 * SECONDS / 20  # of a queue by Lambda: five at a time, of 20 seconds
IMAGE_GB = 0.3  # compressed, the base image included
RECORD_BYTES, ACCESS_LOG_BYTES, PLATFORM_LOG_BYTES = 900, 500, 300
TARGET_BYTES = 3  # of a record
PERIOD_BYTES, PERIOD_TARGET_BYTES = 900, 30  # of the monitor's record
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
    """What is deployed, and what reaches it in a month. Durations are in milliseconds.

    `targets`: inputs and outputs with a baseline. `outcomes`: sent to `/feedback`. `submitted`:
    jobs.
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
    outcome_alarm_metrics: int = 0
    jobs: bool = False
    submitted: int = 0
    outcomes: int = 0
    archive: bool = False
    active_hours: int = HOURS


def bill(month: Month) -> Iterator[Item]:
    """Yield every line, those of an idle month first."""
    yield from _idle(month)
    yield from _drift(month)
    if month.jobs:
        yield Item("jobs", "alarms", JOBS_ALARMS, "CloudWatch alarm, metric and month")
        yield Item("jobs", "polls of the empty queue", IDLE_POLLS, "SQS, request")
    if month.archive:
        yield Item("archive", "alarm", ARCHIVE_ALARMS, "CloudWatch alarm, metric and month")
    if month.requests:
        yield from _traffic(month)
    if month.submitted:
        yield from _jobs(month)


def _idle(month: Month) -> Iterator[Item]:
    alarms = SERVICE_ALARMS + CANARY_ALARMS + ROLLBACK_ALARMS + month.outcome_alarm_metrics
    yield Item("service", "alarms", alarms, "CloudWatch alarm, metric and month")
    yield Item("service", "dashboard", DASHBOARDS, "CloudWatch dashboard, month")
    image = IMAGE_GB + 0.03 * month.versions
    yield Item("service", "image, all kept versions", image, "ECR, GB-month")
    yield Item("service", "rollback probe's metric", PROBES / HOURS, "CloudWatch metric, month")
    seconds = PROBES * PROBE_SECONDS * OPS_GB
    yield Item("service", "rollback probe", seconds, f"Lambda {month.architecture}, GB-second")
    gigabytes = month.memory / 1024
    if month.snapstart:
        cached = month.versions * gigabytes * SECONDS
        yield Item("service", "snapshots of kept versions", cached, "SnapStart cache, GB-second")
    if month.provisioned:
        price = f"Lambda provisioned {month.architecture}, GB-second"
        yield Item("service", "provisioned", month.provisioned * gigabytes * SECONDS, price)


def _drift(month: Month) -> Iterator[Item]:
    """Yield what the monitor costs. Its metrics cost only while something has drifted."""
    yield Item("drift", "alarms", DRIFT_ALARMS, "CloudWatch alarm, metric and month")
    seconds = HOURS * MONITOR_SECONDS * OPS_GB
    price = f"Lambda {month.architecture}, GB-second"
    yield Item("drift", "monitor", seconds, price)
    calls = HOURS * (month.init + MANIFEST_MS) / 1000 * month.memory / 1024
    yield Item("drift", "the live version, asked for its manifest", calls, price)
    gigabytes = HOURS * (PERIOD_BYTES + PERIOD_TARGET_BYTES * month.targets) / 1e9
    yield Item("drift", "monitor's records", gigabytes, "CloudWatch Logs, GB taken in")
    yield Item("drift", "a year of these, kept", 13 * gigabytes, "CloudWatch Logs, GB-month kept")


def _traffic(month: Month) -> Iterator[Item]:
    gigabytes, compute = month.memory / 1024, f"Lambda {month.architecture}, GB-second"
    cold = month.requests * month.cold_share
    # billed in whole milliseconds
    seconds = month.requests * max(1, round(month.duration)) / 1000
    price, access_log_bytes = ENDPOINTS[month.endpoint]
    yield Item("traffic", "requests at the endpoint", month.requests, price)
    yield Item("traffic", "requests at the function", month.requests, "Lambda, request")
    yield Item("traffic", "compute", seconds * gigabytes, compute)
    if month.snapstart:
        yield Item("traffic", "restores", cold * gigabytes, "SnapStart restore, GB")
    else:
        inits = cold * month.init / 1000 * gigabytes
        yield Item("traffic", "inits of cold starts", inits, compute)
    size = RECORD_BYTES + TARGET_BYTES * month.targets + access_log_bytes + PLATFORM_LOG_BYTES
    logged = month.requests * size / 1e9
    yield Item("traffic", "records and access logs", logged, "CloudWatch Logs, GB taken in")
    yield Item("traffic", "the same, kept for a month", logged, "CloudWatch Logs, GB-month kept")
    # a metric is billed for the hours in which it is written
    active = month.active_hours / HOURS
    yield Item("traffic", "request metrics", REQUEST_METRICS * active, "CloudWatch metric, month")
    if month.outcomes:
        price = "CloudWatch metric, month"
        yield Item("traffic", "outcome metrics", OUTCOME_METRICS * active, price)
    if month.archive:
        record = RECORD_BYTES + TARGET_BYTES * month.targets
        archived = month.requests * record / 1e9
        taken = month.requests * max(record, FIREHOSE_BYTES) / 1e9
        yield Item("archive", "records", taken, "Firehose, GB taken in")
        yield Item("archive", "records, decompressed", archived, "Firehose, GB decompressed")
        yield Item("archive", "records, partitioned", archived, "Firehose, GB partitioned")
        yield Item("archive", "a month of records", archived / 10, "S3, GB-month")


def _jobs(month: Month) -> Iterator[Item]:
    """Yield what jobs cost: two messages and two objects each, and a batch for every ten."""
    gigabytes = month.memory / 1024
    seconds = month.submitted * max(1, round(month.duration)) / 1000 * gigabytes
    yield Item("jobs", "messages sent, received, deleted", 3 * month.submitted, "SQS, request")
    yield Item("jobs", "requests and results", 3 * month.submitted, "S3, PUT request")
    yield Item("jobs", "requests and results read", 2 * month.submitted, "S3, GET request")
    yield Item("jobs", "compute", seconds, f"Lambda {month.architecture}, GB-second")
    active = JOBS_METRICS * month.active_hours / HOURS
    yield Item("jobs", "metrics", active, "CloudWatch metric, month")


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
    add("--active-hours", type=int, default=HOURS, help="hours with traffic (default: all)")


def main(args: argparse.Namespace) -> int:
    """Print the bill and its two sums."""
    try:
        model = manifest.read(find_model(args.model))
    except ArtifactError as error:
        print(f"cost: {error}", file=sys.stderr)
        return 2
    settings = {name: getattr(args, name) for name in Month._fields if hasattr(args, name)}
    month = Month(**settings | of_model(model))
    items = list(bill(month))
    idle = sum(item.dollars for item in bill(month._replace(requests=0, submitted=0)))
    drift = sum(item.dollars for item in items if item.group == "drift")
    table = Table(title=f"A month in USD (prices of {PRICES_OF}, us-east-1, no free tier)")
    table.add_column("for")
    table.add_column("what")
    table.add_column("quantity", justify="right")
    table.add_column("price of one")
    table.add_column("USD", justify="right")
    for item in items:
        quantity = f"{item.quantity:,.3f}".rstrip("0").rstrip(".")
        table.add_row(item.group, item.name, quantity, item.price, f"{item.dollars:,.2f}")
    table.add_section()
    table.add_row("", "an idle month", "", "", f"{idle:,.2f}")
    table.add_row("", "drift alone", "", "", f"{drift:,.2f}")
    for name in ENDPOINTS:
        total = sum(item.dollars for item in bill(month._replace(endpoint=name)))
        text = f"with {month.requests:,} requests, endpoint={name}"
        table.add_row("", text, "", "", f"{total:,.2f}")
    Console().print(table)
    return 0


def of_model(model: Manifest) -> dict[str, int]:
    """Return the fields of a month that the model decides."""
    impact = model.alarms.min_daily_impact is not None and model.outcome_value is not None
    return {
        "targets": len(targets(model)),
        "outcome_alarm_metrics": 2 * impact + bool(model.alarms.max_days_without_outcomes),
    }
