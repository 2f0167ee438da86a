"""The Open Inference Protocol, request by request."""

import base64
import gzip
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from onnx import helper

from handler import app, prediction_id
from handler.settings import Settings
from tests.fixtures import artifact, events, protocols
from tests.fixtures.events import Context
from tests.fixtures.protocols import LENGTH, as_binary, as_json, ask, framed

INFER = "/v2/models/test/infer"
ARRAYS: dict[str, Any] = {
    "ratio": np.array([[0.5], [10]], np.float32),
    "count": np.array([[3], [-5]], np.int64),
    "colour": np.array([["red"], ["blue"]], object),
    "open": np.array([[True], [False]]),
    "note": np.array([["hello"], [""]], object),
    "serum": np.array([[0.25], [np.nan]], np.float32),
}
BAD: dict[str, tuple[str, Any, str]] = {
    "over": ("ratio", [[0.5], [10.001]], "out_of_range"),
    "under": ("ratio", [[0.5], [-1]], "out_of_range"),
    "nan": ("ratio", [[0.5], [np.nan]], "non_finite"),
    "infinite": ("ratio", [[0.5], [np.inf]], "non_finite"),
    "infinite where null may be": ("serum", [[0.5], [-np.inf]], "non_finite"),
    "whole": ("count", [[3], [1_000_001]], "out_of_range"),
    "category": ("colour", [["red"], ["green"]], "unknown_category"),
    "text": ("note", [["a"], ["x" * 21]], "too_long"),
}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def handler(echo_dir: Path) -> app.Handler:
    return app.create(Settings(echo_dir))


def with_null(arrays: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """JSON has null for NaN."""
    event: dict[str, Any] = as_json(arrays, **fields)
    return {**event, "body": event["body"].replace("NaN", "null")}


def violations_of(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["pointer"], each["code"]) for each in document["errors"]]


def changed(**inputs: Any) -> dict[str, Any]:
    return {
        name: np.array(inputs[name], a.dtype) if name in inputs else a for name, a in ARRAYS.items()
    }


@pytest.mark.parametrize(
    ("path", "document"),
    [
        (
            "/v2",
            {
                "name": "answerable",
                "version": "0.1.0",
                "extensions": ["binary_tensor_data", "classification"],
            },
        ),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/test/ready", {"name": "test", "ready": True}),
        ("/v2/models/test/versions/1.2.3/ready", {"name": "test", "ready": True}),
        ("/v1/models/test", {"name": "test", "ready": True}),
        ("/version", {"version": "0.1.0"}),
    ],
)
def test_what_the_server_says_of_itself(handler: app.Handler, path: str, document: Any) -> None:
    answer = handler(events.rest(None, path, "GET"), Context())
    assert (answer["statusCode"], json.loads(answer["body"])) == (200, document)


def test_the_version_is_the_project_s() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    source = (Path(__file__).parents[2] / project["tool"]["hatch"]["version"]["path"]).read_text()
    from handler import __version__

    assert f'__version__ = "{__version__}"' in source


@pytest.mark.parametrize("path", ["/v2/models/test", "/v2/models/test/versions/1.2.3"])
def test_metadata_are_the_graph_s_tensors(handler: app.Handler, path: str) -> None:
    model = json.loads(handler(events.rest(None, path, "GET"), Context())["body"])
    assert (model["name"], model["versions"]) == ("test", ["1.2.3"])
    assert model["inputs"][0] == {"name": "ratio", "datatype": "FP32", "shape": [-1, 1]}
    assert [t["datatype"] for t in model["inputs"]] == [
        "FP32", "INT64", "BYTES", "BOOL", "BYTES", "FP32"
    ]  # fmt: skip
    assert model["outputs"][-1] == {"name": "serum_out", "datatype": "BOOL", "shape": [-1, 1]}


