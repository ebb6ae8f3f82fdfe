"""Choose each engine's default `num_candidates` by measurement, and record the recall that it gives.

There are two kinds of queries. The field's own vectors, each excluded from its own results, lie among the stored
vectors. Sentences, which are what people search for, lie farther away and need more candidates for the same recall. The
default reaches the engine's target for both. Nothing is timed, so the result depends only on the vectors and the
sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
# Queries of each kind. Sentences decide, and the reported recall of sentences should be right within .02.
MAX_VECTORS, MAX_SENTENCES = 64, 128
# A quarter of the queries runs first, and the rest only if that quarter comes near the target: its recall is typically
# off by a third of `_FAR`.
_QUARTER, _FAR = 4, 0.03


@dataclass(frozen=True)
class Probe:
    """Queries (n, d) of one kind, each one's own row (None for sentences), and its best rows by exact search."""

    queries: FloatArray
    without: Rows | None
    exact: Sequence[Found]

    def take(self, places: Rows) -> Probe:
        """Return the queries at these positions."""
        own = None if self.without is None else self.without[places]
        return Probe(self.queries[places], own, [self.exact[place] for place in places.tolist()])

    def ask(self, searcher: Searcher, engine: str, num_candidates: int, k: int) -> list[Found]:
        """Return k hits of an engine for each query."""
        return searcher.search_among(self.queries, k, engine, candidates_for(num_candidates, k), self.without)

    def shares(self, found: Sequence[Found], first: int) -> list[float]:
        """Return, for each query, the share of its `first` best rows that were found."""
        return shares([(rows[:first], scores[:first]) for rows, scores in self.exact], found)


def stored_vectors(searcher: Searcher, count: int = MAX_VECTORS) -> Probe:
    """Return about `count` evenly spaced vectors of the field as queries, without zero vectors."""
    rows = evenly_spaced(searcher.rows, count)
    queries = searcher.vectors_at(rows)
    directed = queries.any(axis=1)
    rows, queries = rows[directed], queries[directed]
    return Probe(queries, rows, searcher.scan(queries, max(_REPORTED), rows) if len(rows) else [])


def sentences(searcher: Searcher, queries: FloatArray) -> Probe:
    """Return the unit vectors float32 (n, d) of sentences as queries."""
    return Probe(queries, None, searcher.scan(queries, max(_REPORTED)))


class _Measure:
    """One engine's recall for one kind of queries. Caches the answers for the last number of candidates."""

    def __init__(self, searcher: Searcher, engine: str, tuning: Tuning, probe: Probe) -> None:
        self._searcher, self._engine, self._target = searcher, engine, tuning.target
        # More sentences, because they decide: near copies are found all or not at all, so few queries may be far off.
        step = tuning.step if probe.without is not None else max(1, tuning.step // 2)
        places = np.arange(0, len(probe.queries), step)
        self._few = probe.take(places[::_QUARTER])
        self._rest = probe.take(np.delete(places, np.s_[::_QUARTER]))
        self._fewest = probe.take(places[:: _QUARTER * max(1, tuning.step // 2)])
        self._answers: dict[tuple[int, bool], list[Found]] = {}

    def _ask(self, num_candidates: int, *, few: bool) -> list[Found]:
        key = num_candidates, few
        if key not in self._answers:
            self._answers = {known: found for known, found in self._answers.items() if known[0] == num_candidates}
            probe = self._few if few else self._rest
            self._answers[key] = probe.ask(self._searcher, self._engine, num_candidates, _K)
        return self._answers[key]

    def _recall(self, num_candidates: int, first: int) -> float:
        few, rest = (self._ask(num_candidates, few=few) for few in (True, False))
        return float(np.mean(self._few.shares(few, first) + self._rest.shares(rest, first)))

    def reaches(self, num_candidates: int) -> bool:
        """Tell whether recall@10 reaches the target; if a quarter of the queries is far from it, skip the rest."""
        few = self._few.shares(self._ask(num_candidates, few=True), _K)
        if few and np.mean(few) < self._target - _FAR:
            return False
        return not few or self._recall(num_candidates, _K) >= self._target

    def record(self, num_candidates: int) -> RecallRecord:
        """Return the recall at 1, 10 and 100 hits; for 100, a quarter of the queries or fewer is enough."""
        count, most = len(self._few.queries) + len(self._rest.queries), max(_REPORTED)
        if not count:
            return RecallRecord(0, {})
        found = {k: self._recall(num_candidates, k) for k in _REPORTED if k <= _K}
        many = self._fewest.ask(self._searcher, self._engine, num_candidates, most)
        found[most] = float(np.mean(self._fewest.shares(many, most)))
        return RecallRecord(count, {str(k): round(found[k], 4) for k in _REPORTED})


def _rising(rows: int) -> Iterator[int]:
    """Yield growing numbers of candidates, by about half each time, up to all rows."""
    count = _MIN_CANDIDATES
    while count < rows:
        yield count
        count += count // 2
    yield rows


def tune(searcher: Searcher, queries: FloatArray | None) -> dict[str, EngineRecord]:
    """Return the engines with the smallest `num_candidates` that reaches each one's target, and their recall.

    `queries` are sentences as unit vectors float32 (n, d), None for a field that sentences cannot search.
    """
    stored = stored_vectors(searcher)
    described = None if queries is None else sentences(searcher, queries)
    if not searcher.engines:
        return {}
    # Engines release the GIL while they search, so each has a thread; the answers do not depend on that.
    with ThreadPoolExecutor(len(searcher.engines)) as threads:
        tuned = threads.map(lambda name: _tuned(searcher, name, stored, described), searcher.engines)
        return dict(zip(searcher.engines, tuned, strict=True))


def _tuned(searcher: Searcher, name: str, stored: Probe, described: Probe | None) -> EngineRecord:
    tuning = registry.kind(name).tuning
    measures = [None if probe is None else _Measure(searcher, name, tuning, probe) for probe in (stored, described)]
    counts = list(_rising(searcher.rows))
    # Sentences need the most candidates, and recall grows with their number, so the vectors start from there.
    for measure in reversed(measures):
        while measure is not None and len(counts) > 1 and not measure.reaches(counts[0]):
            del counts[0]
    num_candidates = counts[0]
    vectors, of_sentences = (None if measure is None else measure.record(num_candidates) for measure in measures)
    return replace(
        searcher.engines[name],
        num_candidates=num_candidates,
        vector_recall=vectors or RecallRecord(0, {}),
        sentence_recall=of_sentences,
    )
