"""Contract cases: every case gets its answer, under every kind of contract."""

import io
import re
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from onnx import helper

from answerable import __main__ as answerable
from answerable import contract_cases
from answerable.commands import conformance
from answerable.contract_cases import Case
from answerable.packing.feature_types import CLIENT_TEXT
from handler import manifest
from handler.release import golden
from tests.fixtures import adversarial, artifact, server
from tests.unit import test_protocols_graphs as graphs

SHIPPED = adversarial.directory("shipped", Path())
MANIFEST = manifest.read(SHIPPED)
Capture = pytest.CaptureFixture[str]


def differed(directory: Path) -> tuple[int, Any]:
    send = conformance.local(directory)
    results = conformance.check(manifest.read(directory), [], send, False)
    return sum(c.total() for c in results.values()), mismatches(results)


def mismatches(results: conformance.Results) -> dict[str, set[str]]:
    """The texts that say what differed, by kind."""
    found = {kind: {text for text in counts if text} for kind, counts in results.items()}
    return {kind: texts for kind, texts in found.items() if texts}


@pytest.mark.fault(
    "any input that the contract forbids, through every protocol: missing, null, wrong type, out of"
    " range, not finite, unseen, too long; broken base64, gzip, UTF-8, JSON, binary tensors",
    "400, 404, 405, 413, 415 or 422, as the contract says, with the pointer and code of each"
    " violation; nothing is scored",
)
@pytest.mark.parametrize("kind", adversarial.KINDS)
def test_contract_cases_of_every_contract_get_their_answer(kind: str, tmp_path: Path) -> None:
    sent, wrong = differed(adversarial.directory(kind, tmp_path))
    assert wrong == {}
    assert sent > 600


@pytest.mark.parametrize("dtype", ["bool", "float16", "float64", "object", "uint8", "int64"])
@pytest.mark.parametrize(("shape", "batch"), [
    ((), "none"), ((2, 3), "none"), ((None, 3), "dynamic"), ((None, 2, None), "single"),
])  # fmt: skip
def test_contract_cases_of_every_tensor_get_their_answer(
    dtype: str, shape: Any, batch: str, tmp_path: Path
) -> None:
    sent, wrong = differed(graphs.write(tmp_path, dtype, shape, batch))
    assert wrong == {}
    assert sent > 400


def test_bad_values_cover_every_rule_of_a_feature(tmp_path: Path) -> None:
    found = manifest.read(adversarial.directory("echo", tmp_path))
    values = {(b.field, b.kind, b.code, b.json) for b in contract_cases.bad_values(found)}
    for expected in (
        ("ratio", "missing", "missing", None),
        ("ratio", "just outside", "out_of_range", "-5e-324"),
        ("ratio", "just outside", "out_of_range", "10.000000000000002"),
        ("count", "just outside", "out_of_range", "1000001"),
        ("count", "fraction", "type", "3.5"),
        ("colour", "unknown category", "unknown_category", f'"{CLIENT_TEXT}"'),
        ("open", "number for a flag", "type", "1"),
        ("serum", "overflow", "out_of_range", "1e39"),
        ("serum", "not finite", "non_finite", "NaN"),
    ):
        assert expected in values
    assert not any(name == "serum" and kind in ("missing", "null") for name, kind, *_ in values)


def test_contract_cases_cover_every_protocol() -> None:
    paths = {case.path for case in contract_cases.cases(MANIFEST, True)}
    doors = ("/predict", "/jobs", "/feedback", "/invocations", "/v1/models/", "/v2/models/")
    assert all(any(path.startswith(door) for path in paths) for door in doors)
    assert not any(case.path == "/jobs" for case in contract_cases.cases(MANIFEST, False))


@pytest.mark.parametrize("path", ["/predict", "/invocations", "/v2/models/diabetes/infer"])
def test_conformance_lists_what_differs(path: str) -> None:
    ask = conformance.local(SHIPPED)

    def lying(case: Case) -> tuple[int, bytes]:
        status, text = ask(case)
        if case.path == path and case.kind == "just outside":
            return 200, b'{"predictions":[]}'
        return status, text.replace(b'"code":"unknown_category"', b'"code":"type"')

    found = mismatches(conformance.check(MANIFEST, golden.read(SHIPPED), lying, False))
    assert set(found) >= {"just outside", "unknown category"}
    assert f"{path}: 200 instead of 422" in found["just outside"]
    assert any("other violations" in text for text in found["unknown category"])


def test_contract_cases_of_another_model_name_another_model() -> None:
    paths = {case.path for case in contract_cases.cases(MANIFEST, True)}
    other = quote(CLIENT_TEXT)
    assert {f"/v1/models/{other}:predict", f"/v2/models/{other}/infer"} <= paths


