"""What a score means: how high sentences score that describe no item in particular.

Cosines of two encoders or projections cannot be compared. So a build asks its field of images such sentences and keeps
the quantiles of their scores. A score's percentile is the share of these sentences whose best score is below it: the
share of unrelated queries that would be answered if that score were the lowest one allowed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from gifdex.encoders.base import FloatArray, fingerprint
from gifdex.index.engines.base import evenly_spaced
from gifdex.index.search import Searcher, open_shards
from gifdex.index.vectors import Scores
from gifdex.schemas.manifest import CalibrationRecord, FieldRecord

# Every hundredth, and finer at the upper end.
LEVELS = (*(n / 100 for n in range(100)), *(n / 1000 for n in range(991, 1000)), 0.9999, 1.0)
# Rows whose scores give the quantiles of all scores; the best scores are those of all rows.
MAX_ROWS = 2048
_DECIMALS = 6


def recipe(sentences: list[str]) -> str:
    """Return a hash of what shapes a calibration besides the vectors."""
    return fingerprint({"levels": list(LEVELS), "rows": MAX_ROWS, "sentences": sentences})


def calibrated(version: Path, record: FieldRecord, sentences: FloatArray) -> FieldRecord:
    """Return a field's record with the scores of sentences, unit vectors float32 (n, d)."""
    searcher = Searcher(open_shards(version, record), {}, None)
    best = np.array([scores[0] for _, scores in searcher.scan(sentences, 1)])
    sample = searcher.vectors_at(evenly_spaced(searcher.rows, MAX_ROWS)).astype(np.float64)
    every = sentences.astype(np.float64) @ sample.T
    return replace(record, calibration=CalibrationRecord(len(sentences), LEVELS, _quantiles(best), _quantiles(every)))


def _quantiles(scores: Scores) -> tuple[float, ...]:
    return tuple(round(value, _DECIMALS) for value in np.quantile(scores, LEVELS).tolist())


def problem(record: CalibrationRecord) -> str | None:
    """Return why a calibration in a manifest is inconsistent, or None."""
    for values in (record.levels, record.best, record.all):
        fits = len(values) == len(record.levels) >= 2 and all(map(math.isfinite, values))
        if not fits or any(low > high for low, high in pairwise(values)):
            return f"has a calibration of {len(record.levels):,} levels whose values are too few or do not rise"
    if record.sentences < 1 or (record.levels[0], record.levels[-1]) != (0, 1):
        return f"has a calibration of {record.sentences:,} sentences whose levels do not go from 0 to 1"
    return None


class Percentiles:
    """Maps scores to percentiles."""

    def __init__(self, record: CalibrationRecord) -> None:
        self._best, self._levels = np.array(record.best), np.array(record.levels)

    def __call__(self, scores: Scores) -> Scores:
        """Return the share float64 (n,) of sentences whose best score is below each score."""
        shares: Scores = np.interp(scores, self._best, self._levels)
        return shares
