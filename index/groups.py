"""Groups of rows that are connected by pairs: a union-find whose steps are whole arrays."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from gifdex.index.engines.base import Rows


class Groups:
    """The connected components of rows 0..n-1. Several threads may join pairs at once.

    A component is named after its smallest row, so the result does not depend on the order of the pairs.
    """

    def __init__(self, rows: int) -> None:
        self._parent: Rows = np.arange(rows)
        self._lock = threading.Lock()

    def roots(self, rows: Rows) -> Rows:
        """Return the root int64 (n,) of each row. Rows of one component may have two roots while others join pairs."""
        found = self._parent[rows]
        while True:
            above = self._parent[found]
            if np.array_equal(above, found):
                return found
            found = above

    def join(self, left: Rows, right: Rows) -> None:
        """Join the components of the rows of each pair (left[i], right[i])."""
        with self._lock:
            while len(left):
                one, other = self.roots(left), self.roots(right)
                apart = one != other
                left, right = np.minimum(one, other)[apart], np.maximum(one, other)[apart]
                np.minimum.at(self._parent, right, left)

    def apart(self, left: Rows, right: Rows) -> NDArray[np.bool_]:
        """Tell which pairs are not known to be connected, bool (n,)."""
        different: NDArray[np.bool_] = self.roots(left) != self.roots(right)
        return different

    def labels(self) -> Rows:
        """Return the smallest row int64 (rows,) of each row's component."""
        return self.roots(np.arange(len(self._parent)))

    def members(self, sizes: Rows) -> list[Rows]:
        """Return the rows of each component, ascending; the components by their smallest row.

        `sizes` int64 (rows,) says how much each row counts; components that count less than two are left out.
        """
        labels = self.labels()
        kept = np.flatnonzero(np.bincount(labels, sizes, minlength=len(labels))[labels] > 1)
        order = kept[np.argsort(labels[kept], kind="stable")]
        return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(order) else []