@pytest.mark.parametrize(
    "path",
    ["/v2/models/other", "/v2/models/test/versions/9", "/v2/models/other/infer",
     "/v2/models//infer", "/v1/models/other:predict", "/v2/models/{name}", "/v2/models/a/b/infer"],
)  # fmt: skip
def test_another_model_or_path_is_not_found(
    handler: app.Handler, path: str, capsys: Capture
) -> None:
    method = "POST" if path.endswith(("infer", "predict")) else "GET"
    answer = handler(events.rest("{}", path, method), Context())
    assert answer["statusCode"] == 404
    assert answer["headers"]["content-type"] == "application/json"  # as KServe's client wants it
    assert isinstance(json.loads(answer["body"])["error"], str)
    assert "other" not in capsys.readouterr().out


@pytest.mark.parametrize("made", [with_null, as_binary])
def test_a_tabular_model_takes_its_tensors(
    handler: app.Handler, made: Any, capsys: Capture
) -> None:
    status, document, arrays = ask(handler, made(ARRAYS))
    assert status == 200, document
    assert (document["model_name"], document["model_version"]) == ("test", "1.2.3")
    assert "id" not in document
    for name in ("ratio", "count", "colour", "open", "note"):
        assert protocols.raw(arrays[f"{name}_out"]) == protocols.raw(ARRAYS[name])
    assert arrays["serum_out"].tolist() == [[False], [True]]
    line = json.loads(capsys.readouterr().out)
    assert (line["route"], line["Rows"]) == ("POST /v2/models/{name}/infer", 2)
    assert set(line["timings_ms"]) == {"validate", "convert", "run"}
    assert "out_of_range_counts" not in line


def test_a_version_a_request_id_and_some_of_the_outputs_in_their_order(
    handler: app.Handler,
) -> None:
    outputs = [
        {"name": "note_out", "parameters": {"binary_data": False}},
        {"name": "ratio_out", "parameters": {"binary_data": True}},
    ]
    event = as_binary(ARRAYS, outputs=outputs, id="my-1")
    event["rawPath"] = "/v2/models/test/versions/1.2.3/infer"
    status, document, arrays = ask(handler, event)
    assert (status, document["id"]) == (200, "my-1")
    assert list(arrays) == ["note_out", "ratio_out"]
    assert "data" in document["outputs"][0]
    assert document["outputs"][1]["parameters"] == {"binary_data_size": 8}


@pytest.mark.parametrize("made", [with_null, as_binary])
def test_predictions_have_ids_for_who_asks(
    handler: app.Handler, made: Any, capsys: Capture
) -> None:
    _, _, plain = ask(handler, made(ARRAYS))
    assert "prediction_id" not in plain
    outputs = [{"name": "ratio_out"}, {"name": "prediction_id"}]
    status, _, found = ask(handler, made(ARRAYS, outputs=outputs))
    assert (status, [*found]) == (200, ["ratio_out", "prediction_id"])
    told = [
        prediction_id.parse(id, prediction_id.signer("")) for id in found["prediction_id"].tolist()
    ]
    assert [one.row for one in told] == [0, 1]
    assert [one.value for one in told] == found["ratio_out"].ravel().tolist()
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["prediction_id_prefix"] == told[0].prefix
    outcome = {"prediction_id": found["prediction_id"][1], "actual": 1.0}
    answer = handler(events.rest(json.dumps({"outcomes": [outcome]}), "/feedback"), Context())
    assert answer["statusCode"] == 202


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("made", [as_json, as_binary])
def test_the_features_contract_holds_for_columns(
    handler: app.Handler, case: str, made: Any
) -> None:
    name, values, code = BAD[case]
    arrays = changed(**{name: values})
    if made is as_json and arrays[name].dtype.kind == "f" and not np.isfinite(arrays[name]).all():
        return  # JSON has no such number
    if made is as_json:
        arrays["serum"] = np.array([[0.25], [1]], np.float32)
    status, document, _ = ask(handler, made(arrays))
    index = list(ARRAYS).index(name)
    assert (status, violations_of(document)) == (422, [(f"/inputs/{index}/data/1", code)])
    assert document["errors"][0]["pointer"] in document["error"]


