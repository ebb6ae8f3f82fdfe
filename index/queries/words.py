"""Words near a word, from a words index."""

from __future__ import annotations

import difflib
import unicodedata
from typing import TypedDict

import numpy as np

from gifdex.index.engines.base import Rows
from gifdex.index.field_records import WORD
from gifdex.index.hits import Word
from gifdex.index.kinds import only_words
from gifdex.index.opened import Opened
from gifdex.index.queries.cutoff import Cutoff
from gifdex.index.queries.options import at_least_one, checked_score, search_method
from gifdex.index.vectors import Scores
from gifdex.schemas.errors import QueryError

# Spellings are suggested among the most frequent words, because lists of all words have the misspelt ones too.
_SUGGESTED_RANKS, _SUGGESTIONS = 50_000, 3
_MAX_LENGTHS_APART = 2


class WordsOptions(TypedDict, total=False):
    """The options of `Index.words`.

    `max_rank` lets through only so many of the most frequent words, of which the nearest are found exactly. `engine`,
    `num_candidates`, `exact` and `min_score` are those of a search.
    """

    max_rank: int | None
    engine: str | None
    num_candidates: int | None
    exact: bool
    min_score: float | None


def near_words(
    opened: Opened,
    word: str,
    k: int,
    *,
    max_rank: int | None = None,
    engine: str | None = None,
    num_candidates: int | None = None,
    exact: bool = False,
    min_score: float | None = None,
) -> list[Word]:
    """See `Index.words`."""
    if WORD not in opened.fields:
        raise only_words(opened.path)
    count, method, lowest = at_least_one("k", k), search_method(engine, num_candidates, exact), checked_score(min_score)
    among = None if max_rank is None else first_words(opened, max_rank)
    item = _item_of(opened, word)
    query = opened.main.searcher.vectors_at(opened.main.items.row_of[[item]])
    if not query.any():
        raise QueryError(f"the word {word!r:.80} has no direction in the index {opened.path}: ask for another")
    fused = opened.fusion(None)
    opened.prepare(fused, method, 1)
    ((items, scores),) = fused.search(query, count + 1, method, among)
    others = items != item
    return as_words(opened, items[others][:count], scores[others][:count], lowest)


def first_words(opened: Opened, max_rank: int) -> Rows:
    """Return the `max_rank` most frequent words as items: words are in that order."""
    return np.arange(min(at_least_one("max_rank", max_rank), opened.manifest.items))


def as_words(opened: Opened, items: Rows, scores: Scores, min_score: float | None) -> list[Word]:
    """Return items of a words index (n,) with falling scores (n,) as words, without those under `min_score`."""
    return [Word(hit.id, hit.score) for hit in opened.hits(items, scores, Cutoff(min_score))]


def _item_of(opened: Opened, word: object) -> int:
    """Return a word's item, as it is written or else in lower case; raises QueryError for an unknown one."""
    if not isinstance(word, str) or not word.strip():
        raise QueryError(f"the word is {word!r:.80}; expected a word, such as 'ocean'")
    composed = unicodedata.normalize("NFC", word.strip())
    for spelling in dict.fromkeys([word.strip(), composed, composed.lower()]):
        found = opened.items.matching({"id": spelling})
        if len(found):
            return int(found[0])
    near = _spellings(opened.items.ids[:_SUGGESTED_RANKS], composed.lower())
    hint = f"did you mean {', '.join(near)}?" if near else f"expected one of its {opened.manifest.items:,} words"
    raise QueryError(f"the words index {opened.path} has no word {word!r:.80}; {hint}")


def _spellings(words: list[str], wanted: str) -> list[str]:
    """Return the words that are spelt nearly like `wanted`, nearest first."""
    similar = [word for word in words if word[:1] == wanted[:1] and abs(len(word) - len(wanted)) <= _MAX_LENGTHS_APART]
    return difflib.get_close_matches(wanted, similar, _SUGGESTIONS, cutoff=0.75)
