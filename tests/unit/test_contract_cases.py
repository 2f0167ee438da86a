"""The corpus of bad input: every case gets its answer, under every kind of contract."""

import io
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from answerable import __main__ as answerable
from answerable import contract_cases as whole
from answerable.commands import conformance
from handler import manifest
from handler.release import contract_cases, golden
from handler.release.contract_cases import Case
from tests.fixtures import adversarial, server
from tests.unit import test_protocols_graphs as graphs

SHIPPED = adversarial.directory("shipped", Path())
MANIFEST = manifest.read(SHIPPED)
Capture = pytest.CaptureFixture[str]


def differed(directory: Path) -> tuple[int, Any]:
    ask = conformance.local(directory)
    found = conformance.check(manifest.read(directory), [], ask, False)
    return found.sent.total(), found.differed


@pytest.mark.fault(
    "any input that the contract forbids, through every protocol: missing, null, wrong type, out of"
    " range, not finite, unseen, too long; broken base64, gzip, UTF-8, JSON, binary tensors",
    "400, 404, 405, 413, 415 or 422, as the contract says, with the pointer and code of each"
    " violation; nothing is scored",
)
@pytest.mark.parametrize("kind", adversarial.KINDS)
def test_every_case_gets_its_answer(kind: str, tmp_path: Path) -> None:
    sent, wrong = differed(adversarial.directory(kind, tmp_path))
    assert wrong == {}
    assert sent > 600


@pytest.mark.parametrize("dtype", ["bool", "float16", "float64", "object", "uint8", "int64"])
@pytest.mark.parametrize(("shape", "batch"), [
    ((), "none"), ((2, 3), "none"), ((None, 3), "dynamic"), ((None, 2, None), "single"),
])  # fmt: skip
def test_every_tensor_s_cases_get_their_answers(
    dtype: str, shape: Any, batch: str, tmp_path: Path
) -> None:
    sent, wrong = differed(graphs.write(tmp_path, dtype, shape, batch))
    assert wrong == {}
    assert sent > 400


def test_every_rule_of_a_feature_has_its_breach(tmp_path: Path) -> None:
    found = manifest.read(adversarial.directory("echo", tmp_path))
    told = {(b.at[0], b.kind, b.code, b.text) for b in contract_cases.bad_values(found)}
    for expected in (
        ("ratio", "missing", "missing", None),
        ("ratio", "just outside", "out_of_range", "-5e-324"),
        ("ratio", "just outside", "out_of_range", "10.000000000000002"),
        ("count", "just outside", "out_of_range", "1000001"),
        ("count", "fraction", "type", "3.5"),
        ("colour", "unseen category", "unknown_category", f'"{contract_cases.CLIENT_TEXT}"'),
        ("open", "number for a flag", "type", "1"),
        ("serum", "overflow", "out_of_range", "1e39"),
        ("serum", "not finite", "non_finite", "NaN"),
    ):
        assert expected in told
    assert not any(name == "serum" and kind in ("missing", "null") for name, kind, *_ in told)


def test_every_door_and_form_is_asked() -> None:
    paths = {case.path for case in whole.cases(MANIFEST, True)}
    doors = ("/predict", "/jobs", "/feedback", "/invocations", "/v1/models/", "/v2/models/")
    assert all(any(path.startswith(door) for path in paths) for door in doors)
    assert not any(case.path == "/jobs" for case in whole.cases(MANIFEST, False))
    assert all(case.body.decode() is not None for case in contract_cases.smoke_cases(MANIFEST))


@pytest.mark.parametrize("path", ["/predict", "/invocations", "/v2/models/diabetes/infer"])
def test_what_differs_is_said(path: str) -> None:
    ask = conformance.local(SHIPPED)

    def lying(case: Case) -> tuple[int, bytes]:
        status, text = ask(case)
        if case.path == path and case.kind == "just outside":
            return 200, b'{"predictions":[]}'
        return status, text.replace(b'"code":"unknown_category"', b'"code":"type"')

    found = conformance.check(MANIFEST, golden.read(SHIPPED), lying, False)
    assert set(found.differed) >= {"just outside", "unseen category"}
    assert f"{path}: 200 instead of 422" in found.differed["just outside"]
    assert any("other violations" in words for words in found.differed["unseen category"])


def run(*words: str) -> int:
    return answerable.main(["conformance", "--model", *words])


def test_a_good_artifact_passes(capsys: Capture) -> None:
    assert run(str(SHIPPED)) == 0
    out = capsys.readouterr().out
    assert re.search(r"golden +│ 87 +│ 87 ", out)
    assert ", 0 answered otherwise than stated" in out


def test_golden_rows_that_are_answered_otherwise_are_found(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *rows = golden.read(SHIPPED)
    worse = first._replace(prediction={"progression": 1.5})
    monkeypatch.setattr(golden, "read", lambda directory: [worse, *rows])
    assert run(str(SHIPPED)) == 1
    out = capsys.readouterr().out
    assert "another answer (1)" in " ".join(out.replace("│", " ").split())
    assert "3 answered otherwise" in out


def test_no_artifact_is_one_line(capsys: Capture, tmp_path: Path) -> None:
    assert run(str(tmp_path)) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_url_is_asked_over_http(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with server.serve(SHIPPED) as address:
        assert run(str(SHIPPED), "--url", f"http://{address}/") == 0
    out = capsys.readouterr().out
    assert ", 0 answered otherwise" in out
    assert "gzip bomb" not in out  # a front's own affair
    assert "header length" in out


@pytest.mark.parametrize(("given", "signed"), [([], True), (["X-Api-Key: k"], False)])
def test_a_call_is_signed_or_has_its_key(
    given: list[str], signed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    asked: list[Any] = []

    class Answer(io.BytesIO):
        status = 200

    def urlopen(request: Any, timeout: float) -> Any:
        asked.append({name.lower(): value for name, value in request.header_items()})
        return Answer(b"{}")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    url = "https://abc.execute-api.eu-central-1.amazonaws.com/live/"
    answer = conformance.remote(url, given)(Case("x", "/predict", b"{}", 200))
    assert answer == (200, b"{}")
    assert ("eu-central-1/execute-api" in asked[0].get("authorization", "")) is signed
    assert asked[0].get("x-api-key") == (None if signed else "k")
