"""Search by sentences or vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gifdex.index.hits import Hit
from gifdex.index.items import Where
from gifdex.index.opened import Opened
from gifdex.index.queries.options import at_least_one, checked_score, search_method
from gifdex.index.queries.percentiles import hit_percentiles
from gifdex.index.queries.sentences import SentenceEmbedder
from gifdex.index.queries.vectors import unit_queries

Query = str | Sequence[str] | NDArray[Any]


def search(
    opened: Opened,
    embedder: SentenceEmbedder,
    query: Query,
    k: int,
    *,
    fields: Mapping[str, float] | None = None,
    where: Where | None = None,
    engine: str | None = None,
    num_candidates: int | None = None,
    exact: bool = False,
    min_score: float | None = None,
    min_percentile: float | None = None,
) -> list[Hit] | list[list[Hit]]:
    """See `Index.search`."""
    count, method, lowest = at_least_one("k", k), search_method(engine, num_candidates, exact), checked_score(min_score)
    fused = opened.fusion(fields)
    is_single = isinstance(query, str) or (isinstance(query, np.ndarray) and query.ndim == 1)
    if isinstance(query, np.ndarray):
        vectors: NDArray[Any] = query[None] if is_single else query
    else:
        fused.check_takes_sentences()
        vectors = embedder.embed([query] if isinstance(query, str) else query)
    shares = hit_percentiles(opened.path, fused, isinstance(query, np.ndarray), min_percentile)
    found = opened.search(fused, unit_queries(vectors, fused.dimensions), count, method, where, lowest, shares)
    return found[0] if is_single else found
