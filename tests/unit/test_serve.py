import contextlib
import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import uvicorn

from answerable.commands import serve
from answerable.local import event_sources, local_lambda
from answerable.local.event_sources import HttpRequest
from answerable.local.local_lambda import LocalLambda
from handler import prediction_id, scoring
from handler.errors import ArtifactError
from handler.prediction_id import BadId
from tests.fixtures import artifact

ROW = {"ratio": 0.5, "count": 3, "colour": "red", "open": True, "note/~": "é'", "serum": None}
ANSWER = {"ratio": 0.5, "count": 3, "colour": ["red"], "open": [True], "note": ["é'"],
          "serum": [True]}  # fmt: skip
BODY = orjson.dumps({"instances": [ROW]})
JSON = {"content-type": "application/json"}
POLL = 0.02


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(POLL / 2)


@contextlib.contextmanager
def serving(
    directory: Path, event_source: str = "rest", said: list[str] | None = None
) -> Iterator[httpx.Client]:
    """A client of the real server, in a thread."""
    say: list[str] = [] if said is None else said
    app = serve.create_app(LocalLambda(directory, event_source), say.append, POLL)
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client(echo_dir: Path) -> Iterator[httpx.Client]:
    with serving(echo_dir) as client:
        yield client


def predictions(answer: httpx.Response) -> list[dict[str, Any]]:
    """Without their ids, which are never the same twice."""
    found: list[dict[str, Any]] = answer.json()["predictions"]
    return [{name: value for name, value in one.items() if name != "id"} for one in found]


@pytest.mark.parametrize("event_source", list(event_sources.EVENT_SOURCES))
def test_every_event_source_gives_the_same_answer(echo_dir: Path, event_source: str) -> None:
    with serving(echo_dir, event_source) as client:
        answer = client.post("/predict?a=1", content=BODY, headers=JSON)
        assert (answer.status_code, predictions(answer)) == (200, [ANSWER])
        assert answer.headers["content-type"] == "application/json"
        assert re.fullmatch(r"handler;dur=\d+\.\d{3}", answer.headers["server-timing"])
        refused = client.post("/predict", content=b"{", headers=JSON)
        assert (refused.status_code, refused.headers["content-type"]) == (
            400,
            "application/problem+json",
        )


def test_the_report_is_of_this_run_and_loads_nothing(client: httpx.Client) -> None:
    page = client.get("/docs/report.html")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "script" not in page.text
    assert 'href="/docs/report.html"' in client.get("/", headers={"accept": "text/html"}).text


def test_the_answer_says_whose_request_it_was(client: httpx.Client) -> None:
    answer = client.get("/nowhere")
    assert answer.json()["instance"] == answer.headers["x-amzn-requestid"]


def test_bodies_that_are_no_plain_json(client: httpx.Client) -> None:
    packed = client.post(
        "/predict", content=gzip.compress(BODY), headers={**JSON, "content-encoding": "gzip"}
    )
    assert predictions(packed) == [ANSWER]
    binary = client.post(
        "/predict", content=b"\xff\x00", headers={"content-type": "application/octet-stream"}
    )
    assert binary.status_code == 415
    assert client.post("/predict", content=b'"\xff"', headers=JSON).status_code in (400, 422)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/ping", 200),
        ("GET", "/nowhere", 404),
        ("GET", "/predict", 405),
        ("HEAD", "/predict", 405),
        ("OPTIONS", "/predict", 405),
        ("DELETE", "/model", 405),
        ("GET", "/ping", 200),
        ("GET", "/model", 200),
        ("GET", "/openapi.json", 200),
    ],
)
def test_every_method_and_path_goes_to_the_handler(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert "server-timing" in answer.headers
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("event_source", "size", "told"),
    [
        ("rest", 10 * event_sources.MEBIBYTE + 1, "the event source takes bodies of at most 10 MB"),
        ("alb", event_sources.MEBIBYTE + 1, "the event source takes bodies of at most 1 MB"),
        ("rest", 7 * event_sources.MEBIBYTE, "the event is over Lambda's 6 MB"),
        ("rest", 5 * event_sources.MEBIBYTE, "the body is over the limit of 1000000 bytes"),
    ],
)
def test_too_large_for_the_event_source_for_lambda_or_for_the_contract(
    echo_dir: Path, event_source: str, size: int, told: str
) -> None:
    with serving(echo_dir, event_source) as client:
        answer = client.post("/predict", content=b" " * size, headers=JSON)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json()["status"], answer.json()["detail"]) == (413, told)