def test_nested_data_is_pointed_at_as_it_is(handler: app.Handler) -> None:
    arrays = changed(ratio=[[99], [99]], serum=[[0], [0]])
    _, document, _ = ask(handler, as_json(arrays, nested=True))
    assert violations_of(document) == [(f"/inputs/0/data/{i}/0", "out_of_range") for i in range(2)]


def test_at_most_twenty_violations_are_reported(handler: app.Handler) -> None:
    arrays = {name: np.repeat(array[:1], 500, axis=0) for name, array in ARRAYS.items()}
    arrays["ratio"] = arrays["ratio"] + 99
    _, document, _ = ask(handler, as_binary(arrays))
    assert len(document["errors"]) == 20
    assert "only the first" in document["error"]


def test_unusual_values_are_counted(handler: app.Handler, capsys: Capture) -> None:
    arrays = {name: np.repeat(array[:1], 50, axis=0) for name, array in ARRAYS.items()}
    arrays["serum"][7:10] = [[np.nan], [5], [-1]]
    assert ask(handler, as_binary(arrays))[0] == 200
    assert json.loads(capsys.readouterr().out)["out_of_range_counts"] == {"serum": 2}
    small = {name: array[6:12] for name, array in arrays.items()}
    assert ask(handler, as_binary(small))[0] == 200
    assert json.loads(capsys.readouterr().out)["out_of_range_counts"] == {"serum": 2}


MATRIX: list[dict[str, Any]] = [
    {"name": "tenth", "input": "x", "column": 1, "type": "number", "maximum": 0.1, "example": 0.1},
    {"name": "whole", "input": "x", "column": 0, "type": "integer", "minimum": 0, "example": 1},
    {"name": "kind", "input": "x", "column": 2, "type": "category", "categories": [0.1, 2],
     "example": 2},
    {"name": "flag", "input": "x", "column": 3, "type": "boolean", "example": True},
    {"name": "gap", "input": "x", "column": 4, "type": "number", "nullable": True,
     "fill_value": -7.0, "minimum": 0, "example": 0.5},
]  # fmt: skip


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> app.Handler:
    shape = [None, 5]
    node = helper.make_node("Identity", ["x"], ["y"])
    value = ("x", artifact.FLOAT, shape)
    return app.create(
        Settings(
            artifact.write(
                tmp_path_factory.mktemp("matrix"),
                artifact.graph([node], [value], [("y", artifact.FLOAT, shape)]),
                inputs=artifact.tensors([value]),
                features=MATRIX,
                outputs=[
                    {
                        "name": "y",
                        "tensor": "y",
                        "dtype": "float32",
                        "shape": shape,
                        "kind": "tensor",
                    }
                ],
            )
        )
    )


@pytest.mark.parametrize("made", [with_null, as_binary])
@pytest.mark.parametrize("rows", [1, 40])
def test_one_matrix_of_all_features(matrix: app.Handler, made: Any, rows: int) -> None:
    x = np.array([[1, 0.1, 0.1, 1, np.nan], [2, -5, 2, 0, 3]] * rows, np.float32)
    status, document, arrays = ask(matrix, made({"x": x}))
    assert status == 200, document
    assert arrays["y"].tobytes() == np.where(np.isnan(x), np.float32(-7), x).tobytes()


@pytest.mark.parametrize(
    ("column", "value", "code"),
    [(0, 1.5, "type"), (0, -1, "out_of_range"), (0, 2.0**25, "out_of_range"), (1, 0.2,
     "out_of_range"), (2, 1, "unknown_category"), (3, 2, "type"), (3, np.nan, "type"),
     (4, -1, "out_of_range"), (4, np.inf, "non_finite")],
)  # fmt: skip
def test_one_matrix_with_one_wrong_value(
    matrix: app.Handler, column: int, value: float, code: str
) -> None:
    x = np.array([[1, 0.1, 0.1, 1, np.nan]] * 20, np.float32)
    x[7, column] = value
    status, document, _ = ask(matrix, as_binary({"x": x}))
    assert (status, violations_of(document)) == (422, [(f"/inputs/0/data/{7 * 5 + column}", code)])


