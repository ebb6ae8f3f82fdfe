"""Search by sentences or vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gifdex.index.hits import Hit
from gifdex.index.items import Where
from gifdex.index.opened import Opened
from gifdex.index.queries import hybrid
from gifdex.index.queries.examples import ExampleEncoder
from gifdex.index.queries.grouped import group_score, grouped_search
from gifdex.index.queries.hybrid import Outside
from gifdex.index.queries.options import at_least_one, checked_score, search_method
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
    group: bool | float = False,
    outside: Outside | None = None,
    examples: ExampleEncoder,
) -> list[Hit] | list[list[Hit]]:
    """See `Index.search`."""
    score = group_score(group)
    count, method, lowest = at_least_one("k", k), search_method(engine, num_candidates, exact), checked_score(min_score)
    if outside is not None:
        hybrid.check(outside, query, fields, where, lowest is not None, score is not None)
    fused = opened.fusion(fields)
    is_single = isinstance(query, str) or (isinstance(query, np.ndarray) and query.ndim == 1)
    if isinstance(query, np.ndarray):
        vectors: NDArray[Any] = query[None] if is_single else query
    else:
        fused.check_takes_sentences()
        vectors = embedder.embed([query] if isinstance(query, str) else query)
    units = unit_queries(vectors, fused.dimensions)
    if score is None:
        found = opened.search(fused, units, count, method, where, lowest)
    else:
        found = grouped_search(opened, fused, units, count, method, where, lowest, score)
    if outside is not None:
        sentences, weight = [query] if isinstance(query, str) else list(query), fused.parts[0][1]
        found = [
            hybrid.with_outside(opened, examples, outside, sentence, unit, own, count, weight, lowest)
            for sentence, unit, own in zip(sentences, units, found, strict=True)
        ]
    return found[0] if is_single else found
