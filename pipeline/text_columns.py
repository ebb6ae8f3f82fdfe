"""Check which columns of the catalog the field `text` is to have."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from gifdex.index.text_file import COLUMNS
from gifdex.schemas.errors import CorpusError


def check_text_columns(catalog: pa.Table, columns: Sequence[str]) -> None:
    """Raise CorpusError if a column is not in the metadata of any item of the catalog (schema CATALOG)."""
    if not (missing := set(columns) - set(COLUMNS)):
        return
    known: set[str] = set()
    for text in pc.drop_null(catalog["metadata"]).to_pylist():
        known |= json.loads(text).keys()
    if absent := sorted(missing - known):
        there = ", ".join(sorted(known)) or "no columns of metadata"
        raise CorpusError(
            f"no item of the corpus has the column {absent[0]!r:.40} that --text-columns names; it has {there:.200}: "
            "name one of these"
        )
