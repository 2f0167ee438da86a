"""The alarms' definitions in the template, and what their formulas say of made-up traffic."""

import json
import re
from typing import Any

import pytest
from scipy.stats import binom

from answerable.simulation import cloudwatch
from answerable.simulation.cloudwatch import NO_DATA, Metrics
from handler import manifest
from infra.alarms import FAST_BURN, POLICIES, RUNBOOK
from tests.fixtures.artifact import DIABETES
from tests.infra.conftest import ROOT, Synth, Template

ALARMS = manifest.read(DIABETES).alarms
SERVICE = {"availability", "availabilityslow", "clienterrors", "latency", "throttles"}
CANARY = {
    "Canarycanarycrashes",
    "Canarycanaryservererrors",
    "Canarycanaryclienterrors",
    "Canarycanarylatency",
}
ROLLBACK = "Rollbackrollbackunavailable"
DAY = 86_400_000
MOVED = "Rollbackaliasmoved"


def metrics(alarm: dict[str, Any]) -> list[dict[str, Any]]:
    """The CloudWatch metrics that an alarm reads, in or outside of metric math."""
    if "Metrics" not in alarm:
        return [alarm]
    return [m["MetricStat"]["Metric"] for m in alarm["Metrics"] if "MetricStat" in m]


def dimensions(metric: dict[str, Any]) -> dict[str, Any]:
    return {item["Name"]: item["Value"] for item in metric["Dimensions"]}


def breaches(
    alarm: dict[str, Any], bad: float, requests: float, old: tuple[float, float] = (0, 0)
) -> bool:
    """One period of a math alarm, computed from the template's own expression.

    `old`: errors and requests of the old version.
    """
    (expression,) = [m["Expression"] for m in alarm["Metrics"] if "Expression" in m]
    names = {"bad": bad, "requests": requests, "IF": lambda a, b, c: b if a else c}
    names |= {"all_bad": bad + old[0], "all_requests": requests + old[1]}
    value: float = eval(expression, {"__builtins__": {}}, names)
    return bool(value > alarm["Threshold"])


def test_these_are_the_alarms(template: Template) -> None:
    found = {name for name in template.alarms() if not name.startswith("Drift")}
    assert found == SERVICE | CANARY | {ROLLBACK, MOVED}  # test_drift.py has the others


def test_each_names_owner_and_runbook(template: Template) -> None:
    found = manifest.read(DIABETES)
    for alarm in template.alarms().values():
        assert f"Owner: {found.owner}" in alarm["AlarmDescription"]
        assert f"Runbook: {found.runbook or RUNBOOK}#" in alarm["AlarmDescription"]


def sections(template: Template) -> set[str]:
    return {alarm["AlarmDescription"].rpartition("#")[2] for alarm in template.alarms().values()}


def test_each_alarm_has_its_section_of_the_runbook_and_vice_versa(
    synth: Synth,
) -> None:
    text = (ROOT / RUNBOOK).read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert [re.sub(r"[^a-z0-9-]", "", h.replace(" ", "-")) for h in headings] == headings
    assert sections(synth.everything()) == set(headings)
    assert len(headings) == len(set(headings))
    for heading in headings:  # each says what it means, what to look at and what to do
        body = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        for part in ("**Means**", "**Look**", "**Do**", "```"):
            assert part in body, (heading, part)


# alarm -> (who is notified, the state once data stop coming)
DECISIONS = {
    **dict.fromkeys(("availability", "throttles", "queue-age"), ("page", "OK")),
    **dict.fromkeys(("availability-slow", "client-errors", "impact"), ("ticket", "OK")),
    **dict.fromkeys(("dead-letters", "failed-results", "batch-failed"), ("ticket", "OK")),
    "archive-delivery": ("ticket", "OK"),
    # the state of the last data is the best guess
    **dict.fromkeys(("latency", "alias-moved"), ("ticket", "ALARM")),
    # their data have to come
    **dict.fromkeys(("rollback-unavailable", "drift-silent", "no-outcomes"), ("ticket", NO_DATA)),
    # CodeDeploy's to act on, and the monitor's own message
    **{f"canary-{name}": ("", "OK") for name in ("crashes", "server-errors", "client-errors")},
    "canary-latency": ("", "OK"),
    **{f"drift-{name}": ("", "OK") for name in ("inputs", "outputs", "unseen")},
}


