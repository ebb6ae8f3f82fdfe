"""What a query returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Hit(NamedTuple):
    """One result: an item's id, uri and metadata, and its score.

    The score is an exact cosine or a weighted sum of cosines; with the field `text`, BM25 or a fused score. `source`
    is the outside source that a hit comes from, None for an item of the index. `duplicates` are the ids of its near
    duplicates among the results, if the search groups them.
    """

    id: str
    score: float
    uri: str
    metadata: Mapping[str, Any]
    source: str | None = None
    duplicates: tuple[str, ...] = ()


class Word(NamedTuple):
    """One word or tag, and its score: a cosine, or the probability of a class."""

    word: str
    score: float
