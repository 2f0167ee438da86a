"""The drift alarms of the synthesised template, computed from records of the real handler."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from answerable.simulation import cloudwatch
from answerable.simulation.cloudwatch import Metrics
from handler import app
from handler import manifest as manifests
from handler.metrics import NAMESPACE
from handler.settings import Settings
from infra.drift import DriftAlarms
from tests.fixtures import emf, events
from tests.fixtures.artifact import DIABETES
from tests.fixtures.events import Context
from tests.infra.conftest import Synth, Template

train: Any = importlib.import_module("examples.diabetes.train")
DAY = 86_400_000
MANIFEST = manifests.read(DIABETES)
VERSION = "7"
Capture = pytest.CaptureFixture[str]


def alarms(template: Template) -> dict[str, dict[str, Any]]:
    """Properties by the alarm's name."""
    found = template.all("AWS::CloudWatch::Alarm").values()
    names = [(item["Properties"]["AlarmName"], item["Properties"]) for item in found]
    return {name: each for name, each in names if "-drift-" in str(name)}


def resolve(value: Any) -> str:
    """What a deployment would put in place of a reference: the version's number."""
    if isinstance(value, str):
        return value
    assert value["Fn::GetAtt"][1] == "Version"
    return VERSION


@pytest.fixture(scope="module")
def handler() -> app.Handler:
    return app.create(Settings(DIABETES, service="diabetes-dev", function_version=VERSION))


@pytest.fixture(scope="module")
def patients() -> list[dict[str, Any]]:
    """The study's own rows, as the baseline was measured on them."""
    rows, _ = train.patients()
    return [
        {
            name: None if value != value else int(value) if name == "age" else value
            for name, value in zip(train.NAMES, row, strict=True)
        }
        for row in rows.tolist()
    ]


def live(
    handler: app.Handler, capsys: Capture, days: Iterator[list[dict[str, Any]]], size: int = 1
) -> Metrics:
    """The metrics of some days' rows, in requests of `size`."""
    records = []
    for day, rows in enumerate(days):
        for i in range(0, len(rows), size):
            event = events.rest(json.dumps({"instances": rows[i : i + size]}))
            event["requestContext"]["requestId"] = f"{day}-{i}"
            assert handler(event, Context())["statusCode"] == 200
            record = json.loads(capsys.readouterr().out)
            record["_aws"]["Timestamp"] = day * DAY + i * DAY // len(rows)
            records.append(record)
    return emf.metrics(records)


def states(template: Template, metrics: Metrics, days: int) -> dict[str, list[str]]:
    return {
        name.removeprefix("diabetes-dev-drift-"): [
            point.state
            for point in cloudwatch.evaluate_range(alarm, metrics, 0, days * DAY, resolve)
        ]
        for name, alarm in alarms(template).items()
    }