def test_the_severity_and_the_missing_data_of_every_alarm_are_decided(synth: Synth) -> None:
    template = synth.everything()
    alarms = {a["AlarmDescription"].rpartition("#")[2]: a for a in template.alarms().values()}
    assert alarms.keys() == DECISIONS.keys() == POLICIES.keys()
    for name, alarm in alarms.items():
        severity, silent = DECISIONS[name]
        policy = POLICIES[name]
        assert (policy.severity, bool(policy.reason)) == (severity, True)
        # a new stack notifies nobody
        assert cloudwatch.evaluate_at(alarm, Metrics(), 10 * DAY).state != "ALARM", name
        # data that stop while the alarm is in ALARM
        assert cloudwatch.evaluate_at(alarm, Metrics(), 10 * DAY, "ALARM").state == silent, name
        # the monitor's and CodeDeploy's alarms have no topic
        actions = {key for key in ("AlarmActions", "OKActions") if alarm.get(key)}
        assert actions == ({"AlarmActions", "OKActions"} if severity else set()), name
        assert ("InsufficientDataActions" in alarm) == (silent == NO_DATA), name


def test_pages_and_tickets_go_to_their_own_destinations(synth: Synth) -> None:
    page, ticket = (f"arn:aws:sns:eu-west-1:123456789012:{name}" for name in ("page", "ticket"))
    settings = f"alarm_destination={page}", f"ticket_destination={ticket}"
    template = synth.template(*settings, "jobs=true")
    by_topic: dict[str, set[str]] = {page: set(), ticket: set()}
    for alarm in template.alarms().values():
        for topic in alarm.get("AlarmActions", ()):
            by_topic[topic].add(str(alarm["AlarmName"]).removeprefix("dev-diabetes-"))
    for topic, severity in ((page, "page"), (ticket, "ticket")):
        assert by_topic[topic] <= {n for n, decided in DECISIONS.items() if decided[0] == severity}
    assert by_topic[page] == {"availability", "throttles", "queue-age"}
    assert not template.all("AWS::SNS::Topic")
    one = synth.template("ticket_destination=team@example.org").all("AWS::SNS::Topic")
    assert len(one) == 2  # the other has no subscriber yet


def test_the_canary_is_measured_alone(template: Template) -> None:
    (version,) = template.all("AWS::Lambda::Version")
    (function,) = [name for name in template.all("AWS::Lambda::Function") if "Scoring" in name]
    number = {"Fn::GetAtt": [version, "Version"]}
    for name in CANARY:
        of_all_versions = ("all_bad", "all_requests")
        ids = {m["Id"]: m for m in template.alarms()[name].get("Metrics", ())}
        for compared in of_all_versions if "all_bad" in ids else ():
            metric = ids.pop(compared)["MetricStat"]["Metric"]
            assert dimensions(metric) == {"service": "diabetes-dev"}
        alone = {"Metrics": [*ids.values()]} if ids else template.alarms()[name]
        for metric in metrics(alone):
            found = dimensions(metric)
            if metric["Namespace"] == "AWS/Lambda":
                assert found == {
                    "FunctionName": {"Ref": function},
                    "Resource": {"Fn::Join": ["", [{"Ref": function}, ":live"]]},
                    "ExecutedVersion": number,
                }
            else:
                assert metric["Namespace"] == "Answerable"
                assert found == {"service": "diabetes-dev", "version": number}


def test_client_errors_are_the_function_s_own(template: Template) -> None:
    """A scanner without credentials gets the gateway's 403s, and rings no alarm."""
    (version,) = template.all("AWS::Lambda::Version")
    for metric in metrics(template.alarms()["clienterrors"]):
        assert metric["Namespace"] == "Answerable"
        number = {"Fn::GetAtt": [version, "Version"]}
        assert dimensions(metric) == {"service": "diabetes-dev", "version": number}


def test_a_new_version_gets_new_alarms(template: Template) -> None:
    """An alarm's name is its identity: the number in it keeps old ALARM states from the new one."""
    (version,) = template.all("AWS::Lambda::Version")
    for name in CANARY:
        assert {"Fn::GetAtt": [version, "Version"]} in template.alarms()[name]["AlarmName"][
            "Fn::Join"
        ][1]


def test_callers_are_measured_at_the_gateway(template: Template) -> None:
    for name in SERVICE - {"throttles", "clienterrors"}:
        for metric in metrics(template.alarms()[name]):
            assert metric["Namespace"] == "AWS/ApiGateway"
            assert dimensions(metric) == {"ApiName": "diabetes-dev", "Stage": "dev"}


