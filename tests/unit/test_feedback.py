import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handler import app, feedback, prediction_id
from handler.errors import BadRequest, ContractViolation
from handler.manifest import OutcomeValue, Output
from handler.prediction_id import API, BATCH, WORKER, new_request
from handler.settings import Settings
from tests.fixtures import artifact, emf, events
from tests.fixtures.events import Context
from tests.unit.test_prediction_id import CHANCES, LABEL, RAW, VALUE, manifest

SECRET = "s3cret"
Capture = pytest.CaptureFixture[str]


def make_model(*outputs: Any, outcome_value: OutcomeValue | None = None, **fields: Any) -> Any:
    model = manifest(*outputs, **fields)
    model.outcome_value = outcome_value
    return model


def make_ids(
    model: Any, *arrays: Any, version: str = "3", secret: str = SECRET, source: int = API
) -> list[str]:
    generate = prediction_id.make_id_generator(model, version, secret, source)
    return [id.decode() for id in generate(list(arrays), [new_request(len(arrays[0]))])]


def make_handler(model: Any, secret: str = SECRET, **fields: Any) -> Any:
    settings = Settings(None, prediction_id_secret=secret, **fields)
    return feedback.make_feedback_handler(model, settings)


def send(handler: Any, *outcomes: Any) -> Any:
    names = ("prediction_id", "actual", "value")
    items = [dict(zip(names, outcome, strict=False)) for outcome in outcomes]
    return handler(json.dumps({"outcomes": items}))


def by_version(result: Any) -> list[dict[str, Any]]:
    return [line for line in result.lines if line["message"] == "outcomes"]


def codes(error: ContractViolation) -> list[tuple[str, str]]:
    return [(v.pointer, v.code) for v in error.violations]


def refusal(handler: Any, *outcomes: Any) -> list[tuple[str, str]]:
    with pytest.raises(ContractViolation) as error:
        send(handler, *outcomes)
    return codes(error.value)


def test_numbers_are_compared_by_their_absolute_error() -> None:
    model = make_model(VALUE, outcome_value=OutcomeValue("EUR", value=10, cost=2))
    ids = make_ids(model, np.array([[1.0], [5.0], [7.0]]))
    result = send(make_handler(model), (ids[0], 3), (ids[1], 4.5), (ids[2], 7, 99.5))
    assert json.loads(result.body) == {"accepted": 3}
    (line,) = by_version(result)
    assert line["AbsoluteError"] == [2, 0.5, 0]
    assert line["Impact"] == [6, 9, 99.5]
    assert "Correct" not in line
    assert line["version"] == "3"
    assert line["predicted_by"] == {"version": "1.2.3", "model": "abcdef"}
    assert line["prediction_ids"] == ids


def test_refusal_names_the_output_that_outcomes_are_compared_with() -> None:
    second = VALUE._replace(name="demand")
    model = make_model(VALUE, second)
    ids = make_ids(model, np.array([[1.0]]), np.array([[2.0]]))
    with pytest.raises(ContractViolation) as error:
        send(make_handler(model), (ids[0], "high"))
    (violation,) = error.value.violations
    assert violation.message == f"must be a number, to compare with {VALUE.name}"


@pytest.mark.parametrize("outputs", [(LABEL,), (CHANCES,)])
def test_classes_are_right_or_wrong_and_worth_what_the_table_says(outputs: Any) -> None:
    table = {"yes": {"yes": 50.0, "no": -5.0}}
    model = make_model(*outputs, outcome_value=OutcomeValue("EUR", 1, 3, table))
    labels = np.array(["yes", "yes", "no", "no"], object)
    shares = np.array([[0, 1], [0, 1], [1, 0], [1, 0]])
    ids = make_ids(model, labels if outputs == (LABEL,) else shares)
    outcomes = zip(ids, ["yes", "no", "no", "yes"], strict=True)
    (line,) = by_version(send(make_handler(model), *outcomes))
    assert line["Correct"] == [1, 0, 1, 0]
    assert line["Impact"] == [50, -5, 1, -3]


def test_without_a_value_only_outcomes_are_counted() -> None:
    model = make_model(RAW)
    ids = make_ids(model, np.zeros((1, 3)))
    (line,) = by_version(send(make_handler(model), (ids[0], 1)))
    assert line["Outcomes"] == [1]
    assert not {"AbsoluteError", "Correct", "Impact"} & set(line)


