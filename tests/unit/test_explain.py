import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from answerable import __main__ as answerable
from handler import app
from handler.settings import Settings
from tests.fixtures import events
from tests.fixtures.artifact import DIABETES
from tests.fixtures.events import Context

Capture = pytest.CaptureFixture[str]
GOLDEN = json.loads((DIABETES / "golden.jsonl").read_text().splitlines()[0])["instance"]


def predict(capsys: Capture, **settings: Any) -> tuple[dict[str, Any], str]:
    """The second prediction of a request, and the request's record."""
    handler = app.create(Settings(DIABETES, function_version="12", **settings))
    rows = [GOLDEN, GOLDEN | {"bmi": 31.5}]
    answer = handler(events.rest(json.dumps({"instances": rows})), Context())
    return json.loads(answer["body"])["predictions"][1], capsys.readouterr().out


def trace(capsys: Capture, *arguments: str) -> tuple[int, str]:
    code = answerable.main(["explain", *arguments])
    out, err = capsys.readouterr()
    return code, " ".join((out + err).split())


def test_a_prediction_is_explained(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("PREDICTION_ID_SECRET", "key")
    one, record = predict(capsys, log_payloads="full", prediction_id_secret="key")
    (tmp_path / "records").write_text("noise\n" + record)
    arguments = ("--records", str(tmp_path / "records"), "--artifacts", str(DIABETES.parent))
    code, said = trace(capsys, one["id"], *arguments)
    assert code == 0
    manifest = json.loads((DIABETES / "manifest.json").read_text())
    for word in (
        "model diabetes 1.0.0", "function version 12", "row 2", "this service made the id",
        f"predicted {one['progression']:.7g} points", manifest["lineage"]["reason"],
        manifest["files"]["model.onnx"]["sha256"], '"bmi": 31.5', "rest-1", one["id"],
    ):  # fmt: skip
        assert word in said, word
    monkeypatch.setenv("PREDICTION_ID_SECRET", "another")
    assert "signature INVALID" in trace(capsys, one["id"], *arguments)[1]
    monkeypatch.delenv("PREDICTION_ID_SECRET")
    assert "not verified" in trace(capsys, one["id"], *arguments)[1]


def test_what_is_no_id_is_refused(capsys: Capture) -> None:
    assert trace(capsys, "nonsense")[0] == 2


def test_an_artifact_that_is_gone_is_found_in_git(capsys: Capture, tmp_path: Path) -> None:
    one, _ = predict(capsys)
    artifacts = tmp_path / "model_artifacts"
    code, said = trace(capsys, one["id"], "--artifacts", str(tmp_path))
    assert (code, "no artifact" in said) == (1, True)
    (artifacts / "diabetes").mkdir(parents=True)
    shutil.copy(DIABETES / "manifest.json", artifacts / "diabetes")

    def git(*arguments: str) -> None:
        name = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    git("rm", "-r", "model_artifacts")
    git("commit", "-m", "gone")
    artifacts.mkdir(exist_ok=True)
    code, said = trace(capsys, one["id"], "--artifacts", str(artifacts))
    assert (code, "artifact git show" in said) == (0, True)
