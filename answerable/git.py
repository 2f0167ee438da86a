"""Run git."""

import subprocess
from pathlib import Path

ERRORS = (OSError, subprocess.CalledProcessError)  # no git, no repository, no such object


def git(*words: str, cwd: Path | None = None) -> bytes:
    """Return the output of a git command. Raise one of ERRORS."""
    command = ["git", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, check=True).stdout  # noqa: S603
