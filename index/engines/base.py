"""What every engine is to the rest: a name, and candidates for a batch of queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray

Rows = NDArray[np.int64]


class Engine(Protocol):
    """An opened engine over one shard; several threads may ask it at once."""

    def candidates(self, queries: FloatArray, count: int, without: Rows | None = None) -> Sequence[Rows]:
        """Return, for each of `queries` float32 (n, r), about `count` distinct rows of the shard, in no promised order.

        r is the count of dimensions that the engine sees (`EngineFacts.dimensions`). More rows than `count` may
        come where that costs nothing, fewer where the engine found no more.

        `without` int64 (n,) has a row for each query, or -1. An engine whose files are shaped by single rows answers
        as if it did not have that row; others may return it. So recall can be measured with stored vectors.
        """


def evenly_spaced(items: int, count: int) -> Rows:
    """Return up to `count` distinct rows of `items`, evenly spaced over all."""
    return np.unique(np.linspace(0, items - 1, count).astype(np.int64))
