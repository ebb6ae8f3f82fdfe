"""What a query returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Hit(NamedTuple):
    """One result: an item's id, uri and metadata, and its score: an exact cosine, or a weighted sum of cosines."""

    id: str
    score: float
    uri: str
    metadata: Mapping[str, Any]


class Word(NamedTuple):
    """One word or tag, and its score: a cosine, or the probability of a class."""

    word: str
    score: float
