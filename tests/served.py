"""Packed models of three kinds, and `tools serve` in a process of its own."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests import models

ROOT = Path(__file__).parents[1]
E2E_HOME = Path(os.environ.get("E2E_HOME", Path.home() / ".cache/answerable-e2e"))
KINDS = ("tabular", "image", "text")


def feeds(kind: str) -> dict[str, Any]:
    """The graph's inputs for three instances of a model."""
    if kind == "tabular":
        table = models.wine_table()
        return {"X": np.array(list(table.values()), np.float32).T[[0, 70, 170]]}
    if kind == "image":
        rng = np.random.default_rng(8)
        return {"image": rng.normal(size=(3, 3, 16, 16)).astype(np.float32)}
    reviews = models.reviews_table()
    stars = [np.nan if value is None else value for value in reviews["stars"][9:12]]
    return {
        "review": np.array([reviews["review"][9:12]], object).T,
        "stars": np.array([stars], np.float32).T,
    }


def pack(kind: str, directory: Path) -> Path:
    """The artifact of a small model of that kind."""
    builders: dict[str, tuple[Any, Any]] = {
        "tabular": (models.wine_classifier, models.wine_table()),
        "image": (models.image_classifier, None),
        "text": (models.text_classifier, models.reviews_table()),
    }
    model, sample = builders[kind]
    (directory / "model.onnx").write_bytes(model())
    command = [sys.executable, "-m", "tools", "pack", str(directory / "model.onnx")]
    command += ["--name", kind, "--version", "1.0.0", "--owner", "tests", "--why", "a test"]
    command += ["--threads", "1", "--output", str(directory / "packed")]
    if sample:
        sample.pop("liked", None)
        (directory / "data.csv").write_text(models.csv(sample))
        command += ["--reference", str(directory / "data.csv")]
    else:
        np.savez(directory / "data.npz", **feeds(kind))
        command += ["--reference", str(directory / "data.npz")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next((directory / "packed").rglob("manifest.json")).parent


@contextlib.contextmanager
def serve(directory: Path, front: str = "rest") -> Iterator[str]:
    """The address, `host:port`, of a server of an artifact."""
    command = [sys.executable, "-m", "tools", "serve", str(directory), "--port", "0", "--quiet"]
    server = subprocess.Popen(
        [*command, "--front", front], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        text = ""
        assert server.stderr is not None
        while not (found := re.search(r"OpenAPI +http://localhost:(\d+)", text)):
            line = server.stderr.readline()
            assert line, f"it did not start: {text}"
            text += line
        yield f"127.0.0.1:{found[1]}"
    finally:
        server.terminate()
        server.communicate()
