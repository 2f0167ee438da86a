"""Whatever is sent to whichever door: it answers, strictly in form, and is as it was before.

A request is one of the corpus, good or bad, with something changed: a value of its JSON, some of
its bytes, or nothing; so good, nearly good and garbage all come from the manifest.
"""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from answerable import contract_cases
from answerable.contract_cases import Case, body, instance
from answerable.local import event_sources
from handler import manifest
from tests.fixtures import adversarial, expected_answers, memory_store
from tests.fixtures.adversarial import quietly
from tests.fixtures.memory_store import Memory
from tests.fixtures.protocols import LENGTH

pytestmark = pytest.mark.slow
EXAMPLES = 2_000
many = hypothesis_settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(
        [0, 1, -1, 1e39, 2**63, -(2**63), 2**64, "NaN", "", "\ud800", "1", 0.1, 1e-320]
    ),
)
JUNK = (
    SCALARS
    | st.lists(SCALARS, max_size=3)
    | st.dictionaries(st.text(max_size=4), SCALARS, max_size=2)
)
DOORS: dict[str, Any] = {
    "predict": lambda case: case.path == "/predict",
    "jobs": lambda case: case.path == "/jobs",
    "feedback": lambda case: case.path == "/feedback",
    "invocations": lambda case: case.path == "/invocations" and _is(case, "json"),
    "invocations, CSV": lambda case: case.path == "/invocations" and _is(case, "csv"),
    "invocations, npy": lambda case: case.path == "/invocations" and _is(case, "npy"),
    "v1": lambda case: case.path.startswith("/v1/"),
    "v2, JSON": lambda case: case.path.startswith("/v2/") and LENGTH not in case.headers,
    "v2, binary": lambda case: case.path.startswith("/v2/") and LENGTH in case.headers,
}
FRESH = """
import json, sys
from handler.function import lambda_handler
for event in json.load(sys.stdin):
    print(json.dumps(lambda_handler(event, None)), file=sys.stderr)
"""


def _is(case: Case, kind: str) -> bool:
    return kind in case.headers["content-type"]


