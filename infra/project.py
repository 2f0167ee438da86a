"""The project: the current folder, with its packed models in model_artifacts/."""

from pathlib import Path

from handler import manifest
from handler.errors import ArtifactError
from handler.manifest import FILE_NAME

ARTIFACTS = Path("model_artifacts")
SOURCE = Path(__file__).parent.parent  # the checkout, or what the wheel carries of it


def model_names(artifacts: Path = ARTIFACTS) -> list[str]:
    """Return the names of the packed models, sorted."""
    return sorted(path.parent.name for path in artifacts.glob(f"*/{FILE_NAME}"))


def find_model(name: str = "", artifacts: Path = ARTIFACTS) -> Path:
    """Return the folder of the model `name`, or of the only model where `name` is empty.

    NAME@VERSION is a version that `answerable pack` has replaced. A name with a slash, or of no
    model, is the path of a folder. Raise ArtifactError where there is no such model, or several and
    no name; the message lists the names.
    """
    names = model_names(artifacts)
    if "/" in name or (name and name not in names and Path(name, FILE_NAME).is_file()):
        return Path(name)
    name, _, version = name.partition("@")
    if version:
        return _previous(artifacts / name, version)
    if name in names or (not name and len(names) == 1):
        return artifacts / (name or names[0])
    if not names:
        raise ArtifactError(f"no model is packed in {artifacts}/")
    problem = f"no model is named {name}" if name else "name one of several models"
    raise ArtifactError(f"{problem}: {', '.join(names)}")


def previous_dir(directory: Path, version: str) -> Path:
    """Return where `answerable pack` keeps a version that it replaces in `directory`."""
    return directory.parent / ".previous" / directory.name / version


def _previous(directory: Path, version: str) -> Path:
    if (directory / FILE_NAME).is_file() and manifest.read(directory).version == version:
        return directory
    kept = previous_dir(directory, version)
    if kept.is_dir():
        return kept
    versions = sorted(path.name for path in kept.parent.glob("*"))
    listed = ", ".join(versions) or "none is kept"
    raise ArtifactError(f"{directory.name} {version} is not kept here: {listed}")
