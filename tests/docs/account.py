"""docs/reference/account.md: what a stack puts into an account, read from its template."""

import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from answerable.commands import cost
from answerable.commands.cost import Month
from handler import manifest
from infra.alarms import POLICIES
from tests.fixtures.artifact import DIABETES
from tests.fixtures.server import ROOT
from tests.infra.conftest import Synth

PAGE = ROOT / "docs/reference/account.md"
ALARM = "AWS::CloudWatch::Alarm"
HASHES = r"[0-9A-F]{8}([0-9a-f]{32})?$"
MISSING = {
    "notBreaching": "OK",
    "ignore": "keeps the state",
    "missing": "notifies, but not before the first data",
}
OPTIONS: dict[str, Any] = {"jobs": True, "archive": True}


def files() -> dict[Path, str]:
    """Return the page."""
    with tempfile.TemporaryDirectory() as directory:
        return {PAGE: page(Synth(Path(directory)))}


def page(synth: Synth) -> str:
    """Return the page's text."""
    templates = [synth.template().body["Resources"], synth.everything().body["Resources"]]
    lines = [
        "# What will be in your account, what it costs, what it may do",
        "",
        "<!-- written by `python -m tests.docs account` -->",
        "",
        "Read from the template of the example: with the default settings, and with `jobs`,",
        "`archive` and `batch`, and limits of outcomes in the contract file.",
        "",
        *_resources(*templates),
        "",
        *_alarms(templates[1]),
        "",
        *_permissions(templates[1]),
        "",
        *_costs(),
    ]
    return "\n".join(lines) + "\n"


def _resources(default: dict[str, Any], everything: dict[str, Any]) -> Iterator[str]:
    yield "## Resources"
    yield ""
    yield "`answerable destroy` leaves what the last column counts."
    yield ""
    yield "| type | default | everything on | stay |"
    yield "|---|---:|---:|---:|"
    counts = [Counter(item["Type"] for item in items.values()) for items in (default, everything)]
    stay = Counter(
        item["Type"]
        for item in everything.values()
        if item.get("DeletionPolicy", "").startswith("Retain")
        and item["Type"] != "AWS::Lambda::Version"  # deleted with its function
    )
    for kind in sorted(counts[0] | counts[1]):
        row = (
            f"`{kind.removeprefix('AWS::')}`",
            counts[0][kind],
            counts[1][kind],
            stay[kind] or "",
        )
        yield f"| {' | '.join(map(str, row))} |"


def _alarms(resources: dict[str, Any]) -> Iterator[str]:
    yield "## Alarms"
    yield ""
    yield "A name begins with stage and model: `prod-churn-latency`. A canary's ends with its"
    yield "version. A `page` goes to `alarm_destination`, a `ticket` to `ticket_destination`, else"
    yield "to `alarm_destination`. CodeDeploy acts on a canary's alarms. The drift monitor itself"
    yield "sends the message of `drift-inputs`, `drift-outputs` and `drift-unseen`."
    yield ""
    yield "| alarm | what it says | notifies | a period without data |"
    yield "|---|---|---|---|"
    for alarm in sorted(
        (item["Properties"] for item in resources.values() if item["Type"] == ALARM),
        key=_section,
    ):
        name, policy = _section(alarm), POLICIES[_section(alarm)]
        text = _text(alarm["AlarmDescription"].partition("\n")[0])  # then owner and runbook
        missing = f"{MISSING[alarm['TreatMissingData']]}. {policy.reason}"
        yield f"| `{name}` | {text} | {policy.severity} | {missing} |"


def _section(alarm: dict[str, Any]) -> str:
    """Return an alarm's name without stage, model and version: its section of the runbook."""
    return str(alarm["AlarmDescription"].rpartition("#")[2])


def _permissions(resources: dict[str, Any]) -> Iterator[str]:
    yield "## Permissions"
    yield ""
    yield "What each role may do, by the resources' names in the template; `*` is any name."
    for name, role in sorted(resources.items()):
        if role["Type"] != "AWS::IAM::Role":
            continue
        services = sorted(
            {
                service
                for statement in role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
                for service in _list(statement["Principal"].get("Service"))
                if isinstance(service, str)
            }
        )
        yield ""
        yield f"**{name[:-8]}**, assumed by {', '.join(f'`{s}`' for s in services)}"
        yield ""
        policies = [
            statement
            for item in resources.values()
            if item["Type"] == "AWS::IAM::Policy" and {"Ref": name} in item["Properties"]["Roles"]
            for statement in item["Properties"]["PolicyDocument"]["Statement"]
        ]
        for policy in role["Properties"].get("Policies", []):
            policies += policy["PolicyDocument"]["Statement"]
        for managed in role["Properties"].get("ManagedPolicyArns", []):
            yield f"- the managed policy `{_text(managed).rpartition('/')[2]}`"
        for statement in policies:
            actions = ", ".join(f"`{action}`" for action in _list(statement["Action"]))
            targets = ", ".join(f"`{_resource(item)}`" for item in _list(statement["Resource"]))
            condition = ", under a condition" if "Condition" in statement else ""
            yield f"- {actions} on {targets}{condition}"


def _resource(value: Any) -> str:
    """Return a resource of a policy by its logical id, without partition, region and account."""
    if isinstance(value, str):
        return value
    if "Fn::Join" in value:
        text = "".join(map(_resource, value["Fn::Join"][1]))
        for name in ("Partition", "Region", "AccountId"):
            text = text.replace(f"<AWS::{name}>", "")
        return re.sub(r"^arn::[a-z0-9]+::+", "", text)
    if "Fn::Select" in value:  # of the parts of an ARN
        return _resource(value["Fn::Select"][1]["Fn::Split"][1])
    name = value.get("Ref") or value["Fn::GetAtt"][0]
    # without CDK's hashes; a version has one of its content too
    return f"<{name}>" if name.startswith("AWS::") else re.sub(HASHES, "", name)


def _costs() -> Iterator[str]:
    yield "## Cost of an idle month"
    yield ""
    yield "In US dollars, in us-east-1. `answerable cost` has the prices and counts your traffic."
    yield ""
    yield "| | default | with `jobs` and `archive` |"
    yield "|---|---:|---:|"
    facts: dict[str, Any] = dict(cost.of_model(manifest.read(DIABETES)))
    bills: list[defaultdict[str, float]] = []
    for month in (Month(**facts), Month(**facts, **OPTIONS)):
        bills.append(defaultdict(float))
        for item in cost.bill(month):
            bills[-1][item.group] += item.dollars
    for group in bills[1]:
        yield f"| {group} | {bills[0][group]:.2f} | {bills[1][group]:.2f} |"
    yield f"| **total** | {sum(bills[0].values()):.2f} | {sum(bills[1].values()):.2f} |"
    for endpoint in cost.ENDPOINTS:
        busy = {**facts, "requests": 1_000_000, "endpoint": endpoint}
        sums = [
            sum(item.dollars for item in cost.bill(Month(**busy, **more))) for more in ({}, OPTIONS)
        ]
        name = f'total with a million requests, `endpoint = "{endpoint}"`'
        yield f"| {name} | {sums[0]:.2f} | {sums[1]:.2f} |"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _text(value: Any) -> str:
    """Return a string of a template, with `…` for what CloudFormation fills in."""
    if isinstance(value, str):
        return value.replace("|", "/").replace("\n", " ")
    if isinstance(value, dict) and "Fn::Join" in value:
        return "".join(map(_text, value["Fn::Join"][1]))
    return "…" if isinstance(value, dict) else json.dumps(value)
