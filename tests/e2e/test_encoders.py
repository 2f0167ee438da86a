"""A picture and a sentence, through API, alias and container, to models that were just packed."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from infra.image import size
from tests.e2e import emulator
from tests.e2e.conftest import Images
from tests.e2e.emulator import ACCOUNT, REGION, Reply, Tools
from tests.e2e.test_deploy import Cloud, account


@pytest.fixture(scope="module")
def tree(answerable: Tools, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is deployed: a copy of the project with the examples, trained, packed, and as images."""
    tree = emulator.tree(tmp_path_factory.mktemp("examples"))
    shutil.rmtree(tree / "model_artifacts")
    environment = emulator.environment(DOCKER=answerable.docker, BASE_IMAGE=answerable.base)
    for name in emulator.EXAMPLES:
        emulator.pack_example(tree, name)
        build = [sys.executable, "-m", "answerable", "image", "--model", name]
        build += ["--tag", Images(tree, tree).name(name)]
        subprocess.run(build, cwd=tree, env=environment, check=True)
    return tree


@pytest.fixture(scope="module")
def cloud(
    answerable: Tools, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cloud]:
    with account(answerable, tmp_path_factory.mktemp("cloud")) as running:
        running.cdk("bootstrap", f"aws://{ACCOUNT}/{REGION}", "-c", "model=digits", tree=tree)
        yield running


def deploy(cloud: Cloud, tree: Path, name: str) -> dict[str, str]:
    """Deploy a model's image and return the outputs of its stack."""
    settings = [f"model={name}", "stage=test", "rollout=all-at-once"]
    settings += ["image_repository=answerable", f"image_tag={name}"]
    context = [word for setting in settings for word in ("-c", setting)]
    files = ["--output", str(tree / "cdk.out"), "--outputs-file", str(cloud.outputs)]
    app = ["--app", "python -m tests.e2e.app", "--require-approval", "never"]
    cloud.cdk("deploy", *app, *context, *files, tree=tree)
    outputs: dict[str, str] = json.loads(cloud.outputs.read_text())[f"answerable-{name}-test"]
    return outputs


def predict(cloud: Cloud, outputs: dict[str, str], body: bytes, content_type: str) -> Reply:
    headers = {"content-type": content_type}
    return cloud.call(outputs, "POST", "/predict", body=body, headers=headers)


def test_a_jpeg_is_answered_behind_the_api(cloud: Cloud, tree: Path) -> None:
    outputs = deploy(cloud, tree, "digits")
    for path in sorted((tree / "build/digits/pictures").iterdir())[:5]:
        file = io.BytesIO()
        Image.open(path).resize((64, 64), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
        for body, kind in ((file.getvalue(), "image/jpeg"), (path.read_bytes(), "image/png")):
            reply = predict(cloud, outputs, body, kind)
            assert reply.status == 200, reply
            assert reply.json()["predictions"][0]["digit"] == int(path.stem[-1])
    reply = predict(cloud, outputs, file.getvalue()[:200], "image/jpeg")
    assert reply.status == 422, reply
    assert reply.json()["errors"][0]["code"] == "picture"


def test_a_sentence_is_answered_behind_the_api(cloud: Cloud, tree: Path) -> None:
    outputs = deploy(cloud, tree, "docstrings")
    document: Any = {"instances": [{"sentence": "Fit the gradient boosting model."}]}
    reply = predict(cloud, outputs, json.dumps(document).encode(), "application/json")
    assert reply.status == 200, reply
    assert reply.json()["predictions"][0]["library"] == "scikit-learn"


def test_only_the_models_that_need_them_have_the_libraries(
    answerable: Tools, images: Images, tree: Path
) -> None:
    sizes = {}
    for tag in ("first", *emulator.EXAMPLES):
        image = images.name(tag)
        show = [answerable.docker, "run", "--rm", "--entrypoint", "ls", image, "/var/task"]
        files = set(subprocess.run(show, capture_output=True, text=True, check=True).stdout.split())
        assert ("PIL" in files, "tokenizers" in files) == (tag == "digits", tag == "docstrings")
        sizes[tag] = size(answerable.docker, image, answerable.base)
    assert sizes["digits"] - sizes["first"] < 8e6
    assert sizes["docstrings"] - sizes["first"] < 8e6
