"""What a query returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Hit(NamedTuple):
    """One result: an item's id, uri and metadata, and its score.

    The score is an exact cosine or a weighted sum of cosines; with the field `text`, BM25 or a fused score.
    """

    id: str
    score: float
    uri: str
    metadata: Mapping[str, Any]