def test_rows_and_columns_judge_alike(matrix: app.Handler) -> None:
    x = np.array([[1.5, 0.2, 1, 0, -1]], np.float32)
    _, document, _ = ask(matrix, as_binary({"x": x}))
    row = {"whole": 1.5, "tenth": 0.2, "kind": 1, "flag": False, "gap": -1}
    answer = matrix(events.rest(json.dumps({"instances": [row]})), Context())
    by_row = {e["pointer"].split("/")[-1]: (e["code"], e["message"])
              for e in json.loads(answer["body"])["errors"]}  # fmt: skip
    places = ["whole", "tenth", "kind", "flag", "gap"]
    by_column = {places[int(e["pointer"].split("/")[-1])]: (e["code"], e["message"])
                 for e in document["errors"]}  # fmt: skip
    assert by_column == by_row


def one(**fields: Any) -> dict[str, Any]:
    """The one input of `matrix`, as JSON."""
    row = [1, 0.1, 2, 0, None]
    return {"name": "x", "datatype": "FP32", "shape": [1, 5], "data": row, **fields}


@pytest.mark.parametrize(
    ("document", "pointer", "code"),
    [
        ({}, "/inputs", "missing"),
        ([], "", "type"),
        ({"inputs": []}, "/inputs", "wrong_length"),
        ({"inputs": [one(), one()]}, "/inputs", "inputs"),
        ({"inputs": [one(name="y")]}, "/inputs", "inputs"),
        ({"inputs": [one(name=5)]}, "/inputs/0/name", "type"),
        ({"inputs": [one(shape=[5])]}, "/inputs/0/shape", "shape"),
        ({"inputs": [one(shape=[1, 4])]}, "/inputs/0/shape", "shape"),
        ({"inputs": [one(shape=[-1, 5])]}, "/inputs/0/shape/0", "out_of_range"),
        ({"inputs": [one(shape=[0, 5], data=[])]}, "/inputs/0/shape", "wrong_length"),
        ({"inputs": [one(shape=[10**15, 5])]}, "/inputs/0/shape", "wrong_length"),
        ({"inputs": [one(shape=[2, 5])]}, "/inputs/0/data", "wrong_length"),
        ({"inputs": [one(data=[[1, 2, 3], [4, 5]])]}, "/inputs/0/data", "ragged"),
        ({"inputs": [one(data=[[1, 2, 3, 4, 5, 6]])]}, "/inputs/0/data", "wrong_length"),
        ({"inputs": [one(data=[[1], 2, 3, 4, 5])]}, "/inputs/0/data", "ragged"),
        ({"inputs": [one(data=[[[1, 2, 3, 4, 5]]])]}, "/inputs/0/data", "wrong_length"),
        ({"inputs": [one(data="no")]}, "/inputs/0/data", "type"),
        ({"inputs": [one(data={"a": 1})]}, "/inputs/0/data", "type"),
        ({"inputs": [one(data=["1", 0, 2, 0, 0])]}, "/inputs/0/data/0", "type"),
        ({"inputs": [one(data=[1, 0, 2, 0, {}])]}, "/inputs/0/data/4", "type"),
        ({"inputs": [one(data=[1, 1e39, 2, 0, 0])]}, "/inputs/0/data/1", "out_of_range"),
        ({"inputs": [one(datatype="INT64")]}, "/inputs/0/datatype", "type"),
        ({"inputs": [one(datatype="BYTES")]}, "/inputs/0/datatype", "type"),
        ({"inputs": [one(parameters={"shared_memory_region": "secret"})]},
         "/inputs/0/parameters/shared_memory_region", "unsupported"),
        ({"inputs": [one()],
          "outputs": [{"name": "y", "parameters": {"shared_memory_region": "secret"}}]},
         "/outputs/0/parameters/shared_memory_region", "unsupported"),
        ({"inputs": [one()], "outputs": [{"name": "y"}, {"name": "y"}]},
         "/outputs/1/name", "unknown_output"),
        *(
            ({"inputs": [one()],
              "outputs": [{"name": name, "parameters": {"classification": count}}]},
             "/outputs/0/parameters/classification", "type")
            for name, count in (("y", -1), ("y", True), ("y", "1"), ("prediction_id", 1))
        ),
        ({"inputs": [one(datatype="BF16")]}, "/inputs/0/datatype", "type"),
        ({"inputs": [one()], "outputs": [{"name": "z"}]}, "/outputs/0/name", "unknown_output"),
        ({"inputs": [one()], "id": 7}, "/id", "type"),
        ({"inputs": [one()], "parameters": []}, "/parameters", "type"),
        ({"inputs": [one(parameters={"content_type": "base64"}, data=["?"])]},
         "/inputs/0/data", "type"),
        ({"inputs": [one(parameters={"content_type": "base64"}, data=5)]},
         "/inputs/0/data", "type"),
    ],
)  # fmt: skip
def test_what_is_not_a_request_is_refused(
    matrix: app.Handler, document: Any, pointer: str, code: str
) -> None:
    status, problem, _ = ask(matrix, protocols.event(json.dumps(document)))
    assert (status, violations_of(problem)) == (422, [(pointer, code)])
    if "BF16" in json.dumps(document):
        assert "BF16 is not supported" in problem["error"]


