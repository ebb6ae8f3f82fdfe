"""Find the best rows of an index's shards: by scanning them all, or through the engine's candidates.

Either way the scores are exact cosines with the stored vectors; the engine only proposes.
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

Rows = NDArray[np.int64]


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
    except (OSError, ValueError, EOFError) as err:
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
    return shard.vectors[row - shard.first]


def scan(shards: Sequence[Shard], queries: FloatArray, k: int) -> list[tuple[Rows, FloatArray]]:
    """Score every vector against unit queries (n, d); return each one's k best rows and cosines, best first."""
    items = sum(len(shard.vectors) for shard in shards)
    block = max(1, _SCAN_SCORES // max(1, items))
    found = []
    for start in range(0, len(queries), block):
        part = queries[start : start + block]
        scores = np.concatenate([part @ shard.vectors.T for shard in shards], axis=1)
        found += [_best(np.arange(items), row, k) for row in scores]
    return found


def search_candidates(shards: Sequence[Shard], queries: FloatArray, k: int) -> list[tuple[Rows, FloatArray]]:
    """As `scan`, but scoring only what the engines propose."""
    return [_search_one(shards, query, k) for query in queries]


def _search_one(shards: Sequence[Shard], query: FloatArray, k: int) -> tuple[Rows, FloatArray]:
    wanted = max(_CANDIDATES_PER_HIT * k, _CANDIDATES)
    rows, scores = [], []
    for shard in shards:
        candidates = np.sort(shard.engine.candidates(query, wanted))
        rows.append(candidates + shard.first)
        scores.append(shard.vectors[candidates] @ query)
    return _best(np.concatenate(rows), np.concatenate(scores), k)


def _best(rows: Rows, scores: FloatArray, k: int) -> tuple[Rows, FloatArray]:
    """Return the k best of (rows, scores), best first; equal scores in row order."""
    if k < len(rows):
        # Everything that ties with the k-th stays in, so that row order decides among ties.
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        keep = scores >= threshold
        rows, scores = rows[keep], scores[keep]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def engine_recall(shards: Sequence[Shard], queries: FloatArray, k: int) -> float:
    """Return the mean share of the exact k best that the engine's candidates contain, for unit queries (n, d)."""
    exact, proposed = scan(shards, queries, k), search_candidates(shards, queries, k)
    shares = [len(np.intersect1d(e, p)) / len(e) for (e, _), (p, _) in zip(exact, proposed, strict=True)]
    return float(np.mean(shares))
