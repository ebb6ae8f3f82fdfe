"""How files are written (temporary name, fsync, rename, fsync of the folder) and read."""

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
    """Return an absolute path without following links; the ~ of an unknown user is kept."""
    given = Path(path)
    with suppress(RuntimeError):
        given = given.expanduser()
    return Path(os.path.abspath(given))


def is_url(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is a URL such as s3://bucket/index."""
    return isinstance(path, str) and "://" in path


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def committing(path: Path, *, same_temporary_name: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on leaving without an error it becomes `path`, durably.

    A reader sees either the old file or the whole new one, even if the process is killed. An OSError names the file.
    Use `same_temporary_name` in folders that gifdex does not clean up: the next write then overwrites what a killed
    one left. That name ends in another suffix, so no reader mistakes it for the file.
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

    Only line feeds end a line: JSON strings may contain U+2028 and other characters that str.splitlines splits at.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as err:
            raise error(f"line {number} of {where} is not JSON: {err}; fix the line") from err
        if not isinstance(row, dict):
            raise error(
                f'line {number} of {where} is not a JSON object; expected one such as {{"id": ...}}: fix the line'
            )
        yield row


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read one Parquet file; folder names such as year=2015 add no columns."""
    return pq.read_table(path, columns=columns, partitioning=None)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove_unfinished(folder: Path, before: float = math.inf) -> int:
    """Delete the files that interrupted writers left below `folder`; return how many.

    An active writer's file looks the same. So hold the workspace's lock, or limit this to files last written `before`
    a time (seconds since 1970).
    """
    leftovers = [path for path in folder.rglob(f"{TEMPORARY_PREFIX}*") if _is_left(path, before)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def _is_left(path: Path, before: float) -> bool:
    try:
        return path.is_file() and path.stat().st_mtime < before
    except OSError:  # committed in the meantime
        return False
