"""`python -m tests.fuzz HARNESS [libFuzzer's options]`: look for inputs, from the kept ones on.

Each keeps what it finds in build/fuzz/HARNESS/; `--pack` makes the file that is kept of it.
"""

import importlib
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import handler

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path("build/fuzz")
HANDLER = handler.__path__[0]
# entry points, which load a model, and modules of images with more packages
NOT = {
    *("handler.function", "handler.jobs.function", "handler.batch.function"),
    *("handler.batch.parquet", "handler.encoders.image", "handler.encoders.text"),
}
BYTES = 120_000  # of a packed file, so that all of them are under a megabyte


def fuzz(name: str, options: list[str]) -> None:
    """Run until an input breaks a promise, or libFuzzer's options say stop."""
    import atheris

    with atheris.instrument_imports(include=["handler"]):
        from tests.fuzz import harnesses

        for _, module, _ in pkgutil.walk_packages(handler.__path__, "handler."):
            if module not in NOT:  # what is imported at the first use would not be instrumented
                importlib.import_module(module)
    folder = FOUND / name
    folder.mkdir(parents=True, exist_ok=True)
    kept = CORPUS / f"{name}.bin"
    for i, data in enumerate(harnesses.unpack(kept.read_bytes()) if kept.exists() else []):
        (folder / f"kept-{i}").write_bytes(data)
    harnesses.handler()
    command = [sys.argv[0], str(folder), f"-artifact_prefix={FOUND}/{name}-", *options]
    atheris.Setup(command, harnesses.HARNESSES[name])
    atheris.Fuzz()


def pack(name: str) -> None:
    """Keep of build/fuzz/HARNESS/ what goes a way through handler/ that no smaller input goes."""
    from tests.fuzz import harnesses

    found = {file.read_bytes() for file in (FOUND / name).iterdir()}
    harnesses.HARNESSES[name](b"")  # what is imported and made once is nobody's merit
    known: set[tuple[str, int, int]] = set()
    inputs: list[bytes] = []
    for data in sorted(found, key=lambda data: (len(data), data)):
        ways = _ways(harnesses.HARNESSES[name], data)
        if ways - known and len(harnesses.pack([*inputs, data])) <= BYTES:
            known |= ways
            inputs.append(data)
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{name}.bin").write_bytes(harnesses.pack(inputs))
    print(f"{name}: {len(inputs)} of {len(found)} inputs")


def _ways(harness: Callable[[bytes], None], data: bytes) -> set[tuple[str, int, int]]:
    """The steps from line to line that an input takes in handler/."""
    taken: set[tuple[str, int, int]] = set()

    def call(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(HANDLER):
            return None
        last = 0

        def line(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal last
            taken.add((frame.f_code.co_filename, last, frame.f_lineno))
            last = frame.f_lineno
            return line

        return line

    sys.settrace(call)
    try:
        harness(data)
    finally:
        sys.settrace(None)
    return taken


if __name__ == "__main__":
    if sys.argv[2:] == ["--pack"]:
        pack(sys.argv[1])
    else:
        fuzz(sys.argv[1], sys.argv[2:])
