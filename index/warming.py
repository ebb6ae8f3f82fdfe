"""Ask a fresh index some of what it will be asked, and see that it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gifdex.index.engines.base import evenly_spaced
from gifdex.index.field_records import IMAGE
from gifdex.schemas.errors import CorruptIndexError

if TYPE_CHECKING:
    from gifdex.index.lookup import Index

_VECTORS = 16
_ITSELF = 0.999  # a vector's cosine with itself, and more than is lost to rounding


def warm_up(index: Index, sentences: Sequence[str]) -> None:
    """Ask an index sentences and some of its own vectors; raises CorruptIndexError where one does not find itself."""
    searcher = index.field(IMAGE).searcher
    rows = evenly_spaced(searcher.rows, _VECTORS)
    vectors = searcher.vectors_at(rows)
    directed = vectors.any(axis=1)
    for row, vector in zip(rows[directed].tolist(), vectors[directed], strict=True):
        best = index.search(vector, 1, exact=True)[0].score
        if not index.search(vector) or best < _ITSELF:
            raise CorruptIndexError(f"the vector of row {row} of {index.path} does not find itself: rebuild")
    if sentences:
        index.search(list(sentences))
