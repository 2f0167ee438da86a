"""The container when its surroundings fail it, and when it is used for long."""

import json
import math
import random
import subprocess
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.cases import rows
from handler import manifest
from tests.e2e.conftest import Images
from tests.e2e.emulator import AS_IN_LAMBDA, Container, Tools, container
from tests.e2e.test_image import MODEL
from tests.fixtures import artifact, events, expected_answers, protocols
from tests.runtime.environment import of

REQUESTS = 10_000
WARM = 1_000  # requests, after which memory may not grow any more
READ = manifest.read(MODEL)
Rows = list[dict[str, Any]]


@pytest.mark.fault(
    "A run needs more memory than the function has, and the kernel kills the process",
    "Lambda reports the crash; the next environment answers normally",
)
def test_out_of_memory_is_a_crash_and_a_new_start(
    answerable: Tools, images: Images, tmp_path: Path
) -> None:
    directory = artifact.hungry(tmp_path / "hungry")
    options = [f"--volume={directory}:/model:ro", "--env=MODEL_DIR=/model"]
    with container(answerable.docker, images.name("first"), *AS_IN_LAMBDA, *options) as running:
        first = predictions(running.invoke(of(3.0)))
        for _ in range(2):
            told = running.invoke(of(1e9))  # 4 GB
            assert told["errorType"] == "Runtime.ExitError", told
            assert predictions(running.invoke(of(3.0))) == first == [{"y": 3.0}]


@pytest.mark.fault(
    "`/tmp` is full, and nothing else can be written to",
    "Nothing is missed: the function writes to stdout alone",
)
def test_a_full_tmp_is_not_missed(answerable: Tools, images: Images) -> None:
    options = ["--read-only", "--tmpfs=/tmp:size=64k", "--user=993:990"]
    with container(answerable.docker, images.name("first"), *options) as running:
        fill = [answerable.docker, "exec", running.name, "dd", "if=/dev/zero", "of=/tmp/full"]
        done = subprocess.run(fill, capture_output=True, text=True, check=False)
        assert "No space left on device" in done.stderr
        for name in ("good/rest-one-row", "bad/three-things-wrong", "good/rest-openapi"):
            expected_answers.check(name, running.invoke(expected_answers.event(name)))


def predictions(answer: Any) -> Any:
    assert answer["statusCode"] == 200, answer
    found = json.loads(answer["body"])["predictions"]
    for prediction in found:
        del prediction["id"]
    return found


@pytest.mark.fault(
    "10,000 mixed requests, one in ten of them bad, in 512 MB",
    "No wrong answer, no restart, and no more memory at the end than after the first thousand "
    "(5 % are allowed)",
)
def test_a_long_life(answerable: Tools, images: Images) -> None:
    chance = random.Random(1)
    with container(answerable.docker, images.name("first"), *AS_IN_LAMBDA) as running:
        soak = Soak(running, chance)
        asks = [soak.predict, soak.invocations, soak.csv, soak.tensors, soak.binary, soak.feedback]
        memory: dict[int, int] = {}
        for i in range(REQUESTS + 1):
            if i and i % WARM == 0:
                memory[i] = resident(running)
            if chance.random() < 0.1:
                soak.bad()
            else:
                chance.choice(asks)()
        assert running.logs().count('"cold_start":true') == 1
    print(f"MB after so many requests: { {k: round(v / 2**20, 1) for k, v in memory.items()} }")
    assert memory[REQUESTS] <= 1.05 * memory[WARM], memory


class Soak:
    """Requests of every kind to a container, each compared with what onnxruntime says."""

    def __init__(self, running: Container, chance: random.Random) -> None:
        self.invoke, self.chance = running.invoke, chance
        self.session = ort.InferenceSession(MODEL / "model.onnx")
        self.bodies = rows(READ, 100, 50)
        self.bad_ones = cycle(expected_answers.names("bad"))
        self.ids: list[str] = []

    def rows(self) -> Rows:
        """Between 1 and 100, more often few."""
        count = round(math.exp(self.chance.uniform(0, math.log(100))))
        start = self.chance.randrange(101 - count)
        return self.chance.choice(self.bodies)[start : start + count]

    def feeds(self, found: Rows) -> dict[str, Any]:
        return {
            part.name: np.array(
                [[row[part.name]] for row in found],
                object if part.dtype == "string" else part.dtype,
            )
            for part in READ.inputs
        }

    def truth(self, found: Rows) -> list[float]:
        values: list[float] = self.session.run(None, self.feeds(found))[0].ravel().tolist()
        return values

    def told(self, answer: Any, found: Rows) -> None:
        assert answer["statusCode"] == 200, answer
        told = json.loads(answer["body"])["predictions"]
        values = [row["progression"] for row in told]
        assert values == pytest.approx(self.truth(found), rel=1e-5)
        self.ids += [row["id"] for row in told[:2]]

    def predict(self) -> None:
        found = self.rows()
        self.told(self.invoke(events.rest(json.dumps({"instances": found}))), found)

    def invocations(self) -> None:
        found = self.rows()
        frame = {"columns": list(found[0]), "data": [list(row.values()) for row in found]}
        body = json.dumps({"dataframe_split": frame})
        self.told(self.invoke(events.rest(body, "/invocations")), found)

    def csv(self) -> None:
        found = self.rows()
        lines = [list(found[0]), *(row.values() for row in found)]
        body = "\n".join(",".join("" if v is None else str(v) for v in line) for line in lines)
        headers = {"content-type": "text/csv"}
        self.told(self.invoke(events.rest(body, "/invocations", headers=headers)), found)

    def tensors(self, binary: bool = False) -> None:
        found = [{k: 1.0 if v is None else v for k, v in row.items()} for row in self.rows()]
        make = protocols.as_binary if binary else protocols.as_json
        event = make(self.feeds(found))
        event["rawPath"] = f"/v2/models/{READ.name}/infer"
        status, _, arrays = protocols.ask(lambda event, _: self.invoke(event), event)
        assert status == 200
        (values,) = arrays.values()
        assert values.ravel().tolist() == pytest.approx(self.truth(found), rel=1e-5)

    def binary(self) -> None:
        self.tensors(binary=True)

    def feedback(self) -> None:
        told, self.ids = self.ids[:50], self.ids[50:]
        if not told:
            return self.predict()
        outcomes = [{"prediction_id": id, "actual": 150} for id in told]
        answer = self.invoke(events.rest(json.dumps({"outcomes": outcomes}), "/feedback"))
        assert json.loads(answer["body"]) == {"accepted": len(told)}

    def bad(self) -> None:
        name = next(self.bad_ones)  # all of them in the first thousand requests
        expected_answers.check(name, self.invoke(expected_answers.event(name)))


def resident(running: Container) -> int:
    """Bytes of the function's process, the one Python in the container, that are in memory."""
    top = [running.docker, "top", running.name, "-eo", "pid,rss,args"]
    text = subprocess.run(top, capture_output=True, text=True, check=True).stdout
    (found,) = [line.split() for line in text.splitlines() if "awslambdaric" in line]
    return int(found[1]) * 1024
