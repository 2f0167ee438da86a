"""`/invocations` and KServe's `:predict`: every format gets what `/predict` gives."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from onnx import helper

from handler import app
from handler.errors import pointer
from handler.scoring import Scorer
from handler.settings import Settings
from handler.validate import example
from tests.fixtures import artifact, events
from tests.fixtures.artifact import DIABETES, ECHO_FEATURES, FLOAT
from tests.fixtures.events import Context

NAMES = [feature["name"] for feature in ECHO_FEATURES]
ROWS: list[dict[str, Any]] = [
    {"ratio": 0.5, "count": 3, "colour": "red", "open": True, "note/~": "a,b", "serum": 0.25},
    {"ratio": 10, "count": -5, "colour": "blue", "open": False, "note/~": "", "serum": None},
]
TABLE = [[row[name] for name in NAMES] for row in ROWS]
COLUMNS = {name: [row[name] for row in ROWS] for name in NAMES}
CSV = 'serum,ratio,count,colour,open,note/~\r\n0.25,0.5,3,red,true,"a,b"\r\n,1e1,-5,blue,False,\r\n'
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def handler(echo_dir: Path) -> app.Handler:
    return app.create(Settings(echo_dir))


def post(
    handler: app.Handler, body: Any, kind: str = "application/json", path: str = "/invocations"
) -> tuple[int, Any]:
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    answer = handler(events.rest(text, path, headers={"Content-Type": kind}), Context())
    found = json.loads(answer["body"])
    for prediction in found.get("predictions", []):
        prediction.pop("id")  # never the same twice
    return answer["statusCode"], found


def violations_of(problem: Any) -> list[tuple[str, str]]:
    return [(each["pointer"], each["code"]) for each in problem["errors"]]


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def nested(document: Any, depth: int) -> str:
    """Return the JSON of a document, its "DEEP" replaced by a list that nests `depth` times."""
    return json.dumps(document).replace('"DEEP"', "[" * depth + "1" + "]" * depth)


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"index": [0, 1], "columns": NAMES, "data": TABLE}},
        {"dataframe_split": {"columns": NAMES[::-1], "data": [row[::-1] for row in TABLE]}},
        {"dataframe_split": {"data": TABLE}},
        {"dataframe_records": ROWS},
        {"dataframe_records": [ROWS[0], {k: v for k, v in ROWS[1].items() if k != "serum"}]},
        {"instances": ROWS, "signature_name": "serving_default"},
        {"instances": TABLE},
        {"inputs": COLUMNS, "params": {"a": 1}},
        {"inputs": {name: [[value] for value in column] for name, column in COLUMNS.items()}},
        {"inputs": TABLE},
    ],
)
def test_every_json_form_is_predict_s_answer(
    handler: app.Handler, body: Any, capsys: Capture
) -> None:
    expected = post(handler, {"instances": ROWS}, path="/predict")
    assert expected[0] == 200
    assert post(handler, body) == expected
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (second["route"], second["Rows"]) == ("POST /invocations", 2)
    assert set(second["timings_ms"]) == set(first["timings_ms"])


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_csv(handler: app.Handler, start: str) -> None:
    expected = post(handler, {"instances": ROWS}, path="/predict")
    assert post(handler, start + CSV, "text/csv; charset=utf-8") == expected
    assert post(handler, (start + CSV).encode(), "text/csv") == expected


def test_kserve_v1(handler: app.Handler, capsys: Capture) -> None:
    path = "/v1/models/test:predict"
    expected = post(handler, {"instances": ROWS}, path="/predict")
    assert post(handler, {"instances": ROWS}, path=path) == expected
    assert json.loads(capsys.readouterr().out.splitlines()[1])["route"] == (
        "POST /v1/models/{name}:predict"
    )


@pytest.mark.parametrize(
    ("body", "violations"),
    [
        ({"instances": [{**ROWS[0], "ratio": 11}]}, [("/instances/0/ratio", "out_of_range")]),
        (
            {"dataframe_records": [{}]},
            [(pointer("dataframe_records", 0, name), "missing") for name in NAMES[:-1]],
        ),
        ({"instances": [TABLE[0], [11, 3.5, "x", 1, 5, None]]}, [
            ("/instances/1/0", "out_of_range"), ("/instances/1/1", "type"),
            ("/instances/1/2", "unknown_category"), ("/instances/1/3", "type"),
            ("/instances/1/4", "type")]),
        ({"inputs": {**COLUMNS, "count": [1, None]}}, [("/inputs/count/1", "type")]),
        ({"inputs": {**COLUMNS, "count": [1]}}, [("/inputs", "ragged")]),
        ({"inputs": {**COLUMNS, "secret": [1, 2]}}, [("/inputs", "unknown_field")]),
        ({"inputs": {"ratio": [1]}}, [("/inputs/count", "missing")]),
        ({"inputs": 5}, [("/inputs", "ragged")]),
        ({"inputs": {}}, [("/inputs", "wrong_length")]),
        ({"instances": []}, [("/instances", "wrong_length")]),
        ({"instances": "a"}, [("/instances", "type")]),
        ({"instances": TABLE * 501}, [("/instances", "wrong_length")]),
        ({"instances": [ROWS[0], TABLE[1]]}, [("/instances/1", "type")]),
        ({"dataframe_split": []}, [("/dataframe_split/data", "type")]),
        ({"dataframe_split": {"columns": NAMES, "data": []}},
         [("/dataframe_split/data", "wrong_length")]),
        ({"dataframe_split": {"columns": [1], "data": []}}, [("/dataframe_split/columns", "type")]),
        ({"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}},
         [("/dataframe_split/data", "unknown_field")]),
        ({"dataframe_split": {"columns": NAMES, "data": [[1]]}},
         [("/dataframe_split/data", "ragged")]),
        ({}, [("", "missing")]),
        ([], [("", "missing")]),
        ({"instances": ROWS, "inputs": COLUMNS}, [("", "missing")]),
    ],
)  # fmt: skip
def test_what_the_contract_refuses(handler: app.Handler, body: Any, violations: Any) -> None:
    status, problem = post(handler, body)
    assert (status, violations_of(problem)) == (422, violations)
    assert "secret" not in json.dumps(problem)


@pytest.mark.parametrize(
    ("body", "violations"),
    [
        (CSV + ",x,3.5,green,maybe," + "y" * 21, [
            ("/2/ratio", "type"), ("/2/count", "type"), ("/2/colour", "unknown_category"),
            ("/2/open", "type"), ("/2/note~1~0", "too_long")]),
        (CSV + ",nan,1_0,,,", [("/2/ratio", "type"), ("/2/count", "type"),
                               ("/2/colour", "unknown_category"), ("/2/open", "type")]),
        (CSV + ",inf,5,red,1,", [("/2/ratio", "non_finite")]),
        (CSV + "1,2", [("", "ragged")]),
        ("ratio,ratio\n1,2", [("", "ragged")]),
        ("ratio,secret\n1,2", [("/count", "missing")]),
        ("ratio\n", [("", "wrong_length")]),
    ],
)  # fmt: skip
def test_what_the_contract_refuses_of_csv(handler: app.Handler, body: str, violations: Any) -> None:
    status, problem = post(handler, body, "text/csv")
    assert (status, violations_of(problem)) == (422, violations)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ("{", "application/json", 400),
        ("{}", "application/xml", 415),
        ("", "text/csv", 400),
        ('a\n"b', "text/csv", 400),
        (b"\xff\xfe", "text/csv", 400),
        ("\ud800", "text/csv", 400),
        ("a\n" + "x" * 200_000, "text/csv", 400),
        (b"", "application/x-npy", 400),
        (b"\x93NUMPY\x01\x00", "application/x-npy", 400),
        (npy(np.zeros((2, 6)))[:-1], "application/x-npy", 400),
        (npy(np.zeros((2, 6))).replace(b"(2, 6)", b"(2,99)"), "application/x-npy", 400),
        (npy(np.zeros((2, 6))).replace(b"(2, 6)", b"((((((")[:-1], "application/x-npy", 400),
        (npy(np.zeros((2, 6))).replace(b"'<f8'", b"'|O8'"), "application/x-npy", 415),
        (npy(np.array(["a"])), "application/x-npy", 415),
    ],
)
def test_what_cannot_be_read(handler: app.Handler, body: Any, kind: str, status: int) -> None:
    assert post(handler, body, kind)[0] == status


def test_npy_of_a_contract_with_strings(handler: app.Handler) -> None:
    status, problem = post(handler, npy(np.zeros((2, 6))), "application/x-npy")
    assert status == 422
    assert ("/0/2", "unknown_category") in violations_of(problem)
    status, problem = post(handler, npy(np.zeros((2, 5))), "application/x-npy")
    assert (status, violations_of(problem)) == (422, [("", "shape")])


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> app.Handler:
    """Three features whose order is not that of the tensor's columns."""
    features: list[dict[str, Any]] = [
        {"name": "b", "input": "x", "column": 1, "type": "integer", "example": 1},
        {"name": "c", "input": "x", "column": 2, "type": "number", "nullable": True},
        {"name": "a", "input": "x", "column": 0, "type": "number", "maximum": 9, "example": 1.0},
    ]
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("IsNaN", ["x"], ["n"])]
    nodes[0] = helper.make_node("Where", ["n", "zero", "x"], ["y"])
    nodes = [
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("IsNaN", ["x"], ["n"]),
        nodes[0],
    ]
    value = ("x", FLOAT, [None, 3])
    output = {"name": "y", "tensor": "y", "dtype": "float32", "shape": [None, 3], "kind": "tensor"}
    directory = artifact.write(
        tmp_path_factory.mktemp("numbers"),
        artifact.graph(nodes, [value], [("y", FLOAT, [None, 3])]),
        inputs=artifact.tensors([value]),
        features=features,
        outputs=[output],
    )
    return app.create(Settings(directory))


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f8", "<f2", "<i8", "|u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(numbers: app.Handler, dtype: str, order: Any) -> None:
    array = np.array([[1, 2, 3], [4, 5, 6]], dtype, order=order)
    status, answer = post(numbers, npy(array), "application/x-npy")
    assert status == 200, answer
    assert [row["y"] for row in answer["predictions"]] == [[3, 1, 2], [6, 4, 5]]


