"""`answerable new` and `answerable upgrade`: a user's project."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from answerable.__main__ import main
from handler import __version__
from infra import settings
from tests.fixtures.artifact import DIABETES

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "churn"]) == 0
    capsys.readouterr()
    monkeypatch.chdir(tmp_path / "churn")
    return tmp_path / "churn"


def test_new_writes_a_project_that_pins_answerable(project: Path) -> None:
    files = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    assert files == {
        ".github/workflows/release.yml",
        ".gitignore",
        "README.md",
        "cdk.json",
        "deploy.toml",
        "model_artifacts/.gitkeep",
        "requirements.txt",
    }
    assert f"answerable[serve,deploy]=={__version__}\n" in Path("requirements.txt").read_text()
    assert settings.stages() == ["dev", "prod"]
    assert json.loads(Path("cdk.json").read_text())["app"] == "python -m answerable.app"
    text = "".join((project / file).read_text() for file in files)
    assert not re.search("MODEL_NAME|ANSWERABLE_VERSION", text)
    workflow = yaml.safe_load(Path(".github/workflows/release.yml").read_text())
    assert workflow["env"] == {"MODEL": "churn"}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("churn", "new: churn/ is there already; it is left alone"),
        ("My_Model", "new: NAME takes lower-case letters, digits and hyphens, as in credit-risk"),
        ("../x", "new: NAME takes lower-case letters, digits and hyphens, as in credit-risk"),
    ],
)
def test_new_refuses_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, name: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("churn").mkdir()
    Path("churn/thesis.tex").write_text("precious")
    assert main(["new", name]) == 2
    assert capsys.readouterr().err == f"{problem}\n"
    assert [path.name for path in tmp_path.rglob("*")] == ["churn", "thesis.tex"]


def test_upgrade_of_a_new_project_has_nothing_to_say(project: Path, capsys: Capture) -> None:
    assert main(["upgrade"]) == 0
    assert capsys.readouterr().out == (
        f"requirements.txt pins {__version__}; {__version__} is installed.\n"
        "Nothing in this folder has to change.\n"
    )


def test_upgrade_lists_files_settings_and_models(project: Path, capsys: Capture) -> None:
    pin = Path("requirements.txt").read_text().replace(__version__, "0.0.9")
    Path("requirements.txt").write_text(pin)
    Path("deploy.toml").write_text("[stage.dev]\nmemroy = 512\n[stage.prod]\n")
    Path(".gitignore").write_text("mine\n")
    shutil.copytree(DIABETES, "model_artifacts/diabetes")
    Path("model_artifacts/churn").mkdir()
    Path("model_artifacts/churn/manifest.json").write_text('{"format": 1}')
    assert main(["upgrade"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"requirements.txt pins 0.0.9; {__version__} is installed."
    assert "The image gets a new handler: the next deployment of each model is a release." in lines
    assert any(line.startswith("deploy.toml, stage dev, model diabetes: ") for line in lines)
    assert any(line.startswith("model_artifacts/churn: pack it again (") for line in lines)
    assert "--- .gitignore" in lines
    assert "-mine" in lines
    assert "+.venv/" in lines
    assert not any("cdk.json" in line for line in lines)


def test_upgrade_outside_a_project_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["upgrade"]) == 2
    assert capsys.readouterr().err == "upgrade: requirements.txt pins no version of answerable\n"
