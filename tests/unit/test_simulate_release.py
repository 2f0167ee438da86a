"""Simulated releases: the scenarios, recorded traffic, and who rolls back on what."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from answerable import __main__ as answerable
from answerable.simulation import plan as plans
from answerable.simulation.cloudwatch import Metrics, Unsupported, evaluate_at
from handler import manifest as manifests
from handler.release import golden
from tests.fixtures.artifact import PROJECT
from tests.fixtures.release import SHIPPED, artifact

Capture = pytest.CaptureFixture[str]
NUMBER = {"Fn::GetAtt": ["Version1", "Version"]}
OURS = {"service": "diabetes-dev", "version": NUMBER}
LAMBDA = {
    "FunctionName": {"Ref": "Scoring"},
    "Resource": {"Fn::Join": ["", [{"Ref": "Scoring"}, ":live"]]},
    "ExecutedVersion": NUMBER,
}


def over(bad: str, requests: str, dimensions: dict[str, Any], name: str) -> dict[str, Any]:
    """An alarm in the form of infra/alarms.py."""

    def stat(id: str, metric: str) -> dict[str, Any]:
        named = [{"Name": k, "Value": v} for k, v in dimensions.items()]
        space = "AWS/Lambda" if "FunctionName" in dimensions else "Answerable"
        of = {"Namespace": space, "MetricName": metric, "Dimensions": named}
        return {
            "Id": id,
            "MetricStat": {"Metric": of, "Period": 60, "Stat": "Sum"},
            "ReturnData": False,
        }

    return {
        "AlarmName": {"Fn::Join": ["", ["diabetes-dev-v", NUMBER, name]]},
        "Metrics": [
            {"Id": "m", "Expression": "bad - IF(n * 0.01 > 0, n * 0.01, 0)", "ReturnData": True},
            stat("bad", bad),
            stat("n", requests),
        ],
        "Threshold": 0,
        "ComparisonOperator": "GreaterThanThreshold",
        "EvaluationPeriods": 5,
        "DatapointsToAlarm": 1,
        "TreatMissingData": "notBreaching",
    }


def template(
    folder: Path, rule: bool = False, routing: dict[str, Any] | None = None, **changed: Any
) -> dict[str, Any]:
    """What the stack of a model would be synthesised to, as far as it is read."""
    manifest = manifests.read(folder)
    resources: dict[str, tuple[str, dict[str, Any]]] = {
        "Scoring": (
            "Lambda::Function",
            {
                "ImageConfig": {"Command": ["handler.function.lambda_handler"]},
                "Environment": {"Variables": {"SERVICE_NAME": "diabetes-dev"}},
            },
        ),
        "After": (
            "Lambda::Function",
            {
                "ImageConfig": {"Command": ["handler.release.deploy_hooks.after_traffic"]},
                "Environment": {
                    "Variables": {
                        "SERVICE_NAME": "diabetes-dev",
                        "LOW_TRAFFIC_POLICY": "replay_golden_rows",
                        "MINIMUM_REQUESTS": "20",
                    }
                },
            },
        ),
        "Live": ("Lambda::Alias", {"FunctionName": {"Ref": "Scoring"}, "FunctionVersion": NUMBER}),
        "Config": (
            "CodeDeploy::DeploymentConfig",
            {
                "TrafficRoutingConfig": routing
                or {"TimeBasedCanary": {"CanaryInterval": 4, "CanaryPercentage": 30}}
            },
        ),
        "Group": (
            "CodeDeploy::DeploymentGroup",
            {"AlarmConfiguration": {"Alarms": [{"Name": {"Ref": id}} for id in ("F", "C")]}},
        ),
        "F": ("CloudWatch::Alarm", over("ServerErrors", "Requests", OURS, "-server-errors")),
        "C": ("CloudWatch::Alarm", over("Errors", "Invocations", LAMBDA, "-crashes")),
    }
    for name, metric in (("outputs", "DriftedOutputs"), ("inputs", "DriftedInputs")):
        resources[f"Drift{name}"] = (
            "CloudWatch::Alarm",
            {
                "AlarmName": f"diabetes-dev-drift-{name}",
                "Namespace": "Answerable",
                "MetricName": metric,
                "Dimensions": [{"Name": "service", "Value": "diabetes-dev"}],
                "Statistic": "Maximum",
                "Period": 3600,
                "Threshold": 0,
                "ComparisonOperator": "GreaterThanThreshold",
                "EvaluationPeriods": 2,
                "DatapointsToAlarm": 1,
                "TreatMissingData": "notBreaching",
            },
        )
    if manifest.alarms.min_daily_impact is not None:
        resources["Impact"] = (
            "CloudWatch::Alarm",
            {
                "AlarmName": "diabetes-dev-impact",
                "Namespace": "Answerable",
                "MetricName": "Impact",
                "Dimensions": [{"Name": k, "Value": v} for k, v in OURS.items()],
                "Statistic": "Average",
                "Period": 86_400,
                "EvaluationPeriods": 1,
                "Threshold": manifest.alarms.min_daily_impact,
                "ComparisonOperator": "LessThanThreshold",
                "TreatMissingData": "notBreaching",
                "AlarmActions": [{"Ref": "Topic"}],
            },
        )
    if rule:
        watched = [{"Fn::GetAtt": [id, "Arn"]} for id in ("Impact", "Driftoutputs")]
        resources["Rule"] = (
            "Events::Rule",
            {
                "EventPattern": {
                    "source": ["aws.cloudwatch"],
                    "detail-type": ["CloudWatch Alarm State Change"],
                    "resources": watched,
                    "detail": {"state": {"value": ["ALARM"]}},
                }
            },
        )
    for id, properties in changed.items():
        resources[id] = (resources[id][0], {**resources[id][1], **properties})
    return {
        "Resources": {
            id: {"Type": f"AWS::{kind}", "Properties": item}
            for id, (kind, item) in resources.items()
        }
    }


@pytest.fixture(autouse=True)
def _project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of the template that is synthesised."""
    arguments: dict[str, Any] = {}

    def synthesised(artifacts: Path, model: str, context: dict[str, str]) -> dict[str, Any]:
        return template(artifacts / model, **arguments)

    monkeypatch.setattr(plans, "synthesise", synthesised)
    return arguments


