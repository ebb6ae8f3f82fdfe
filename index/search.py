"""Find the best rows of a field's shards: an engine proposes candidates, which are rescored in all dimensions.

Scores are exact cosines with the stored vectors, whichever engine proposed them. A float32 matrix product finds the
contenders fast, but the order of its sums depends on its shape, so equal vectors could differ in the last digits. The
contenders are therefore rescored one at a time in float64. So a score does not depend on the shard, the batch or the
engine, and equal vectors tie.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gifdex.encoders.base import FloatArray
from gifdex.index.engines import registry
from gifdex.index.engines.base import Engine, Rows
from gifdex.index.reduction import Reduction
from gifdex.index.scores import check_finite, highest
from gifdex.index.vectors import ROUNDING, Scores, StoredVectors, map_npy
from gifdex.schemas.manifest import EngineRecord, FieldRecord, ShardRecord

# The number of hits that `num_candidates` is tuned for.
_TUNED_HITS = 10
# Up to this many rows, an exact scan is as fast as finding candidates.
_MAX_SCANNED_ROWS = 512
# Random access to a vector takes at least this many times as long as sequential access.
_RANDOM_ACCESS_COST = 2
# Below this many scores, a partition finds the highest directly.
_MIN_FOLDED_SCORES = 4096
# Scores held at a time by an exact scan: 64 MiB of float32.
_SCAN_SCORES = 16 * 1024**2

Found = tuple[Rows, Scores]


class Shard:
    """An opened shard of a field: the number of its first row, its stored vectors, and its engines."""

    def __init__(self, version: Path, record: ShardRecord, first: int, vectors: StoredVectors) -> None:
        self.first = first
        self.vectors = vectors
        self._version = version
        self._record = record
        self._engines: dict[str, Engine] = {}
        self._lock = threading.Lock()  # one thread opens an engine, the others wait for it

    def __len__(self) -> int:
        return self._record.rows

    def engine(self, name: str, record: EngineRecord) -> Engine:
        """Return an engine, opened once; raises CorruptIndexError."""
        opened = self._engines.get(name)
        if opened is None:
            with self._lock:
                opened = self._engines.get(name)
                if opened is None:
                    opened = registry.kind(name).open(self._version / self._record.engines[name], len(self), record)
                    self._engines[name] = opened
        return opened

    def check(self, engines: Mapping[str, EngineRecord]) -> None:
        """Raise CorruptIndexError if the header of an engine's file has other counts than the shard."""
        for name, record in engines.items():
            registry.kind(name).check(self._version / self._record.engines[name], len(self), record)


def open_shards(version: Path, field: FieldRecord) -> list[Shard]:
    """Map the vectors of a field's shards; raises CorruptIndexError if a file differs from the record."""
    firsts = np.cumsum([0, *(shard.rows for shard in field.shards)]).tolist()
    return [
        Shard(version, shard, first, StoredVectors(map_npy(version / shard.vectors, shape, field.dtype)))
        for shard, first in zip(field.shards, firsts[:-1], strict=True)
        for shape in [(shard.rows, field.dimensions)]
    ]


