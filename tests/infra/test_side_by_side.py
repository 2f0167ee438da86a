"""Models and stages side by side in one account and region: nothing of one is another's."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import settings
from infra.settings import SettingsError
from tests.fixtures import artifact
from tests.infra.conftest import EVERYTHING, Synth, Template

# names that go on like the alarms of another: v2-latency, canary-latency
MODELS = ("churn", "churn-v2", "churn-canary")
STAGES = ("dev", "prod")
OPTIONS = "alarm_destination=slack:T0/C0", "auto_rollback_on=impact", "prediction_id_key_version=2"
# names within another resource, names that only refer to one, and names that may be equal
SHARED = {
    ("AWS::ApiGateway::Stage", "StageName"),
    ("AWS::Lambda::Alias", "Name"),
    ("AWS::IAM::Policy", "PolicyName"),
    ("AWS::SNS::Topic", "DisplayName"),
    ("AWS::CloudWatch::Alarm", "MetricName"),
}


@pytest.fixture(scope="module")
def templates(
    synth: Synth, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Template]:
    project = tmp_path_factory.mktemp("project")
    for model in MODELS:
        artifact.echo(
            project / "model_artifacts" / model,
            name=model,
            alarms={"min_daily_impact": 1, "max_days_without_outcomes": 3},
            outcome_value={"unit": "EUR", "value": 1, "cost": 1},
        )
    made = {}
    for model, stage in itertools.product(MODELS, STAGES):
        chosen = (*EVERYTHING, *OPTIONS, f"model={model}", f"stage={stage}")
        folder = Path(synth.app(*chosen, project=project).synth().directory)
        made[model, stage] = Template(next(folder.glob("*.template.json")))
    return made


def spellings(value: Any, stack: str) -> Iterator[str]:
    """Yield the texts that a value of a template can have; a version is any small number."""
    if isinstance(value, str):
        yield value
    elif "Fn::Join" in value:
        separator, items = value["Fn::Join"]
        for texts in itertools.product(*(list(spellings(item, stack)) for item in items)):
            yield separator.join(texts)
    elif value.get("Fn::GetAtt", ["", ""])[1] == "Version":
        yield from "12"
    elif "Ref" in value and value["Ref"].startswith("AWS::"):
        yield value["Ref"]
    else:  # of this stack's own resource
        yield f"<{stack} {json.dumps(value)}>"


def names(template: Template, stack: str) -> Iterator[tuple[str, str, str]]:
    """Yield type, property and text of each physical name, parameter and export."""
    for item in template.body["Resources"].values():
        for key, value in item.get("Properties", {}).items():
            kind = item["Type"]
            if key.endswith(("Name", "Parameter")) and (kind, key) not in SHARED:
                yield from ((kind, key, text) for text in spellings(value, stack))
    for output in template.body["Outputs"].values():
        if "Export" in output:
            yield from (("", "Export", t) for t in spellings(output["Export"]["Name"], stack))


def services(template: Template) -> set[str]:
    """Return the `service` of what the functions write."""
    functions = template.all("AWS::Lambda::Function").values()
    variables = (
        item["Properties"].get("Environment", {}).get("Variables", {}) for item in functions
    )
    return {values["SERVICE_NAME"] for values in variables if "SERVICE_NAME" in values}


def series(template: Template, stack: str) -> Iterator[tuple[str, ...]]:
    """Yield namespace, name and dimensions of each metric that an alarm reads."""
    for alarm in template.alarms().values():
        stats = [q["MetricStat"]["Metric"] for q in alarm.get("Metrics", ()) if "MetricStat" in q]
        for metric in stats or [alarm]:
            pairs = [
                [f"{d['Name']}={text}" for text in spellings(d["Value"], stack)]
                for d in metric["Dimensions"]
            ]
            for dimensions in itertools.product(*pairs):
                yield metric["Namespace"], metric["MetricName"], *sorted(dimensions)


def test_no_name_and_no_metric_of_two_stacks_is_equal(
    templates: dict[tuple[str, str], Template],
) -> None:
    seen: dict[tuple[str, ...], tuple[str, str]] = {}
    for deployment, template in templates.items():
        stack = "answerable-" + "-".join(deployment)
        assert template.path.name == f"{stack}.template.json"
        own = {("stack", stack), *names(template, stack), *series(template, stack)}
        own |= {("service", name) for name in services(template)}
        assert {"AlarmName", "DashboardName", "StateMachineName", "FunctionName"} <= {
            item[1] for item in own if len(item) == 3
        }
        assert {"Answerable", "AWS/Lambda", "AWS/ApiGateway", "AWS/SQS"} <= {i[0] for i in own}
        taken = {item: seen[item] for item in own if item in seen}
        assert not taken, "\n".join(map(str, taken))
        seen |= dict.fromkeys(own, deployment)


def test_alarms_read_what_functions_of_their_stack_write(
    templates: dict[tuple[str, str], Template],
) -> None:
    for template in templates.values():
        read = {
            part.removeprefix("service=")
            for namespace, _, *dimensions in series(template, "own")
            for part in dimensions
            if namespace == "Answerable" and part.startswith("service=")
        }
        assert read == services(template)


def test_stacks_share_the_bootstrap_and_import_nothing(
    templates: dict[tuple[str, str], Template],
) -> None:
    for template in templates.values():
        assert "Fn::ImportValue" not in json.dumps(template.body)
        assert set(template.body["Parameters"]) == {"BootstrapVersion"}


@pytest.mark.parametrize("stage", ["eu-dev", "jobs", "batch"])
def test_a_stage_that_reads_as_part_of_another_name_is_refused(stage: str) -> None:
    """Stage eu-dev of churn and stage dev of churn-eu would be one stack."""
    with pytest.raises(SettingsError, match="stage: "):
        settings.read({"stage": stage}, file=Path("none"))