def test_the_shape_that_is_needed_is_said(matrix: app.Handler) -> None:
    _, problem, _ = ask(matrix, protocols.event(json.dumps({"inputs": [one(shape=[1, 4])]})))
    assert problem["errors"][0]["message"] == (
        "must be [any, 5], and the first axis the same for all inputs"
    )


@pytest.mark.parametrize("made", [as_json, as_binary])
def test_floats_of_another_width_are_rounded(matrix: app.Handler, made: Any) -> None:
    x = np.array([[1, 0.1, 2, 0, 7.1]])
    for dtype in (np.float64, np.float16):
        status, document, arrays = ask(matrix, made({"x": x.astype(dtype)}))
        assert status == 200, document
        assert arrays["y"].tobytes() == x.astype(dtype).astype(np.float32).tobytes()


def test_a_float_that_overflows_is_out_of_range(matrix: app.Handler) -> None:
    status, problem, _ = ask(matrix, as_binary({"x": np.array([[1e300, 0, 2, 0, 0]])}))
    assert (status, violations_of(problem)) == (422, [("/inputs/0/data/0", "out_of_range")])


def test_integers_of_another_width_have_to_fit(tmp_path: Path) -> None:
    value, node = ("x", artifact.INT64, [None, 1]), helper.make_node("Identity", ["x"], ["y"])
    output = {"name": "y", "tensor": "y", "dtype": "int64", "shape": [None, 1], "kind": "tensor"}
    directory = artifact.write(
        tmp_path,
        artifact.graph([node], [value], [("y", artifact.INT64, [None, 1])]),
        inputs=artifact.tensors([value]),
        outputs=[output],
    )
    handler = app.create(Settings(directory))
    for made in (as_json, as_binary):
        status, _, arrays = ask(handler, made({"x": np.array([[7], [-8]], np.int16)}))
        assert (status, arrays["y"].tolist()) == (200, [[7], [-8]])
        # a tensor of one column without its second axis
        status, _, arrays = ask(handler, made({"x": np.array([7, 8])}))
        assert (status, arrays["y"].tolist()) == (200, [[7], [8]])
        status, problem, _ = ask(handler, made({"x": np.array([[1], [2**63]], np.uint64)}))
        assert (status, violations_of(problem)[0][1]) == (422, "out_of_range")


def test_one_string_may_be_bare(handler: app.Handler) -> None:
    document = json.loads(as_json({name: array[:1] for name, array in ARRAYS.items()})["body"])
    for tensor in document["inputs"]:
        if tensor["datatype"] == "BYTES":
            (tensor["data"],) = tensor["data"]
    status, answer, _ = ask(handler, protocols.event(json.dumps(document)))
    assert status == 200, answer


