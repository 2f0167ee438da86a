import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handler import app, feedback, prediction_id
from handler.errors import BadRequest, ContractViolation
from handler.manifest import OutcomeValue
from handler.settings import Settings
from tests.fixtures import artifact, emf, events
from tests.fixtures.events import Context
from tests.unit.test_prediction_id import CHANCES, LABEL, RAW, VALUE, manifest

SECRET = "s3cret"
Capture = pytest.CaptureFixture[str]


def model(*outputs: Any, business: OutcomeValue | None = None, **fields: Any) -> Any:
    found = manifest(*outputs, **fields)
    found.outcome_value = business
    return found


def ids(model: Any, *arrays: Any, version: str = "3", secret: str = SECRET) -> list[str]:
    issue = prediction_id.make_id_generator(model, version, secret)
    return [id.decode() for id in issue(list(arrays), len(arrays[0]))]


def tell(taker: Any, *outcomes: Any) -> Any:
    names = ("prediction_id", "actual", "value")
    told = [dict(zip(names, outcome, strict=False)) for outcome in outcomes]
    return taker(json.dumps({"outcomes": told}))


def codes(error: ContractViolation) -> list[tuple[str, str]]:
    return [(v.pointer, v.code) for v in error.violations]


def taker(model: Any, secret: str = SECRET) -> Any:
    return feedback.make_feedback_handler(model, Settings(None, secret=secret))


def test_numbers_are_compared_by_their_absolute_error() -> None:
    found = model(VALUE, business=OutcomeValue("EUR", value=10, cost=2))
    given = ids(found, np.array([[1.0], [5.0], [7.0]]))
    told = tell(taker(found), (given[0], 3), (given[1], 4.5), (given[2], 7, 99.5))
    assert json.loads(told.answer) == {"accepted": 3}
    (record,) = told.records
    assert record["Error"] == [2, 0.5, 0]
    assert record["Impact"] == [6, 9, 99.5]
    assert "Correct" not in record
    assert record["version"] == "3"
    assert record["predicted_by"] == {"version": "1.2.3", "model": "abcdef"}


@pytest.mark.parametrize("outputs", [(LABEL,), (CHANCES,)])
def test_classes_are_right_or_wrong_and_worth_what_the_table_says(outputs: Any) -> None:
    table = {"yes": {"yes": 50.0, "no": -5.0}}
    found = model(*outputs, business=OutcomeValue(value=1, cost=3, outcomes=table))
    labels = np.array(["yes", "yes", "no", "no"], object)
    shares = np.array([[0, 1], [0, 1], [1, 0], [1, 0]])
    given = ids(found, labels if outputs == (LABEL,) else shares)
    told = tell(taker(found), *zip(given, ["yes", "no", "no", "yes"], strict=True))
    (record,) = told.records
    assert record["Correct"] == [1, 0, 1, 0]
    assert record["Impact"] == [50, -5, 1, -3]


def test_without_a_value_only_labels_are_counted() -> None:
    found = model(RAW)
    (record,) = tell(taker(found), (ids(found, np.zeros((1, 3)))[0], 1)).records
    assert record["Labels"] == [1]
    assert not {"Error", "Correct", "Impact"} & set(record)


def test_each_version_gets_its_own_record() -> None:
    found = model(VALUE)
    given = [ids(found, np.ones((1, 1)), version=version)[0] for version in "344"]
    told = tell(taker(found), *((id, 2) for id in given))
    assert {r["version"]: r["Labels"] for r in told.records} == {"3": [1], "4": [1, 1]}


def test_what_cannot_be_taken_is_told_by_place(monkeypatch: pytest.MonkeyPatch) -> None:
    found = model(VALUE)
    good, again, wrong = ids(found, np.ones((3, 1)))
    (foreign,) = ids(model(VALUE, name="other"), np.ones((1, 1)))
    (forged,) = ids(found, np.ones((1, 1)), secret="another")
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 366 * 86_400 * 10**9)
    (late,) = ids(found, np.ones((1, 1)))
    monkeypatch.setattr(time, "time_ns", lambda: now + 3600 * 10**9)
    (future,) = ids(found, np.ones((1, 1)))
    monkeypatch.setattr(time, "time_ns", lambda: now)
    take = taker(found)
    tell(take, (again, 1))
    outcomes = [(good, 1), (good, 1), (again, 1), ("x", 1), (forged, 1), (foreign, 1), (late, 1)]
    told = tell(take, *outcomes, (future, 1), (wrong, "much"))
    answer = json.loads(told.answer)
    assert answer["accepted"] == 1
    refused = {(each["pointer"], each["code"]) for each in answer["refused"]}
    expected = ("duplicate", "duplicate", "malformed", "forged", "foreign", "late", "future")
    assert refused == {
        *((f"/outcomes/{i}/prediction_id", code) for i, code in enumerate(expected, 1)),
        ("/outcomes/8/actual", "type"),
    }
    assert sum(len(record["Labels"]) for record in told.records) == 1


