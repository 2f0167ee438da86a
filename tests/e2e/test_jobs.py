"""Jobs through the deployed API, queue, event source mapping, container and bucket.

The queue's visibility is shortened after the deployment: a message that fails would be hidden for
minutes otherwise, as it is on AWS.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Images
from tests.e2e.emulator import ACCOUNT, REGION, Tools
from tests.e2e.test_deploy import STACK, Cloud, account
from tests.fixtures import expected_answers
from tests.fixtures.memory_store import DAY

BODY = expected_answers.event("good/rest-one-row")["body"]
EXPECTED = expected_answers.stated()["good/rest-one-row"]["body"]
JSON = {"content-type": "application/json"}
RECEIVES = 5


@pytest.fixture(scope="module")
def cloud(answerable: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """An account that the functions reach from their containers."""
    with account(answerable, tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture(scope="module")
def stack(cloud: Cloud, images: Images) -> dict[str, str]:
    cloud.cdk("bootstrap", f"aws://{ACCOUNT}/{REGION}", tree=images.first)
    outputs = cloud.deploy(images.first, "first", "jobs=true", "job_timeout=30")
    cloud.client("sqs").set_queue_attributes(
        QueueUrl=outputs["JobsQueueUrl"], Attributes={"VisibilityTimeout": "3"}
    )
    return outputs


def until(true: Callable[[], Any], seconds: float = 90) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.5)
    return found


def finished(cloud: Cloud, stack: dict[str, str], id: str) -> Any:
    def done() -> Any:
        reply = cloud.call(stack, "GET", f"/jobs/{id}")
        document = reply.json()
        return reply.status == 200 and document["job"]["status"] != "queued" and document

    return until(done)


def check(document: Any) -> None:
    """That it is the result which the body must get."""
    assert document["job"]["status"] == "succeeded"
    result = document["result"]
    for prediction in result["predictions"]:
        del prediction["id"]
    for prediction in (expected := json.loads(json.dumps(EXPECTED)))["predictions"]:
        prediction.pop("id", None)
    assert expected_answers.close(result, expected)


def test_a_job_through_the_api(cloud: Cloud, stack: dict[str, str]) -> None:
    headers = {**JSON, "Idempotency-Key": "order-1"}
    replies = [
        cloud.call(stack, "POST", "/jobs", body=BODY.encode(), headers=headers) for _ in range(3)
    ]
    assert [reply.status for reply in replies] == [202, 202, 202], replies[0]
    (id,) = {reply.json()["job"]["id"] for reply in replies}
    assert replies[0].headers["location"] == f"jobs/{id}"
    check(finished(cloud, stack, id))
    other = cloud.call(stack, "POST", "/jobs", body=BODY.encode() + b" ", headers=headers)
    assert (other.status, other.json()["type"]) == (409, "urn:answerable:problem:conflict")


def test_what_is_refused_or_not_there(cloud: Cloud, stack: dict[str, str]) -> None:
    assert cloud.call(stack, "POST", "/jobs", body=b"{}", headers=JSON).status == 422
    assert cloud.call(stack, "GET", f"/jobs/{'A' * 32}").status == 404


def test_a_producer_on_the_queue(cloud: Cloud, stack: dict[str, str]) -> None:
    sqs, url = cloud.client("sqs"), stack["JobsQueueUrl"]
    good = [sqs.send_message(QueueUrl=url, MessageBody=BODY)["MessageId"] for _ in range(12)]
    bad = sqs.send_message(QueueUrl=url, MessageBody="{")["MessageId"]
    for id in good:
        check(finished(cloud, stack, id))
    assert finished(cloud, stack, bad)["problem"]["type"] == "urn:answerable:problem:malformed-body"


def dead(cloud: Cloud, stack: dict[str, str]) -> int:
    name = "ApproximateNumberOfMessages"
    found = cloud.client("sqs").get_queue_attributes(
        QueueUrl=stack["JobsDeadLettersUrl"], AttributeNames=[name]
    )
    return int(found["Attributes"][name])


def redrive(cloud: Cloud, *arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "answerable", "redrive", STACK, *arguments],
        env=cloud.environment | {"AWS_DEFAULT_REGION": REGION},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.fault(
    "A message that no delivery can help",
    "It ends in the dead letters, and `answerable redrive` brings it back",
)
def test_a_poisoned_message_becomes_a_dead_letter_and_comes_back(
    cloud: Cloud,
    stack: dict[str, str],
) -> None:
    s3, sqs = cloud.client("s3"), cloud.client("sqs")
    place = {"Bucket": stack["JobsBucket"], "Key": "jobs/poisoned/request.json"}
    s3.put_object(
        **place, Body=BODY.encode(), Metadata={"expires": "never"}
    )  # what no code expects
    message = sqs.send_message(QueueUrl=stack["JobsQueueUrl"], MessageBody='{"job":"poisoned"}')
    until(lambda: dead(cloud, stack) == 1)
    # the emulator moves the message while its last delivery may still run, and logs at its end
    until(lambda: len(retried(cloud)) >= RECEIVES)
    assert retried(cloud) == [message["MessageId"]] * RECEIVES
    # once the cause is gone, it is done
    until_ = str(int(time.time()) + DAY)
    s3.put_object(**place, Body=BODY.encode(), Metadata={"expires": until_})
    assert redrive(cloud, "--dry-run") == "1 dead letters\n"
    assert dead(cloud, stack) == 1
    assert redrive(cloud).startswith("1 of about 1 dead letters sent again, 0 ")
    check(finished(cloud, stack, "poisoned"))
    assert dead(cloud, stack) == 0


def retried(cloud: Cloud) -> list[str]:
    """The id of the message of each delivery that failed."""
    return [line["message_id"] for line in records(cloud) if line.get("message") == "retry"]


def records(cloud: Cloud) -> list[dict[str, Any]]:
    """What the functions of the stack have logged."""
    logs, found = cloud.client("logs"), []
    for group in logs.describe_log_groups()["logGroups"]:
        name = group["logGroupName"]
        for page in logs.get_paginator("filter_log_events").paginate(logGroupName=name):
            for item in page["events"]:
                if item["message"].startswith("{"):
                    found.append(json.loads(item["message"]))
    return found


def test_a_result_is_written_once(cloud: Cloud, stack: dict[str, str]) -> None:
    sqs, s3 = cloud.client("sqs"), cloud.client("s3")
    reply = cloud.call(stack, "POST", "/jobs", body=BODY.encode(), headers=JSON)
    id = reply.json()["job"]["id"]
    before = finished(cloud, stack, id)
    place = {"Bucket": stack["JobsBucket"], "Key": f"jobs/{id}/result.json"}
    written = s3.head_object(**place)["LastModified"]
    url = stack["JobsQueueUrl"]
    for _ in range(3):  # delivered again, and again
        sqs.send_message(QueueUrl=url, MessageBody=json.dumps({"job": id}))
    marker = sqs.send_message(QueueUrl=url, MessageBody=BODY)["MessageId"]
    finished(cloud, stack, marker)
    time.sleep(2)
    assert s3.head_object(**place)["LastModified"] == written
    assert finished(cloud, stack, id) == before
