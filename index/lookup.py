"""An opened index: what everyone asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import Rows
from gifdex.index.field_records import IMAGE
from gifdex.index.fields import Field, SearchMethod
from gifdex.index.file_watch import FileWatch
from gifdex.index.items import Items, Where
from gifdex.index.queries.fuse import Fusion, fusion
from gifdex.index.queries.options import SearchOptions, at_least_one, search_method
from gifdex.index.queries.sentences import SentenceEmbedder
from gifdex.index.queries.vectors import unit_queries
from gifdex.index.vectors import Scores
from gifdex.index.warming import warm_up
from gifdex.schemas.manifest import Manifest


class Hit(NamedTuple):
    """One answer: an item's id and place, and its score: the exact cosine with the query, or a weighted sum of them."""

    id: str
    score: float
    uri: str
    metadata: Mapping[str, Any]


class Index:
    """One opened version of an index; several threads may ask it at once."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        fields: Mapping[str, Field],
        items: Items,
        embedder: SentenceEmbedder,
        watch: FileWatch,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self._fields = dict(fields)
        self._items = items
        self._embedder = embedder
        self._watch = watch
        self._opened: set[tuple[str, str]] = set()
        self._usual = fusion(path, fields, None)
        self.prepare()  # so that this version may be deleted while it answers

    def __len__(self) -> int:
        return self.manifest.items

    def __repr__(self) -> str:
        return f"<gifdex.Index {self.path} ({len(self):,} items)>"

    @property
    def dimensions(self) -> int:
        """Size of the joint space, which query vectors must have."""
        return self._fields[IMAGE].dimensions

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that can be asked here; "image" is always one of them."""
        return tuple(self._fields)

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that can be asked here."""
        return tuple(dict.fromkeys(name for field in self._fields.values() for name in field.record.engines))

    @property
    def engine(self) -> str | None:
        """The engine that answers from the field "image" unless another is asked for."""
        return self._fields[IMAGE].record.engine

    @property
    def ids(self) -> list[str]:
        """The ids of all items, in their order."""
        self._watch.check()
        return self._items.ids

    @property
    def columns(self) -> dict[str, str]:
        """What `where` may name, and its Arrow type, such as {"id": "large_string", "year": "int64"}."""
        self._watch.check()
        return self._items.columns

    def field(self, name: str) -> Field:
        """Return an opened field; raises QueryError where the index does not have it."""
        return fusion(self.path, self._fields, {name: 1.0}).parts[0][0]

    @overload  # a str is a Sequence[str] too, and the first that matches counts
    def search(  # type: ignore[overload-overlap]
        self, query: str, k: int = ..., **options: Unpack[SearchOptions]
    ) -> list[Hit]: ...
    @overload
    def search(self, query: Sequence[str], k: int = ..., **options: Unpack[SearchOptions]) -> list[list[Hit]]: ...
    @overload  # an array's type does not tell one vector from several
    def search(self, query: NDArray[Any], k: int = ..., **options: Unpack[SearchOptions]) -> list[Any]: ...
    def search(
        self,
        query: str | Sequence[str] | NDArray[Any],
        k: int = 10,
        *,
        fields: Mapping[str, float] | None = None,
        where: Where | None = None,
        engine: str | None = None,
        num_candidates: int | None = None,
        exact: bool = False,
    ) -> list[Hit] | list[list[Hit]]:
        """Return the k items nearest to a sentence or a vector, best first.

        A sentence or an array (d,) gives a list of hits; several sentences or an array (n, d) give a list
        of such lists. Scores are exact cosines; equal ones come in the items' order.

        `fields` are the fields that answer, and their weights: {"image": 1.0} unless you say otherwise. An item's
        score is the weighted sum of its cosines in all of them, 0 in a field where it has no vector. Fields must lie
        in one space.

        `where` lets through only some items, of which the best are found exactly: a dict of metadata, such as
        {"tag": "cat"} (several keys must all fit; a list means any of its values; of an item's list, one element
        must fit), or a pyarrow expression over the metadata, such as `pyarrow.compute.field("year") > 2015`; `id`,
        `uri`, `sha256` and `caption` can be named too.

        Without it, an engine proposes candidates, and `num_candidates` of them in each shard (at least half as many
        again as k) are rescored for ten hits or fewer, with the root of k more for more: the more, the better and the
        slower. Both have defaults that were chosen when the index was built, see `manifest.fields`. Several vectors
        are scanned by products of matrices where that is faster than to ask the engine for each. `exact` scores every
        item instead. Fewer than k hits mean that there are fewer items, or fewer that `where` lets through.

        Several threads may search at once. Raises QueryError for a query of the wrong dimensions, with NaN or
        infinity, of length zero, or empty, and for a filter, a field or an engine that the index does not have;
        EncoderError where a sentence needs an encoder that is not the one the index was built with; CorruptIndexError
        where a file was changed in place.
        """
        count, method = at_least_one("k", k), search_method(engine, num_candidates, exact)
        fused = self._fusion(fields)
        one = isinstance(query, str) or (isinstance(query, np.ndarray) and query.ndim == 1)
        if isinstance(query, np.ndarray):
            vectors: NDArray[Any] = query[None] if one else query
        else:
            fused.check_takes_sentences()
            vectors = self.embed([query] if isinstance(query, str) else query)
        units = unit_queries(vectors, fused.dimensions)
        self._open(fused, method, len(units))
        self._watch.check()
        among = None if where is None else self._items.matching(where)
        found = [self._hits(*answer) for answer in fused.search(units, count, method, among)]
        return found[0] if one else found

    def embed(self, sentences: Sequence[str]) -> FloatArray:
        """Return n sentences as unit embeddings float32 (n, d); raises as `search` does."""
        return self._embedder.embed(sentences)

    def embed_known(self, sentences: Sequence[str]) -> tuple[list[int], FloatArray]:
        """Return the places (k,) of sentences that the text encoder knows a word of, and their embeddings (k, d)."""
        return self._embedder.embed_known(sentences)

    def prepare(self, engine: str | None = None) -> None:
        """Open and check an engine's files now, not at its first search; raises what that search would."""
        self._open(self._usual, SearchMethod(engine), 1)

    def warm_up(self, sentences: Sequence[str] = ()) -> None:
        """Ask sentences and some of the index's own vectors, so that the next queries find all in memory."""
        warm_up(self, sentences)

    def fusion(self, fields: Mapping[str, float] | None = None) -> Fusion:
        """Return the fields that answer, with their weights: for measuring."""
        self._watch.check()
        return self._fusion(fields)

    def _fusion(self, fields: Mapping[str, float] | None) -> Fusion:
        return self._usual if fields is None else fusion(self.path, self._fields, fields)

    def _open(self, fused: Fusion, method: SearchMethod, queries: int) -> None:
        """Open the engines that will be asked; their files must still be those of this version."""
        for field, _ in fused.parts:
            engine = field.engine_for(method, queries)
            if engine is not None and (field.name, engine) not in self._opened:
                field.searcher.prepare(engine)
                self._watch.check(replaced=True)
                self._opened.add((field.name, engine))

    def _hits(self, items: Rows, scores: Scores) -> list[Hit]:
        keys, uris, metadata = self._items.rows(items)
        return list(map(Hit, keys, scores.tolist(), uris, metadata))
