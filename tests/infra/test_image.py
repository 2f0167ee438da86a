"""The image as an asset: what goes in, what makes it a new one, and what its labels say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from handler import manifest
from infra import image
from tests.fixtures.artifact import DIABETES, PROJECT
from tests.infra.conftest import ROOT, Synth, Template


def asset(template: Template) -> tuple[str, dict[str, Any]]:
    """The hash and the source of the only image among the assets."""
    (path,) = template.path.parent.glob("*.assets.json")
    ((key, found),) = json.loads(path.read_text())["dockerImages"].items()
    return key, found["source"]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout to change, and a project: where the app takes the image from."""
    for name in image.FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "handler", tmp_path / "handler")
    shutil.copytree(PROJECT / "model_artifacts", tmp_path / "model_artifacts")
    monkeypatch.setattr(image, "SOURCE", tmp_path)
    return tmp_path


def test_it_holds_what_the_dockerfile_copies(template: Template) -> None:
    _, source = asset(template)
    folder = template.path.parent / source["directory"]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"Dockerfile", "requirements/function.txt", "handler/app.py"} <= files
    assert "model/manifest.json" in files
    others = {name for name in files if not name.startswith(("handler/", "model/"))}
    assert others == {*image.FILES}
    assert not [name for name in files if name.endswith(".pyc")]


def test_the_build_arguments_have_the_labels_values(synth: Synth) -> None:
    _, source = asset(synth.template("base_image=example/base:1", "architecture=arm64"))
    found = manifest.read(DIABETES)
    arguments = source["dockerBuildArgs"]
    assert arguments["MODEL"] == "diabetes"
    assert arguments["MODEL_VERSION"] == found.version
    assert arguments["MODEL_SHA256"] == found.files["model.onnx"].sha256
    assert arguments["BASE_IMAGE"] == "example/base:1"
    assert arguments["GIT_COMMIT"]
    assert source["platform"] == "linux/arm64"


@pytest.mark.parametrize(
    ("changed", "is_new"),
    [
        ("README.md", False),
        ("model_artifacts/other/manifest.json", False),
        ("tests/test_it.py", False),
        ("handler/new.py", True),
        ("model_artifacts/diabetes/golden.jsonl", True),
        ("requirements/function.txt", True),
        ("infra/strip_packages.py", True),
        ("Dockerfile", True),
    ],
)
def test_what_makes_a_new_image(synth: Synth, tree: Path, changed: str, is_new: bool) -> None:
    hashes = []
    for _ in range(2):
        assembly = synth.app("model=diabetes", project=tree).synth()
        (path,) = Path(assembly.directory).glob("*.template.json")
        hashes.append(asset(Template(path))[0])
        (tree / changed).parent.mkdir(parents=True, exist_ok=True)
        (tree / changed).write_text("changed")
    assert (hashes[0] != hashes[1]) == is_new


def test_a_commit_alone_does_not(
    synth: Synth, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "_commit", lambda: "f" * 40)
    assembly = synth.app().synth()
    (path,) = Path(assembly.directory).glob("*.template.json")
    again, source = asset(Template(path))
    assert source["dockerBuildArgs"]["GIT_COMMIT"] == "f" * 40
    assert again == asset(template)[0]


def test_a_base_image_named_by_tag_is_reported(synth: Synth) -> None:
    pinned = f"base_image=example/base@sha256:{'0' * 64}"
    for settings, told in (
        ((), True),
        ((pinned,), False),
        (("image_repository=r", "image_tag=t"), False),
    ):
        directory = Path(synth.app(*settings).synth().directory)
        text = "".join(path.read_text() for path in directory.glob("*.json"))
        assert ("is a tag, which moves" in text) == told


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, set()),
        ({"tokenizer": {}}, {"text.txt"}),
        ({"image": {"size": [8, 8]}}, {"images.txt"}),
    ],
)
def test_only_a_model_that_needs_them_gets_more_requirements(
    tmp_path: Path, fields: dict[str, Any], names: set[str]
) -> None:
    shutil.copytree(DIABETES, tmp_path / "model")
    path = tmp_path / "model/manifest.json"
    document = json.loads(path.read_text())
    document["features"][0] |= fields
    if names == {"text.txt"}:
        document["opset"]["ai.onnx.contrib"] = 1
        names = {*names, "extensions.txt"}
    path.write_text(json.dumps(document))
    (tmp_path / "model/manifest.sha256").unlink()
    with image.build_context(tmp_path / "model") as context:
        found = {file.name for file in (context / "requirements").iterdir()}
    assert found == {"function.txt", *names}
