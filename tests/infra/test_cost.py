"""The bill, and that it counts what the template has."""

from collections import Counter

import pytest

from answerable.commands import cost
from answerable.commands.cost import Month
from handler import manifest
from tests.fixtures.artifact import DIABETES
from tests.infra.conftest import Synth
from tests.infra.test_alarms import metrics


def total(month: Month) -> float:
    return sum(item.dollars for item in cost.bill(month))


GROUPS = {
    "Drift": cost.DRIFT_ALARMS,
    "Canary": cost.CANARY_ALARMS,
    "Rollback": cost.ROLLBACK_ALARMS,
    "Jobs": cost.JOBS_ALARMS,
    "Archive": cost.ARCHIVE_ALARMS,
    "Batch": cost.BATCH_ALARMS,
    "Outcomes": 3 * 2 + 1,
    "": cost.SERVICE_ALARMS,
}


def test_it_counts_what_the_stack_has(synth: Synth) -> None:
    template = synth.everything()
    read: Counter[str] = Counter()
    for name, alarm in template.alarms().items():
        group = next(prefix for prefix in GROUPS if name.startswith(prefix))
        read[group] += len(metrics(alarm))
    assert read == GROUPS
    assert len(template.all("AWS::CloudWatch::Dashboard")) == cost.DASHBOARDS
    assert not template.all("AWS::CloudWatch::CompositeAlarm")
    facts = {"targets": 11, "impact_alarm": False, "silence_alarm": False}
    assert cost.of_model(manifest.read(DIABETES)) == facts


def test_it_counts_the_alarms_of_outcomes_and_batches(synth: Synth) -> None:
    read = sum(len(metrics(alarm)) for alarm in synth.everything().alarms().values())
    month = Month(jobs=True, archive=True, batch=True, impact_alarm=True, silence_alarm=True)
    alarms = [item for item in cost.bill(month) if item.price.startswith("CloudWatch alarm")]
    assert sum(item.quantity for item in alarms) == read


def test_an_idle_month_with_everything_on_is_seven_dollars() -> None:
    month = Month(targets=11, jobs=True, archive=True, impact_alarm=True, silence_alarm=True)
    wide = month._replace(targets=301)
    assert total(month) <= 7
    assert drift(month) <= 0.60
    assert total(wide) <= 1.1 * total(month)
    assert drift(wide) <= 1.1 * drift(month)


def drift(month: Month) -> float:
    return sum(item.dollars for item in cost.bill(month) if item.group == "drift")


def test_every_line_has_a_price_of_the_table() -> None:
    month = Month(
        requests=10, jobs=True, submitted=5, outcomes=3, archive=True, snapstart=True, rows=9
    )
    others = [
        Month(requests=1, endpoint="http"),
        Month(requests=1, endpoint="url"),
        Month(provisioned=1),
        Month(requests=1, provisioned=1, architecture="arm64"),
    ]
    items = [item for each in (month, *others) for item in cost.bill(each)]
    assert {item.price for item in items} == cost.PRICES.keys()
    assert {item.group for item in items} == {
        "service",
        "drift",
        "traffic",
        "jobs",
        "archive",
        "batch",
    }
    assert len({(item.group, item.name) for item in cost.bill(month)}) == len([*cost.bill(month)])


def test_a_million_requests_by_hand() -> None:
    month = Month(requests=1_000_000, memory=1024, duration=10, cold_share=0)
    logs = 1.7 * (0.50 + 0.03)
    by_hand = 3.50 + 0.20 + 10_000 * 1.66667e-5 + logs + 8 * 0.30
    assert total(month) - total(Month(memory=1024)) == pytest.approx(by_hand)


def test_snapstart_is_billed_without_traffic_and_by_version() -> None:
    one = total(Month(memory=1024, snapstart=True, versions=1)) - total(
        Month(memory=1024, versions=1)
    )
    assert one == pytest.approx(1.5046e-6 * 730 * 3600)
    assert total(Month(snapstart=True, versions=9)) > 5 * one


def test_provisioned_concurrency_and_arm64() -> None:
    x86 = total(Month(provisioned=1, memory=1024)) - total(Month(memory=1024))
    assert x86 == pytest.approx(4.1667e-6 * 730 * 3600)
    assert total(Month(requests=10**7, architecture="arm64")) < total(Month(requests=10**7))
