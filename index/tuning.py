"""Choose each engine's default `num_candidates` by measurement, and say how much it then finds.

Two kinds of queries are asked. Vectors of the field itself, each left out of the answers to itself, are many and lie
where the field's vectors do. Sentences lie farther off and find less with the same candidates, and they are what people
ask. The default reaches the engine's target with both. Nothing is timed here, so the result depends on the vectors and
the sentences alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gifdex.encoders.base import FloatArray
from gifdex.index.engines import registry
from gifdex.index.engines.base import Rows, Tuning, evenly_spaced
from gifdex.index.search import Found, Searcher, candidates_for, recall
from gifdex.schemas.manifest import EngineRecord, RecallRecord

_K = 10
_REPORTED = (1, _K, 100)
_MIN_CANDIDATES = 10
# Queries of each kind.
QUERIES = 128
# One query in so many is asked first, and all of them where those find nearly enough: recall of a quarter is off by a
# third of `_FAR`.
_QUARTER, _FAR = 4, 0.03


@dataclass(frozen=True)
class Probe:
    """Queries (n, d) of one kind, the row that each one is (None for sentences), and its best rows by exact search."""

    queries: FloatArray
    without: Rows | None
    exact: Sequence[Found]

    def every(self, step: int) -> Probe:
        """Return every `step`-th query."""
        own = None if self.without is None else self.without[::step]
        return Probe(self.queries[::step], own, self.exact[::step])

    def recall(self, searcher: Searcher, engine: str, num_candidates: int, k: int = _K) -> dict[int, float]:
        """Return the recall at k of an engine and, for ten hits, of the first one too, rounded to four digits."""
        count = candidates_for(num_candidates, k)
        found = searcher.search_among(self.queries, k, engine, count, self.without)
        return {
            first: round(recall([(rows[:first], scores[:first]) for rows, scores in self.exact], found), 4)
            for first in ((1, k) if k == _K else (k,))
        }


def stored_vectors(searcher: Searcher, count: int = QUERIES) -> Probe:
    """Return about `count` vectors of the field as queries, evenly spaced, without those that have no direction."""
    rows = evenly_spaced(searcher.rows, count)
    queries = searcher.vectors_at(rows)
    directed = queries.any(axis=1)
    rows, queries = rows[directed], queries[directed]
    return Probe(queries, rows, searcher.scan(queries, max(_REPORTED), rows) if len(rows) else [])


def sentences(searcher: Searcher, queries: FloatArray) -> Probe:
    """Return the unit vectors float32 (n, d) of sentences as queries."""
    return Probe(queries, None, searcher.scan(queries, max(_REPORTED)))


@dataclass(frozen=True)
class _Ladder:
    """One engine's recall at rising numbers of candidates, of one probe; each number is asked once."""

    searcher: Searcher
    engine: str
    tuning: Tuning
    probe: Probe

    def reaches(self, num_candidates: int) -> bool:
        """Tell whether the recall reaches the target."""
        if not len(self.probe.queries):
            return True
        target = self.tuning.target
        few = self.probe.every(_QUARTER * self.tuning.step)
        if few.recall(self.searcher, self.engine, num_candidates)[_K] < target - _FAR:
            return False
        return self.probe.every(self.tuning.step).recall(self.searcher, self.engine, num_candidates)[_K] >= target

    def record(self, num_candidates: int) -> RecallRecord:
        """Return the recall at 1, 10 and 100 hits; at 100 a quarter of the queries tell as much."""
        asked = self.probe.every(self.tuning.step)
        if not len(asked.queries):
            return RecallRecord(0, {})
        found = asked.recall(self.searcher, self.engine, num_candidates)
        found |= asked.every(_QUARTER).recall(self.searcher, self.engine, num_candidates, max(_REPORTED))
        return RecallRecord(len(asked.queries), {str(k): found[k] for k in _REPORTED})


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
    ladders = [_Ladder(searcher, name, tuning, probe) for probe in (stored, asked) if probe is not None]
    found = next(
        count
        for count in _rising(searcher.rows)
        if count == searcher.rows or all(ladder.reaches(count) for ladder in ladders)
    )
    num_candidates = found * tuning.spare
    recalls = [ladder.record(num_candidates) for ladder in ladders]
    return replace(
        record,
        num_candidates=num_candidates,
        vector_recall=recalls[0],
        sentence_recall=recalls[1] if asked is not None else None,
    )
