"""The zoo without the product: its models build, are what they say, and run in onnxruntime."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.zoo.models import (
    PACKS,
    ZOO,
    Request,
    ZooModel,
    drawn,
    feeds,
    instance_feeds,
    open_session,
    run_plain,
)
from tests.zoo.registry import FILES, Array, Arrays

ROOT = Path(__file__).parents[2]
KB = 1000

RUNNING = [model for model in ZOO.values() if model.runs]
COMMITTED = [model for model in ZOO.values() if model.predictions() is not None]
REQUESTS = [
    pytest.param(model, request, id=f"{model.name}: {request.why}")
    for model in ZOO.values()
    for request in model.requests
]


def by_name(models: Iterable[ZooModel]) -> list[Any]:
    """Return pytest's parameters, one model each."""
    return [pytest.param(model, id=model.name) for model in models]


def sample_run(model: ZooModel, directory: Path) -> tuple[Arrays, dict[str, list[Array]]]:
    """Return the model's feeds, and its outputs by instance."""
    paths = model.make(directory)
    session = open_session(paths.model)
    if paths.sample:
        arrays = feeds(session, paths.sample, model.ignore, model.encode)
    else:
        arrays = drawn(session, model.batch)
    return arrays, run_plain(session, arrays, model.batch)


def test_zoo_has_the_models_it_promises() -> None:
    assert len(ZOO) >= 34
    assert {model.kind for model in ZOO.values()} == {
        "table",
        "text",
        "picture",
        "tensor",
        "tokens",
        "names",
        "graph",
    }
    assert sum(model.fast for model in ZOO.values()) >= 20


@pytest.mark.parametrize("model", by_name(ZOO.values()))
def test_model_made_twice_is_equal(model: ZooModel, tmp_path: Path) -> None:
    directories = [tmp_path / "first", tmp_path / "second"]
    contents = []
    for directory in directories:
        directory.mkdir()
        files = [path for path in model.make(directory) if path]
        contents.append({path.name: path.read_bytes() for path in files})
    assert contents[0] == contents[1]


@pytest.mark.parametrize("model", by_name(ZOO.values()))
def test_model_is_described_small_and_valid(model: ZooModel) -> None:
    graph = model.build().model
    assert model.description.endswith(".")
    assert len(graph) <= 300 * KB
    if model.valid:
        onnx.checker.check_model(onnx.load_from_string(graph))
    else:
        with pytest.raises(onnx.checker.ValidationError):
            onnx.checker.check_model(onnx.load_from_string(graph))


@pytest.mark.parametrize("model", by_name(RUNNING))
def test_model_in_plain_onnxruntime_answers_its_sample(model: ZooModel, tmp_path: Path) -> None:
    arrays, outputs = sample_run(model, tmp_path)
    instances = len(next(iter(arrays.values()))) if arrays else 1
    assert instances >= (3 if arrays else 1)
    for values in outputs.values():
        if model.expected == PACKS:
            assert len(values) == instances
            assert all(np.isfinite(v).all() for v in values if v.dtype.kind == "f")


@pytest.mark.parametrize("model", by_name([m for m in ZOO.values() if not m.runs]))
def test_model_that_onnxruntime_refuses_expects_a_refusal(model: ZooModel, tmp_path: Path) -> None:
    assert model.expected != PACKS
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        open_session(model.make(tmp_path).model)


@pytest.mark.parametrize("model", by_name(COMMITTED))
def test_committed_model_equals_its_framework(model: ZooModel, tmp_path: Path) -> None:
    _, outputs = sample_run(model, tmp_path)
    predictions = model.predictions() or {}
    assert list(predictions) == list(outputs)
    for name, expected in predictions.items():
        actual = np.stack(outputs[name]).reshape(expected.shape)
        if expected.dtype.kind == "f":
            difference = np.abs(actual - expected) / np.maximum(1, np.abs(expected))
            assert difference.max() <= model.tolerance
        else:
            assert actual.tolist() == expected.tolist()


def test_timestamps_export_differs_from_its_framework(tmp_path: Path) -> None:
    model = ZOO["lgbm-timestamps"]
    _, outputs = sample_run(model, tmp_path)
    expected = (model.predictions() or {})["variable"]
    wrong = np.abs(np.stack(outputs["variable"]).ravel() - expected) > 0.01
    assert 0.2 < wrong.mean() < 0.8


def test_committed_files_keep_the_size_limits() -> None:
    sizes = {path: path.stat().st_size for path in FILES.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 3000 * KB
    for path, size in sizes.items():
        assert size <= (300 if path.suffix == ".onnx" else 50) * KB, path


def test_committed_files_all_belong_to_a_model() -> None:
    names = {path.name.split(".")[0] for path in FILES.iterdir() if path.is_file()}
    assert names == {model.name for model in COMMITTED}


def outcome(model: ZooModel, request: Request, directory: Path) -> str:
    """Return what plain onnxruntime makes of a request: "finite", "not finite" or "fails"."""
    session = open_session(model.make(directory).model)
    try:
        with np.errstate(over="ignore"):
            arrays = instance_feeds(session, request.instance, model.batch, model.encode)
        results = [np.asarray(result) for result in session.run(None, arrays)]
    except Exception:  # numpy's and onnxruntime's, of many classes
        return "fails"
    finite = all(np.isfinite(array).all() for array in results if array.dtype.kind == "f")
    return "finite" if finite else "not finite"


@pytest.mark.parametrize(("model", "case"), REQUESTS)
def test_request_status_agrees_with_the_graph(
    model: ZooModel, case: Request, tmp_path: Path
) -> None:
    built = model.build()
    columns = set(built.sample or {}) - set(model.ignore)
    assert set(case.instance) == columns
    takes = case.status == 200 or case.misread
    assert (outcome(model, case, tmp_path) == "finite") is takes


def test_models_are_equal_in_another_process() -> None:
    code = (
        "import hashlib; from tests.zoo.models import ZOO; "
        "print([hashlib.sha256(m.build().model).hexdigest() for m in ZOO.values()])"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "ORT_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
