"""The file of the field `text`: an inverted index of the items' words, SQLite FTS5.

Row i of its table is item i. The table stores no text, only which words stand where (FTS5's contentless tables,
https://sqlite.org/fts5.html). The same items and the same SQLite give the same bytes.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from gifdex.index.engines.base import Rows
from gifdex.index.field_records import TEXT
from gifdex.index.own_sqlite import import_sqlite3, without_fts5
from gifdex.index.search import Found
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.files import committing
from gifdex.schemas.manifest import TextRecord

if TYPE_CHECKING:
    import sqlite3

TEXT_NAME = f"{TEXT}.sqlite"
ENGINE = "fts"
# The columns that every text index has; columns of metadata follow. "tags" is one too.
COLUMNS = ("caption", "id", "tags")
APPLICATION_ID = 0x67696678  # "gifx"
# Marks are letters, so that words of Indic scripts stay whole; those that only change a Latin letter are dropped.
_TOKENIZER = "unicode61 remove_diacritics 2 categories 'L* N* Co M*'"
_SETTINGS = f"""
    PRAGMA page_size = 4096;
    PRAGMA encoding = 'UTF-8';
    PRAGMA auto_vacuum = NONE;
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA application_id = {APPLICATION_ID};
"""
_OPENED = "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA query_only = ON;"
# Words of more than half of the items, which FTS5's BM25 gives next to no weight.
_COMMON = "INSERT INTO common (word) SELECT term FROM temp.vocabulary WHERE 2 * doc > ? ORDER BY term"
_ANSWER = "SELECT rowid, -bm25(words) FROM words WHERE words MATCH ?"
_NO_FTS5 = "no such module"
_ROW = np.dtype([("item", np.int64), ("score", np.float64)])
_BLOCK = 4096
_WORD = re.compile(r"[^\W_]")
# Scripts that put no spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han. Each character counts as a word.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


def spaced(text: str) -> str:
    """Put spaces around each character of a script that puts none between words."""
    return _UNSPACED.sub(r" \g<0> ", text)


def sqlite_version() -> str:
    """Return the version of SQLite that writes and reads the file."""
    return str(import_sqlite3().sqlite_version)


def write(path: Path, items: pa.Table, columns: Sequence[str] = ()) -> TextRecord | None:
    """Write the words of items (schema ITEMS): caption, id, tags, and further columns of metadata.

    Returns the manifest's record, or None, without a file, if no item has a word. Raises ArtifactError if this
    Python's SQLite was built without FTS5.
    """
    path.unlink(missing_ok=True)
    sqlite = import_sqlite3()
    names = tuple(dict.fromkeys([*COLUMNS, *columns]))
    with committing(path) as temporary, closing(sqlite.connect(temporary, isolation_level=None)) as database:
        try:
            count = _fill(database, len(names), _rows(items, names))
        except sqlite.Error as err:
            if _NO_FTS5 in str(err):
                raise without_fts5(err) from err
            raise OSError(str(err)) from err  # such as a full disk; `committing` adds the path
    if not count:
        path.unlink()
        return None
    return TextRecord(path.name, count, names, sqlite_version())


def _fill(database: sqlite3.Connection, columns: int, rows: Iterator[tuple[int | str, ...]]) -> int:
    """Write the tables, and return the count of rows."""
    names = ", ".join(f"c{number}" for number in range(columns))
    database.executescript(_SETTINGS)
    database.execute("BEGIN")
    database.execute(f"CREATE VIRTUAL TABLE words USING fts5({names}, content='', tokenize=\"{_TOKENIZER}\")")
    database.executemany(f"INSERT INTO words (rowid, {names}) VALUES (?{', ?' * columns})", rows)
    database.execute("INSERT INTO words (words) VALUES ('optimize')")
    (count,) = database.execute("SELECT count(*) FROM words_docsize").fetchone()
    database.execute("CREATE TABLE common (word TEXT NOT NULL)")
    database.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, words, row)")
    database.execute(_COMMON, (count,))
    database.execute("COMMIT")
    database.execute("VACUUM")
    return int(count)


def _rows(items: pa.Table, names: Sequence[str]) -> Iterator[tuple[int | str, ...]]:
    """Yield the number and the texts of each item that has a word."""
    own = items.select(["id", "caption", "metadata"])
    blocks = (zip(*map(pa.Array.to_pylist, block.columns), strict=True) for block in own.to_batches(_BLOCK))
    for number, (key, caption, metadata) in enumerate(chain.from_iterable(blocks)):
        values = {**(json.loads(metadata) if metadata else {}), "id": key, "caption": caption}
        texts = [_text(values.get(name)) for name in names]
        if any(map(_WORD.search, texts)):
            yield number, *map(spaced, texts)


def _text(value: Any) -> str:
    """Return a value of metadata as words."""
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(map(_text, value))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode(errors="replace").decode()  # JSON may hold lone surrogates


def problem(record: TextRecord, items: int) -> str | None:
    """Return why the record of a text index is inconsistent, or None."""
    if not 1 <= record.items <= items:
        return f"has words of {record.items:,} items, but there are {items:,}"
    return None if record.columns else "has no columns"


class TextFile:
    """An opened text index; opens its file at the first query. Several threads may use it at once."""

    def __init__(self, path: Path, record: TextRecord, items: int) -> None:
        self.path = path
        self.record = record
        self._items = items
        self._database: sqlite3.Connection | None = None
        self._common: frozenset[str] = frozenset()
        self._lock = threading.Lock()  # one thread asks, the others wait

    def matches(self, phrases: Sequence[str]) -> Found:
        """Return the items (n,) that have any of the phrases, ascending, and their BM25 scores float64 (n,), positive.

        A phrase is one word or several in a row. Words that more than half of the items have only count if all do.
        Nothing in a phrase is SQL or FTS5 syntax. Raises CorruptIndexError.
        """
        with self._reading() as database:
            rarer = [phrase for phrase in phrases if phrase.lower() not in self._common]
            return self._ask(database, " OR ".join(map(_quoted, rarer or phrases)))

    def having(self, phrases: Sequence[str]) -> Rows:
        """Return the items (n,) that have all of the phrases, ascending."""
        with self._reading() as database:
            return self._ask(database, " AND ".join(map(_quoted, phrases)))[0]

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the database to one thread at a time; raises CorruptIndexError if it cannot be read."""
        sqlite = import_sqlite3()
        try:
            with self._lock:
                if self._database is None:
                    self._database = self._opened()
                yield self._database
        except (sqlite.Error, TypeError, ValueError, OverflowError) as err:
            if _NO_FTS5 in str(err):
                raise without_fts5(err) from err
            raise CorruptIndexError(f"cannot read {self.path}: {err}; restore the file or rebuild the index") from err

    def _ask(self, database: sqlite3.Connection, expression: str) -> Found:
        rows = np.fromiter(database.execute(_ANSWER, (expression,)), _ROW)
        rows.sort(order="item")
        items, scores = rows["item"].copy(), rows["score"].copy()
        if len(items) and not (items[0] >= 0 and items[-1] < self._items and (np.diff(items) > 0).all()):
            raise ValueError(f"it names an item twice, or one that the index does not have, which has {self._items:,}")
        if not (np.isfinite(scores).all() and (scores > 0).all()):
            raise ValueError("it gives scores that are not above 0")
        return items, scores

    def _opened(self) -> sqlite3.Connection:
        address = f"file:{quote(str(self.path.absolute()))}?mode=ro&immutable=1"
        database: sqlite3.Connection = import_sqlite3().connect(
            address, uri=True, check_same_thread=False, isolation_level=None
        )
        database.executescript(_OPENED)
        (found,) = database.execute("PRAGMA application_id").fetchone()
        if found != APPLICATION_ID:
            raise ValueError(f"its application id is {found:#x}, not {APPLICATION_ID:#x}")
        kinds = database.execute("SELECT count(*) FROM sqlite_master WHERE type NOT IN ('table', 'index')").fetchone()
        if kinds != (0,):  # a view or a trigger could run without end
            raise ValueError("it has views or triggers; expected tables")
        self._common = frozenset(word for (word,) in database.execute("SELECT word FROM common"))
        return database


def _quoted(phrase: str) -> str:
    """Return words as a phrase of FTS5's query language."""
    return '"' + spaced(phrase).replace('"', " ") + '"'
