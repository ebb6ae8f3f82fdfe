"""The standard library's module sqlite3, with the SQLite that it was built for.

TensorFlow's libraries export an SQLite without FTS5 to everything that is loaded later (tensorflow 2.21), so a sqlite3
that is imported after TensorFlow would use that one.
"""

from __future__ import annotations

import os
import sys


def _import_after_tensorflow() -> None:
    """Import sqlite3 so that it prefers the libraries that it depends on."""
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | getattr(os, "RTLD_DEEPBIND", 0))  # only glibc has it
    try:
        import sqlite3  # noqa: F401
    finally:
        sys.setdlopenflags(flags)


if "tensorflow" in sys.modules and "_sqlite3" not in sys.modules:
    _import_after_tensorflow()

import sqlite3  # noqa: E402

__all__ = ["sqlite3"]
