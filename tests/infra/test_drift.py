"""The drift monitor and its alarms in the template, and the alarms of outcomes."""

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aws_cdk as cdk
import pytest
from aws_cdk import assertions

from answerable.simulation import cloudwatch
from answerable.simulation.cloudwatch import Metrics
from handler import app, metrics
from handler import manifest as manifests
from handler.settings import Settings
from infra import alarms as service
from infra.alarms import OutcomeAlarms
from infra.endpoint import EndpointMetrics
from infra.function import ModelFunction
from infra.settings import Settings as Deployment
from infra.settings import SettingsError
from infra.stack import ModelStack
from tests.fixtures import emf, events
from tests.fixtures.artifact import DIABETES
from tests.fixtures.events import Context
from tests.infra.conftest import Synth, Template

HOUR, DAY = 3_600_000, 86_400_000
MANIFEST = manifests.read(DIABETES)
VERSION = "7"
SERVICES = ("diabetes-dev", "diabetes-dev-jobs", "diabetes-dev-batch")
DRIFT = {"drift-outputs", "drift-inputs", "drift-unseen", "drift-silent"}
ENTRY_POINT = "handler.drift.monitor.on_schedule"


def drift_alarms(template: Template) -> dict[str, dict[str, Any]]:
    """Properties by the alarm's name, without the service's."""
    found = (item["Properties"] for item in template.all("AWS::CloudWatch::Alarm").values())
    named = {str(alarm["AlarmName"]).removeprefix("dev-diabetes-"): alarm for alarm in found}
    return {name: alarm for name, alarm in named.items() if name in DRIFT}


def resolve(value: Any) -> str:
    """Return what a deployment puts in place of a reference."""
    if isinstance(value, str):
        return value
    return VERSION if value.get("Fn::GetAtt", ["", ""])[1] == "Version" else "monitor"


def states(alarm: dict[str, Any], found: Metrics, hours: int) -> list[str]:
    """Return the alarm's state after each hour."""
    state, evaluated = cloudwatch.NO_DATA, []
    for hour in range(1, hours + 1):
        state = cloudwatch.evaluate_at(alarm, found, hour * HOUR, state, resolve).state
        evaluated.append(state)
    return evaluated


def test_four_alarms(template: Template) -> None:
    found = drift_alarms(template)
    assert found.keys() == DRIFT
    for name in DRIFT - {"drift-silent"}:
        assert "AlarmActions" not in found[name]  # the monitor's own message names the features
        assert found[name]["Dimensions"] == [{"Name": "service", "Value": "diabetes-dev"}]
    silent = found["drift-silent"]
    assert silent["AlarmActions"] == silent["InsufficientDataActions"]


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("drift-outputs", metrics.DRIFTED_OUTPUTS),
        ("drift-inputs", metrics.DRIFTED_INPUTS),
        ("drift-unseen", metrics.UNSEEN_INPUTS),
    ],
)
def test_an_alarm_lasts_as_long_as_its_metric_is_written(
    template: Template, name: str, metric: str
) -> None:
    found = Metrics()
    key = (metrics.NAMESPACE, metric, frozenset({("service", "diabetes-dev")}))
    for hour, minute in ((3, 10), (4, 12), (5, 9)):  # runs are never exactly an hour apart
        found.add_value(key, hour * HOUR + minute * 60_000, 1)
    # CloudWatch looks further back where periods are missing, so it is over some hours later
    expected = [*["OK"] * 3, *["ALARM"] * 6, *["OK"] * 3]
    assert states(drift_alarms(template)[name], found, 12) == expected


def test_a_silent_monitor_is_an_alarm(template: Template) -> None:
    alarm = drift_alarms(template)["drift-silent"]
    found = Metrics()
    dimensions = frozenset({("FunctionName", "monitor")})
    for hour, errors in ((0, 0), (1, 0), (2, 1), (3, 1), (4, 1), (5, 0)):
        for name, value in (("Invocations", 1), ("Errors", errors)):
            found.add_value(("AWS/Lambda", name, dimensions), hour * HOUR + 600_000, value)
    # it runs, fails three times, runs once more and is gone
    expected = [*["OK"] * 4, "ALARM", *["OK"] * 5, *["INSUFFICIENT_DATA"] * 2]
    assert states(alarm, found, 12) == expected


