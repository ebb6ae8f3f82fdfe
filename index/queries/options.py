"""The options of a search."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import TypedDict

import numpy as np

from gifdex.index.fields import SearchMethod
from gifdex.index.items import Where
from gifdex.schemas.errors import QueryError

_MAX_COUNT = 2**48  # of hits and candidates; no index has this many items


class SearchOptions(TypedDict, total=False):
    """The options of every search.

    `fields` are the fields that answer, and their weights: {"image": 1.0} unless you say otherwise. An item's score is
    the weighted sum of its cosines in all of them, 0 in a field where it has no vector. Fields must lie in one space.

    `where` lets through only some items, of which the best are found exactly: a dict of metadata, such as
    {"tag": "cat"} (several keys must all fit; a list means any of its values; of an item's list, one element must fit),
    or a pyarrow expression over the metadata, such as `pyarrow.compute.field("year") > 2015`; `id`, `uri`, `sha256` and
    `caption` can be named too.

    Without it, `engine` proposes candidates, and `num_candidates` of them in each shard (at least half as many again as
    k) are rescored for ten hits or fewer, with the root of k more for more: the more, the better and the slower. Both
    have defaults that were chosen when the index was built, see `manifest.fields`. Several vectors are scanned by
    products of matrices where that is faster than to ask the engine for each. `exact` scores every item instead.

    Hits that score less than `min_score` are left out, and those whose `percentile` is below `min_percentile`, from 0
    to 1, which means the same whatever the encoders and the projection. The latter is for sentences in the field
    "image" alone.
    """

    fields: Mapping[str, float] | None
    where: Where | None
    engine: str | None
    num_candidates: int | None
    exact: bool
    min_score: float | None
    min_percentile: float | None


def search_method(engine: str | None, num_candidates: int | None, exact: bool) -> SearchMethod:
    """Return how fields are searched; raises QueryError for an invalid count."""
    candidates = None if num_candidates is None else at_least_one("num_candidates", num_candidates)
    return SearchMethod(engine, candidates, exact)


def at_least_one(name: str, value: int) -> int:
    """Return a count; raises QueryError unless it is a whole number, at least 1."""
    try:
        count = operator.index(value)
    except TypeError as err:
        raise QueryError(f"{name} is {value!r}; expected a whole number, at least 1") from err
    if count < 1:
        raise QueryError(f"{name} is {count}; expected at least 1")
    return min(count, _MAX_COUNT)


def checked_score(min_score: float | None) -> float | None:
    """Return the lowest score wanted; raises QueryError unless it is a finite number or None."""
    if min_score is None:
        return None
    is_number = isinstance(min_score, (int, float, np.integer, np.floating)) and not isinstance(min_score, bool)
    if not is_number or not math.isfinite(min_score):
        raise QueryError(f"min_score is {min_score!r:.40}; expected a number, such as 0.2")
    return float(min_score)