def drawn(patients: list[Any], seed: int, days: int, a_day: int) -> Iterator[list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    for _ in range(days):
        yield [patients[i] for i in rng.integers(0, len(patients), a_day)]


def test_thirty_days_without_drift_are_quiet(
    template: Template, handler: app.Handler, capsys: Capture, patients: list[Any]
) -> None:
    found = states(template, live(handler, capsys, drawn(patients, 1, 30, 200), 4), 30)
    assert len(found) == 12
    assert {state for each in found.values() for state in each} == {"OK"}


CHANGES: dict[str, Any] = {
    "a sensor that is lost": ({"glucose": None}, {"in_glucose"}),
    "one value for all": ({"blood_pressure": 95.0}, {"in_blood_pressure"}),
    "half a deviation": (lambda row: {"bmi": row["bmi"] + 2.2}, {"in_bmi", "out_progression"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_drift_fires_what_drifts(
    template: Template, handler: app.Handler, capsys: Capture, patients: list[Any], name: str
) -> None:
    change, expected = CHANGES[name]
    quiet, loud = drawn(patients, 2, 2, 400)
    after = [row | (change if isinstance(change, dict) else change(row)) for row in loud]
    found = states(template, live(handler, capsys, iter([quiet, after])), 2)
    assert {state for each in found.values() for state in each[:1]} == {"OK"}
    fired = {alarm for alarm, each in found.items() if each[1] == "ALARM"}
    assert expected >= fired & {k for k in found if k.startswith("in_")}
    assert expected & fired >= {k for k in expected if k.startswith("in_")}


def test_too_little_traffic_is_silent(
    template: Template, handler: app.Handler, capsys: Capture, patients: list[Any]
) -> None:
    few = [row | {"glucose": None} for row in patients[: MANIFEST.alarms.drift_min_rows - 1]]
    found = states(template, live(handler, capsys, iter([few])), 1)
    assert {state for each in found.values() for state in each} == {"OK"}


def test_another_version_is_another_metric(
    template: Template, capsys: Capture, patients: list[Any]
) -> None:
    before = app.create(Settings(DIABETES, service="diabetes-dev", function_version="6"))
    lost = [row | {"glucose": None} for row in patients[:300]]
    found = states(template, live(before, capsys, iter([lost])), 1)
    assert {state for each in found.values() for state in each} == {"OK"}


def test_inputs_have_one_alarm_that_acts(template: Template) -> None:
    composite = template.one("AWS::CloudWatch::CompositeAlarm")["Properties"]
    inputs = {name: each for name, each in alarms(template).items() if "-drift-in_" in name}
    assert len(inputs) == 10
    for name, alarm in inputs.items():
        assert f'ALARM("{name}")' in composite["AlarmRule"]
        assert "AlarmActions" not in alarm
    assert composite["AlarmActions"]
    assert composite["AlarmRule"].count(" OR ") == 9
    (output,) = [a for name, a in alarms(template).items() if name.endswith("out_progression")]
    assert output["AlarmActions"]
    for alarm in [*inputs.values(), output, composite]:
        assert f"Owner: {MANIFEST.owner}" in alarm["AlarmDescription"]


def test_each_reads_ten_metrics_at_most(template: Template) -> None:
    for alarm in alarms(template).values():
        assert sum("MetricStat" in query for query in alarm["Metrics"]) <= 10
        assert sum(query["ReturnData"] for query in alarm["Metrics"]) == 1


@pytest.mark.parametrize(("choice", "count"), [("off", 1), ("outputs", 2)])
def test_they_can_be_fewer(synth: Synth, choice: str, count: int) -> None:
    found = synth.template(f"drift_alarms={choice}")
    assert len(alarms(found)) == count
    assert not found.all("AWS::CloudWatch::CompositeAlarm")


def test_the_dashboard_draws_the_scores(template: Template) -> None:
    body = json.dumps(template.one("AWS::CloudWatch::Dashboard"))
    for words in (
        "Drift of inputs",
        "Drift of outputs",
        "Impact",
        "Outcomes",
        "in_bmi",
        "TC(0.5:1.5)",
    ):
        assert words in body


@pytest.fixture
def business(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The alarms of a model that states what its outcomes are worth."""
    import aws_cdk as cdk
    from aws_cdk import assertions

    from infra import alarms as service
    from infra.settings import Settings as Deployment

    stated = MANIFEST._replace(
        outcome_value=manifests.OutcomeValue("EUR", value=10.0, cost=0.1),
        alarms=MANIFEST.alarms._replace(min_daily_impact=4.0, max_days_without_outcomes=3),
    )
    stack = cdk.Stack(cdk.App(outdir=str(tmp_path)), "S")
    deployment = Deployment(model="diabetes")
    version = type("V", (), {"version": VERSION})()
    scoring: Any = type("F", (), {"version": version})()
    stage: Any = None
    watched = service.MonitoringContext(deployment, stated, scoring, stage, "api")
    drift = DriftAlarms(stack, "Drift", watched, service.topic(stack, deployment))
    assert [alarm.alarm_name for alarm in drift.impact] == ["diabetes-dev-drift-impact"]
    found = assertions.Template.from_stack(stack).find_resources("AWS::CloudWatch::Alarm")
    return {
        item["Properties"]["AlarmName"].removeprefix("diabetes-dev-drift-"): item["Properties"]
        for item in found.values()
    }


def outcomes(
    day: int, errors: list[float], capsys: Capture, handler: app.Handler
) -> list[dict[str, Any]]:
    """The lines that /feedback writes of so many errors, moved to a day."""
    rows = [{f.name: f.example for f in MANIFEST.features}] * len(errors)
    answer = handler(events.rest(json.dumps({"instances": rows})), Context())
    told = [
        {"prediction_id": one["id"], "actual": one["progression"] + e, "value": 10 - e / 10}
        for one, e in zip(json.loads(answer["body"])["predictions"], errors, strict=True)
    ]
    body = json.dumps({"outcomes": told})
    assert handler(events.rest(body, "/feedback"), Context())["statusCode"] == 202
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()[-2:]]
    for line in lines:
        line["_aws"]["Timestamp"] = day * DAY
    return lines


def test_each_has_its_section_of_the_runbook(business: dict[str, dict[str, Any]]) -> None:
    for name in ("impact", "silence"):
        assert business[name]["AlarmDescription"].endswith(f"docs/runbook.md#drift-{name}")


def test_impact_and_silence(
    business: dict[str, dict[str, Any]], handler: app.Handler, capsys: Capture
) -> None:
    days = [[20.0, 30.0] * 5, [90.0, 80.0] * 5, [200.0] * 9]  # nine say too little
    metrics = emf.metrics(
        line for i, errors in enumerate(days) for line in outcomes(i, errors, capsys, handler)
    )
    impact, silence = (
        [
            point.state
            for point in cloudwatch.evaluate_range(business[name], metrics, 0, 8 * DAY, resolve)
        ]
        for name in ("impact", "silence")
    )
    assert impact == ["OK", "ALARM", *["OK"] * 6]
    # CloudWatch looks two days further back than `label_days` before it calls a day silent
    assert silence == [*["OK"] * 7, "ALARM"]


def test_rows_of_a_new_kind(template: Template) -> None:
    (alarm,) = [each for name, each in alarms(template).items() if name.endswith("unseen")]
    key = frozenset({("service", "diabetes-dev"), ("version", VERSION)})
    for rows, unseen, state in (
        (100, 2, "OK"),
        (100, 3, "ALARM"),
        (1000, 10, "OK"),
        (1000, 11, "ALARM"),
    ):
        metrics = Metrics()
        for name, value in (("Rows", rows), ("Unseen", unseen)):
            datum = cloudwatch.Datum(0, cloudwatch.bucket(value), value)
            metrics.data[(NAMESPACE, name, key)] = [datum]
        (point,) = cloudwatch.evaluate_range(alarm, metrics, 0, DAY, resolve)
        assert point.state == state
