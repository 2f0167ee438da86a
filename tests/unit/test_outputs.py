"""What a model may answer that it must not: a problem and a metric, on every protocol."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from handler import app
from handler.settings import Settings
from tests.fixtures import adversarial, artifact, memory_store, protocols
from tests.fixtures.artifact import FLOAT, INT64
from tests.fixtures.events import Context
from tests.fixtures.memory_store import Memory

Capture = pytest.CaptureFixture[str]
ROW = {"x": 0.0}
X = {"x": np.array([[0.0]], np.float32)}
GOOD = {"x": np.array([[1.0]], np.float32)}
OUTPUT = {"name": "y", "tensor": "y", "dtype": "float32", "shape": [None, 1], "kind": "value"}


def body(x: float) -> str:
    return json.dumps({"instances": [{"x": x}]})


def events(x: float) -> dict[str, dict[str, Any]]:
    """The same row through every protocol."""
    arrays = {"x": np.array([[x]], np.float32)}
    return {
        "predict": protocols.event(body(x), "/predict"),
        "invocations": protocols.event(body(x), "/invocations"),
        "v1": protocols.event(body(x), "/v1/models/test:predict"),
        "v2": protocols.as_json(arrays),
        "v2 binary": protocols.as_binary(arrays),
    }


def node(op: str, **attributes: Any) -> Any:
    return helper.make_node(op, ["x"], ["y"], **attributes)


def made(directory: Path, nodes: list[Any], output: dict[str, Any], kind: int = FLOAT) -> Path:
    """A graph of x [N,1] that is good at its example, 1, and bad at 0; the output as declared."""
    model = artifact.graph(nodes, [("x", FLOAT, [None, 1])], [("y", kind, None)])
    return artifact.write(
        directory,
        model,
        inputs=[{"name": "x", "dtype": "float32", "shape": [None, 1]}],
        features=[{"name": "x", "input": "x", "type": "number", "example": 1.0}],
        outputs=[{**OUTPUT, **output}],
    )


# rows where x is not 0: at x = 0 there are none
NONZERO = [
    helper.make_node("NonZero", ["x"], ["at"]),
    helper.make_node("Constant", [], ["one"], value_ints=[0]),
    helper.make_node("Gather", ["at", "one"], ["first"], axis=0),
    helper.make_node("Transpose", ["first"], ["y"], perm=[1, 0]),
]
# [N, 1 + x]: another width for every x
WIDER = [
    helper.make_node("Cast", ["x"], ["n"], to=INT64),
    helper.make_node("Constant", [], ["minus"], value_ints=[-1]),
    helper.make_node("Constant", [], ["two"], value_ints=[2]),
    helper.make_node("Reshape", ["n", "minus"], ["flat"]),
    helper.make_node("Sub", ["two", "flat"], ["times"]),
    helper.make_node("Constant", [], ["rows"], value_ints=[1]),
    helper.make_node("Concat", ["rows", "times"], ["repeats"], axis=0),
    helper.make_node("Tile", ["x", "repeats"], ["y"]),
]
NON_FINITE: dict[str, tuple[list[Any], dict[str, Any], int]] = {
    "infinite": ([node("Log")], {}, FLOAT),
    "not a number": ([helper.make_node("Div", ["x", "x"], ["y"])], {}, FLOAT),
    "a probability": (
        [helper.make_node("Div", ["x", "x"], ["y"])],
        {"kind": "probabilities", "classes": ["a"]},
        FLOAT,
    ),
    "a label": (
        [helper.make_node("Div", ["x", "x"], ["y"])],
        {"kind": "label", "classes": [0, 1]},
        FLOAT,
    ),
    "a tensor": ([helper.make_node("Div", ["x", "x"], ["y"])], {"kind": "tensor"}, FLOAT),
    "half": (
        [
            helper.make_node("Div", ["x", "x"], ["d"]),
            helper.make_node("Cast", ["d"], ["y"], to=TensorProto.FLOAT16),
        ],
        {"dtype": "float16"},
        TensorProto.FLOAT16,
    ),
}
WRONG_SHAPE: dict[str, tuple[list[Any], dict[str, Any], int]] = {
    "fewer rows": (NONZERO, {"dtype": "int64"}, INT64),
    "wider": (WIDER, {"shape": [None, None], "kind": "probabilities", "classes": ["a"]}, FLOAT),
    "wider value": (WIDER, {"shape": [None, None]}, FLOAT),
}


def problems(api: app.Handler, capsys: Capture) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Send a good and a bad value by every protocol; yield each problem with its record."""
    for name, event in events(1.0).items():
        assert api(event, Context())["statusCode"] == 200, name
    capsys.readouterr()
    for event in events(0.0).values():
        problem = adversarial.checked(api(event, Context()))
        yield problem, json.loads(capsys.readouterr().out)


def good_and_bad() -> dict[str, Any]:
    """Return the event of two jobs, of a good and of a bad value."""
    values = {"good": 1.0, "bad": 0.0}
    return memory_store.event(*(memory_store.record(body(x), name) for name, x in values.items()))


