"""The deployed drift monitor over the records that the deployed API has written."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from answerable.simulation import cloudwatch, plan
from answerable.simulation.cloudwatch import Metrics
from tests.e2e.conftest import Images
from tests.e2e.emulator import ACCOUNT, REGION, Tools
from tests.e2e.test_deploy import Cloud, account
from tests.fixtures import emf
from tests.fixtures.artifact import PROJECT

HOUR_MS = 3_600_000
JSON = {"content-type": "application/json"}
train: Any = pytest.importorskip("examples.diabetes.train", reason="the examples are deleted")


@pytest.fixture(scope="module")
def cloud(answerable: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with account(answerable, tmp_path_factory.mktemp("drift")) as running:
        yield running


def patients(seed: int, **change: Any) -> list[dict[str, Any]]:
    """Rows of the study, as the baseline was measured on them."""
    rows = train.patients()[0].tolist()
    drawn = np.random.default_rng(seed).integers(0, len(rows), 320)
    return [
        {
            name: None if value != value else int(value) if name == "age" else value
            for name, value in zip(train.NAMES, rows[i], strict=True)
        }
        | change
        for i in drawn
    ]


def predict(cloud: Cloud, outputs: dict[str, str], rows: list[dict[str, Any]]) -> None:
    for i in range(0, len(rows), 32):  # which are all binned
        body = json.dumps({"instances": rows[i : i + 32]}).encode()
        assert cloud.call(outputs, "POST", "/predict", body=body, headers=JSON).status == 200


def log_group(cloud: Cloud, part: str) -> str:
    groups = cloud.client("logs").describe_log_groups()["logGroups"]
    (name,) = [g["logGroupName"] for g in groups if part in g["logGroupName"]]
    return str(name)


def messages(cloud: Cloud, group: str) -> list[str]:
    pages = cloud.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group)
    return [event["message"] for page in pages for event in page["events"]]


def run(cloud: Cloud, hour: int) -> list[dict[str, Any]]:
    """Run the monitor after an hour; return all records that it has written by then."""
    functions = cloud.client("lambda")
    (name,) = [
        function["FunctionName"]
        for function in functions.list_functions()["Functions"]
        if "DriftFunction" in function["FunctionName"]
    ]
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((hour + 1) * 3600 + 600))
    reply = functions.invoke(FunctionName=name, Payload=json.dumps({"time": moment}))
    assert "FunctionError" not in reply, reply["Payload"].read()
    lines = messages(cloud, log_group(cloud, "DriftLogs"))
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_quiet_without_drift_alarm_with_it_silent_when_stopped(
    cloud: Cloud, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if time.time() % 3600 > 3300:  # the requests belong into one hour
        time.sleep(3600 - time.time() % 3600)
    hour = int(time.time()) // 3600
    tree = images.first
    cloud.cdk("bootstrap", f"aws://{ACCOUNT}/{REGION}", tree=tree)
    outputs = cloud.deploy(tree, "first")

    predict(cloud, outputs, patients(1))
    (quiet,) = run(cloud, hour)
    assert (quiet["rows"], quiet["period"]) == (320, hour * HOUR_MS)
    assert not {"drifted_inputs", "drifted_outputs", "unseen_inputs"} & quiet.keys()
    assert run(cloud, hour) == [quiet]  # again is no harm

    # the records of a lost sensor, an hour later
    group, logs = log_group(cloud, "ScoringLogs"), cloud.client("logs")
    before = set(messages(cloud, group))
    predict(cloud, outputs, patients(2, glucose=None))
    lost = [line for line in messages(cloud, group) if line not in before and '"bins"' in line]
    logs.create_log_stream(logGroupName=group, logStreamName="later")
    logs.put_log_events(
        logGroupName=group,
        logStreamName="later",
        logEvents=[
            {"timestamp": (hour + 1) * HOUR_MS + i, "message": line} for i, line in enumerate(lost)
        ],
    )
    drifted = run(cloud, hour + 1)[-1]
    assert drifted["rows"] == 320
    assert [target["name"] for target in drifted["drifted_inputs"]] == ["glucose"]
    assert drifted["DriftedInputs"] == 1

    # the alarms of the template over what the monitor wrote
    monkeypatch.chdir(tmp_path)  # the repository's deploy.toml has no stage of this name
    template = plan.synthesise(PROJECT / "model_artifacts", "diabetes", {"stage": "test"})
    alarms = {alarm.name: alarm.properties for alarm in plan.read(template).alarms}
    metrics = emf.metrics([quiet, drifted])
    now = drifted["timestamp"] + 60_000
    for name, state in (("drift-inputs", "ALARM"), ("drift-outputs", "OK")):
        point = cloudwatch.evaluate_at(alarms[f"test-diabetes-{name}"], metrics, now)
        assert point.state == state, name

    # it ran just now, and then nobody starts it any more
    silent, invocations = alarms["test-diabetes-drift-silent"], Metrics()
    for key in cloudwatch.keys(silent):
        for record in (quiet, drifted):
            value = int(key[1] == "Invocations")
            invocations.add_value(key, record["timestamp"], value)
    assert cloudwatch.evaluate_at(silent, invocations, now).state == "OK"
    later = cloudwatch.evaluate_at(silent, invocations, now + 8 * HOUR_MS)
    assert later.state == "INSUFFICIENT_DATA"  # which notifies
