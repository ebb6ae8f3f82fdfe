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
    """One result: an item's id, uri and metadata, and its score: an exact cosine, or a weighted sum of cosines.

    `moments` are its best frames, best first, if the field "frames" was searched.
    """

    id: str
    score: float
    uri: str
    metadata: Mapping[str, Any]
    moments: tuple[Moment, ...] = ()
