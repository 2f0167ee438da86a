"""The format of a file, as its first bytes tell."""

from pathlib import Path

from answerable.packing.errors import PackError
from handler import csv_dialect

ZIP = csv_dialect.SIGNATURES[b"PK\x03\x04"]
SIGNATURES = csv_dialect.SIGNATURES | {
    b"\x08": "an ONNX model",
    b"\x80": "a pickle",
    b"\x89HDF": "HDF5, as Keras writes",
    b"version https://git-lfs": "a Git LFS pointer, whose file `git lfs pull` gets",
    b"<": "a web page or XML",
    b"{": "JSON",
}


def check(path: Path, expected: str, *formats: str) -> None:
    """Raise PackError if the file is empty or of another of the SIGNATURES than `formats`.

    `expected` names what the file must be.
    """
    with path.open("rb") as file:
        start = file.read(32)
    if not start:
        raise PackError(f"{path.name} is empty, not {expected}: write it again")
    name = next((name for first, name in SIGNATURES.items() if start.startswith(first)), "")
    if name and name not in formats:
        raise PackError(f"{path.name} is {name}, not {expected}: rename it, or write it again")
