"""Whatever a client sends to /feedback and /jobs, and whatever is logged: no raise, no 5xx."""

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from answerable import contract_cases
from handler import app
from handler import manifest as manifests
from handler.jobs import storage, worker
from handler.settings import Settings
from tests.fixtures import adversarial, emf, events, memory_store
from tests.fixtures.artifact import ECHO_FEATURES
from tests.fixtures.events import Context
from tests.fixtures.memory_store import Memory

ROW = {feature["name"]: feature["example"] for feature in ECHO_FEATURES}
KINDS = ("echo", "classifier", "tensors")
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.integers(300, 4400).map(lambda digits: 10**digits),
    st.sampled_from([2**63, 2**64, 2**360, 2.0**360, 1e300, 1.7e308, 5e-324, -0.0]),
)
SCALARS = st.one_of(
    NUMBERS,
    st.booleans(),
    st.none(),
    st.text(max_size=20),
    st.sampled_from(["no", "yes", "0", "1", "true", "\ud800", "x" * 1001]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def dump(value: Any) -> str:
    """JSON with NaN, and with integers of any length."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value)
    finally:
        sys.set_int_max_str_digits(limit)


class Doors(NamedTuple):
    """The functions of one contract, their storage, and an id that each has issued."""

    api: Any
    worker: Any
    memory: Memory
    ids: list[str]
    good: bytes


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Doors]]:
    """By kind of contract, with jobs and with payload logging."""
    with pytest.MonkeyPatch.context() as patch:
        stores: dict[str, storage.JobStore] = {}
        patch.setattr(storage, "connect", lambda config: stores[config.service])
        yield {kind: open_doors(kind, tmp_path_factory.mktemp(kind), stores) for kind in KINDS}


def open_doors(kind: str, parent: Path, stores: dict[str, storage.JobStore]) -> Doors:
    directory, memory = adversarial.directory(kind, parent), Memory()
    stores[kind] = memory_store.store(memory)
    config = Settings(
        directory,
        service=kind,
        log_payloads="full",
        prediction_id_secret="s3cret",
        jobs_bucket="bucket",
        jobs_queue_url="queue",
    )
    api, handle = app.create(config), worker.create(config)
    good = contract_cases.body(contract_cases.instance(manifests.read(directory)))
    answers = [json.loads(adversarial.quietly(api, events.rest(good))["body"])]
    sent = memory_store.event(memory_store.record(good.decode(), "good"))
    adversarial.quietly(handle, sent)
    answers.append(json.loads(memory.objects["jobs/good/result.json"][0])["result"])
    ids = [answer["predictions"][0]["id"] for answer in answers]
    return Doors(api, handle, memory, ids, good)


def ask(handle: Any, event: Any) -> int:
    """Return the status; everything that is written must be a record, without a log error."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        answer = handle(event, Context())
    adversarial.checked(answer)
    assert out.getvalue()
    for text in out.getvalue().splitlines():
        line = adversarial.strict(text)
        assert line["level"] == "INFO", line
        assert "log_error" not in line, line
        if "_aws" in line:
            emf.validate(line)
    return int(answer["statusCode"])


OUTCOMES = st.lists(
    st.tuples(st.integers(0, 3), SCALARS | VALUES, st.none() | NUMBERS | VALUES),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("kind", KINDS)
@given(OUTCOMES)
@hypothesis_settings(max_examples=150, deadline=None)
def test_any_outcome_of_a_valid_id(doors: dict[str, Doors], kind: str, sent: Any) -> None:
    ids = [*doors[kind].ids, "x", "x" * 52]
    outcomes = []
    for i, actual, value in sent:
        outcome = {"prediction_id": ids[i], "actual": actual}
        outcomes.append(outcome if value is None else {**outcome, "value": value})
    event = events.rest(dump({"outcomes": outcomes}), "/feedback")
    assert ask(doors[kind].api, event) in (202, 400, 413, 422)


@pytest.mark.parametrize("kind", KINDS)
@given(VALUES | st.lists(VALUES, max_size=3).map(lambda rows: {"instances": rows}))
@hypothesis_settings(max_examples=100, deadline=None)
def test_any_body_of_a_job(doors: dict[str, Doors], kind: str, value: Any) -> None:
    submit(doors[kind], dump(value))


@given(st.dictionaries(st.sampled_from([*ROW]), SCALARS), st.booleans())
@hypothesis_settings(max_examples=150, deadline=None)
def test_any_row_of_a_job(doors: dict[str, Doors], changes: dict[str, Any], own: bool) -> None:
    text = dump({"instances": [{**ROW, **changes}]})
    if own:
        score(doors["echo"], text)
    else:
        submit(doors["echo"], text)


def submit(door: Doors, text: str) -> int:
    """Submit a job, and have the worker score it if it was accepted."""
    door.memory.sent.clear()
    status = ask(door.api, events.rest(text, "/jobs"))
    assert status in (202, 400, 413, 422)
    assert len(door.memory.sent) == (status == 202)
    if status == 202:
        score(door, *door.memory.sent)
    return status


def score(door: Doors, text: str) -> None:
    """Have the worker score a message: it does not come back, and it has a line of the log."""
    message = memory_store.record(text, f"m{len(door.memory.written)}")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        answer = door.worker(memory_store.event(message), Context())
    assert answer == {"batchItemFailures": []}
    lines = [adversarial.strict(line) for line in out.getvalue().splitlines()]
    assert [line["message"] for line in lines] == ["job", "batch"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_good_gets_through(doors: dict[str, Doors], kind: str) -> None:
    """The tests above would see nothing if every body were refused."""
    assert submit(doors[kind], doors[kind].good.decode()) == 202
    outcomes = [{"prediction_id": id, "actual": 2, "value": 0.25} for id in doors[kind].ids]
    assert ask(doors[kind].api, events.rest(dump({"outcomes": outcomes}), "/feedback")) == 202


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["9" * 309, "-" + "9" * 4300, f"[{'9' * 400}]"])
def test_a_long_integer_instead_of_a_body(doors: dict[str, Doors], kind: str, text: str) -> None:
    assert submit(doors[kind], text) == 422
