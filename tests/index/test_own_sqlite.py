"""SQLite has FTS5 whatever was imported before."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from gifdex.index.text_file import sqlite_version

FTS5 = """
from gifdex.index.own_sqlite import import_sqlite3
sqlite3 = import_sqlite3()
sqlite3.connect(":memory:").execute("CREATE VIRTUAL TABLE t USING fts5(a)")
print(sqlite3.sqlite_version)
"""


def test_opening_an_index_does_not_import_it() -> None:
    program = "import sys, gifdex.index.opening; print('_sqlite3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.heavy
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed")
def test_tensorflow_does_not_replace_it() -> None:
    done = subprocess.run([sys.executable, "-c", f"import tensorflow\n{FTS5}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == sqlite_version()
