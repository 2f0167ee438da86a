"""MLServer's and KServe's clients, in an environment of their own, against `answerable serve`."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.fixtures import server

REQUIREMENTS = server.ROOT / "requirements/clients.txt"


def interpreter() -> str:
    """A Python that MLServer takes."""
    for name in (sys.executable, "python3.12", "python3.11"):
        found = shutil.which(name)
        code = "import sys; sys.exit(sys.version_info >= (3, 13))"
        if found and subprocess.run([found, "-c", code], check=False).returncode == 0:
            return found
    raise RuntimeError("MLServer's client needs a Python below 3.13")


@pytest.fixture(scope="session")
def clients() -> Path:
    """The Python of the environment, made once for each state of the requirements."""
    folder, done = server.E2E_HOME / "clients", server.E2E_HOME / "clients/requirements.txt"
    if not done.exists() or done.read_text() != REQUIREMENTS.read_text():
        subprocess.run([interpreter(), "-m", "venv", "--clear", folder], check=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--require-hashes", "-r", str(REQUIREMENTS)], check=True)
        shutil.copy(REQUIREMENTS, done)
    return folder / "bin/python"


def store(path: Path, arrays: dict[str, Any]) -> None:
    """Arrays on disk, strings as text of a fixed width."""
    np.savez(path, **{k: v.astype(str) if v.dtype.kind == "O" else v for k, v in arrays.items()})


@pytest.fixture(scope="module", params=server.KINDS)
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Address and kind of a served model, and the folder of what is asked and what is right."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    directory = server.pack(kind, folder)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(directory / "model.onnx", options)
    names = [output.name for output in session.get_outputs()]
    feeds = server.feeds(kind)
    plain = {k: np.nan_to_num(v, nan=3.0) if v.dtype.kind == "f" else v for k, v in feeds.items()}
    for name, part in (("feeds", feeds), ("plain", plain)):
        store(folder / f"{name}.npz", part)
        answers = dict(zip(names, session.run(names, part), strict=True))
        store(folder / f"{name}-answers.npz", answers)
    columns = [array.reshape(3, -1).tolist() if kind != "image" else array.tolist()
               for array in plain.values()]  # fmt: skip
    rows = columns[0]
    if kind == "text":
        rows = [[*review, *stars] for review, stars in zip(*columns, strict=True)]
    (folder / "rows.json").write_text(json.dumps(rows))
    with server.serve(directory, "url") as address:
        yield [address, kind, str(folder)]


@pytest.mark.parametrize("client", ["mlserver", "kserve"])
def test_they_talk_to_us(clients: Path, model: list[str], client: str) -> None:
    script = Path(__file__).with_name("clients.py")
    subprocess.run([clients, script, client, *model], check=True)