@pytest.mark.fault(
    "The function fails under `answerable serve`",
    "502, as the gateway has it",
)
def test_a_function_that_fails_is_a_502(
    echo_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(event: Any, context: Any) -> Any:
        raise RuntimeError("secret")

    local = LocalLambda(echo_dir)
    monkeypatch.setattr(local, "served", local.served._replace(handler=fail))
    answer = local.invoke(HttpRequest("GET", "/ping", []))
    assert (answer.status, orjson.loads(answer.body)["status"]) == (502, 502)
    assert b"secret" not in answer.body
    assert "secret" in capsys.readouterr().err  # where the developer looks


def test_the_context_is_like_lambdas() -> None:
    context = local_lambda.Context(2)
    assert 1900 < context.get_remaining_time_in_millis() <= 2000
    assert local_lambda.Context(-1).get_remaining_time_in_millis() == 0
    assert context.aws_request_id != local_lambda.Context(1).aws_request_id


def test_browsers_get_a_page_and_others_what_production_answers(client: httpx.Client) -> None:
    page = client.get("/", headers={"accept": "text/html,*/*;q=0.8"})
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert client.get("/").json()["links"]["predict"] == "predict"
    assert client.post("/", headers={"accept": "text/html"}).status_code == 405


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/docs", "text/html; charset=utf-8"),
        ("/docs/docs.js", "text/javascript; charset=utf-8"),
        ("/docs/start.css", "text/css; charset=utf-8"),
        ("/docs/start.js", "text/javascript; charset=utf-8"),
        ("/docs/swagger-ui.css", "text/css; charset=utf-8"),
        ("/docs/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("/docs/start.json", "application/json"),
        ("/docs/example.json", "application/json"),
    ],
)
def test_our_own_pages_are_local_and_strict(client: httpx.Client, path: str, kind: str) -> None:
    answer = client.get(path, headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    if "swagger-ui" not in path:
        assert not re.search(r"(?:src|href|url\()[=\"'(]*https?:", answer.text)


@pytest.mark.parametrize("name", ["serve.py", "..%2fserve.py", "%2e%2e/__main__.py", ""])
def test_nothing_else_is_served_from_the_disk(client: httpx.Client, name: str) -> None:
    assert client.get(f"/docs/{name}", follow_redirects=False).status_code in (307, 404)


def test_the_page_s_data_and_an_example_that_the_handler_takes(client: httpx.Client) -> None:
    data = client.get("/docs/start.json").json()
    assert data["model"]["name"] == "test"
    assert data["golden"][0]["instance"]["colour"] == "red"
    example = client.get("/docs/example.json").content
    assert client.post("/predict", content=example, headers=JSON).status_code == 200


def test_golden_rows_are_offered_as_far_as_a_page_can_carry_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"name": f"row {i}", "instance": {**ROW, "count": i}} for i in range(3)]
    directory = artifact.echo(tmp_path / "a")
    (directory / "golden.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    assert LocalLambda(directory).served.golden == rows
    monkeypatch.setattr(local_lambda, "MAX_PAGE_BYTES", 1)
    assert LocalLambda(directory).served.golden == rows[:1]
    (directory / "golden.jsonl").write_bytes(b"{}")
    with pytest.raises(ArtifactError, match="line 1 is not a golden row"):
        LocalLambda(directory)


@pytest.mark.fault(
    "The model under `answerable serve` is replaced by a broken one",
    "The one that works goes on serving",
)
def test_a_model_that_changes_is_reloaded_and_a_broken_one_is_not(tmp_path: Path) -> None:
    directory, said = artifact.echo(tmp_path / "model"), list[str]()
    with serving(directory, said=said) as client:

        def version() -> str:
            answer = client.post("/predict", content=BODY, headers=JSON)
            assert answer.status_code == 200
            return str(answer.json()["model"]["version"])

        assert version() == "1.2.3"
        # as `answerable pack` does it: the folder is gone for a moment
        artifact.echo(tmp_path / "new", version="2.0.0")
        directory.rename(tmp_path / "old")
        time.sleep(5 * POLL)
        assert version() == "1.2.3"
        (tmp_path / "new").rename(directory)
        until(lambda: version() == "2.0.0")
        assert client.get("/docs/start.json").json()["model"]["version"] == "2.0.0"
        assert said == ["reloaded: test 2.0.0"]

        (directory / "model.onnx").write_bytes(b"no model")
        until(lambda: len(said) == 2)
        assert re.fullmatch(
            r"not reloaded, test 2\.0\.0 is still served: model\.onnx: .*", said[-1]
        )
        time.sleep(5 * POLL)
        assert version() == "2.0.0"
        assert len(said) == 2  # told once

        artifact.echo(directory, version="2.0.1")
        until(lambda: version() == "2.0.1")
        assert said[-1] == "reloaded: test 2.0.1"


def test_a_model_that_changes_after_it_was_loaded_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, load = artifact.echo(tmp_path / "model"), scoring.load

    def load_and_break(directory: Path) -> scoring.Scorer:
        scorer = load(directory)
        (directory / "model.onnx").write_bytes(b"half of the next one")
        return scorer

    monkeypatch.setattr(scoring, "load", load_and_break)
    with serving(directory) as client:
        assert client.post("/predict", content=BODY, headers=JSON).status_code == 200


def load(url: httpx.URL, clients: int, seconds: float) -> int:
    """How many requests were answered, every one of them rightly."""
    end = time.monotonic() + seconds

    def one(number: int) -> int:
        sent = 0
        body = orjson.dumps({"instances": [{**ROW, "count": number}]})
        with httpx.Client(base_url=url) as client:
            while not sent or time.monotonic() < end:
                answer = client.post("/predict", content=body, headers=JSON)
                assert answer.status_code == 200
                assert predictions(answer) == [{**ANSWER, "count": number}]
                sent += 1
        return sent

    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(one, range(clients)))


