"""A field: a named set of vectors in one space, with the engines over them and the items that they belong to.

Every version has the field `image`, with one row per distinct GIF vector. `caption` has one row per distinct caption,
in the same space. `features`, if the build keeps them, has the image encoder's own vectors, and `frames` has one row
per distinct frame, with its times, in the space of `image`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.index import moments, row_items
from gifdex.index import reduction as reductions
from gifdex.index.calibration import Percentiles
from gifdex.index.engines import registry
from gifdex.index.engines.base import Rows
from gifdex.index.field_records import FRAMES, IMAGE, WORD
from gifdex.index.moments import Moments, Times
from gifdex.index.row_items import RowItems, highest_of_groups
from gifdex.index.search import Found, Searcher, candidates_for, open_shards
from gifdex.schemas.errors import CorruptIndexError, QueryError
from gifdex.schemas.manifest import FieldRecord, SpaceRecord

JOINT_SPACE = "joint"


@dataclass(frozen=True)
class SearchMethod:
    """How fields are searched: with which engine (None: each field's default) and how many candidates, or exactly.

    Without `batch`, several queries use the engine that a single query would use.
    """

    engine: str | None = None
    num_candidates: int | None = None
    exact: bool = False
    batch: bool = True


class Field:
    """One opened field; several threads may search it at once."""

    def __init__(
        self,
        path: Path,
        name: str,
        record: FieldRecord,
        searcher: Searcher,
        mapping: Callable[[], RowItems],
        times: Moments | None = None,
    ) -> None:
        """`mapping` returns the map from rows to items, at the first query that needs it; frames have `times`."""
        self.name = name
        self.record = record
        self.searcher = searcher
        self.percentiles = None if record.calibration is None else Percentiles(record.calibration)
        self._path = path
        self._mapping = mapping
        self._times = times
        self._batch_engine = self._default(batch=True) if record.engine is not None else None

    @functools.cached_property
    def items(self) -> RowItems:
        """The map from rows to items; raises CorruptIndexError."""
        return self._mapping()

    @property
    def has_times(self) -> bool:
        """Whether its rows are frames, each shown at some time."""
        return self._times is not None

    @property
    def space(self) -> SpaceRecord:
        """The space of its vectors."""
        return self.record.space

    @property
    def dimensions(self) -> int:
        """Size of its vectors."""
        return self.record.dimensions

    def _default(self, *, batch: bool) -> str | None:
        record = self.record
        reduced = record.reduction is not None
        return registry.default(record.engines, record.rows, len(record.shards), reduced=reduced, batch=batch)

    def engine_for(self, method: SearchMethod, queries: int) -> str | None:
        """Return the engine for this many queries, or None for an exact scan of every vector.

        Raises QueryError for an engine that the field does not have.
        """
        if method.exact:
            return None
        if method.engine is None:
            return self._batch_engine if method.batch and queries > 1 else self.record.engine
        if not isinstance(method.engine, str) or method.engine not in self.record.engines:
            built = ", ".join(self.record.engines) or "none"
            buildable = self.record.engines and registry.is_optional(str(method.engine))
            hint = f": build it with --{method.engine}" if buildable else ""
            raise QueryError(
                f"the field {self.name} of the index {self._path} has no engine {method.engine!r:.40}, only "
                f"{built}{hint}"
            )
        return method.engine

    def search(self, queries: FloatArray, k: int, method: SearchMethod) -> list[Found]:
        """Return the rows of the k best items for each of the unit queries (n, d), best first, with exact cosines.

        These are k rows, or more if items have several.
        """
        engine, rows = self.engine_for(method, len(queries)), self.items.rows_for(k)
        if engine is None:
            return self.searcher.scan(queries, rows)
        # Frames of one GIF are alike, so engines propose as many times more rows as an item may have.
        count = candidates_for(self._num_candidates(method, engine), k) * self.items.max_rows
        return self.searcher.search_among(queries, rows, engine, count)

    def proposals(self, queries: FloatArray, k: int, method: SearchMethod) -> list[Rows]:
        """Return the candidate items for k hits for each of the unit queries (n, d): more than k, in no fixed order."""
        engine = self.engine_for(method, len(queries))
        if engine is None:
            wanted = candidates_for(k, k)
            found = self.searcher.scan(queries, self.items.rows_for(wanted))
        else:
            wanted = candidates_for(self._num_candidates(method, engine), k)
            count = wanted * self.items.max_rows
            found = self.searcher.search_among(queries, count, engine, count)
        if not self.items.many_to_many:
            return [self.items.items_of(rows) for rows, _ in found]
        return [self.items.expand(rows, scores, wanted)[0] for rows, scores in found]

    def _num_candidates(self, method: SearchMethod, engine: str) -> int:
        return method.num_candidates or self.record.engines[engine].num_candidates

    def rows_of(self, items: Rows) -> Rows:
        """Return the distinct rows of items, ascending; items without a row are skipped."""
        return self.items.rows_of(items)

    def scan_items(self, queries: FloatArray, items: Rows, k: int) -> list[Found]:
        """Return the rows of the k best of `items` for each of the unit queries (n, d), as `search` does."""
        return self.searcher.scan_rows(queries, self.rows_of(items), self.items.rows_for(k))

    def scores_by_row(self, query: FloatArray, items: Rows) -> tuple[Rows, NDArray[np.float64], Rows]:
        """Return all rows of items, item by item, as entries of the map, with their exact cosines.

        The third array has each item's number of rows, int64 (n,).
        """
        entries, rows, counts = self.items.entries_of(items)
        distinct, places = np.unique(rows, return_inverse=True)
        scores = self.searcher.cosines(query, distinct)[places] if len(distinct) else np.zeros(0)
        return entries, scores, counts

    def times_of(self, entries: Rows) -> Times:
        """Return when the frames of entries are shown."""
        assert self._times is not None
        return self._times.at(entries, self.items.entries)

    def scores_of(self, query: FloatArray, items: Rows) -> NDArray[np.float64]:
        """Return the exact cosines float64 (n,) of a unit query (d,) with items' vectors, 0 for items without one.

        An item with several vectors has the highest of their cosines.
        """
        if self.items.many_to_many:
            _, found, counts = self.scores_by_row(query, items)
            return highest_of_groups(found, counts)
        rows = self.items.row_of[items]
        has_row = rows >= 0
        scores = np.zeros(len(items))
        distinct, places = np.unique(rows[has_row], return_inverse=True)
        if len(distinct):
            scores[has_row] = self.searcher.cosines(query, distinct)[places]
        return scores

    def rough_scores(self, query: FloatArray) -> FloatArray:
        """Return the products float32 (items,) of a unit query (d,) with items' vectors, 0 for items without one.

        An item with several vectors has the highest of their products.
        """
        products = self.searcher.products(query)
        if self.items.is_identity:
            return products
        if self.items.many_to_many:
            return self.items.best_of_rows(products)
        rows = self.items.row_of
        scores: FloatArray = np.where(rows >= 0, products[rows], np.float32(0))
        return scores


def open_field(path: Path, name: str, record: FieldRecord, items: int) -> Field:
    """Open a field of the version at `path`; raises CorruptIndexError if a file differs from the record."""
    reduction = None
    if record.reduction is not None:
        reduction = reductions.load(path / record.reduction.file, record.dimensions, record.reduction.dimensions)
    shards = open_shards(path, record)
    for shard in shards:
        shard.check(record.engines)
    mapping, times = row_items.opened(path, record.shards, items), moments.opened(path, record.shards)
    if times is not None and name != FRAMES:
        raise CorruptIndexError(f"{path} has times in the field {name!r:.40}: restore it or rebuild")
    opened = Field(path, name, record, Searcher(shards, record.engines, reduction), mapping, times)
    if name in (IMAGE, WORD) and not opened.items.covers_all:
        raise CorruptIndexError(f"{path} has items without a row in the field {name}: restore it or rebuild")
    if times is None:  # a field of frames has many rows, so its map is read at its first query
        _ = opened.items
    return opened