def test_each_version_gets_its_own_line() -> None:
    model = make_model(VALUE)
    ids = [make_ids(model, np.ones((1, 1)), version=version)[0] for version in "344"]
    result = send(make_handler(model), *((id, 2) for id in ids))
    assert {line["version"]: line["Outcomes"] for line in by_version(result)} == {
        "3": [1],
        "4": [1, 1],
    }


@pytest.mark.fault(
    "A job's prediction has a bad outcome, and the API has a version of the same number",
    "The outcome is filed under the worker, whose version predicted",
)
def test_an_outcome_is_filed_under_the_function_that_predicted() -> None:
    model = make_model(VALUE)
    (of_api,) = make_ids(model, np.ones((1, 1)))
    (of_worker,) = make_ids(model, np.ones((1, 1)), source=WORKER)
    (of_batch,) = make_ids(model, np.ones((1, 1)), source=BATCH)
    outcomes = ((of_api, 2), (of_worker, 5), (of_batch, 7))
    result = send(make_handler(model, service="m-prod"), *outcomes)
    errors = {
        (line["service"], line["version"]): line["AbsoluteError"] for line in by_version(result)
    }
    assert errors == {("m-prod", "3"): [1], ("m-prod-jobs", "3"): [4], ("m-prod-batch", "3"): [6]}
    # the alarm on missing outcomes counts all
    total = result.lines[0]
    assert (total["service"], total["Outcomes"]) == ("m-prod", 3)
    assert total["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [("service",)]


def test_a_refused_outcome_has_its_pointer_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(VALUE)
    good, again, wrong = make_ids(model, np.ones((3, 1)))
    (foreign,) = make_ids(make_model(VALUE, name="other"), np.ones((1, 1)))
    (forged,) = make_ids(model, np.ones((1, 1)), secret="another")
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 366 * 86_400 * 10**9)
    (late,) = make_ids(model, np.ones((1, 1)))
    monkeypatch.setattr(time, "time_ns", lambda: now + 3600 * 10**9)
    (future,) = make_ids(model, np.ones((1, 1)))
    monkeypatch.setattr(time, "time_ns", lambda: now)
    handler = make_handler(model)
    send(handler, (again, 1))
    outcomes = [(good, 1), (good, 1), (again, 1), ("x", 1), (forged, 1), (foreign, 1), (late, 1)]
    result = send(handler, *outcomes, (future, 1), (wrong, "much"))
    response = json.loads(result.body)
    assert response["accepted"] == 1
    refused = {(item["pointer"], item["code"]) for item in response["refused"]}
    expected = (
        "duplicate",
        "duplicate",
        "malformed_id",
        "invalid_signature",
        "other_model",
        "expired",
        "in_future",
    )
    assert refused == {
        *((f"/outcomes/{i}/prediction_id", code) for i, code in enumerate(expected, 1)),
        ("/outcomes/8/actual", "type"),
    }
    assert sum(len(line["Outcomes"]) for line in by_version(result)) == 1


def test_a_refused_outcome_may_be_sent_again() -> None:
    model = make_model(VALUE)
    (id,) = make_ids(model, np.ones((1, 1)))
    handler = make_handler(model)
    assert refusal(handler, (id, True)) == [("/outcomes/0/actual", "type")]
    assert json.loads(send(handler, (id, 1)).body) == {"accepted": 1}


def test_without_a_secret_only_the_checksum_is_verified() -> None:
    model = make_model(VALUE)
    (id,) = make_ids(model, np.ones((1, 1)), secret="")
    broken = id[:-1] + ("0" if id[-1] != "0" else "1")
    assert refusal(make_handler(model, ""), (broken, 1)) == [
        ("/outcomes/0/prediction_id", "invalid_checksum")
    ]


def test_two_deployments_secrets_do_not_meet() -> None:
    model = make_model(VALUE)
    (id,) = make_ids(model, np.ones((1, 1)), secret="first")
    assert refusal(make_handler(model, "second"), (id, 1))[0][1] == "invalid_signature"
    # of the second deployment after it took over the first one's secret as its old one
    assert json.loads(send(make_handler(model, "second first"), (id, 1)).body) == {"accepted": 1}


# Labels