def test_accepted_values_cover_every_feature_type(tmp_path: Path) -> None:
    echo = manifest.read(adversarial.directory("echo", tmp_path))
    values = [(kind, *fields.items()) for kind, fields in contract_cases.accepted_values(echo)]
    for expected in (
        ("at the sample's bounds", ("ratio", 10)),
        ("each category", ("colour", "blue")),
        ("each category", ("open", False)),
        ("a long text", ("note/~", "é" * 20)),
        ("left out", ("serum", ...)),
        ("just outside the sample", ("serum", float(np.nextafter(np.float32(1), np.float32(2))))),
    ):
        assert expected in values
    assert not [fields for kind, *fields in values if kind == "just outside the sample"
                and fields[0][0] == "count"]  # fmt: skip


def test_accepted_values_have_short_and_long_free_axes(tmp_path: Path) -> None:
    pair = manifest.read(adversarial.directory("tensors", tmp_path))
    shapes = [
        (np.shape(fields["image"]), np.shape(fields["words"]))
        for _, fields in contract_cases.accepted_values(pair)
    ]
    assert shapes[0] == ((2, 1), (1,))
    assert shapes[-1][0][1] > 1000


def test_conformance_finds_an_accepted_value_that_the_graph_cannot_take(tmp_path: Path) -> None:
    feature = {"name": "x", "input": "x", "type": "number", "example": 1.0, "maximum": 1e12,
               "minimum": 1.0, "out_of_range": "accept"}  # fmt: skip
    directory = artifact.hungry(tmp_path / "hungry", features=[feature])
    _, wrong = differed(directory)
    assert wrong["accepted: at the sample's bounds"] == {"/predict: 422 instead of 200"}


def test_conformance_of_ids_that_no_float_holds_passes(tmp_path: Path) -> None:
    shape = [None, 1]
    graph = artifact.graph(
        [helper.make_node("Identity", ["id"], ["y"])],
        [("id", artifact.INT64, shape)],
        [("y", artifact.INT64, shape)],
    )
    feature = {"name": "id", "input": "id", "type": "integer", "example": 2**60 + 1}
    output = {"name": "y", "tensor": "y", "dtype": "int64", "shape": shape, "kind": "value"}
    inputs = [{"name": "id", "dtype": "int64", "shape": shape}]
    directory = artifact.write(
        tmp_path / "ids", graph, inputs=inputs, outputs=[output], features=[feature]
    )
    assert differed(directory)[1] == {}


def run(*words: str) -> int:
    return answerable.main(["conformance", "--model", *words])


def test_conformance_of_a_good_artifact_passes(capsys: Capture) -> None:
    assert run(str(SHIPPED)) == 0
    out = capsys.readouterr().out
    assert re.search(r"golden +│ 87 +│ 87 ", out)
    assert ", 0 answered otherwise than stated" in out


def test_conformance_finds_golden_rows_that_are_answered_otherwise(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *rows = golden.read(SHIPPED)
    worse = first._replace(prediction={"progression": 1.5})
    monkeypatch.setattr(golden, "read", lambda directory: [worse, *rows])
    assert run(str(SHIPPED)) == 1
    out = capsys.readouterr().out
    assert "another answer (1)" in " ".join(out.replace("│", " ").split())
    assert "3 answered otherwise" in out


def test_conformance_without_artifact_prints_one_line(capsys: Capture, tmp_path: Path) -> None:
    assert run(str(tmp_path)) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_conformance_of_a_url_sends_over_http(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with server.serve(SHIPPED) as address:
        assert run(str(SHIPPED), "--url", f"http://{address}/") == 0
    out = capsys.readouterr().out
    assert ", 0 answered otherwise" in out
    assert "gzip bomb" not in out  # the event source changes it
    assert "header length" in out


@pytest.mark.parametrize(("given", "signed"), [([], True), (["X-Api-Key: k"], False)])
def test_conformance_signs_or_sends_the_header(
    given: list[str], signed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    requests: list[Any] = []

    class Answer(io.BytesIO):
        status = 200

    def urlopen(request: Any, timeout: float) -> Any:
        requests.append({name.lower(): value for name, value in request.header_items()})
        return Answer(b"{}")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    url = "https://abc.execute-api.eu-central-1.amazonaws.com/live/"
    answer = conformance.remote(url, given)(Case("x", "/predict", b"{}", 200))
    assert answer == (200, b"{}")
    assert ("eu-central-1/execute-api" in requests[0].get("authorization", "")) is signed
    assert requests[0].get("x-api-key") == (None if signed else "k")
