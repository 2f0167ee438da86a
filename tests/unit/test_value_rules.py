"""One rule for a value: every protocol gives the same verdict and the same prediction."""

import functools
import io
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from answerable import contract_cases
from answerable.commands import conformance
from handler import app
from handler import manifest as manifests
from handler.settings import Settings
from tests.fixtures import artifact, events, protocols
from tests.fixtures.events import Context

Result = tuple[int, Any]  # the status, with the prediction or the code of the violation
ONNX_TYPES = {
    "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64, "uint64": TensorProto.UINT64, "int8": TensorProto.INT8,
}  # fmt: skip
# type, dtype and fields of a feature
FEATURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bounded": ("number", "float32", {"minimum": 18, "maximum": 120}),
    "tenths": ("number", "float32", {"minimum": 0.1, "maximum": 0.7}),
    "half": ("number", "float16", {"minimum": 0.1}),
    "double": ("number", "float64", {"maximum": 2**53}),
    "free": ("number", "float32", {}),
    "counted": ("number", "float32", {"minimum": 0, "maximum": 1, "out_of_range": "accept"}),
    "whole": ("integer", "float32", {}),
    "exact": ("integer", "float64", {}),
    "count": ("integer", "int64", {"maximum": 2**63 - 1}),
    "small": ("integer", "int8", {"minimum": -3}),
    "unsigned": ("integer", "uint64", {}),
    "code": ("category", "float32", {"categories": [1, 2.5, 0.1]}),
    "day": ("date", "float64", {"minimum": "2000-01-01", "maximum": "2030-12-31"}),
}
EXAMPLES = {"code": 1, "day": "2024-02-29", "bounded": 50, "tenths": 0.5, "double": 1, "half": 1}


@functools.cache
def handler(name: str) -> app.Handler:
    """Return the app of a model with one feature, which answers with its value."""
    import tempfile

    kind, dtype, fields = FEATURES[name]
    node = helper.make_node("Identity", ["x"], ["y"])
    value = ("x", ONNX_TYPES[dtype], [None, 1])
    directory = artifact.write(
        Path(tempfile.mkdtemp()),
        artifact.graph([node], [value], [("y", ONNX_TYPES[dtype], [None, 1])]),
        inputs=[{"name": "x", "dtype": dtype, "shape": [None, 1]}],
        features=[
            {"name": "x", "input": "x", "type": kind, "example": EXAMPLES.get(name, 0), **fields}
        ],
        outputs=[{"name": "y", "tensor": "y", "dtype": dtype, "shape": [None, 1], "kind": "value"}],
    )
    return app.create(Settings(directory))


def result(answer: Any) -> Result:
    document = json.loads(answer["body"])
    if answer["statusCode"] == 200:
        return 200, document["predictions"][-1]["y"]
    return answer["statusCode"], [e["code"] for e in document.get("errors", ())][-1:]


def post(name: str, path: str, body: Any, kind: str = "application/json") -> Result:
    event = events.rest(body, path, headers={"Content-Type": kind})
    return result(handler(name)(event, Context()))


def ask(name: str, event: Any) -> Result:
    status, document, arrays = protocols.ask(handler(name), event)
    if status != 200:
        return status, [e["code"] for e in document.get("errors", ())][-1:]
    return 200, arrays["y"].ravel()[-1]


def results(name: str, text: str) -> Iterator[tuple[str, Result]]:
    """Yield how each JSON protocol answers a value that is spelt as `text`, in two sizes."""
    padding = " " * 5000
    for size in ("", padding):
        yield (
            f"/predict{len(size)}",
            post(name, "/predict", f'{{"instances":[{{"x":{text}}}]{size}}}'),
        )
        for form in ("instances", "dataframe_records"):
            body = f'{{"{form}":[{{"x":{text}}}]{size}}}'
            yield f"{form}{len(size)}", post(name, "/invocations", body)
        yield (
            f"inputs{len(size)}",
            post(name, "/invocations", f'{{"inputs":{{"x":[{text}]}}{size}}}'),
        )
        split = f'{{"dataframe_split":{{"columns":["x"],"data":[[{text}]]}}{size}}}'
        yield f"split{len(size)}", post(name, "/invocations", split)


