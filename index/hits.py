"""What a query returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Hit(NamedTuple):
    """One result: an item's id, uri and metadata, and its score: an exact cosine, or a weighted sum of cosines.

    `percentile`, from 0 to 1, is the share of sentences that describe no item in particular whose best score in the
    index is below this one. It is None unless a sentence was searched in the field "image" alone.
    """

    id: str
    score: float
    uri: str
    metadata: Mapping[str, Any]
    percentile: float | None = None