def test_npy_with_nulls_and_wrong_values(numbers: app.Handler) -> None:
    array = np.array([[1, np.nan, 3.0]])
    assert post(numbers, npy(array), "application/x-npy")[0] == 200
    array = np.array([[1.5, np.nan, np.nan], [1, np.inf, 1e300]])
    status, problem = post(numbers, npy(array), "application/x-npy")
    assert (status, violations_of(problem)) == (
        422,
        [
            ("/0/0", "type"),
            ("/1/1", "non_finite"),
            ("/0/2", "non_finite"),
            ("/1/2", "out_of_range"),
        ],
    )


@pytest.fixture(scope="module", params=["dynamic", "single", "none"])
def tensors(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, app.Handler]:
    """One input [N, 2, any] ([2, any] without rows), answered with itself."""
    batch: str = request.param
    shape: list[int | None] = [2, None] if batch == "none" else [None, 2, None]
    value, node = ("x", FLOAT, shape), helper.make_node("Identity", ["x"], ["y"])
    output = {"name": "y", "tensor": "y", "dtype": "float32", "shape": shape, "kind": "tensor"}
    directory = artifact.write(
        tmp_path_factory.mktemp("tensors"),
        artifact.graph([node], [value], [("y", FLOAT, shape)]),
        inputs=artifact.tensors([value]),
        outputs=[output],
        execution={"batch": batch},
    )
    return batch, app.create(Settings(directory))


