"""What a search can be told besides the query."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TypedDict

from gifdex.index.fields import SearchMethod
from gifdex.index.items import Where
from gifdex.schemas.errors import QueryError

_MAX_COUNT = 2**48  # hits and candidates: more than any index has items


class SearchOptions(TypedDict, total=False):
    """What `Index.search` can be told besides the query and k; its docstring says what each means."""

    fields: Mapping[str, float] | None
    where: Where | None
    engine: str | None
    num_candidates: int | None
    exact: bool


def search_method(engine: str | None, num_candidates: int | None, exact: bool) -> SearchMethod:
    """Return how fields are method; raises QueryError for a count that is none."""
    candidates = None if num_candidates is None else at_least_one("num_candidates", num_candidates)
    return SearchMethod(engine, candidates, exact)


def at_least_one(name: str, value: int) -> int:
    """Return a count; raises QueryError for what is no whole number, or under 1."""
    try:
        count = operator.index(value)
    except TypeError as err:
        raise QueryError(f"{name} is {value!r}; expected a whole number, at least 1") from err
    if count < 1:
        raise QueryError(f"{name} is {count}; expected at least 1")
    return min(count, _MAX_COUNT)
