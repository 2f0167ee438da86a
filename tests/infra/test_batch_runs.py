"""Runs of the synthesised state machine, from an upload to the manifest, and what breaks them."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from answerable.__main__ import main
from answerable.commands import batch, explain, report
from handler import app, prediction_id
from handler import manifest as manifests
from handler.batch import api
from handler.errors import BadRequest, ContractViolation, NotFound
from handler.settings import Settings
from tests.fixtures import artifact, batch_cloud, events
from tests.fixtures.batch_cloud import BUCKET, Cloud, ExitError
from tests.infra.conftest import Synth
from tests.infra.test_batch import definition
from tests.unit.test_batch import rows_of, write_rows


@pytest.fixture(scope="session")
def machine(synth: Synth) -> dict[str, Any]:
    """The definition, its references resolved and its waits short."""
    template = synth.template("batch=true", "max_concurrency=9", "batch_key=customer")
    text = json.dumps(definition(template))
    for name in (*template.all("AWS::Lambda::Function"), *template.all("AWS::S3::Bucket")):
        value = BUCKET if "Bucket" in name else "control" if "Control" in name else "worker"
        text = text.replace(f"${{{name}}}", value)
    text = text.replace("${AWS::Partition}", "aws")
    assert "${" not in text
    return dict(json.loads(text, object_hook=_without_waits))


def _without_waits(fields: dict[str, Any]) -> dict[str, Any]:
    if "IntervalSeconds" in fields:
        fields |= {"IntervalSeconds": 1, "MaxDelaySeconds": 2, "JitterStrategy": "FULL"}
    return fields


@pytest.fixture
def cloud(
    machine: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cloud]:
    limits = {"rows": 100, "body_bytes": 10**6, "response_bytes": 10**6, "elements": 10**4}
    model = artifact.echo(tmp_path / "model", limits=limits)
    with batch_cloud.start(machine, model, monkeypatch) as running:
        yield running


OPTIONS = {"part_bytes": 2000}


def request(cloud: Cloud, path: Path, run: str = "r1", **options: Any) -> dict[str, Any]:
    uri = cloud.put(path, f"input/{path.name}")
    return {"run": run, "input": uri, "options": OPTIONS | options}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "jsonl.gz", "parquet"])
def test_batch_run_scores_each_row_once(cloud: Cloud, tmp_path: Path, suffix: str) -> None:
    inputs = write_rows(tmp_path / f"in.{suffix}", rows_of(300))
    assert cloud.run(**request(cloud, inputs)) == "SUCCEEDED"
    names = cloud.names("r1")
    assert {"_SUCCESS", "manifest.json", "plan.json", "shards.json"} <= names
    manifest = json.loads(cloud.read("r1", "manifest.json"))
    assert (manifest["rows"], manifest["refused"]) == (300, 0)
    assert manifest["function_version"] == "2"
    if suffix != "parquet":
        assert [row["key"] for row in cloud.rows("r1")] == [f"c{i}" for i in range(300)]
    steps = Counter(step for step, _ in cloud.functions.calls)
    assert steps == {"pin": 1, "plan": 1, "part": len(manifest["parts"]), "finish": 1}


def test_batch_upload_starts_a_run_of_its_own(cloud: Cloud, tmp_path: Path) -> None:
    inputs = write_rows(tmp_path / "in.csv", rows_of(30))
    cloud.put(inputs, "input/in.csv")
    detail = {
        "bucket": {"name": BUCKET},
        "object": {"key": "input/in.csv", "etag": "e", "sequencer": "1"},
    }
    again = {
        "bucket": {"name": BUCKET},
        "object": {"key": "input/in.csv", "etag": "e", "sequencer": "2"},
    }
    assert cloud.run(**detail) == cloud.run(**again) == cloud.run(**detail) == "SUCCEEDED"
    listed = cloud.s3.list_objects_v2(Bucket=BUCKET, Prefix="runs/", Delimiter="/")
    assert len(listed["CommonPrefixes"]) == 2  # an event that comes twice is one run
    run = listed["CommonPrefixes"][0]["Prefix"].split("/")[1]
    assert [row["key"] for row in cloud.rows(run)] == [f"c{i}" for i in range(30)]


def test_batch_steps_keep_the_version_that_was_live(cloud: Cloud, tmp_path: Path) -> None:
    for versions in cloud.functions.versions.values():
        versions["3"] = "test 1.3.0"  # deployed, and still in its canary
    inputs = write_rows(tmp_path / "in.csv", rows_of(100))
    assert cloud.run(**request(cloud, inputs)) == "SUCCEEDED"
    called = {name for step, name in cloud.functions.calls if step in ("plan", "part")}
    assert called == {"worker:2"}
    # a rollback of the API during a run changes nothing when the run is resumed
    cloud.functions.live = "1"
    assert cloud.run(**request(cloud, inputs)) == "SUCCEEDED"
    assert {name for step, name in cloud.functions.calls if step == "part"} == {"worker:2"}


def test_batch_without_a_version_of_the_live_model_fails(cloud: Cloud, tmp_path: Path) -> None:
    del cloud.functions.versions["worker"]["2"]
    inputs = write_rows(tmp_path / "in.csv", rows_of(10))
    assert cloud.run(**request(cloud, inputs)) == "FAILED"
    assert b"has the model that is live, test 1.2.3" in cloud.read("r1", "failed.json")


@pytest.mark.fault("workers of a batch are killed", "others score their parts, each row once")
def test_batch_killed_workers_lose_and_double_nothing(cloud: Cloud, tmp_path: Path) -> None:
    killed: Counter[int] = Counter()

    def kill(event: dict[str, Any]) -> None:
        number = event.get("shard", {}).get("number", -1)
        if number % 3 == 0 and killed[number] < 2:
            killed[number] += 1
            raise ExitError

    cloud.functions.fault = kill
    inputs = write_rows(tmp_path / "in.csv", rows_of(300))
    assert cloud.run(**request(cloud, inputs)) == "SUCCEEDED"
    assert sum(killed.values()) == 4
    assert [row["key"] for row in cloud.rows("r1")] == [f"c{i}" for i in range(300)]


@pytest.mark.fault("S3 throttles a batch", "the calls are repeated, in the client and by the map")
def test_batch_throttled_s3_delays_the_run(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import ClientError

    from handler.batch.storage import Bucket

    call, throttled, draw = Bucket._call, Counter[str](), random.Random(20261128)

    def throttle(self: Bucket, name: str, **parameters: Any) -> Any:
        if name in ("put_object", "get_object") and draw.random() < 0.1:
            throttled[name] += 1
            raise ClientError({"Error": {"Code": "SlowDown"}}, name)
        return call(self, name, **parameters)

    monkeypatch.setattr(Bucket, "_call", throttle)
    inputs = write_rows(tmp_path / "in.csv", rows_of(300))
    status = cloud.run(**request(cloud, inputs))
    assert status == "SUCCEEDED", cloud.read("r1", "failed.json")
    assert min(throttled["put_object"], throttled["get_object"]) > 0
    assert [row["key"] for row in cloud.rows("r1")] == [f"c{i}" for i in range(300)]


@pytest.mark.fault("a part of a batch always fails", "the run fails, says so, and can be resumed")
def test_batch_a_poisoned_part_fails_the_run_which_resumes(cloud: Cloud, tmp_path: Path) -> None:
    def poison(event: dict[str, Any]) -> None:
        if event.get("shard", {}).get("number") == 4:
            raise ExitError

    cloud.functions.fault = poison
    inputs = write_rows(tmp_path / "in.csv", rows_of(300))
    wanted = request(cloud, inputs)
    assert cloud.run(**wanted) == "FAILED"
    assert "failed.json" in cloud.names("r1")
    assert "_SUCCESS" not in cloud.names("r1")
    before = {name: cloud.read("r1", name) for name in cloud.names("r1") if name[:4] == "part"}
    cloud.functions.fault = lambda event: None
    assert cloud.run(run="r1") == "SUCCEEDED"
    assert {name: cloud.read("r1", name) for name in before} == before
    assert "failed.json" not in cloud.names("r1")
    assert [row["key"] for row in cloud.rows("r1")] == [f"c{i}" for i in range(300)]


def test_batch_a_fault_of_the_input_is_not_repeated(cloud: Cloud, tmp_path: Path) -> None:
    rows = rows_of(300)
    for row in rows[200:]:
        row["colour"] = "green"
    inputs = write_rows(tmp_path / "in.csv", rows)
    assert cloud.run(**request(cloud, inputs, max_refused_percent=1)) == "FAILED"
    problem = json.loads(cloud.read("r1", "failed.json"))["problem"]
    assert "rows are refused, over the limit of 1 %" in problem
    assert "green" not in problem
    inputs = write_rows(tmp_path / "empty.csv", rows_of(1))
    inputs.write_text("")
    assert cloud.run(**request(cloud, inputs, run="r2")) == "FAILED"
    config = Settings(None, batch_bucket=BUCKET)
    status = api.get(config, "r2")["batch"]
    assert (status["status"], status["problem"]) == ("failed", "there is no input file")
    assert Counter(step for step, _ in cloud.functions.calls)["plan"] == 2


def test_batch_an_object_that_changes_fails_the_run(cloud: Cloud, tmp_path: Path) -> None:
    inputs = write_rows(tmp_path / "in.csv", rows_of(300))
    wanted = request(cloud, inputs)

    def change(event: dict[str, Any]) -> None:
        if event.get("shard", {}).get("number") == 2:
            cloud.s3.put_object(Bucket=BUCKET, Key="input/in.csv", Body=b"other")

    cloud.functions.fault = change
    assert cloud.run(**wanted) == "FAILED"
    assert b"the input changed" in cloud.read("r1", "failed.json")


def test_batch_records_of_parts_feed_drift_and_explain(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = write_rows(tmp_path / "in.csv", rows_of(300))
    assert cloud.run(**request(cloud, inputs)) == "SUCCEEDED"
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    jobs = [line for line in lines if line["message"] == "job"]
    assert sum(line["rows"] for line in jobs) == 300
    rows = cloud.rows("r1")
    prefixes = {line["prediction_id_prefix"] for line in jobs}
    assert rows[0]["id"][:28] in prefixes
    assert prediction_id.parse(rows[0]["id"]).source == prediction_id.BATCH
    assert all(line["Jobs"] == 1 for line in lines if line["message"] == "batch")
    # each prediction leads to the record of its part, and to no other
    texts = [json.dumps(line) for line in lines]
    for row in (rows[0], rows[-1], rows[150]):
        (record,) = explain._matching(texts, prediction_id.parse(row["id"]))
        start = prediction_id.nonce_of(record["prediction_id_prefix"])
        nonce = prediction_id.nonce_of(row["id"][:28])
        assert 0 <= (nonce - start) % 2**32 < record["runs"]


def test_batch_records_fill_the_report(
    machine: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with batch_cloud.start(machine, artifact.DIABETES, monkeypatch) as cloud:
        example = {f.name: f.example for f in manifests.read(artifact.DIABETES).features}
        rows = [{"customer": f"c{i}", **example, "age": 20 + i % 60} for i in range(3000)]
        assert cloud.run(**request(cloud, write_rows(tmp_path / "in.csv", rows))) == "SUCCEEDED"
    records = tmp_path / "records.jsonl"
    records.write_text(capsys.readouterr().out)
    kinds = Counter(json.loads(line)["message"] for line in records.read_text().splitlines())
    arguments = ["--model", str(artifact.DIABETES), "--output", str(tmp_path / "report.html")]
    assert main(["report", str(records), *arguments]) == 0
    assert f"{kinds['batch']} records of diabetes" in capsys.readouterr().err
    periods = [*report._periods(manifests.read(artifact.DIABETES), [*report.read(str(records))])]
    assert len(periods) == kinds["batch"] > 0
    assert all(counts.rows for _, _, counts in periods)


# the API


def test_batch_of_another_caller_is_not_found(cloud: Cloud, tmp_path: Path) -> None:
    config = Settings(tmp_path / "model", batch_bucket=BUCKET, batch_state_machine=cloud._machine)
    handler = app.create(config)
    uri = cloud.put(write_rows(tmp_path / "in.csv", rows_of(50)), "input/in.csv")

    def call(event: dict[str, Any], key: str | None) -> Any:
        event["requestContext"] |= {"identity": {"apiKeyId": key}} if key else {}
        return handler(event, events.Context())

    upload = events.rest(None, "/batches") | {"queryStringParameters": {"upload": ""}}
    for start in (events.rest(json.dumps({"input": uri}), "/batches"), upload):
        id = json.loads(call(start, "alice")["body"])["batch"]["id"]
        path = f"/batches/{id}"
        assert call(events.rest(None, path, "GET"), "alice")["statusCode"] == 200
        for other in ("bob", None):
            assert call(events.rest(None, path, "GET"), other)["statusCode"] == 404
        assert api.get(config, id, None)["batch"]["id"] == id
        assert "alice" not in str(cloud.read(id, "request.json"))
    id = json.loads(call(events.rest(json.dumps({"input": uri}), "/batches"), None)["body"])
    path = f"/batches/{id['batch']['id']}"
    assert call(events.rest(None, path, "GET"), "bob")["statusCode"] == 200  # as a job


def test_batch_api_starts_uploads_and_reports(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Settings(
        None,
        batch_bucket=BUCKET,
        batch_state_machine=cloud._machine,
        batch_input_uris=("s3://lake/",),
    )
    uri = cloud.put(write_rows(tmp_path / "in.csv", rows_of(50)), "input/in.csv")
    id = api.start(config, json.dumps({"input": uri, "key": "customer"}))["batch"]["id"]
    while (status := api.get(config, id)["batch"])["status"] in ("queued", "running"):
        pass
    assert (status["status"], status["rows"], status["usd"]) == ("succeeded", 50, 0)
    upload = api.upload(config)
    assert upload["upload"]["url"].startswith(f"https://{BUCKET}.s3.amazonaws.com/input/uploads/")
    assert api.get(config, upload["batch"]["id"])["batch"]["status"] == "queued"
    cloud.put(tmp_path / "in.csv", f"input/uploads/{upload['batch']['id']}")
    key = {"key": f"input/uploads/{upload['batch']['id']}", "etag": "e"}
    assert cloud.run(bucket={"name": BUCKET}, object=key) == "SUCCEEDED"
    assert api.get(config, upload["batch"]["id"])["batch"]["rows"] == 50
    for other in ("none", "../secret", "x" * 65):
        with pytest.raises(NotFound):
            api.get(config, other)


def test_batch_routes_answer_over_http(cloud: Cloud, tmp_path: Path) -> None:
    config = Settings(tmp_path / "model", batch_bucket=BUCKET, batch_state_machine=cloud._machine)
    handler = app.create(config)
    uri = cloud.put(write_rows(tmp_path / "in.csv", rows_of(50)), "input/in.csv")
    event = events.rest(json.dumps({"input": uri, "key": "customer"}), "/batches")
    started = handler(event, events.Context())
    assert started["statusCode"] == 202
    id = json.loads(started["body"])["batch"]["id"]
    assert started["headers"]["location"] == f"batches/{id}"
    got = handler(events.rest(None, f"/batches/{id}", "GET"), events.Context())
    assert json.loads(got["body"])["batch"]["id"] == id
    event = events.rest(None, "/batches") | {"queryStringParameters": {"upload": ""}}
    assert "upload" in json.loads(handler(event, events.Context())["body"])
    assert handler(events.rest(None, "/batches"), events.Context())["statusCode"] == 400
    bare = app.create(config._replace(batch_state_machine=""))
    assert bare(events.rest("{}", "/batches"), events.Context())["statusCode"] == 404


def test_batch_command_runs_on_a_stack(
    cloud: Cloud,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outputs = {"BatchBucket": BUCKET, "BatchStateMachine": cloud._machine}
    monkeypatch.setattr("answerable.stack.stack_outputs", lambda stack: outputs)
    monkeypatch.setattr(batch, "POLL_SECONDS", 0.05)
    boto3.client("cloudformation").create_stack(StackName="s", TemplateBody='{"Resources": {}}')
    uri = cloud.put(write_rows(tmp_path / "in.csv", rows_of(300)), "elsewhere/in.csv")

    def command(*words: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["batch", *words, "--stack", "s"]) in (0, 1)
        lines = capsys.readouterr().out.splitlines()
        return dict(json.loads("\n".join(line for line in lines if "INFO" not in line)))

    done = command(uri, "--key", "customer", "--wait")
    assert (done["status"], done["rows"]) == ("succeeded", 300)
    assert command("status", done["id"])["rows"] == 300

    def poison(event: dict[str, Any]) -> None:
        if event["step"] == "part":
            raise ExitError

    cloud.functions.fault = poison
    failed = command(uri, "--key", "customer", "--wait")
    assert failed["status"] == "failed"
    cloud.functions.fault = lambda event: None
    resumed = command("resume", failed["id"], "--wait")
    assert (resumed["status"], resumed["rows"]) == ("succeeded", 300)


@pytest.mark.parametrize(
    "body",
    [
        "[]", "{", "{}", '{"input": 3}', '{"input": "s3://other/x"}',
        f'{{"input": "s3://{BUCKET}/runs/r1/part-00000.jsonl"}}',
        f'{{"input": "s3://{BUCKET}/input/x", "key": 3}}',
        f'{{"input": "s3://{BUCKET}/input/x", "max_refused_percent": 101}}',
        f'{{"input": "s3://{BUCKET}/input/x", "max_refused_percent": true}}',
        f'{{"input": "s3://{BUCKET}/input/x", "secret": 1}}',
    ],
)  # fmt: skip
def test_batch_api_refuses_what_is_not_allowed(body: str) -> None:
    with pytest.raises((BadRequest, ContractViolation)) as raised:
        api.start(Settings(None, batch_bucket=BUCKET), body)
    assert "secret" not in str(raised.value.violations)


@pytest.mark.slow
@pytest.mark.fault("workers are killed over a million rows in 100 parts", "each row has one answer")
def test_batch_a_million_rows_in_a_hundred_parts(
    machine: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx import helper

    node = helper.make_node("Identity", ["x"], ["y"])
    model = artifact.ratio(tmp_path / "model", node)
    count = 1_000_000
    inputs = tmp_path / "in.csv"
    with inputs.open("w") as file:
        file.write("customer,x\n")
        file.writelines(f"{i:07},{i % 1000}\n" for i in range(count))
    killed: Counter[int] = Counter()

    def kill(event: dict[str, Any]) -> None:
        number = event.get("shard", {}).get("number", -1)
        if number % 5 == 0 and killed[number] < 1:
            killed[number] += 1
            raise ExitError

    with batch_cloud.start(machine, model, monkeypatch) as cloud:
        cloud.functions.fault = kill
        size = inputs.stat().st_size // 100
        assert cloud.run(**request(cloud, inputs, part_bytes=size)) == "SUCCEEDED"
        manifest = json.loads(cloud.read("r1", "manifest.json"))
        assert len(manifest["parts"]) == 100
        assert sum(killed.values()) == 20
        seen = bytearray(count)
        for part in manifest["parts"]:
            for line in cloud.read("r1", part["file"]).splitlines():
                seen[int(json.loads(line)["key"])] += 1
        assert seen == bytearray(b"\1") * count