def test_a_tensor_contract(tensors: tuple[str, app.Handler]) -> None:
    batch, handler = tensors
    x = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    rows = x.tolist()
    for body in ({"instances": rows}, {"instances": [{"x": row} for row in rows]}):
        status, answer = post(handler, body)
        assert status == 200, answer
        assert [row["y"] for row in answer["predictions"]] == rows
    whole = x[0] if batch == "none" else x
    for sent in ({"inputs": whole.tolist()}, {"inputs": {"x": whole.tolist()}}):
        status, answer = post(handler, sent)
        assert [row["y"] for row in answer["predictions"]] == (
            rows[:1] if batch == "none" else rows
        )
    assert post(handler, npy(whole), "application/x-npy")[1] == answer


@pytest.mark.parametrize(
    ("body", "kind", "pointer", "code"),
    [
        ({"inputs": [[[1, 2], [3]]]}, "application/json", "/inputs", "ragged"),
        ({"inputs": [1, 2]}, "application/json", "/inputs", "shape"),
        ({"inputs": {"y": [1]}}, "application/json", "/inputs/x", "missing"),
        ({"dataframe_split": {"columns": ["x"], "data": [[1]]}}, "application/json",
         "/dataframe_split/data", "type"),
        (npy(np.zeros((1, 2, 3), int)), "application/x-npy", "", "type"),
        (npy(np.full((1, 2, 3), 1e300)), "application/x-npy", "/0/0/0", "out_of_range"),
        (npy(np.full((1, 2, 3), np.nan)), "application/x-npy", "/0/0/0", "non_finite"),
    ],
)  # fmt: skip
def test_what_a_tensor_contract_refuses(
    tensors: tuple[str, app.Handler], body: Any, kind: str, pointer: str, code: str
) -> None:
    batch, handler = tensors
    if batch == "none" and isinstance(body, bytes) and code == "too_many_elements":
        body = npy(np.zeros((2, 20_000), np.float32))
    status, problem = post(handler, body, kind)
    assert (status, violations_of(problem)[0]) == (422, (pointer, code))
    assert len(violations_of(problem)) == (6 if pointer == "/0/0/0" else 1)  # one per element


