"""How many queries a second each engine answers here and now. It is timed, so no version holds it."""

from __future__ import annotations

import time
from collections.abc import Mapping

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import evenly_spaced
from gifdex.index.fields import Field
from gifdex.index.lookup import Index

_HITS = 10
_QUERIES = 128
_FIRST = 8  # so that files are open, and in memory
_SECONDS = 0.1  # that an engine is timed for, at most


def queries_per_second(index: Index) -> Mapping[str, Mapping[str, float]]:
    """Return, by field and engine, the queries of one vector that one thread answers in a second, items not read.

    Each at its default number of candidates. Fields without engines are left out.
    """
    names = [name for name in index.fields if index.field(name).record.engines]
    return {
        name: {engine: _measured(index.field(name), engine) for engine in index.field(name).record.engines}
        for name in names
    }


def _measured(field: Field, engine: str) -> float:
    searcher = field.searcher
    queries: FloatArray = searcher.vectors_at(evenly_spaced(searcher.rows, _QUERIES))
    candidates = field.record.engines[engine].num_candidates
    searcher.search(queries[:_FIRST], _HITS, engine, candidates)
    started = time.perf_counter()
    asked, elapsed = 0, 0.0
    while asked < len(queries) and elapsed < _SECONDS:
        searcher.search(queries[asked : asked + 1], _HITS, engine, candidates)
        asked, elapsed = asked + 1, time.perf_counter() - started
    return round(asked / elapsed, 1)
