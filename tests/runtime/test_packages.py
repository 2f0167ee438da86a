"""The packages as the image has them: stripped by infra/strip_packages.py."""

import json
import subprocess
import sys

import pytest

from infra import strip_packages
from tests.fixtures import expected_answers
from tests.fixtures.artifact import DIABETES
from tests.fixtures.image_packages import stripped
from tests.runtime.environment import Environment


def run(script: str) -> str:
    """What a script prints in a fresh process that sees the stripped packages alone."""
    done = subprocess.run(
        [sys.executable, "-S", "-W", "error", "-c", script],
        env={"PYTHONPATH": str(stripped()), "ORT_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_edit_was_made() -> None:
    for name in strip_packages.FIRST_NAMES:
        whole = (stripped() / name / "_whole.py").read_text()
        assert "_whole" not in whole
    for name, text in strip_packages.REPLACED.items():
        assert (stripped() / name).read_text() == text
    for name, edits in strip_packages.EDITS.items():
        text = (stripped() / name).read_text()
        assert all(old not in text and new in text for old, new in edits.items())
    assert not list(stripped().glob("**/tests"))


def test_another_version_of_a_package_is_not_edited() -> None:
    with pytest.raises(ValueError, match="'if x' once"):
        strip_packages._edit("if y:", {"if x": "if False"})
    with pytest.raises(ValueError, match="'if x' once"):
        strip_packages._edit("if x and if x", {"if x": "if False"})


def test_stripped_packages_answer_each_event() -> None:
    with Environment(DIABETES) as environment:
        for name in (*expected_answers.names("good"), *expected_answers.names("bad")):
            answer = environment.invoke(expected_answers.event(name)).content
            if "statusCode" in answer:
                expected_answers.check(name, answer)


@pytest.mark.parametrize(
    "first", ["unique([2, 1, 2]).tolist()", "linalg.norm([3, 4])", "lib.stride_tricks"]
)
def test_numpy_loads_whatever_is_asked_for(first: str) -> None:
    script = f"""
import sys
import numpy as np
assert np.array([1.0]).sum() == 1 and "numpy._whole" not in sys.modules
str(np.{first})
removed = {{"f2py", "fft", "polynomial", "random", "test", "testing", "typing"}}
missing = {{name for name in {{*np.__all__}} - removed if not hasattr(np, name)}}
assert not missing, missing
assert len(np.__all__) > 450 and not hasattr(np, "no_such_name")
assert {{*np.__all__}} - removed <= {{*dir(np)}}
from numpy.lib import NumpyVersion, format, stride_tricks
import numpy.lib.scimath
"""
    run(script)


def test_pydantic_core_and_the_logger_load_on_demand() -> None:
    script = """
import sys
import pydantic_core
assert "pydantic_core._whole" not in sys.modules
assert pydantic_core.to_json({"a": 1}) == b'{"a":1}'
assert pydantic_core.__version__ and pydantic_core.PydanticUndefined
assert pydantic_core.core_schema.int_schema() == {"type": "int"}
from aws_lambda_powertools import Logger
Logger(service="test").info("hello")
"""
    assert json.loads(run(script))["message"] == "hello"
