"""The options of a search."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from gifdex.index.fields import SearchMethod
from gifdex.index.items import Where
from gifdex.schemas.errors import QueryError

if TYPE_CHECKING:
    from gifdex.index.queries.hybrid import Outside

_MAX_COUNT = 2**48  # of hits and candidates; no index has this many items


class SearchOptions(TypedDict, total=False):
    """The options of every search.

    `fields` are the fields that answer, and their weights: {"image": 1.0} unless you say otherwise. An item's score is
    the weighted sum of its cosines in all of them, 0 in a field where it has no vector. Fields must lie in one space.

    The field "text" has words. Of a sentence's words an item may have any, but it must have the phrases in quotation
    marks. Alone, it scores by BM25. `fusion` says how it joins fields of vectors: "ranks", the default, sums weight /
    (60 + rank) over the fields; "scores" sums cosines and BM25 divided by the query's best, times the weights.

    `syntax` is "sentence", or "terms" for weighted words such as 'cat:2 sofa -dog "ice cream"'.

    `where` lets through only some items, of which the best are found exactly: a dict of metadata, such as
    {"tag": "cat"} (several keys must all fit; a list means any of its values; of an item's list, one element must fit),
    or a pyarrow expression over the metadata, such as `pyarrow.compute.field("year") > 2015`; `id`, `uri`, `sha256` and
    `caption` can be named too.

    Without it, `engine` proposes candidates, and `num_candidates` of them in each shard (at least half as many again as
    k) are rescored for ten hits or fewer, with the root of k more for more: the more, the better and the slower. Both
    have defaults that were chosen when the index was built, see `manifest.fields`. Several vectors are scanned by
    products of matrices where that is faster than to ask the engine for each. `exact` scores every item instead.

    Hits that score less than `min_score` are left out, whatever kind of score it is, and those whose `percentile` is
    below `min_percentile`, from 0 to 1, which means the same whatever the encoders and the projection. The latter is
    for sentences in the field "image" alone.

    `outside` is an outside source (see `Outside`) whose GIFs are ranked together with the index's own, for sentences,
    by the field "image"; the minimums hold for them too.

    `group` shows one of each group of near duplicates: items whose image vectors have at least that score with a
    better hit's (True: 0.98) are not shown, and their ids are in that hit's `duplicates`. There are still k hits.
    """

    fields: Mapping[str, float] | None
    where: Where | None
    engine: str | None
    num_candidates: int | None
    exact: bool
    min_score: float | None
    min_percentile: float | None
    syntax: str
    fusion: str | None
    group: bool | float | None
    outside: Outside | None


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


def checked_score(score: float | None, name: str = "min_score") -> float | None:
    """Return the lowest score wanted; raises QueryError unless it is a finite number or None."""
    if score is None:
        return None
    is_number = isinstance(score, (int, float, np.integer, np.floating)) and not isinstance(score, bool)
    try:
        value = float(score) if is_number else math.nan
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise QueryError(f"{name} is {score!r:.40}; expected a number, such as 0.2")
    return value
