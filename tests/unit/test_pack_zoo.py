"""Every zoo model packs and answers as plain onnxruntime does, or is refused in one sentence."""

import argparse
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from answerable.commands import pack as command
from answerable.packing.errors import PackError
from answerable.packing.pack import pack
from handler import app
from handler.manifest import Feature, Manifest
from handler.settings import Settings
from tests.fixtures import protocols
from tests.fixtures.events import Context
from tests.zoo.models import PACKS, ZOO, ZooModel, drawn, feeds, open_session, run_plain

ROWS = 30
TOLERANCE = {"float16": 1e-2}
Outputs = dict[str, list[Any]]


def by_name(models: list[ZooModel]) -> list[Any]:
    """Return pytest's parameters, the models that are not fast in the slow run."""
    return [
        pytest.param(model, id=model.name, marks=[pytest.mark.slow] * (not model.fast))
        for model in models
    ]


PACKING = [model for model in ZOO.values() if model.expected == PACKS]


def packed(model: ZooModel, directory: Path) -> Manifest:
    """Pack a zoo model into directory/test."""
    paths = model.make(directory)
    words = ["--name", "test", "--version", "1.0.0", "--owner", "tests", "--reason", "zoo"]
    words += ["--threads", "1", "--output", str(directory)]
    words += [word for name in model.ignore for word in ("--ignore", name)]
    words += ["--reference", str(paths.sample)] if paths.sample else []
    words += ["--contract", str(paths.contract)] if paths.contract else []
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args([str(paths.model), *words])
    return pack(**command.arguments(args)).manifest


def plain(model: ZooModel, directory: Path) -> tuple[protocols.Arrays, Outputs]:
    """Return up to ROWS instances of the sample as feeds, and plain onnxruntime's outputs."""
    session = open_session(directory / "model.onnx")
    samples = list(directory.glob("sample.*"))
    arrays = feeds(session, samples[0], model.ignore) if samples else drawn(session, model.batch)
    arrays = {name: array[:ROWS] for name, array in arrays.items()}
    return arrays, run_plain(session, arrays, model.batch)


def json_value(feature: Feature, value: Any) -> Any:
    """Return a tensor's element as /predict takes it."""
    if isinstance(value, float) and np.isnan(value):
        return None
    whole = feature.type == "integer" or any(isinstance(c, int) for c in feature.categories)
    return bool(value) if feature.type == "boolean" else int(value) if whole else value


def instances(manifest: Manifest, arrays: protocols.Arrays) -> list[dict[str, Any]]:
    """Return feeds as instances of /predict."""
    rows = [
        {name: array[i, ...].tolist() for name, array in arrays.items()}
        for i in range(len(next(iter(arrays.values()))))
    ]
    if not manifest.features:
        return rows
    return [
        {
            feature.name: json_value(feature, np.ravel(row[feature.input]).tolist()[feature.column])
            for feature in manifest.features
        }
        for row in rows
    ]


def same(actual: Any, expected: Any) -> None:
    """Compare an output of one instance with plain onnxruntime's."""
    if isinstance(actual, dict):
        actual = list(actual.values())
    expected = np.asarray(expected)
    if expected.dtype.kind != "f":
        values = np.array(actual, object).reshape(expected.shape).tolist()
        assert values == expected.tolist()
        return
    difference = np.array(actual, np.float64).reshape(expected.shape) - expected
    limit = TOLERANCE.get(expected.dtype.name, 2e-5)
    assert np.abs(difference).max(initial=0) <= limit * np.abs(expected).max(initial=1)


def ask(handler: Any, path: str, body: str | bytes, kind: str = "application/json") -> Any:
    """Return status and document of a POST."""
    answer = handler(protocols.event(body, path, **{"content-type": kind}), Context())
    return answer["statusCode"], json.loads(answer["body"])


