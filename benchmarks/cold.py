"""Cold start: from before a process is spawned to its first answer, one row."""

import time
from pathlib import Path

from benchmarks import cases
from benchmarks.results import Rounds
from handler import manifest as manifests


def measure(
    compared: dict[str, cases.Case],
    model_dir: Path,
    scratch: Path,
    rounds: int,
    cgroup: Path | None = None,
) -> tuple[Rounds, Rounds, Rounds]:
    """Return wall seconds, CPU seconds and peak MB per case and round.

    Every round starts each case once, in an order that rotates.
    """
    manifest = manifests.read(model_dir)
    events = cases.write_events(scratch / "cold", manifest, {1: 1})
    names = list(compared)
    wall, cpu, peak = ({name: list[float]() for name in names} for _ in range(3))
    for i in range(-1, rounds):  # round -1 compiles every module, as the image has them
        for name in names[i % len(names) :] + names[: i % len(names)]:
            started = time.monotonic()
            figures = cases.ask(
                "cold",
                compared[name].module,
                events,
                case=compared[name],
                model_dir=compared[name].model_dir or model_dir,
                threads=manifest.execution.intra_op_threads,
                cgroup=cgroup,
            ).split()
            if i >= 0:
                wall[name].append(float(figures[0]) - started)
                cpu[name].append(float(figures[1]))
                peak[name].append(float(figures[2]))
    return wall, cpu, peak
