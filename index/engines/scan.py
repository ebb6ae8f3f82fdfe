"""A scan of all reduced vectors by products of matrices; they are read from Annoy's file, so it has none of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import Rows
from gifdex.schemas.errors import CorruptIndexError

NOT_FINITE = (
    "the index holds vectors that are not finite numbers, so its bytes were altered: see which with gifdex verify, and "
    "restore the file or rebuild"
)
METRIC = "ip"  # inner product
# Scores held at a time: 64 MiB of float32.
_SCORES = 16 * 1024**2
# Scores that a maximum is taken of. numpy takes the maxima of 32 rows of a matrix 20 times as fast as it partitions
# it.
_FOLDS = 32


class ScanEngine:
    """Proposes the rows of highest inner product with the query, of reduced vectors float32 (items, r)."""

    def __init__(self, vectors: FloatArray) -> None:
        self._vectors = vectors

    def candidates(self, queries: FloatArray, count: int, without: Rows | None = None) -> Sequence[Rows]:
        """See Engine; several queries are multiplied at once."""
        items = len(self._vectors)
        if count >= items:
            return [np.arange(items)] * len(queries)
        block = max(1, _SCORES // items)
        found: list[Rows] = []
        for start in range(0, len(queries), block):
            scores = products(queries[start : start + block], self._vectors)
            found += [highest(row, count) for row in scores]
        return found


def products(queries: FloatArray, vectors: FloatArray) -> FloatArray:
    """Return the inner products float32 (n, items) of queries (n, r) and vectors (items, r)."""
    # numpy multiplies a matrix by a vector twice as fast as by a matrix of one row.
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is looked at next
        result: FloatArray = (vectors @ queries[0])[None] if len(queries) == 1 else queries @ vectors.T
    return result


def check_finite(scores: FloatArray) -> None:
    """Raise CorruptIndexError unless all scores are finite numbers."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = scores.sum()
    if not np.isfinite(total):
        raise CorruptIndexError(NOT_FINITE)


def highest(scores: FloatArray, count: int) -> Rows:
    """Return the ascending places of at least `count` of the highest of float32 (n,) scores, at most twice as many.

    The scores are folded into columns, and the count-th highest of the columns' maxima is a threshold that at least
    `count` scores reach, and few more.
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
