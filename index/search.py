"""Find the best rows of an index's shards: an engine proposes candidates in few dimensions, all score them.

Scores are exact cosines with the stored vectors, whatever proposed them. A product of float32 finds the contenders
fast, but sums in an order that depends on its shape, so equal vectors would score differently in the last digits;
the contenders are therefore scored again, each alone and in float64. Hence a score does not depend on the shard,
the batch or the way it was found, and equal vectors tie.
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

# Hits that `num_candidates` is for.
_CANDIDATE_HITS = 10
# So few rows are scored as soon as candidates are found.
_SMALL = 512
# Reading a vector here and there takes longer than reading it in order by this factor or more.
_SCANNED = 2
# Of so few scores the highest are found at once.
_FEW = 4096
# Scores held at a time by an exact scan: 64 MiB of float32.
_SCAN_SCORES = 16 * 1024**2

Found = tuple[Rows, Scores]


class Shard:
    """An opened slice of a field: its first row in the whole, its stored vectors, and its engines."""

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
        """Raise CorruptIndexError where an engine's file does not have the shard's counts, by its header."""
        for name, record in engines.items():
            registry.kind(name).check(self._version / self._record.engines[name], len(self), record)


def open_shards(version: Path, field: FieldRecord) -> list[Shard]:
    """Map the vectors of a field's shards; raises CorruptIndexError where a file is not what the record says."""
    firsts = np.cumsum([0, *(shard.rows for shard in field.shards)]).tolist()
    return [
        Shard(version, shard, first, StoredVectors(map_npy(version / shard.vectors, shape, field.dtype)))
        for shard, first in zip(field.shards, firsts[:-1], strict=True)
        for shape in [(shard.rows, field.dimensions)]
    ]


