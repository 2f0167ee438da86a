"""SnapStart: what is initialised once and restored many times must not be the same many times."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from handler import prediction_id
from tests.fixtures.server import ROOT
from tests.runtime.environment import Environment

# the copies share all that they have computed, and the clock stands still for both
COPIES = """
import json, os, sys, time
from handler.function import lambda_handler
from tests.fixtures import events
event = events.rest(json.dumps({"instances": [{"x": -1}]}))
if sys.argv[1] == "without":
    del event["requestContext"]["requestId"]
time.time_ns = lambda: 1_764_000_000_000_000_000
for _ in range(2):
    if not (child := os.fork()):
        for _ in range(2):
            body = json.loads(lambda_handler(event, None)["body"])
            os.write(2, (body["predictions"][0]["id"] + "\\n").encode())
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.fault(
    "Two environments are restored from one snapshot and get the same request in the same "
    "millisecond",
    "Their predictions have different ids",
)
@pytest.mark.parametrize("request_id", ["with", "without"])
def test_restored_copies_do_not_give_equal_ids(endless_dir: Path, request_id: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COPIES, request_id],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MODEL_DIR": str(endless_dir)},
        capture_output=True,
        text=True,
        check=True,
    )
    ids = done.stderr.split()
    assert len(set(ids)) == len(ids) == 4
    assert {prediction_id.parse(id, prediction_id.signer("")).value for id in ids} == {-1.0}


@pytest.mark.fault(
    "A snapshot is restored long after its init",
    "The first call has its whole time, its own moment, and the version the snapshot is of",
)
def test_a_restored_function_works_and_is_its_version(endless_dir: Path) -> None:
    with Environment(endless_dir, AWS_LAMBDA_INITIALIZATION_TYPE="snap-start") as environment:
        assert environment.snapshot.wait(20)
        assert environment.events.empty()
        environment.restore.set()
        told = environment.predict(0.0, seconds=2)
        assert told.status == 200
        record = environment.record()
        assert record["version"] == "7"
        assert prediction_id.parse(told.ids[0], prediction_id.signer("")).function_version == "7"