def test_classification_is_the_top_classes_of_each_row(tmp_path: Path) -> None:
    handler = app.create(Settings(artifact.classifier(tmp_path)))
    x = np.array([[0.5, 1, 1, 2.5], [3.0, 1, 0, 1]], np.float32)
    odds = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    for made in (as_json, as_binary):
        outputs = [{"name": "odds", "parameters": {"classification": 2}}, {"name": "label"}]
        status, document, arrays = ask(handler, made({"x": x}, outputs=outputs))
        assert status == 200, document
        assert document["outputs"][0]["datatype"] == "BYTES"
        assert arrays["label"].tolist() == odds.argmax(axis=1).tolist()
        for row, texts in zip(odds, arrays["odds"].tolist(), strict=True):
            best = sorted(range(4), key=lambda k: -row[k])[:2]
            for text, index in zip(texts, best, strict=True):
                score, *rest = text.split(":")
                assert rest == [str(index), str(index)]  # the classes are 0 to 3
                assert float(score) == pytest.approx(row[index], abs=2e-6)
    outputs = [{"name": "odds", "parameters": {"classification": 9}}]
    assert ask(handler, as_json({"x": x}, outputs=outputs))[2]["odds"].shape == (2, 4)
    # of the label itself there is one class in a row
    outputs = [{"name": "label", "parameters": {"classification": 9}}]
    _, _, arrays = ask(handler, as_json({"x": x}, outputs=outputs))
    assert arrays["label"].tolist() == [[f"{label}:0"] for label in odds.argmax(axis=1)]


def test_a_response_over_the_limit_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"rows": 1000, "body_bytes": 10**6, "response_bytes": 2000, "elements": 10}
    handler = app.create(Settings(artifact.classifier(tmp_path, limits=limits)))
    x = np.array([[0.5, 1, 1, 2.5]] * 300, np.float32)
    monkeypatch.setattr("handler.protocols.binary.dump", pytest.fail)
    monkeypatch.setattr("handler.protocols.open_inference._classify", pytest.fail)
    for outputs in (
        None,
        [{"name": "odds", "parameters": {"classification": 4}}],
    ):
        status, problem, _ = ask(handler, as_binary({"x": x}, outputs=outputs))
        assert (status, problem["type"]) == (413, "urn:answerable:problem:payload-too-large")


def test_a_response_below_the_limit_in_base64_is_answered(tmp_path: Path) -> None:
    limits = {"rows": 1000, "body_bytes": 10**6, "response_bytes": 2000, "elements": 10}
    handler = app.create(Settings(artifact.classifier(tmp_path, limits=limits)))
    x = np.array([[0.5, 1, 1, 2.5]] * 76, np.float32)  # 1,216 bytes of output are 1,624 in base64
    status, problem, arrays = ask(handler, as_binary({"x": x}, outputs=[{"name": "odds"}]))
    assert status == 200, problem
    assert arrays["odds"].shape == (76, 4)


def test_extensions_of_others_are_let_through(matrix: app.Handler) -> None:
    fields = {"outputs": None, "id": None, "parameters": {"priority": 1}, "sequence_id": 5}
    document = {"inputs": [one(parameters={"content_type": "np"}, tags=[])], **fields}
    status, _, arrays = ask(matrix, protocols.event(json.dumps(document)))
    assert (status, arrays["y"].shape) == (200, (1, 5))


def test_base64_in_json(matrix: app.Handler, handler: app.Handler) -> None:
    x = np.array([[1, 0.1, 2, 0, 3]] * 3, np.float32)
    data = base64.b64encode(x.tobytes()).decode()
    for form in (data, [data]):
        part = one(parameters={"content_type": "base64"}, shape=[3, 5], data=form)
        _, _, arrays = ask(matrix, protocols.event(json.dumps({"inputs": [part]})))
        assert arrays["y"].tobytes() == x.tobytes()
    event = with_null(ARRAYS)
    document = json.loads(event["body"])
    document["inputs"][4] |= {
        "parameters": {"content_type": "base64"}, "data": [base64.b64encode(b"hi").decode(), ""]
    }  # fmt: skip
    _, _, arrays = ask(handler, protocols.event(json.dumps(document)))
    assert arrays["note_out"].tolist() == [["hi"], [""]]


