"""Products of queries with vectors, and the highest of them."""

from __future__ import annotations

import numpy as np

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import Rows
from gifdex.schemas.errors import CorruptIndexError

NOT_FINITE = (
    "the index has vectors that are not finite, so its bytes were altered: find the file with gifdex verify, and "
    "restore the file or rebuild"
)
# How many scores are folded into one maximum: numpy takes maxima over 32 rows 20 times as fast as it partitions.
_FOLDS = 32


def products(queries: FloatArray, vectors: FloatArray) -> FloatArray:
    """Return the inner products float32 (n, rows) of queries (n, r) and vectors (rows, r)."""
    # numpy multiplies a matrix by a vector twice as fast as by a matrix of one row.
    with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are checked later
        result: FloatArray = (vectors @ queries[0])[None] if len(queries) == 1 else queries @ vectors.T
    return result


def check_finite(scores: FloatArray) -> None:
    """Raise CorruptIndexError unless all scores are finite numbers."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = scores.sum()
    if not np.isfinite(total):
        raise CorruptIndexError(NOT_FINITE)


def highest(scores: FloatArray, count: int) -> Rows:
    """Return the ascending positions of the `count` highest of float32 (n,) scores, and of at most `count` others.

    The scores are folded into columns. The count-th highest column maximum is a threshold that at least `count` scores
    reach, and usually few more.
    """
    check_finite(scores)
    columns = len(scores) // _FOLDS
    if columns < 2 * count:
        return np.sort(np.argpartition(scores, len(scores) - count)[len(scores) - count :])
    maxima = scores[: _FOLDS * columns].reshape(_FOLDS, columns).max(axis=0)
    places: Rows = np.flatnonzero(scores >= np.partition(maxima, columns - count)[columns - count])
    if len(places) > 2 * count:  # many equal scores
        places = places[np.sort(np.argpartition(scores[places], len(places) - count)[len(places) - count :])]
    return places
