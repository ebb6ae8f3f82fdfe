"""Find the best rows of an index's shards: by scanning them all, or through the engine's candidates.

Either way the scores are exact cosines with the stored vectors; the engine only proposes. A product of
matrices finds the contenders fast, but sums in an order that depends on its shape, so equal vectors would
score differently in the last digits; the contenders are therefore scored again, each alone and in float64.
Hence a score does not depend on the shard, the batch or the way it was found, and equal vectors tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.index.engine import AnnoyEngine
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.manifest import ShardFacts

# Candidates that are rescored for each hit asked for, and at least.
_CANDIDATES_PER_HIT, _CANDIDATES = 10, 200
# Scores held at a time by a scan: 64 MiB of float32.
_SCAN_SCORES = 16 * 1024**2
# Rows scored again at a time.
_RESCORED = 4096
# More than a float32 product of two unit vectors is off by: about 1e-7 is seen at 512 dimensions.
_ROUNDING = np.float32(1e-5)

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Shard:
    """An opened slice of an index: its first row in the whole, its vectors (items, d), its engine."""

    first: int
    vectors: FloatArray
    engine: AnnoyEngine


def open_shards(version: Path, shards: Sequence[ShardFacts], dimensions: int, trees: int) -> list[Shard]:
    """Map the shards' files; raises CorruptIndexError where one is not what `shards` says."""
    firsts = np.cumsum([0, *(facts.items for facts in shards)]).tolist()
    return [
        Shard(
            first,
            _map_vectors(version / facts.vectors, (facts.items, dimensions)),
            AnnoyEngine(version / facts.annoy, dimensions, facts.items, trees),
        )
        for facts, first in zip(shards, firsts[:-1], strict=True)
    ]


def _map_vectors(path: Path, shape: tuple[int, int]) -> FloatArray:
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as err:  # numpy parses a damaged header into half a dozen kinds of error
        raise CorruptIndexError(f"cannot read {path}: {err}; restore the file or rebuild") from err
    if vectors.shape != shape or vectors.dtype != np.float32:
        raise CorruptIndexError(
            f"{path} holds {vectors.dtype} of shape {vectors.shape}, but the manifest says float32 of shape "
            f"{shape}: restore the file or rebuild"
        )
    # A plain view: every operation on a numpy.memmap costs microseconds of bookkeeping.
    plain: FloatArray = np.asarray(vectors).view(np.ndarray)
    return plain


def vector_at(shards: Sequence[Shard], row: int) -> FloatArray:
    """Return the stored vector float32 (d,) of a row of the whole index."""
    shard = next(s for s in reversed(shards) if s.first <= row)
    vector: FloatArray = shard.vectors[row - shard.first]
    return vector


def scan(shards: Sequence[Shard], queries: FloatArray, k: int) -> list[tuple[Rows, Scores]]:
    """Score every vector against unit queries (n, d); return each one's k best rows and cosines, best first."""
    items = sum(len(shard.vectors) for shard in shards)
    rows = np.arange(items)
    block = max(1, _SCAN_SCORES // items)
    found = []
    for start in range(0, len(queries), block):
        part = queries[start : start + block]
        scores = np.concatenate([part @ shard.vectors.T for shard in shards], axis=1)
        found += [_rank(shards, query, rows, row, k) for query, row in zip(part, scores, strict=True)]
    return found


def search_candidates(shards: Sequence[Shard], queries: FloatArray, k: int) -> list[tuple[Rows, Scores]]:
    """As `scan`, but scoring only what the engines propose."""
    return [_search_one(shards, query, k) for query in queries]


def _search_one(shards: Sequence[Shard], query: FloatArray, k: int) -> tuple[Rows, Scores]:
    wanted = max(_CANDIDATES_PER_HIT * k, _CANDIDATES)
    rows, scores = [], []
    for shard in shards:
        candidates = np.sort(shard.engine.candidates(query, wanted))
        rows.append(candidates + shard.first)
        scores.append(shard.vectors[candidates] @ query)
    return _rank(shards, query, np.concatenate(rows), np.concatenate(scores), k)


def _rank(shards: Sequence[Shard], query: FloatArray, rows: Rows, scores: FloatArray, k: int) -> tuple[Rows, Scores]:
    """Return the k best of ascending `rows` and their exact cosines, given float32 scores of all of them."""
    contenders = _contenders(rows, scores, k)
    return _best(contenders, _cosines(shards, query, contenders), k)


def _contenders(rows: Rows, scores: FloatArray, k: int) -> Rows:
    """Return the rows that exact scores may still put among the k best."""
    if k >= len(rows):
        return rows
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    kept: Rows = rows[scores >= threshold - _ROUNDING]
    return kept


def _cosines(shards: Sequence[Shard], query: FloatArray, rows: Rows) -> Scores:
    """Return the cosine of a unit query (d,) with the stored vector of each of ascending `rows`."""
    wide = query.astype(np.float64)
    parts = [np.empty(0)]
    for shard in shards:
        low, high = np.searchsorted(rows, [shard.first, shard.first + len(shard.vectors)]).tolist()
        for start in range(low, high, _RESCORED):
            block = rows[start : min(start + _RESCORED, high)] - shard.first
            parts.append((shard.vectors[block] * wide).sum(axis=1))
    return np.concatenate(parts)


def _best(rows: Rows, scores: Scores, k: int) -> tuple[Rows, Scores]:
    """Return the k best of (rows, scores), best first; equal scores in row order."""
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def ranks(shards: Sequence[Shard], queries: FloatArray, rows: Rows) -> Rows:
    """Return the rank of row `rows[i]` for unit query i by exact cosine, 1 the best; equal scores share it."""
    result = np.empty(len(queries), np.int64)
    for number, (query, row) in enumerate(zip(queries, rows, strict=True)):
        scores = np.concatenate([shard.vectors @ query for shard in shards])
        near = np.flatnonzero(np.abs(scores - scores[row]) <= _ROUNDING)
        cosines = _cosines(shards, query, near)
        above = np.count_nonzero(scores > scores[row] + _ROUNDING)
        result[number] = 1 + above + np.count_nonzero(cosines > cosines[near == row])
    return result


def engine_recall(shards: Sequence[Shard], queries: FloatArray, k: int) -> float:
    """Return recall@k of the engine's candidates for unit queries (n, d), averaged.

    As ann-benchmarks counts it (Aumueller et al., 2018, arXiv:1807.05614): a hit that scores no less than
    the exact k-th counts, so which of several equal vectors was found makes no difference.
    """
    exact, proposed = scan(shards, queries, k), search_candidates(shards, queries, k)
    shares = [np.sum(found >= best[-1]) / len(best) for (_, best), (_, found) in zip(exact, proposed, strict=True)]
    return float(np.mean(shares))