class Served:
    """The doors of one contract, its cases, and what a fresh process answers to good ones."""

    def __init__(self, kind: str, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        directory = adversarial.directory(kind, parent)
        found = manifest.read(directory)
        self.memory = Memory()
        self.api, self.worker = adversarial.handlers(directory, self.memory, monkeypatch)
        cases = [case for case in contract_cases.cases(found, True) if len(case.body) < 50_000]
        self.cases = {
            door: [c for c in cases if of(c) and not c.event] for door, of in DOORS.items()
        }
        self.good = event(Case("good", "/predict", body(instance(found)), 200))
        self.message = body(instance(found)).decode()
        done = subprocess.run(
            [sys.executable, "-c", FRESH],
            env={"PYTHONPATH": str(expected_answers.EVENTS.parent), "MODEL_DIR": str(directory)},
            input=json.dumps([self.good]),
            capture_output=True,
            text=True,
            check=True,
        )
        self.fresh = said(json.loads(done.stderr))

    def check(self) -> None:
        """That a good request is answered as if nothing had been before."""
        assert said(quietly(self.api, self.good)) == self.fresh


def said(answer: Any) -> Any:
    """An answer without the ids, which are never the same."""
    document = json.loads(answer["body"])
    for prediction in document["predictions"]:
        del prediction["id"]
    return {**answer, "body": document}


def event(case: Case) -> Any:
    call = event_sources.HttpRequest(case.method, case.path, list(case.headers.items()), case.body)
    return event_sources.make_event("rest", call, "request")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        parent = tmp_path_factory.mktemp("hostile")
        yield {kind: Served(kind, parent, patch) for kind in adversarial.KINDS}


def places(value: Any) -> list[tuple[Any, Any]]:
    """Where in a JSON value something can be changed."""
    found = []
    todo = [value]
    for part in todo:
        steps: Any = part if isinstance(part, dict) else range(len(part))
        for step in list(steps)[:50]:
            found.append((part, step))
            if isinstance(part[step], dict | list):
                todo.append(part[step])
    return found


def changed(draw: Any, value: Any) -> Any:
    """A JSON value with another in one place of it, or without that."""
    value = json.loads(json.dumps(value))
    where = places(value) if isinstance(value, dict | list) else []
    if not where:
        return draw(JUNK)
    part, step = where[draw(st.integers(0, len(where) - 1))]
    if draw(st.integers(0, 4)):
        part[step] = draw(JUNK)
    else:
        del part[step]
    return value


def mangled(draw: Any, data: bytes) -> bytes:
    """Bytes with others in one place."""
    at, gone = draw(st.integers(0, len(data))), draw(st.integers(0, 3))
    return data[:at] + bytes(draw(st.binary(max_size=4))) + data[at + gone :]


@cache
def parsed(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")


def hostile_body(draw: Any, case: Case) -> bytes:
    way, document = draw(st.sampled_from("nbvg")), parsed(case.body)
    if way == "v" and document is not None:
        return text(changed(draw, document))
    if way == "g":
        return bytes(draw(st.binary(max_size=40))) if draw(st.booleans()) else text(draw(JUNK))
    return case.body if way == "n" else mangled(draw, case.body)


def fine(answer: Any) -> None:
    """It is in form, and no fault of the service unless the model broke its contract."""
    document = adversarial.checked(answer)
    if answer["statusCode"] >= 500:
        assert document["type"].endswith("bad-output"), document


@pytest.mark.fault(
    "arbitrary, nearly good and good bodies, at every door and in every protocol",
    "an answer in strict JSON or the binary form, a problem if it is an error; no exception; the"
    " next call is as in a fresh process",
)
@pytest.mark.parametrize("door", DOORS)
def test_any_body_is_answered(served: dict[str, Served], door: str) -> None:
    able = [each for each in served.values() if each.cases[door]]

    @many
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(able))
        case = data.draw(st.sampled_from(one.cases[door]))
        sent = case._replace(body=hostile_body(data.draw, case))
        if door == "v2, binary" and data.draw(st.booleans()):
            length = str(data.draw(st.integers(-1, len(sent.body) + 1)))
            sent = sent._replace(headers={**case.headers, LENGTH: length})
        fine(quietly(one.api, event(sent)))
        one.check()

    ask()


@pytest.mark.fault(
    "real gateway events with anything changed in them, of the four event sources",
    "a response that the event source accepts; no exception",
)
def test_any_event_is_answered(served: dict[str, Served]) -> None:
    one = served["shipped"]
    events = [expected_answers.event(name) for name in expected_answers.names("good")]

    @many
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        made = changed(data.draw, data.draw(st.sampled_from(events)))
        if data.draw(st.booleans()) and isinstance(made, dict):
            made = changed(data.draw, made)
        answer = quietly(one.api, made)
        if "multiValueHeaders" in answer:
            answer["headers"] = {k: v[0] for k, v in answer.pop("multiValueHeaders").items()}
        if answer["headers"].get("content-encoding") != "gzip":
            fine(answer)
        one.check()

    ask()


@pytest.mark.fault(
    "any message on the queue, and any event to the worker",
    "a failed result for what breaks the contract, a message given back for a fault; an event that"
    " is not the queue's is a TypeError, which returns the whole batch",
)
def test_any_message_is_done_or_given_back(served: dict[str, Served]) -> None:
    able = list(served.values())

    @many
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(able))
        case = data.draw(
            st.sampled_from(one.cases[data.draw(st.sampled_from(["predict", "jobs"]))])
        )
        sent = hostile_body(data.draw, case).decode(errors="surrogateescape")
        one.memory.objects.clear()
        batch = memory_store.event(
            memory_store.record(sent, "hostile"), memory_store.record(one.message, "good")
        )
        well = data.draw(st.booleans())
        made = batch if well else changed(data.draw, batch)
        try:
            answer = quietly(one.worker, made)
        except TypeError as error:
            assert not well
            assert str(error) == "the event is not one of SQS"
        else:
            assert set(answer) == {"batchItemFailures"}
            named = {record["messageId"] for record in made["Records"]}
            assert {failure["itemIdentifier"] for failure in answer["batchItemFailures"]} <= named
        for content, *_ in one.memory.objects.values():
            adversarial.strict(content)
        quietly(one.worker, memory_store.event(memory_store.record(one.message, "next")))
        result = adversarial.strict(one.memory.objects["jobs/next/result.json"][0])["result"]
        for prediction in result["predictions"]:
            del prediction["id"]
        assert result == one.fresh["body"]

    ask()
