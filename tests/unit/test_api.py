"""The Python API, as a notebook uses it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest

import answerable
from answerable.__main__ import main
from tests.fixtures import models

FACTS: dict[str, Any] = {
    "name": "model",
    "version": "1.0.0",
    "owner": "tests",
    "reason": "a test",
    "threads": 1,
}
TABLE = models.regressor_table()


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def test_pack_takes_every_form_of_model_and_sample() -> None:
    content = models.regressor()
    Path("m.onnx").write_bytes(content)
    Path("d.csv").write_text(models.csv(TABLE))
    packed = answerable.pack("m.onnx", "d.csv", **FACTS)
    assert packed.directory == Path("model_artifacts/model")
    features = packed.manifest.features
    arrays = {name: np.array(column) for name, column in TABLE.items()}
    for model in (content, onnx.load("m.onnx"), Path("m.onnx")):
        for sample in (pd.DataFrame(TABLE), arrays, Path("d.csv")):
            packed = answerable.pack(model, sample, **FACTS, replace=True)
            assert packed.manifest.features == features


def test_pack_takes_a_dict_of_tensors_and_a_dict_of_statements() -> None:
    images = np.ones((3, 3, 16, 16), np.float32)
    contract = {"description": "Images", "limits": {"rows": 2}}
    packed = answerable.pack(
        models.image_classifier(), {"image": images}, **FACTS, contract=contract
    )
    assert (packed.manifest.description, packed.manifest.limits.rows) == ("Images", 2)
    (answer,) = answerable.load("model").predict([{"image": images[0]}])
    assert np.shape(answer["logits"]) == (10,)


def test_pack_refuses_a_sample_that_is_none() -> None:
    with pytest.raises(answerable.PackError, match="an array or a dict of arrays, not list"):
        answerable.pack(models.regressor(), [1], **FACTS)


def test_predict_is_the_contract_in_this_process() -> None:
    answerable.pack(models.regressor(), TABLE, **FACTS)
    model = answerable.load("model")
    rows = [dict(zip(TABLE, row, strict=True)) for row in zip(*TABLE.values(), strict=True)]
    predictions = model.predict(rows[:3])
    assert [set(prediction) for prediction in predictions] == [{"value"}] * 3
    assert model.predict(pd.DataFrame(rows[:3])) == predictions
    with pytest.raises(answerable.ApiError) as error:
        model.predict([rows[0], rows[0] | {"a": "high"}])
    assert [(v.pointer, v.code) for v in error.value.violations] == [("/instances/1/a", "type")]


def test_a_replaced_version_stays_reachable() -> None:
    answerable.pack(models.regressor(), TABLE, **FACTS)
    answerable.pack(models.regressor(), TABLE, **FACTS | {"version": "1.0.1"})
    answerable.pack(models.regressor(), TABLE, **FACTS | {"version": "1.1.0"})
    for before in ("model@1.0.0", "model@1.0.1", "model@1.1.0"):
        diff = answerable.diff(before, "model")
        assert f"model@{diff.old.version}" == before
        assert (diff.new.version, diff.contract, diff.answers.differing) == ("1.1.0", [], 0)
    with pytest.raises(
        answerable.ArtifactError, match=r"2\.0\.0 is not kept here: 1\.0\.0, 1\.0\.1"
    ):
        answerable.load("model@2.0.0")
    assert answerable.load().manifest.version == "1.1.0"


def test_diff_counts_decisions_that_flip(capsys: pytest.CaptureFixture[str]) -> None:
    for version, threshold in (("1.0.0", 0.0), ("1.1.0", 1e9)):
        decision = {"threshold": threshold, "above": "high", "below": "low"}
        contract = {"outputs": {"variable": {"decision": decision}}}
        sample = {name: np.abs(column) for name, column in TABLE.items()}
        answerable.pack(
            models.regressor(), sample, **FACTS | {"version": version}, contract=contract
        )
    answers = answerable.diff("model@1.0.0", "model").answers
    assert answers.decisions > 0
    assert main(["diff", "model@1.0.0", "model"]) == 0
    assert f"other decisions {answers.decisions}" in " ".join(capsys.readouterr().out.split())


def test_the_package_imports_no_library_before_it_is_used() -> None:
    code = "import answerable, sys; print('numpy' in sys.modules, dir(answerable.pack)[:0])"
    path = {**os.environ, "PYTHONPATH": str(Path(answerable.__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=path)
    assert run.stdout == "False []\n", run.stderr
