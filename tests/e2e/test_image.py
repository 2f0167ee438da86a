"""The image by itself: what is in it, and how it stands Lambda's surroundings."""

import json
import subprocess

import pytest

from handler import manifest
from infra.image import size
from tests.e2e.conftest import NEXT, Images
from tests.e2e.emulator import Container, Tools, container
from tests.fixtures import expected_answers
from tests.fixtures.artifact import DIABETES

MODEL = DIABETES


def inside(answerable: Tools, images: Images, script: str) -> str:
    run = [answerable.docker, "run", "--rm", "--user", "993:990", "--entrypoint", "sh"]
    command = [*run, images.name("first"), "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_labels_say_which_model_and_commit(answerable: Tools, images: Images) -> None:
    for tag, version in (("first", manifest.read(MODEL).version), ("second", NEXT)):
        show = [answerable.docker, "image", "inspect", "--format", "{{json .Config.Labels}}"]
        run = subprocess.run([*show, images.name(tag)], capture_output=True, check=True)
        labels = json.loads(run.stdout)
        assert labels["answerable.model.name"] == "diabetes"
        assert labels["answerable.model.version"] == version
        assert labels["answerable.model.sha256"] == manifest.read(MODEL).files["model.onnx"].sha256
        assert labels["org.opencontainers.image.revision"]


def test_everything_is_compiled_and_nothing_can_be_written(
    answerable: Tools, images: Images
) -> None:
    sources = inside(answerable, images, "find /var/task -name '*.py' | wc -l")
    compiled = inside(answerable, images, "find /var/task -name '*.pyc' | wc -l")
    assert int(sources) == int(compiled) > 100
    script = "find /var/task -writable -o ! -user root -o -type f -perm /222"
    assert inside(answerable, images, script) == ""


def test_the_image_holds_no_more_than_it_needs(answerable: Tools, images: Images) -> None:
    found = inside(answerable, images, "cd /var/task; ls . model_artifacts handler").split()
    assert "function.py" in found
    assert not {"tests", "answerable", "infra", "events", "boto3", "onnx", "requirements"} & set(
        found
    )
    assert 10e6 < size(answerable.docker, images.name("first"), answerable.base) < 45e6


def test_telemetry_is_off(answerable: Tools, images: Images) -> None:
    script = "HOME=/tmp python3 -c 'import onnxruntime'; find /tmp -type f"
    assert inside(answerable, images, script) == ""


@pytest.mark.fault(
    "A read-only root, another user, 512 MB: Lambda's own surroundings",
    "Every event gets its stated answer",
)
@pytest.mark.parametrize("name", expected_answers.names("good") + expected_answers.names("bad"))
def test_an_event_gets_its_answer(function: Container, name: str) -> None:
    expected_answers.check(name, function.invoke(expected_answers.event(name)))


@pytest.mark.fault(
    "192 MB, and a user that nobody knows",
    "The same answer",
)
def test_another_user_and_less_memory(answerable: Tools, images: Images) -> None:
    options = ["--read-only", "--tmpfs", "/tmp", "--user", "1234:1234"]
    options += ["--memory", "192m", "--memory-swap", "192m"]
    with container(answerable.docker, images.name("first"), *options) as running:
        name = "good/rest-one-row"
        expected_answers.check(name, running.invoke(expected_answers.event(name)))


def test_the_container_logs_one_line_per_request_and_no_warning(function: Container) -> None:
    before = len(function.logs().splitlines())
    function.invoke(expected_answers.event("good/rest-one-row"))
    lines = function.logs().splitlines()[before:]
    records = [json.loads(line) for line in lines if line.startswith("{")]
    assert [record["status"] for record in records] == [200]
    assert "warn" not in "".join(lines).lower()


def test_the_bill_of_materials_is_of_what_is_in_it(images: Images) -> None:
    version = manifest.read(MODEL).version
    path = images.first / f"build/sbom-diabetes-{version}.cdx.json"  # not that with Parquet
    parts = json.loads(path.read_text())["components"]
    names = {part["name"] for part in parts if part["type"] == "library"}
    assert names >= {"numpy", "onnxruntime", "orjson"}
    assert not names & {"sympy", "protobuf", "flatbuffers"}  # which the Dockerfile takes out
