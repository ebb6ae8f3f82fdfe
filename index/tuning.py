"""Choose each engine's default `num_candidates` by measurement, and say how much it then finds.

Two kinds of queries are asked. Vectors of the field itself, each left out of the answers to itself, are many and lie
where the field's vectors do. Sentences lie farther off and find less with the same candidates, and they are what people
ask. The default reaches the engine's target with both. Nothing is timed here, so the result depends on the vectors and
the sentences alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gifdex.encoders.base import FloatArray
from gifdex.index.engines import registry
from gifdex.index.engines.base import Rows, Tuning, evenly_spaced
from gifdex.index.search import Found, Searcher, candidates_for, shares
from gifdex.schemas.manifest import EngineRecord, RecallRecord

_K = 10
_REPORTED = (1, _K, 100)
_MIN_CANDIDATES = 10
# Queries of each kind. Sentences decide, and the figure that is told of them should be right within .02.
MAX_VECTORS, MAX_SENTENCES = 64, 128
# One query in so many is asked first, and the others where those find nearly enough: the recall of a quarter is off by
# a third of `_FAR`.
_QUARTER, _FAR = 4, 0.03


@dataclass(frozen=True)
class Probe:
    """Queries (n, d) of one kind, the row that each one is (None for sentences), and its best rows by exact search."""

    queries: FloatArray
    without: Rows | None
    exact: Sequence[Found]

    def take(self, places: Rows) -> Probe:
        """Return some of the queries."""
        own = None if self.without is None else self.without[places]
        return Probe(self.queries[places], own, [self.exact[place] for place in places.tolist()])

    def shares(self, searcher: Searcher, engine: str, num_candidates: int, k: int, *firsts: int) -> list[list[float]]:
        """Return, for some counts of best rows, the share of them among k hits of an engine, for each query."""
        count = candidates_for(num_candidates, k)
        found = searcher.search_among(self.queries, k, engine, count, self.without)
        return [shares([(rows[:first], scores[:first]) for rows, scores in self.exact], found) for first in firsts]


def stored_vectors(searcher: Searcher, count: int = MAX_VECTORS) -> Probe:
    """Return about `count` vectors of the field as queries, evenly spaced, without those that have no direction."""
    rows = evenly_spaced(searcher.rows, count)
    queries = searcher.vectors_at(rows)
    directed = queries.any(axis=1)
    rows, queries = rows[directed], queries[directed]
    return Probe(queries, rows, searcher.scan(queries, max(_REPORTED), rows) if len(rows) else [])


def sentences(searcher: Searcher, queries: FloatArray) -> Probe:
    """Return the unit vectors float32 (n, d) of sentences as queries."""
    return Probe(queries, None, searcher.scan(queries, max(_REPORTED)))


class _Measure:
    """One engine's recall with one kind of queries."""

    def __init__(self, searcher: Searcher, engine: str, tuning: Tuning, probe: Probe) -> None:
        self._searcher, self._engine, self._target = searcher, engine, tuning.target
        places = np.arange(0, len(probe.queries), tuning.step)
        self._all = probe.take(places)
        self._few = probe.take(places[::_QUARTER])
        self._rest = probe.take(np.delete(places, np.s_[::_QUARTER]))

    def reaches(self, num_candidates: int) -> bool:
        """Tell whether recall@10 reaches the target; if a quarter of the queries are far from it, ask no others."""
        (few,) = self._few.shares(self._searcher, self._engine, num_candidates, _K, _K)
        if few and np.mean(few) < self._target - _FAR:
            return False
        (rest,) = self._rest.shares(self._searcher, self._engine, num_candidates, _K, _K)
        return not few or float(np.mean(few + rest)) >= self._target

    def record(self, num_candidates: int) -> RecallRecord:
        """Return the recall at 1, 10 and 100 hits; at 100 a quarter of the queries tell as much."""
        if not len(self._all.queries):
            return RecallRecord(0, {})
        asked, (first, some, many) = (self._searcher, self._engine, num_candidates), _REPORTED
        found = [*self._all.shares(*asked, some, first, some), *self._few.shares(*asked, many, many)]
        at = {str(k): round(float(np.mean(shares)), 4) for k, shares in zip(_REPORTED, found, strict=True)}
        return RecallRecord(len(self._all.queries), at)


def _rising(rows: int) -> Iterator[int]:
    """Yield rising numbers of candidates, each about half as many again, to all rows."""
    count = _MIN_CANDIDATES
    while count < rows:
        yield count
        count += count // 2
    yield rows


def tune(searcher: Searcher, queries: FloatArray | None) -> dict[str, EngineRecord]:
    """Return the searcher's engines with the least `num_candidates` that reaches each one's target, and their recall.

    `queries` are the unit vectors float32 (n, d) of sentences, None for a field that answers none.
    """
    stored = stored_vectors(searcher)
    asked = None if queries is None else sentences(searcher, queries)
    return {name: _tuned(searcher, name, record, stored, asked) for name, record in searcher.engines.items()}


def _tuned(searcher: Searcher, name: str, record: EngineRecord, stored: Probe, asked: Probe | None) -> EngineRecord:
    tuning = registry.kind(name).tuning
    measures = [None if probe is None else _Measure(searcher, name, tuning, probe) for probe in (stored, asked)]
    # Sentences need the most candidates, so the vectors are asked where those find enough.
    harder_first = [measure for measure in reversed(measures) if measure is not None]
    found = next(
        count
        for count in _rising(searcher.rows)
        if count == searcher.rows or all(measure.reaches(count) for measure in harder_first)
    )
    num_candidates = found * tuning.spare
    vectors, of_sentences = (None if measure is None else measure.record(num_candidates) for measure in measures)
    return replace(
        record,
        num_candidates=num_candidates,
        vector_recall=vectors or RecallRecord(0, {}),
        sentence_recall=of_sentences,
    )
