"""Search by sentences, terms or vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.index.field_records import TEXT
from gifdex.index.fields import SearchMethod
from gifdex.index.hits import Hit
from gifdex.index.items import Where
from gifdex.index.opened import Opened
from gifdex.index.queries.fuse import Fusion
from gifdex.index.queries.mixed import Mixture, mixture
from gifdex.index.queries.options import at_least_one, checked_score, search_method
from gifdex.index.queries.sentences import SentenceEmbedder, checked_sentences
from gifdex.index.queries.terms import embed_terms
from gifdex.index.queries.vectors import unit_queries
from gifdex.index.search import Found
from gifdex.schemas.errors import QueryError

SENTENCE, TERMS = "sentence", "terms"
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
    syntax: str = SENTENCE,
    fusion: str | None = None,
) -> list[Hit] | list[list[Hit]]:
    """See `Index.search`."""
    count, method, lowest = at_least_one("k", k), search_method(engine, num_candidates, exact), checked_score(min_score)
    is_single = isinstance(query, str) or (isinstance(query, np.ndarray) and query.ndim == 1)
    mixed = mixture(opened, fields, fusion)
    if mixed is None:
        fused = opened.fusion(fields)
        vectors = query_vectors(fused, embedder, query, syntax)
        hits = opened.search(fused, vectors, count, method, where, lowest)
    else:
        mixed.check_score(lowest)
        found = _mixed(mixed, embedder, query, syntax, (count, method, where))
        hits = [opened.hits(items, scores, lowest) for items, scores in found]
    return hits[0] if is_single else hits


def query_vectors(fused: Fusion, embedder: SentenceEmbedder, query: Query, syntax: str) -> FloatArray:
    """Return a query, or each of several, as unit vectors float32 (n, d)."""
    if isinstance(query, np.ndarray):
        _check_syntax(syntax, SENTENCE)
        return unit_queries(query[None] if query.ndim == 1 else query, fused.dimensions)
    fused.check_takes_sentences()
    _check_syntax(syntax)
    sentences = checked_sentences(query)
    return unit_queries(
        embedder.embed(sentences) if syntax == SENTENCE else embed_terms(embedder.embed, sentences), fused.dimensions
    )


def _mixed(
    mixed: Mixture,
    embedder: SentenceEmbedder,
    query: Query,
    syntax: str,
    options: tuple[int, SearchMethod, Where | None],
) -> list[Found]:
    if mixed.text is None and mixed.vectors is not None:
        return mixed.search_vectors(query_vectors(mixed.vectors, embedder, query, syntax), *options)
    if isinstance(query, np.ndarray):
        raise QueryError(f"the field {TEXT} has words and no vectors, but the query is a vector: search by a sentence")
    _check_syntax(syntax)
    if syntax == TERMS:
        raise QueryError(
            f"syntax={TERMS!r} makes a vector of the query, but the field {TEXT} has words: leave the field out, or "
            "the syntax"
        )
    return mixed.search(embedder, checked_sentences(query), *options)


def _check_syntax(syntax: str, *allowed: str) -> None:
    if allowed and syntax in (SENTENCE, TERMS) and syntax not in allowed:
        raise QueryError(f"syntax is {syntax!r}, but the query is a vector: search by words")
    if syntax not in (SENTENCE, TERMS):
        raise QueryError(f"syntax is {syntax!r:.40}; expected {SENTENCE!r} or {TERMS!r}")