@pytest.mark.parametrize("form", ["dataframe_split", "dataframe_records", "instances", "inputs"])
@pytest.mark.parametrize("depth", [63, 253, 254, 255, 300, 1000])
def test_a_value_that_nests_too_deep_violates_the_contract(
    handler: app.Handler,
    numbers: app.Handler,
    tensors: tuple[str, app.Handler],
    form: str,
    depth: int,
) -> None:
    objects = [{**ROWS[0], "ratio": "DEEP"}]
    for served, rows in (
        (handler, objects), (numbers, [["DEEP", 1, 2]]), (tensors[1], ["DEEP"])
    ):  # fmt: skip
        document = {form: {"data": rows} if form == "dataframe_split" else rows}
        status, problem = post(served, nested(document, depth))
        assert status == 422, problem


@pytest.mark.parametrize("shape", ["(True, 3)", "(-1, 3)", "(1.0, 3)", "(False,)"])
def test_an_npy_header_with_another_kind_of_size_is_refused(
    numbers: app.Handler, shape: str
) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(12)
    assert post(numbers, data, "application/x-npy")[0] == 400


def test_default_column_names_of_pandas_are_positions(numbers: app.Handler) -> None:
    frame = {"columns": [0, 1, 2], "index": [7], "data": [[1, 2, 3]]}
    status, answer = post(numbers, {"dataframe_split": frame})
    assert status == 200, answer
    assert answer["predictions"][0]["y"] == [3, 1, 2]
    for names in ([1, 2, 3], [0, 1, "2"], [0, 1], [False, True, 2]):
        frame = {"columns": names, "data": [[1, 2, 3]]}
        assert post(numbers, {"dataframe_split": frame})[0] == 422


def test_a_data_frame_is_the_matrix_of_a_tensor_contract(tmp_path: Path) -> None:
    value, node = ("x", FLOAT, [None, 3]), helper.make_node("Identity", ["x"], ["y"])
    output = {"name": "y", "tensor": "y", "dtype": "float32", "shape": [None, 3], "kind": "tensor"}
    directory = artifact.write(
        tmp_path,
        artifact.graph([node], [value], [("y", FLOAT, [None, 3])]),
        inputs=artifact.tensors([value]),
        outputs=[output],
    )
    handler = app.create(Settings(directory))
    rows = [[1, 2, 3], [4, 5, 6]]
    for body in (
        {"dataframe_split": {"columns": ["a", "b", "c"], "data": rows}},
        {"dataframe_split": {"columns": [0, 1, 2], "data": rows}},
        {"dataframe_records": [dict(zip("abc", row, strict=True)) for row in rows]},
        {"dataframe_records": [{"x": row} for row in rows]},
    ):
        status, answer = post(handler, body)
        assert status == 200, answer
        assert [row["y"] for row in answer["predictions"]] == rows
    assert post(handler, npy(np.array(rows, float)), "application/x-npy")[1] == answer
    records = [{"a": 1, "b": 2, "c": 3}, {"b": 1, "a": 2, "c": 3}]
    assert post(handler, {"dataframe_records": records})[0] == 422


@pytest.mark.fault(
    "Any body in any format of `/invocations`",
    "An answer or a problem, never a crash",
)
@given(st.sampled_from(["application/json", "text/csv", "application/x-npy"]), st.data())
@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_body_is_answered(handler: app.Handler, kind: str, data: Any) -> None:
    start = data.draw(st.sampled_from([b"", npy(np.zeros(2))[:80], CSV.encode(), b'{"inputs":']))
    body = start + data.draw(st.binary(max_size=80))
    answer = handler(events.rest(body, "/invocations", headers={"content-type": kind}), Context())
    assert answer["statusCode"] in (200, 400, 413, 415, 422)
    json.loads(answer["body"])


def test_a_text_may_have_as_many_commas_as_it_has_characters(handler: app.Handler) -> None:
    row = f'1,2,red,true,"{"," * 20}",0.5\n'
    status, document = post(
        handler, "ratio,count,colour,open,note/~,serum\n" + row * 400, "text/csv"
    )
    assert (status, len(document["predictions"])) == (200, 400), document


def test_cells_and_lines_without_end_are_refused_unread(shipped: Scorer) -> None:
    handler = app.create(Settings(DIABETES))
    limit = shipped.manifest.limits
    rows = [example(shipped.manifest)] * limit.rows
    names = list(rows[0])
    good = "\n".join([",".join(names), *(",".join(map(str, row.values())) for row in rows)])
    for body, status in ((good, 200), ("1," * 20_000, 400), ("\n" * 20_000 + good, 400)):
        event = events.rest(body, "/invocations", headers={"content-type": "text/csv"})
        assert handler(event, Context())["statusCode"] == status
