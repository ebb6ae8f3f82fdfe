"""The cache of the features of single frames, which only builds with moments read and write.

Its part files lie beside those of the pooled features of the same fingerprint, in a folder of their own, and have the
same names and columns otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gifdex.encoders.feature_cache import FeatureCache, FrameFeatures, Outcome, read_part
from gifdex.schemas import tables
from gifdex.schemas.files import commit_table

# What a folder of single frames is called, after the fingerprint.
SUFFIX = "-frames"
# Features held at a time, in bytes.
_BLOCK_BYTES = 64 * 1024**2
_COLUMNS = ["sha256", "frames", "features", "numbers", "milliseconds"]


@dataclass(frozen=True)
class FrameCache(FeatureCache):
    """The cache of single frames for one fingerprint."""

    @classmethod
    def beside(cls, pooled: FeatureCache) -> FrameCache:
        """Return the cache that belongs to a cache of pooled features."""
        return cls(pooled.root, pooled.fingerprint, pooled.dimensions, pooled.attempt)

    @property
    def folder(self) -> Path:
        """The folder of this fingerprint's part files."""
        return self.root / f"{self.fingerprint}{SUFFIX}"

    def commit(self, path: Path, outcomes: list[Outcome]) -> None:
        """Write one part file, rows in the order given; outcomes with features must have those of each frame."""
        each = [outcome.each for outcome in outcomes]
        rows = {
            **self._columns(outcomes),
            "features": [None if one is None else one.features.astype("<f2").tobytes() for one in each],
            "numbers": [None if one is None else one.numbers for one in each],
            "milliseconds": [None if one is None else one.milliseconds for one in each],
        }
        commit_table(path, pa.table(rows, schema=tables.frame_features(self.dimensions, self.fingerprint)))

    def counts(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Return how many frames each of the ascending, distinct `keys` has, int64 (n,).

        Raises KeyError with the first key that has none.
        """
        return np.array([count for _, count in self._where(keys)], np.int64)

    def blocks(self, keys: Sequence[str]) -> Iterator[list[FrameFeatures]]:
        """Yield the features of ascending, distinct `keys` in their order, in lists of about _BLOCK_BYTES.

        The lists depend on the keys and their counts of frames alone. Raises KeyError with the first key that has none.
        """
        where = self._where(keys)
        size, block = 0, 0
        for place, (_, frames) in enumerate(where):
            size += 2 * self.dimensions * frames
            if size >= _BLOCK_BYTES or place == len(where) - 1:
                parts = sorted({path for path, _ in where[block : place + 1]})
                yield self._read(keys[block : place + 1], parts)
                size, block = 0, place + 1

    def _where(self, keys: Sequence[str]) -> list[tuple[Path, int]]:
        """Return a part file with the features of each key, and its count of frames."""
        wanted = pa.array(keys, pa.string())
        found: dict[str, tuple[Path, int]] = {}
        for path in self.parts(keys[0], keys[-1]) if len(keys) else ():
            table = read_part(path, ["sha256", "frames", "error"])
            table = table.filter(pc.and_(pc.is_in(table["sha256"], wanted), pc.is_null(table["error"])))
            for key, frames in zip(table["sha256"].to_pylist(), table["frames"].to_pylist(), strict=True):
                found.setdefault(key, (path, frames))
        return [found[key] for key in keys]

    def _read(self, keys: Sequence[str], parts: Sequence[Path]) -> list[FrameFeatures]:
        wanted = pa.array(keys, pa.string())
        found: dict[str, FrameFeatures] = {}
        for path in parts:
            table = read_part(path, _COLUMNS)
            table = table.filter(pc.and_(pc.is_in(table["sha256"], wanted), pc.is_valid(table["features"])))
            for row in table.to_batches():
                for key, _, features, numbers, milliseconds in zip(*(row[name] for name in _COLUMNS), strict=True):
                    vectors = np.frombuffer(features.as_buffer(), "<f2").reshape(-1, self.dimensions)
                    times = np.array(milliseconds.as_py(), np.int64)
                    found.setdefault(key.as_py(), FrameFeatures(vectors, np.array(numbers.as_py(), np.int32), times))
        return [found[key] for key in keys]
