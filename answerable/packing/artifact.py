"""An artifact's folder: written aside, then put into place at once, if its version may follow."""

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from answerable.git import ERRORS, git
from answerable.packing import openapi
from answerable.packing.errors import PackError
from handler import manifest as manifests
from handler.errors import ArtifactError
from handler.hashes import path_sha256
from handler.manifest import DIGEST_FILE_NAME, FILE_NAME, OPENAPI_FILE_NAME, File, Manifest
from handler.release.compatibility import semver_violations
from infra.project import previous_dir

WIDTH = 100


def files(directory: Path) -> dict[str, File]:
    """Return every file of the artifact except its manifest and the digest of that."""
    paths = sorted(
        path for path in directory.iterdir() if path.name not in (FILE_NAME, DIGEST_FILE_NAME)
    )
    return {path.name: File(path_sha256(path), path.stat().st_size) for path in paths}


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yield a new folder that becomes `target` when the block ends well; else nothing changes.

    An artifact of another version in `target` is kept, where `find_model("NAME@VERSION")` finds it.
    """
    if target.exists() and not (target / FILE_NAME).is_file() and any(target.iterdir()):
        raise PackError(f"{target} is there and is not an artifact; it is left alone")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # two levels below: no glob for */manifest.json finds it
        with tempfile.TemporaryDirectory(prefix=".packing-", dir=target.parent) as folder:
            fresh, old = Path(folder, target.name), Path(folder, "old")
            fresh.mkdir()
            yield fresh
            version = packed_version(target)
            if version and version != packed_version(fresh):
                old = previous_dir(target, version)
                old.parent.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(old, ignore_errors=True)
            if target.exists():
                target.rename(old)
            try:
                fresh.rename(target)
            except OSError:
                old.rename(target)
                raise
    except OSError as error:
        raise PackError(f"{target}: {error.strerror or error}") from None


def packed_version(directory: Path) -> str:
    """Return the version of the artifact in `directory`; "" if there is none."""
    try:
        return manifests.read(directory).version
    except ArtifactError:
        return ""


def write(directory: Path, manifest: Manifest) -> None:
    """Write the files that follow from the manifest."""
    for name, content in contents(manifests.to_plain(manifest), openapi.render(manifest)).items():
        (directory / name).write_bytes(content)


def contents(manifest: dict[str, Any], document: bytes) -> dict[str, bytes]:
    """Return openapi.json, manifest.json with the hash of that, and the digest of the manifest.

    The manifest is written as a human would: without defaults, short values on one line.
    """
    entry = {"sha256": hashlib.sha256(document).hexdigest(), "bytes": len(document)}
    manifest = {**manifest, "files": {**manifest["files"], OPENAPI_FILE_NAME: entry}}
    text = f"{_render(manifest, 0)}\n".encode()
    digest = f"{hashlib.sha256(text).hexdigest()}\n".encode()
    return {OPENAPI_FILE_NAME: document, FILE_NAME: text, DIGEST_FILE_NAME: digest}


def _render(value: Any, depth: int) -> str:
    flat = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not isinstance(value, (dict, list)) or not value:
        return flat
    short = depth > 1 and 2 * depth + len(flat) <= WIDTH
    if "{" not in flat[1:] and (short if isinstance(value, dict) else "[" not in flat[1:]):
        return flat
    inner, outer = "\n" + "  " * (depth + 1), "\n" + "  " * depth
    if isinstance(value, list):
        return f"[{inner}{f',{inner}'.join(_render(v, depth + 1) for v in value)}{outer}]"
    pairs = [
        f"{json.dumps(k, ensure_ascii=False)}: {_render(v, depth + 1)}" for k, v in value.items()
    ]
    return f"{{{inner}{f',{inner}'.join(pairs)}{outer}}}"


def check_version(target: Path, new: Manifest, replace: bool) -> None:
    """Raise PackError, with the reasons and the least right version, if `new` may not follow.

    A version that is replaced is work in progress; what it follows is then the committed one.
    """
    try:
        old = manifests.read(target) if (target / FILE_NAME).exists() else None
        if old and replace and old.version == new.version:
            old = _committed(target)
            old = None if old and old.version == new.version else old
        reasons = semver_violations(old, new) if old else []
    except (ArtifactError, ValueError) as error:
        raise PackError(
            f"{target}: what is there cannot be compared ({error}); move it away"
        ) from None
    if old and reasons:
        hint = " (--replace, if nobody has it yet)" if old.version == new.version else ""
        raise PackError(f"--version {new.version} cannot follow: {'; '.join(reasons)}{hint}")


def _committed(directory: Path) -> Manifest | None:
    """Return the manifest at HEAD; None if there is none, or no repository."""
    try:
        return manifests.parse(git("show", f"HEAD:./{FILE_NAME}", cwd=directory))
    except ERRORS:
        return None
