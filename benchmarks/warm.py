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
    return compare(cases.CASES, events, calls, model_dir, starts, rounds)


def compare(
    compared: dict[str, cases.Case],
    events: str,
    calls: int,
    model_dir: Path,
    starts: int,
    rounds: int,
) -> tuple[Rounds, dict[str, Values]]:
    """Let cases take turns of so many `calls`."""
    names, seconds = list(compared), {name: list[float]() for name in compared}
    values: dict[str, Values] = {}
    threads = manifests.read(model_dir).execution.intra_op_threads
    for _ in range(starts):
        with ExitStack() as stack:
            workers = {
                name: _start(case.module, events, threads, model_dir, stack)
                for name, case in compared.items()
            }
            for i in range(-1, rounds):  # round -1 warms up
                for name in names[i % len(names) :] + names[: i % len(names)]:
                    found = workers[name].turn(calls)
                    values[name] = found["values"]
                    if i >= 0:
                        seconds[name].append(found["seconds"])
    return seconds, values


def _start(module: str, events: str, threads: int, model_dir: Path, stack: ExitStack) -> Worker:
    read, write = os.pipe()
    arguments = "warm", module, events
    child = cases.start(write, *arguments, model_dir=model_dir, threads=threads)
    os.close(write)
    stack.enter_context(child)  # which closes its stdin, so it ends, and waits
    return Worker(child.stdin, stack.enter_context(open(read)))