def test_clients_at_the_same_time_each_get_their_own_answer(echo_dir: Path) -> None:
    with serving(echo_dir) as client:
        assert load(client.base_url, clients=8, seconds=0.5) >= 8


@contextlib.contextmanager
def process(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "answerable", "serve", "--model", *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def greeting(running: subprocess.Popen[str]) -> str:
    assert running.stderr
    lines = []
    for line in running.stderr:
        lines.append(line)
        if "in the handler" in line:
            break
    return "".join(lines)


@pytest.mark.slow
def test_twenty_clients_for_ten_seconds_leave_the_memory_as_it_was(echo_dir: Path) -> None:
    with process(echo_dir, "--port", "0", "--quiet") as running:

        def memory() -> int:
            command = ["ps", "-o", "rss=", "-p", str(running.pid)]
            return int(subprocess.run(command, capture_output=True, check=True).stdout)

        port = re.search(r"localhost:(\d+)", greeting(running))
        assert port
        url = httpx.URL(f"http://127.0.0.1:{port[1]}")
        load(url, clients=20, seconds=2)
        before = memory()
        assert load(url, clients=20, seconds=10) > 1000
        assert memory() - before < 5_000  # kB


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_greets_records_and_leaves(echo_dir: Path, number: signal.Signals) -> None:
    with process(echo_dir, "--port", "0") as running:
        said = greeting(running)
        url = re.search(r"http://localhost:\d+", said)
        assert url
        assert "test 1.2.3" in said
        assert f"{url[0]}/docs\n" in said
        assert f"{url[0]}/openapi.json\n" in said
        assert re.search(r"^200, [\d.]+ ms in the handler$", said, re.M)
        id = re.search(r'"predictions":\[{"id":"([^"]{52})","ratio":0.5,', said)
        assert id
        with pytest.raises(BadId, match="invalid_signature"):  # sealed with a secret of this run
            prediction_id.parse(id[1], prediction_id.signer(""))
        if shutil.which("curl"):
            line = re.search(r"^curl .*$", said, re.M)
            assert line
            pasted = subprocess.run(["sh", "-c", line[0]], capture_output=True, check=True)
            assert orjson.loads(pasted.stdout)["predictions"][0]["ratio"] == 0.5
        port = url[0].rpartition(":")[2]
        assert httpx.get(f"http://127.0.0.1:{port}/ping").status_code == 200
        running.send_signal(number)
        out, errors = running.communicate(timeout=20)
    assert (running.returncode, errors.strip()) == (0, "")
    records = [orjson.loads(line) for line in out.splitlines()]
    assert records[-1]["route"] == "GET /ping"
    assert all(record["message"] == "request" for record in records)


def test_what_cannot_be_served_is_said_in_one_line(echo_dir: Path, tmp_path: Path) -> None:
    broken = artifact.echo(tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"no model")
    with process(echo_dir, "--port", "0", "--quiet") as first:
        port = re.search(r"localhost:(\d+)", greeting(first))
        assert port
        cases: list[tuple[tuple[str | Path, ...], str]] = [
            (
                (echo_dir, "--port", port[1]),
                f"serve: 127.0.0.1 port {port[1]}: Address already in use",
            ),
            ((echo_dir, "--port", "99999"), "serve: 127.0.0.1 port 99999: ports are 0 to 65535"),
            ((tmp_path, "--port", "0"), "manifest.json: No such file or directory"),
            ((broken, "--port", "0"), "model.onnx: its size differs from the manifest"),
        ]
        for arguments, told in cases:
            with process(*arguments) as second:
                out, errors = second.communicate(timeout=20)
            assert (second.returncode, out) == (2, "")
            assert told in errors
            assert len(errors.splitlines()) == 1
        first.send_signal(signal.SIGINT)
        assert first.communicate(timeout=20)[0] == ""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8000"}, 200),
        ({"host": "churn.localhost"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "192.168.1.9:8000"}, 200),
        ({"host": "rebound.example"}, 403),
        ({"host": "localhost.example"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, 200),
        ({"host": "localhost:8000", "origin": "http://localhost:3000"}, 403),
        ({"host": "localhost:8000", "origin": "null"}, 403),
    ],
)
def test_a_page_of_another_site_reaches_nothing(
    client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    body = {"instances": [ROW]}
    assert client.post("/predict", json=body, headers=headers).status_code == status
    foreign = headers.get("host", "").endswith(".example")
    for path in ("/docs", "/docs/start.json", "/model"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == (403 if foreign else 200)
        if foreign:
            assert answer.json()["status"] == 403


def test_an_example_is_a_golden_row_with_changes(client: httpx.Client) -> None:
    example = client.get("/docs/example.json").json()
    changed = client.get("/docs/example.json", params={"row": 0, "changes": '{"count": 9}'}).json()
    assert changed["instances"] == [example["instances"][0] | {"count": 9}]
    assert client.post("/predict", json=changed).json()["predictions"][0]["count"] == 9
    for query in ({"row": "99"}, {"row": "x"}, {"changes": "{"}, {"changes": "[1]"}):
        assert client.get("/docs/example.json", params=query).status_code == 400


def test_the_root_says_where_to_look(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert {"predict", "openapi.json", "model"} <= set(answer.json()["links"].values())


def test_records_may_go_to_a_file(echo_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    with process(echo_dir, "--port", "0", "--records", file) as running:
        port = re.search(r"localhost:(\d+)", greeting(running))
        assert port
        httpx.get(f"http://127.0.0.1:{port[1]}/model")
        running.send_signal(signal.SIGTERM)
        assert running.communicate(timeout=20)[0] == ""
    assert orjson.loads(file.read_bytes().splitlines()[-1])["route"] == "GET /model"
