"""The options of a search."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TypedDict

from gifdex.index.fields import SearchMethod
from gifdex.index.items import Where
from gifdex.schemas.errors import QueryError

_MAX_COUNT = 2**48  # of hits and candidates; no index has this many items


class SearchOptions(TypedDict, total=False):
    """The options of `Index.search`; its docstring explains them."""

    fields: Mapping[str, float] | None
    where: Where | None
    engine: str | None
    num_candidates: int | None
    exact: bool


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
