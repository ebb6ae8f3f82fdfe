"""The percentiles of hits, and the lowest one wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gifdex.index.calibration import Percentiles
from gifdex.index.field_records import IMAGE
from gifdex.index.queries.fuse import Fusion
from gifdex.index.vectors import Scores
from gifdex.schemas.errors import QueryError


@dataclass(frozen=True)
class HitPercentiles:
    """Gives hits their percentiles, and leaves out those under `lowest`; scores are cosines times `weight`."""

    percentiles: Percentiles
    weight: float
    lowest: float | None

    def of(self, scores: Scores) -> Scores:
        """Return the percentiles of those of the falling scores (n,) that are wanted: the first ones."""
        shares = self.percentiles(scores if self.weight == 1 else scores / self.weight)
        return shares if self.lowest is None else shares[: int(np.count_nonzero(shares >= self.lowest))]


def hit_percentiles(path: Path, fused: Fusion, are_vectors: bool, lowest: float | None) -> HitPercentiles | None:
    """Return what gives percentiles to the hits of sentences (of vectors, if `are_vectors`), None if they have none.

    Raises QueryError if the lowest one is no number from 0 to 1, or if the hits have none.
    """
    (field, weight), *others = fused.parts
    percentiles = None if others or are_vectors else field.percentiles
    if lowest is not None:
        is_number = isinstance(lowest, (int, float, np.integer, np.floating)) and not isinstance(lowest, bool)
        if not (is_number and 0 <= lowest <= 1):
            raise QueryError(f"min_percentile is {lowest!r:.40}; expected a number from 0 to 1, such as 0.99")
        if percentiles is None:
            raise QueryError(_reason(path, fused, are_vectors))
    return None if percentiles is None else HitPercentiles(percentiles, weight, lowest)


def _reason(path: Path, fused: Fusion, are_vectors: bool) -> str:
    """Return why a search has no percentiles."""
    if are_vectors:
        return "min_percentile is for sentences, but the query is an array of vectors: use min_score"
    names = [field.name for field, _ in fused.parts]
    if names != [IMAGE]:
        return f"min_percentile is for the field {IMAGE} alone, but the search is in {', '.join(names)}: use min_score"
    return f"the index {path} has no calibration, which min_percentile needs: build it again, or use min_score"
