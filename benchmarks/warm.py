"""Warm latency: gateway event in, proxy response out.

Each case has a process of its own, as in Lambda, so none runs on another's heap. The cases take
turns of some dozen milliseconds, so that all see the same machine. They are started again several
times, because a process's place in memory makes it some percent faster or slower. The events
differ from each other: on one that repeats, the processor learns every branch of the trees and runs
them 2.7 times faster.

*Hot* calls follow each other at once. *Paced* calls are apart, and the caches are cold, as on
Lambda.
"""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import cases
from benchmarks.results import Rounds
from handler import manifest as manifests


class Turn(NamedTuple):
    """`calls` of `rows` each, `pause` seconds apart."""

    rows: int
    calls: int
    pause: float = 0.0


PAUSE = 0.022  # longer than a period of the quota
TURNS = {
    "hot 1": Turn(1, 320),
    "hot 100": Turn(100, 64),
    "hot 1000": Turn(1000, 12),
    "paced 1": Turn(1, 6, PAUSE),
    "paced quota 1000": Turn(1000, 4, PAUSE),
}
EVENTS = {1: 160, 10: 32, 100: 16, 1000: 4}  # different ones, by rows
Values = list[float]


class Worker(NamedTuple):
    """A running case: turns go in, figures come out."""

    stdin: Any
    figures: Any

    def run(self, turn: Turn) -> dict[str, Any]:
        """Return `wall` and `cpu`: the median call's seconds; `values`: the last predictions."""
        self.stdin.write(b"%d %d %f\n" % turn)
        self.stdin.flush()
        figures: dict[str, Any] = json.loads(self.figures.readline() or "{}")
        return figures


def measure(
    compared: dict[str, cases.Case],
    turns: dict[str, Turn],
    events: str,
    model_dir: Path,
    starts: int,
    rounds: int,
    cgroup: Path | None = None,
) -> tuple[dict[str, Rounds], dict[str, dict[str, Values]]]:
    """Return by turn each case's seconds per round, and what it predicted.

    `rounds` are of each start. Beside the figure `name` is its CPU time, `name cpu`.
    """
    names = list(compared)
    figures: dict[str, Rounds] = {
        name + kind: {case: [] for case in names} for name in turns for kind in ("", " cpu")
    }
    values: dict[str, dict[str, Values]] = {name: {} for name in turns}
    threads = manifests.read(model_dir).execution.intra_op_threads
    for _ in range(starts):
        with ExitStack() as stack:
            workers = {
                name: _start(case, events, threads, model_dir, cgroup, stack)
                for name, case in compared.items()
            }
            for i in range(-1, rounds):  # round -1 warms up
                for turn_name, turn in turns.items():
                    for name in names[i % len(names) :] + names[: i % len(names)]:
                        result = workers[name].run(turn)
                        values[turn_name][name] = result["values"]
                        if i >= 0:
                            figures[turn_name][name].append(result["wall"])
                            figures[f"{turn_name} cpu"][name].append(result["cpu"])
    return figures, values


def _start(
    case: cases.Case,
    events: str,
    threads: int,
    model_dir: Path,
    cgroup: Path | None,
    stack: ExitStack,
) -> Worker:
    read, write = os.pipe()
    child = cases.start(
        write,
        "serve",
        case.module,
        events,
        case=case,
        model_dir=case.model_dir or model_dir,
        threads=threads,
        cgroup=cgroup,
    )
    os.close(write)
    stack.enter_context(child)  # which closes its stdin, so it ends, and waits
    return Worker(child.stdin, stack.enter_context(open(read)))