def json_answers(
    handler: Any, manifest: Manifest, arrays: protocols.Arrays
) -> Iterator[tuple[str, list[Any]]]:
    """Yield the predictions of each protocol that answers by instance."""
    rows = instances(manifest, arrays)
    whole = manifest.execution.batch == "none"
    step = 1 if whole else min(manifest.limits.rows, ROWS)
    bodies: dict[str, list[tuple[str, str | bytes, str]]] = {"/predict": [], "/invocations": []}
    numeric = len(arrays) == 1 and not manifest.features and len(rows) > 0
    for start in range(0, len(rows), step):
        body = json.dumps({"instances": rows[start : start + step]})
        bodies["/predict"].append(("/predict", body, "application/json"))
        inputs = {name: array[start : start + step] for name, array in arrays.items()}
        values = {name: (a[0, ...] if whole else a).tolist() for name, a in inputs.items()}
        if not manifest.features:
            body = json.dumps({"inputs": values})
            bodies["/invocations"].append(("/invocations", body, "application/json"))
        array = next(iter(inputs.values()))
        if numeric and array.dtype.kind in "biuf":
            file = io.BytesIO()
            np.save(file, array[0, ...] if whole else array)
            body_npy = file.getvalue()
            bodies.setdefault("npy", []).append(("/invocations", body_npy, "application/x-npy"))
    for name, requests in bodies.items():
        answers: list[Any] = []
        for request in requests:
            status, document = ask(handler, *request)
            assert status == 200, (name, document)
            answers += document["predictions"]
        if requests:
            yield name, answers


def tensor_answers(
    handler: Any, manifest: Manifest, arrays: protocols.Arrays
) -> Iterator[dict[str, list[Any]]]:
    """Yield the outputs of /v2 by instance, from JSON and from bytes."""
    whole = manifest.execution.batch == "none"
    count = len(next(iter(arrays.values())))
    step = ROWS if manifest.execution.batch == "dynamic" else 1
    for encode in (protocols.as_json, protocols.as_binary):
        outputs: dict[str, list[Any]] = {}
        for start in range(0, count, step):
            chunk = {
                name: np.asarray(array[start, ...] if whole else array[start : start + step])
                for name, array in arrays.items()
            }
            if encode is protocols.as_json and any(
                a.dtype.kind == "f" and np.isnan(a).any() for a in chunk.values()
            ):
                return
            status, document, tensors = protocols.ask(handler, encode(chunk))
            assert status == 200, document
            for name, tensor in tensors.items():
                outputs.setdefault(name, []).extend([tensor] if whole else tensor)
        yield outputs


@pytest.mark.parametrize("model", by_name(PACKING))
def test_zoo_model_answers_as_onnxruntime_by_every_protocol(
    model: ZooModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = packed(model, tmp_path)
    assert manifest.execution.batch == model.batch
    arrays, expected = plain(model, tmp_path)
    handler = app.create(Settings(tmp_path / "test"))
    for _, answers in json_answers(handler, manifest, arrays):
        for output in manifest.outputs:
            for answer, value in zip(answers, expected[output.tensor], strict=True):
                same(answer[output.name], value)
    for outputs in tensor_answers(handler, manifest, arrays):
        for output in manifest.outputs:
            for value, truth in zip(outputs[output.tensor], expected[output.tensor], strict=True):
                same(np.asarray(value).tolist(), truth)
    capsys.readouterr()


@pytest.mark.parametrize("model", by_name([m for m in ZOO.values() if m.expected != PACKS]))
def test_zoo_model_that_cannot_be_served_is_refused_by_cause(
    model: ZooModel, tmp_path: Path
) -> None:
    with pytest.raises(PackError) as refusal:
        packed(model, tmp_path)
    assert re.search(model.expected, str(refusal.value), re.IGNORECASE)
    assert "\n" not in str(refusal.value)


# what the handler does not refuse yet: bounds of tensors, and rows that fail alone
UNBOUNDED = ("bert-tokens", "token-lookup", "integer-division")
REQUESTED = [model for model in PACKING if model.requests and model.name not in UNBOUNDED]


@pytest.mark.parametrize("model", by_name(REQUESTED))
def test_zoo_request_gets_its_status(
    model: ZooModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed(model, tmp_path)
    handler = app.create(Settings(tmp_path / "test"))
    for request in model.requests:
        status, document = ask(handler, "/predict", json.dumps({"instances": [request.instance]}))
        assert status == request.status, (request.why, document)
    capsys.readouterr()