@pytest.mark.parametrize(
    ("name", "bad", "requests", "expected"),
    [
        # a lone fault wakes nobody, two in five minutes do, if traffic is low
        ("availability", 1, 3, False),
        ("availability", 2, 3, True),
        ("availability", 2, 1_000, False),
        ("availability", 20, 1_000, True),
        # the trickle: two faults in six hours of ten requests
        ("availabilityslow", 2, 10, True),
        ("availabilityslow", 0, 0, False),
        ("availabilityslow", 5, 1_000, False),
        # a client that sends nonsense, beside a contract that fits nobody
        ("clienterrors", 10, 10, False),
        ("clienterrors", 30, 100, True),
        ("clienterrors", 30, 1_000, False),
        # the new version: four faults of a bake are enough, if the old version has none
        ("Canarycanaryservererrors", 3, 5, False),
        ("Canarycanaryservererrors", 4, 5, True),
        ("Canarycanaryservererrors", 0, 0, False),
        ("Canarycanaryservererrors", 10, 1_000, False),
        ("Canarycanaryservererrors", 20, 1_000, True),
        ("Canarycanarycrashes", 1, 1, True),
        ("Canarycanarycrashes", 0, 100, False),
        ("Canarycanaryclienterrors", 5, 5, False),
        ("Canarycanaryclienterrors", 6, 6, True),
        ("Canarycanaryclienterrors", 6, 100, False),
    ],
)
def test_what_breaches(
    template: Template, name: str, bad: float, requests: float, expected: bool
) -> None:
    assert (ALARMS.availability, ALARMS.client_error_max_percent) == (99.9, 20)
    assert breaches(template.alarms()[name], bad, requests) == expected


@pytest.mark.fault(
    "A caller sends requests that fail in both versions while a new one is a canary",
    "The chance that they roll it back is under 0.5 %, however many; its own errors still do",
)
@pytest.mark.parametrize("name", ["Canarycanaryservererrors", "Canarycanaryclienterrors"])
def test_a_caller_does_not_roll_a_release_back(template: Template, name: str) -> None:
    alarm = template.alarms()[name]
    for sent in (1, 2, 3, 5, 8, 13, 20, 30, 50, 100, 1000):
        for others in (0, 100, 10_000):  # that succeed, a tenth of them in the new version
            new = others // 10
            chance = sum(
                binom.pmf(bad, sent, 0.1)
                for bad in range(sent + 1)
                if breaches(alarm, bad, new + bad, (sent - bad, others - new + sent - bad))
            )
            assert chance < 0.002, (sent, others)
    # the alarm is evaluated after each of 100 requests that fail, beside so many that succeed
    chance, going_on = 0.0, {0: 1.0}
    for sent in range(1, 101):
        after: dict[int, float] = {}
        for failed, likelihood in going_on.items():
            for bad, share in ((failed + 1, 0.1), (failed, 0.9)):
                old = (sent - bad, 9_000 + sent - bad)
                if breaches(alarm, bad, 1_000 + bad, old):
                    chance += likelihood * share
                else:
                    after[bad] = after.get(bad, 0) + likelihood * share
        going_on = after
    assert chance < 0.005
    # a new version that fails for a third of the requests, beside an old one for a hundredth
    assert breaches(alarm, 35, 100, (9, 900))


def test_one_bad_minute_stays_visible_for_the_whole_bake(synth: Synth) -> None:
    alarms = synth.template("bake_minutes=15").alarms()
    crashes = alarms["Canarycanarycrashes"]
    assert (crashes["EvaluationPeriods"], crashes["DatapointsToAlarm"]) == (15, 1)
    for name in ("Canarycanaryservererrors", "Canarycanaryclienterrors"):
        periods = {m["MetricStat"]["Period"] for m in alarms[name]["Metrics"] if "MetricStat" in m}
        assert (alarms[name]["EvaluationPeriods"], periods) == (1, {15 * 60})


def test_an_alarm_is_within_cloudwatch_s_limits(synth: Synth) -> None:
    for template in (synth.template("bake_minutes=2880"), synth.template()):
        for alarm in template.alarms().values():
            period = alarm.get("Period") or max(
                m["MetricStat"]["Period"] for m in alarm["Metrics"] if "MetricStat" in m
            )
            assert period * alarm["EvaluationPeriods"] <= 86_400
            assert len(metrics(alarm)) <= 10
            assert len(json.dumps(alarm["AlarmDescription"])) <= 1024


def test_thresholds_are_the_manifest_s(template: Template) -> None:
    alarms = template.alarms()
    assert alarms["latency"]["Threshold"] == alarms["Canarycanarylatency"]["Threshold"]
    assert alarms["latency"]["Threshold"] == ALARMS.latency_ms
    allowance = f"{FAST_BURN * (1 - ALARMS.availability / 100):.6g}"
    assert allowance in json.dumps(alarms["Canarycanaryservererrors"])
