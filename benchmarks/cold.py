"""Cold start: from before a process is spawned to its first answer, one row."""

import time
from pathlib import Path

from benchmarks import cases
from benchmarks.results import Rounds
from handler import manifest as manifests


def measure(model_dir: Path, scratch: Path, rounds: int) -> Rounds:
    """Seconds per case and round. Every round starts each case once, in an order that rotates."""
    manifest = manifests.read(model_dir)
    events = cases.write_events(scratch / "cold", manifest, 1, 1)
    seconds: Rounds = {name: [] for name in cases.CASES}
    names = list(cases.CASES)
    for i in range(-1, rounds):  # round -1 compiles every module, as the image has them
        for name in names[i % len(names) :] + names[: i % len(names)]:
            started = time.monotonic()
            answered = cases.ask(
                "cold",
                cases.CASES[name].module,
                events,
                model_dir=model_dir,
                threads=manifest.execution.intra_op_threads,
            )
            if i >= 0:
                seconds[name].append(float(answered.split()[0]) - started)
    return seconds
