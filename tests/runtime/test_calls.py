"""Faults of a call under Lambda's own runtime client: what the Runtime API gets, and
that the next call's answer is that of a fresh process.
"""

import fcntl
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import artifact
from tests.runtime.environment import GONE, Environment, of

# what `endless` and `hungry` answer at once, and what they do not
GOOD, ENDLESS, FAILING, HUNGRY = 0.0, 1.0, -1.0, 1e10
MB = 2**20


@pytest.fixture
def endless(endless_dir: Path) -> Iterator[Environment]:
    with Environment(endless_dir) as environment:
        yield environment


@lru_cache
def fresh(directory: Path) -> Any:
    """What a process says that has seen nothing else."""
    with Environment(directory) as environment:
        told = environment.predict(GOOD)
    assert told.status == 200
    assert [row["y"] for row in told.answer["predictions"]] == [GOOD]
    return told.answer


def check(environment: Environment) -> None:
    """That the next call works, and equals a fresh process's."""
    told = environment.predict(GOOD)
    assert told.status == 200
    assert told.answer == fresh(environment.model_dir)


@pytest.mark.fault(
    "The model's run fails, or asks for more memory than the process may have",
    "422 at the row, without the model's own words; the next answer is a fresh process's",
)
@pytest.mark.skipif(sys.platform != "linux", reason="limits another process")
def test_a_failed_run_is_the_row_s_and_the_next_call_works(tmp_path: Path) -> None:
    with Environment(artifact.hungry(tmp_path)) as environment:
        assert environment.predict(GOOD).status == 200
        pid = environment.process.pid
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 256 * MB
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        for x in (FAILING, HUNGRY, FAILING):
            told = environment.predict(x)
            assert told.status == 422
            (violation,) = told.answer["errors"]
            assert violation == {
                "pointer": "/instances/0",
                "code": "model_rejected",
                "message": "the model cannot score row 0",
            }
            check(environment)


@pytest.mark.fault(
    "The handler itself raises (the worker is sent what is no queue's event)",
    "Lambda gets the kind of error and nothing of the event; the next call works",
)
def test_an_exception_leaves_without_the_event_in_it(endless_dir: Path) -> None:
    with Environment(endless_dir, "handler.jobs.function.lambda_handler") as environment:
        for _ in range(2):
            told = environment.invoke({"Records": [{"body": "SENTINEL"}]})
            assert told.what == "error"
            assert told.content["errorType"] == "TypeError"
            assert "SENTINEL" not in json.dumps(told.content)
            assert environment.invoke({"Records": []}).content == {"batchItemFailures": []}


@pytest.mark.fault(
    "The process is killed in a call",
    "Lambda sees it end, and starts another, which knows nothing of it",
)
def test_a_kill_is_an_end_and_a_new_start(endless: Environment) -> None:
    endless.send(of(ENDLESS))
    time.sleep(0.5)
    assert endless.told.empty()
    endless.process.send_signal(signal.SIGKILL)
    assert endless.wait() == (GONE, -signal.SIGKILL)
    with Environment(endless.model_dir) as another:
        check(another)


@pytest.mark.fault(
    "The model does not end before the function's time is over",
    "The run is stopped at the deadline: 504, and the next call works",
)
def test_a_run_is_stopped_before_lambda_would(endless: Environment) -> None:
    assert endless.predict(GOOD).status == 200
    for _ in range(2):
        start = time.monotonic()
        told = endless.predict(ENDLESS, seconds=1)
        assert time.monotonic() - start < 1, "Lambda would have killed it"
        assert told.status == 504
        assert told.answer["type"].endswith("deadline-exceeded")
    check(endless)


@pytest.mark.fault(
    "One operator of the model runs past the function's time",
    "504 in time; the operator ends with the next calls, which have their own deadlines",
)
def test_an_operator_that_runs_on_is_answered_in_time(tmp_path: Path) -> None:
    with Environment(artifact.slow_operator(tmp_path)) as environment:
        assert environment.predict(GOOD).status == 200
        start = time.monotonic()
        told = environment.predict(5_000, seconds=1)
        assert time.monotonic() - start < 1, "Lambda would have killed it"
        assert told.status == 504
        assert environment.predict(GOOD, seconds=1).status in (200, 504)
        assert environment.predict(GOOD, seconds=60).status == 200
        check(environment)


@pytest.mark.fault(
    "Lambda freezes the environment between two calls, for longer than a call may take",
    "The next call has its whole time, and its record the time of day",
)
def test_a_freeze_between_calls_is_not_time_that_was_used(endless: Environment) -> None:
    for seconds in (0.0, 1.2):
        _freeze(endless, seconds)
        before = time.time()
        assert endless.predict(GOOD, seconds=1).status == 200
        assert before - 0.002 <= endless.record()["timestamp"] / 1e3 <= time.time()
    assert endless.predict(ENDLESS, seconds=1).status == 504
    check(endless)


@pytest.mark.fault(
    "The environment is frozen in a run, past the call's deadline",
    "504 when it is thawed; the next call has its whole time",
)
def test_a_freeze_in_a_run_ends_it_and_not_the_next(endless: Environment) -> None:
    assert endless.predict(GOOD).status == 200
    endless.record()
    endless.send(of(ENDLESS), seconds=1)
    time.sleep(0.2)
    _freeze(endless, 1.2)
    thawed = time.time()
    assert endless.wait().status == 504
    record = endless.record()
    assert thawed - 0.002 <= record["timestamp"] / 1e3 <= time.time()
    assert record["status"] == 504
    assert endless.predict(GOOD, seconds=1).status == 200
    check(endless)


@pytest.mark.fault(
    "stdout is closed, a pipe that nobody reads, or full",
    "The record is lost and the answer is not: the caller has a right to it, "
    "and Lambda's own count of invocations shows what metrics miss",
)
@pytest.mark.parametrize("how", ["closed", "nobody reads", "full"])
def test_a_record_that_cannot_be_written_does_not_cost_the_answer(
    endless_dir: Path, how: str
) -> None:
    reading, writing = os.pipe()
    if how == "full":
        fcntl.fcntl(writing, fcntl.F_SETFL, os.O_NONBLOCK)
        with suppress(BlockingIOError):
            while os.write(writing, bytes(4096)):
                pass
    if how == "nobody reads":
        os.close(reading)
    start = f"exec {sys.executable} -m awslambdaric handler.function.lambda_handler"
    command = ["sh", "-c", start + " >&-" * (how == "closed")]
    with Environment(endless_dir, stdout=writing, command=command) as environment:
        for _ in range(2):
            check(environment)
        assert environment.predict(ENDLESS, seconds=0.5).status == 504
        check(environment)
    os.close(writing)
    if how != "nobody reads":
        os.close(reading)


@pytest.mark.fault(
    "The reader of stdout falls behind",
    "The answer waits for it, and no record is lost",
)
def test_a_slow_reader_of_records_is_waited_for(endless_dir: Path) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with Environment(endless_dir, stdout=writing) as environment:
        os.close(writing)
        for _ in range(20):
            environment.send(of(GOOD))
        time.sleep(0.5)
        assert environment.told.qsize() < 20
        with os.fdopen(reading, "rb") as lines:
            records = [json.loads(lines.readline()) for _ in range(20)]
        assert [record["status"] for record in records] == [200] * 20
        assert [environment.wait().status for _ in range(20)] == [200] * 20


def _freeze(environment: Environment, seconds: float) -> None:
    environment.process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    environment.process.send_signal(signal.SIGCONT)
