"""Ask an opened index."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders import registry
from gifdex.encoders.base import FloatArray, TextEncoder, encode_known, unit
from gifdex.encoders.projection import Projection
from gifdex.index import kernels
from gifdex.index.engines.base import Rows, evenly_spaced
from gifdex.index.engines.settings import HNSW, SCAN
from gifdex.index.items import Items, Where
from gifdex.index.search import Searcher, recall
from gifdex.index.unchanged import Unchanged
from gifdex.schemas.errors import (
    CorruptIndexError,
    EncoderError,
    QueryError,
    WeightsError,
)
from gifdex.schemas.manifest import Manifest

# A batch's scan answers each of its queries this many times as fast as a scan asked one at a time.
_BATCH_GAIN = 3
_WARM_UP = 16  # stored vectors
# Of hits and of effort: more than any index has items.
_MOST = 2**48
_ITSELF = 0.999  # a vector's cosine with itself, and more than is lost to rounding
_DOUBLE = 8  # bytes of a float64
# Between these, a vector's squared length neither over- nor underflowed on the way.
_LEAST_SQUARE, _MOST_SQUARE = 1e-200, 1e200


class Hit(NamedTuple):
    """One answer: an item's id and place, and the exact cosine between it and the query (-1 to 1)."""

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
        searcher: Searcher,
        items: Items,
        projection: Projection,
        unchanged: Unchanged,
        text_encoder: str | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self._searcher = searcher
        self._items = items
        self._projection = projection
        self._unchanged = unchanged
        self._text_encoder_name = text_encoder
        self._text_encoder: TextEncoder | None = None
        self._lock = threading.Lock()  # one thread loads the text encoder, the others wait for it
        self._opened: set[str] = set()
        self.prepare()  # so that this version may be deleted while it answers

    def __len__(self) -> int:
        return self.manifest.items

    def prepare(self, engine: str | None = None) -> None:
        """Open an engine's files and check them, which its first search does else; the default one's are open.

        Raises QueryError or CorruptIndexError as that search would.
        """
        self._open(self.engine if engine is None else self._known(engine))

    def warm_up(self, sentences: Sequence[str] = ()) -> None:
        """Ask sentences and some of the index's own vectors, so that the next queries find all in memory.

        Raises CorruptIndexError where a stored vector does not find itself, and as `search` does.
        """
        rows = evenly_spaced(len(self), _WARM_UP)
        vectors = self._searcher.vectors_at(rows)
        directed = vectors.any(axis=1)
        for row, vector in zip(rows[directed].tolist(), vectors[directed], strict=True):
            best = self.search(vector, 1, exact=True)[0].score
            if not self.search(vector) or best < _ITSELF:
                raise CorruptIndexError(f"the vector of row {row} of {self.path} does not find itself: rebuild")
        if sentences:
            self.search(list(sentences))

    def __repr__(self) -> str:
        return f"<gifdex.Index {self.path} ({len(self):,} items)>"

    @property
    def dimensions(self) -> int:
        """Size of the joint space, which query vectors must have."""
        return self.manifest.dimensions

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that can be asked here."""
        return tuple(self.manifest.engines)

    @property
    def engine(self) -> str:
        """The engine that answers unless another is asked for: the fastest one when the index was built."""
        return self.manifest.engine

    @property
    def ids(self) -> list[str]:
        """The ids of all items, in row order."""
        self._unchanged.check()
        return self._items.ids

    @property
    def columns(self) -> dict[str, str]:
        """What `where` may name, and its Arrow type, such as {"id": "large_string", "year": "int64"}."""
        self._unchanged.check()
        return self._items.columns

    @overload  # a str is a Sequence[str] too, and the first that matches counts
    def search(  # type: ignore[overload-overlap]
        self,
        query: str,
        k: int = ...,
        *,
        where: Where | None = ...,
        engine: str | None = ...,
        effort: int | None = ...,
        exact: bool = ...,
    ) -> list[Hit]: ...
    @overload
    def search(
        self,
        query: Sequence[str],
        k: int = ...,
        *,
        where: Where | None = ...,
        engine: str | None = ...,
        effort: int | None = ...,
        exact: bool = ...,
    ) -> list[list[Hit]]: ...
    @overload  # an array's type does not tell one vector from several
    def search(
        self,
        query: NDArray[Any],
        k: int = ...,
        *,
        where: Where | None = ...,
        engine: str | None = ...,
        effort: int | None = ...,
        exact: bool = ...,
    ) -> list[Any]: ...
    def search(
        self,
        query: str | Sequence[str] | NDArray[Any],
        k: int = 10,
        *,
        where: Where | None = None,
        engine: str | None = None,
        effort: int | None = None,
        exact: bool = False,
    ) -> list[Hit] | list[list[Hit]]:
        """Return the k items nearest to a sentence or a vector, best first.

        A sentence or an array (d,) gives a list of hits; several sentences or an array (n, d) give a list
        of such lists. Scores are exact cosines; equal ones come in row order.

        `where` lets through only some items, of which the best are found exactly: a dict of metadata, such as
        {"tag": "cat"} (several keys must all fit; a list means any of its values; of an item's list, one element
        must fit), or a pyarrow expression over the metadata, such as `pyarrow.compute.field("year") > 2015`; `id`,
        `uri`, `sha256` and `caption` can be named too.

        Without it, an engine proposes candidates, and `effort` of them in each shard (at least half as many again
        as k) are rescored for ten hits or fewer, with the root of k more for more: the more, the better and the
        slower. Both have defaults that were measured when the index was built (`engine` and `manifest.engines`).
        Several vectors are scanned by products of matrices where that is faster than to ask the engine for each.
        `exact` scores every item instead. Fewer than k hits mean that there are fewer items, or fewer that `where`
        lets through.

        Several threads may search at once. Raises QueryError for a query of the wrong dimensions, with NaN or
        infinity, of length zero, or empty, and for a filter or an engine that the index does not have; EncoderError
        where a sentence needs an encoder that is not the one the index was built with; CorruptIndexError where a
        file was changed in place.
        """
        one = isinstance(query, str) or (isinstance(query, np.ndarray) and query.ndim == 1)
        if isinstance(query, np.ndarray):
            vectors: NDArray[Any] = np.asarray(query)[None] if one else np.asarray(query)
        else:
            vectors = self.embed([query] if isinstance(query, str) else query)
        found = self.search_vectors(vectors, k, where=where, engine=engine, effort=effort, exact=exact)
        return found[0] if one else found

    def embed(self, sentences: Sequence[str]) -> FloatArray:
        """Return n sentences as unit embeddings float32 (n, d); raises as `search` does."""
        checked = _sentences(sentences)
        return self._projection.embed_texts(self._encoder()(checked))

    def embed_known(self, sentences: Sequence[str]) -> tuple[list[int], FloatArray]:
        """Return the places (k,) of sentences that the text encoder knows a word of, and their embeddings (k, d)."""
        places, vectors = encode_known(self._encoder(), _sentences(sentences))
        return places, self._projection.embed_texts(vectors)

    def search_vectors(
        self,
        queries: NDArray[Any],
        k: int = 10,
        *,
        where: Where | None = None,
        engine: str | None = None,
        effort: int | None = None,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """Answer vectors (n, d), which need not be of unit length, with n lists of hits; see `search`."""
        count = _at_least_one("k", k)
        units = self._check(queries)
        name = self._engine_for(len(units)) if engine is None else self._known(engine)
        rescored = self.manifest.engines[name].effort if effort is None else _at_least_one("effort", effort)
        if name not in self._opened:
            self._open(name)
        self._unchanged.check()
        if where is not None:
            found = self._searcher.scan_rows(units, self._items.matching(where), count)
        elif exact:
            found = self._searcher.scan(units, count)
        else:
            found = self._searcher.search(units, count, name, rescored)
        return [self._hits(rows, scores.tolist()) for rows, scores in found]

    def _open(self, engine: str) -> None:
        """Open an engine's files, which must still be those of this version."""
        self._searcher.prepare(engine)
        self._unchanged.check(replaced=True)
        self._opened.add(engine)

    def _engine_for(self, queries: int) -> str:
        """Return the engine that answers so many vectors at once soonest, as far as it was measured one at a time."""
        known, default = self.manifest.engines, self.manifest.engine
        if queries > 1 and _BATCH_GAIN * known[SCAN].quality.queries_per_second >= (
            known[default].quality.queries_per_second
        ):
            return SCAN
        return default

    def _known(self, engine: str) -> str:
        if not isinstance(engine, str) or engine not in self.manifest.engines:
            built = ", ".join(self.manifest.engines)
            how = ": build it with --hnsw" if engine == HNSW else ""
            raise QueryError(f"the index {self.path} has no engine {engine!r:.40}, only {built}{how}")
        return engine

    def ranks(self, queries: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return, for vectors (n, d) and the row of each one's right answer, its exact rank (n,); 1 is best.

        Equal scores share the best rank. Raises QueryError as `search` does.
        """
        units = self._check(queries)
        self._unchanged.check()
        return self._searcher.ranks(units, rows)

    def engine_recall(self, queries: NDArray[Any], k: int = 10, engine: str | None = None) -> float:
        """Return the mean share of the exact k best for vectors (n, d) that an engine finds, at its default effort."""
        name = self.engine if engine is None else self._known(engine)
        units = self._check(queries)
        effort = self.manifest.engines[name].effort
        self._unchanged.check()
        return recall(self._searcher.scan(units, k), self._searcher.search(units, k, name, effort))

    def _encoder(self) -> TextEncoder:
        with self._lock:
            if self._text_encoder is None:
                facts = self.manifest.text_encoder
                encoder = self._construct_encoder()
                if encoder.fingerprint != facts.fingerprint:
                    raise EncoderError(
                        f"the index {self.path} was built with the text encoder {facts.name} ({facts.fingerprint}), "
                        f"but the query would be encoded by {encoder.name} ({encoder.fingerprint}): ask with the "
                        "encoder and the weights that it was built with, or rebuild"
                    )
                self._text_encoder = encoder
            return self._text_encoder

    def _construct_encoder(self) -> TextEncoder:
        """Return the text encoder that the caller named, or else the manifest."""
        facts, given = self.manifest.text_encoder, self._text_encoder_name
        if given is not None:
            return registry.text_encoder(given)
        here = "name where it lies now with --text-encoder, or text_encoder= in gifdex.open"
        if "://" in facts.name:  # a module is a program, and an index may come from anyone
            raise EncoderError(
                f"the index {self.path} was built with the text encoder {facts.name} ({facts.fingerprint}), which "
                f"would be downloaded and run: if you trust it, {here}"
            )
        try:
            return registry.text_encoder(facts.name)
        except WeightsError as err:
            raise WeightsError(
                f"the index {self.path} was built with the text encoder {facts.name} ({facts.fingerprint}), which "
                f"is not to be had: {here} ({err})"
            ) from err

    def _check(self, queries: NDArray[Any]) -> FloatArray:
        if queries.dtype.kind not in "fiub":
            raise QueryError(
                f"the query is an array of {queries.dtype}; expected real numbers, or sentences as a list of str"
            )
        if queries.ndim != 2:
            raise QueryError(
                f"the query has shape {queries.shape}; expected ({self.dimensions},) or (n, {self.dimensions})"
            )
        if queries.shape[1] != self.dimensions:
            raise QueryError(f"the index has {self.dimensions} dimensions, but the query has {queries.shape[1]}")
        if queries.dtype.itemsize <= _DOUBLE:
            wide = np.ascontiguousarray(queries, np.float64)
        else:
            with np.errstate(over="ignore"):  # what overflows is infinite, which is looked at next
                wide = np.ascontiguousarray(queries, np.float64)
        units: FloatArray = np.empty(wide.shape, np.float32)
        if kernels.normalize(wide, self.dimensions, _LEAST_SQUARE, _MOST_SQUARE, units) == len(wide):
            return units
        if not np.isfinite(wide).all():
            raise QueryError("the query has values that are NaN or infinite; expected finite numbers")
        largest = np.abs(wide).max(axis=1, keepdims=True)  # scaled first, so that no square over- or underflows
        if not largest.all():
            raise QueryError("the query is a zero vector, which has no direction to search in")
        return unit(wide / largest)

    def _hits(self, rows: Rows, scores: Sequence[float]) -> list[Hit]:
        if scores and (scores[0] > 1 or scores[-1] < -1):  # by rounding
            scores = [min(max(score, -1.0), 1.0) for score in scores]
        keys, uris, metadata = self._items.rows(rows)
        return list(map(Hit, keys, scores, uris, metadata))


def _at_least_one(name: str, value: int) -> int:
    try:
        count = operator.index(value)
    except TypeError as err:
        raise QueryError(f"{name} is {value!r}; expected a whole number, at least 1") from err
    if count < 1:
        raise QueryError(f"{name} is {count}; expected at least 1")
    return min(count, _MOST)


def _sentences(query: object) -> list[str]:
    """Return one sentence or several as a list; raises QueryError for anything else."""
    given: list[Any] = [query] if isinstance(query, str) or not isinstance(query, Iterable) else list(query)
    for sentence in given:
        if not isinstance(sentence, str):
            raise QueryError(
                f"the query holds a {type(sentence).__name__}; expected a sentence, a list of sentences, or vectors as "
                "a numpy array"
            )
        if not sentence.strip():
            raise QueryError("the sentence is empty; expected words, such as 'a cat playing the piano'")
        try:
            sentence.encode()
        except UnicodeEncodeError as err:  # a command line's bytes that were no UTF-8, for one
            raise QueryError(f"the sentence {sentence!r:.60} is not valid text; expected words in UTF-8") from err
    return given
