"""Releases under a CodeDeploy that refuses, with the image answering as the deployed versions.

tests/fixtures/emulated_aws.py is the account. Each version of the API, and each start of the
worker, is a container of that version's image, under the environment of the template. The hooks and
the jobs, whose bucket is in memory, run in this process; test_release.py and test_jobs.py have them
in containers.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from answerable.packing import artifact as packed
from handler import manifest as manifests
from handler.manifest import MODEL_FILE_NAME
from tests.e2e import emulator
from tests.e2e.conftest import Images
from tests.e2e.emulator import Container, Tools
from tests.fixtures.emulated_aws import Account, Function
from tests.infra import test_releases as releases
from tests.infra.conftest import Synth, synth

__all__ = ["synth"]  # the fixture

API, WORKER = "handler.function.lambda_handler", "handler.jobs.function.lambda_handler"
RECORD_SECONDS = 10  # until an invocation's record is in the container's log


class ContainerAccount(Account):
    """An account whose versions are containers of `base` with another model."""

    def __init__(
        self, artifacts: dict[str, Path], docker: str, base: str, stack: ExitStack
    ) -> None:
        super().__init__(artifacts)
        self._docker, self._base, self._stack = docker, base, stack
        self._containers: dict[tuple[str, str], tuple[Container, Any]] = {}
        self._images: set[str] = set()

    def _run(self, function: Function, version: str, event: Any) -> Any:
        (entry_point,) = self._configuration(function, version)["ImageConfig"]["Command"]
        is_broken = bool(self.broken) and self.broken in function.name
        if is_broken or not (entry_point == API or (entry_point == WORKER and event == START)):
            return super()._run(function, version, event)
        running, log = self._container(function, version, entry_point)
        reply = running.invoke(event)
        if isinstance(reply, dict) and "errorType" in reply:
            raise RuntimeError(reply["errorType"])
        if entry_point == API:
            self._keep(_record(log))
        return reply

    def _container(self, function: Function, version: str, entry_point: str) -> tuple[Any, Any]:
        key = (function.name, version)
        if key not in self._containers:
            configuration = self._configuration(function, version)
            tag = configuration["Code"]["ImageUri"].rpartition(":")[2]
            environment = configuration["Environment"]["Variables"]
            options = [f"--env={name}={value}" for name, value in environment.items()]
            options.append(f"--env=AWS_LAMBDA_FUNCTION_VERSION={version}")
            running = self._stack.enter_context(
                emulator.container(
                    self._docker,
                    self._image(tag),
                    *emulator.AS_IN_LAMBDA,
                    *options,
                    command=entry_point,
                )
            )
            command = [self._docker, "logs", "--follow", running.name]
            log = self._stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            )
            self._stack.callback(log.kill)
            self._containers[key] = running, log.stdout
        return self._containers[key]

    def _image(self, tag: str) -> str:
        """Build the image of a model on top of the base, once."""
        name = f"answerable-releases:{tag}"
        if tag not in self._images:
            lines = f"FROM {self._base}\nCOPY . /var/task/model_artifacts/diabetes\n"
            command = [self._docker, "build", "--quiet", "--tag", name, "--file", "-"]
            context = str(self.artifacts[tag])
            subprocess.run([*command, context], input=lines.encode(), check=True)
            self._images.add(tag)
        return name


START: dict[str, Any] = {"Records": []}  # what tests whether a worker starts


def _record(log: Any) -> str:
    """Return the record of an invocation: the next line of the log that is one."""
    end = time.monotonic() + RECORD_SECONDS
    while time.monotonic() < end:
        line: str = log.readline().decode()
        if line.startswith("{") and json.loads(line).get("message") == "request":
            return line
    raise RuntimeError("an invocation has no record")


def crash(directory: Path) -> None:
    """Change a model: its run gives NaN for values that no golden row has."""
    fault = releases.crash().failing
    assert fault
    feature, low, high = fault
    path = directory / MODEL_FILE_NAME
    model = onnx.load(str(path))
    graph, (output,) = model.graph, model.graph.output
    for node in graph.node:
        node.output[:] = ["right" if name == output.name else name for name in node.output]
    numbers = {"low": low, "high": high, "nan": float("nan")}
    for name, value in numbers.items():
        graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [1], [value]))
    graph.node.extend(
        [
            helper.make_node("Greater", [feature.input, "low"], ["above"]),
            helper.make_node("Less", [feature.input, "high"], ["below"]),
            helper.make_node("And", ["above", "below"], ["fails"]),
            helper.make_node("Where", ["fails", "nan", "right"], [output.name]),
        ]
    )
    path.write_bytes(model.SerializeToString())
    manifest = manifests.read(directory)
    packed.write(directory, manifest._replace(files=packed.files(directory)))


@pytest.fixture
def play(
    synth: Synth,
    answerable: Tools,
    images: Images,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[releases.Play]:
    artifacts = releases.make_artifacts(tmp_path / "artifacts")
    crash(artifacts[releases.CRASHING])
    project = tmp_path / "project"
    project.mkdir()
    releases.enter_project(project, monkeypatch)
    with ExitStack() as stack:
        account = ContainerAccount(dict(artifacts), answerable.docker, images.name("first"), stack)
        yield releases.Play(synth, account, artifacts)


def test_a_model_s_life_in_containers(play: releases.Play) -> None:
    releases.test_a_model_s_life(play)