def test_the_monitor_reads_the_records_of_api_and_worker(synth: Synth) -> None:
    template = synth.template("jobs=true")
    variables = template.function(ENTRY_POINT)["Environment"]["Variables"]
    groups = json.dumps(variables["RECORD_LOG_GROUPS"])
    assert "ScoringLogs" in groups
    assert "JobsWorkerLogs" in groups
    (rule,) = [
        item["Properties"]
        for item in template.all("AWS::Events::Rule").values()
        if "cron(10 * * * ? *)" in str(item)
    ]
    assert rule["State"] == "ENABLED"
    (logs,) = [n for n in template.all("AWS::Logs::LogGroup") if n.startswith("DriftLogs")]
    assert variables["MONITOR_LOG_GROUP"] == {"Ref": logs}
    assert template.all("AWS::Logs::LogGroup")[logs]["Properties"]["RetentionInDays"] == 400
    short = synth.template("drift_history_days=30").all("AWS::Logs::LogGroup")
    assert short[logs]["Properties"]["RetentionInDays"] == 30


def test_the_monitor_may_read_and_ask_and_no_more(template: Template) -> None:
    (policy,) = [
        item["Properties"]["PolicyDocument"]["Statement"]
        for name, item in template.all("AWS::IAM::Policy").items()
        if name.startswith("DriftRole")
    ]
    actions = [action for s in policy for action in [s["Action"]] if isinstance(action, str)]
    actions += [action for s in policy if isinstance(s["Action"], list) for action in s["Action"]]
    assert set(actions) == {
        "logs:CreateLogStream", "logs:PutLogEvents", "logs:FilterLogEvents", "lambda:GetAlias",
        "lambda:InvokeFunction", "sns:Publish",
    }  # fmt: skip
    assert '"*"' not in json.dumps(policy)


def wide(columns: int) -> manifests.Manifest:
    """Return the example's manifest with so many columns."""
    first, baseline = MANIFEST.features[0], MANIFEST.baseline
    assert baseline
    features = tuple(first._replace(name=f"measurement_{i}", column=i) for i in range(columns))
    known = baseline.features[first.name]
    return MANIFEST._replace(
        features=features, baseline=baseline._replace(features={f.name: known for f in features})
    )


def test_300_columns_have_the_template_of_ten(tmp_path: Path) -> None:
    bodies = []
    deployment = Deployment(model="diabetes", image_repository="a", image_tag="b", jobs=True)
    for columns in (10, 300):
        stack = ModelStack(cdk.App(outdir=str(tmp_path)), deployment, wide(columns))
        template = assertions.Template.from_stack(stack)
        assert len(template.find_resources("AWS::CloudWatch::Alarm")) == 18
        bodies.append(json.dumps(template.to_json()))
    assert len(bodies[1]) <= 350_000


def test_a_model_without_a_baseline_has_no_drift_to_roll_back_on(tmp_path: Path) -> None:
    deployment = Deployment(
        model="diabetes", image_repository="a", image_tag="b", auto_rollback_on="drift"
    )
    with pytest.raises(SettingsError, match="no alarm of drift"):
        ModelStack(cdk.App(outdir=str(tmp_path)), deployment, MANIFEST._replace(baseline=None))


@pytest.mark.parametrize("days", [0, 2, 401])
def test_a_retention_that_cloudwatch_does_not_have_is_refused(synth: Synth, days: int) -> None:
    with pytest.raises(SettingsError, match="drift_history_days is one of"):
        synth.app(f"drift_history_days={days}")


# --- outcomes ------------------------------------------------------------------------------------


