"""The bill, and that it counts what the template has."""

import pytest

from answerable.commands import cost
from answerable.commands.cost import Month
from handler import manifest
from tests.fixtures.artifact import DIABETES
from tests.infra.conftest import Template
from tests.infra.test_alarms import metrics


def total(month: Month) -> float:
    return sum(item.dollars for item in cost.bill(month))


def test_it_counts_what_the_stack_has(template: Template) -> None:
    alarms = template.alarms()
    read = {name: len(metrics(alarm)) for name, alarm in alarms.items()}
    drift = sum(count for name, count in read.items() if name.startswith("Drift"))
    assert sum(read.values()) - drift == cost.ALARM_METRICS
    model = manifest.read(DIABETES)
    assert (12, drift) == cost.watched(model, "all")
    assert len(template.all("AWS::CloudWatch::Dashboard")) == cost.DASHBOARDS


def test_an_idle_month_is_alarms_dashboard_and_image() -> None:
    assert total(Month()) == pytest.approx(1.6 + 3 + 0.039)


def test_a_million_requests_by_hand() -> None:
    month = Month(requests=1_000_000, memory=1024, duration=10, cold_share=0)
    logs = 1.7 * (0.50 + 0.03)
    by_hand = 3.50 + 0.20 + 10_000 * 1.66667e-5 + logs + 5 * 0.30
    assert total(month) - total(Month()) == pytest.approx(by_hand)


def test_snapstart_is_billed_without_traffic_and_by_version() -> None:
    one = total(Month(memory=1024, snapstart=True, versions=1)) - total(Month(versions=1))
    assert one == pytest.approx(1.5046e-6 * 730 * 3600)
    assert total(Month(snapstart=True, versions=9)) > 5 * one


def test_provisioned_concurrency_and_arm64() -> None:
    x86 = total(Month(provisioned=1, memory=1024)) - total(Month())
    assert x86 == pytest.approx(4.1667e-6 * 730 * 3600)
    assert total(Month(requests=10**7, architecture="arm64")) < total(Month(requests=10**7))