def simulate(capsys: Capture, *words: str, rate: str = "20", hours: str = "0.5") -> str:
    """What the command shows; without the milliseconds, which no two runs have in common."""
    code = answerable.main(["simulate-release", "--rate", rate, "--hours", hours, *words])
    assert code == 0
    shown = re.sub(r" +\d+\.\d(?=\n| )", " ms", capsys.readouterr().out)
    return " ".join(shown.split())


def test_healthy_scenario_stays_live(capsys: Capture, given: dict[str, Any]) -> None:
    shown = simulate(capsys, "--scenario", "healthy", hours="1.2")
    assert "gets 30 % of the traffic for 4 minutes, then all of it" in shown
    assert "CodeDeploy alarms v2-server-errors, v2-crashes" in shown
    assert "▲" not in shown
    assert "This version would be live, without any alarm: 0 of" in shown


def test_crash_scenario_rolls_back_during_the_shift(capsys: Capture, given: dict[str, Any]) -> None:
    shown = simulate(capsys, "--scenario", "crash")
    assert "▲ v2-server-errors is in ALARM → CodeDeploy rolls back to version 1" in shown
    assert re.search(
        r"rolled back at minute [1-4] by v2-server-errors, with \d of \d+ answers wrong", shown
    )


def test_silent_error_scenario_notifies_by_drift_and_outcomes(
    capsys: Capture, given: dict[str, Any]
) -> None:
    shown = simulate(capsys, "--scenario", "silent-error", hours="1.2")
    assert "rollback rule alarms none" in shown
    for alarm in ("drift-outputs", "drift-inputs", "impact"):
        assert f"▲ {alarm} is in ALARM" in shown
    found = re.search(r"owner notified after 1 h \d\d min by \S+, with ([\d,]+) of", shown)
    assert found
    assert int(found[1].replace(",", "")) > 500
    assert not re.search(r"▲ v2-", shown)


def test_rollback_rule_rolls_back(capsys: Capture, given: dict[str, Any]) -> None:
    given["rule"] = True
    shown = simulate(capsys, "--scenario", "silent-error", hours="1.2")
    assert "rollback rule alarms drift-outputs, impact" in shown
    assert "→ the rule rolls back to version 1" in shown
    assert re.search(r"rolled back after 1 h \d\d min by (drift-outputs|impact), with", shown)


def test_equal_seeds_give_equal_simulations(capsys: Capture, given: dict[str, Any]) -> None:
    one, two, other = (
        simulate(capsys, "--scenario", "silent-error", "--seed", seed, hours="0.2")
        for seed in "112"
    )
    assert one == two != other


def test_candidate_that_fails_the_hook_gets_no_traffic(
    capsys: Capture, given: dict[str, Any], tmp_path: Path
) -> None:
    worse = artifact(tmp_path / "worse", version="0.9.0")
    (worse / "golden.jsonl").write_text("")
    broken = ["--candidate", str(worse), "--hours", "0"]
    shown = simulate(capsys, *broken)
    assert "would have been refused before it got any traffic: GET /model: " in shown
    assert "0:01" not in shown
    shown = simulate(capsys, "--skip-hook", *broken)
    assert "▲ v2-server-errors is in ALARM" in shown


def test_too_little_traffic_fails_the_hook_after_traffic(
    capsys: Capture, given: dict[str, Any], tmp_path: Path
) -> None:
    strict = {
        "SERVICE_NAME": "diabetes-dev",
        "LOW_TRAFFIC_POLICY": "fail",
        "MINIMUM_REQUESTS": "99",
    }
    given["After"] = {"Environment": {"Variables": strict}}
    shown = simulate(capsys, "--scenario", "healthy")
    assert "rolled back at minute 4 by the hook after traffic: it served" in shown


