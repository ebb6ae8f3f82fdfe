"""Evaluate an index: the ranks of known answers, and the engine's recall against exact search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.index.field_records import TEXT
from gifdex.index.fields import SearchMethod
from gifdex.index.lookup import Index
from gifdex.index.queries.fuse import Fusion
from gifdex.index.queries.mixed import DEPTH
from gifdex.index.queries.query_words import read_words
from gifdex.index.queries.vectors import unit_queries
from gifdex.index.search import recall
from gifdex.index.text_file import ENGINE
from gifdex.schemas.errors import CaptionsError

_ENGINE_K = 10


@dataclass(frozen=True)
class Evaluation:
    """The ranks int64 (n,) of the right answers (1 is best), ids missing from the index, and the engine's recall@10.

    `unknown` counts queries without a word that the text encoder knows; they have no rank, and count as not found.
    """

    ranks: NDArray[np.int64]
    absent: tuple[str, ...]
    engine_recall: float
    engine: str
    unknown: int = 0

    def recall(self, k: int) -> float:
        """Return the share of queries whose answer is among the first k."""
        return float((self.ranks <= k).sum() / (len(self.ranks) + self.unknown))

    def measures(self) -> dict[str, float | int | str]:
        """Return everything under the names that `gifdex evaluate` prints."""
        recalls = {f"recall@{k}": round(self.recall(k), 4) for k in (1, 5, 10)}
        return {
            "queries": len(self.ranks) + self.unknown,
            "unknown": self.unknown,
            **recalls,
            "median_rank": float(np.median(self.ranks)),
            "engine_recall@10": round(self.engine_recall, 4),
            "engine": self.engine,
        }


def evaluate(
    index: Index, captions: Sequence[tuple[str, str]], fields: Mapping[str, float] | None = None
) -> Evaluation:
    """Search `index` for each caption of the (id, caption) pairs, and rank the item with that id among all items.

    `fields` are the fields to search and their weights, as in `Index.search`. An item's rank is one more than the
    number of items with a higher score, so equal scores share the best rank. With the field `text`, an item that is
    not among the first DEPTH answers ranks after all items. Raises CaptionsError if no id is in the
    index, QueryError for unknown fields.
    """
    places_of = {key: place for place, key in enumerate(index.ids)}
    known = [(key, caption) for key, caption in captions if key in places_of]
    absent = tuple(sorted({key for key, _ in captions if key not in places_of}))
    if not known:
        raise CaptionsError(
            f"none of the {len(absent):,} ids of the captions is in the index {index.path} (the first: {absent[0]}): "
            "give captions of its items"
        )
    if fields and fields.get(TEXT):
        return _of_words(index, known, absent, fields)
    places, vectors = index.embed_known([caption for _, caption in known])
    if not places:
        raise CaptionsError(
            f"the text encoder of the index {index.path} knows no word of the {len(known):,} captions (the first: "
            f"{known[0][1]!r:.80}): give captions in its language"
        )
    fused = index.fusion(fields)
    fused.check_takes_sentences()
    queries = unit_queries(vectors, fused.dimensions)
    items = np.array([places_of[known[place][0]] for place in places])
    engines = {field.name: field.record.engine or "exact" for field, _ in fused.parts}
    engine = ", ".join(dict.fromkeys(engines.values()))
    return Evaluation(
        fused.ranks(queries, items), absent, engine_recall(fused, queries), engine, len(known) - len(places)
    )


def _of_words(
    index: Index, known: Sequence[tuple[str, str]], absent: tuple[str, ...], fields: Mapping[str, float]
) -> Evaluation:
    """Evaluate fields of which one is `text`, which give no score to every item."""
    ranks, recalls, unknown = [], [], 0
    for key, caption in known:
        if not read_words(caption).scored:
            unknown += 1
            continue
        hits = index.search(caption, DEPTH, fields=fields)
        scores = np.array([hit.score for hit in hits])
        found = next((hit.score for hit in hits if hit.id == key), None)
        ranks.append(len(index) + 1 if found is None else 1 + np.count_nonzero(scores > found))
        best = np.array([hit.score for hit in index.search(caption, _ENGINE_K, fields=fields, exact=True)])
        recalls.append(min(float((scores[:_ENGINE_K] >= best[-1]).sum()) / len(best), 1.0) if len(best) else 1.0)
    if not ranks:
        raise CaptionsError(f"none of the {unknown:,} captions has a word (the first: {known[0][1]!r:.80})")
    engines = [ENGINE if name == TEXT else index.field(name).record.engine or "exact" for name in fields]
    return Evaluation(np.array(ranks), absent, float(np.mean(recalls)), ", ".join(dict.fromkeys(engines)), unknown)


def engine_recall(fused: Fusion, queries: FloatArray, k: int = _ENGINE_K, method: SearchMethod | None = None) -> float:
    """Return the mean share of the exact k best items that engines find for unit queries (n, d).

    By default, searches as for single queries: with the same engines and candidates.
    """
    exact = fused.search(queries, k, SearchMethod(exact=True))
    return recall(exact, fused.search(queries, k, method or SearchMethod(batch=False)))
