"""Choose each engine's default effort by measurement, and say how good and how fast it then is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import Rows
from gifdex.index.engines.settings import ANNOY, HNSW, SCAN
from gifdex.index.search import Scores, Searcher, candidates, recall
from gifdex.schemas.manifest import QualityFacts

_K = "10"
_REPORTED = ("1", "10", "100")
# recall@10 that the default effort must reach on held-out vectors. A sentence lies farther from them and finds less at
# the same effort, hence more than the .95 that it should have. Most of a scan's time goes into finding candidates, so
# that twice as many cost little.
TARGETS = {ANNOY: 0.98, SCAN: 0.99, HNSW: 0.99}
_SPARE = {ANNOY: 1, SCAN: 2, HNSW: 1}
_LEAST_EFFORT = 10
_MANY = 100
_SECONDS = 0.5  # that an engine is timed for, at most
QUERIES = 128

Found = Sequence[tuple[Rows, Scores]]
# Recall at k, for some k, of each effort, in rising order.
Curve = Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class Measured:
    """An engine's curve, and of how many queries it is."""

    queries: int
    curve: Curve


@dataclass(frozen=True)
class Tuned:
    """An engine's default effort, and what it gives."""

    effort: int
    quality: QualityFacts


class HeldOut:
    """Vectors of the index as queries, and the best of other items for each, by exact search.

    A query's own item is not counted, neither in the exact answers nor in those found. Trees and scans answer it as
    if they did not have it: neither shapes itself after one item. A graph does, so it is asked before it has the
    queries, and then `others` are the rows that it has.
    """

    def __init__(self, searcher: Searcher, rows: Rows, others: Rows | None = None) -> None:
        vectors = searcher.vectors_at(rows)
        self._rows = rows = rows[vectors.any(axis=1)]  # a vector of length zero has no neighbours
        self.queries = vectors[vectors.any(axis=1)]
        k = int(_REPORTED[-1]) + 1
        exact = searcher.scan(self.queries, k) if others is None else searcher.scan_rows(self.queries, others, k)
        self._exact = _without(rows, exact)

    def recalls(self, searcher: Searcher, engine: str, effort: int, k: int = 10) -> dict[str, float]:
        """Return the engine's recall@k, rounded to four digits, and for ten hits that of the first one too.

        Of a hundred hits, a quarter of the queries tells as much.
        """
        step = 1 if k < _MANY else 4
        count = candidates(effort, k) + 1
        found = _without(self._rows[::step], searcher.search_among(self.queries[::step], k + 1, engine, count))
        exact = self._exact[::step]
        return {
            str(first): round(recall([(rows[:first], scores[:first]) for rows, scores in exact], found), 4)
            for first in ((1, k) if k == int(_K) else (k,))
        }


def _without(own: Rows, found: Found) -> list[tuple[Rows, Scores]]:
    """Return what was found for each query without its own row."""
    kept = [rows != row for (rows, _), row in zip(found, own, strict=True)]
    return [(rows[mask], scores[mask]) for (rows, scores), mask in zip(found, kept, strict=True)]


def _efforts(items: int) -> Iterator[int]:
    """Yield rising efforts, each about half as much again, to all items."""
    effort = _LEAST_EFFORT
    while effort < items:
        yield effort
        effort += effort // 2
    yield items


def curve(searcher: Searcher, held_out: HeldOut, engine: str) -> dict[int, dict[str, float]]:
    """Return an engine's recall@10 at rising efforts, until it reaches the target, and there recall@100 too."""
    found: dict[int, dict[str, float]] = {}
    for effort in _efforts(searcher.items):
        found[effort] = held_out.recalls(searcher, engine, effort)
        if found[effort][_K] >= TARGETS[engine]:
            break
    found[effort] |= held_out.recalls(searcher, engine, effort, _MANY)
    return found


def pooled(shards: Sequence[tuple[Measured, int]]) -> Measured:
    """Return what several shards' own curves and counts of items say of them together.

    The effort is the greatest that one of them needs, and recall the mean of their own at the effort that each needs,
    weighted by items: at the greatest it is no less.
    """
    ends = [(max(measured.curve), measured, items) for measured, items in shards]
    weights = [items for *_, items in ends]
    shares = {
        k: float(np.average([measured.curve[end][k] for end, measured, _ in ends], weights=weights)) for k in _REPORTED
    }
    return Measured(sum(measured.queries for measured, _ in shards), {max(end for end, *_ in ends): shares})


def tune(searcher: Searcher, held_out: HeldOut, engine: str, known: Measured | None = None) -> Tuned:
    """Return the least effort whose recall@10 reaches the target, or the greatest there is, and its quality.

    `known` was measured while the engine was built, of one that cannot be measured now. The queries a second are of
    this moment on this machine; everything else is the same in every run.
    """
    found = known or Measured(len(held_out.queries), curve(searcher, held_out, engine))
    effort = max(found.curve)
    shares = dict(found.curve[effort])
    if _SPARE[engine] > 1:
        effort *= _SPARE[engine]
        shares = held_out.recalls(searcher, engine, effort) | held_out.recalls(searcher, engine, effort, _MANY)
    speed = _queries_per_second(searcher, held_out.queries, engine, effort)
    return Tuned(effort, QualityFacts(found.queries, {k: round(shares[k], 4) for k in _REPORTED}, speed))


def _queries_per_second(searcher: Searcher, queries: FloatArray, engine: str, effort: int) -> float:
    """Return how many queries, asked one at a time, are answered in a second."""
    searcher.search(queries[:8], int(_K), engine, effort)  # so that its files are open
    started = time.perf_counter()
    asked, elapsed = 0, 0.0
    while asked < len(queries) and elapsed < _SECONDS:
        searcher.search(queries[asked : asked + 1], int(_K), engine, effort)
        asked, elapsed = asked + 1, time.perf_counter() - started
    return round(asked / elapsed, 1) if asked else 0.0


def fastest(tuned: Mapping[str, Tuned]) -> str:
    """Return the engine that answered most queries a second, each at its default effort."""
    return max(tuned, key=lambda name: tuned[name].quality.queries_per_second)
