"""When a query's answers happen: the best frames of each hit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import Rows
from gifdex.index.fields import Field
from gifdex.index.hits import Hit, Moment
from gifdex.index.queries.fuse import Fusion

MAX_MOMENTS = 3  # of a hit


def with_moments(fused: Fusion, query: FloatArray, items: Rows, hits: Sequence[Hit]) -> list[Hit]:
    """Return the hits with their best moments for a unit query (d,), if a field of frames was searched.

    `items` (n,) are those of the hits, or more. Raises CorruptIndexError.
    """
    field = next((field for field, _ in fused.parts if field.has_times), None)
    if field is None or not hits:
        return list(hits)
    found = _best_moments(field, query, items[: len(hits)])
    return [hit._replace(moments=moments) for hit, moments in zip(hits, found, strict=True)]


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
