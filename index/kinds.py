"""The two kinds of indexes, of GIFs and of words: errors for queries that one kind does not answer."""

from __future__ import annotations

from pathlib import Path

from gifdex.schemas.errors import QueryError


def only_gifs(path: Path) -> QueryError:
    """Return the error for a query that a words index does not answer."""
    return QueryError(
        f"the index {path} is a words index, which has no GIFs and only answers words near a word: open an index of "
        "GIFs for this query"
    )


def only_words(path: Path) -> QueryError:
    """Return the error for a query that only a words index answers."""
    return QueryError(
        f"the index {path} is an index of GIFs, but this query needs a words index: make one with gifdex words build"
    )
