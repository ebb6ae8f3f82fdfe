"""Warm up an index with queries, and check the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gifdex.index.engines.base import evenly_spaced
from gifdex.index.field_records import TEXT, main_field
from gifdex.schemas.errors import CorruptIndexError

if TYPE_CHECKING:
    from gifdex.index.lookup import Index

_VECTORS = 16
_MIN_SELF_COSINE = 0.999  # the lowest plausible cosine of a vector with itself


def warm_up(index: Index, sentences: Sequence[str]) -> None:
    """Search for sentences and some of the index's vectors; raises CorruptIndexError if one does not find itself."""
    searcher = index.field(main_field(index.fields)).searcher
    rows = evenly_spaced(searcher.rows, _VECTORS)
    vectors = searcher.vectors_at(rows)
    nonzero = vectors.any(axis=1)
    for row, vector in zip(rows[nonzero].tolist(), vectors[nonzero], strict=True):
        best = index.search(vector, 1, exact=True)[0].score
        if not index.search(vector) or best < _MIN_SELF_COSINE:
            raise CorruptIndexError(f"the vector of row {row} of {index.path} does not find itself: rebuild")
    if TEXT in index.fields:
        index.search("a", 1, fields={TEXT: 1})  # opens the file, which may be deleted later
    if sentences:
        index.search(list(sentences))
