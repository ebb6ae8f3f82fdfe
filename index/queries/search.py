"""Search by sentences, terms or vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.index.field_records import TEXT
from gifdex.index.fields import SearchMethod
from gifdex.index.hits import Hit
from gifdex.index.items import Where
from gifdex.index.opened import Opened
from gifdex.index.queries import hybrid
from gifdex.index.queries.cutoff import Cutoff, cutoff
from gifdex.index.queries.examples import ExampleEncoder
from gifdex.index.queries.fuse import Fusion
from gifdex.index.queries.grouped import Ranking, group_score
from gifdex.index.queries.hybrid import Outside
from gifdex.index.queries.mixed import Mixture, mixture
from gifdex.index.queries.moments import moments_of
from gifdex.index.queries.options import at_least_one, search_method
from gifdex.index.queries.sentences import SentenceEmbedder, checked_sentences
from gifdex.index.queries.terms import embed_terms
from gifdex.index.queries.vectors import unit_queries
from gifdex.schemas.errors import QueryError

SENTENCE, TERMS = "sentence", "terms"
Query = str | Sequence[str] | NDArray[Any]


@dataclass(frozen=True)
class _Wanted:
    """Which hits are wanted: the k best, how they are found, which are good enough, the score of near duplicates."""

    k: int
    method: SearchMethod
    where: Where | None
    cutoff: Cutoff
    group: float | None

    def hits(self, opened: Opened, ranking: Ranking) -> list[Hit]:
        """Return the hits of one query."""
        return ranking.hits(opened, self.k, self.cutoff, self.group)


def search(
    opened: Opened,
    embedder: SentenceEmbedder,
    examples: ExampleEncoder,
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
    syntax: str = SENTENCE,
    fusion: str | None = None,
    group: bool | float | None = None,
    outside: Outside | None = None,
) -> list[Hit] | list[list[Hit]]:
    """See `Index.search`."""
    if not isinstance(query, np.ndarray):
        opened.require_gifs()
    if outside is not None:
        has_minimum = min_score is not None or min_percentile is not None
        hybrid.check(outside, query, fields, where, has_minimum, group_score(group) is not None)
    count = at_least_one("k", k)
    mixed = mixture(opened, fields, fusion, count)
    fused = opened.fusion(fields) if mixed is None else mixed.vectors
    wanted = _Wanted(
        count,
        search_method(engine, num_candidates, exact),
        where,
        cutoff(opened.path, mixed or fused, isinstance(query, np.ndarray), min_score, min_percentile),
        group_score(group),
    )
    if mixed is not None:
        mixed.check_score(wanted.cutoff.min_score)
        found = [wanted.hits(opened, ranking) for ranking in _mixed_rankings(mixed, embedder, query, syntax, wanted)]
    else:
        assert fused is not None  # which only a mixture can lack
        vectors = query_vectors(fused, embedder, query, syntax)
        found = _hits_of(opened, fused, vectors, wanted)
        if outside is not None:
            found = [
                hybrid.with_outside(opened, examples, outside, sentence, vector, own, wanted.k, wanted.cutoff)
                for sentence, vector, own in zip(checked_sentences(query), vectors, found, strict=True)
            ]
    is_single = isinstance(query, str) or (isinstance(query, np.ndarray) and query.ndim == 1)
    return found[0] if is_single else found


def _hits_of(opened: Opened, fused: Fusion, vectors: FloatArray, wanted: _Wanted) -> list[list[Hit]]:
    """Return the hits for each of the unit queries (n, d)."""
    if wanted.group is None:  # all at once, which is faster
        return opened.search(fused, vectors, wanted.k, wanted.method, wanted.where, wanted.cutoff)
    opened.prepare(fused, wanted.method, 1)
    among = None if wanted.where is None else opened.items.matching(wanted.where)

    def ranking(vector: FloatArray) -> Ranking:
        return Ranking(
            lambda count: fused.search(vector[None], count, wanted.method, among)[0], moments_of(fused, vector)
        )

    return [wanted.hits(opened, ranking(vector)) for vector in vectors]


def query_vectors(fused: Fusion, embedder: SentenceEmbedder, query: Query, syntax: str) -> FloatArray:
    """Return a query, or each of several, as unit vectors float32 (n, d)."""
    if isinstance(query, np.ndarray):
        _check_syntax(syntax, SENTENCE)
        return unit_queries(query[None] if query.ndim == 1 else query, fused.dimensions)
    fused.check_takes_sentences()
    _check_syntax(syntax)
    sentences = checked_sentences(query)
    embedded = embedder.embed(sentences) if syntax == SENTENCE else embed_terms(embedder.embed, sentences)
    return unit_queries(embedded, fused.dimensions)


def _mixed_rankings(
    mixed: Mixture, embedder: SentenceEmbedder, query: Query, syntax: str, wanted: _Wanted
) -> list[Ranking]:
    if mixed.text is None and mixed.vectors is not None:
        return mixed.vector_rankings(query_vectors(mixed.vectors, embedder, query, syntax), wanted.method, wanted.where)
    if isinstance(query, np.ndarray):
        raise QueryError(f"the field {TEXT} has words and no vectors, but the query is a vector: search by a sentence")
    _check_syntax(syntax)
    if syntax == TERMS:
        raise QueryError(
            f"syntax={TERMS!r} makes a vector of the query, but the field {TEXT} has words: leave the field out, or "
            "the syntax"
        )
    return mixed.rankings(embedder, checked_sentences(query), wanted.method, wanted.where)


def _check_syntax(syntax: str, *allowed: str) -> None:
    if allowed and isinstance(syntax, str) and syntax in (SENTENCE, TERMS) and syntax not in allowed:
        raise QueryError(f"syntax is {syntax!r}, but the query is a vector: search by words")
    if not isinstance(syntax, str) or syntax not in (SENTENCE, TERMS):
        raise QueryError(f"syntax is {syntax!r:.40}; expected {SENTENCE!r} or {TERMS!r}")
