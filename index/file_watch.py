"""Detect changes of memory-mapped files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from gifdex.schemas.errors import CorruptIndexError


class FileWatch:
    """Detects when mapped files are changed in place.

    A file that is unlinked or replaced by a rename stays mapped unchanged. But reading a file that was truncated or
    overwritten in place kills the process or gives wrong answers. So sizes and times are checked before each search,
    which takes a microsecond per file. A change between the check and the reading is not detected; gifdex itself never
    overwrites a file.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        """Take the files as they are now; raises CorruptIndexError if one is gone."""
        try:
            self._known = [(os.fspath(path), os.stat(path)) for path in paths]  # noqa: PTH116  # a path object is slow
        except OSError as err:
            raise CorruptIndexError(
                f"cannot read {err.filename}: {err.strerror}; restore the file or rebuild the index"
            ) from err

    def check(self, *, replaced: bool = False) -> None:
        """Raise CorruptIndexError if a file was changed in place or, with `replaced`, replaced by a new one."""
        for path, known in self._known:
            try:
                found = os.stat(path)  # noqa: PTH116
            except OSError:  # unlinked; the mapping stays valid
                if replaced:
                    raise _replaced(path) from None
                continue
            if found.st_ino != known.st_ino or found.st_dev != known.st_dev:
                if replaced:
                    raise _replaced(path)
            elif found.st_mtime_ns != known.st_mtime_ns or found.st_size != known.st_size:
                raise CorruptIndexError(
                    f"{path} was changed in place while the index was open, so it is not safe to read: restore it, "
                    "open the index again, and replace files by renaming new ones over them"
                )


def _replaced(path: str) -> CorruptIndexError:
    return CorruptIndexError(
        f"{path} was replaced while the index was being opened: open it again, and do not change versions"
    )
