"""`python -m benchmarks.image`: the real cold start, of the image under Lambda's emulator.

Beside it the same model behind Mangum and FastAPI, in an image from the same Dockerfile: same base,
same locked versions, compiled and stripped alike. Every round starts each image anew, in turns,
with one CPU and 1769 MB as Lambda gives. The emulator begins the init with the first call, so the
first call has both; what the emulator itself takes is in it, and in the second call too.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import Distribution, distribution
from pathlib import Path

from handler import manifest as manifests
from tests.e2e import emulator
from tests.e2e.emulator import ROOT, Tools
from tests.fixtures import expected_answers
from tests.fixtures.artifact import DIABETES, PROJECT

OURS, PEER = "answerable:benchmark", "answerable:benchmark-peer"
ENTRY = {
    OURS: "handler.function.lambda_handler",
    PEER: "benchmarks.peers.mangum_fastapi.lambda_handler",
}
TITLES = {OURS: "**Answerable**, everything on", PEER: "Mangum + FastAPI, no logs"}
FIGURES = ("init", "first call", "second call")
AS_IN_LAMBDA = ["--read-only", "--tmpfs=/tmp", "--user=993:990", "--memory=1769m", "--cpus=1"]
PEER_NEEDS = {"onnxruntime", "fastapi", "mangum"}
UNUSED = {"sympy", "protobuf", "flatbuffers"}


def build(answerable: Tools, scratch: Path) -> None:
    """Both images. The peer's code goes where the Dockerfile expects the handler."""
    environment = emulator.environment(DOCKER=answerable.docker, BASE_IMAGE=answerable.base)
    ours = [sys.executable, "-m", "answerable", "image", "--model", "diabetes", "--tag", OURS]
    environment["PYTHONPATH"] = str(ROOT)
    subprocess.run(ours, cwd=PROJECT, env=environment, check=True, stdout=sys.stderr)
    shutil.copy(ROOT / "Dockerfile", scratch)
    (scratch / "infra").mkdir()
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
    peer = [
        answerable.docker,
        "build",
        "-q",
        "--build-arg",
        f"BASE_IMAGE={answerable.base}",
        "--tag",
        PEER,
    ]
    subprocess.run(
        [*peer, str(scratch)],
        env=environment | {"DOCKER_BUILDKIT": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"},
        check=True,
        stdout=sys.stderr,
    )


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


def start(answerable: Tools, image: str, threads: int) -> dict[str, float]:
    """One container from nothing: milliseconds of the init, of the first and the second call."""
    options = (
        [*AS_IN_LAMBDA, "--env=PYTHONPATH=/var/task/handler"] if image == PEER else AS_IN_LAMBDA
    )
    options = [*options, f"--env=INTRA_OP_THREADS={threads}"]
    name = "good/rest-one-row"
    with emulator.container(answerable.docker, image, *options, command=ENTRY[image]) as running:
        time.sleep(0.3)  # the emulator and the container's own start are over
        calls = []
        for _ in range(2):
            before = time.perf_counter()
            answer = running.invoke(expected_answers.event(name))
            calls.append((time.perf_counter() - before) * 1000)
            (found,) = json.loads(answer["body"])["predictions"]
            expected = expected_answers.stated()[name]["body"]["predictions"][0]["progression"]
            assert expected_answers.close(found["progression"], expected)
        (init,) = re.findall(r"INIT REPORT\(durationMs: ([\d.]+)\)", running.logs())
    return dict(zip(FIGURES, [float(init), *calls], strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="every figure, in milliseconds")
    args = parser.parse_args()
    answerable = emulator.prepare()
    threads = manifests.read(DIABETES).execution.intra_op_threads
    with tempfile.TemporaryDirectory() as scratch:
        build(answerable, Path(scratch))
    rounds: dict[str, list[dict[str, float]]] = {OURS: [], PEER: []}
    for number in range(-1, args.rounds):  # round -1 reads the images from the disk
        for image in [OURS, PEER] if number % 2 else [PEER, OURS]:
            figures = start(answerable, image, threads)
            if number >= 0:
                rounds[image].append(figures)
    base = "a stand-in for AWS's base image" if answerable.stand_in else answerable.base
    print(f"Medians of {args.rounds} rounds in ms, 1 CPU of {os.cpu_count()}, {base}\n")
    print("| image | init | first call, init included | second call |\n|---|---|---|---|")
    for image, figures_of in rounds.items():
        medians = [statistics.median(f[name] for f in figures_of) for name in FIGURES]
        print(f"| {TITLES[image]} | {medians[0]:.0f} | {medians[1]:.0f} | {medians[2]:.1f} |")
    ratios = [
        statistics.median(
            a[name] / b[name] for a, b in zip(rounds[OURS], rounds[PEER], strict=True)
        )
        for name in FIGURES
    ]
    print(f"| ratio, median of pairs | {ratios[0]:.2f} | {ratios[1]:.2f} | {ratios[2]:.2f} |")
    if args.json:
        args.json.write_text(json.dumps({TITLES[k]: v for k, v in rounds.items()}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
