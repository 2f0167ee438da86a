"""Loading 47 MB of CNN: onnxruntime's default beside the packed artifact, its hashes included."""

import subprocess
import sys
from pathlib import Path

from benchmarks import cases
from benchmarks.results import Rounds

KINDS = ("import", "default", "packed", "packed after import")


def prepare(scratch: Path) -> tuple[Path, Path]:
    """The model as its exporter left it, and the folder of the artifact it was packed into."""
    from tests.fixtures.models import large_image_classifier

    original = scratch / "cnn.onnx"
    original.write_bytes(large_image_classifier())
    command = [sys.executable, "-m", "answerable", "pack", str(original), "--name", "cnn"]
    command += ["--version", "1.0.0", "--owner", "benchmarks", "--reason", "to be timed"]
    command += ["--output", str(scratch / "packed")]
    subprocess.run(command, check=True, cwd=cases.ROOT, stdout=subprocess.DEVNULL)
    return original, next((scratch / "packed").rglob("manifest.json")).parent


def measure(original: Path, packed: Path, rounds: int) -> dict[str, Rounds]:
    """By what is measured: seconds (MB for `peak`) of each way to load, per round.

    `beside`: what loading adds to the import of onnxruntime, which the packed artifact's hashing
    runs beside; a paired process that only imports is taken off. `after`: once it is imported.
    `answer`: to the end of a first run, where a memory-mapped file pays for its late reading.
    """
    found: dict[str, Rounds] = {
        what: {"default": [], "packed": []} for what in ("beside", "after", "answer", "peak")
    }
    for i in range(-1, rounds):  # round -1 brings the files into the page cache
        each = {}
        for k in range(len(KINDS)):
            kind = KINDS[(i + k) % len(KINDS)]
            answer = cases.ask("load", kind, str(original), str(packed), model_dir=packed)
            each[kind] = [float(word) for word in answer.split()]
        if i < 0:
            continue
        for kind in ("default", "packed"):
            found["beside"][kind].append(each[kind][0] - each["import"][0])
            found["answer"][kind].append(each[kind][2] - each["import"][0])
            found["peak"][kind].append(each[kind][3])
            after = each["default" if kind == "default" else "packed after import"]
            found["after"][kind].append(after[1])
    return found
