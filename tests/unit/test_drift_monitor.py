"""The drift monitor over records of the real handler, in a log group that is kept in memory."""

import contextlib
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answerable.simulation import traffic
from handler import app
from handler import manifest as manifests
from handler.drift import BINS, monitor
from handler.drift.counts import Counts
from handler.drift.decision import Decision
from handler.drift.monitor import HOUR_MS
from handler.drift.targets import fingerprint, targets
from handler.settings import Settings
from tests.fixtures import emf, events
from tests.fixtures.artifact import DIABETES
from tests.fixtures.events import Context
from tests.fixtures.release import artifact

MANIFEST = manifests.read(DIABETES)
START = 1_790_000_000_000 // HOUR_MS * HOUR_MS
API, WORKER, OWN = "api", "worker", "monitor"
Row = dict[str, Any]


class Cloud:
    """The alias, the versions behind it, log groups, and a topic."""

    def __init__(self, versions: dict[str, Path]) -> None:
        self.handlers = {
            number: app.create(Settings(folder, service="diabetes-dev", function_version=number))
            for number, folder in versions.items()
        }
        self.live = next(iter(versions))
        self.groups: dict[str, list[dict[str, Any]]] = {API: [], WORKER: [], OWN: []}
        self.messages: list[dict[str, str]] = []
        self.requests = 0

    def get_alias(self, FunctionName: str, Name: str) -> dict[str, str]:
        arn = f"arn:aws:lambda:eu-west-1:123456789012:function:{FunctionName}:{Name}"
        return {"AliasArn": arn, "FunctionVersion": self.live}

    def invoke(self, FunctionName: str, Payload: bytes) -> dict[str, Any]:
        version = FunctionName.rpartition(":")[2]
        with contextlib.redirect_stdout(io.StringIO()):
            reply = self.handlers[version](json.loads(Payload), Context())
        return {"Payload": io.BytesIO(json.dumps(reply).encode()), "ExecutedVersion": version}

    def publish(self, **message: str) -> None:
        self.messages.append(message)

    def get_paginator(self, name: str) -> "Cloud":
        assert name == "filter_log_events"
        return self

    def paginate(
        self, logGroupName: str, filterPattern: str, startTime: int, endTime: int = 1 << 62
    ) -> Iterator[dict[str, Any]]:
        found = [
            event
            for event in self.groups[logGroupName]
            if startTime <= event["timestamp"] <= endTime
            and filterPattern.strip('"') in event["message"]
        ]
        for i in range(0, max(len(found), 1), 100):
            yield {"events": found[i : i + 100]}

    def predict(self, rows: list[Row], time: int, version: str = "", group: str = API) -> None:
        """Send requests of ten rows, spread over the hour from `time`."""
        for i in range(0, len(rows), 10):
            event = events.rest(json.dumps({"instances": rows[i : i + 10]}))
            self.requests += 1
            event["requestContext"]["requestId"] = f"r-{self.requests}"
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                reply = self.handlers[version or self.live](event, Context())
            assert reply["statusCode"] == 200
            self._log(group, out, time + i * HOUR_MS // len(rows))

    def _log(self, group: str, out: io.StringIO, time: int) -> None:
        for line in out.getvalue().splitlines():
            self.groups[group].append({"timestamp": time, "message": line})

    def run(self, hour: int) -> dict[str, Any]:
        """Run the monitor ten minutes after an hour; return its line, {} without one."""
        moment = START + (hour + 1) * HOUR_MS + 600_000
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            time = f"{np.datetime64(moment, 'ms').astype('datetime64[s]')}+00:00"
            monitor.on_schedule({"time": time}, Context(milliseconds=600_000))
        self._log(OWN, out, moment)
        lines = [json.loads(line) for line in out.getvalue().splitlines()]
        for line in lines:
            if "_aws" in line:
                emf.validate(line)
        return dict(lines[0]) if lines else {}


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    made = Cloud({"7": DIABETES})
    connect(monkeypatch, made)
    return made


def connect(monkeypatch: pytest.MonkeyPatch, cloud: Cloud) -> None:
    monkeypatch.setattr(monitor, "client", lambda service: cloud)
    for name, value in {
        "FUNCTION_NAME": "scoring",
        "RECORD_LOG_GROUPS": f"{API},{WORKER}",
        "MONITOR_LOG_GROUP": OWN,
        "TOPIC_ARN": "arn:aws:sns:eu-west-1:123456789012:alarms",
        "SERVICE_NAME": "diabetes-dev",
    }.items():
        monkeypatch.setenv(name, value)


def rows(seed: int, count: int, **change: Any) -> list[Row]:
    """Rows as the baseline has them; inputs are independent, so outputs may well drift."""
    drawn = traffic.draw_rows(MANIFEST, np.random.default_rng(seed))
    return [row | change for row in itertools.islice(drawn, count)]


def test_without_drift_it_is_quiet(cloud: Cloud) -> None:
    for hour in range(3):
        cloud.predict(rows(hour, 100), START + hour * HOUR_MS)
        line = cloud.run(hour)
        assert line["rows"] == 100
        assert sum(line["counts"][0]) == 100
        assert line["period"] == START + hour * HOUR_MS
        assert not {"_aws", "drifted_inputs", "unseen_inputs", "sampled"} & line.keys()
    assert not cloud.messages


def test_drift_becomes_metrics_and_one_message_that_names_it(cloud: Cloud) -> None:
    cloud.predict(rows(1, 300, glucose=None), START)
    line = cloud.run(0)
    (drifted,) = line["drifted_inputs"]
    assert (drifted["name"], drifted["direction"]) == ("glucose", "more missing")
    assert line["DriftedInputs"] == 1
    assert line["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["service"]]
    (message,) = cloud.messages
    assert "glucose: score" in message["Message"]
    assert "docs/runbook.md#drift-inputs" in message["Message"]
    assert MANIFEST.owner in message["Message"]
    # an alarm in the next hour, but no second message
    cloud.predict(rows(2, 300, glucose=None), START + HOUR_MS)
    assert cloud.run(1)["DriftedInputs"] == 1
    assert len(cloud.messages) == 1


def test_too_few_rows_are_not_judged(cloud: Cloud) -> None:
    few = MANIFEST.alarms.drift_min_rows - 1
    cloud.predict(rows(1, few, glucose=None), START)
    assert "_aws" not in cloud.run(0)


def test_a_week_decides_where_a_day_has_little_traffic(cloud: Cloud) -> None:
    shifted = [row | {"bmi": row["bmi"] + 2.2} for row in rows(1, 240)]
    lines = []
    for day in range(6):
        hour = day * 24
        cloud.predict(shifted[day * 40 : day * 40 + 40], START + hour * HOUR_MS)
        lines.append(cloud.run(hour))
    assert "drifted_inputs" not in lines[0]
    assert [drifted["name"] for drifted in lines[-1]["drifted_inputs"]] == ["bmi"]


def test_what_the_baseline_does_not_have_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accept(manifest: dict[str, Any]) -> None:
        manifest["features"][1] |= {"unknown_category": "accept"}

    made = Cloud({"7": artifact(tmp_path / "accepts", accept)})
    connect(monkeypatch, made)
    made.predict(rows(1, 97) + rows(2, 3, sex="3"), START)
    line = made.run(0)
    assert (line["unseen_rows"], line["unseen_counts"]) == (3, {"sex": 3})
    assert (line["unseen_inputs"], line["UnseenInputs"]) == (["sex"], 1)
    assert "Unseen values" in made.messages[0]["Message"]


def test_a_second_or_late_run_changes_nothing(cloud: Cloud) -> None:
    cloud.predict(rows(1, 300, glucose=None), START)
    assert cloud.run(0)
    assert cloud.run(0) == {}
    assert len(cloud.messages) == len(cloud.groups[OWN]) == 1
    cloud.predict(rows(2, 100), START + HOUR_MS)
    cloud.predict(rows(3, 100), START + 2 * HOUR_MS)
    third = cloud.run(2)
    late = cloud.run(1)  # of the hour before
    assert (third["rows"], late["rows"]) == (100, 100)
    assert late["period"] == START + HOUR_MS
    assert cloud.run(1) == cloud.run(2) == {}


def test_the_worker_counts_as_the_api_does(cloud: Cloud) -> None:
    cloud.predict(rows(1, 100), START)
    cloud.predict(rows(2, 50), START, group=WORKER)
    assert cloud.run(0)["rows"] == 150


def test_the_window_follows_the_live_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions 7 and 8 are one model, deployed twice; 9 has another baseline."""

    def other_data(manifest: dict[str, Any]) -> None:
        manifest["lineage"]["data_sha256"] = "0" * 64

    other = artifact(tmp_path / "other", other_data)
    made = Cloud({"7": DIABETES, "8": DIABETES, "9": other})
    connect(monkeypatch, made)
    for hour, version in enumerate("7897"):  # a redeployment, a new model, a rollback or a pin
        made.live = version
        made.predict(rows(hour, 20, glucose=None), START + hour * HOUR_MS)
        made.predict(rows(hour, 20), START + hour * HOUR_MS, version="9")  # a canary's
        line = made.run(hour)
        assert (line["version"], line["rows"]) == (version, 20 if version != "9" else 40)
    # 60 rows of the model that is live again, 20 of them by version 8
    assert [drifted["name"] for drifted in line["drifted_inputs"]] == ["glucose"]


def test_a_live_version_that_does_not_answer_is_an_error(cloud: Cloud) -> None:
    def crash(event: Any, context: Any) -> Any:
        return {"statusCode": 503, "body": "{}"}

    cloud.handlers["7"] = crash
    with pytest.raises(RuntimeError, match="version 7 does not answer: 503"):
        cloud.run(0)


def test_many_records_are_sampled_in_slices(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "MAX_SLICE_RECORDS", 2)
    cloud.predict(rows(1, 600), START)  # five requests in each slice of five minutes
    line = cloud.run(0)
    assert line["rows"] == 2 * 12 * 10
    assert line["sampled"] is True


def test_the_latest_record_says_what_an_alarm_is_about(cloud: Cloud) -> None:
    assert monitor.latest_version(cloud, OWN, START) == ""
    cloud.run(0)
    now = START + HOUR_MS + 700_000
    assert monitor.latest_version(cloud, OWN, now) == "7"


def test_a_manifest_is_only_for_those_who_may_invoke(cloud: Cloud) -> None:
    event = events.rest("") | {"path": "/manifest", "resource": "/manifest", "httpMethod": "GET"}
    with contextlib.redirect_stdout(io.StringIO()):
        assert cloud.handlers["7"](event, Context())["statusCode"] == 404
        event["requestContext"]["synthetic"] = True
        reply = cloud.handlers["7"](event, Context())
    assert fingerprint(manifests.parse(reply["body"])) == fingerprint(MANIFEST)


# --- the reader of records -----------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
FIELDS = ("bins", "Rows", "unseen_rows", "missing_counts", "unseen_counts", "model", "message")
RECORDS = st.dictionaries(st.sampled_from(FIELDS), JSON)
NUMBERS = st.lists(st.integers(1, BINS) | st.lists(st.integers(1, BINS)), min_size=11, max_size=11)


@settings(deadline=None)
@given(st.lists(RECORDS | JSON, max_size=5), st.lists(st.text(), max_size=3))
def test_any_line_is_counted_or_passed_over(records: list[Any], texts: list[str]) -> None:
    counts = Counts(targets(MANIFEST))
    for record in monitor.parse([*map(json.dumps, records), *texts]):
        before = json.dumps(counts.by_target)
        monitor._has_mark(record, "x")
        if not counts.add_bins(record):
            assert json.dumps(counts.by_target) == before
    assert min(map(min, counts.by_target)) >= 0


@settings(deadline=None)
@given(st.lists(st.tuples(NUMBERS, st.integers(0, 100)), max_size=5))
def test_periods_add_up_to_their_records(records: list[tuple[list[Any], int]]) -> None:
    whole, total = Counts(targets(MANIFEST)), Counts(targets(MANIFEST))
    for bins, count in records:
        record = {"bins": bins, "Rows": count, "missing_counts": {"glucose": 1}}
        period = Counts(targets(MANIFEST))
        assert period.add_bins(record)
        whole.add_bins(record)
        total.add_counts(json.loads(json.dumps(period.as_fields())))
    assert total.as_fields() == whole.as_fields()
    assert sum(map(sum, total.by_target)) == sum(
        len(numbers) if isinstance(numbers, list) else 1 for bins, _ in records for numbers in bins
    )


def test_a_record_of_another_width_is_passed_over() -> None:
    counts = Counts(targets(MANIFEST))
    assert not counts.add_bins({"bins": [1] * 10, "Rows": 1})
    assert not counts.add_bins({"bins": [11] * 11, "Rows": 1})
    counts.add_counts({"counts": [[1] * BINS] * 10, "rows": 10})
    assert counts.as_fields() == {}
    assert counts.decide(MANIFEST.alarms, 1) == Decision((), (), False, ())
