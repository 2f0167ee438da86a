import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from handler import manifest
from handler.errors import ArtifactError, DeadlineExceeded, ServerError
from handler.session import Session
from tests.fixtures import artifact


def opened(directory: Path) -> Session:
    return Session(directory, manifest.read(directory))


def column(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.array(values, np.float32).reshape(-1, 1)}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.unlink(),
    ],
    ids=["flipped bit", "truncated", "empty", "longer", "gone"],
)
def test_a_damaged_file_is_named_and_never_served(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    directory = artifact.ratio(tmp_path, helper.make_node("Neg", ["x"], ["y"]))
    damage(directory / "model.onnx")
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        opened(directory)


def test_every_file_of_the_manifest_is_verified(tmp_path: Path) -> None:
    directory = artifact.ratio(tmp_path, helper.make_node("Neg", ["x"], ["y"]))
    read = manifest.read(directory)
    (directory / "golden.jsonl").write_bytes(b"{}\n")
    files = {**read.files, "golden.jsonl": manifest.File("0" * 64, 3)}
    with pytest.raises(ArtifactError, match=r"golden\.jsonl: its SHA-256"):
        Session(directory, read._replace(files=files))


@pytest.mark.fault(
    "A manifest that names a file outside of its artifact",
    "The init fails and names it, whatever the file holds",
)
@pytest.mark.parametrize("is_absolute", [True, False])
def test_a_file_outside_of_the_artifact_is_refused(tmp_path: Path, is_absolute: bool) -> None:
    directory = artifact.ratio(tmp_path / "a", helper.make_node("Neg", ["x"], ["y"]))
    (tmp_path / "b").write_bytes(b"outside")
    read = manifest.read(directory)
    entry = manifest.File(sha256(b"outside").hexdigest(), 7)
    name = str(tmp_path / "b") if is_absolute else "../b"
    with pytest.raises(ArtifactError, match="is not a file of the artifact"):
        Session(directory, read._replace(files={**read.files, name: entry}))


@pytest.mark.fault(
    "A graph whose weights the manifest does not name",
    "The init fails and names the file",
)
def test_weights_that_the_manifest_does_not_name_are_refused(tmp_path: Path) -> None:
    model = onnx.load_from_string(
        artifact.graph(
            [helper.make_node("Mul", ["x", "w"], ["y"])],
            [("x", artifact.FLOAT, [None, 1])],
            [("y", artifact.FLOAT, [None, 1])],
        )
    )
    weight = numpy_helper.from_array(np.full((1, 1000), 3, np.float32), "w")
    model.graph.initializer.append(weight)
    onnx.save(
        model,
        tmp_path / "saved.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    directory = artifact.ratio(tmp_path, helper.make_node("Neg", ["x"], ["y"]))
    content = (tmp_path / "saved.onnx").read_bytes()
    (tmp_path / "saved.onnx").unlink()
    (directory / "model.onnx").write_bytes(content)
    read = manifest.read(directory)
    files = {**read.files, "model.onnx": manifest.File(sha256(content).hexdigest(), len(content))}
    with pytest.raises(ArtifactError, match=r"weights\.bin: is not in the manifest"):
        Session(directory, read._replace(files=files))
    weights = (directory / "weights.bin").read_bytes()
    files["weights.bin"] = manifest.File(sha256(weights).hexdigest(), len(weights))
    Session(directory, read._replace(files=files))


@pytest.mark.fault(
    "A FIFO in the place of a file of the artifact",
    "The init fails and names it, instead of waiting for a writer",
)
@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "manifest.sha256"])
def test_a_fifo_does_not_block_the_init(tmp_path: Path, name: str) -> None:
    directory = artifact.ratio(tmp_path, helper.make_node("Neg", ["x"], ["y"]))
    (directory / name).unlink(missing_ok=True)
    os.mkfifo(directory / name)
    script = f"""
from pathlib import Path
from handler import scoring
from handler.errors import ArtifactError
try:
    scoring.load(Path({str(directory)!r}))
except ArtifactError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith(name.replace("sha256", "json")), done.stderr


@pytest.mark.fault(
    "A model file whose hash is right and which is no graph",
    "The init fails and names it",
)
def test_what_is_no_graph_is_an_artifact_error(tmp_path: Path) -> None:
    directory = artifact.write(
        tmp_path,
        b"not ONNX",
        inputs=[{"name": "x", "dtype": "float32", "shape": [None, 1]}],
        outputs=[
            {"name": "y", "tensor": "y", "dtype": "float32", "shape": [None, 1], "kind": "value"}
        ],
    )
    with pytest.raises(ArtifactError, match="cannot be opened"):
        opened(directory)


@pytest.mark.fault(
    "Runs that never end, one after another",
    "Each is stopped at its own deadline, those in between are not touched",
)
def test_a_run_ends_at_its_deadline_and_the_next_is_not_touched(tmp_path: Path) -> None:
    model = opened(artifact.endless(tmp_path))
    for _ in range(3):
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            model.run(column(1), start + 0.2)
        assert time.monotonic() - start > 0.19
        assert model.run(column(-1), time.monotonic() + 60)[0].tolist() == [[-1]]
        # an earlier deadline than the one the watchdog is asleep for
        with pytest.raises(DeadlineExceeded):
            model.run(column(1), time.monotonic() + 0.1)


def test_a_deadline_that_has_passed_stops_the_run_at_once(tmp_path: Path) -> None:
    model = opened(artifact.endless(tmp_path))
    with pytest.raises(DeadlineExceeded):
        model.run(column(1), time.monotonic() - 1)


@pytest.mark.fault(
    "One operator of the model takes longer than the call may",
    "504 at the deadline; quick calls work meanwhile, others wait for the operator or get 504",
)
def test_a_run_ends_at_its_deadline_although_the_operator_does_not(tmp_path: Path) -> None:
    model = opened(artifact.slow_operator(tmp_path))
    started, released = threading.Event(), threading.Event()
    session = model._session

    class Blocked:
        """An operator that runs until it is released."""

        def run(self, names: Any, feeds: Any, options: Any) -> Any:
            if feeds["x"].max() > 1:
                started.set()
                released.wait()
            return session.run(names, feeds, options)

    model._session = Blocked()
    with pytest.raises(DeadlineExceeded):
        model.run(column(2), time.monotonic() + 0.1)
    assert started.is_set()
    with pytest.raises(DeadlineExceeded):  # it waits for the operator
        model.run(column(1), time.monotonic() + 0.1)
    released.set()
    assert model.run(column(1), time.monotonic() + 60)[0].tolist() == [[1]]


@pytest.mark.parametrize(
    ("nodes", "is_threaded"),
    [
        ([helper.make_node("Neg", ["x"], ["y"])], False),
        (
            [
                helper.make_node("Shape", ["x"], ["shape"]),
                helper.make_node("Expand", ["x", "shape"], ["y"]),
            ],
            True,
        ),
    ],
)
def test_only_a_run_whose_time_is_unknown_has_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: Any, is_threaded: bool
) -> None:
    model = opened(artifact.ratio(tmp_path, *nodes))
    model.run(column(1), time.monotonic() + 60)
    in_thread = model._run_in_thread
    threaded = []

    def spy(*args: Any) -> Any:
        threaded.append(args)
        return in_thread(*args)

    monkeypatch.setattr(model, "_run_in_thread", spy)
    model.run(column(2), time.monotonic() + 60)
    assert bool(threaded) == is_threaded
    model.run(column(1, 2), time.monotonic() + 60)  # a shape that was not seen yet
    assert len(threaded) == 1 + is_threaded


def test_a_failing_run_is_a_fault_without_the_values(tmp_path: Path) -> None:
    model = opened(artifact.ratio(tmp_path, helper.make_node("Neg", ["x"], ["y"])))
    with pytest.raises(ServerError) as caught:
        model.run({"x": np.array([["secret"]], object)})
    assert "secret" not in caught.value.detail
    assert model.run(column(2))[0].tolist() == [[-2]]


@pytest.mark.fault(
    "onnxruntime complains of a run in words that quote the client's values",
    "Its log is switched off: no log line has a value in it",
)
def test_onnxruntime_logs_nothing_of_a_failed_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["x", "index"], ["y"]),
    ]
    model = opened(artifact.ratio(tmp_path, *nodes))
    with pytest.raises(ServerError):
        model.run(column(471_147))
    assert "471147" not in "".join(capfd.readouterr())
