"""`python -m benchmarks.image`: the real cold start, of images under Lambda's emulator.

Beside ours are the same model behind Mangum and FastAPI, a model with a text and one with a
picture. The peer's image comes from the same Dockerfile: same base, same locked versions, compiled
and stripped alike. Every round starts each image anew, in turns, with one CPU and 1769 MB as Lambda
gives. The emulator begins the init with the first call, so the first call has both; what the
emulator itself takes is in it, and in the second call too.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import Distribution, distribution
from pathlib import Path
from statistics import median
from typing import NamedTuple

from handler import manifest as manifests
from handler.release import golden
from infra.image import size
from tests.e2e import emulator
from tests.e2e.emulator import ROOT, Tools
from tests.fixtures import events, expected_answers
from tests.fixtures.artifact import DIABETES

PEER = "answerable:benchmark-peer"
TITLES = {
    "diabetes": "**Answerable**",
    "docstrings": "Answerable, a text with a tokenizer of 1,500 tokens",
    "digits": "Answerable, a picture",
}
FIGURES = ("init", "first call", "second call")
AS_IN_LAMBDA = ["--read-only", "--tmpfs=/tmp", "--user=993:990", "--memory=1769m", "--cpus=1"]
PEER_NEEDS = {"onnxruntime", "fastapi", "mangum"}
UNUSED = {"sympy", "protobuf", "flatbuffers"}


class Image(NamedTuple):
    """An image, and the folder of its model, whose first golden row is asked."""

    tag: str
    title: str
    model: Path


def build(answerable: Tools, project: Path) -> list[Image]:
    """Build the peer's image, and ours from a copy of the project."""
    emulator.tree(project)
    environment = emulator.environment(DOCKER=answerable.docker, BASE_IMAGE=answerable.base)
    build_peer(answerable, project / "build/peer", environment)
    images = [Image(PEER, "Mangum + FastAPI, no logs", DIABETES)]
    for name, title in TITLES.items():
        if name in emulator.EXAMPLES:
            emulator.pack_example(project, name)
        tag = f"answerable:benchmark-{name}"
        command = [sys.executable, "-m", "answerable", "image", "--model", name, "--tag", tag]
        subprocess.run(command, cwd=project, env=environment, check=True, stdout=sys.stderr)
        images.append(Image(tag, title, project / "model_artifacts" / name))
    return images


def build_peer(answerable: Tools, scratch: Path, environment: dict[str, str]) -> None:
    """Build the peer's image. Its code goes where the Dockerfile expects the handler."""
    (scratch / "infra").mkdir(parents=True)
    shutil.copy(ROOT / "Dockerfile", scratch)
    shutil.copy(ROOT / "infra/strip_packages.py", scratch / "infra")
    shutil.copytree(DIABETES, scratch / "model")
    peers = scratch / "handler/benchmarks/peers"
    peers.mkdir(parents=True)
    for name in ("benchmarks/__init__.py", "benchmarks/peers/__init__.py"):
        (scratch / "handler" / name).touch()
    for name in ("mangum_fastapi.py", "schema.py", "session.py"):
        shutil.copy(ROOT / "benchmarks/peers" / name, peers)
    (scratch / "requirements").mkdir()
    (scratch / "requirements/function.txt").write_text(locked(PEER_NEEDS))
    command = [answerable.docker, "build", "-q", "--tag", PEER]
    command += ["--build-arg", f"BASE_IMAGE={answerable.base}", str(scratch)]
    environment |= {"DOCKER_BUILDKIT": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr)


def locked(names: set[str]) -> str:
    """The part of requirements/dev.txt that these packages need at run time."""
    needed: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop().lower().replace("_", "-")
        if name in needed | UNUSED or not list(Distribution.discover(name=name)):
            continue  # the last: for another Python than this one
        needed.add(name)
        for requirement in distribution(name).requires or []:
            if "extra ==" not in requirement:
                queue += re.findall(r"^[\w.-]+", requirement)
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements/dev.txt").read_text())
    return "\n".join(block for block in blocks if block.partition("==")[0] in needed) + "\n"


def start(answerable: Tools, image: Image) -> list[float]:
    """Start a container; return the milliseconds of FIGURES."""
    threads = manifests.read(image.model).execution.intra_op_threads
    options = [*AS_IN_LAMBDA, f"--env=INTRA_OP_THREADS={threads}"]
    command = "handler.function.lambda_handler"
    if image.tag == PEER:
        options.append("--env=PYTHONPATH=/var/task/handler")
        command = "benchmarks.peers.mangum_fastapi.lambda_handler"
    row = golden.read(image.model)[0]
    event = events.rest(json.dumps({"instances": [row.instance]}))
    with emulator.container(answerable.docker, image.tag, *options, command=command) as running:
        time.sleep(0.3)  # the emulator and the container's own start are over
        calls = []
        for _ in range(2):
            before = time.perf_counter()
            answer = running.invoke(event)
            calls.append((time.perf_counter() - before) * 1000)
            (prediction,) = json.loads(answer["body"])["predictions"]
            prediction.pop("id", None)
            assert expected_answers.close(prediction, row.prediction), prediction
        (init,) = re.findall(r"INIT REPORT\(durationMs: ([\d.]+)\)", running.logs())
    return [float(init), *calls]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--old", metavar="TAG", help="an older image of the diabetes example")
    parser.add_argument("--markdown", type=Path, help="write the page here")
    args = parser.parse_args()
    answerable = emulator.prepare()
    with tempfile.TemporaryDirectory() as scratch:
        images = build(answerable, Path(scratch))
        if args.old:
            images.append(Image(args.old, f"Answerable, {args.old}", DIABETES))
        rounds = []
        for number in range(-1, args.rounds):  # round -1 reads the images from the disk
            in_turns = images[:: 1 if number % 2 else -1]
            figures = {image.tag: start(answerable, image) for image in in_turns}
            if number >= 0:
                rounds.append(figures)
    base = "a stand-in for AWS's base image" if answerable.stand_in else answerable.base
    lines = [
        "# The image's cold start\n\nWritten by `make bench-image`; the method is in the docstring "
        "of [image.py](image.py). Models without a text or a picture pay nothing for those.\n",
        f"{datetime.now(UTC):%Y-%m-%d}. Medians of {args.rounds} rounds in ms, one CPU of "
        f"{os.cpu_count()}, {base}. In brackets: times Mangum + FastAPI, the median of pairs.\n",
        "| image | init | first call, init included | second call | MB compressed over the base |",
        "|---|---:|---:|---:|---:|",
    ]
    for image in images:
        cells = []
        for index in range(len(FIGURES)):
            times = median(each[image.tag][index] / each[PEER][index] for each in rounds)
            milliseconds = median(each[image.tag][index] for each in rounds)
            cells.append(f"{milliseconds:.3g} ({times:.2f})")
        megabytes = size(answerable.docker, image.tag, answerable.base) / 1e6
        lines.append(f"| {image.title} | {' | '.join(cells)} | {megabytes:.1f} |")
    page = "\n".join(lines) + "\n"
    print(page)
    if args.markdown:
        args.markdown.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
