"""`python -m tests.fuzz HARNESS [libFuzzer's options]`: look for inputs, from the kept ones on.

Each keeps what it finds in build/fuzz/HARNESS/; `--pack` minimises that to the file that is kept.
"""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import handler

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path("build/fuzz")
NOT = {"handler.jobs", "handler.worker", "handler.release_gate"}  # need boto3, or the cloud
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
    atheris.Setup(
        [sys.argv[0], str(folder), f"-artifact_prefix={FOUND}/{name}-", *options],
        harnesses.HARNESSES[name],
    )
    atheris.Fuzz()


def pack(name: str) -> None:
    """Write the smallest inputs that together cover what all of build/fuzz/HARNESS/ does."""
    from tests.fuzz import harnesses

    small = FOUND / f"{name}.min"
    small.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "tests.fuzz", name, "-merge=1", str(small), str(FOUND / name)],
        check=True,
    )
    inputs = sorted((file.read_bytes() for file in small.iterdir()), key=lambda x: (len(x), x))
    while len(harnesses.pack(inputs)) > BYTES:
        inputs.pop()
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{name}.bin").write_bytes(harnesses.pack(inputs))
    print(f"{name}: {len(inputs)} inputs")


if __name__ == "__main__":
    if sys.argv[2:] == ["--pack"]:
        pack(sys.argv[1])
    else:
        fuzz(sys.argv[1], sys.argv[2:])