def tensor_results(name: str, text: str) -> Iterator[tuple[str, Result]]:
    """Yield how the tensor protocols and CSV answer a number that is spelt as `text`."""
    datatype = protocols.DATATYPES[FEATURES[name][1]]
    tensor = f'{{"name":"x","datatype":"{datatype}","shape":[1,1],"data":[{text}]}}'
    for padding in ("", " " * 5000):
        yield "/v2", ask(name, protocols.event(f'{{"inputs":[{tensor}]{padding}}}'))
    yield "csv", post(name, "/invocations", f"x\n{text}\n", "text/csv")


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


NUMBERS = st.one_of(
    st.sampled_from([
        17.9999999, 18, 120.00000001, 0.1, 0.7, 0.10000000149011612, 0.699999988079071,
        0.09997558593750001, 50.00000000001, 50.0, 2**24, 2**24 + 1, 2.0**24 + 2, 2**53, 2**53 + 1,
        float(2**53), 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, float(2**63), 2**64 - 1, 2**64,
        1e16, 3.0, -3.0, -4, 127, 128, 2.5, 1e39, -1e39, 3.4028235e38, 65519.9, 65520.0, 1e300,
        10**308, 10**309, -(10**400), 1e999, math.nan, -math.inf, 5e-324, -0.0,
    ]),
    st.integers(), st.floats(), st.floats(width=32), st.integers(-200, 200),
)  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FEATURES if name != "day"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@example(value=2**53 + 1)
@example(value=float(2**53))
@example(value=17.9999999)
@example(value=10**400)
@given(value=NUMBERS)
def test_a_number_has_one_verdict_and_one_prediction_on_every_protocol(
    name: str, value: Any
) -> None:
    text = json.dumps(value)
    expected = post(name, "/predict", f'{{"instances":[{{"x":{text}}}]}}')
    assert expected[0] in (200, 422)
    if not (isinstance(value, float) and value != value):  # a NaN in CSV is a missing value
        answers = {**dict(results(name, text)), **dict(tensor_results(name, text))}
    else:
        answers = dict(results(name, text))
    assert answers == dict.fromkeys(answers, expected)
    if not abs(value) <= sys.float_info.max:
        assert expected == (422, ["non_finite"])


@pytest.mark.parametrize("name", [name for name in FEATURES if name != "day"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=NUMBERS)
def test_a_tensor_in_bytes_has_the_verdict_of_its_value_in_json(name: str, value: Any) -> None:
    dtype = np.dtype(FEATURES[name][1])
    try:
        with np.errstate(all="ignore"):
            array = (
                np.array([[value]], float).astype(dtype)
                if dtype.kind == "f"
                else np.array([[int(value)]], dtype)
            )
    except (ValueError, OverflowError):
        return
    sent = array.item()
    expected = post(name, "/predict", json.dumps({"instances": [{"x": sent}]}))
    assert ask(name, protocols.as_binary({"x": array})) == expected
    assert ask(name, protocols.as_json({"x": array})) == expected
    assert post(name, "/invocations", npy(array), "application/x-npy") == expected
    if dtype.kind == "f":  # rounded only after it was judged
        wide = post(name, "/invocations", npy(np.array([[sent]])), "application/x-npy")
        assert wide == expected


DATES = st.one_of(
    st.dates().map(lambda day: day.isoformat()),
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.sampled_from([
        "2000-01-01", "1999-12-31", "2030-12-31", "2031-01-01", "2030-12-31T12:00", "2024-02-30",
        "2024-06-01T10:00:00Z", "2024-06-01T10:00:00+02:00", "2024-06-01 10:00", "20240601", "x",
        "2024-W01-1", "2024-6-1", "",
        "\u0662\u0660\u0662\u0664-01-01", "2024-01-01T25:00", "1", "12.5",
    ]),
)  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=DATES)
def test_a_date_has_one_verdict_and_one_prediction_on_every_protocol(text: str) -> None:
    sent = json.dumps(text)
    expected = post("day", "/predict", f'{{"instances":[{{"x":{sent}}}]}}')
    assert expected[0] in (200, 422)
    answers = dict(results("day", sent))
    if text:  # an empty cell is a missing value
        answers["csv"] = post("day", "/invocations", f'x\n"{text}"\n', "text/csv")
    assert answers == dict.fromkeys(answers, expected)
    if expected[0] == 200:  # a tensor holds the days
        array = np.array([[expected[1]]])
        assert ask("day", protocols.as_binary({"x": array})) == expected
        assert ask("day", protocols.as_json({"x": array})) == expected