@pytest.mark.fault(
    "the model answers NaN or Inf for a row, but not for its own example",
    "422 model_rejected and the metric ClientErrors on every protocol; a job has failed with that",
)
@pytest.mark.parametrize("case", NON_FINITE)
def test_a_row_without_a_finite_answer_is_rejected_everywhere(
    case: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = made(tmp_path, *NON_FINITE[case])
    api, worker = adversarial.handlers(directory, memory := Memory(), monkeypatch)
    for problem, record in problems(api, capsys):
        assert problem["status"] == 422
        assert [violation["code"] for violation in problem["errors"]] == ["model_rejected"]
        assert (record["ServerErrors"], record["ClientErrors"]) == (0, 1)
    assert worker(good_and_bad(), Context()) == {"batchItemFailures": []}
    result = adversarial.strict(memory.objects["jobs/bad/result.json"][0])
    assert result["problem"]["errors"][0]["code"] == "model_rejected"


@pytest.mark.parametrize("case", ["infinite", "a tensor"])
def test_a_model_without_a_finite_answer_to_its_own_example_is_at_fault(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, output, _ = NON_FINITE[case]  # a tensor contract's example is 0
    directory = artifact.ratio(tmp_path, *nodes, features=[], outputs=[{**OUTPUT, **output}])
    api, _ = adversarial.handlers(directory, Memory(), monkeypatch)
    sent = json.dumps({"instances": [{"x": [0]}]})
    answer = api(protocols.event(sent, "/predict"), Context())
    assert adversarial.checked(answer)["type"].endswith("bad-output")


@pytest.mark.fault(
    "the model answers in another shape than its contract says",
    "500 bad-output and the metric ServerErrors on every protocol; a job comes again",
)
@pytest.mark.parametrize("case", WRONG_SHAPE)
def test_a_bad_answer_is_a_problem_everywhere(
    case: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = made(tmp_path, *WRONG_SHAPE[case])
    api, worker = adversarial.handlers(directory, memory := Memory(), monkeypatch)
    for problem, record in problems(api, capsys):
        assert problem["status"] == 500
        assert problem["type"].endswith(":bad-output")
        counts = record["ServerErrors"], record["ClientErrors"], record["problem"]
        assert counts == (1, 0, "bad-output")
    answered = worker(good_and_bad(), Context())
    assert answered == {"batchItemFailures": [{"itemIdentifier": "bad"}]}
    assert list(memory.objects) == ["jobs/good/result.json"]
    retry, _, batch = map(json.loads, capsys.readouterr().out.splitlines())
    assert (retry["problem"], batch["Retries"]) == ("bad-output", 1)


@pytest.mark.fault(
    "the graph's output has another type than the manifest says",
    "a table's function is not ready (503) and says why; a tensor model answers 500 bad-output",
)
@pytest.mark.parametrize("tabular", [True, False])
def test_another_type_than_promised_is_a_problem(
    tabular: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: dict[str, Any] = {"outputs": [{**OUTPUT, "dtype": "float64"}]}
    if not tabular:
        fields["features"] = []
    directory = artifact.ratio(tmp_path, node("Neg"), **fields)
    if tabular:
        api = app.create(Settings(directory))
    else:
        api, _ = adversarial.handlers(directory, Memory(), monkeypatch)
    sent = json.dumps({"instances": [{"x": 1.0 if tabular else [1.0]}]})
    for event in (protocols.event(sent, "/predict"), protocols.as_json(GOOD)):
        answer = api(event, Context())
        kind = "not-ready" if tabular else "bad-output"
        assert adversarial.checked(answer)["type"].endswith(kind)


@pytest.mark.fault(
    "the answer would be larger than the response may be",
    "413 and the metric ClientErrors on every protocol; a job has failed with that problem",
)
def test_too_large_an_answer_is_refused_everywhere(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"rows": 10, "body_bytes": 10_000, "response_bytes": 50, "elements": 10}
    directory = artifact.ratio(tmp_path, node("Neg"), limits=limits)
    api, worker = adversarial.handlers(directory, memory := Memory(), monkeypatch)
    for name, event in events(1.0).items():
        capsys.readouterr()
        answer = api(event, Context())
        assert answer["statusCode"] == 413, name
        assert adversarial.checked(answer)["type"].endswith("payload-too-large")
        record = json.loads(capsys.readouterr().out)
        assert (record["ServerErrors"], record["ClientErrors"]) == (0, 1)
    answered = worker(memory_store.event(memory_store.record(body(1.0), "m")), Context())
    assert answered == {"batchItemFailures": []}
    result = adversarial.strict(memory.objects["jobs/m/result.json"][0])
    assert result["problem"]["type"].endswith("payload-too-large")


@pytest.mark.parametrize("kind", ["value", "tensor"])
def test_a_float16_is_written_with_its_own_digits(tmp_path: Path, kind: str) -> None:
    half = TensorProto.FLOAT16
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=half)]
    output = {"dtype": "float16", "kind": kind}
    api = app.create(Settings(made(tmp_path, nodes, output, half)))
    numbers = [0.1, 1.0, 1e-5, -0.0, 65504.0, 0.333251953125, 2049.0]
    texts = ["0.1", "1.0", "0.00001", "-0.0", "65500.0", "0.3333", "2048.0"]
    instances = ",".join(f'{{"x":{number}}}' for number in numbers)
    answer = api(protocols.event(f'{{"instances":[{instances}]}}', "/predict"), Context())
    found = re.findall(r'"y":\[?([-0-9.e]+)', answer["body"])
    assert found == texts
    infer = {"name": "x", "datatype": "FP32", "shape": [len(numbers), 1], "data": numbers}
    answer = api(protocols.event(json.dumps({"inputs": [infer]})), Context())
    assert answer["statusCode"] == 200, answer["body"]
    assert f"[{','.join(texts)}]" in answer["body"]
    assert np.array(texts, np.float16).tolist() == np.array(numbers, np.float16).tolist()