INT_LABEL = Output("label", "l", "int64", (None,), "label", classes=(0, 1))
WIDE_LABEL = Output("label", "l", "int64", (None,), "label", classes=(0, 1, 7))
FLAGS = Output("label", "l", "string", (None,), "label", classes=("False", "True"))
FREE_INT = Output("label", "l", "int64", (None,), "label")
FREE_TEXT = Output("label", "l", "string", (None,), "label")
FREE_FLAG = Output("label", "l", "bool", (None,), "label")


@pytest.mark.parametrize(
    ("output", "label", "spellings"),
    [
        (INT_LABEL, 0, ["0", 0, 0.0, -0.0, False]),
        (INT_LABEL, 1, ["1", 1, 1.0, True]),
        (WIDE_LABEL, 7, ["7", 7, 7.0]),
        (FLAGS, "True", ["True", "true", True]),
        (LABEL, "yes", ["yes"]),
        (FREE_INT, 12, ["12", 12, 12.0]),
        (FREE_TEXT, "12", ["12", 12, 12.0]),
        (FREE_TEXT, "true", ["true", True]),
        (FREE_FLAG, True, ["true", True, 1, "1"]),
    ],
)
def test_equal_spellings_of_a_class_are_equal(
    output: Output, label: Any, spellings: list[Any]
) -> None:
    model = make_model(output)
    for spelling in spellings:
        (id,) = make_ids(model, np.array([label], object))
        (line,) = by_version(send(make_handler(model), (id, spelling)))
        assert line["Correct"] == [1], spelling


@pytest.mark.parametrize(
    ("output", "label", "unknown"),
    [
        (INT_LABEL, 0, ["banana", 7, 0.5, "00", "0.0", "", 2**63, 2**64, 1e300, -1]),
        (WIDE_LABEL, 0, [True, False, "true"]),
        (LABEL, "yes", ["Yes", "yes ", 1, True, 1e300]),
        (CHANCES, "yes", ["banana", 7]),
        (FREE_INT, 1, ["one", 1.5, True, 2**63, 1e300, "9" * 999]),
        (FREE_FLAG, True, ["yes", 0.5]),
    ],
)
def test_a_label_that_is_no_class_is_refused(
    output: Output, label: Any, unknown: list[Any]
) -> None:
    model = make_model(output)
    handler = make_handler(model)
    array = np.array([[0.1, 0.9]]) if output is CHANCES else np.array([label], object)
    for actual in unknown:
        (id,) = make_ids(model, array)
        assert refusal(handler, (id, actual)) == [("/outcomes/0/actual", "unknown_label")], actual


@pytest.mark.parametrize(
    ("actual", "code"), [(1e300, "out_of_range"), (-1.7e308, "out_of_range"), ("1", "type")]
)
def test_a_number_that_no_metric_holds_is_refused(actual: Any, code: str) -> None:
    model = make_model(VALUE)
    (id,) = make_ids(model, np.array([[1e308]]))
    assert refusal(make_handler(model), (id, actual)) == [("/outcomes/0/actual", code)]


@pytest.mark.parametrize("digits", [20, 309, 310, 1001, 4300, 4301, 9000])
@pytest.mark.parametrize(
    ("output", "code"),
    [(VALUE, "out_of_range"), (INT_LABEL, "unknown_label"), (FREE_INT, "unknown_label")],
)
def test_an_integer_of_many_digits_is_refused(output: Output, code: str, digits: int) -> None:
    model = make_model(output)
    (id,) = make_ids(model, np.array([0], object if output.kind == "label" else float))
    handler = make_handler(model)
    for sign in ("", "-"):
        number = sign + "9" * digits
        for fields in (f'"actual":{number}', f'"actual":1,"value":{number}'):
            if digits == 20 and (output is VALUE or "value" in fields):
                continue  # a number like any other
            with pytest.raises((BadRequest, ContractViolation)) as error:
                handler(f'{{"outcomes":[{{"prediction_id":"{id}",{fields}}}]}}')
            assert isinstance(error.value, BadRequest) == (digits > 4300)
            if isinstance(error.value, ContractViolation) and "value" not in fields:
                assert codes(error.value) == [("/outcomes/0/actual", code)]


# Corrections


