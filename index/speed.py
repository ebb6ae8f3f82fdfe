"""Measure each engine's queries per second on this machine. Versions store no timings."""

from __future__ import annotations

import time
from collections.abc import Mapping

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import evenly_spaced
from gifdex.index.fields import Field
from gifdex.index.lookup import Index

_HITS = 10
_QUERIES = 128
_WARM_UP = 8  # warm-up: opens the files and reads them into memory
_SECONDS = 0.1  # maximum per engine


def queries_per_second(index: Index) -> Mapping[str, Mapping[str, float]]:
    """Return, by field and engine, how many single queries one thread answers per second, without reading items.

    Engines use their default number of candidates. Fields without engines are left out.
    """
    names = [name for name, record in index.manifest.fields.items() if record.engines]
    return {
        name: {engine: _measured(index.field(name), engine) for engine in index.field(name).record.engines}
        for name in names
    }


def _measured(field: Field, engine: str) -> float:
    searcher = field.searcher
    queries: FloatArray = searcher.vectors_at(evenly_spaced(searcher.rows, _QUERIES))
    candidates = field.record.engines[engine].num_candidates
    searcher.search(queries[:_WARM_UP], _HITS, engine, candidates)
    started = time.perf_counter()
    asked, elapsed = 0, 0.0
    while asked < len(queries) and elapsed < _SECONDS:
        searcher.search(queries[asked : asked + 1], _HITS, engine, candidates)
        asked, elapsed = asked + 1, time.perf_counter() - started
    return round(asked / elapsed, 1)
