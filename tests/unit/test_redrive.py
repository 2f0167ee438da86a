import argparse
import json
import time
from typing import Any

import pytest

from answerable import commands
from answerable.commands import redrive
from handler.jobs import storage, worker
from handler.settings import Settings
from tests.fixtures import memory_store
from tests.fixtures.memory_store import Memory
from tests.unit.test_jobs_worker import S3, UUID, body, event_bridge, sns

DEAD = "dead"


class Queues(Memory):
    """A dead-letter queue beside the bucket; `after` deletions it stops, as a machine does."""

    def __init__(self, *letters: str, group: str = "", after: int = 1 << 30) -> None:
        super().__init__()
        attributes = {"MessageGroupId": group} if group else {}
        self.letters = [
            {"MessageId": f"m{i}", "Body": text, "ReceiptHandle": f"m{i}", "Attributes": attributes}
            for i, text in enumerate(letters)
        ]
        self.after = after
        self.fifo: list[dict[str, str]] = []

    def receive_message(self, *, MaxNumberOfMessages: int, **_: Any) -> Any:
        return {"Messages": self.letters[:MaxNumberOfMessages]} if self.letters else {}

    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> None:
        assert QueueUrl == DEAD
        if not self.after:
            raise KeyboardInterrupt
        self.after -= 1
        self.letters = [letter for letter in self.letters if letter["MessageId"] != ReceiptHandle]

    def send_message(self, *, QueueUrl: str, MessageBody: str, **fifo: str) -> Any:
        self.fifo.append(fifo)
        return super().send_message(QueueUrl=QueueUrl, MessageBody=MessageBody)

    def get_queue_attributes(self, **_: Any) -> Any:
        return {"Attributes": {"ApproximateNumberOfMessages": str(len(self.letters))}}


def test_claim_checks_are_sent_as_they_are_and_own_messages_keep_their_id(echo_dir: Any) -> None:
    own_body = '{"instances":[]}'
    queues = Queues('{"job":"a"}', own_body, "SENTINEL")
    store = memory_store.store(queues)
    assert redrive.redrive(store, DEAD) == (3, 2)
    assert [json.loads(text) for text in queues.sent] == [
        {"job": "a"},
        {"job": "m1"},
        {"job": "m2"},
    ]
    assert not queues.letters
    assert queues.objects["jobs/m1/request.json"][0] == own_body.encode()
    # the producer finds the result under the id that it was given
    handle = worker.create(Settings(echo_dir), store)
    again = [memory_store.record(text, f"new-{i}") for i, text in enumerate(queues.sent[1:])]
    handle(memory_store.event(*again), None)
    for id in ("m1", "m2"):
        document, finished = storage.get_job(store, id)
        assert finished
        assert json.loads(document)["job"]["id"] == id


def test_an_envelope_is_sent_as_it_is(echo_dir: Any) -> None:
    envelopes = [sns(body(4)), event_bridge({"x": 1}), S3]
    queues = Queues(*envelopes)
    store = memory_store.store(queues)
    assert redrive.redrive(store, DEAD) == (3, 0)
    assert queues.sent == envelopes
    assert not queues.objects
    handle = worker.create(Settings(echo_dir), store)
    handle(memory_store.event(memory_store.record(queues.sent[0], "new")), None)
    assert [*queues.objects] == [f"jobs/{UUID}/result.json"]


@pytest.mark.fault(
    "A redrive of dead letters is stopped at any point",
    "No message is lost",
)
def test_stopped_at_any_point_nothing_is_lost() -> None:
    letters = ['{"job":"a"}', "own", '{"job":"b"}']
    for after in range(3):
        queues = Queues(*letters, after=after)
        store = memory_store.store(queues)
        with pytest.raises(KeyboardInterrupt):
            redrive.redrive(store, DEAD)
        queues.after = 9
        redrive.redrive(store, DEAD)
        assert {json.loads(text)["job"] for text in queues.sent} == {"a", "m1", "b"}
        assert len(queues.sent) == 4  # one of them twice
        assert queues.written == ["jobs/m1/request.json"]


@pytest.mark.parametrize(("limit", "sent"), [(0, 0), (1, 1), (12, 12), (99, 25)])
def test_a_limit_is_kept(limit: int, sent: int) -> None:
    queues = Queues(*['{"job":"a"}'] * 25)
    assert redrive.redrive(memory_store.store(queues), DEAD, limit).sent == sent
    assert len(queues.letters) == 25 - sent


def test_message_groups_are_kept() -> None:
    queues = Queues('{"job":"a"}', group="g")
    store = memory_store.store(queues)
    redrive.redrive(store._replace(queue_url="jobs.fifo"), DEAD)
    assert queues.fifo[0]["MessageGroupId"] == "g"
    queues = Queues('{"job":"a"}', group="g")
    redrive.redrive(memory_store.store(queues), DEAD)
    assert queues.fifo == [{"MessageGroupId": "g"}]  # of a fair queue


def args(**changed: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"stack": "s", "limit": None, "dry_run": False, **changed})


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> Queues:
    """What a stack with jobs, called `s`, has; another stack has none."""
    import boto3

    document = Queues('{"job":"a"}', "own")
    values = ("queue", DEAD, "bucket", "3")
    outputs = [
        {"OutputKey": key, "OutputValue": value}
        for key, value in zip(redrive.OUTPUTS, values, strict=True)
    ]

    class Formation:
        def describe_stacks(self, StackName: str) -> Any:
            if StackName == "none":
                raise memory_store.error("ValidationError")
            return {"Stacks": [{"Outputs": outputs} if StackName == "s" else {}]}

    def client(name: str) -> Any:
        return Formation() if name == "cloudformation" else document

    monkeypatch.setattr(boto3, "client", client)
    return document


def test_a_dry_run_only_counts(queues: Queues, capsys: pytest.CaptureFixture[str]) -> None:
    assert redrive.main(args(dry_run=True)) == 0
    assert capsys.readouterr().out == "2 dead letters\n"
    assert not queues.sent
    assert len(queues.letters) == 2


def test_redrive_prints_its_counts(queues: Queues, capsys: pytest.CaptureFixture[str]) -> None:
    assert redrive.main(args()) == 0
    assert capsys.readouterr().out == ("2 of about 2 dead letters sent again, 1 from producers\n")
    assert (
        int(queues.objects["jobs/m1/request.json"][1]["expires"])
        > time.time() + 2 * memory_store.DAY
    )


@pytest.mark.parametrize(
    ("stack", "code", "why"), [("other", 2, "other has no jobs"), ("none", 1, "Validation")]
)
def test_what_cannot_be_done_is_said(
    queues: Queues, capsys: pytest.CaptureFixture[str], stack: str, code: int, why: str
) -> None:
    assert commands.run("redrive", redrive.main, args(stack=stack)) == code
    assert why in capsys.readouterr().err


def test_the_arguments() -> None:
    parser = argparse.ArgumentParser()
    redrive.add_arguments(parser)
    assert vars(parser.parse_args(["s", "--limit", "3", "--dry-run"])) == vars(
        args(limit=3, dry_run=True)
    )
