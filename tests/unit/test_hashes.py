import hashlib
from pathlib import Path

import pytest

from handler import hashes


@pytest.mark.parametrize("size", [0, 1000, hashes.BUFFER_BYTES, hashes.OPENSSL_MIN_BYTES + 7])
def test_file_sha256_is_hashlib_s(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    path = tmp_path / "file"
    path.write_bytes(content[:size])
    with path.open("rb") as file:
        assert hashes.file_sha256(file) == hashlib.sha256(content[:size]).hexdigest()


def test_hashes_without_openssl_are_hashlib_s() -> None:
    assert hashes.sha256(b"text").digest() == hashlib.sha256(b"text").digest()
    digests = [
        function(b"text", key=b"key", person=b"purpose", digest_size=8).digest()
        for function in (hashes.blake2s, hashlib.blake2s)
    ]
    assert digests[0] == digests[1]
