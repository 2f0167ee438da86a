"""What a cold start of `/predict` must not import: each of these was measured to be dear."""

import json
import os
import subprocess
import sys

from benchmarks.cases import ROOT
from benchmarks.cases import event as gateway_event
from handler import manifest
from handler.validate import example
from tests.fixtures.artifact import DIABETES

# boto3 adds 150 ms to a cold start, Powertools 20 to 190, pydantic.main 70, core_schema 20
FORBIDDEN = """
PIL handler.encoders onnxruntime_extensions tokenizers
aws_lambda_powertools boto3 botocore pydantic annotated_types asyncio concurrent.futures email http
logging multiprocessing numpy.typing onnx pydantic_core.core_schema socket ssl subprocess tempfile
unittest urllib.request
""".split()  # noqa: SIM905  (a paragraph of words)

SCRIPT = """
import sys
event = {event!r}
from handler.function import lambda_handler
answer = lambda_handler(event, None)
assert answer["statusCode"] == 200, answer
print(*sorted(sys.modules), file=sys.stderr)
"""


def test_the_cold_path_imports_nothing_dear() -> None:
    row = example(manifest.read(DIABETES))
    script = SCRIPT.format(event=gateway_event([row]))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MODEL_DIR": str(DIABETES)}
    environment |= {"JOBS_BUCKET": "b", "JOBS_QUEUE_URL": "q"}  # which only their paths pay for
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    modules = set(done.stderr.split())
    assert not modules & set(FORBIDDEN)
    record = json.loads(done.stdout)  # that it was recorded is part of the path
    assert record["cold_start"] is True


def test_pydantic_finds_what_was_left_out() -> None:
    script = """
import handler.core_schema, pydantic_core
from pydantic import BaseModel, TypeAdapter
from pydantic_core import CoreSchema, core_schema
from tests.fixtures.artifact import DIABETES
assert CoreSchema is core_schema.CoreSchema
class Model(BaseModel):
    x: int
assert Model.model_validate_json('{"x": 1}').x == TypeAdapter(int).validate_python(1)
assert not hasattr(pydantic_core, "no such name")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-W", "error", "-c", script], env=environment, check=True)
