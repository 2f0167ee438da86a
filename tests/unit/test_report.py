import io
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from answerable import __main__ as answerable
from answerable.commands import report
from handler import app
from handler import manifest as manifests
from handler.settings import Settings
from tests.fixtures import events
from tests.fixtures.artifact import DIABETES
from tests.fixtures.events import Context
from tests.unit.test_drift_alarm import resampled

Capture = pytest.CaptureFixture[str]
DAY = 86_400_000


class Strict(HTMLParser):
    """Raises where a tag is not closed by its own, or where anything is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag not in ("script", "link", "img", "iframe")
        assert not any(name in ("src", "style") or name.startswith("on") for name, _ in attrs)
        assert all(v.startswith("#") for n, v in attrs if n == "href")
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    """Four days, the last of which without glucose; a refusal and outcomes each day."""
    import contextlib

    handler = app.create(Settings(DIABETES, function_version="7"))
    found = []
    rng = np.random.default_rng(3)
    for day in range(4):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            rows = [r | ({"glucose": None} if day == 3 else {}) for r in resampled(rng, 100)]
            for i in range(0, 100, 25):
                answer = handler(
                    events.rest(json.dumps({"instances": rows[i : i + 25]})), Context()
                )
            handler(events.rest("{}"), Context())
            told = [
                {"prediction_id": one["id"], "actual": one["progression"] + 5, "value": 2}
                for one in json.loads(answer["body"])["predictions"][:20]
            ]
            handler(events.rest(json.dumps({"outcomes": told}), "/feedback"), Context())
        for record in report.parsed([out.getvalue()]):
            found.append(record | {"timestamp": day * DAY})
    return found


def test_the_page_says_what_drifts(records: list[dict[str, Any]]) -> None:
    page = report.page(manifests.read(DIABETES), records, 24)
    parser = Strict()
    parser.feed(page.partition("<!doctype html>")[2])
    assert not parser.open
    assert "class='verdict bad'>Drift: <a href='#in_glucose'>glucose</a>" in page
    assert "contract-violation 4" in page
    assert "400 predictions" in page
    assert "<td>80</td><td>20.0%</td><td>5</td>" in page


def test_no_drift_and_too_few_values_are_said_too(records: list[dict[str, Any]]) -> None:
    manifest = manifests.read(DIABETES)
    inputs = manifest._replace(
        baseline=manifest.baseline and manifest.baseline._replace(outputs={})
    )
    assert "No drift" in report.page(inputs, [r for r in records if r["timestamp"] < 3 * DAY], 24)
    few = manifest._replace(alarms=manifest.alarms._replace(drift_min_rows=1000))
    assert "too few" in report.page(few, records, 24)
    assert "nothing is watched" in report.page(manifest._replace(baseline=None), records)
    assert "too few" in report.page(manifest, [])
    hostile = manifest._replace(description="<script>alert(1)</script>")
    assert "<script>" not in report.page(hostile, records)


def test_the_command_reads_files_and_stdin(
    records: list[dict[str, Any]],
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "START RequestId\n[1, 2]\n" + "\n".join(map(json.dumps, records))
    (tmp_path / "records").write_text(text)
    out = ["--output", str(tmp_path / "page.html"), "--model", str(DIABETES)]
    assert answerable.main(["report", str(tmp_path / "records"), *out]) == 0
    first = (tmp_path / "page.html").read_text()
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert answerable.main(["report", "-", *out]) == 0
    assert (tmp_path / "page.html").read_text() == first
    (tmp_path / "empty").write_text("")
    assert answerable.main(["report", str(tmp_path / "empty"), *out]) == 1
    assert answerable.main(["report", str(tmp_path / "empty"), "--model", str(tmp_path)]) == 1
    assert "no records" in capsys.readouterr().err
