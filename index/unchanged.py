"""Whether mapped files are still what was mapped."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from gifdex.schemas.errors import CorruptIndexError


class Unchanged:
    """Files as they were when this was made.

    A file that is replaced by a rename, or unlinked, stays mapped as it was. One that is cut off or written over in
    place does not: reading it then ends the process or gives wrong answers. So sizes and times are looked at before
    each search, a microsecond a file. What happens between a look and the reading cannot be seen; nothing that
    gifdex does writes over a file.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._known = [(os.fspath(path), _facts(os.fspath(path))) for path in paths]

    def check(self, *, replaced: bool = False) -> None:
        """Raise CorruptIndexError where a file was changed in place or, if asked for, `replaced` by another."""
        for path, known in self._known:
            try:
                found = _facts(path)
            except OSError:  # unlinked; the mapping stays
                found = None
            if found == known:
                continue
            if found is None or found[:2] != known[:2]:
                if replaced:
                    raise CorruptIndexError(
                        f"{path} was replaced while the index was being opened: open it again, and leave versions as "
                        "they are"
                    )
            else:
                raise CorruptIndexError(
                    f"{path} was changed in place while the index was open, which is not safe to read: restore it, "
                    "open the index again, and replace files by renaming new ones over them"
                )


def _facts(path: str) -> tuple[int, int, int, int]:
    found = os.stat(path)  # noqa: PTH116  # a path object would take as long again
    return found.st_ino, found.st_dev, found.st_size, found.st_mtime_ns
