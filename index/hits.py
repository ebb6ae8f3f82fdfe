"""What a query returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Moment(NamedTuple):
    """A frame of a hit: when it is first shown, its number in the GIF from 0, and its exact cosine with the query."""

    milliseconds: int
    frame: int
    score: float


class Hit(NamedTuple):
    """One result: an item's id, uri and metadata, and its score.

    The score is an exact cosine or a weighted sum of cosines; with the field `text`, BM25 or a fused score.
    `percentile`, from 0 to 1, is the share of sentences that describe no item in particular whose best score in the
    index is below this one; None unless a sentence was searched in the field "image" alone. `moments` are its best
    frames, best first, if the field "frames" was searched. `duplicates` are the ids of near duplicates among the
    results, if the search groups them. `source` is the outside source that a hit comes from, None for an item of the
    index.
    """

    id: str
    score: float
    uri: str
    metadata: Mapping[str, Any]
    percentile: float | None = None
    moments: tuple[Moment, ...] = ()
    duplicates: tuple[str, ...] = ()
    source: str | None = None


class Word(NamedTuple):
    """One word or tag, and its score: a cosine, or the probability of a class."""

    word: str
    score: float