def test_a_correction_is_accepted_and_says_so() -> None:
    model = make_model(LABEL)
    (id,) = make_ids(model, np.array(["yes"], object))
    handler = make_handler(model)
    assert json.loads(send(handler, (id, "no")).body) == {"accepted": 1}
    assert refusal(handler, (id, "no")) == [("/outcomes/0/prediction_id", "duplicate")]
    result = send(handler, (id, "yes"))
    assert json.loads(result.body) == {"accepted": 1, "corrected": 1}
    (line,) = by_version(result)
    assert (line["prediction_ids"], line["Correct"]) == ([id], [1])
    assert refusal(handler, (id, "yes")) == [("/outcomes/0/prediction_id", "duplicate")]
    assert json.loads(send(handler, (id, "yes", 5)).body) == {"accepted": 1, "corrected": 1}


def test_a_correction_from_one_wrong_class_to_another_is_no_duplicate() -> None:
    model = make_model(WIDE_LABEL)
    (id,) = make_ids(model, np.array([0], object))
    handler = make_handler(model)
    send(handler, (id, 1))
    assert json.loads(send(handler, (id, 7)).body) == {"accepted": 1, "corrected": 1}
    assert refusal(handler, (id, "7")) == [("/outcomes/0/prediction_id", "duplicate")]


def test_the_memory_of_corrections_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "MAX_REMEMBERED_IDS", 3)
    model = make_model(VALUE)
    ids = make_ids(model, np.ones((4, 1)))
    handler = make_handler(model)
    send(handler, *((id, 1) for id in ids[:3]))
    send(handler, (ids[0], 2))  # now the one that is forgotten last
    send(handler, (ids[3], 1))
    assert json.loads(send(handler, (ids[0], 3)).body) == {"accepted": 1, "corrected": 1}
    assert json.loads(send(handler, (ids[1], 1)).body) == {"accepted": 1}


def test_the_lists_of_a_line_are_aligned() -> None:
    model = make_model(VALUE)
    ids = make_ids(model, np.ones((3, 1)))
    lines = by_version(send(make_handler(model), (ids[0], 1, 5), (ids[1], 1), (ids[2], 1, 7)))
    for line in lines:
        names = {"Outcomes", "OutcomeAge", "AbsoluteError", "Impact"} & line.keys()
        assert {len(line[name]) for name in names} == {len(line["prediction_ids"])}
    assert {tuple(line["prediction_ids"]): line.get("Impact") for line in lines} == {
        (ids[0], ids[2]): [5, 7],
        (ids[1],): None,
    }


# Bodies


@pytest.mark.parametrize(
    ("body", "kind", "place"),
    [
        ("{", BadRequest, None),
        (b"\xff", BadRequest, None),
        ("\ud800", BadRequest, None),
        ("[]", ContractViolation, ""),
        ("{}", ContractViolation, "/outcomes"),
        ('{"outcomes":[],"KEY":1}', ContractViolation, ""),
        ('{"outcomes":[]}', ContractViolation, "/outcomes"),
        ('{"outcomes":{}}', ContractViolation, "/outcomes"),
        ('{"outcomes":[7]}', ContractViolation, "/outcomes/0"),
        ('{"outcomes":[{"prediction_id":"x"}]}', ContractViolation, "/outcomes/0/actual"),
        ('{"outcomes":[{"prediction_id":1,"actual":1}]}', ContractViolation,
         "/outcomes/0/prediction_id"),
        ('{"outcomes":[{"prediction_id":"x","actual":1,"KEY":1}]}', ContractViolation,
         "/outcomes/0"),
        ('{"outcomes":[{"prediction_id":"x","actual":1,"actual":2}]}', BadRequest, None),
        ('{"outcomes":[{"prediction_id":"x","actual":NaN}]}', ContractViolation,
         "/outcomes/0/actual"),
        ('{"outcomes":[{"prediction_id":"x","actual":-1e999}]}', ContractViolation,
         "/outcomes/0/actual"),
        ('{"outcomes":[{"prediction_id":"x","actual":1,"value":NaN}]}', ContractViolation,
         "/outcomes/0/value"),
        ('{"outcomes":[{"prediction_id":"x","actual":null}]}', ContractViolation,
         "/outcomes/0/actual"),
        ('{"outcomes":[{"prediction_id":"x","actual":[1]}]}', ContractViolation,
         "/outcomes/0/actual"),
        (json.dumps({"outcomes": [{"prediction_id": "x", "actual": "y" * 1001}]}),
         ContractViolation, "/outcomes/0/actual"),
        ('{"outcomes":[{"prediction_id":"x","actual":1,"value":true}]}', ContractViolation,
         "/outcomes/0/value"),
        ('{"outcomes":[{"prediction_id":"x","actual":1,"value":1e300}]}', ContractViolation,
         "/outcomes/0/value"),
        ('{"outcomes":[{"prediction_id":"x","actual":1,"value":null}]}', ContractViolation,
         "/outcomes/0/value"),
        (json.dumps({"outcomes": [{"prediction_id": "x", "actual": 1}] * 1001}), ContractViolation,
         "/outcomes"),
    ],
)  # fmt: skip
def test_bodies_of_another_form_are_refused(body: Any, kind: Any, place: str | None) -> None:
    with pytest.raises(kind) as error:
        make_handler(make_model(VALUE))(body)
    if place is not None:
        assert error.value.violations[0].pointer == place
    assert "KEY" not in str(vars(error.value))


