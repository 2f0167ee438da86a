"""The files of a batch, in a folder or in a bucket: `connect` returns the one that a URI names.

Every write is conditional, so a part that is scored twice has one output. An input is read with
its ETag (in a folder: its size and time), so a file that changes ends the run.
"""

import io
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from handler.batch import BatchError
from handler.hashes import path_sha256

THREADS = 16
BUFFER_BYTES, SPAN_BYTES = 1 << 20, 16 << 20  # of a read, and of a request to S3
ATTEMPTS = 5
CHANGED = "the input changed after the run began; start another run"
_EXISTS = {"PreconditionFailed", "ConditionalRequestConflict"}
_ABSENT = {"NoSuchKey", "404", "NotFound"}


@dataclass(frozen=True)
class Entry:
    """An input file. `etag` changes with its content; `modified`: milliseconds since 1970."""

    uri: str
    size: int
    etag: str
    modified: int


class Folder:
    """Files on this machine. Names are relative to the folder.

    `spool`: the folder for files before `put`. It is in the folder, because a hard link needs one
    file system.
    """

    def __init__(self, uri: str) -> None:
        self.uri, self._path = uri, Path(uri)

    @property
    def spool(self) -> Path | None:
        path = self._path / ".tmp"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def inputs(self) -> list[Entry]:
        """Return the file that the URI names, or the files below it, in the order of names."""
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
        """Open the file that the URI names. Raise BatchError if it is another than `etag` says."""
        try:
            file = self._path.open("rb", buffering=BUFFER_BYTES)
        except OSError:
            raise BatchError(CHANGED) from None
        if _entry(self._path, os.fstat(file.fileno())).etag != etag:
            file.close()
            raise BatchError(CHANGED)
        return file

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None if it is absent."""
        path = self._path / name
        return path.read_bytes() if path.exists() else None

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, sorted."""
        return sorted(f"{folder}/{path.name}" for path in (self._path / folder).glob("[!.]*"))

    def put(self, name: str, path: Path) -> str:
        """Write a file unless it exists. Return the SHA-256 of the file that is there."""
        target = self._path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except FileExistsError:
            path = target
        return path_sha256(path)

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        (self._path / name).unlink(missing_ok=True)


class Bucket:
    """Objects under a prefix of a bucket, with the methods of Folder."""

    # ruff: noqa: D102
    spool: Path | None = None  # the system's

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._bucket, _, self._key = uri.removeprefix("s3://").partition("/")
        self._s3 = s3_client()

    def inputs(self) -> list[Entry]:
        """See Folder. A key that ends with a slash is a prefix."""
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
        call = partial(self._call, Key=self._key, IfMatch=etag)
        return io.BufferedReader(_ObjectReader(call), BUFFER_BYTES)

    def read(self, name: str) -> bytes | None:
        response = self._call("get_object", Key=self._name(name))
        return response["Body"].read() if response else None

    def names(self, folder: str) -> list[str]:
        prefix = self._name("")
        return [item["Key"].removeprefix(prefix) for item in self._list(self._name(f"{folder}/"))]

    def put(self, name: str, path: Path) -> str:
        digest, key = path_sha256(path), self._name(name)
        for _ in range(ATTEMPTS):
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
        paginator = self._s3.get_paginator("list_objects_v2")
        pages = paginator.paginate(Bucket=self._bucket, Prefix=prefix)
        return [item for page in pages for item in page.get("Contents", ())]

    def _call(self, name: str, **parameters: Any) -> Any:
        """Return the response, None if an object is absent or a condition does not hold."""
        from botocore.exceptions import ClientError

        try:
            return getattr(self._s3, name)(Bucket=self._bucket, **parameters)
        except ClientError as error:
            if error.response["Error"]["Code"] in {"412", *_EXISTS, *_ABSENT}:
                return None
            raise


Storage = Folder | Bucket


def connect(uri: str) -> Storage:
    """Return the storage that a URI or a path names."""
    return Bucket(uri) if uri.startswith("s3://") else Folder(uri)


def put_json(storage: Storage, name: str, document: Any) -> None:
    """Write a JSON document unless the file exists."""
    put_bytes(storage, name, orjson.dumps(document, option=orjson.OPT_INDENT_2))


def put_bytes(storage: Storage, name: str, content: bytes) -> None:
    """Write a file unless it exists."""
    with tempfile.NamedTemporaryFile(dir=storage.spool) as file:
        file.write(content)
        file.flush()
        storage.put(name, Path(file.name))


@lru_cache
def s3_client() -> Any:
    """Return the client of S3, which repeats throttled calls."""
    import boto3
    from botocore.config import Config

    retries: Any = {"mode": "standard", "total_max_attempts": 8}
    return boto3.client("s3", config=Config(retries=retries, max_pool_connections=THREADS))


def _is_hidden(name: str) -> bool:
    return any(step[:1] in ("_", ".") for step in name.split("/"))


def _entry(path: Path, stat: os.stat_result) -> Entry:
    modified = stat.st_mtime_ns // 1_000_000
    return Entry(str(path), stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}", modified)


class _ObjectReader(io.RawIOBase):
    """An object as a seekable file. A broken response is continued by another request.

    `call` calls S3 for the object, and returns None if it changed.
    """

    def __init__(self, call: Any) -> None:
        self._call_s3 = call
        self._position = 0
        self._stream: Any = None
        self._size: int = self._call("head_object")["ContentLength"]

    def readable(self) -> bool:
        return True

    seekable = readable

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + (0, self._position, self._size)[whence]
        if position != self._position:
            self._position, self._stream = position, None
        return position

    def readinto(self, buffer: Any) -> int:
        from botocore.exceptions import BotoCoreError

        data = b""
        for attempts_left in reversed(range(ATTEMPTS if self._position < self._size else 0)):
            try:
                if self._stream is None:
                    span = f"bytes={self._position}-{self._position + SPAN_BYTES - 1}"
                    self._stream = self._call("get_object", Range=span)["Body"]
                if data := self._stream.read(len(buffer)):
                    break
                self._stream = None  # the end of the span
            except (BotoCoreError, OSError):
                self._stream = None
                if not attempts_left:
                    raise
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _call(self, name: str, **parameters: Any) -> Any:
        response = self._call_s3(name, **parameters)
        if response is None:
            raise BatchError(CHANGED)
        return response