def candidates_for(num_candidates: int, k: int) -> int:
    """Return the number of candidates for k hits: `num_candidates` for up to ten, then growing with the root of k."""
    return max(k + k // 2, math.ceil(num_candidates * math.sqrt(max(k, _TUNED_HITS) / _TUNED_HITS)))


class Searcher:
    """Searches a field's shards with their engines; results are rows."""

    def __init__(
        self, shards: Sequence[Shard], engines: Mapping[str, EngineRecord], reduction: Reduction | None
    ) -> None:
        self.shards = tuple(shards)
        self.engines = dict(engines)
        self.rows = sum(len(shard) for shard in shards)
        self._maps = {
            record.dimensions: reduction.for_queries(record.dimensions)
            for record in engines.values()
            if reduction is not None
        }

    def prepare(self, engine: str) -> None:
        """Open an engine's files, which otherwise happens at the first search."""
        for shard in self.shards:
            shard.engine(engine, self.engines[engine])

    def search(self, queries: FloatArray, k: int, engine: str, num_candidates: int) -> list[Found]:
        """Return the k best of the rows that `engine` proposes for each of the unit queries (n, d), and their cosines.

        Rescores `num_candidates` rows per shard for up to ten hits, and more for more hits.
        """
        return self.search_among(queries, k, engine, candidates_for(num_candidates, k))

    def search_among(
        self, queries: FloatArray, k: int, engine: str, count: int, without: Rows | None = None
    ) -> list[Found]:
        """Search with `count` candidates per shard; `without` (n,) is the row that each query must not find, or -1."""
        if self.rows <= _MAX_SCANNED_ROWS or _RANDOM_ACCESS_COST * count * len(self.shards) >= self.rows:
            return self.scan(queries, k, without)
        record = self.engines[engine]
        reduced = queries if not self._maps else self._maps[record.dimensions](queries)
        parts = []
        for shard in self.shards:
            own = None if without is None else shard_rows(shard, without)
            proposed = shard.engine(engine, record).candidates(reduced, min(count, len(shard)), own)
            parts.append([_rescored(shard, query, rows, k) for query, rows in zip(queries, proposed, strict=True)])
        return _merged(parts, k)

    def scan(self, queries: FloatArray, k: int, without: Rows | None = None) -> list[Found]:
        """Score every vector against unit queries (n, d); return each query's k best rows and cosines, best first."""
        if without is None:
            return _merged([_scanned(shard, queries, k, None) for shard in self.shards], k)
        found = self.scan(queries, k + 1)
        kept = [rows != own for (rows, _), own in zip(found, without, strict=True)]
        return [(rows[mask][:k], scores[mask][:k]) for (rows, scores), mask in zip(found, kept, strict=True)]

    def scan_rows(self, queries: FloatArray, rows: Rows, k: int) -> list[Found]:
        """Scan only the ascending `rows`, and also return all rows that tie with the k-th.

        A filter may exclude a row's first item, so ties can only be ordered by item.
        """
        parts = [(shard, self._within(shard, rows)) for shard in self.shards]
        if not len(rows):
            return [(rows, np.empty(0))] * len(queries)
        found = [_scanned(shard, queries, k, part, ties=True) for shard, part in parts if len(part)]
        return [_with_ties(rows, scores, k) for rows, scores in _merged(found, len(rows))]

    def vectors_at(self, rows: Rows) -> FloatArray:
        """Return the unit vectors float32 (n, d) of ascending rows."""
        return np.concatenate([shard.vectors.at(self._within(shard, rows)) for shard in self.shards])

    def stored_at(self, rows: Rows) -> FloatArray:
        """Return the vectors float32 (n, d) of ascending rows in their own length, as they are stored."""
        return np.concatenate([shard.vectors.stored_at(self._within(shard, rows)) for shard in self.shards])

    def products(self, query: FloatArray) -> FloatArray:
        """Return the products float32 (rows,) of a unit query (d,) with all vectors, exact to within ROUNDING."""
        return np.concatenate([shard.vectors.products(query[None])[0] for shard in self.shards])

    def cosines(self, query: FloatArray, rows: Rows) -> Scores:
        """Return the exact cosines float64 (n,) of a unit query (d,) with the vectors of ascending rows."""
        return np.concatenate([shard.vectors.cosines(query, self._within(shard, rows)) for shard in self.shards])

    def _within(self, shard: Shard, rows: Rows) -> Rows:
        """Return those of the ascending rows that lie in a shard, relative to its first row."""
        low, high = np.searchsorted(rows, [shard.first, shard.first + len(shard)]).tolist()
        return rows[low:high] - shard.first


def shard_rows(shard: Shard, rows: Rows) -> Rows:
    """Return rows relative to a shard's first row, -1 for those of other shards."""
    own = rows - shard.first
    return np.where((own >= 0) & (own < len(shard)), own, -1)


def _scanned(shard: Shard, queries: FloatArray, k: int, rows: Rows | None, *, ties: bool = False) -> list[Found]:
    """Return the k best of a shard's rows (all, or those given, relative to its first) for each unit query.

    With `ties`, returns a few more, including all that tie with the k-th.
    """
    found = []
    block = max(1, _SCAN_SCORES // (len(shard) if rows is None else len(rows)))
    for start in range(0, len(queries), block):
        part = queries[start : start + block]
        for query, row in zip(part, shard.vectors.products(part, rows), strict=True):
            kept = contenders(row, k)
            count = max(k, len(kept)) if ties else k
            found.append(_rescored(shard, query, kept if rows is None else rows[kept], count))
    return found


def _with_ties(rows: Rows, scores: Scores, k: int) -> Found:
    """Return the first k of the sorted (rows, scores), and those after them that tie with the k-th."""
    if k < len(scores):
        count = int(np.count_nonzero(scores >= scores[k - 1]))
        rows, scores = rows[:count], scores[:count]
    return rows, scores


def _merged(parts: Sequence[Sequence[Found]], k: int) -> list[Found]:
    """Merge the results of several shards into the k best for each query."""
    if len(parts) == 1:
        return list(parts[0])
    return [
        best(np.concatenate([rows for rows, _ in found]), np.concatenate([scores for _, scores in found]), k)
        for found in zip(*parts, strict=True)
    ]


def _rescored(shard: Shard, query: FloatArray, rows: Rows, k: int) -> Found:
    """Return the k best of a shard's rows, relative to its first, for a unit query (d,), and their exact cosines."""
    found, scores = shard.vectors.rescore(query, rows, k)
    found += shard.first
    return found, scores


def contenders(scores: FloatArray, k: int, rounding: float = ROUNDING) -> Rows:
    """Return the positions of float32 (n,) scores that may be among the k best exact scores, within `rounding`."""
    check_finite(scores)
    if k >= len(scores):
        return np.arange(len(scores))
    high = scores if len(scores) < _MIN_FOLDED_SCORES else scores[highest(scores, k)]
    threshold = np.partition(high, len(high) - k)[len(high) - k]
    return np.flatnonzero(scores >= threshold - rounding)


def best(rows: Rows, scores: Scores, k: int) -> Found:
    """Return the k best of (rows, scores), best first; equal scores in row order."""
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def shares(exact: Sequence[Found], found: Sequence[Found]) -> list[float]:
    """Return, for each query, the share of the exact hits that were found, 1 if there are none.

    As in ann-benchmarks (Aumueller et al., 2018, arXiv:1807.05614), a hit counts if it scores at least as high as the
    exact k-th, so it does not matter which of several equal vectors was found.
    """
    return [
        min(float(np.sum(scores >= best[-1])) / len(best), 1.0) if len(best) else 1.0
        for (_, best), (_, scores) in zip(exact, found, strict=True)
    ]


def recall(exact: Sequence[Found], found: Sequence[Found]) -> float:
    """Return the mean of `shares`, 1 without queries."""
    return float(np.mean(shares(exact, found))) if found else 1.0
