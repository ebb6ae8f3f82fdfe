"""When a query's answers happen: the best frames of each hit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import Rows
from gifdex.index.fields import Field
from gifdex.index.hits import Moment
from gifdex.index.queries.fuse import Fusion

MAX_MOMENTS = 3  # of a hit


# Returns the best moments of each of some items.
MomentsOf = Callable[[Rows], list[tuple[Moment, ...]]]


def moments_of(fused: Fusion, query: FloatArray) -> MomentsOf | None:
    """Return what tells the moments of items for a unit query (d,); None unless a field of frames is searched."""
    field = fused.timed
    return None if field is None else lambda items: _best_moments(field, query, items)


def _best_moments(field: Field, query: FloatArray, items: Rows) -> list[tuple[Moment, ...]]:
    """Return each item's best frames, best first; equal ones in order of time."""
    entries, scores, counts = field.scores_by_row(query, items)
    owners = np.repeat(np.arange(len(items)), counts)
    times = field.times_of(entries)
    order = np.lexsort((times.milliseconds, -scores, owners))
    starts = (np.cumsum(counts) - counts).tolist()
    result = []
    for start, count in zip(starts, counts.tolist(), strict=True):
        best = order[start : start + min(count, MAX_MOMENTS)]
        shown = times.at(best)
        clipped = np.clip(scores[best], -1, 1)
        result.append(tuple(map(Moment, shown.milliseconds.tolist(), shown.frames.tolist(), clipped.tolist())))
    return result
