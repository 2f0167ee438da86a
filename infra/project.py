"""The project: the current folder, with its packed models in model_artifacts/."""

from pathlib import Path

from handler.errors import ArtifactError
from handler.manifest import FILE_NAME

ARTIFACTS = Path("model_artifacts")


def model_names(artifacts: Path = ARTIFACTS) -> list[str]:
    """Return the names of the packed models, sorted."""
    return sorted(path.parent.name for path in artifacts.glob(f"*/{FILE_NAME}"))


def find_model(name: str = "", artifacts: Path = ARTIFACTS) -> Path:
    """Return the folder of the model `name`, or of the only model where `name` is empty.

    A name with a slash is the path of a folder. Raise ArtifactError where there is no such
    model, or several and no name; the message lists the names.
    """
    if "/" in name:
        return Path(name)
    names = model_names(artifacts)
    if name in names or (not name and len(names) == 1):
        return artifacts / (name or names[0])
    if not names:
        raise ArtifactError(f"no model is packed in {artifacts}/")
    problem = f"no model is named {name}" if name else "name one of several models"
    raise ArtifactError(f"{problem}: {', '.join(names)}")