def test_recorded_traffic(capsys: Capture, given: dict[str, Any], tmp_path: Path) -> None:
    rows = [row.instance for row in golden.read(SHIPPED)]
    records = tmp_path / "records.jsonl"
    made = {"message": "request", "timestamp": 0}
    lines = [{**made, "instances": rows[i : i + 2]} for i in range(0, len(rows), 2)]
    records.write_text("\n".join(map(json.dumps, [*lines, made])))
    newer = artifact(tmp_path / "newer", version="1.0.1")
    shown = simulate(capsys, "--candidate", str(newer), "--records", str(records), hours="1.2")
    assert "requests 20 a minute, those of" in shown
    assert "drift-inputs is in ALARM" in shown  # golden rows are edges, and the same over and over
    assert re.search(r"0 of [\d,]+ answers wrong", shown)


def test_linear_rollout_shifts_in_steps() -> None:
    routing = {"TimeBasedLinear": {"LinearInterval": 2, "LinearPercentage": 30}}
    plan = plans.read(template(SHIPPED, routing=routing))
    assert plan.bake_minutes == 6
    assert [plan.share(minute) for minute in range(8)] == [30, 30, 60, 60, 90, 90, 100, 100]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"Live": {"FunctionVersion": "7"}}, "pinned_version releases nothing"),
        ({"Scoring": {"ImageConfig": {}}}, "no function with handler.function"),
        ({"F": {"ComparisonOperator": "LessThanLowerThreshold"}}, "LessThanLowerThreshold"),
    ],
)
def test_template_that_cannot_be_simulated_is_an_error(
    capsys: Capture, given: dict[str, Any], changed: dict[str, Any], why: str
) -> None:
    given.update(changed)
    assert answerable.main(["simulate-release", "--scenario", "healthy", "--hours", "0"]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--rate", "0"], "--rate takes a number from 1"),
        (["--records", "nowhere.jsonl"], "No such file"),
        (["--current", "nowhere"], "no model is named nowhere"),
    ],
)
def test_wrong_arguments_are_an_error(capsys: Capture, words: list[str], why: str) -> None:
    assert answerable.main(["simulate-release", *words]) == 2
    assert why in capsys.readouterr().err


def test_candidate_of_another_model_is_an_error(
    capsys: Capture, given: dict[str, Any], tmp_path: Path
) -> None:
    other = artifact(tmp_path / "other", name="other")
    assert answerable.main(["simulate-release", "--candidate", str(other)]) == 2
    assert "the candidate is of other" in capsys.readouterr().err


# CloudWatch's own tables, of three periods: "How alarm state is evaluated when data is missing"
@pytest.mark.parametrize(
    ("points", "wanted", "expected"),
    [
        ("0-X-X", 3, "OK OK OK OK"),
        ("0----", 3, "OK OK OK OK"),
        ("-----", 3, "INSUFFICIENT_DATA before ALARM OK"),
        ("0XX-X", 3, "ALARM ALARM ALARM ALARM"),
        ("--X--", 3, "ALARM before ALARM OK"),
        ("----X", 3, "OK before ALARM OK"),
        ("0-X-X", 2, "ALARM ALARM ALARM ALARM"),
        ("00X0X", 2, "ALARM ALARM ALARM ALARM"),
        ("0-X--", 2, "OK OK ALARM OK"),
        ("----0", 2, "OK OK ALARM OK"),
        ("---X-", 2, "ALARM before ALARM OK"),
    ],
)
def test_missing_data_is_treated_as_documented(points: str, wanted: int, expected: str) -> None:
    metrics = Metrics()
    for i, point in enumerate(points):
        if point != "-":
            metrics.add_value(("N", "M", frozenset()), i * 60_000, float(point == "X"))
    alarm = {
        "Namespace": "N",
        "MetricName": "M",
        "Statistic": "Maximum",
        "Period": 60,
        "EvaluationPeriods": 3,
        "DatapointsToAlarm": wanted,
        "Threshold": 0,
        "ComparisonOperator": "GreaterThanThreshold",
    }
    treatments = ("missing", "ignore", "breaching", "notBreaching")
    found = [
        evaluate_at({**alarm, "TreatMissingData": each}, metrics, 5 * 60_000, "before").state
        for each in treatments
    ]
    assert found == expected.split()


def test_alarm_windows_slide_by_the_minute_or_by_the_hour() -> None:
    metrics = Metrics()
    metrics.add_value(("N", "M", frozenset()), 90 * 60_000, 1.0)
    alarm = {
        "Namespace": "N",
        "MetricName": "M",
        "Statistic": "Sum",
        "Period": 86_400,
        "EvaluationPeriods": 1,
        "Threshold": 0,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
    }
    one, two = alarm, {**alarm, "EvaluationPeriods": 2, "DatapointsToAlarm": 1}
    assert [evaluate_at(each, metrics, 91 * 60_000).state for each in (one, two)] == ["ALARM", "OK"]
    assert [evaluate_at(each, metrics, 121 * 60_000).state for each in (one, two)] == [
        "ALARM",
        "ALARM",
    ]
    with pytest.raises(Unsupported, match="range"):
        evaluate_at({**alarm, "EvaluationPeriods": 8}, metrics, 0)
