"""`answerable new NAME`: make the project of a model, in a folder of its own."""

import argparse
import re
from pathlib import Path

from answerable.commands import InputError
from answerable.packing.pack import NAME
from answerable.project_files import EDITED, KEPT, render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="of the model, and of the folder")


def main(args: argparse.Namespace) -> int:
    """Write the project."""
    folder = Path(args.name)
    if not re.fullmatch(NAME, args.name):
        raise InputError("NAME takes lower-case letters, digits and hyphens, as in credit-risk")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}/ is there already; it is left alone")
    for path, file in (KEPT | EDITED).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(render(file, args.name), encoding="utf-8")
    (folder / "model_artifacts").mkdir()
    (folder / "model_artifacts/.gitkeep").touch()
    print(f"{folder}/ is the project of {args.name}. Next, in that folder:")
    print("  git init && python3 -m venv .venv && .venv/bin/pip install -r requirements.txt")
    print(f"  answerable pack model.onnx --reference data.csv --name {args.name} …")
    return 0
