"""`answerable upgrade`: what the installed version changes in a project that pins another one."""

import argparse
import difflib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from answerable.commands import InputError
from answerable.project_files import KEPT, PIN, render
from handler import __version__, manifest
from handler.errors import ArtifactError
from infra.project import ARTIFACTS, model_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "Nothing is changed. Install the version to compare with first."


def main(args: argparse.Namespace) -> int:
    """Print the differences."""
    pinned = re.search(r"^answerable\S*==(\S+)", _text(Path(PIN)), re.M)
    if not pinned:
        raise InputError(f"{PIN} pins no version of answerable")
    print(f"{PIN} pins {pinned[1]}; {__version__} is installed.")
    if pinned[1] != __version__:
        print("The image gets a new handler: the next deployment of each model is a release.")
    changes = [*_settings(), *_models(), *_files()]
    print("\n".join(changes or ["Nothing in this folder has to change."]))
    return 0


def _models() -> Iterator[str]:
    """Yield a line for each model that the installed version cannot read."""
    for name in model_names():
        try:
            manifest.read(ARTIFACTS / name)
        except ArtifactError as error:
            yield f"{ARTIFACTS / name}: pack it again ({error})"


def _settings() -> Iterator[str]:
    """Yield a line for each setting of deploy.toml that the installed version does not take."""
    from infra import settings

    try:
        stages = settings.stages()
    except settings.SettingsError as error:
        yield str(error)
        return
    for stage, name in itertools.product(stages, model_names()):
        try:
            settings.read({"stage": stage, "model": name})
        except settings.SettingsError as error:
            yield f"deploy.toml, stage {stage}, model {name}: {error}"


def _files() -> Iterator[str]:
    """Yield the differences from the files that `answerable new` would write."""
    model = re.search(r"^  MODEL: (\S+)$", _text(Path(".github/workflows/release.yml")), re.M)
    for path, file in KEPT.items():
        lines = (_text(Path(path)), render(file, model[1] if model else "MODEL_NAME"))
        now, new = (text.splitlines() for text in lines)
        yield from difflib.unified_diff(now, new, path, f"{path} of {__version__}", lineterm="")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
