"""Search by words, and by words and vectors together, fused by ranks or by scores.

By ranks: each field ranks its best items, and an item's score is the sum over fields of weight / (60 + rank)
(reciprocal rank fusion: Cormack, Clarke and Buettcher, SIGIR 2009). Equal scores share the best rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import Rows
from gifdex.index.field_records import TEXT
from gifdex.index.fields import SearchMethod
from gifdex.index.items import Where
from gifdex.index.opened import Opened
from gifdex.index.queries.fuse import Fusion, check_weight
from gifdex.index.queries.grouped import Ranking
from gifdex.index.queries.moments import moments_of
from gifdex.index.queries.query_words import Words, check_has_words, read_words
from gifdex.index.queries.sentences import SentenceEmbedder, checked_sentences
from gifdex.index.search import Found, best
from gifdex.index.text_file import ENGINE, TextFile
from gifdex.index.vectors import Scores
from gifdex.schemas.errors import QueryError, UnknownWordsError

RANKS, SCORES = "ranks", "scores"
RANK_CONSTANT = 60
# How many items of each field are fused, unless more hits are wanted.
DEPTH = 100


@dataclass(frozen=True)
class Mixture:
    """The field `text` with its weight, if asked, and fields of vectors with theirs, if asked.

    Ranks are fused of the `depth` best items of each field, also where near duplicates are grouped and more are looked
    at, so that grouping changes no score.
    """

    opened: Opened
    text: TextFile | None
    weight: float
    vectors: Fusion | None
    by_ranks: bool
    depth: int = DEPTH

    @property
    def names(self) -> str:
        """What is searched, for errors."""
        vectors = [] if self.vectors is None else [field.name for field, _ in self.vectors.parts]
        fields = ", ".join([*vectors, *([] if self.text is None else [TEXT])])
        return f"{fields}, fused by ranks" if self.by_ranks else fields

    def check_score(self, min_score: float | None) -> None:
        """Raise QueryError for a score that no item can reach."""
        if min_score is None or not self.by_ranks:
            return
        total = self.weight + (0 if self.vectors is None else self.vectors.total)
        if min_score > (highest := total / (RANK_CONSTANT + 1)):
            raise QueryError(
                f"min_score is {min_score:g}, but fused by ranks no score is above {highest:.4f}: give a lower one, or "
                f"fusion={SCORES!r}"
            )

    def rankings(
        self, embedder: SentenceEmbedder, sentences: Sequence[str], method: SearchMethod, where: Where | None = None
    ) -> list[Ranking]:
        """Return how each sentence ranks the items; equal scores are in item order.

        Raises QueryError for a sentence without words, UnknownWordsError for one of which no field knows a word.
        """
        checked = checked_sentences(sentences)
        words = [read_words(sentence) for sentence in checked]
        if self.vectors is None:
            for sentence, own in zip(checked, words, strict=True):
                check_has_words(own, sentence)
        vectors = self._embedded(embedder, words)
        return self._rankings(words, vectors, method, where)

    def vector_rankings(self, queries: FloatArray, method: SearchMethod, where: Where | None = None) -> list[Ranking]:
        """Return how each of the unit queries (n, d) ranks the items."""
        return self._rankings([None] * len(queries), list(queries), method, where)

    def _embedded(self, embedder: SentenceEmbedder, words: Sequence[Words]) -> list[FloatArray | None]:
        """Return each sentence's vector, None where only the field `text` is asked or knows a word."""
        found: list[FloatArray | None] = [None] * len(words)
        if self.vectors is None:
            return found
        self.vectors.check_takes_sentences()
        plain = [own.plain if own.plain.strip() else '"' for own in words]
        try:
            places, vectors = embedder.embed_known(plain)
        except UnknownWordsError:
            if not all(own.scored for own in words):
                raise
            return found
        for place, vector in zip(places, vectors, strict=True):
            found[place] = vector
        return found

    def _rankings(
        self,
        words: Sequence[Words | None],
        vectors: Sequence[FloatArray | None],
        method: SearchMethod,
        where: Where | None,
    ) -> list[Ranking]:
        if self.vectors is not None:
            self.opened.prepare(self.vectors, method, 1)
        elif method.engine not in (None, ENGINE):
            raise QueryError(f"the field {TEXT} has no engine {method.engine!r:.40}, only {ENGINE}")
        items = self.opened.items  # which checks that no file was changed
        among = None if where is None else items.matching(where)
        single = replace(method, batch=False)

        def ranking(own: Words | None, vector: FloatArray | None) -> Ranking:
            when = None if self.vectors is None or vector is None else moments_of(self.vectors, vector)
            return Ranking(lambda k: self._answer(own, vector, k, single, among), when)

        return [ranking(own, vector) for own, vector in zip(words, vectors, strict=True)]

    def _answer(
        self, words: Words | None, vector: FloatArray | None, k: int, method: SearchMethod, among: Rows | None
    ) -> Found:
        if self.text is None or words is None:
            return self._ranked(None, vector, k, method, among)
        if words.phrases:
            having = self.text.having(words.phrases)
            among = having if among is None else np.intersect1d(among, having, assume_unique=True)
        items, scores = self.text.matches(words.scored) if words.scored else (np.empty(0, np.int64), np.empty(0))
        if not self.by_ranks and self.vectors is not None and len(scores):
            scores = self.weight * scores / scores.max()  # of all items, so that a filter changes no score
        if among is not None:
            kept = np.isin(items, among, assume_unique=True)
            items, scores = items[kept], scores[kept]
        if self.by_ranks:
            return self._ranked((items, scores), vector, k, method, among)
        if self.vectors is None:
            return best(items, self.weight * scores, k)
        return self._summed(self.vectors, (items, scores), vector, k, method, among)

    def _ranked(
        self, matches: Found | None, vector: FloatArray | None, k: int, method: SearchMethod, among: Rows | None
    ) -> Found:
        """Fuse the ranks of the fields' best items."""
        lists = [] if matches is None else [(self.weight, best(*matches, self.depth))]
        if self.vectors is not None and vector is not None:
            for field, weight in self.vectors.parts:
                (found,) = Fusion(((field, 1.0),)).search(vector[None], self.depth, method, among)
                lists.append((weight, found))
        return fused_ranks(lists, k)

    def _summed(
        self,
        fused: Fusion,
        matches: Found,
        vector: FloatArray | None,
        k: int,
        method: SearchMethod,
        among: Rows | None,
    ) -> Found:
        """Add up weighted cosines and weighted BM25 scores, which are divided by the query's best one."""
        items, scores = matches
        if vector is None:
            return best(items, scores, k)
        if among is not None or method.exact:
            added = np.zeros(len(self.opened.items))
            added[items] = scores
            return fused.scan(vector, k, among, added)
        depth = max(k, DEPTH)
        ((proposed, _),) = fused.search(vector[None], depth, method)
        candidates = np.union1d(proposed, best(items, scores, depth)[0])
        totals = fused.scores_of(vector, candidates)
        _, own, places = np.intersect1d(items, candidates, assume_unique=True, return_indices=True)
        totals[places] += scores[own]
        return best(candidates, totals, k)


