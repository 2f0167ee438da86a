"""Check a version against the one that is packed already, or committed, under its number."""

from pathlib import Path

from answerable.git import ERRORS, git
from answerable.packing.errors import PackError
from handler import manifest as manifests
from handler.errors import ArtifactError
from handler.manifest import FILE_NAME, Manifest
from handler.release.compatibility import semver_violations


def check(target: Path, new: Manifest, replace: bool) -> None:
    """Raise PackError, with the reasons and the least right version, if `new` may not follow.

    A version that is replaced is work in progress; what it follows is then the committed one.
    """
    try:
        old = manifests.read(target) if (target / FILE_NAME).exists() else None
        if old and replace and old.version == new.version:
            old = committed(target)
            old = None if old and old.version == new.version else old
        reasons = semver_violations(old, new) if old else []
    except (ArtifactError, ValueError) as error:
        raise PackError(
            f"{target}: what is there cannot be compared ({error}); move it away"
        ) from None
    if old and reasons:
        hint = " (--replace, if nobody has it yet)" if old.version == new.version else ""
        raise PackError(f"--version {new.version} cannot follow: {'; '.join(reasons)}{hint}")


def committed(directory: Path) -> Manifest | None:
    """Return the manifest at HEAD; None if there is none, or no repository."""
    try:
        return manifests.parse(git("show", f"HEAD:./{FILE_NAME}", cwd=directory))
    except ERRORS:
        return None
