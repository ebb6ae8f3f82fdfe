"""Choose each engine's default effort by measurement, and say how good and how fast it then is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import Rows, evenly_spaced
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
# One query of so many is asked: trees answer so slowly that all would take most of the time there is. Recall of a
# quarter is off by .01, as their target allows.
STEP = {ANNOY: 4, SCAN: 1, HNSW: 1}
_LEAST_EFFORT = 10
_MANY = 100
_MOST = _MANY + 1  # of which one may be the query itself
_QUARTER = 4
# Three times what the recall of a quarter of the queries is off by.
_FAR = 0.03
_SECONDS = 0.1  # that an engine is timed for, at most
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


@dataclass(frozen=True)
class _Part:
    """Queries (n, d) for a searcher, the rows that they are of, and the best of other items for each."""

    searcher: Searcher
    rows: Rows
    queries: FloatArray
    exact: Found


class HeldOut:
    """Vectors of the index as queries, and the best of other items for each, by exact search.

    A query's own item is not counted, neither in the exact answers nor in those found. Answers are kept until another
    engine or effort is asked: some queries are asked first, and all of them if those find enough.
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts
        self.queries = np.concatenate([part.queries for part in parts])
        self._asked: tuple[str, int, int] | None = None
        self._answers: list[dict[int, tuple[Rows, Scores]]] = []

    def count(self, step: int) -> int:
        """Return how many queries every `step`-th one makes."""
        return sum(len(part.rows[::step]) for part in self._parts)

    def recalls(self, engine: str, effort: int, k: int = 10, step: int = 1) -> dict[str, float]:
        """Return recall@k of every `step`-th query, rounded to four digits, and for ten hits that of the first, too."""
        if self._asked != (engine, effort, k):
            self._asked, self._answers = (engine, effort, k), [{} for _ in self._parts]
        exact: list[tuple[Rows, Scores]] = []
        found: list[tuple[Rows, Scores]] = []
        for part, answers in zip(self._parts, self._answers, strict=True):
            wanted = range(0, len(part.rows), step)
            if new := [place for place in wanted if place not in answers]:
                count, own = candidates(effort, k) + 1, part.rows[new]
                given = part.searcher.search_among(part.queries[new], k + 1, engine, count, own)
                answers.update(zip(new, _without(own, given), strict=True))
            found += [answers[place] for place in wanted]
            exact += part.exact[::step]
        return {
            str(first): round(recall([(rows[:first], scores[:first]) for rows, scores in exact], found), 4)
            for first in ((1, k) if k == int(_K) else (k,))
        }


def held_out(searcher: Searcher, rows: Rows) -> HeldOut:
    """Return the vectors of `rows` as queries; each is asked as if the index did not have it."""
    rows, queries = _directed(searcher, rows)
    return HeldOut([_Part(searcher, rows, queries, _without(rows, searcher.scan(queries, _MOST)))])


def across(searcher: Searcher, count: int) -> HeldOut:
    """Return about `count` vectors of several shards as queries, each for all shards but its own.

    No graph that is asked has them, and the ten best are of several shards, as they are of a service's queries.
    """
    each = -(-count // len(searcher.shards))
    parts = []
    for number, shard in enumerate(searcher.shards):
        rows, queries = _directed(searcher, shard.first + evenly_spaced(len(shard), each))
        others = searcher.without(number)
        parts.append(_Part(others, rows, queries, others.scan(queries, _MOST)))
    return HeldOut(parts)


def _directed(searcher: Searcher, rows: Rows) -> tuple[Rows, FloatArray]:
    """Return those of rows whose vectors have a direction, and so neighbours, and the vectors."""
    vectors = searcher.vectors_at(rows)
    directed = vectors.any(axis=1)
    return rows[directed], vectors[directed]


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


def curve(asked: HeldOut, engine: str, items: int) -> dict[int, dict[str, float]]:
    """Return an engine's recall@10 at rising efforts, until it reaches the target, and there recall@100 too.

    An effort that is far from the target by a quarter of the queries is not tried with all; and of a hundred hits, a
    quarter of those that an engine is asked tell as much.
    """
    found: dict[int, dict[str, float]] = {}
    for effort in _efforts(items):
        found[effort] = asked.recalls(engine, effort, step=_QUARTER)
        if found[effort][_K] >= TARGETS[engine] - _FAR:
            found[effort] = asked.recalls(engine, effort, step=STEP[engine])
        if found[effort][_K] >= TARGETS[engine]:
            break
    found[effort] = _reported(asked, engine, effort)
    return found


def _reported(asked: HeldOut, engine: str, effort: int) -> dict[str, float]:
    step = STEP[engine]
    return asked.recalls(engine, effort, step=step) | asked.recalls(engine, effort, _MANY, _QUARTER * step)


def tune(searcher: Searcher, asked: HeldOut, engine: str, known: Measured | None = None) -> Tuned:
    """Return the least effort whose recall@10 reaches the target, or the greatest there is, and its quality.

    `known` was measured while the engine was built, of one that cannot be measured now. The queries a second are of
    this moment on this machine; everything else is the same in every run.
    """
    found = known or Measured(asked.count(STEP[engine]), curve(asked, engine, searcher.items))
    effort = max(found.curve)
    shares = dict(found.curve[effort])
    if _SPARE[engine] > 1:
        effort *= _SPARE[engine]
        shares = _reported(asked, engine, effort)
    speed = _queries_per_second(searcher, asked.queries, engine, effort)
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
