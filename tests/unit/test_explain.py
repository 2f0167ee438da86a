import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import boto3
import pytest

from answerable import __main__ as answerable
from handler import app
from handler.jobs import worker
from handler.settings import Settings
from tests.fixtures import events, memory_store
from tests.fixtures.artifact import DIABETES
from tests.fixtures.events import Context
from tests.fixtures.memory_store import Memory

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


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nonsense"], "'nonsense' is not a prediction id"),
        (["ID", "--records", "missing"], "missing: No such file or directory"),
        (["ID", "--records", "."], ".: Is a directory"),
        (["ID", "--records", "binary"], "binary: not UTF-8"),
        (["ID", "--artifacts", "missing"], "missing is not a folder"),
        (["ID", "--log-group", "group"], "explain: Unable to locate credentials"),
    ],
)
def test_explain_bad_input_is_one_line_and_exit_code_2(
    capsys: Capture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    reason: str,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it would remember credentials
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "missing"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model_artifacts").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\n")
    one, _ = predict(capsys)
    arguments = [one["id"] if argument == "ID" else argument for argument in arguments]
    code = answerable.main(["explain", *arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (1 if "credentials" in reason else 2, "")
    assert reason in err
    assert len(err.splitlines()) == 1


def test_lines_that_are_no_records_are_passed_over(capsys: Capture, tmp_path: Path) -> None:
    one, record = predict(capsys, log_payloads="full")
    prefix = one["id"][:28]
    noise = ["{" + prefix, f'["{prefix}"]', f'{{"prediction_id_prefix": "{prefix[:-1]}"}}']
    (tmp_path / "records").write_text("\n".join([*noise, record]))
    arguments = ("--records", str(tmp_path / "records"), "--artifacts", str(DIABETES.parent))
    code, printed = trace(capsys, one["id"], *arguments)
    assert (code, '"bmi": 31.5' in printed) == (0, True)


def test_a_prediction_of_a_job_is_explained(capsys: Capture, tmp_path: Path) -> None:
    memory = Memory()
    config = Settings(DIABETES, function_version="7", log_payloads="full")
    handle = worker.create(config, memory_store.store(memory))
    body = json.dumps({"instances": [GOLDEN, GOLDEN | {"bmi": 31.5}]})
    handle(memory_store.event(memory_store.record(body, "m1")), None)
    (tmp_path / "records").write_text(capsys.readouterr().out)
    result = json.loads(memory.objects["jobs/m1/result.json"][0])["result"]
    id = result["predictions"][1]["id"]
    arguments = ("--records", str(tmp_path / "records"), "--artifacts", str(DIABETES.parent))
    code, printed = trace(capsys, id, *arguments)
    assert code == 0
    for text in ("the worker of jobs", "function version 7", "job m1", '"bmi": 31.5', id):
        assert text in printed, text


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
