"""SHA-256 and BLAKE2s, for small inputs without OpenSSL: its start takes 2 ms and 3 MB.

hashlib has these too, for a build of Python without OpenSSL. Python 3.11 has no `_sha2`.
"""

import os
from pathlib import Path
from typing import IO

try:
    from _blake2 import blake2s

    from _sha2 import sha256  # type: ignore[import-not-found]
except ImportError:
    from hashlib import blake2s, sha256

__all__ = ["blake2s", "file_sha256", "path_sha256", "sha256"]
OPENSSL_MIN_BYTES = 1_000_000  # OpenSSL is four times faster
BUFFER_BYTES = 1 << 18


def file_sha256(file: IO[bytes]) -> str:
    """Return the SHA-256 of an open file in hex. A mapped file would count as resident memory."""
    digest = sha256()
    if os.fstat(file.fileno()).st_size > OPENSSL_MIN_BYTES:
        import hashlib

        digest = hashlib.sha256()
    buffer = bytearray(BUFFER_BYTES)
    while size := file.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(memoryview(buffer)[:size])
    return str(digest.hexdigest())


def path_sha256(path: Path) -> str:
    """Return the SHA-256 of the file at a path, in hex."""
    with path.open("rb") as file:
        return file_sha256(file)
