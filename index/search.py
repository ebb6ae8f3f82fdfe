"""Find the best rows of an index's shards: an engine proposes candidates in few dimensions, all score them.

Scores are exact cosines with the stored vectors, whatever proposed them. A product of float32 finds the contenders
fast, but sums in an order that depends on its shape, so equal vectors would score differently in the last digits;
the contenders are therefore scored again, each alone and in float64. Hence a score does not depend on the shard,
the batch or the way it was found, and equal vectors tie.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.index import kernels
from gifdex.index.engines import annoy_trees, hnsw
from gifdex.index.engines.annoy_trees import AnnoyEngine
from gifdex.index.engines.base import Engine, Rows
from gifdex.index.engines.hnsw import HnswEngine
from gifdex.index.engines.scan import NOT_FINITE, ScanEngine, check_finite, highest, products
from gifdex.index.engines.settings import ANNOY, HNSW, SCAN
from gifdex.index.reduction import Reduction
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.manifest import EngineFacts, ShardFacts

# Hits that an effort is for.
_EFFORT_HITS = 10
# So few items are scored as soon as candidates are found.
_SMALL = 512
# Reading a vector here and there takes longer than reading it in order by this factor or more.
_SCANNED = 2
# Of so few scores the highest are found at once.
_FEW = 4096
# Scores held at a time by an exact scan: 64 MiB of float32.
_SCAN_SCORES = 16 * 1024**2
# Vectors copied together at a time.
_COPIED = 4096
# More than a float32 product of two unit vectors is off by: about 1e-7 is seen at 512 dimensions.
_ROUNDING = 1e-5

_ODD_ROWS = (
    "an engine's file names rows that are none, or one twice, so its bytes were altered: see which with gifdex verify, "
    "and restore the file or rebuild"
)

Scores = NDArray[np.float64]


class Shard:
    """An opened slice of an index: its first row in the whole, its vectors (items, d), and its engines."""

    def __init__(
        self,
        version: Path,
        facts: ShardFacts,
        first: int,
        vectors: FloatArray,
        reduced: bool,
        engines: Mapping[str, Engine] | None = None,
    ) -> None:
        """Take mapped vectors, whether there is a reduction, and engines that are open already."""
        self.first = first
        self.vectors = vectors
        self._version = version
        self._reduced = reduced
        self._facts = facts
        self._engines: dict[str, Engine] = dict(engines or {})
        self._lock = threading.Lock()  # one thread opens an engine, the others wait for it

    def __len__(self) -> int:
        return self._facts.items

    def engine(self, name: str, facts: EngineFacts) -> Engine:
        """Return an engine, opened once; raises CorruptIndexError."""
        opened = self._engines.get(name)
        if opened is None:
            with self._lock:
                opened = self._engines.get(name) or self._open(name, facts)
                self._engines[name] = opened
        return opened

    def check(self, engines: Mapping[str, EngineFacts]) -> None:
        """Raise CorruptIndexError where an engine's file does not have the shard's counts, by its header."""
        for name, facts in engines.items():
            if name == ANNOY:
                path = self._version / self._facts.engines[name]
                annoy_trees.map_vectors(path, len(self), facts.dimensions, annoy_trees.metric(self._reduced))
            elif name == HNSW:
                hnsw.check_file(self._version / self._facts.engines[name], len(self), facts.dimensions)

    def _open(self, name: str, facts: EngineFacts) -> Engine:
        if name == SCAN and not self._reduced:
            return ScanEngine(self.vectors)
        path = self._version / self._facts.engines[ANNOY if name == SCAN else name]
        metric = annoy_trees.metric(self._reduced)
        if name == SCAN:
            return ScanEngine(annoy_trees.map_vectors(path, len(self), facts.dimensions, metric))
        if name == ANNOY:
            return AnnoyEngine(path, len(self), facts.dimensions, metric)
        return HnswEngine(path, len(self), facts.dimensions)


def open_shards(version: Path, shards: Sequence[ShardFacts], dimensions: int, reduced: bool) -> list[Shard]:
    """Map the shards' vectors; raises CorruptIndexError where a file is not what `shards` says."""
    firsts = np.cumsum([0, *(facts.items for facts in shards)]).tolist()
    return [
        Shard(version, facts, first, _map_vectors(version / facts.vectors, (facts.items, dimensions)), reduced)
        for facts, first in zip(shards, firsts[:-1], strict=True)
    ]


