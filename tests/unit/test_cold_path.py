"""What a cold start of `/predict` must not import: each of these was measured to be dear."""

import json
import os
import subprocess
import sys

from benchmarks.cases import ROOT
from benchmarks.cases import event as gateway_event
from handler import lazy_modules, manifest
from handler.validate import example
from tests.fixtures.artifact import DIABETES
from tests.fixtures.image_packages import stripped

# boto3 adds 150 ms to a cold start, Powertools 20 to 190, pydantic.main 70, core_schema 20
FORBIDDEN = """
PIL handler.encoders onnxruntime_extensions tokenizers
aws_lambda_powertools boto3 botocore pydantic annotated_types asyncio concurrent.futures email http
logging multiprocessing numpy.typing onnx pydantic_core.core_schema socket ssl subprocess tempfile
unittest urllib.request numpy._whole numpy.lib._whole numpy.linalg pydantic_core._whole
typing_extensions dis
""".split()  # noqa: SIM905  (a paragraph of words)

if sys.version_info >= (3, 12):
    FORBIDDEN.append("_hashlib")  # OpenSSL; Python 3.11 has no SHA-256 of its own

SCRIPT = """
import sys
event = {event!r}
from handler.function import lambda_handler
answer = lambda_handler(event, None)
assert answer["statusCode"] == 200, answer
# a placeholder of handler/lazy_modules.py has no spec
loaded = [name for name, module in sys.modules.items() if vars(module).get("__spec__")]
print(*loaded, file=sys.stderr)
"""


def test_the_cold_path_imports_nothing_dear() -> None:
    row = example(manifest.read(DIABETES))
    script = SCRIPT.format(event=gateway_event([row]))
    environment = {**os.environ, "PYTHONPATH": f"{stripped()}:{ROOT}", "MODEL_DIR": str(DIABETES)}
    environment |= {"JOBS_BUCKET": "b", "JOBS_QUEUE_URL": "q"}  # which only their paths pay for
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    modules = set(done.stderr.split())
    assert sorted(modules & {*FORBIDDEN, *lazy_modules.NAMES}) == []
    record = json.loads(done.stdout)  # that it was recorded is part of the path
    assert record["cold_start"] is True
