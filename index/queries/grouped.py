"""Show one of each group of near duplicates among results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gifdex.index.engines.base import Rows
from gifdex.index.field_records import IMAGE
from gifdex.index.hits import Hit
from gifdex.index.opened import Opened
from gifdex.index.queries.cutoff import Cutoff
from gifdex.index.queries.duplicates import DEFAULT_SCORE, duplicate_score
from gifdex.index.queries.moments import MomentsOf
from gifdex.index.search import Found

# Returns the best items, up to a count, with falling scores.
Finder = Callable[[int], Found]
# How many times as many results are looked at in each round.
_MORE = 4


def group_score(group: bool | float | None) -> float | None:
    """Return the score of near duplicates that `group` means, None for no grouping; raises QueryError."""
    if group is False or group is None:
        return None
    return duplicate_score("group", DEFAULT_SCORE if group is True else group)


@dataclass(frozen=True)
class Ranking:
    """One query, ready to be answered: what finds its best items, and what tells their moments, if anything does."""

    find: Finder
    moments: MomentsOf | None = None

    def hits(self, opened: Opened, k: int, cutoff: Cutoff, group: float | None) -> list[Hit]:
        """Return the k best hits, one of each group of near duplicates if `group` is their score."""
        if group is not None:
            return grouped(opened, self, k, cutoff, group)
        return opened.hits(*self.find(k), cutoff, self.moments)


def grouped(opened: Opened, ranking: Ranking, k: int, cutoff: Cutoff, score: float) -> list[Hit]:
    """Return the k best items that are no near duplicates of a better one, each with the ids of its own.

    An item is a near duplicate of the best item that is shown and whose image vector has at least `score` with its own.
    Ids are those of the items that rank above the first one that is not shown for want of room.
    """
    count = _MORE * k
    while True:
        items, scores = ranking.find(count)
        is_all = len(items) < count or count >= opened.manifest.items
        if (kept := cutoff.kept(scores)) < len(scores):
            items, scores, is_all = items[:kept], scores[:kept], True
        leaders, end = _leaders(opened, items, k, score)
        if end is not None or is_all:
            return _hits(opened, (items[:end], scores[:end]), leaders[:end], cutoff, ranking.moments)
        count *= _MORE


def _leaders(opened: Opened, items: Rows, k: int, score: float) -> tuple[Rows, int | None]:
    """Return the place int64 (n,) of the item that stands for each item; and the place of the first beyond k groups."""
    field = opened.fields[IMAGE]
    rows = field.items.row_of[items]
    leaders = np.full(len(items), -1)
    for _ in range(k):
        left = np.flatnonzero(leaders < 0)
        if not len(left):
            return leaders, None
        vector = field.searcher.vectors_at(rows[left[:1]])[0]
        is_near = (field.scores_of(vector, items[left]) >= score) | (rows[left] == rows[left[0]])
        leaders[left[is_near]] = left[0]
    left = np.flatnonzero(leaders < 0)
    return leaders, int(left[0]) if len(left) else None


def _hits(opened: Opened, found: Found, leaders: Rows, cutoff: Cutoff, moments: MomentsOf | None) -> list[Hit]:
    items, scores = found
    shown = np.flatnonzero(leaders == np.arange(len(items)))
    keys = opened.items.rows(items)[0]
    return [
        hit._replace(duplicates=tuple(keys[place] for place in np.flatnonzero(leaders == leader) if place != leader))
        for leader, hit in zip(shown.tolist(), opened.hits(items[shown], scores[shown], cutoff, moments), strict=True)
    ]
