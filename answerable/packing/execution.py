"""Run a graph on a sample: detect its batch mode, and choose the number of threads."""

import os
import statistics
import threading
import timeit
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort

from answerable.packing.errors import PackError
from answerable.packing.graph import reason
from answerable.packing.table import Array
from handler.errors import ApiError
from handler.manifest import Manifest, Tensor
from handler.session import Session

Batch = Literal["dynamic", "single", "none"]
Samples = dict[str, Array]  # per graph input, the instances as leading axis
Run = Callable[[Samples], Sequence[Any]]

CHUNK = 1000  # rows per run
PROBED_ROWS = 5  # of the sample, run alone and together
MEASURED_ROWS = 100  # rows of a large request, to measure with
MAX_THREADS = 6  # a function has no more vCPUs
ROUNDS, ROUND_SECONDS = 7, 0.02
MIN_NOTICEABLE_SECONDS = 0.001  # seconds a run


def runner(session: Any, max_seconds: float | None = None) -> Run:
    """Return the session's run. It raises PackError for failures, and after `max_seconds`."""

    def run(feeds: Samples) -> Sequence[Any]:
        options = ort.RunOptions()
        timer = threading.Timer(max_seconds or 0, setattr, (options, "terminate", True))
        if max_seconds is not None:
            timer.start()
        try:
            outputs = session.run(None, feeds, options)
        except Exception as error:
            raise PackError(f"the model fails on the sample: {reason(error)}") from None
        finally:
            timer.cancel()
        return [tensor for output in outputs for tensor in _tensors(output)]

    return run


def _tensors(output: Any) -> Sequence[Any]:
    """Return the tensors of a sequence; any other output, ZipMap's maps too, alone."""
    is_sequence = isinstance(output, list) and output and isinstance(output[0], np.ndarray)
    return output if is_sequence else [output]


def n_rows(samples: Samples) -> int:
    """Return the number of instances."""
    return len(next(iter(samples.values())))


def slice_rows(samples: Samples, start: int, stop: int) -> Samples:
    """Return the instances from start to stop."""
    return {name: array[start:stop] for name, array in samples.items()}


def run_sample(run: Run, samples: Samples, batch: Batch) -> list[Array]:
    """Return the graph's outputs for all instances, those as the leading axis of each array."""
    step = CHUNK if batch == "dynamic" else 1
    results = []
    for start in range(0, n_rows(samples), step):
        feeds = slice_rows(samples, start, start + step)
        if batch == "none":
            outputs = run({name: array[0, ...] for name, array in feeds.items()})
            results.append([np.asarray(output)[None] for output in outputs])
        else:
            results.append([np.asarray(output) for output in run(feeds)])
    try:
        return [np.concatenate(arrays) for arrays in zip(*results, strict=True)]
    except ValueError:
        raise PackError("the model answers instances of one shape with different shapes") from None


def declared(inputs: Sequence[Tensor]) -> Batch:
    """Return what the shapes of the graph's inputs say about their leading axes."""
    leading = {tensor.shape[0] if tensor.shape else 0 for tensor in inputs}
    return "dynamic" if leading == {None} else "single" if leading == {1} else "none"


def batch(run: Run, kind: Batch, samples: Samples, quantised: bool = False) -> Batch:
    """Return the batch mode of the sample's runs. `kind` is the one that the graph declares.

    A free leading axis is the rows only if rows that run together are answered as they are alone.
    Dynamically `quantised` graphs scale by the largest value of a run, so their rows run alone.
    """
    if kind == "none":
        return kind
    last = n_rows(samples) - 1  # of few rows, some run twice
    numbers = [i * last // (PROBED_ROWS - 1) for i in range(PROBED_ROWS)]
    rows = {name: array[numbers] for name, array in samples.items()}
    try:
        alone = [run(slice_rows(rows, i, i + 1)) for i in range(len(numbers))]
    except PackError:
        run(rows)
        return "none"
    if any(np.shape(output)[:1] != (1,) for outputs in alone for output in outputs):
        return "none"
    if kind == "single":
        return kind
    try:
        together = run(rows)
    except PackError:
        return "single"
    if all(
        np.shape(output)[:1] == (len(numbers),)
        and all(_close(output[i : i + 1], outputs[k]) for i, outputs in enumerate(alone))
        for k, output in enumerate(together)
    ):
        return "dynamic"
    return "single" if quantised else "none"


def check_repeatable(run: Run, samples: Samples, batch: Batch) -> None:
    """Raise PackError if the model answers one instance differently each time."""
    first, second = (run_sample(run, slice_rows(samples, 0, 1), batch) for _ in range(2))
    if not all(_close(one, other) for one, other in zip(first, second, strict=True)):
        raise PackError(
            "the model answers one instance differently each time: export it without random "
            "operators, such as dropout in training mode, or with their seed"
        )


def _close(one: Array, other: Array) -> bool:
    if one.shape != other.shape or one.dtype.kind != "f":
        return np.array_equal(one, other)
    tolerance = 1e-2 if one.dtype == np.float16 else 1e-4
    return np.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)


def threads(directory: Path, manifest: Manifest, samples: Samples) -> dict[int, list[float]]:
    """Return seconds per run by number of threads, at 1 row and, if rows are stacked, at up to 100.

    All settings run in turn, so that a noisy moment slows all of them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    models = {
        number: Session(
            directory,
            manifest._replace(
                execution=manifest.execution._replace(intra_op_threads=number, batch="dynamic")
            ),
        )
        for number in range(1, min(cores or 1, MAX_THREADS) + 1)
    }
    bodies = [slice_rows(samples, 0, 1)]
    if manifest.execution.batch == "dynamic":
        bodies.append(slice_rows(samples, 0, min(MEASURED_ROWS, manifest.limits.rows)))
    elif manifest.execution.batch == "none":
        bodies = [{name: array[0, ...] for name, array in samples.items()}]
    try:
        return _measure(models, bodies)
    except ApiError as error:
        raise PackError(f"the model fails on the sample: {error}") from None


def _measure(models: dict[int, Session], bodies: list[Samples]) -> dict[int, list[float]]:
    medians: dict[int, list[float]] = {number: [] for number in models}
    for body in bodies:
        timers = {n: timeit.Timer(partial(model.run, body)) for n, model in models.items()}
        first = [timer.timeit(2) for timer in timers.values()]
        loops = max(1, int(2 * ROUND_SECONDS / first[0]))
        rounds = [[t.timeit(loops) / loops for t in timers.values()] for _ in range(ROUNDS)]
        for number, times in zip(timers, zip(*rounds, strict=True), strict=True):
            medians[number].append(statistics.median(times))
    return medians


def choose_threads(times: dict[int, list[float]]) -> int:
    """Return the number of threads: one, unless more are clearly faster.

    Faster at one row; or much faster at many rows, and no slower at one. The time that they save
    must be noticeable, because a second thread is a second vCPU, which costs money.
    """
    one, many, good = times[1][0], times[1][-1], []
    for number, measured in times.items():
        first, last = measured[0], measured[-1]
        faster = first <= 0.8 * one or (first <= 1.1 * one and last <= 0.6 * many)
        if faster and max(one - first, many - last) >= MIN_NOTICEABLE_SECONDS:
            good.append(number)
    # of those that are about equal, the lowest
    return min(
        good, key=lambda n: (round(times[n][0] * times[n][-1] / (one * many), 1), n), default=1
    )
