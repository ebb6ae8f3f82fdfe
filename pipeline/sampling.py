"""Choose which frames stand for a GIF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """Distinct frame indexes in rising order, and the share of the sampled moments that each one shows."""

    indexes: tuple[int, ...]
    weights: tuple[float, ...]


def sample_in_time(delays_ms: Sequence[int], moments: int) -> Sample:
    """Take `moments` moments, each in the middle of an equal slice of the playing time.

    `delays_ms` (all above zero) says how long each frame shows. A frame that shows at several moments is
    taken once, with their share as its weight; the weights sum to one.
    """
    ends = np.cumsum(np.asarray(delays_ms, dtype=np.int64))
    # In whole numbers: moment k of n lies at (2k + 1) T / 2n, and a frame shows up to, not at, its end.
    times = (2 * np.arange(moments, dtype=np.int64) + 1) * ends[-1]
    shown = np.searchsorted(ends * 2 * moments, times, side="right")
    indexes, counts = np.unique(shown, return_counts=True)
    return Sample(tuple(indexes.tolist()), tuple((counts / moments).tolist()))
