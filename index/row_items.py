"""Map the rows of a field to items.

Rows are distinct vectors, so one row may belong to several items (reposts), and some items may have no row. A shard's
map is an Arrow file with one list of items per row. If row i is item i throughout, there is no file.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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

    Both are None if row i is item i. Safe to use from several threads.
    """

    rows: int
    count: int  # items of the index
    starts: Items | None
    items: Items | None

    @property
    def is_identity(self) -> bool:
        """Whether row i is item i."""
        return self.starts is None

    @property
    def covers_all(self) -> bool:
        """Whether every item has a row."""
        return self.items is None or len(self.items) == self.count

    @functools.cached_property
    def row_of(self) -> Rows:
        """The row int64 (items,) of each item, -1 for an item without one."""
        if self.starts is None or self.items is None:
            return np.arange(self.count)
        rows = np.full(self.count, -1, np.int64)
        rows[self.items] = np.repeat(np.arange(self.rows), np.diff(self.starts))
        return rows

    @functools.cached_property
    def copies(self) -> NDArray[np.int64]:
        """How many items each row has, int64 (rows,)."""
        return np.ones(self.rows, np.int64) if self.starts is None else np.diff(self.starts)

    def items_of(self, rows: Rows) -> Items:
        """Return the items of rows, row by row, in the given order."""
        if self.starts is None or self.items is None:
            return rows
        starts, ends = self.starts[rows].tolist(), self.starts[rows + 1].tolist()
        return np.concatenate([np.empty(0, np.int64), *map(self.items.__getitem__, map(slice, starts, ends))])

    def expand(
        self, rows: Rows, scores: Scores, k: int, among: NDArray[np.bool_] | None = None
    ) -> tuple[Items, Scores]:
        """Return the k best items of rows sorted by descending score; equal scores in item order.

        `among` bool (items,) selects the items that may be returned.
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
        order = np.lexsort((items, -repeated))[:k]
        return items[order], repeated[order]


def load(version: Path, shards: Sequence[ShardRecord], count: int) -> RowItems:
    """Read a field's map over `count` items; raises CorruptIndexError if it names an item that does not exist."""
    rows = sum(shard.rows for shard in shards)
    whole = rows == count and all(shard.row_items is None for shard in shards)
    if whole:
        return RowItems(rows, count, None, None)
    starts, items = [np.zeros(1, np.int64)], []
    for shard in shards:
        ends, own = _of_shard(version, shard)
        starts.append(ends + starts[-1][-1])
        items.append(own + shard.first_item)
    found = np.concatenate([np.empty(0, np.int64), *items])
    is_named = np.zeros(max(count, int(found.max(initial=-1)) + 1), bool)
    is_named[found] = True
    if len(is_named) > count or np.count_nonzero(is_named) < len(found):
        raise CorruptIndexError(
            f"{version} maps rows to an item that does not exist, or to one twice: restore it or rebuild"
        )
    return RowItems(rows, count, np.concatenate(starts), found)


def _of_shard(version: Path, shard: ShardRecord) -> tuple[Items, Items]:
    """Return where each row's items in a shard end, int64 (rows,), and the items, from 0."""
    if shard.row_items is None:
        return np.arange(1, shard.rows + 1), np.arange(shard.rows)
    path = version / shard.row_items
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
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
    except (OSError, pa.ArrowException, ValueError, IndexError) as err:
        reason = str(err).partition("\n")[0]
        raise CorruptIndexError(f"cannot read {path}: {reason}; restore the file or rebuild") from err
    return ends, items