def fused_ranks(lists: Sequence[tuple[float, Found]], k: int) -> Found:
    """Return the k best of several weighted lists of items with falling scores, and their reciprocal-rank scores."""
    items = np.unique(np.concatenate([np.empty(0, np.int64), *(found for _, (found, _) in lists)]))
    totals: Scores = np.zeros(len(items))
    for weight, (found, scores) in lists:
        ranks = 1 + np.searchsorted(-scores, -scores, side="left")
        totals[np.searchsorted(items, found)] += weight / (RANK_CONSTANT + ranks)
    return best(items, totals, k)


def mixture(opened: Opened, fields: Mapping[str, float] | None, fusion: str | None, k: int) -> Mixture | None:
    """Return how to search fields that cannot be searched by a weighted sum of cosines alone, or None if they can.

    Raises QueryError for another `fusion` than None, "ranks" and "scores", and for unknown fields and weights.
    """
    if fields is None and fusion is None:
        return None
    if fusion not in (None, RANKS, SCORES):
        raise QueryError(f"fusion is {fusion!r:.40}; expected {RANKS!r} or {SCORES!r}")
    asked: Mapping[str, Any] = fields if isinstance(fields, Mapping) else {}
    if TEXT in asked:
        check_weight(TEXT, asked[TEXT])
    weight = float(asked.get(TEXT, 0))
    if not weight and fusion != RANKS:
        return None
    others = {name: value for name, value in asked.items() if name != TEXT}
    for name, value in others.items():
        check_weight(name, value)
        opened.fusion({name: 1.0})  # raises for an unknown field
    vectors = None if weight and not any(others.values()) else opened.fusion(others if weight else fields)
    by_ranks = fusion == RANKS or (fusion is None and vectors is not None)
    return Mixture(opened, opened.text_file() if weight else None, weight, vectors, by_ranks, max(k, DEPTH))
