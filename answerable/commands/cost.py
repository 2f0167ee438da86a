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
from handler.drift import statistic
from handler.errors import ArtifactError
from handler.manifest import Manifest
from infra.project import find_model

# USD, us-east-1, from the services' public price pages. Check them before you sign something.
PRICES_OF = "2025-09"
PRICES = {
    "API Gateway REST, request": 3.50e-6,
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
}
HOURS = 730
SECONDS = HOURS * 3600

# What the stack has; tests/infra/test_cost.py compares it with the template.
ALARM_METRICS = 16
DASHBOARDS = 1
RECORD_METRICS = 5
IMAGE_GB = 0.3  # compressed, the base image included
RECORD_BYTES, ACCESS_LOG_BYTES, PLATFORM_LOG_BYTES = 900, 500, 300


class Item(NamedTuple):
    """A line of the bill: `quantity` x `price`."""

    what: str
    quantity: float
    price: str

    @property
    def dollars(self) -> float:
        """What this line comes to."""
        return self.quantity * PRICES[self.price]


class Month(NamedTuple):
    """What is deployed, and what reaches it in a month. Durations are in milliseconds."""

    requests: int = 0
    memory: int = 1769
    duration: float = 5.0
    architecture: str = "x86_64"
    cold_share: float = 0.01
    init: float = 600.0
    snapstart: bool = False
    versions: int = 3
    provisioned: int = 0
    drift_metrics: int = 0
    drift_alarms: int = 0
    active_hours: int = HOURS


def bill(month: Month) -> Iterator[Item]:
    """Every line, those of an idle month first."""
    gigabytes = month.memory / 1024
    compute = f"Lambda {month.architecture}, GB-second"
    alarms = ALARM_METRICS + month.drift_alarms
    yield Item("metrics that alarms read", alarms, "CloudWatch alarm, metric and month")
    yield Item("dashboard", DASHBOARDS, "CloudWatch dashboard, month")
    yield Item("image, all kept versions", IMAGE_GB + 0.03 * month.versions, "ECR, GB-month")
    if month.snapstart:
        cached = month.versions * gigabytes * SECONDS
        yield Item("snapshots of kept versions", cached, "SnapStart cache, GB-second")
    if month.provisioned:
        price = f"Lambda provisioned {month.architecture}, GB-second"
        yield Item("provisioned", month.provisioned * gigabytes * SECONDS, price)
    if not month.requests:
        return
    cold = month.requests * month.cold_share
    # billed in whole milliseconds
    seconds = month.requests * max(1, round(month.duration)) / 1000
    yield Item("requests at the gateway", month.requests, "API Gateway REST, request")
    yield Item("requests at the function", month.requests, "Lambda, request")
    yield Item("compute", seconds * gigabytes, compute)
    if month.snapstart:
        yield Item("restores", cold * gigabytes, "SnapStart restore, GB")
    else:
        yield Item("inits of cold starts", cold * month.init / 1000 * gigabytes, compute)
    logged = month.requests * (RECORD_BYTES + ACCESS_LOG_BYTES + PLATFORM_LOG_BYTES) / 1e9
    yield Item("records and access logs", logged, "CloudWatch Logs, GB taken in")
    yield Item("the same, kept for a month", logged, "CloudWatch Logs, GB-month kept")
    # a metric is billed for the hours in which it is written
    metrics = (RECORD_METRICS + month.drift_metrics) * month.active_hours / HOURS
    yield Item("metrics of the records", metrics, "CloudWatch metric, month")


def watched(model: Manifest, drift_alarms: str) -> tuple[int, int]:
    """How many metrics a model's ranks make, and how many of them drift alarms read: per target its
    count and nine of its bins, and two for what the baseline has never seen.
    """
    targets = list(statistic.targets(model))
    alarmed = [
        t for t in targets if drift_alarms == "all" or (drift_alarms == "outputs" and t.output)
    ]
    return len(targets) + bool(targets), 10 * len(alarmed) + (2 if alarmed else 0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is deployed, and what reaches it."""
    default = Month()
    parser.epilog = f"Prices of {PRICES_OF} in us-east-1, without the free tier."
    add = parser.add_argument
    add("--requests", type=int, default=1_000_000, help="a month (default: 1000000)")
    add("--memory", type=int, default=default.memory, help="MB (default: %(default)s)")
    add("--duration", type=float, default=default.duration, help="ms a call (default: %(default)s)")
    add("--architecture", choices=["x86_64", "arm64"], default=default.architecture)
    add("--cold-share", type=float, default=default.cold_share, help="default: %(default)s")
    add("--init", type=float, default=default.init, help="ms of an init (default: %(default)s)")
    add("--snapstart", action="store_true")
    add("--versions", type=int, default=default.versions, help="kept (default: %(default)s)")
    add("--provisioned", type=int, default=0, help="environments kept warm")
    add_model(parser)
    add("--drift", choices=["all", "outputs", "off"], default="all", help="as `drift_alarms`")
    add("--active-hours", type=int, default=HOURS, help="hours with traffic (default: all)")


def main(args: argparse.Namespace) -> int:
    """Print the bill and its two sums."""
    try:
        model = manifest.read(find_model(args.model))
    except ArtifactError as error:
        print(f"cost: {error}", file=sys.stderr)
        return 2
    metrics, alarms = watched(model, args.drift)
    given = {name: getattr(args, name) for name in Month._fields if hasattr(args, name)}
    month = Month(**given, drift_metrics=metrics, drift_alarms=alarms)
    items = list(bill(month))
    idle = sum(item.dollars for item in bill(month._replace(requests=0)))
    table = Table(title=f"A month in USD (prices of {PRICES_OF}, us-east-1, no free tier)")
    table.add_column("what")
    table.add_column("quantity", justify="right")
    table.add_column("price of one")
    table.add_column("USD", justify="right")
    for item in items:
        quantity = f"{item.quantity:,.2f}".rstrip("0").rstrip(".")
        table.add_row(item.what, quantity, item.price, f"{item.dollars:,.2f}")
    table.add_section()
    table.add_row("an idle month", "", "", f"{idle:,.2f}")
    total = sum(item.dollars for item in items)
    table.add_row(f"with {month.requests:,} requests", "", "", f"{total:,.2f}")
    Console().print(table)
    return 0


def of_model(model: Manifest) -> dict[str, int]:
    """Return the fields of a month that the model decides."""
    metrics, alarms = watched(model, "all")
    return {"drift_metrics": metrics, "drift_alarms": alarms}
