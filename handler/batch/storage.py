"""The files of a batch, in a folder or in a bucket: `connect` returns the one that a URI names.

Every write is conditional, so a part that is scored twice has one output. An input is read with
its ETag (in a folder: its size and time), so a file that changes ends the run.
"""

# ruff: noqa: D102  (Storage has the docstrings)

import hashlib
import io
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import orjson

from handler.batch import BatchError

THREADS = 16
BUFFER_BYTES = 1 << 20
READ_ATTEMPTS = 5
CHANGED = "the input changed after the run began; start another run"
_EXISTS = {"PreconditionFailed", "ConditionalRequestConflict"}
_ABSENT = {"NoSuchKey", "404", "NotFound"}


class Entry(NamedTuple):
    """An input file. `etag` changes with its content; `modified`: milliseconds since 1970."""

    uri: str
    size: int
    etag: str
    modified: int


class Storage(Protocol):
    """A folder or a prefix. Names are relative to it."""

    uri: str

    @property
    def spool(self) -> Path | None:
        """Return the folder for files before `put`, None for the system's."""

    def inputs(self) -> list[Entry]:
        """Return the file that the URI names, or the files below it, in the order of names."""

    def open(self, etag: str) -> BinaryIO:
        """Open the file that the URI names. Raise BatchError if it is another than `etag` says."""

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None if it is absent."""

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, sorted."""

    def put(self, name: str, path: Path) -> str:
        """Write a file unless it exists. Return the SHA-256 of the file that is there."""

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""


def connect(uri: str) -> Storage:
    """Return the storage that a URI or a path names."""
    if uri.startswith("s3://"):
        return Bucket(uri)
    return Folder(uri)


def put_json(storage: Storage, name: str, document: Any) -> None:
    """Write a JSON document unless the file exists."""
    put_bytes(storage, name, orjson.dumps(document, option=orjson.OPT_INDENT_2))


def put_bytes(storage: Storage, name: str, content: bytes) -> None:
    """Write a file unless it exists."""
    with tempfile.NamedTemporaryFile(dir=storage.spool) as file:
        file.write(content)
        file.flush()
        storage.put(name, Path(file.name))


