import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from answerable.local import local_sqs
from answerable.local.event_sources import HttpRequest, HttpResponse
from answerable.local.local_lambda import LocalLambda
from answerable.local.local_sqs import LocalQueue
from handler.jobs import storage
from tests.unit.test_jobs import BODY

JSON = [("content-type", "application/json")]


@pytest.fixture(scope="module")
def local(echo_dir: Path) -> Iterator[tuple[LocalLambda, LocalQueue]]:
    storage.connect.cache_clear()
    with local_sqs.prepared() as made:
        assert made is not None
        yield LocalLambda(echo_dir, start_jobs=made.start), made
    storage.connect.cache_clear()


def call(environment: LocalLambda, method: str, path: str, body: str = "") -> HttpResponse:
    return environment.invoke(HttpRequest(method, path, JSON, body.encode()))


def finished(environment: LocalLambda, id: str) -> Any:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        answer = call(environment, "GET", f"/jobs/{id}")
        if answer.status == 200 and b'"queued"' not in answer.body:
            return json.loads(answer.body)
        time.sleep(0.05)
    raise AssertionError("it was not finished")


def test_nothing_is_started_for_those_who_use_no_jobs(local: Any) -> None:
    environment, made = local
    assert call(environment, "POST", "/predict", BODY).status == 200
    assert not made._started


def test_a_job_is_done_with_no_account(local: Any) -> None:
    environment, _ = local
    answer = call(environment, "POST", "/jobs", BODY)
    assert answer.status == 202
    id = json.loads(answer.body)["job"]["id"]
    done = finished(environment, id)
    assert done["job"]["status"] == "succeeded"
    assert done["result"]["predictions"][0]["count"] == 3


def test_a_producers_own_message_is_done_too(local: Any) -> None:
    environment, _ = local
    call(environment, "GET", "/jobs/start")
    sqs = boto3.client("sqs")
    url = os.environ["JOBS_QUEUE_URL"]
    id = sqs.send_message(QueueUrl=url, MessageBody="{")["MessageId"]
    assert finished(environment, id)["problem"]["status"] == 400


def test_the_worker_follows_the_artifact(local: Any) -> None:
    environment, _ = local
    environment.served = environment._load()
    id = json.loads(call(environment, "POST", "/jobs", BODY).body)["job"]["id"]
    assert finished(environment, id)["job"]["status"] == "succeeded"


def test_a_message_is_delivered_load_until_its_last_receive(local: Any) -> None:
    environment, _ = local
    call(environment, "GET", "/jobs/start")
    sqs = boto3.client("sqs")
    url = os.environ["JOBS_QUEUE_URL"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "0"})
    sqs.send_message(QueueUrl=url, MessageBody='{"job":"gone"}')
    assert finished(environment, "gone")["problem"]["type"].endswith("job-input-expired")


def test_a_bucket_of_ones_own_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBS_BUCKET", "mine")
    before = dict(os.environ)
    with local_sqs.prepared() as made:
        assert made is None
        assert dict(os.environ) == before


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOBS_BUCKET", raising=False)
    monkeypatch.setenv("AWS_PROFILE", "somebody's")
    before = dict(os.environ)
    with local_sqs.prepared():
        assert "AWS_PROFILE" not in os.environ
        assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
    assert dict(os.environ) == before
