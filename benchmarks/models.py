"""The models that the benchmarks pack: a cheap graph of 30 columns, and two large ones."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from benchmarks import cases
from tests.fixtures.models import graph, large_image_classifier, tensor

COLUMNS = [f"x{i}" for i in range(30)]


def linear(scratch: Path) -> Path:
    """Return a packed linear model: 30 numbers in one matrix -> `progression`, as the example's."""
    rng = np.random.default_rng(30)
    node = helper.make_node("Gemm", ["X", "w", "b"], ["progression"])
    weights = {
        "w": rng.normal(size=(30, 1)).astype(np.float32),
        "b": np.zeros(1, np.float32),
    }
    inputs, outputs = [tensor("X", ["N", 30])], [tensor("progression", ["N", 1])]
    source = scratch / "linear.onnx"
    source.write_bytes(graph([node], inputs, outputs, weights))
    table = scratch / "linear.csv"
    lines = [",".join(f"{value:.4f}" for value in row) for row in rng.normal(size=(2000, 30))]
    table.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return pack(source, "linear", "--reference", str(table))


def image(scratch: Path) -> tuple[Path, Path]:
    """Return a CNN with 47 MB of weights, as its exporter left it, and its artifact."""
    source = scratch / "cnn.onnx"
    source.write_bytes(large_image_classifier())
    return source, pack(source, "cnn")


def dense(scratch: Path) -> tuple[Path, Path]:
    """Return a network with 403 MB of external weights, and its artifact."""
    rng = np.random.default_rng(404)
    nodes, weights = [], {}
    for i in range(6):
        weights[f"w{i}"] = rng.normal(size=(4096, 4096)).astype(np.float32) / 64
        nodes.append(helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"h{i + 1}"]))
    inputs, outputs = [tensor("h0", ["N", 1, 4096])], [tensor("h6", ["N", 1, 4096])]
    model = onnx.load_from_string(graph(nodes, inputs, outputs, weights))
    source = scratch / "dense/dense.onnx"
    source.parent.mkdir()
    onnx.save(model, source, save_as_external_data=True, location="dense.weights")
    return source, pack(source, "dense")


def pack(source: Path, name: str, *options: str) -> Path:
    """Return the artifact that `answerable pack` makes."""
    command = [sys.executable, "-m", "answerable", "pack", str(source), "--name", name]
    command += ["--version", "1.0.0", "--owner", "benchmarks", "--reason", "to be timed"]
    output = source.parent / f"{name}-packed"
    command += ["--output", str(output), *options]
    subprocess.run(command, check=True, cwd=cases.ROOT, stdout=subprocess.DEVNULL)
    return next(output.rglob("manifest.json")).parent