def read_all(storage: Storage, names: list[str]) -> Iterator[bytes]:
    """Yield the contents of files, read side by side."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from (content for content in pool.map(storage.read, names) if content is not None)


def _is_hidden(name: str) -> bool:
    return any(step[:1] in ("_", ".") for step in name.split("/"))


class Folder:
    """Files on this machine."""

    def __init__(self, uri: str) -> None:
        self.uri, self._path = uri, Path(uri)

    @property
    def spool(self) -> Path | None:
        """See Storage. It is in the folder, because a hard link needs one file system."""
        path = self._path / ".tmp"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def inputs(self) -> list[Entry]:
        paths = [self._path]
        if self._path.is_dir():
            paths = [
                path
                for path in sorted(self._path.rglob("*"))
                if path.is_file() and not _is_hidden(str(path.relative_to(self._path)))
            ]
        try:
            return [_entry(path, path.stat()) for path in paths]
        except OSError as error:
            raise BatchError(f"{self._path}: {error.strerror}") from None

    def open(self, etag: str) -> BinaryIO:
        try:
            file = self._path.open("rb", buffering=BUFFER_BYTES)
        except OSError:
            raise BatchError(CHANGED) from None
        if _entry(self._path, os.fstat(file.fileno())).etag != etag:
            file.close()
            raise BatchError(CHANGED)
        return file

    def read(self, name: str) -> bytes | None:
        path = self._path / name
        return path.read_bytes() if path.exists() else None

    def names(self, folder: str) -> list[str]:
        return sorted(f"{folder}/{path.name}" for path in (self._path / folder).glob("[!.]*"))

    def put(self, name: str, path: Path) -> str:
        """See Storage. A hard link is made only where there is no file of the name."""
        target = self._path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except FileExistsError:
            path = target
        return file_sha256(path)

    def delete(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)


def _entry(path: Path, stat: os.stat_result) -> Entry:
    modified = stat.st_mtime_ns // 1_000_000
    return Entry(str(path), stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}", modified)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache
def s3_client() -> Any:
    """Return the client of S3, which repeats throttled calls."""
    import boto3
    from botocore.config import Config

    retries: Any = {"mode": "standard", "total_max_attempts": 8}
    return boto3.client("s3", config=Config(retries=retries, max_pool_connections=THREADS))


class Bucket:
    """Objects under a prefix of a bucket."""

    spool: Path | None = None

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._bucket, _, self._key = uri.removeprefix("s3://").partition("/")
        self._s3 = s3_client()

    def inputs(self) -> list[Entry]:
        """See Storage. A key that ends with a slash is a prefix."""
        if self._key and not self._key.endswith("/"):
            head = self._call("head_object", Key=self._key)
            listed = [{"Key": self._key, "Size": head["ContentLength"], **head}] if head else []
        else:
            listed = self._list(self._key)
        return [
            Entry(
                f"s3://{self._bucket}/{item['Key']}",
                item["Size"],
                item["ETag"],
                int(item["LastModified"].timestamp() * 1000),
            )
            for item in listed
            if item["Size"] and not _is_hidden(item["Key"].removeprefix(self._key))
        ]

    def open(self, etag: str) -> BinaryIO:
        raw = _ObjectReader(self._s3, self._bucket, self._key, etag)
        return io.BufferedReader(raw, BUFFER_BYTES)

    def read(self, name: str) -> bytes | None:
        response = self._call("get_object", Key=self._name(name))
        return response["Body"].read() if response else None

    def names(self, folder: str) -> list[str]:
        prefix = self._name("")
        return [item["Key"].removeprefix(prefix) for item in self._list(self._name(f"{folder}/"))]

    def put(self, name: str, path: Path) -> str:
        digest, key = file_sha256(path), self._name(name)
        for _ in range(READ_ATTEMPTS):
            with path.open("rb") as body:
                metadata = {"sha256": digest}
                if self._call("put_object", Key=key, Body=body, IfNoneMatch="*", Metadata=metadata):
                    return digest
            if head := self._call("head_object", Key=key):
                return str(head["Metadata"]["sha256"])
        raise OSError("S3 would not settle a conditional write")

    def delete(self, name: str) -> None:
        self._call("delete_object", Key=self._name(name))

    def _name(self, name: str) -> str:
        return f"{self._key.rstrip('/')}/{name}".lstrip("/")

    def _list(self, prefix: str) -> list[Any]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        return [item for page in pages for item in page.get("Contents", ())]

    def _call(self, name: str, **parameters: Any) -> Any:
        """Return the response, None if an object is absent or a condition does not hold."""
        from botocore.exceptions import ClientError

        try:
            return getattr(self._s3, name)(Bucket=self._bucket, **parameters)
        except ClientError as error:
            if error.response["Error"]["Code"] in _EXISTS | _ABSENT:
                return None
            raise


class _ObjectReader(io.RawIOBase):
    """An object as a seekable file. A broken response is continued by another request."""

    def __init__(self, s3: Any, bucket: str, key: str, etag: str) -> None:
        self._s3, self._object = s3, {"Bucket": bucket, "Key": key, "IfMatch": etag}
        self._position = 0
        self._stream: Any = None
        self._size: int = self._call(s3.head_object)["ContentLength"]

    def readable(self) -> bool:
        return True

    seekable = readable

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset != self._position:
            self._position, self._stream = base + offset, None
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        from botocore.exceptions import BotoCoreError

        if self._position >= self._size:
            return 0
        for attempt in itertools.count(1):
            try:
                if self._stream is None:
                    span = f"bytes={self._position}-"
                    self._stream = self._call(self._s3.get_object, Range=span)["Body"]
                data = self._stream.read(len(buffer))
                if data:
                    break
                raise OSError("the response ended early")
            except (BotoCoreError, OSError):
                self._stream = None
                if attempt == READ_ATTEMPTS:
                    raise
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _call(self, call: Any, **parameters: Any) -> Any:
        from botocore.exceptions import ClientError

        try:
            return call(**self._object, **parameters)
        except ClientError as error:
            if error.response["Error"]["Code"] in {"PreconditionFailed", "412", *_ABSENT}:
                raise BatchError(CHANGED) from None
            raise


def iso(seconds: float) -> str:
    """Return a time in UTC, ISO 8601."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def now() -> str:
    """Return the time in UTC, ISO 8601."""
    return iso(time.time())
