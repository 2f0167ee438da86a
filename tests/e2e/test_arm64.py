"""The handler with the locked arm64 packages, under QEMU and without `/sys`."""

import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from handler import manifest as manifests
from handler.release import golden
from tests.e2e.emulator import ROOT, environment
from tests.fixtures import events
from tests.fixtures.artifact import DIABETES

NOT_TO_BE_HAD = 75  # of arm64.sh
MODEL_DIR = "/var/task/model_artifacts/diabetes"
SCRIPT = """
import json, os, platform, sys
assert platform.machine() == "aarch64" and not os.path.exists("/sys/devices")
sys.path[:0] = ["/var/task"]
from handler import function
class Context:
    aws_request_id = "1"
    def get_remaining_time_in_millis(self): return 600_000
print(json.dumps(function.lambda_handler(json.load(sys.stdin), Context())))
"""


@pytest.mark.skipif(platform.machine() == "aarch64", reason="the other tests run on arm64 here")
@pytest.mark.fault(
    "An arm64 processor and no /sys, from which onnxruntime learns what the processor can do",
    "The golden rows have the recorded predictions",
)
def test_the_golden_rows_on_arm64_without_sys_are_as_recorded() -> None:
    home = Path(os.environ.get("E2E_HOME", Path.home() / ".cache/answerable-e2e"))
    system = home / "arm64"
    home.mkdir(parents=True, exist_ok=True)
    prepare = ["bash", str(ROOT / "tests/e2e/arm64.sh"), str(system)]
    run = subprocess.run(prepare, capture_output=True, text=True, check=False, env=environment())
    if run.returncode == NOT_TO_BE_HAD:
        pytest.skip(f"an arm64 Debian cannot be had here: {run.stderr[-300:]}")
    assert run.returncode == 0, run.stderr[-2000:]
    shutil.copytree(DIABETES, system / MODEL_DIR.lstrip("/"))
    rows = golden.read(DIABETES)
    event = events.rest(json.dumps({"instances": [row.instance for row in rows]}))
    variables = {
        "MODEL_DIR": MODEL_DIR,
        "ORT_DISABLE_TELEMETRY": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PATH": os.environ["PATH"],
    }
    run = subprocess.run(
        [
            "chroot",
            str(system),
            "/usr/bin/qemu-aarch64-static",
            "/usr/bin/python3.13",
            "-c",
            SCRIPT,
        ],
        input=json.dumps(event),
        capture_output=True,
        text=True,
        check=False,
        env=variables,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    reply: Any = json.loads(run.stdout.splitlines()[-1])
    assert reply["statusCode"] == 200
    predictions = json.loads(reply["body"])["predictions"]
    recorded = [row.prediction for row in rows]
    limit = golden.tolerance(manifests.read(DIABETES))
    assert len(predictions) == len(recorded)
    for expected, actual in zip(recorded, predictions, strict=True):
        actual = {name: actual[name] for name in expected}
        assert golden.deviation(expected, actual) <= limit
