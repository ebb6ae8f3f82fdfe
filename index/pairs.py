"""Connect rows whose exact cosine reaches a score, by comparing all with all.

A pair of unit vectors that is this close is also close in few dimensions. Let P map onto orthonormal directions and
let r be the length of what P drops. Then cos(x, y) <= Px . Py + r(x) r(y), by Cauchy and Schwarz. So blocks of
(Px, r(x)) are multiplied, which are an eighth as long as the vectors, and only the pairs that reach the score there are
compared in all dimensions. No pair is missed, and pairs that are connected already are not compared.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gifdex.encoders.base import FloatArray, available_cpus
from gifdex.encoders.fixed_order import fixed_order
from gifdex.index.engines.base import Rows, evenly_spaced
from gifdex.index.groups import Groups
from gifdex.index.reduction import SAMPLE, fit
from gifdex.index.scores import check_finite
from gifdex.index.vectors import ROUNDING

# Returns the unit vectors float32 (n, d) of ascending rows.
VectorsAt = Callable[[Rows], FloatArray]
Tick = Callable[[int, int], None]

# Rows of a tile, whose products stay in the cache.
_HEIGHT, _WIDTH = 512, 2048
# Rows whose reduced vectors are computed at a time.
_BLOCK = 4096
# Up to one in this many pairs of a tile are compared by gathering their vectors, more by one product.
_SPARSE = 256
# Pairs whose vectors are gathered at a time.
_GATHERED = 4096


def connect_all(
    vectors_at: VectorsAt,
    count: int,
    min_score: float,
    groups: Groups,
    rows: Rows | None = None,
    tick: Tick | None = None,
) -> None:
    """Join all pairs of `count` vectors whose exact cosine is at least `min_score`.

    With `rows`, ascending, only their pairs with others. `tick` is told how many of how many rows are done. Memory is
    that of the reduced vectors, about an eighth of the vectors, and of a few tiles.
    """
    reduced = _reduced(vectors_at, count)
    chosen = np.arange(count) if rows is None else rows
    compare = _Tiles(vectors_at, reduced, min_score, groups, every=rows is None)
    starts = range(0, len(chosen), _HEIGHT)
    done = 0
    with fixed_order(), ThreadPoolExecutor(available_cpus(), "gifdex-pairs") as pool:
        # The first tiles are the longest, so all threads end at about the same time.
        for part in pool.map(compare, (chosen[start : start + _HEIGHT] for start in starts)):
            done += part
            if tick is not None:
                tick(done, len(chosen))


def _reduced(vectors_at: VectorsAt, count: int) -> FloatArray:
    """Return vectors float32 (count, r) whose products are at least the cosines; the vectors themselves if short."""
    reduction = fit(vectors_at(evenly_spaced(count, SAMPLE))) if count else None
    directions = None if reduction is None else reduction.leading(reduction.scanned)
    parts = []
    for start in range(0, count, _BLOCK):
        block = vectors_at(np.arange(start, min(start + _BLOCK, count)))
        if directions is not None:
            mapped = block @ directions
            squares = np.einsum("ij,ij->i", block, block) - np.einsum("ij,ij->i", mapped, mapped)
            block = np.column_stack([mapped, np.sqrt(np.maximum(squares, 0))])
        check_finite(block)
        parts.append(block)
    return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)


class _Tiles:
    """Compares some rows with all rows, or with all from the first of them on."""

    def __init__(
        self, vectors_at: VectorsAt, reduced: FloatArray, min_score: float, groups: Groups, *, every: bool
    ) -> None:
        self._vectors_at = vectors_at
        self._reduced = reduced
        self._min_score = min_score
        self._groups = groups
        self._every = every

    def __call__(self, rows: Rows) -> int:
        """Join the pairs of ascending rows (n,); return n."""
        mine = self._reduced[rows]
        lowest = np.float32(self._min_score - 4 * ROUNDING)
        for start in range(int(rows[0]) if self._every else 0, len(self._reduced), _WIDTH):
            scores = mine @ self._reduced[start : start + _WIDTH].T
            found = np.flatnonzero(scores >= lowest)
            left, right = rows[found // scores.shape[1]], start + found % scores.shape[1]
            different = left < right if self._every else left != right
            self._join(left[different], right[different])
        return len(rows)

    def _join(self, left: Rows, right: Rows) -> None:
        """Join those of the pairs that reach the score."""
        # One pair of each row comes first: then most pairs of a large group are connected before they are compared.
        firsts = [np.unique(side, return_index=True)[1] for side in (left, right)]
        chosen = np.zeros(len(left), bool)
        chosen[np.concatenate(firsts)] = True
        self._compare(left[chosen], right[chosen])
        self._compare(left[~chosen], right[~chosen])

    def _compare(self, left: Rows, right: Rows) -> None:
        apart = self._groups.apart(left, right)
        left, right = left[apart], right[apart]
        if not len(left):
            return
        if len(left) * _SPARSE > _HEIGHT * _WIDTH:
            self._multiply(left, right)
            return
        for start in range(0, len(left), _GATHERED):
            one, other = left[start : start + _GATHERED], right[start : start + _GATHERED]
            self._gather(one, other)

    def _multiply(self, left: Rows, right: Rows) -> None:
        ones, places = np.unique(left, return_inverse=True)
        others, other_places = np.unique(right, return_inverse=True)
        scores = (self._vectors_at(ones) @ self._vectors_at(others).T)[places, other_places]
        sure = scores >= self._min_score + ROUNDING
        self._groups.join(left[sure], right[sure])
        near = ~sure & (scores >= self._min_score - ROUNDING)
        for start in range(0, np.count_nonzero(near), _GATHERED):
            part = np.flatnonzero(near)[start : start + _GATHERED]
            self._gather(left[part], right[part])

    def _gather(self, left: Rows, right: Rows) -> None:
        apart = self._groups.apart(left, right)
        left, right = left[apart], right[apart]
        rows, places = np.unique(np.concatenate([left, right]), return_inverse=True)
        vectors = self._vectors_at(rows)
        ones, others = vectors[places[: len(left)]], vectors[places[len(left) :]]
        scores = np.einsum("ij,ij->i", ones, others, dtype=np.float64)
        reached = scores >= self._min_score
        self._groups.join(left[reached], right[reached])
