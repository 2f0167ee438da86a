"""The ONNX session: files verified by their hash, opened as they were packed, run to a deadline."""

import math
import mmap
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handler.errors import ArtifactError, DeadlineExceeded, ServerError
from handler.manifest import Manifest
from handler.model_inputs import Array


class _BackgroundHash:
    """SHA-256 of every file of an artifact, computed in a thread while this one opens the session.

    Hashing lets go of the GIL, so 47 MB of weights take 35 ms of another core. All that needs the
    GIL is done first: the thread would wait for it until onnxruntime is imported.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        from hashlib import sha256

        self._maps: dict[str, mmap.mmap] = {}
        for name, expected in manifest.files.items():
            try:
                with open(directory / name, "rb") as file:
                    if file.seek(0, 2) != expected.bytes:
                        raise ArtifactError(f"{name}: its size is not the manifest's")
                    self._maps[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise ArtifactError(f"{name}: cannot be read ({type(error).__name__})") from None
        self._expected = {name: file.sha256 for name, file in manifest.files.items()}
        self._found: dict[str, str] = {}

        def digest() -> None:
            for name, content in self._maps.items():
                self._found[name] = sha256(content).hexdigest()

        self._thread = threading.Thread(target=digest)
        self._thread.start()

    def check(self) -> None:
        """Raises ArtifactError unless every file's digest is the manifest's."""
        self._thread.join()
        for name, content in self._maps.items():
            content.close()
            if self._found.get(name) != self._expected[name]:
                raise ArtifactError(f"{name}: its SHA-256 is not the manifest's")


class Session:
    """One session. `run` is for one caller at a time, as a Lambda environment has it."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        digests = _BackgroundHash(directory, manifest)
        try:
            session = _open(directory / "model.onnx", manifest)
        finally:
            digests.check()  # what it says goes before what onnxruntime says of a damaged file
        self._session = session
        self._names = [output.tensor for output in manifest.outputs]
        self._whole = manifest.execution.batch == "none"
        self._watchdog = _Watchdog()

    def run(self, feeds: Mapping[str, Array], deadline: float | None = None) -> Sequence[Array]:
        """The outputs in the manifest's order, with the rows as their leading axis.

        `deadline` is on time.monotonic()'s clock. Raises DeadlineExceeded when the run had to be
        stopped there, Fault when the model failed.
        """
        options = self._watchdog.arm(deadline)
        try:
            outputs: list[Array] = self._session.run(self._names, feeds, options)
        except Exception as error:
            if options is not None and options.terminate:
                raise DeadlineExceeded("the run was stopped at the function's deadline") from None
            raise ServerError(f"the model failed ({type(error).__name__})") from None
        finally:
            self._watchdog.disarm()
        return [output[None] for output in outputs] if self._whole else outputs


def _open(path: Path, manifest: Manifest) -> Any:
    import onnxruntime as ort  # here, so that the digests are made meanwhile

    options = ort.SessionOptions()
    # optimised when it was packed: again would be slower and might differ
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = manifest.execution.intra_op_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what it says of a failed run quotes values, such as an index
    # spinning threads burn 10 ms of CPU after each call, in an environment that is about to freeze
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(f"{path.name}: cannot be opened ({type(error).__name__})") from None


class _Watchdog:
    """Stops a run at its deadline.

    A timer thread per request would cost more than a small model's run, so there is one for all.
    It sleeps until the deadline it saw last, however many runs end meanwhile: since deadlines move
    on, a request has to wake it only when it is parked.
    """

    def __init__(self) -> None:
        self._armed: tuple[float, Any] | None = None
        self._until = math.inf
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def arm(self, deadline: float | None) -> Any:
        """RunOptions that will be terminated at the deadline, None without one."""
        if deadline is None:
            return None
        import onnxruntime as ort

        options = ort.RunOptions()
        if deadline <= time.monotonic():
            options.terminate = True
            return options
        self._armed = (deadline, options)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        elif deadline < self._until:
            self._wake.set()
        return options

    def disarm(self) -> None:
        self._armed = None

    def _watch(self) -> None:
        stopped = None
        while True:
            self._until = math.inf  # before the look, so that nobody who arms after it is missed
            armed = self._armed
            timeout = None
            if armed is not None and armed is not stopped:
                self._until = armed[0]
                timeout = max(0.0, armed[0] - time.monotonic())
            woken = self._wake.wait(timeout)
            self._wake.clear()
            if not woken and self._armed is armed and armed is not None:
                armed[1].terminate = True
                stopped = armed
