import contextlib
import io
import itertools
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from answerable import __main__ as answerable
from answerable.commands import report
from answerable.simulation import traffic
from handler import app
from handler import manifest as manifests
from handler.drift.counts import Counts
from handler.drift.targets import fingerprint, targets
from handler.settings import Settings
from tests.fixtures import events
from tests.fixtures.artifact import DIABETES
from tests.fixtures.events import Context

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
    handler = app.create(Settings(DIABETES, function_version="7"))
    found = []
    rng = np.random.default_rng(3)
    for day in range(4):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            drawn = itertools.islice(traffic.draw_rows(manifests.read(DIABETES), rng), 200)
            rows = [row | ({"glucose": None} if day == 3 else {}) for row in drawn]
            for i in range(0, 200, 25):
                event = events.rest(json.dumps({"instances": rows[i : i + 25]}))
                event["requestContext"]["requestId"] = f"{day}-{i}"
                answer = handler(event, Context())
            handler(events.rest("{}"), Context())
            told = [
                {"prediction_id": one["id"], "actual": one["progression"] + 5, "value": 2}
                for one in json.loads(answer["body"])["predictions"][:20]
            ]
            handler(events.rest(json.dumps({"outcomes": told}), "/feedback"), Context())
        for record in report.parsed([out.getvalue()]):
            found.append(record | {"timestamp": day * DAY})
    return found


def check(page: str) -> str:
    """Return a page that is well-formed and loads nothing."""
    parser = Strict()
    parser.feed(page.partition("<!doctype html>")[2])
    assert not parser.open
    return page


def test_the_page_says_what_drifts(records: list[dict[str, Any]]) -> None:
    page = check(report.page(manifests.read(DIABETES), records, 24))
    assert '<section class="verdict bad">' in page
    assert '<a href="#in_glucose">glucose</a> more missing, score' in page
    assert "contract-violation 4" in page
    assert "800 predictions" in page
    assert "<td>80</td><td>10.0%</td><td>5</td>" in page


def test_axes_have_times_and_values_and_categories_have_names(
    records: list[dict[str, Any]],
) -> None:
    page = check(report.page(manifests.read(DIABETES), records, 24))
    baseline = manifests.read(DIABETES).baseline
    assert baseline
    assert f"<span>{baseline.features['bmi'].values[-1]}</span>" in page
    assert "<span>Jan 1</span><span>Jan 2</span><span>Jan 4</span>" in page
    assert '<span class=name title="2">2</span>' in page
    assert "<span>missing</span>" in page


def test_no_drift_and_too_few_values_are_said_too(records: list[dict[str, Any]]) -> None:
    manifest = manifests.read(DIABETES)
    assert manifest.baseline
    # rows are drawn feature by feature, so the outputs are not those of the sample
    inputs = manifest._replace(baseline=manifest.baseline._replace(outputs={}))
    quiet = [r | {"bins": r["bins"][:10]} for r in records if "bins" in r]
    quiet = [record for record in quiet if record["timestamp"] < 3 * DAY]
    assert "No drift" in check(report.page(inputs, quiet, 24))
    few = manifest._replace(alarms=manifest.alarms._replace(drift_min_rows=1000))
    assert "Drift is judged from 1000 on" in check(report.page(few, records, 24))
    bare = manifest._replace(baseline=None)
    assert "no drift is measured" in check(report.page(bare, records))
    assert "0 predictions so far" in check(report.page(manifest, []))
    hostile = manifest._replace(description="<script>alert(1)</script>")
    assert "<script>" not in check(report.page(hostile, records))


def test_twenty_requests_draw_their_values_without_a_score(records: list[dict[str, Any]]) -> None:
    row = json.dumps({"instances": [report_row()]})
    handler = app.create(Settings(DIABETES, function_version="7"))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        for _ in range(20):
            handler(events.rest(row), Context())
    page = check(report.page(manifests.read(DIABETES), list(report.parsed([out.getvalue()]))))
    assert "20 predictions so far. Drift is judged from 50 on." in page
    assert page.count("20 values") == 11
    assert "drift score" not in page


def report_row() -> dict[str, Any]:
    return {feature.name: feature.example for feature in manifests.read(DIABETES).features}


def test_one_window_has_a_bar_inside_its_card(records: list[dict[str, Any]]) -> None:
    first = [record for record in records if record["timestamp"] == 0]
    page = check(report.page(manifests.read(DIABETES), first))
    bars = re.findall(r'<rect class="bar[^"]*" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', page)
    assert len(bars) > 100
    assert all(float(x) + float(width) <= 300 and float(y) <= 60 for x, y, width in bars)
    assert page.count("drift score") >= 11


def test_months_come_from_the_monitors_records(records: list[dict[str, Any]]) -> None:
    manifest = manifests.read(DIABETES)
    monitored = targets(manifest)
    history: list[dict[str, Any]] = []
    for record in records:
        counts = Counts(monitored)
        if counts.add_bins(record):
            day = len(history)
            line = {"message": "drift", "timestamp": day * DAY, "period": day * DAY}
            mark = {"fingerprint": fingerprint(manifest)}
            for _ in range(3):
                counts.add_bins(record)
            history.append(line | mark | counts.as_fields())
    other = history[0] | {"fingerprint": "another", "rows": 10_000}
    page = check(report.page(manifest, [*history, other]))
    assert "3,200 predictions" in page
    assert "glucose</a> more missing" in page


def test_categories_are_divided_by_their_likelihood() -> None:
    steps = [(0.0, 0.53), (0.53, 0.94), (0.94, 1.0)]
    counts = [0, 0, 0, 0, 0, 171, 244, 244, 244, 97]  # all of the second
    shares = report._shares(counts, steps)
    assert shares[1] == pytest.approx(1, abs=0.02)
    assert sum(shares) == pytest.approx(1)


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
    assert answerable.main(["report", str(tmp_path / "empty"), *out]) == 2
    assert answerable.main(["report", str(tmp_path / "empty"), "--model", str(tmp_path)]) == 2
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("binary", "nowhere", "."):
        assert answerable.main(["report", str(tmp_path / name), *out]) == 2
    errors = capsys.readouterr().err
    assert "no records of diabetes" in errors
    assert "not UTF-8" in errors
    assert "Traceback" not in errors
