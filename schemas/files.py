"""The one way files reach the disk (temporary name, fsync, rename, fsync of the folder), and how they are read."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gifdex.schemas.errors import GifdexError

# A name with this prefix is unfinished: no reader looks at it, and a later run may delete it.
TEMPORARY_PREFIX = ".tmp-"


def absolute(path: str | Path) -> Path:
    """Return a path in full, links unfollowed; the ~ of an unknown user stays as it is."""
    given = Path(path)
    with suppress(RuntimeError):
        given = given.expanduser()
    return Path(os.path.abspath(given))


def is_url(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is a URL such as s3://bucket/index."""
    return isinstance(path, str) and "://" in path


def sync(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def committing(path: Path, *, same_temporary_name: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on leaving without an error it becomes `path`, durably.

    A reader sees either the old file or the whole new one, whatever moment the process dies at. An OSError names the
    file. A caller that is
    `same_temporary_name` is for folders that gifdex does not clear: the name is the same each time, with another
    suffix, so that the next write overwrites what a killed one left behind, and no reader takes it for the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unique = f"{path.name}.part" if same_temporary_name else f"{uuid.uuid4().hex[:12]}-{path.name}"
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{unique}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as err:
        if err.filename is not None:
            raise
        reason = os.strerror(err.errno) if err.errno is not None else str(err)  # libraries leave the name out
        raise OSError(err.errno or errno.EIO, reason, str(path)) from err
    finally:
        temporary.unlink(missing_ok=True)


def commit_bytes(path: Path, data: bytes, *, same_temporary_name: bool = False) -> None:
    """Write `data` to `path`, whole or not at all; see `committing`."""
    with committing(path, same_temporary_name=same_temporary_name) as temporary:
        temporary.write_bytes(data)


def commit_table(path: Path, table: pa.Table) -> None:
    """Write `table` as Parquet (zstd, level 1) to `path`, whole or not at all."""
    with committing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", compression_level=1)


def json_lines(text: str, where: str, error: type[GifdexError]) -> Iterator[dict[str, Any]]:
    """Yield the objects of JSON Lines; raises `error` that names `where` and the line for anything else.

    Lines end at line feeds alone: JSON strings may hold U+2028 and other ends of lines that str.splitlines knows.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as err:
            raise error(f"line {number} of {where} is not JSON: {err}; fix the line") from err
        if not isinstance(row, dict):
            raise error(f'line {number} of {where} is no JSON object; expected one such as {{"id": ...}}: fix the line')
        yield row


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file; the folders above it say nothing about its columns."""
    return pq.read_table(path, columns=columns, partitioning=None)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove_unfinished(folder: Path, before: float = math.inf) -> int:
    """Delete what interrupted writers left below `folder` and return how many files that were.

    Another writer's unfinished file looks the same, so it is only for a caller that holds the workspace's lock, or for
    files that were last written `before` a time (seconds since 1970).
    """
    leftovers = [path for path in folder.rglob(f"{TEMPORARY_PREFIX}*") if _is_left(path, before)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def _is_left(path: Path, before: float) -> bool:
    try:
        return path.is_file() and path.stat().st_mtime < before
    except OSError:  # it was committed while we looked
        return False
