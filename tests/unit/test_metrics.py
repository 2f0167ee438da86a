"""The one writer of log lines, also when nobody can be written to."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from handler import metrics, request_log, settings
from tests.fixtures import emf

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]


def test_every_metric_but_those_in_units_of_the_model_has_a_unit() -> None:
    names = {
        value
        for name, value in vars(metrics).items()
        if name.isupper() and isinstance(value, str) and name != "NAMESPACE"
    }
    without = {metrics.OUTCOME_AGE, metrics.ABSOLUTE_ERROR, metrics.CORRECT, metrics.IMPACT}
    assert names - metrics.UNITS.keys() == without
    assert metrics.UNITS.keys() <= names


@pytest.mark.parametrize("count", [1, 100, 101, 250])
def test_a_directive_has_at_most_100_metrics(count: int) -> None:
    directives = metrics.directives([f"x{i}" for i in range(count)])
    assert [len(one["Metrics"]) for one in directives] == [
        min(100, count - start) for start in range(0, count, 100)
    ]
    line = metrics.log_line("INFO", "test", service="s", version="1")
    line |= {f"x{i}": i for i in range(count)}
    emf.validate(json.loads(json.dumps(line | {"_aws": metrics.emf(line, directives)})))


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("", ["INFO", "WARNING", "ERROR"]),
        ("DEBUG", ["DEBUG", "INFO", "WARNING", "ERROR"]),
        ("WARNING", ["WARNING", "ERROR"]),
        ("ERROR", ["ERROR"]),
        ("foo", ["INFO", "WARNING", "ERROR"]),
    ],
)
def test_the_log_level_applies_to_what_is_no_record(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, level: str, written: list[str]
) -> None:
    monkeypatch.setenv("LOG_LEVEL", level)
    if not level:
        monkeypatch.delenv("LOG_LEVEL")
    for each in settings.LOG_LEVELS:
        request_log.log(each, "test", field=1)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["level"] for line in lines] == written
    assert all((line["message"], line["field"]) == ("test", 1) for line in lines)


BROKEN = """
import os, sys
from handler import app, scoring
from handler.settings import Settings
from tests.fixtures import events
from tests.fixtures.events import Context
from pathlib import Path

handler = app.create(Settings(Path(sys.argv[1])))

def explode(*_):
    raise ValueError("SENTINEL")

scoring.Scorer.score = explode
if sys.argv[2] == "closed":
    sys.stdout.close()
elif sys.argv[2] == "gone":
    sys.stdout = None
else:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
answer = handler(events.rest('{"instances":[]}'), Context())
os.write(2, str(answer["statusCode"]).encode())
os._exit(0)
"""


@pytest.mark.fault(
    "stdout is full, closed or gone, and an unexpected error is to be logged",
    "500, and the error's text is on stderr neither",
)
@pytest.mark.parametrize("how", ["full", "closed", "gone"])
def test_without_stdout_an_errors_text_is_not_on_stderr(echo_dir: Any, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, str(echo_dir), how],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == "500"
    assert "SENTINEL" not in done.stdout
