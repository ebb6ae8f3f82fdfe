"""Map the rows of a field to items.

Rows are distinct vectors, so one row may belong to several items (reposts), and some items may have no row. In a field
of frames, an item also has several rows. A shard's map is an Arrow file with one list of items per row. If row i is
item i throughout, there is no file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gifdex.index.engines.base import Rows
from gifdex.index.vectors import Scores
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.files import committing
from gifdex.schemas.manifest import ShardRecord

SUFFIX = ".rows.arrow"
_COLUMN = "items"
_SCHEMA = pa.schema([pa.field(_COLUMN, pa.large_list(pa.field("item", pa.int64(), nullable=False)), nullable=False)])

Items = NDArray[np.int64]
_Float = TypeVar("_Float", np.float32, np.float64)


def distinct_rows(keys: Sequence[bytes | str | None]) -> tuple[Items, list[Items]]:
    """Group a shard's items (positions from 0) by key; items whose key is None have no row.

    Return each row's first item, ascending, and each row's items, ascending.
    """
    groups: dict[bytes | str, list[int]] = {}
    for place, key in enumerate(keys):
        if key is not None:
            groups.setdefault(key, []).append(place)
    items = [np.array(group, np.int64) for group in groups.values()]
    return np.array([group[0] for group in items], np.int64), items


def is_identity(row_items: Sequence[Items], count: int) -> bool:
    """Tell whether row i is item i for all `count` items; then no file is needed."""
    return len(row_items) == count and all(len(items) == 1 for items in row_items)


def write(path: Path, row_items: Sequence[Items]) -> None:
    """Write a shard's map: for each row, the positions of its items in the shard, ascending."""
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in row_items])])
    values = np.concatenate([np.empty(0, np.int64), *row_items])
    column = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values), type=_SCHEMA.field(0).type)
    with committing(path) as temporary, pa.ipc.new_file(str(temporary), _SCHEMA) as writer:
        writer.write_table(pa.table([column], schema=_SCHEMA))


