"""Ask a service page by page until there are enough candidates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gifdex.index.sources.base import Candidate


@dataclass(frozen=True)
class Page:
    """One page of answers: how many items it had, and the candidates among them."""

    items: int
    candidates: list[Candidate]


def gather(count: int, page_size: int, fetch: Callable[[int, int], Page]) -> list[Candidate]:
    """Return up to `count` candidates with distinct ids; `fetch(offset, limit)` returns one page.

    Ends at a page that is not full, or that has nothing new: some services repeat their last page forever.
    """
    found: dict[str, Candidate] = {}
    offset = 0
    while len(found) < count:
        limit = min(page_size, count - len(found))
        page = fetch(offset, limit)
        before = len(found)
        for candidate in page.candidates:
            found.setdefault(candidate.id, candidate)
        offset += page.items
        if page.items < limit or len(found) == before:
            break
    return list(found.values())[:count]
