"""The alarm over records: quiet for a month of no drift, loud when there is some."""

import itertools
import json
from typing import Any

import numpy as np
import pytest

from answerable.packing import baseline
from answerable.simulation import cloudwatch, traffic
from answerable.simulation.cloudwatch import Metrics
from handler import app
from handler import manifest as manifests
from handler.drift import statistic
from handler.drift.statistic import BINS
from handler.metrics import NAMESPACE
from handler.settings import Settings
from tests.fixtures import emf, events
from tests.fixtures.artifact import DIABETES
from tests.fixtures.events import Context

DAY = 86_400_000
MANIFEST = manifests.read(DIABETES)
DIMENSIONS = {"service": "diabetes", "version": "7"}
Capture = pytest.CaptureFixture[str]


def alarms() -> dict[str, dict[str, Any]]:
    return {t.metric: statistic.alarm(MANIFEST, t, DIMENSIONS) for t in statistic.targets(MANIFEST)}


def resampled(rng: np.random.Generator, rows: int) -> list[dict[str, Any]]:
    """Rows as the baseline has them, each feature for itself."""
    return list(itertools.islice(traffic.draw_rows(MANIFEST, rng), rows))


@pytest.fixture(scope="module")
def handler() -> app.Handler:
    return app.create(Settings(DIABETES, function_version="7"))


def emitted(
    handler: app.Handler, capsys: Capture, rows: list[dict[str, Any]], days: int, size: int
) -> Metrics:
    """The metrics of the rows, sent in requests of `size`, evenly over so many days."""
    records = []
    requests = [rows[i : i + size] for i in range(0, len(rows), size)]
    for i, part in enumerate(requests):
        event = events.rest(json.dumps({"instances": part}))
        event["requestContext"]["requestId"] = f"request-{i}"
        assert handler(event, Context())["statusCode"] == 200
        record = json.loads(capsys.readouterr().out)
        record["_aws"]["Timestamp"] = record["timestamp"] = i * days * DAY // len(requests)
        records.append(record)
    return emf.metrics(records)


def fired(metrics: Metrics, days: int) -> dict[str, list[str]]:
    return {
        name: [point.state for point in cloudwatch.evaluate_range(alarm, metrics, 0, days * DAY)]
        for name, alarm in alarms().items()
    }


def test_a_month_without_drift_is_quiet(handler: app.Handler, capsys: Capture) -> None:
    rows = resampled(np.random.default_rng(1), 30 * 200)
    states = fired(emitted(handler, capsys, rows, 30, 4), 30)
    inputs = {name for name in states if name.startswith("in_")}
    assert len(inputs) == 10
    assert {state for name in inputs for state in states[name]} == {"OK"}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bmi", lambda row: {"bmi": row["bmi"] + 4.5}),  # one standard deviation
        ("glucose", lambda row: {"glucose": None}),
        ("sex", lambda row: {"sex": "2"}),
    ],
)
def test_drift_fires_its_own_alarm(
    handler: app.Handler, capsys: Capture, name: str, change: Any
) -> None:
    rows = resampled(np.random.default_rng(2), 400)
    rows = rows[:200] + [row | change(row) for row in rows[200:]]
    states = fired(emitted(handler, capsys, rows, 2, 1), 2)
    assert states[f"in_{name}"] == ["OK", "ALARM"]
    others = {k: v for k, v in states.items() if k.startswith("in_") and k != f"in_{name}"}
    assert {state for found in others.values() for state in found} == {"OK"}


def test_too_few_values_are_silent(handler: app.Handler, capsys: Capture) -> None:
    few = MANIFEST.alarms.drift_min_rows - 1
    rows = [row | {"glucose": None} for row in resampled(np.random.default_rng(3), few)]
    assert fired(emitted(handler, capsys, rows, 1, few), 1)["in_glucose"] == ["OK"]
    assert fired(Metrics(), 3)["in_glucose"] == ["OK"] * 3


def test_no_drift_is_quiet_of_the_outputs_too(handler: app.Handler, capsys: Capture) -> None:
    """With whole rows of the study: its features belong together, and so do its predictions."""
    golden = [json.loads(line) for line in (DIABETES / "golden.jsonl").read_text().splitlines()]
    assert golden
    states = fired(emitted(handler, capsys, [row["instance"] for row in golden] * 4, 1, 100), 1)
    assert states["out_progression"] in (["OK"], ["ALARM"])  # golden rows are edges, not a sample


@pytest.mark.parametrize(("n", "m"), [(60, 442), (400, 5000), (5000, 100_000)])
def test_the_math_is_the_score_that_the_report_shows(n: int, m: int) -> None:
    rng = np.random.default_rng(4)
    seen = set()
    for spread in (10, 50, 200, 1000, 10_000):
        counts = rng.multinomial(n, rng.dirichlet([spread] * BINS)).tolist()
        metrics = Metrics()
        numbers = [i for i, count in enumerate(counts, 1) for _ in range(count)]
        key = (NAMESPACE, "in_x", frozenset(DIMENSIONS.items()))
        metrics.data[key] = [cloudwatch.Datum(0, cloudwatch.bucket(i), i) for i in numbers]
        alarm = {
            "Metrics": statistic.alarm_metrics(
                "in_x", DIMENSIONS, statistic.metric_math(m, 50, 24), 86_400
            ),
            "Threshold": 0.05,
            "ComparisonOperator": "GreaterThanThreshold",
            "EvaluationPeriods": 1,
        }
        (point,) = cloudwatch.evaluate_range(alarm, metrics, 0, DAY)
        sure = statistic.is_significant(counts, m, 24)
        assert point.value == pytest.approx(statistic.score(counts, m) if sure else 0.0)
        seen.add(sure)
    assert seen == {True, False} or n == 60


def test_bins_survive_the_sketch() -> None:
    for number in range(1, BINS + 1):
        assert round(cloudwatch.bucket(number)) == number
        assert number - 0.5 < cloudwatch.bucket(number) < number + 0.5


def test_the_alarm_keeps_to_cloudwatchs_limits() -> None:
    for alarm in alarms().values():
        assert sum("MetricStat" in query for query in alarm["Metrics"]) == 10
        assert max(len(query.get("Expression", "")) for query in alarm["Metrics"]) < 1024


def test_a_distribution_of_many_ties_is_quiet() -> None:
    """Deciles of integers: with ties drawn there is no false alarm, without there would be."""
    rng = np.random.default_rng(5)
    known = baseline.numbers(rng.poisson(1.2, 20_000).tolist())
    from handler.drift.bins import BaselineCdf

    scale = BaselineCdf(known, False)
    live = rng.poisson(1.2, 5000).tolist()

    def counts(draws: list[float]) -> list[int]:
        found = scale.ranks(live, draws)
        return [found.count(number) for number in range(1, BINS + 1)]

    assert not statistic.is_significant(counts(rng.random(5000).tolist()), 20_000, 24)
    assert statistic.score(counts([0.999] * 5000), 20_000) > 1