def test_a_refused_outcome_may_be_told_again() -> None:
    found = model(VALUE)
    (id,) = ids(found, np.ones((1, 1)))
    take = taker(found)
    with pytest.raises(ContractViolation) as error:
        tell(take, (id, True))
    assert codes(error.value) == [("/outcomes/0/actual", "type")]
    assert json.loads(tell(take, (id, 1)).answer) == {"accepted": 1}


def test_without_a_secret_nothing_is_called_forged() -> None:
    found = model(VALUE)
    (id,) = ids(found, np.ones((1, 1)), secret="")
    broken = id[:-1] + ("0" if id[-1] != "0" else "1")
    with pytest.raises(ContractViolation) as error:
        tell(taker(found, ""), (broken, 1))
    assert codes(error.value) == [("/outcomes/0/prediction_id", "damaged")]


@pytest.mark.parametrize(
    ("body", "kind", "place"),
    [
        ("{", BadRequest, None),
        (b"\xff", BadRequest, None),
        ("{}", ContractViolation, "/outcomes"),
        ('{"outcomes":[]}', ContractViolation, "/outcomes"),
        ('{"outcomes":[{"prediction_id":"x"}]}', ContractViolation, "/outcomes/0/actual"),
        ('{"outcomes":[{"prediction_id":1,"actual":1}]}', ContractViolation, None),
        ('{"outcomes":[{"prediction_id":"x","actual":1,"KEY":1}]}', ContractViolation,
         "/outcomes/0"),
        ('{"outcomes":[{"prediction_id":"x","actual":NaN}]}', ContractViolation, None),
        ('{"outcomes":[{"prediction_id":"x","actual":null}]}', ContractViolation, None),
        (json.dumps({"outcomes": [{"prediction_id": "x", "actual": 1}] * 1001}), ContractViolation,
         "/outcomes"),
    ],
)  # fmt: skip
def test_bodies_of_another_form_are_refused(body: Any, kind: Any, place: str | None) -> None:
    with pytest.raises(kind) as error:
        taker(model(VALUE))(body)
    if place:
        assert error.value.violations[0].pointer == place
    assert "KEY" not in str(vars(error.value))


def test_many_outcomes_keep_to_cloudwatchs_limits() -> None:
    found = model(VALUE)
    given = ids(found, np.ones((1000, 1)))
    told = tell(taker(found), *((id, 1) for id in given))
    assert len(told.records) == 10
    for record in told.records:
        emf.validate({**record, "service": "s"})


def test_the_whole_way(tmp_path: Path, capsys: Capture) -> None:
    from onnx import helper

    node = helper.make_node("Identity", ["x"], ["y"])
    config = Settings(artifact.ratio(tmp_path, node), function_version="9", secret=SECRET)
    handler = app.create(config)
    answer = handler(events.rest('{"instances":[{"x":4},{"x":6}]}'), Context())
    given = [one["id"] for one in json.loads(answer["body"])["predictions"]]
    outcomes = [{"prediction_id": id, "actual": 5, "value": 2} for id in given]
    told = handler(events.rest(json.dumps({"outcomes": outcomes}), "/feedback"), Context())
    assert (told["statusCode"], json.loads(told["body"])) == (202, {"accepted": 2})
    scored, request, found = map(json.loads, capsys.readouterr().out.splitlines())
    assert given[0].startswith(scored["prediction"])
    assert (request["route"], request["status"], request["Rows"]) == ("POST /feedback", 202, 0)
    assert (found["version"], found["Error"], found["Impact"]) == ("9", [1, 1], [2, 2])
    emf.validate(found)
    again = handler(events.rest(json.dumps({"outcomes": outcomes}), "/feedback"), Context())
    assert again["statusCode"] == 422
    assert json.loads(again["body"])["errors"][0]["code"] == "duplicate"
