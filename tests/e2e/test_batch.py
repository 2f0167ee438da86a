"""Batches in containers: upload, state machine, functions and output, and what breaks them.

ministack runs the synthesised state machine: S3's events, the rule, the Distributed Map with its
reader and failure tolerance, Retry and Catch. It knows neither jitter nor MaxDelaySeconds, starts
no more than it is allowed, and keeps each history whole. So the waits are shortened after the
deployment. Between the functions and ministack a proxy throttles S3 and kills containers.

ANSWERABLE_BATCH_ROWS=1000000 runs a million rows in 100 parts.
"""

import gzip
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handler import manifest as manifests
from tests.e2e import emulator
from tests.e2e.conftest import Images
from tests.e2e.emulator import ACCOUNT, REGION, Tools
from tests.e2e.test_deploy import STACK, Cloud, account, bridge
from tests.fixtures.artifact import DIABETES

ROWS = int(os.environ.get("ANSWERABLE_BATCH_ROWS", "60000"))
PARTS = max(12, ROWS // 10_000)
THROTTLE_EVERY = 15  # calls of S3 for an object
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>"


class Faults:
    """What the proxy does. `poisoned`: a part whose worker is killed each time."""

    def __init__(self) -> None:
        self.is_on = False
        self.poisoned = -1
        self.killed: Counter[int] = Counter()
        self.throttled = self._calls = 0
        self._lock = threading.Lock()

    def throttles(self, path: str) -> bool:
        """Return whether this call of S3 is throttled."""
        with self._lock:
            self._calls += 1
            throttles = self.is_on and "/runs/" in path and self._calls % THROTTLE_EVERY == 0
            self.throttled += throttles
            return throttles

    def kills(self, method: str, path: str) -> bool:
        """Return whether the worker that writes a part is killed: every fifth once."""
        name = path.partition("?")[0].rpartition("/")[2]
        if not self.is_on or method != "PUT" or "/part-" not in path or "/summaries/" in path:
            return False
        number = int(name[5:10])
        with self._lock:
            kills = number == self.poisoned or (number % 5 == 0 and not self.killed[number])
            self.killed[number] += kills
            return kills


class Proxy(BaseHTTPRequestHandler):
    """Passes calls on to ministack."""

    protocol_version = "HTTP/1.1"
    faults: Faults
    docker: str
    target: tuple[str, int]

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.faults.throttles(self.path):
            return self.answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
        kills = self.faults.kills(self.command, self.path)
        is_written = self.faults.killed.total() % 2  # killed before or after the part is there
        if not kills or is_written:
            connection = http.client.HTTPConnection(*self.target, timeout=60)
            headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            content = response.read()
            connection.close()
        if kills:
            self.kill_caller()
            return None
        return self.answer(response.status, response.getheaders(), content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward  # noqa: N815

    def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        skipped = {"transfer-encoding", "connection", "date", "server"}
        skipped |= set() if self.command == "HEAD" else {"content-length"}
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in skipped:
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def kill_caller(self) -> None:
        """Kill the container that the call comes from."""
        self.close_connection = True
        ids = subprocess.run([self.docker, "ps", "-q"], capture_output=True, text=True, check=True)
        show = "{{.Id}} {{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        inspect = [self.docker, "inspect", "--format", show, *ids.stdout.split()]
        lines = subprocess.run(inspect, capture_output=True, text=True, check=False).stdout
        for id, *addresses in map(str.split, lines.splitlines()):
            if self.client_address[0] in addresses:
                subprocess.run([self.docker, "kill", id], capture_output=True, check=True)


class Server(ThreadingHTTPServer):
    """The proxy's, which says nothing of calls that were cut off."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def faults() -> Faults:
    return Faults()


@pytest.fixture(scope="module")
def cloud(
    answerable: Tools, faults: Faults, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cloud]:
    host, port = bridge(answerable), emulator.free_port()
    attributes = {"faults": faults, "docker": answerable.docker, "target": (host, port)}
    server = Server((host, 0), type("Handler", (Proxy,), attributes))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    directory = tmp_path_factory.mktemp("cloud")
    with account(answerable, directory, port, server.server_port) as running:
        yield running
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def stack(answerable: Tools, cloud: Cloud, images: Images) -> dict[str, str]:
    subprocess.run(
        [sys.executable, "-m", "answerable", "image", "--parquet", "--tag", images.name("first")],
        cwd=images.first,
        env=emulator.environment(DOCKER=answerable.docker, BASE_IMAGE=answerable.base),
        check=True,
    )
    cloud.cdk("bootstrap", f"aws://{ACCOUNT}/{REGION}", tree=images.first)
    settings = ["batch=true", "batch_parquet=true", "batch_key=customer", "batch_concurrency=4"]
    outputs = cloud.deploy(images.first, "first", *settings)
    client, arn = cloud.client("stepfunctions"), outputs["BatchStateMachine"]
    definition = client.describe_state_machine(stateMachineArn=arn)["definition"]
    quick = json.loads(definition, object_hook=_quickly)
    client.update_state_machine(stateMachineArn=arn, definition=json.dumps(quick))
    return outputs


def _quickly(fields: dict[str, Any]) -> dict[str, Any]:
    if fields.get("MaxAttempts"):
        fields |= {"IntervalSeconds": 1, "BackoffRate": 1, "MaxAttempts": 3}
    return fields


def table(count: int) -> list[dict[str, Any]]:
    """Return valid rows with distinct keys."""
    features = {f.name: f.example for f in manifests.read(DIABETES).features}
    return [{"customer": f"c{i:07}", **features, "age": 20 + i % 60} for i in range(count)]


def runs(cloud: Cloud, stack: dict[str, str]) -> list[str]:
    listed = cloud.client("s3").list_objects_v2(
        Bucket=stack["BatchBucket"], Prefix="runs/", Delimiter="/"
    )
    return [item["Prefix"].split("/")[1] for item in listed.get("CommonPrefixes", ())]


def upload(cloud: Cloud, stack: dict[str, str], path: Path) -> str:
    """Upload a file; return the id of the run that it starts."""
    before = set(runs(cloud, stack))
    bucket = stack["BatchBucket"]
    cloud.client("s3").upload_file(str(path), bucket, f"input/{path.name}")
    end = time.monotonic() + 60
    while not (new := set(runs(cloud, stack)) - before):
        assert time.monotonic() < end, "no run began"
        time.sleep(0.2)
    return new.pop()


def command(cloud: Cloud, *words: str) -> dict[str, Any]:
    """Run `answerable batch` with the stack; return what it prints."""
    run = subprocess.run(
        [sys.executable, "-m", "answerable", "batch", *words, "--stack", STACK],
        env=cloud.environment | {"AWS_DEFAULT_REGION": REGION},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in (0, 1), run.stderr
    # a run that an upload starts is there when it is planned
    return dict(json.loads(run.stdout or '{"status": "queued"}'))


def finished(cloud: Cloud, run: str, seconds: float = 600) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while (status := command(cloud, "status", run))["status"] in ("queued", "running"):
        assert time.monotonic() < end, status
        time.sleep(1)
    return status


def read(cloud: Cloud, stack: dict[str, str], run: str, name: str) -> bytes:
    key = {"Bucket": stack["BatchBucket"], "Key": f"runs/{run}/{name}"}
    content: bytes = cloud.client("s3").get_object(**key)["Body"].read()
    return content


@pytest.mark.fault(
    "containers of a batch are killed, S3 throttles it, one part kills every worker",
    "the run says so, `answerable batch resume` ends it, and each row has one prediction",
)
def test_an_upload_is_scored_once_whatever_breaks(
    cloud: Cloud, stack: dict[str, str], faults: Faults, tmp_path: Path
) -> None:
    path, names = tmp_path / "customers.csv", list(table(1)[0])
    with path.open("w") as file:
        file.write(",".join(names) + "\n")
        rows = table(60)
        cells = [",".join(str(value) for value in [*row.values()][1:]) for row in rows]
        file.writelines(f"c{i:07},{cells[i % 60]}\n" for i in range(ROWS))
        file.write("cbad,old\n")
    faults.is_on, faults.poisoned = True, 7
    start = time.monotonic()
    request = {"input": f"s3://{stack['BatchBucket']}/lake/customers.csv"}
    cloud.client("s3").upload_file(str(path), stack["BatchBucket"], "lake/customers.csv")
    run = "big"
    options = {"part_bytes": path.stat().st_size // PARTS}
    cloud.client("stepfunctions").start_execution(
        stateMachineArn=stack["BatchStateMachine"],
        input=json.dumps({"run": run, **request, "options": options}),
    )
    status = finished(cloud, run)
    assert status["status"] == "failed", status
    assert status["parts_done"] == status["parts"] - 1
    faults.poisoned = -1
    status = command(cloud, "resume", run, "--wait")
    assert status["status"] == "succeeded", status
    seconds = time.monotonic() - start
    faults.is_on = False
    assert (status["rows"], status["refused"]) == (ROWS + 1, 1)
    manifest = json.loads(read(cloud, stack, run, "manifest.json"))
    assert len(manifest["parts"]) == PARTS
    assert set(faults.killed) >= {7, *range(0, PARTS, 5)}
    assert faults.throttled > 5
    seen = bytearray(ROWS)
    for part in manifest["parts"]:
        for line in read(cloud, stack, run, part["file"]).splitlines():
            seen[int(json.loads(line)["key"][1:])] += 1
    assert seen == bytearray(b"\1") * ROWS  # none lost, none doubled
    print(f"{ROWS} rows, {PARTS} parts, {faults.killed.total()} kills, {faults.throttled} "
          f"throttled calls, {seconds:.0f} s")  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "csv.gz", "jsonl.gz", "parquet"])
def test_a_bad_row_of_each_format_is_refused(
    cloud: Cloud, stack: dict[str, str], tmp_path: Path, suffix: str
) -> None:
    rows = table(60)
    rows[31]["age"] = -4000
    path = tmp_path / f"small.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = map(json.dumps, rows)
        if "csv" in suffix:
            cells = ([("" if v is None else str(v)) for v in row.values()] for row in rows)
            lines = map(",".join, [list(rows[0]), *cells])
        text = "".join(f"{line}\n" for line in lines).encode()
        path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    run = upload(cloud, stack, path)
    status = finished(cloud, run)
    assert (status["status"], status["rows"], status["refused"]) == ("succeeded", 60, 1), status
    (refusal,) = read(cloud, stack, run, "refused/part-00000.jsonl").splitlines()
    assert json.loads(refusal)["row"] == 31
    assert json.loads(refusal)["pointer"] == "/age"
    assert b"4000" not in refusal
    (part,) = json.loads(read(cloud, stack, run, "manifest.json"))["parts"]
    content = read(cloud, stack, run, part["file"])
    if suffix == "parquet":
        keys = pq.read_table(pa.BufferReader(content))["key"].to_pylist()
    else:
        keys = [json.loads(line)["key"] for line in content.splitlines()]
    assert keys == [row["customer"] for i, row in enumerate(rows) if i != 31]


def test_a_wrong_file_fails_and_says_why(
    cloud: Cloud, stack: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text("customer,age\nc1,30\n")
    status = finished(cloud, upload(cloud, stack, path))
    assert status["status"] == "failed"
    assert "the column" in status["problem"]
