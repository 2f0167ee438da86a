"""The examples of text and pictures: they train, pack, and answer right."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from answerable.packing.pack import pack
from handler import scoring
from tests.fixtures.server import ROOT

pytestmark = pytest.mark.skipif(
    not (ROOT / "examples").exists(), reason="the examples are deleted, as a project may do"
)


def trained(name: str, reference: str, directory: Path) -> scoring.Scorer:
    """Return the packed example."""
    script = ROOT / "examples" / name / "train.py"
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, script, directory], env=environment, check=True)
    options: Any = {"version": "1.0.0", "owner": "tests", "reason": "a test", "threads": 1}
    options |= {"contract": ROOT / "examples" / name / "contract.toml", "artifacts": directory}
    options |= {"metrics": json.loads((directory / "metrics.json").read_text())}
    packed = pack(directory / "model.onnx", directory / reference, name=name, **options)
    assert packed.manifest.lineage.metrics["held_out_accuracy"] > 0.8
    return scoring.load(packed.directory)


def predicted(scorer: scoring.Scorer, *values: str) -> list[dict[str, Any]]:
    name = scorer.manifest.features[0].name
    body = json.dumps({"instances": [{name: value} for value in values]})
    return [json.loads(text) for text in scorer.predict(body)]


def test_digits(tmp_path: Path) -> None:
    scorer = trained("digits", "pictures", tmp_path)
    files = sorted((tmp_path / "pictures").iterdir())[: scorer.manifest.limits.rows]
    values = [base64.b64encode(file.read_bytes()).decode() for file in files]
    right = [
        prediction["digit"] == int(file.stem[-1])
        for prediction, file in zip(predicted(scorer, *values), files, strict=True)
    ]
    assert len(right) == 16  # pictures of 4 megapixels, the most that a request may have
    assert sum(right) >= 15


def test_docstrings(tmp_path: Path) -> None:
    scorer = trained("docstrings", "reference.csv", tmp_path)
    answers = predicted(scorer, "Return the transposed array.", "Fit the gradient boosting model.")
    assert [answer["library"] for answer in answers] == ["NumPy", "scikit-learn"]
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