def _map_vectors(path: Path, shape: tuple[int, int]) -> FloatArray:
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as err:  # numpy parses a damaged header into half a dozen kinds of error
        reason = str(err).partition("\n")[0]  # numpy may go on with advice
        raise CorruptIndexError(f"cannot read {path}: {reason}; restore the file or rebuild") from err
    if (
        vectors.shape != shape
        or vectors.dtype != np.float32
        or not (vectors.flags.c_contiguous and vectors.flags.aligned)
    ):
        raise CorruptIndexError(
            f"{path} holds {vectors.dtype} of shape {vectors.shape}, but the manifest says float32 of shape "
            f"{shape}, row by row from a multiple of its size: restore the file or rebuild"
        )
    # A plain view: every operation on a numpy.memmap costs microseconds of bookkeeping.
    plain: FloatArray = np.asarray(vectors).view(np.ndarray)
    return plain


def candidates(effort: int, k: int) -> int:
    """Return how many candidates an effort is for k hits: itself for ten or fewer, growing as the root of k beyond."""
    return max(k + k // 2, math.ceil(effort * math.sqrt(max(k, _EFFORT_HITS) / _EFFORT_HITS)))


class Searcher:
    """An index's shards, and the engines over them."""

    def __init__(
        self, shards: Sequence[Shard], engines: Mapping[str, EngineFacts], reduction: Reduction | None
    ) -> None:
        self.shards = tuple(shards)
        self.engines = dict(engines)
        self.items = sum(len(shard) for shard in shards)
        self._maps = {
            facts.dimensions: reduction.for_queries(facts.dimensions)
            for facts in engines.values()
            if reduction is not None
        }

    def without(self, number: int) -> Searcher:
        """Return a searcher of all shards but one; rows keep their numbers, and it scans where this one would."""
        other = copy.copy(self)
        other.shards = self.shards[:number] + self.shards[number + 1 :]
        return other

    def prepare(self, engine: str) -> None:
        """Open an engine's files, which the first search would do else."""
        for shard in self.shards:
            shard.engine(engine, self.engines[engine])

    def search(self, queries: FloatArray, k: int, engine: str, effort: int) -> list[tuple[Rows, Scores]]:
        """Return, for unit queries (n, d), each one's k best rows of those that `engine` proposes, and their cosines.

        `effort` candidates of each shard are rescored for ten hits or fewer, more for more.
        """
        return self.search_among(queries, k, engine, candidates(effort, k))

    def search_among(
        self, queries: FloatArray, k: int, engine: str, count: int, without: Rows | None = None
    ) -> list[tuple[Rows, Scores]]:
        """As `search`, of `count` candidates of each shard; `without` (n,) are rows as for Engine.candidates."""
        facts = self.engines[engine]
        if self.items <= _SMALL or _SCANNED * count * len(self.shards) >= self.items:
            return self.scan(queries, k)
        reduced = queries if not self._maps else self._maps[facts.dimensions](queries)
        proposed = [
            (shard, shard.engine(engine, facts).candidates(reduced, min(count, len(shard)), _own(shard, without)))
            for shard in self.shards
        ]
        return _merged(
            [
                [_scored(shard, query, rows, k) for query, rows in zip(queries, found, strict=True)]
                for shard, found in proposed
            ],
            k,
        )

    def scan(self, queries: FloatArray, k: int) -> list[tuple[Rows, Scores]]:
        """Score every vector against unit queries (n, d); return each one's k best rows and cosines, best first."""
        return _merged([_scanned(shard, queries, k, None) for shard in self.shards], k)

    def scan_rows(self, queries: FloatArray, rows: Rows, k: int) -> list[tuple[Rows, Scores]]:
        """As `scan`, of ascending `rows` alone."""
        parts = [(shard, self._within(shard, rows)) for shard in self.shards]
        if not len(rows):
            return [(rows, np.empty(0))] * len(queries)
        return _merged([_scanned(shard, queries, k, part) for shard, part in parts if len(part)], k)

    def vectors_at(self, rows: Rows) -> FloatArray:
        """Return the stored vectors float32 (n, d) of ascending rows of the whole index."""
        return np.concatenate([shard.vectors[self._within(shard, rows)] for shard in self.shards])

    def _within(self, shard: Shard, rows: Rows) -> Rows:
        """Return those of ascending rows that lie in a shard, counted from its first."""
        low, high = np.searchsorted(rows, [shard.first, shard.first + len(shard)]).tolist()
        return rows[low:high] - shard.first

    def ranks(self, queries: FloatArray, rows: Rows) -> Rows:
        """Return the rank of row `rows[i]` for unit query i by exact cosine, 1 the best; equal scores share it."""
        result = np.empty(len(queries), np.int64)
        for number, (query, row) in enumerate(zip(queries, rows, strict=True)):
            scores = np.concatenate([shard.vectors @ query for shard in self.shards])
            near = np.flatnonzero(np.abs(scores - scores[row]) <= _ROUNDING)
            ((found, cosines),) = self.scan_rows(query[None], near, len(near))
            above = np.count_nonzero(scores > scores[row] + _ROUNDING)
            result[number] = 1 + above + np.count_nonzero(cosines > cosines[found == row])
        return result


def _own(shard: Shard, rows: Rows | None) -> Rows | None:
    """Return rows of the whole index counted from the shard's first, -1 for those of others."""
    if rows is None:
        return None
    own = rows - shard.first
    return np.where((own >= 0) & (own < len(shard)), own, -1)


def _scanned(shard: Shard, queries: FloatArray, k: int, rows: Rows | None) -> list[tuple[Rows, Scores]]:
    """Return the k best of a shard's rows (all, or those given, counted from its first) for each unit query."""
    found = []
    block = max(1, _SCAN_SCORES // (len(shard) if rows is None else len(rows)))
    for start in range(0, len(queries), block):
        part = queries[start : start + block]
        if rows is None:
            scores = products(part, shard.vectors)
        else:
            blocks = [rows[first : first + _COPIED] for first in range(0, len(rows), _COPIED)]
            scores = np.concatenate([products(part, shard.vectors[block]) for block in blocks], axis=1)
        for query, row in zip(part, scores, strict=True):
            kept = _contenders(row, k)
            found.append(_scored(shard, query, kept if rows is None else rows[kept], k))
    return found


def _merged(parts: Sequence[Sequence[tuple[Rows, Scores]]], k: int) -> list[tuple[Rows, Scores]]:
    """Return the k best of what several shards have for each query."""
    if len(parts) == 1:
        return list(parts[0])
    return [
        _best(np.concatenate([rows for rows, _ in found]), np.concatenate([scores for _, scores in found]), k)
        for found in zip(*parts, strict=True)
    ]


def _scored(shard: Shard, query: FloatArray, rows: Rows, k: int) -> tuple[Rows, Scores]:
    """Return the k best of a shard's rows, counted from its first, for a unit query (d,), and their exact cosines."""
    kept = min(k, len(rows))
    found, scores = np.empty(kept, np.int64), np.empty(kept)
    try:
        kernels.rescore(shard.vectors, rows, query, k, _ROUNDING, found, scores)
    except FloatingPointError as err:
        raise CorruptIndexError(NOT_FINITE) from err
    except IndexError as err:
        raise CorruptIndexError(_ODD_ROWS) from err
    found += shard.first
    return found, scores


def _contenders(scores: FloatArray, k: int) -> Rows:
    """Return the places of float32 (n,) scores that exact ones may still put among the k best."""
    check_finite(scores)
    if k >= len(scores):
        return np.arange(len(scores))
    high = scores if len(scores) < _FEW else scores[highest(scores, k)]
    threshold = np.partition(high, len(high) - k)[len(high) - k]
    return np.flatnonzero(scores >= threshold - _ROUNDING)


def _best(rows: Rows, scores: Scores, k: int) -> tuple[Rows, Scores]:
    """Return the k best of (rows, scores), best first; equal scores in row order."""
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def recall(exact: Sequence[tuple[Rows, Scores]], found: Sequence[tuple[Rows, Scores]]) -> float:
    """Return the mean share of the exact hits that were found, 1 where there are none.

    As ann-benchmarks counts it (Aumueller et al., 2018, arXiv:1807.05614): a hit that scores no less than
    the exact k-th counts, so which of several equal vectors was found makes no difference.
    """
    shares = [
        min(np.sum(scores >= best[-1]) / len(best), 1.0) if len(best) else 1.0
        for (_, best), (_, scores) in zip(exact, found, strict=True)
    ]
    return float(np.mean(shares)) if shares else 1.0
