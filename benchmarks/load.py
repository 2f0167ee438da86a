"""Loading a large model: onnxruntime's default beside the packed artifact, hashes included."""

from pathlib import Path

from benchmarks import cases
from benchmarks.results import Rounds

KINDS = ("import", "default", "packed", "packed after import")
ANSWER = ("ready", "after", "answer", "peak", "cpu")  # what a child writes


def measure(original: Path, packed: Path, rounds: int) -> dict[str, Rounds]:
    """Return by figure the seconds (MB for `peak`) of each way to load, per round.

    `beside`: what loading adds to the import of onnxruntime, which the packed artifact's hashing
    runs beside; a paired process that only imports is subtracted. `cpu`: its CPU seconds.
    `after`: once it is imported. `answer`: to the end of a first run, where a memory-mapped file
    pays for its late reading. `ready`: from before the import until the model is loaded.
    """
    figures: dict[str, Rounds] = {
        name: {"default": [], "packed": []}
        for name in ("ready", "beside", "cpu", "after", "answer", "peak")
    }
    for i in range(-1, rounds):  # round -1 brings the files into the page cache
        seconds = {}
        for k in range(len(KINDS)):
            kind = KINDS[(i + k) % len(KINDS)]
            answer = cases.ask("load", kind, str(original), str(packed), model_dir=packed)
            seconds[kind] = dict(zip(ANSWER, map(float, answer.split()), strict=True))
        if i < 0:
            continue
        for kind in ("default", "packed"):
            figures["ready"][kind].append(seconds[kind]["ready"])
            figures["beside"][kind].append(seconds[kind]["ready"] - seconds["import"]["ready"])
            figures["cpu"][kind].append(seconds[kind]["cpu"] - seconds["import"]["cpu"])
            figures["answer"][kind].append(seconds[kind]["answer"] - seconds["import"]["ready"])
            figures["peak"][kind].append(seconds[kind]["peak"])
            after = seconds["default" if kind == "default" else "packed after import"]
            figures["after"][kind].append(after["after"])
    return figures
