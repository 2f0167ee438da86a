"""The versions of the project's models: packed now, packed before, committed to git."""

import io
import subprocess
import tarfile
from pathlib import Path

from answerable.git import git
from handler.errors import ArtifactError
from infra.project import ARTIFACTS, find_model


def find_version(word: str, scratch: Path) -> Path:
    """Return the folder of the artifact that `word` names. Raise ArtifactError.

    `word`: as `find_model` takes it, or REV:NAME for the model NAME at a git revision, which is
    written to `scratch`.
    """
    revision, colon, name = word.partition(":")
    if not colon or Path(word).exists():
        return find_model(word)
    try:
        archived = git("archive", "--format=tar", f"{revision}:./{ARTIFACTS / name}")
    except subprocess.CalledProcessError as error:
        raise ArtifactError(f"{word}: {error.stderr.decode().strip()}") from None
    with tarfile.open(fileobj=io.BytesIO(archived)) as archive:
        archive.extractall(scratch, filter="data")
    return scratch
