"""The commands of `answerable`, one module each."""

import argparse
from collections.abc import Callable
from typing import Any

# The errors that end a command with one line, and its exit code: 2 if the input is wrong, 1 if a
# service refuses. By name, so that a command does not import what it does not need.
EXIT_CODES = {
    "ArtifactError": 2,
    "BatchError": 1,
    "InputError": 2,
    "PackError": 2,
    "SettingsError": 2,
    "ReleaseError": 1,
    "BotoCoreError": 1,
    "ClientError": 1,
    "ApiError": 1,
    "URLError": 1,
    "OSError": 2,
}


class InputError(Exception):
    """An argument or a file that a command cannot use, as one line."""


def run(name: str, main: Callable[..., int], *args: Any, **more: Any) -> int:
    """Return the exit code of a command's `main`; print an expected error as one line."""
    try:
        return main(*args, **more)
    except Exception as error:
        classes = (cls.__name__ for cls in type(error).__mro__)
        code = next((EXIT_CODES[cls] for cls in classes if cls in EXIT_CODES), None)
        if code is None:
            raise
        text = str(error).strip()
        if isinstance(error, OSError) and error.filename:
            text = f"{error.filename}: {error.strerror}"
        warn(f"{name}: {text}", "red")
        return code


def warn(text: str, style: str = "yellow") -> None:
    """Print a line to stderr."""
    from rich.console import Console

    from answerable.terminal import plain

    Console(stderr=True, soft_wrap=True, highlight=False).print(plain(text, style))


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add `--model`, for `infra.project.find_model`."""
    parser.add_argument(
        "--model",
        default="",
        metavar="NAME",
        help="a model of model_artifacts/, or its folder's path (default: the only one)",
    )