@dataclass(frozen=True)
class RowItems:
    """The map of a whole field: row r belongs to `items[starts[r] : starts[r + 1]]`.

    Both are None if row i is item i. Only if it is `many_to_many` may an item have more than one row. An entry is a
    position in `items`: a pair of a row and an item. Safe to use from several threads.
    """

    rows: int
    count: int  # items of the index
    starts: Items | None
    items: Items | None
    many_to_many: bool = False

    @property
    def is_identity(self) -> bool:
        """Whether row i is item i."""
        return self.starts is None

    @property
    def entries(self) -> int:
        """The number of entries."""
        return self.rows if self.items is None else len(self.items)

    @functools.cached_property
    def covers_all(self) -> bool:
        """Whether every item has a row."""
        return self.items is None or bool(self.has_row.all())

    @functools.cached_property
    def has_row(self) -> NDArray[np.bool_]:
        """Which items have a row, bool (items,)."""
        found = np.full(self.count, self.items is None)
        if self.items is not None:
            found[self.items] = True
        return found

    @functools.cached_property
    def row_of(self) -> Rows:
        """The row int64 (items,) of each item, -1 for an item without one; only for maps of one row per item."""
        if self.starts is None or self.items is None:
            return np.arange(self.count)
        assert not self.many_to_many
        rows = np.full(self.count, -1, np.int64)
        rows[self.items] = np.repeat(np.arange(self.rows), np.diff(self.starts))
        return rows

    @functools.cached_property
    def copies(self) -> NDArray[np.int64]:
        """How many items each row has, int64 (rows,)."""
        return np.ones(self.rows, np.int64) if self.starts is None else np.diff(self.starts)

    @functools.cached_property
    def max_rows(self) -> int:
        """The largest number of rows that an item has."""
        if self.items is None or not self.many_to_many:
            return 1
        return int(np.bincount(self.items, minlength=1).max())

    @functools.cached_property
    def _by_item(self) -> tuple[Items, Items, Rows]:
        """The entries by item, then row: where each item's begin, int64 (items + 1,), the entries, and their rows."""
        if self.starts is None or self.items is None:
            every = np.arange(self.count + 1)
            return every, every[:-1], every[:-1]
        entries = np.argsort(self.items, kind="stable")
        rows = np.repeat(np.arange(self.rows), np.diff(self.starts))[entries]
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.items, minlength=self.count))])
        return starts, entries, rows

    def items_of(self, rows: Rows) -> Items:
        """Return the items of rows, row by row, in the given order."""
        if self.starts is None or self.items is None:
            return rows
        starts, ends = self.starts[rows].tolist(), self.starts[rows + 1].tolist()
        return np.concatenate([np.empty(0, np.int64), *map(self.items.__getitem__, map(slice, starts, ends))])

    def entries_of(self, items: Items) -> tuple[Items, Rows, Items]:
        """Return all entries of items, item by item, their rows, and how many each item has, int64 (n,)."""
        starts, entries, rows = self._by_item
        counts = starts[items + 1] - starts[items]
        first = np.repeat(starts[items] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
        places = first + np.arange(counts.sum())
        return entries[places], rows[places], counts

    def rows_of(self, items: Items) -> Rows:
        """Return the distinct rows of items, ascending; items without a row are skipped."""
        if self.many_to_many:
            return np.unique(self.entries_of(items)[1])
        rows = self.row_of[items]
        return np.unique(rows[rows >= 0])

    def best_of_rows(self, scores: NDArray[_Float]) -> NDArray[_Float]:
        """Return the highest of the scores (rows,) for each item (items,), 0 for an item without a row."""
        starts, _, rows = self._by_item
        return highest_of_groups(scores[rows], np.diff(starts))

    def rows_for(self, k: int) -> int:
        """Return how many of the best rows surely have the k best items: all other items' rows may come first.

        Rows are in the order of their first items, so this also holds where rows tie.
        """
        return (k - 1) * self.max_rows + 1

    def expand(
        self, rows: Rows, scores: Scores, k: int, among: NDArray[np.bool_] | None = None
    ) -> tuple[Items, Scores]:
        """Return the k best items of rows sorted by descending score; equal scores in item order.

        An item has the score of the best of its rows. `among` bool (items,) selects the items that may be returned.
        """
        if self.starts is None or self.items is None:
            if among is not None:
                rows, scores = rows[among[rows]], scores[among[rows]]
            return rows[:k], scores[:k]
        items = self.items_of(rows)
        repeated = np.repeat(scores, self.starts[rows + 1] - self.starts[rows])
        if among is not None:
            kept = among[items]
            items, repeated = items[kept], repeated[kept]
        order = np.lexsort((items, -repeated))
        if self.many_to_many:
            firsts = np.sort(np.unique(items[order], return_index=True)[1])
            order = order[firsts]
        order = order[:k]
        return items[order], repeated[order]


def highest_of_groups(values: NDArray[_Float], counts: Items) -> NDArray[_Float]:
    """Return the highest value of each of consecutive groups of `counts` (n,) values, 0 for an empty one."""
    result = np.zeros(len(counts), values.dtype)
    filled = counts > 0
    if filled.any():
        starts = np.cumsum(counts) - counts
        result[filled] = np.maximum.reduceat(values, starts[filled])
    return result


def load(version: Path, shards: Sequence[ShardRecord], count: int) -> RowItems:
    """Read a field's map over `count` items; raises CorruptIndexError if it names an item that does not exist."""
    return opened(version, shards, count)()


def opened(version: Path, shards: Sequence[ShardRecord], count: int) -> Callable[[], RowItems]:
    """Map a field's files, and return a function that reads the map as `load` does.

    So the version may be deleted in between. Raises CorruptIndexError.
    """
    sources = [None if shard.row_items is None else map_arrow(version / shard.row_items) for shard in shards]
    return lambda: _load(version, shards, sources, count)


def _load(
    version: Path, shards: Sequence[ShardRecord], sources: Sequence[pa.MemoryMappedFile | None], count: int
) -> RowItems:
    rows = sum(shard.rows for shard in shards)
    whole = rows == count and all(shard.row_items is None for shard in shards)
    if whole:
        return RowItems(rows, count, None, None)
    starts, items = [np.zeros(1, np.int64)], []
    for shard, source in zip(shards, sources, strict=True):
        ends, own = _of_shard(version, shard, source)
        starts.append(ends + starts[-1][-1])
        items.append(own + shard.first_item)
    found = np.concatenate([np.empty(0, np.int64), *items])
    is_named = np.zeros(max(count, int(found.max(initial=-1)) + 1), bool)
    is_named[found] = True
    many = any(shard.moments is not None for shard in shards)
    if len(is_named) > count or (not many and np.count_nonzero(is_named) < len(found)):
        raise CorruptIndexError(
            f"{version} maps rows to an item that does not exist, or to one twice: restore it or rebuild"
        )
    return RowItems(rows, count, np.concatenate(starts), found, many)


def map_arrow(path: Path) -> pa.MemoryMappedFile:
    """Map an Arrow file without reading it; raises CorruptIndexError if it is missing."""
    try:
        return pa.memory_map(str(path))
    except (OSError, pa.ArrowException) as err:
        raise cannot_read(path, err) from err


def cannot_read(path: Path, err: Exception) -> CorruptIndexError:
    """Return the error for a file that is no valid Arrow file of its kind."""
    reason = str(err).partition("\n")[0]
    return CorruptIndexError(f"cannot read {path}: {reason}; restore the file or rebuild")


def _of_shard(version: Path, shard: ShardRecord, source: pa.MemoryMappedFile | None) -> tuple[Items, Items]:
    """Return where each row's items in a shard end, int64 (rows,), and the items, from 0."""
    if shard.row_items is None or source is None:
        return np.arange(1, shard.rows + 1), np.arange(shard.rows)
    path = version / shard.row_items
    try:
        table = pa.ipc.open_file(source).read_all()
        if table.schema.names != [_COLUMN] or table.schema.field(0).type != _SCHEMA.field(0).type:
            raise ValueError(f"its columns are {table.schema.names}")
        table.validate(full=True)
        column = table[_COLUMN].combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0)
        ends, items = column.offsets.to_numpy()[1:], column.flatten().to_numpy()
        whole = len(ends) == shard.rows and not column.null_count and ends[-1] == len(items)
        if not whole or (np.diff(ends, prepend=0) < 1).any():
            raise ValueError(f"it has {len(ends):,} rows; expected {shard.rows:,}, each with an item or more")
        if items.min(initial=0) < 0 or items.max(initial=0) >= shard.items:
            raise ValueError(f"it names items beyond the shard's {shard.items:,}")
        rises = np.diff(items) > 0
        rises[ends[:-1] - 1] = True  # from one row to the next
        if shard.moments is not None and not rises.all():
            raise ValueError("it has a row whose items do not rise")
    except (OSError, pa.ArrowException, ValueError, IndexError) as err:
        raise cannot_read(path, err) from err
    return ends, items