@pytest.fixture
def outcome_alarms(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The alarms of a model that states what its outcomes are worth."""
    stated = MANIFEST._replace(
        outcome_value=manifests.OutcomeValue("EUR", value=10.0, cost=0.1),
        alarms=MANIFEST.alarms._replace(min_daily_impact=4.0, max_days_without_outcomes=3),
    )
    stack = cdk.Stack(cdk.App(outdir=str(tmp_path)), "S")
    deployment = Deployment(model="diabetes")
    scoring, *workers = [
        cast(ModelFunction, SimpleNamespace(dimensions={"service": name, "version": VERSION}))
        for name in SERVICES
    ]
    topic = service.topic(stack, "Topic", deployment, "")
    context = service.MonitoringContext(
        deployment, stated, scoring, topic, topic, EndpointMetrics("AWS/ApiGateway", {})
    )
    outcomes = OutcomeAlarms(stack, "Outcomes", context, workers)
    assert len(outcomes.impact) == 1
    found = assertions.Template.from_stack(stack).find_resources("AWS::CloudWatch::Alarm")
    return {
        item["Properties"]["AlarmName"].removeprefix("dev-diabetes-"): item["Properties"]
        for item in found.values()
    }


def outcome_lines(
    day: int, errors: list[float], handler: app.Handler, service: str = SERVICES[0]
) -> list[dict[str, Any]]:
    """Return the lines that /feedback writes of so many errors, moved to a day and a service."""
    rows = [{f.name: f.example for f in MANIFEST.features}] * len(errors)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        answer = handler(events.rest(json.dumps({"instances": rows})), Context())
        sent = [
            {"prediction_id": one["id"], "actual": one["progression"] + e, "value": 10 - e / 10}
            for one, e in zip(json.loads(answer["body"])["predictions"], errors, strict=True)
        ]
        body = json.dumps({"outcomes": sent})
        assert handler(events.rest(body, "/feedback"), Context())["statusCode"] == 202
    lines = [json.loads(line) for line in out.getvalue().splitlines()[-2:]]
    for line in lines:
        line["_aws"]["Timestamp"] = day * DAY
    lines[-1]["service"] = service
    return lines


def test_impact_and_no_outcomes(outcome_alarms: dict[str, dict[str, Any]]) -> None:
    assert outcome_alarms.keys() == {"impact", "no-outcomes"}
    handler = app.create(Settings(DIABETES, service="diabetes-dev", function_version=VERSION))
    days = [[20.0, 30.0] * 5, [90.0, 80.0] * 5, [200.0] * 9]  # nine say too little
    found = emf.metrics(
        line for day, errors in enumerate(days) for line in outcome_lines(day, errors, handler)
    )
    impact, silence = (
        [
            cloudwatch.evaluate_at(outcome_alarms[name], found, day * DAY, resolve=resolve).state
            for day in range(1, 9)
        ]
        for name in ("impact", "no-outcomes")
    )
    assert impact == ["OK", "ALARM", *["OK"] * 6]
    # CloudWatch looks two days further back before it calls a day silent
    assert silence == [*["OK"] * 7, cloudwatch.NO_DATA]
    assert outcome_alarms["no-outcomes"]["InsufficientDataActions"]
    for name, alarm in outcome_alarms.items():
        assert alarm["AlarmDescription"].endswith(f"docs/runbook.md#{name}")


@pytest.mark.parametrize("service", SERVICES)
def test_impact_is_that_of_all_outcomes_of_a_release(
    outcome_alarms: dict[str, dict[str, Any]], service: str
) -> None:
    handler = app.create(Settings(DIABETES, service="diabetes-dev", function_version=VERSION))

    def state(*lines: dict[str, Any]) -> str:
        return cloudwatch.evaluate_at(
            outcome_alarms["impact"], emf.metrics(lines), DAY, resolve=resolve
        ).state

    bad = outcome_lines(0, [90.0] * 10, handler, service)
    assert state(*bad) == "ALARM"
    good = [line for s in SERVICES for line in outcome_lines(0, [10.0] * 20, handler, s)]
    assert state(*good) == "OK"
    assert state(*good, *bad) == "OK"
    assert state(*good, *bad * 20) == "ALARM"
