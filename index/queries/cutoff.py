"""Which hits are good enough to be shown, and their percentiles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from gifdex.index.calibration import Percentiles
from gifdex.index.field_records import IMAGE
from gifdex.index.queries.fuse import Fusion
from gifdex.index.queries.options import checked_score
from gifdex.index.vectors import Scores
from gifdex.schemas.errors import QueryError


@dataclass(frozen=True)
class Cutoff:
    """The lowest score and the lowest percentile of hits, None if any will do; and what gives percentiles, if any.

    Scores are cosines times `weight`.
    """

    min_score: float | None = None
    min_percentile: float | None = None
    percentiles: Percentiles | None = None
    weight: float = 1.0

    @property
    def is_open(self) -> bool:
        """Whether every hit is shown."""
        return self.min_score is None and self.min_percentile is None

    def of(self, scores: Scores) -> Scores | None:
        """Return the percentiles float64 (n,) of scores (n,), None if they have none."""
        if self.percentiles is None:
            return None
        return self.percentiles(scores if self.weight == 1 else scores / self.weight)

    def kept(self, scores: Scores) -> int:
        """Return how many of the falling scores (n,) are good enough: the first ones."""
        kept = len(scores) if self.min_score is None else int(np.count_nonzero(scores >= self.min_score))
        if self.min_percentile is not None and (shares := self.of(scores)) is not None:
            kept = min(kept, int(np.count_nonzero(shares >= self.min_percentile)))
        return kept


ANY = Cutoff()


class Searched(Protocol):
    """Fields that are searched together."""

    @property
    def names(self) -> str:
        """Their names, for errors."""


def cutoff(
    path: Path, fused: Searched | None, are_vectors: bool, min_score: float | None, min_percentile: float | None
) -> Cutoff:
    """Return the cutoff of a search in `fused` fields.

    Only the hits of sentences have percentiles, not those of vectors. Raises QueryError if a limit is invalid, or if
    there are no percentiles to limit.
    """
    if are_vectors and min_score is None and min_percentile is None:
        return ANY
    lowest = checked_score(min_score)
    percentiles, weight = None, 1.0
    if isinstance(fused, Fusion) and len(fused.parts) == 1 and not are_vectors:
        field, weight = fused.parts[0]
        percentiles = field.percentiles
    if min_percentile is not None:
        checked_score(min_percentile, "min_percentile")
        if not 0 <= min_percentile <= 1:
            raise QueryError(f"min_percentile is {min_percentile}; expected a number from 0 to 1, such as 0.99")
        if percentiles is None:
            raise QueryError(_reason(path, fused, are_vectors))
    return Cutoff(lowest, min_percentile, percentiles, weight)


def _reason(path: Path, fused: Searched | None, are_vectors: bool) -> str:
    """Return why a search has no percentiles."""
    if are_vectors:
        return "min_percentile is for sentences, but the query is an array of vectors: use min_score"
    if fused is not None and fused.names != IMAGE:
        return f"min_percentile is for the field {IMAGE} alone, but the search is in {fused.names}: use min_score"
    return f"the index {path} has no calibration, which min_percentile needs: build it again, or use min_score"