@pytest.mark.parametrize(("days", "code"), [
    (10956.0, "out_of_range"), (22281.0, "out_of_range"), (math.nan, "non_finite"),
    (math.inf, "non_finite"), (1e300, "out_of_range"),
])  # fmt: skip
def test_days_that_are_no_date_of_the_contract(days: float, code: str) -> None:
    tensor = f'{{"name":"x","datatype":"FP64","shape":[1,1],"data":[{json.dumps(days)}]}}'
    assert ask("day", protocols.event(f'{{"inputs":[{tensor}]}}')) == (422, [code])
    status, _ = ask("day", protocols.as_binary({"x": np.array([[days]])}))
    assert status == 422


@pytest.mark.parametrize("digits", [309, 1000, 4300])
@pytest.mark.parametrize("name", ["bounded", "whole", "count", "unsigned"])
def test_an_integer_that_no_double_holds_is_not_finite(name: str, digits: int) -> None:
    """The integer was a 500 in CSV, and another violation in bodies of another size."""
    text = "9" * digits
    answers = {**dict(results(name, text)), **dict(tensor_results(name, text))}
    assert answers == dict.fromkeys(answers, (422, ["non_finite"]))


def test_a_bound_is_reported_as_it_is_stated() -> None:
    event = events.rest('{"instances":[{"x":0.8}]}', "/predict")
    document = json.loads(handler("tenths")(event, Context())["body"])
    assert document["errors"][0]["message"] == "must be at most 0.7"
    event = events.rest('{"instances":[{"x":1e30}]}', "/predict")
    document = json.loads(handler("count")(event, Context())["body"])
    assert document["errors"][0]["message"] == f"must be at most {2**63 - 1}"


def test_a_table_of_fifteen_floats_passes_its_own_release_checks(tmp_path: Path) -> None:
    """Its refusals were stacked into bodies over 4,096 characters, where NaN was a 400."""
    names = [f"customer_feature_{i}" for i in range(15)]
    values = [(name, TensorProto.FLOAT, [None, 1]) for name in names]
    graph = artifact.graph(
        [helper.make_node("Sum", names, ["y"])], values, [("y", TensorProto.FLOAT, [None, 1])]
    )
    directory = artifact.write(
        tmp_path,
        graph,
        inputs=artifact.tensors(values),
        features=[{"name": n, "input": n, "type": "number", "example": 1} for n in names],
        outputs=[
            {"name": "y", "tensor": "y", "dtype": "float32", "shape": [None, 1], "kind": "value"}
        ],
    )
    send = conformance.local(directory)
    manifest = manifests.read(directory)
    for case in contract_cases.cases(manifest, jobs=False):
        answer = send(case)
        assert case.mismatch(answer[0], json.loads(answer[1] or b"null")) == "", case.kind
    many = json.dumps({"instances": [dict.fromkeys(names, math.nan)] * 20})
    status, text = send(contract_cases.Case("", "/predict", many.encode(), 422))
    assert status == 422
    assert {error["code"] for error in json.loads(text)["errors"]} == {"non_finite"}
    assert len(many) > 4096
