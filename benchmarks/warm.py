"""Warm latency: gateway event in, proxy response out, 1, 100 and 1000 rows.

Each case has a process of its own, as in Lambda, so none runs on another's heap; they take turns
of some dozen milliseconds, so that all see the same machine, and are started anew now and then,
since where a process happens to lie in memory makes it some percent faster or slower. The events
differ from each other: on one that repeats, the processor learns every branch of the trees and runs
them 2.7 times faster.
"""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import cases
from benchmarks.results import Rounds
from handler import manifest as manifests
from handler.manifest import Manifest

# calls in a turn, and different events, by rows
CALLS = {1: 320, 100: 64, 1000: 12}
EVENTS = {1: 160, 100: 16, 1000: 4}
Values = list[float]


class Worker(NamedTuple):
    """A running case: numbers of calls go in, findings come out."""

    questions: Any
    answers: Any

    def turn(self, calls: int) -> dict[str, Any]:
        """`seconds`: the median call; `values`: what the last one predicted."""
        self.questions.write(b"%d\n" % calls)
        self.questions.flush()
        found: dict[str, Any] = json.loads(self.answers.readline() or "{}")
        return found


def measure(
    model_dir: Path, scratch: Path, count: int, starts: int, rounds: int, quick: bool = False
) -> tuple[Rounds, dict[str, Values]]:
    """Per case the median seconds of each round for `count` rows, and what was predicted.

    `rounds` are of each start.
    """
    manifest = manifests.read(model_dir)
    events = cases.write_events(scratch / f"warm{count}", manifest, count, EVENTS[count])
    calls = 3 if quick else CALLS[count]
    names, seconds = list(cases.CASES), {name: list[float]() for name in cases.CASES}
    values: dict[str, Values] = {}
    for _ in range(starts):
        with ExitStack() as stack:
            workers = {name: _start(name, events, manifest, model_dir, stack) for name in names}
            for i in range(-1, rounds):  # round -1 warms up
                for name in names[i % len(names) :] + names[: i % len(names)]:
                    found = workers[name].turn(calls)
                    values[name] = found["values"]
                    if i >= 0:
                        seconds[name].append(found["seconds"])
    return seconds, values


def _start(name: str, events: str, manifest: Manifest, model_dir: Path, stack: ExitStack) -> Worker:
    read, write = os.pipe()
    arguments = "warm", cases.CASES[name].module, events
    threads = manifest.execution.intra_op_threads
    child = cases.start(write, *arguments, model_dir=model_dir, threads=threads)
    os.close(write)
    stack.enter_context(child)  # which closes its stdin, so it ends, and waits
    return Worker(child.stdin, stack.enter_context(open(read)))