def candidates_for(num_candidates: int, k: int) -> int:
    """Return how many candidates are asked for k hits: `num_candidates` for ten or fewer, as the root of k beyond."""
    return max(k + k // 2, math.ceil(num_candidates * math.sqrt(max(k, _CANDIDATE_HITS) / _CANDIDATE_HITS)))


class Searcher:
    """A field's shards, and the engines over them. It answers with rows."""

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
        """Open an engine's files, which the first search would do else."""
        for shard in self.shards:
            shard.engine(engine, self.engines[engine])

    def search(self, queries: FloatArray, k: int, engine: str, num_candidates: int) -> list[Found]:
        """Return, for unit queries (n, d), each one's k best rows of those that `engine` proposes, and their cosines.

        `num_candidates` of each shard are rescored for ten hits or fewer, more for more.
        """
        return self.search_among(queries, k, engine, candidates_for(num_candidates, k))

    def search_among(
        self, queries: FloatArray, k: int, engine: str, count: int, without: Rows | None = None
    ) -> list[Found]:
        """As `search`, of `count` candidates of each shard; `without` (n,) are rows that the queries leave out."""
        if self.rows <= _SMALL or _SCANNED * count * len(self.shards) >= self.rows:
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
        """Score every vector against unit queries (n, d); return each one's k best rows and cosines, best first."""
        if without is None:
            return _merged([_scanned(shard, queries, k, None) for shard in self.shards], k)
        found = self.scan(queries, k + 1)
        kept = [rows != own for (rows, _), own in zip(found, without, strict=True)]
        return [(rows[mask][:k], scores[mask][:k]) for (rows, scores), mask in zip(found, kept, strict=True)]

    def scan_rows(self, queries: FloatArray, rows: Rows, k: int) -> list[Found]:
        """As `scan`, of ascending `rows` alone, and with all rows that score as the k-th does.

        A filter may hide a row's first item, so only the items tell which of them come first.
        """
        parts = [(shard, self._within(shard, rows)) for shard in self.shards]
        if not len(rows):
            return [(rows, np.empty(0))] * len(queries)
        found = [_scanned(shard, queries, k, part, ties=True) for shard, part in parts if len(part)]
        return [_with_ties(rows, scores, k) for rows, scores in _merged(found, len(rows))]

    def vectors_at(self, rows: Rows) -> FloatArray:
        """Return the unit vectors float32 (n, d) of ascending rows."""
        return np.concatenate([shard.vectors.at(self._within(shard, rows)) for shard in self.shards])

    def products(self, query: FloatArray) -> FloatArray:
        """Return the products float32 (rows,) of a unit query (d,) with all vectors, exact to within ROUNDING."""
        return np.concatenate([shard.vectors.products(query[None])[0] for shard in self.shards])

    def cosines(self, query: FloatArray, rows: Rows) -> Scores:
        """Return the exact cosines float64 (n,) of a unit query (d,) with the vectors of ascending rows."""
        return np.concatenate([shard.vectors.cosines(query, self._within(shard, rows)) for shard in self.shards])

    def _within(self, shard: Shard, rows: Rows) -> Rows:
        """Return those of ascending rows that lie in a shard, counted from its first."""
        low, high = np.searchsorted(rows, [shard.first, shard.first + len(shard)]).tolist()
        return rows[low:high] - shard.first


def shard_rows(shard: Shard, rows: Rows) -> Rows:
    """Return rows counted from a shard's first, -1 for those of other shards."""
    own = rows - shard.first
    return np.where((own >= 0) & (own < len(shard)), own, -1)


def _scanned(shard: Shard, queries: FloatArray, k: int, rows: Rows | None, *, ties: bool = False) -> list[Found]:
    """Return the k best of a shard's rows (all, or those given, counted from its first) for each unit query.

    With `ties`, a few more come, and among them all that score as the k-th does.
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
    """Return the k first of (rows, scores), which are sorted, and those behind them with the score of the k-th."""
    if k < len(scores):
        count = int(np.count_nonzero(scores >= scores[k - 1]))
        rows, scores = rows[:count], scores[:count]
    return rows, scores


def _merged(parts: Sequence[Sequence[Found]], k: int) -> list[Found]:
    """Return the k best of what several shards have for each query."""
    if len(parts) == 1:
        return list(parts[0])
    return [
        best(np.concatenate([rows for rows, _ in found]), np.concatenate([scores for _, scores in found]), k)
        for found in zip(*parts, strict=True)
    ]


def _rescored(shard: Shard, query: FloatArray, rows: Rows, k: int) -> Found:
    """Return the k best of a shard's rows, counted from its first, for a unit query (d,), and their exact cosines."""
    found, scores = shard.vectors.rescore(query, rows, k)
    found += shard.first
    return found, scores


def contenders(scores: FloatArray, k: int, rounding: float = ROUNDING) -> Rows:
    """Return the places of float32 (n,) scores, `rounding` off, that exact ones may still put among the k best."""
    check_finite(scores)
    if k >= len(scores):
        return np.arange(len(scores))
    high = scores if len(scores) < _FEW else scores[highest(scores, k)]
    threshold = np.partition(high, len(high) - k)[len(high) - k]
    return np.flatnonzero(scores >= threshold - rounding)


def best(rows: Rows, scores: Scores, k: int) -> Found:
    """Return the k best of (rows, scores), best first; equal scores in row order."""
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def shares(exact: Sequence[Found], found: Sequence[Found]) -> list[float]:
    """Return, for each query, the share of the exact hits that were found, 1 where there are none.

    As ann-benchmarks counts it (Aumueller et al., 2018, arXiv:1807.05614): a hit that scores no less than
    the exact k-th counts, so which of several equal vectors was found makes no difference.
    """
    return [
        min(float(np.sum(scores >= best[-1])) / len(best), 1.0) if len(best) else 1.0
        for (_, best), (_, scores) in zip(exact, found, strict=True)
    ]


def recall(exact: Sequence[Found], found: Sequence[Found]) -> float:
    """Return the mean of `shares`, 1 where no query was asked."""
    return float(np.mean(shares(exact, found))) if found else 1.0
