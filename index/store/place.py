"""A folder on an object store or another filesystem that pyarrow supports: s3://, gs:// and so on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from gifdex.schemas.errors import RemoteError
from gifdex.schemas.files import committing
from gifdex.schemas.manifest import FileRecord

_BLOCK = 8 * 1024**2  # bytes per read
MAX_MANIFEST_BYTES = 64 * 1024**2  # a larger file is not a manifest
_RETRY_SECONDS = 30  # how long requests to an object store are retried


@dataclass(frozen=True)
class Place:
    """A folder on one of pyarrow's filesystems."""

    url: str
    filesystem: fs.FileSystem
    root: str

    @classmethod
    def of(cls, url: str) -> Place:
        """Parse a URL; raises RemoteError if pyarrow does not support it."""
        try:
            filesystem, root = fs.FileSystem.from_uri(_with_retry_limit(url))
        except (pa.ArrowException, OSError, ValueError) as err:
            user, at, _ = urlsplit(url).netloc.rpartition("@")
            reason = _line(err).replace(user + at, "") if at else _line(err)
            raise RemoteError(
                f"the URL cannot be used: {reason}; expected a URL such as s3://bucket/index or gs://bucket/index, and "
                "a bucket that can be reached"
            ) from None
        return cls(url, filesystem, root.rstrip("/"))

    def shown(self, *names: str) -> str:
        """Return a path below the folder for messages, without keys, secrets or options of the URL."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        return "/".join([f"{parts.scheme}://{host}{parts.path}".rstrip("/"), *names])

    def path(self, *names: str) -> str:
        """Return the path of something below the folder."""
        return "/".join([self.root, *names])

    def size(self, *names: str) -> int | None:
        """Return a file's size in bytes, None if it does not exist; raises RemoteError if that is unknown."""
        with self._remote_errors(*names):
            found = self.filesystem.get_file_info(self.path(*names))
        return found.size if found.type == fs.FileType.File else None

    def read(self, max_bytes: int, *names: str) -> bytes | None:
        """Return a small file's bytes, None if it does not exist or is larger than `max_bytes`."""
        size = self.size(*names)
        if size is None or size > max_bytes:
            return None
        with self._remote_errors(*names), self.filesystem.open_input_stream(self.path(*names)) as stream:
            return bytes(stream.read())

    def append_to(self, local: BinaryIO, *names: str) -> Iterator[int]:
        """Append the part of a file that `local` lacks; yield the size of each block."""
        with self._remote_errors(*names), self.filesystem.open_input_file(self.path(*names)) as stream:
            stream.seek(local.tell())
            while block := stream.read(_BLOCK):
                local.write(block)
                yield len(block)

    def write(self, source: BinaryIO, *names: str) -> Iterator[int]:
        """Copy `source` to a file, which appears when it is complete; yield the size of each block."""
        with self._remote_errors(*names):
            if isinstance(self.filesystem, fs.LocalFileSystem):
                yield from self._write_locally(source, Path(self.path(*names)))
                return
            stream = self.filesystem.open_output_stream(self.path(*names))
            try:
                while block := source.read(_BLOCK):
                    stream.write(block)
                    yield len(block)
            except BaseException:  # a stream can only be closed, which creates the object: delete that
                with suppress(pa.ArrowException, OSError):
                    stream.close()
                    self.filesystem.delete_file(self.path(*names))
                raise
            stream.close()

    def put(self, data: bytes, *names: str) -> None:
        """Write a small file, whole or not at all."""
        with pa.BufferReader(data) as source:
            for _ in self.write(source, *names):
                pass

    def files(self) -> Iterator[tuple[str, int, float]]:
        """Yield the relative path, the size in bytes and the modification time of every file."""
        selector = fs.FileSelector(self.root, recursive=True, allow_not_found=True)
        with self._remote_errors():
            found = self.filesystem.get_file_info(selector)
        for info in found:
            if info.type == fs.FileType.File:
                yield info.path[len(self.root) + 1 :], info.size, info.mtime.timestamp() if info.mtime else 0.0

    def changed(self, *names: str) -> float:
        """Return a file's modification time."""
        with self._remote_errors(*names):
            found = self.filesystem.get_file_info(self.path(*names)).mtime
        return found.timestamp() if found else 0.0

    def is_folder(self, *names: str) -> bool:
        """Tell whether there is a folder or, on an object store, any object with that prefix."""
        with self._remote_errors(*names):
            return bool(self.filesystem.get_file_info(self.path(*names)).type == fs.FileType.Directory)

    @property
    def parent(self) -> Place:
        """The folder above."""
        parts = urlsplit(self.url)
        above = parts._replace(path=parts.path.rstrip("/").rpartition("/")[0])
        return Place(above.geturl(), self.filesystem, self.root.rpartition("/")[0])

    def delete(self, *names: str) -> None:
        """Delete a file."""
        with self._remote_errors(*names):
            self.filesystem.delete_file(self.path(*names))

    def _write_locally(self, source: BinaryIO, path: Path) -> Iterator[int]:
        """Write through a temporary file, because a local folder would show an incomplete one."""
        with committing(path) as temporary, temporary.open("wb") as stream:
            while block := source.read(_BLOCK):
                stream.write(block)
                yield len(block)
            stream.flush()

    def has(self, record: FileRecord, checksum: bool, *names: str) -> bool:
        """Tell whether a file exists with the right size or, with `checksum`, with the right content."""
        if self.size(*names) != record.bytes:
            return False
        if not checksum:
            return True
        with self._remote_errors(*names), self.filesystem.open_input_stream(self.path(*names)) as stream:
            digest = hashlib.sha256()
            while block := stream.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest() == record.sha256

    @contextmanager
    def _remote_errors(self, *names: str) -> Iterator[None]:
        """Turn errors of the filesystem into a RemoteError with the path."""
        try:
            yield
        except (pa.ArrowException, OSError) as err:
            if isinstance(err, OSError) and err.filename is not None:  # an error of the local side
                raise
            raise RemoteError(
                f"cannot read or write {self.shown(*names)}: {_line(err)}; check that it exists, check the network and "
                "the credentials, then try again"
            ) from err


def _with_retry_limit(url: str) -> str:
    """Return a URL with a limit on retries; the default for gs:// is a quarter of an hour."""
    parts = urlsplit(url)
    if parts.scheme not in ("gs", "gcs") or "retry_limit_seconds" in parts.query:
        return url
    return parts._replace(query="&".join(filter(None, [parts.query, f"retry_limit_seconds={_RETRY_SECONDS}"]))).geturl()


def _line(err: BaseException) -> str:
    return " ".join(str(err).split())[:300]
