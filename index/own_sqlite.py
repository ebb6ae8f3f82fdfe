"""The standard library's module sqlite3, imported at first use, with the SQLite that it was built for.

TensorFlow's libraries export an SQLite without FTS5 to everything that is loaded later (tensorflow 2.21), so a sqlite3
that is imported after TensorFlow would use that one.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

from gifdex.schemas.errors import ArtifactError


def import_sqlite3() -> ModuleType:
    """Return the module sqlite3; raises ArtifactError if this Python was built without it."""
    flags = sys.getdlopenflags()
    if "tensorflow" in sys.modules and "_sqlite3" not in sys.modules:
        # Its extension then prefers the libraries that it was linked with. Only glibc has this flag.
        sys.setdlopenflags(flags | getattr(os, "RTLD_DEEPBIND", 0))
    try:
        import sqlite3
    except ImportError as err:
        raise ArtifactError(
            f"this Python has no module sqlite3 ({err}), which holds the words of an index: use a Python that has it"
        ) from err
    finally:
        sys.setdlopenflags(flags)
    return sqlite3


def without_fts5(err: Exception) -> ArtifactError:
    """Return the error to raise where SQLite knows no FTS5."""
    return ArtifactError(
        f"the SQLite {import_sqlite3().sqlite_version} of this process has no FTS5 ({err}), which holds an index's "
        "words: use a Python whose sqlite3 has it, and import sqlite3 before TensorFlow"
    )
