"""The files of a user's project, as `answerable new` writes them."""

from pathlib import Path

from handler import __version__
from infra.project import SOURCE

TEMPLATE = Path(__file__).with_name("project_template")
PIN = "requirements.txt"
# files of the project by path; the user edits the second group
KEPT = {
    "cdk.json": SOURCE / "cdk.json",
    ".gitignore": TEMPLATE / "gitignore",
    ".github/workflows/release.yml": TEMPLATE / "release.yml",
}
EDITED = {name: TEMPLATE / name for name in (PIN, "deploy.toml", "README.md")}


def render(file: Path, model: str) -> str:
    """Return the text of a template's file for the project of `model`."""
    text = file.read_text(encoding="utf-8")
    return text.replace("MODEL_NAME", model).replace("ANSWERABLE_VERSION", __version__)