X = np.array([[1, 0.1, 2, 0, 3]], np.float32)
SIZES: list[Any] = [-20, 0, 16, 20.0, True, "20", 2**70, []]
HEAD = one(parameters={"binary_data_size": 20})
del HEAD["data"]


@pytest.mark.fault(
    "Binary tensors of other sizes than stated",
    "400",
)
@pytest.mark.parametrize(
    "event",
    [
        framed({"inputs": [HEAD]}, X.tobytes()[:-1]),
        framed({"inputs": [HEAD]}, X.tobytes() + b"\0"),
        framed({"inputs": [HEAD]}),
        framed({"inputs": [{**HEAD, "data": [1]}]}, X.tobytes()),
        *(
            framed({"inputs": [{**HEAD, "parameters": {"binary_data_size": size}}]}, X.tobytes())
            for size in SIZES
        ),
        *(
            framed({"inputs": [HEAD]}, X.tobytes(), **{LENGTH: length})
            for length in ("", "-1", "0", "1e2", "99999", "9" * 5000, "+5", " 5", "²", "5,5", "10")
        ),
        framed({"inputs": [one()]}, b"smuggled"),
        protocols.event(json.dumps({"inputs": [HEAD]})),
        protocols.event(b"\xff\xfe", **{LENGTH: "2"}),
        protocols.event("{"),
        protocols.event('{"inputs":[{"name":"\ud800"}]}'),
        protocols.event("{}", **{LENGTH: "2", "content-encoding": "gzip"}),
    ],
)
def test_broken_framing_is_a_bad_request(matrix: app.Handler, event: Any) -> None:
    status, document, _ = ask(matrix, event)
    assert (status, document["type"]) == (400, "urn:answerable:problem:malformed-body"), document


def test_strings_and_flags_that_are_none(handler: app.Handler) -> None:
    inputs = json.loads(with_null(ARRAYS)["body"])["inputs"]

    def sent(index: int, data: bytes) -> tuple[int, Any]:
        parts = [dict(part) for part in inputs]
        del parts[index]["data"]
        parts[index]["parameters"] = {"binary_data_size": len(data)}
        return ask(handler, framed({"inputs": parts}, data))[:2]

    hello = (5).to_bytes(4, "little") + b"hello"
    assert sent(4, hello * 2)[0] == 200
    for wrong in (hello, hello * 3, hello + b"\xff\xff\xff\xff", hello * 2 + b"x", b"", b"\0\0\0"):
        assert sent(4, wrong)[0] == 400
    for index, data in ((4, hello + b"\x01\0\0\0\xff"), (3, b"\x01\x02")):
        status, document = sent(index, data)
        assert (status, violations_of(document)) == (422, [(f"/inputs/{index}", "type")])


def test_content_types_and_codings(matrix: app.Handler) -> None:
    body = json.dumps({"inputs": [one()]})
    octets = {"content-type": "application/octet-stream"}
    assert ask(matrix, protocols.event(body.encode(), **octets))[0] == 200
    assert ask(matrix, protocols.event(body, **{"content-type": "text/csv"}))[0] == 415
    event = framed({"inputs": [HEAD]}, X.tobytes(), **octets)
    packed = gzip.compress(base64.b64decode(event["body"]))
    event["headers"]["content-encoding"] = "gzip"
    event["body"] = base64.b64encode(packed).decode()
    assert ask(matrix, event)[0] == 200


