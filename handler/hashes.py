"""SHA-256 and BLAKE2s without OpenSSL, whose start costs a cold start 2 ms and 3 MB.

hashlib has these too, for a build of Python without OpenSSL. Python 3.11 has no `_sha2`.
"""

try:
    from _blake2 import blake2s

    from _sha2 import sha256  # type: ignore[import-not-found]
except ImportError:
    from hashlib import blake2s, sha256

__all__ = ["blake2s", "sha256"]
