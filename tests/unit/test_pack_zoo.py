"""Every zoo model packs and answers as plain onnxruntime does, or is refused in one sentence."""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from answerable.commands import pack
from answerable.packing.errors import PackError
from handler import scoring
from handler.errors import ContractViolation
from handler.manifest import Manifest
from handler.scoring import Scorer
from tests.zoo.models import PACKS, ZOO, ZooModel, drawn, feeds, open_session, run_plain

MODELS = [pytest.param(model, id=model.name) for model in ZOO.values()]


def packed(model: ZooModel, directory: Path, *words: str) -> Manifest:
    """Pack a zoo model into directory/model."""
    paths = model.make(directory)
    words = ("--name", "model", "--version", "1.0.0", "--owner", "tests", "--why", "zoo", *words)
    words = (*words, "--threads", "1", "--output", str(directory))
    words = (*words, *(word for name in model.ignore for word in ("--ignore", name)))
    if paths.sample:
        words = (*words, "--reference", str(paths.sample))
    if paths.contract:
        words = (*words, "--contract", str(paths.contract))
    parser = argparse.ArgumentParser()
    pack.add_arguments(parser)
    return pack.pack(parser.parse_args([str(paths.model), *words]))[0]


def plain(model: ZooModel, directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the sample's feeds, and plain onnxruntime's outputs by instance."""
    session = open_session(directory / "model.onnx")
    paths = [path for path in directory.glob("sample.*")]
    arrays = feeds(session, paths[0], model.ignore) if paths else drawn(session, model.batch)
    return arrays, run_plain(session, arrays, model.batch)


def instances(manifest: Manifest, arrays: dict[str, Any], rows: int) -> list[dict[str, Any]]:
    """Return the first rows as instances of /predict."""
    if not manifest.features:
        return [{name: array[i].tolist() for name, array in arrays.items()} for i in range(rows)]
    found = []
    for i in range(rows):
        instance = {}
        for feature in manifest.features:
            value = np.ravel(arrays[feature.input][i]).tolist()[feature.column]
            if isinstance(value, float) and np.isnan(value):
                value = feature.missing
            elif feature.type == "boolean":
                value = bool(value)
            elif feature.type == "integer" or (
                feature.type == "category" and isinstance(feature.categories[0], int)
            ):
                value = int(value)
            instance[feature.name] = value
        found.append(instance)
    return found


def predictions(scorer: Scorer, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the answers of /predict."""
    step = min(scorer.manifest.limits.rows, 50)
    texts: list[bytes] = []
    for start in range(0, len(rows), step):
        texts += scorer.score(orjson.dumps({"instances": rows[start : start + step]})).predictions
    return [orjson.loads(text) for text in texts]


def same(actual: Any, expected: Any) -> None:
    """Compare an output's values of one instance."""
    if isinstance(actual, dict):
        actual = list(actual.values())
    expected = np.asarray(expected)
    if expected.dtype.kind == "f":
        actual = np.array(actual, np.float64).reshape(expected.shape)
        limit = 1e-2 if expected.dtype == np.float16 else 2e-5
        assert np.abs(actual - expected).max(initial=0) <= limit * max(1, np.abs(expected).max())
    else:
        assert np.array(actual, object).reshape(expected.shape).tolist() == expected.tolist()


@pytest.mark.parametrize("model", MODELS)
def test_zoo_model_packs_and_answers_as_onnxruntime_or_is_refused(
    model: ZooModel, tmp_path: Path
) -> None:
    if model.expected != PACKS:
        with pytest.raises(PackError) as refusal:
            packed(model, tmp_path)
        assert re.search(model.expected, str(refusal.value), re.IGNORECASE)
        return
    manifest = packed(model, tmp_path)
    assert manifest.execution.batch == model.batch
    arrays, outputs = plain(model, tmp_path)
    scorer = scoring.load(tmp_path / "model")
    rows = min(60, len(next(iter(arrays.values()))))
    answers = predictions(scorer, instances(manifest, arrays, rows))
    for output in manifest.outputs:
        for i in range(rows):
            same(answers[i][output.name], outputs[output.tensor][i])


REQUESTS = [
    pytest.param(model, id=model.name)
    for model in ZOO.values()
    if model.requests and model.expected == PACKS
]


@pytest.mark.parametrize("model", REQUESTS)
def test_zoo_request_status(model: ZooModel, tmp_path: Path) -> None:
    packed(model, tmp_path)
    scorer = scoring.load(tmp_path / "model")
    wrong = []
    for request in model.requests:
        try:
            scorer.score(str_json([request.instance]))
            status = 200
        except ContractViolation:
            status = 422
        except Exception as error:
            status = f"{type(error).__name__}: {error}"
        if status != request.status:
            wrong.append((request.why, status))
    assert not wrong


def str_json(rows: list[dict[str, Any]]) -> bytes:
    import json

    return json.dumps({"instances": rows}).encode()