def test_a_binary_body_that_a_front_took_for_text(matrix: app.Handler) -> None:
    x = np.array([[1, 0, 2, 0, 0]], np.float32)  # its bytes happen to be UTF-8: 0x3f, 0x40, 0
    x[0, 0] = np.frombuffer(b"\0\0\0\x40", np.float32)[0]
    event = framed({"inputs": [HEAD]}, x.tobytes())
    event["body"] = base64.b64decode(event["body"]).decode()
    event["isBase64Encoded"] = False
    status, _, arrays = ask(matrix, event)
    assert (status, arrays["y"].tobytes()) == (200, x.tobytes())


@pytest.mark.parametrize(
    ("accept", "binary"),
    [
        (None, False),
        ("*/*", False),
        ("application/octet-stream, */*", True),
        ("Application/Octet-Stream;q=0.9", True),
        ("application/octet-stream;q=0, */*", False),
    ],
)
def test_a_rest_api_hands_on_bytes_to_whom_accepts_them_first(
    matrix: app.Handler, accept: str | None, binary: bool
) -> None:
    event = as_binary({"x": X})
    headers = event["headers"] | ({"Accept": accept} if accept else {})
    rest = events.rest(base64.b64decode(event["body"]), INFER, headers=headers)
    assert matrix(rest, Context())["isBase64Encoded"] is binary
    assert ask(matrix, rest)[2]["y"].tobytes() == X.tobytes()


@pytest.mark.parametrize("event_source", [events.http, events.alb])
def test_large_answers_are_packed_for_those_who_take_it(
    matrix: app.Handler, event_source: Any
) -> None:
    x = np.repeat(X, 900, axis=0)
    event = event_source(as_json({"x": x})["body"], INFER)
    plain = matrix(event, Context())
    assert "content-encoding" not in plain["headers"]
    for accepted in ("gzip", "br, GZIP;q=0.5", "*", "*;q=0, gzip", "br ; q=1, gzip ; q=0.001"):
        event["headers"]["accept-encoding"] = accepted
        answer = matrix(event, Context())
        assert answer["headers"]["content-encoding"] == "gzip"
        assert answer["headers"]["content-type"] == "application/json"
        assert gzip.decompress(base64.b64decode(answer["body"])).decode() == plain["body"]
    for refused in ("", "br", "gzip;q=0", "gzip;q=0.0", "*, gzip;q=0", "gzip;q=x1"):
        event["headers"]["accept-encoding"] = refused
        assert matrix(event, Context()) == plain
    rest = events.rest(event["body"], INFER, headers={"accept-encoding": "gzip"})
    assert matrix(rest, Context())["body"] == plain["body"]  # the REST API packs by itself


def test_a_long_answer_is_refused(tmp_path: Path) -> None:
    limits = {"rows": 10, "body_bytes": 9000, "response_bytes": 600, "elements": 10}
    small = app.create(Settings(artifact.echo(tmp_path, limits=limits)))
    assert ask(small, as_binary(ARRAYS))[0] == 413


def test_the_deadline_and_a_bad_output(tmp_path: Path) -> None:
    from onnx import helper

    endless = app.create(Settings(artifact.endless(tmp_path / "endless")))
    event = as_json({"x": np.ones((1, 1), np.float32)})
    assert endless(event, Context(400))["statusCode"] == 504
    log = artifact.ratio(tmp_path / "log", helper.make_node("Log", ["x"], ["y"]))
    status, problem, _ = ask(app.create(Settings(log)), as_json({"x": np.zeros((1, 1), "f4")}))
    assert (status, violations_of(problem)) == (422, [("/inputs", "model_rejected")])


@pytest.mark.fault(
    "Any bytes as an inference request",
    "An answer or a problem, never a crash",
)
@given(st.binary(max_size=60), st.integers(0, 80), st.booleans())
@hypothesis_settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_are_answered(
    matrix: app.Handler, data: bytes, length: int, headed: bool
) -> None:
    event = framed({"inputs": [HEAD]}, data) if headed else protocols.event(data)
    if not headed:
        event["headers"][LENGTH] = str(length)
    assert ask(matrix, event)[0] in (200, 400, 422)
