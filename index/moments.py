"""When the frames of a field are shown: one time and frame number for each pair of a row and an item.

A shard's times are an Arrow file, with one row for each entry of its map from rows to items, in the same order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gifdex.index.row_items import Items, cannot_read, map_arrow
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.files import committing
from gifdex.schemas.manifest import ShardRecord

SUFFIX = ".moments.arrow"
_SCHEMA = pa.schema(
    [pa.field("milliseconds", pa.int64(), nullable=False), pa.field("frame", pa.int32(), nullable=False)]
)


@dataclass(frozen=True)
class Times:
    """When frames are first shown, in `milliseconds` int64 (n,), and their `frames` int32 (n,), numbered from 0."""

    milliseconds: NDArray[np.int64]
    frames: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.milliseconds)

    def at(self, places: Items) -> Times:
        """Return the times at positions (m,)."""
        return Times(self.milliseconds[places], self.frames[places])


def distinct_frames(
    keys: Sequence[bytes], times: Times, starts: Sequence[int], gifs: Sequence[int]
) -> tuple[Items, list[Items], Times]:
    """Group a shard's frames into rows of equal keys.

    GIF g has the frames `starts[g]` to `starts[g + 1]` of `keys` (n,) and `times` (n,); item i (from 0) is GIF
    `gifs[i]`. Return each row's first frame, each row's items, ascending, and the time of each of these pairs: the
    first at which the item shows a frame of that key. Rows are in the order of their first items, then of time.
    """
    groups: dict[bytes, dict[int, int]] = {}
    for item, gif in enumerate(gifs):
        for frame in range(starts[gif], starts[gif + 1]):
            groups.setdefault(keys[frame], {}).setdefault(item, frame)
    firsts = np.array([next(iter(group.values())) for group in groups.values()], np.int64)
    shown = np.array([frame for group in groups.values() for frame in group.values()], np.int64)
    return firsts, [np.array(list(group), np.int64) for group in groups.values()], times.at(shown)


def write(path: Path, times: Times) -> None:
    """Write the times of a shard's pairs of rows and items."""
    columns = [pa.array(times.milliseconds, pa.int64()), pa.array(times.frames, pa.int32())]
    with committing(path) as temporary, pa.ipc.new_file(str(temporary), _SCHEMA) as writer:
        writer.write_table(pa.table(columns, schema=_SCHEMA))


class Moments:
    """A field's times, for all pairs of rows and items in order; read when they are first asked for."""

    def __init__(self, read: Callable[[], Times]) -> None:
        self._read = read

    @functools.cached_property
    def _times(self) -> Times:
        return self._read()

    def at(self, entries: Items, total: int) -> Times:
        """Return the times of entries (`RowItems.entries_of`), of which there are `total`; raises CorruptIndexError."""
        times = self._times
        if len(times) != total:
            raise CorruptIndexError(
                f"there are {len(times):,} times for {total:,} pairs of frames and items: restore the index or rebuild"
            )
        return times.at(entries)


def opened(version: Path, shards: Sequence[ShardRecord]) -> Moments | None:
    """Map the times of a field's shards, or return None for a field without; raises CorruptIndexError."""
    paths = [version / shard.moments for shard in shards if shard.moments is not None]
    if not paths:
        return None
    sources = [map_arrow(path) for path in paths]

    def read() -> Times:
        parts = [_read(path, source) for path, source in zip(paths, sources, strict=True)]
        return Times(
            np.concatenate([part.milliseconds for part in parts]), np.concatenate([part.frames for part in parts])
        )

    return Moments(read)


def _read(path: Path, source: pa.MemoryMappedFile) -> Times:
    try:
        table = pa.ipc.open_file(source).read_all()
        if table.schema.names != _SCHEMA.names or table.schema.types != _SCHEMA.types:
            raise ValueError(f"its columns are {table.schema.names}")
        table.validate(full=True)
        times = Times(table["milliseconds"].to_numpy(), table["frame"].to_numpy())
        if times.milliseconds.min(initial=0) < 0 or times.frames.min(initial=0) < 0:
            raise ValueError("it has times or frames below 0")
    except (OSError, pa.ArrowException, ValueError) as err:
        raise cannot_read(path, err) from err
    return times
