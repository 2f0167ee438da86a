"""The ONNX session: verify the artifact's files, open the graph, run it until a deadline."""

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

from handler import hashes
from handler.errors import ArtifactError, DeadlineExceeded, ServerError
from handler.manifest import DIGEST_FILE_NAME, FILE_NAME, MODEL_FILE_NAME, Manifest, open_regular
from handler.model_inputs import Array

# a shorter run is repeated without a thread, because starting one takes 0.1 ms
QUICK_SECONDS = 0.1
MAX_QUICK_SHAPES = 1000
# how long a run may take to stop after its deadline
STOP_SECONDS = 0.05
_shape = attrgetter("shape")


def _hash_in_background(directory: Path, manifest: Manifest) -> Callable[[], None]:
    """Start to hash the artifact's files in a thread. Return the function that verifies the hashes.

    Hashing releases the GIL while the main thread imports onnxruntime: 47 MB take 27 ms of another
    core. The files are opened here, because the thread would wait for the GIL until then.
    """
    actual: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for name, expected in manifest.files.items():
            if os.path.basename(name) != name:
                raise ArtifactError(f"{name}: is not a file of the artifact")
            try:
                files[name] = stack.enter_context(open_regular(directory / name))
            except OSError as error:
                reason = type(error).__name__
                raise ArtifactError(f"{name}: cannot be read ({reason})") from None
            if os.fstat(files[name].fileno()).st_size != expected.bytes:
                raise ArtifactError(f"{name}: its size differs from the manifest")
        open_files = stack.pop_all()

    def hash_files() -> None:
        with open_files, contextlib.suppress(OSError):  # a file without a hash differs
            for name, file in files.items():
                actual[name] = hashes.file_sha256(file)

    def verify() -> None:
        thread.join()
        for name, expected in manifest.files.items():
            if actual.get(name) != expected.sha256:
                raise ArtifactError(f"{name}: its SHA-256 differs from the manifest")

    thread = threading.Thread(target=hash_files)
    thread.start()
    return verify


class Session:
    """An ONNX session. It runs one call at a time, as a Lambda environment does."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        verify_hashes = _hash_in_background(directory, manifest)
        try:
            if manifest.execution.external_data:
                # onnxruntime loads what the graph's `location` entries name inside the directory
                packed = {FILE_NAME, DIGEST_FILE_NAME, *manifest.files}
                for name in sorted(set(os.listdir(directory)) - packed):
                    raise ArtifactError(f"{name}: is not in the manifest")
            session = _open(directory / MODEL_FILE_NAME, manifest)
        finally:
            verify_hashes()  # a damaged file's hash, rather than onnxruntime's error
        self._session = session
        self._output_names = [output.tensor for output in manifest.outputs]
        self._unbatched = manifest.execution.batch == "none"
        self._may_be_quick = not manifest.execution.value_dependent_shapes
        self._watchdog = _Watchdog()
        self._has_features = bool(manifest.features)
        self._quick_shapes: set[tuple[Any, ...]] = set()
        self._unfinished: threading.Thread | None = None

    def run(self, feeds: Mapping[str, Array], deadline: float | None = None) -> Sequence[Array]:
        """Return the outputs in the manifest's order, each of shape [rows, …].

        `deadline` is on time.monotonic()'s clock. Raise DeadlineExceeded at the deadline,
        ServerError if the model failed.
        """
        if self._has_features:  # all inputs have the same rows
            shapes = next(iter(feeds.values())).shape
        else:
            shapes = tuple(map(_shape, feeds.values()))
        is_quick = shapes in self._quick_shapes
        start = time.monotonic()
        options = self._watchdog.start(deadline)
        try:
            if is_quick or deadline is None:
                outputs = self._session.run(self._output_names, feeds, options)
            else:
                outputs = self._run_in_thread(feeds, options, deadline)
        except DeadlineExceeded:
            raise
        except Exception as error:
            if options is not None and options.terminate:
                raise _deadline_exceeded() from None
            raise ServerError(f"the model failed ({type(error).__name__})") from None
        finally:
            self._watchdog.stop()
        is_short = time.monotonic() - start < QUICK_SECONDS  # too short to miss a deadline by much
        if not is_quick and is_short and self._may_be_quick:
            if len(self._quick_shapes) >= MAX_QUICK_SHAPES:
                self._quick_shapes.clear()
            self._quick_shapes.add(shapes)
        return [output[None] for output in outputs] if self._unbatched else outputs

    def _run_in_thread(self, feeds: Mapping[str, Array], options: Any, deadline: float) -> Any:
        """Run the model in a thread. Raise DeadlineExceeded at the deadline, even if it runs on.

        onnxruntime stops a run only between two operators. A thread that is left in an operator
        ends after it: Lambda freezes it with the environment and resumes it with the next call.
        That call waits for it, unless its own run is known to be quick.
        """
        if self._unfinished is not None:
            self._unfinished.join(max(0.0, deadline - time.monotonic()))
            if self._unfinished.is_alive():
                raise _deadline_exceeded()
            self._unfinished = None
        results: list[Any] = []

        def run() -> None:
            try:
                results.append(self._session.run(self._output_names, feeds, options))
            except Exception as error:
                results.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(max(0.0, deadline - time.monotonic()) + STOP_SECONDS)
        if thread.is_alive():
            self._unfinished = thread
            raise _deadline_exceeded()
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0]


def _deadline_exceeded() -> DeadlineExceeded:
    return DeadlineExceeded("the run was stopped at the function's deadline")


def _open(path: Path, manifest: Manifest) -> Any:
    import onnxruntime as ort  # here, while the files are hashed

    options = ort.SessionOptions()
    # the packed graph is optimised: optimising again is slow and may change results
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = manifest.execution.intra_op_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # messages of a failed run quote values
    # spinning threads use 10 ms of CPU after each call, when the environment is about to freeze
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        if manifest.uses_extensions:
            from handler.encoders import extensions

            extensions.register(options)
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(f"{path.name}: cannot be opened ({type(error).__name__})") from None


class _Watchdog:
    """Terminate a run at its deadline.

    One thread serves all runs: a timer per run would cost more than a small model's run. It sleeps
    until the last deadline that it saw. Deadlines increase, so a run has to wake it only if it
    sleeps without one.
    """

    def __init__(self) -> None:
        self._current: tuple[float, Any] | None = None  # deadline and RunOptions
        self._sleeps_until = math.inf
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, deadline: float | None) -> Any:
        """Return RunOptions that are terminated at the deadline, None without a deadline."""
        if deadline is None:
            return None
        import onnxruntime as ort

        options = ort.RunOptions()
        if deadline <= time.monotonic():
            options.terminate = True
            return options
        self._current = (deadline, options)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        elif deadline < self._sleeps_until:
            self._wake.set()
        return options

    def stop(self) -> None:
        """Forget the current run."""
        self._current = None

    def _watch(self) -> None:
        terminated = None
        while True:
            self._sleeps_until = math.inf  # before `_current` is read: a later start then wakes
            current = self._current
            timeout = None
            if current is not None and current is not terminated:
                self._sleeps_until = current[0]
                timeout = max(0.0, current[0] - time.monotonic())
            woken = self._wake.wait(timeout)
            self._wake.clear()
            if not woken and self._current is current and current is not None:
                current[1].terminate = True
                terminated = current