@pytest.mark.fault(
    "A body to /feedback nests lists by the hundred thousand",
    "422, and it costs at most 64 MB",
)
@pytest.mark.parametrize("filler", ["[[[[[]]]]],", "[],", "{},", "[0],", '"",', "1.5,"])
def test_a_body_costs_no_more_than_64_mb(filler: str) -> None:
    head, tail = '{"outcomes":[{"prediction_id":"x","actual":[', "0]}]}"
    count = (feedback.MAX_BODY_BYTES - len(head) - len(tail)) // len(filler)
    handler = make_handler(make_model(VALUE))
    tracemalloc.start()
    with pytest.raises(ContractViolation) as error:
        handler(head + filler * count + tail)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64_000_000
    assert codes(error.value) == [("/outcomes/0/actual", "invalid")]


def test_a_body_over_the_limit_is_refused_unread(echo_dir: Path) -> None:
    handler = app.create(Settings(echo_dir))
    filler = " " * feedback.MAX_BODY_BYTES
    answer = handler(events.rest('{"outcomes":[]}' + filler, "/feedback"), Context())
    assert answer["statusCode"] == 413
    # which is not the limit of /predict: a thousand outcomes fit whatever the model takes
    outcome = {"prediction_id": "x" * prediction_id.ID_CHARS, "actual": 1.5, "value": 2.5}
    full = json.dumps({"outcomes": [outcome] * prediction_id.MAX_OUTCOMES})
    assert handler(events.rest(full, "/feedback"), Context())["statusCode"] == 422


def test_many_outcomes_keep_to_cloudwatchs_limits() -> None:
    model = make_model(VALUE)
    ids = make_ids(model, np.ones((1000, 1)))
    result = send(make_handler(model), *((id, 1) for id in ids))
    assert len(by_version(result)) == 10
    for line in result.lines:
        emf.validate(json.loads(json.dumps(line)))


def test_an_outcome_from_prediction_to_metrics(tmp_path: Path, capsys: Capture) -> None:
    from onnx import helper

    node = helper.make_node("Identity", ["x"], ["y"])
    directory = artifact.ratio(tmp_path, node)
    handler = app.create(Settings(directory, function_version="9", prediction_id_secret=SECRET))
    answer = handler(events.rest('{"instances":[{"x":4},{"x":6}]}'), Context())
    ids = [prediction["id"] for prediction in json.loads(answer["body"])["predictions"]]
    outcomes = [{"prediction_id": id, "actual": 5, "value": 2} for id in ids]
    body = json.dumps({"outcomes": outcomes})
    accepted = handler(events.rest(body, "/feedback"), Context())
    assert (accepted["statusCode"], json.loads(accepted["body"])) == (202, {"accepted": 2})
    scored, request, total, line = map(json.loads, capsys.readouterr().out.splitlines())
    assert ids[0].startswith(scored["prediction_id_prefix"])
    assert (request["route"], request["status"], request["Rows"]) == ("POST /feedback", 202, 0)
    assert (total["message"], total["Outcomes"]) == ("feedback", 2)
    assert (line["version"], line["AbsoluteError"], line["Impact"]) == ("9", [1, 1], [2, 2])
    emf.validate(total)
    emf.validate(line)
    again = handler(events.rest(body, "/feedback"), Context())
    assert again["statusCode"] == 422
    assert json.loads(again["body"])["errors"][0]["code"] == "duplicate"
