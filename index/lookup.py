"""Open an index and ask it."""

from __future__ import annotations

import json
import operator
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gifdex.encoders import projection as projections
from gifdex.encoders import registry
from gifdex.encoders.base import FloatArray, TextEncoder, encode_known, unit
from gifdex.encoders.projection import Projection
from gifdex.index.artifact import check_hashes, check_sizes, read_manifest
from gifdex.index.search import Shard, engine_recall, open_shards, ranks, scan, search_candidates
from gifdex.index.store import resolve
from gifdex.schemas import tables
from gifdex.schemas.errors import CorruptIndexError, EncoderError, ProjectionError, QueryError, WeightsError
from gifdex.schemas.files import read_table
from gifdex.schemas.manifest import Manifest

# Up to this many items an exact scan is as fast as Annoy with rescoring: 650 queries a second on one core of 20,000
# vectors of 512 dimensions, against Annoy's 450 to 710.
EXACT_ITEMS = 20_000


@dataclass(frozen=True)
class Hit:
    """One answer: an item's id and place, and the exact cosine between it and the query (-1 to 1)."""

    id: str
    score: float
    uri: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Index:
    """One opened version of an index; several threads may ask it at once."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        shards: Sequence[Shard],
        items: pa.Table,
        projection: Projection,
        text_encoder: str | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self._shards = tuple(shards)
        self._items = items
        self._projection = projection
        self._text_encoder_name = text_encoder
        self._text_encoder: TextEncoder | None = None
        self._lock = threading.Lock()  # one thread loads the text encoder, the others wait for it

    def __len__(self) -> int:
        return self.manifest.items

    def __repr__(self) -> str:
        return f"<gifdex.Index {self.path} ({len(self):,} items)>"

    @property
    def dimensions(self) -> int:
        """Size of the joint space, which query vectors must have."""
        return self.manifest.dimensions

    @property
    def searches_exactly(self) -> bool:
        """Whether `search` scans every vector unless told otherwise, as it does on small indexes."""
        return len(self) <= EXACT_ITEMS

    @property
    def ids(self) -> list[str]:
        """The ids of all items, in row order."""
        ids: list[str] = self._items["id"].to_pylist()
        return ids

    @overload  # a str is a Sequence[str] too, and the first that matches counts
    def search(self, query: str, k: int = ..., *, exact: bool | None = ...) -> list[Hit]: ...  # type: ignore[overload-overlap]
    @overload
    def search(self, query: Sequence[str], k: int = ..., *, exact: bool | None = ...) -> list[list[Hit]]: ...
    @overload  # an array's type does not tell one vector from several
    def search(self, query: NDArray[Any], k: int = ..., *, exact: bool | None = ...) -> list[Any]: ...
    def search(
        self, query: str | Sequence[str] | NDArray[Any], k: int = 10, *, exact: bool | None = None
    ) -> list[Hit] | list[list[Hit]]:
        """Return the k items nearest to a sentence or a vector, best first.

        A sentence or an array (d,) gives a list of hits; several sentences or an array (n, d) give a list
        of such lists. Fewer than k hits mean that the index has fewer items. Equal scores come in row
        order. `exact` chooses between a scan of every vector and Annoy's candidates with exact rescoring;
        by default small indexes are scanned. Raises QueryError for a query of the wrong dimensions, with
        NaN or infinity, of length zero, or empty; EncoderError where a sentence needs an encoder that is
        not the one the index was built with.
        """
        if isinstance(query, str):
            return self.search_vectors(self.embed([query]), k, exact=exact)[0]
        if not isinstance(query, np.ndarray):
            return self.search_vectors(self.embed(query), k, exact=exact)
        if query.ndim == 1:
            return self.search_vectors(query[None], k, exact=exact)[0]
        return self.search_vectors(query, k, exact=exact)

    def embed(self, sentences: Sequence[str]) -> FloatArray:
        """Return n sentences as unit embeddings float32 (n, d); raises as `search` does."""
        checked = _sentences(sentences)
        return self._projection.embed_texts(self._encoder()(checked))

    def embed_known(self, sentences: Sequence[str]) -> tuple[list[int], FloatArray]:
        """Return the places (k,) of sentences that the text encoder knows a word of, and their embeddings (k, d)."""
        places, vectors = encode_known(self._encoder(), _sentences(sentences))
        return places, self._projection.embed_texts(vectors)

    def search_vectors(self, queries: NDArray[Any], k: int = 10, *, exact: bool | None = None) -> list[list[Hit]]:
        """Answer vectors (n, d), which need not be of unit length, with n lists of hits; see `search`."""
        try:
            count = operator.index(k)
        except TypeError as err:
            raise QueryError(f"k is {k!r}; expected a whole number, at least 1") from err
        if count < 1:
            raise QueryError(f"k is {count}; expected at least 1")
        units = self._check(queries)
        exhaustive = self.searches_exactly if exact is None else exact
        found = scan(self._shards, units, count) if exhaustive else search_candidates(self._shards, units, count)
        return [[self._hit(row, score) for row, score in zip(rows, scores, strict=True)] for rows, scores in found]

    def ranks(self, queries: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return, for vectors (n, d) and the row of each one's right answer, its exact rank (n,); 1 is best.

        Equal scores share the best rank. Raises QueryError as `search` does.
        """
        return ranks(self._shards, self._check(queries), rows)

    def engine_recall(self, queries: NDArray[Any], k: int = 10) -> float:
        """Return the mean share of the exact k best for vectors (n, d) that the engine's candidates hold."""
        return engine_recall(self._shards, self._check(queries), k)

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
        with np.errstate(over="ignore"):  # what overflows is infinite, which is looked at next
            wide = queries.astype(np.float64)
        if not np.isfinite(wide).all():
            raise QueryError("the query has values that are NaN or infinite; expected finite numbers")
        largest = np.abs(wide).max(axis=1, keepdims=True)  # scaled first, so that no square over- or underflows
        if not largest.all():
            raise QueryError("the query is a zero vector, which has no direction to search in")
        return unit(wide / largest)

    def _hit(self, row: int, score: float) -> Hit:
        try:
            item = self._items.slice(int(row), 1).to_pylist()[0]
            metadata = json.loads(item["metadata"]) if item["metadata"] else {}
        except ValueError as err:
            raise CorruptIndexError(
                f"row {row} of the items of {self.path} cannot be read ({err}): restore the file or rebuild"
            ) from err
        if item["caption"] is not None:
            metadata = {"caption": item["caption"], **metadata}
        return Hit(item["id"], min(max(float(score), -1.0), 1.0), item["uri"], metadata)


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


def open_index(path: str | os.PathLike[str], *, verify: bool = True, text_encoder: str | None = None) -> Index:
    """Open a store's published version, or one version's folder.

    `text_encoder` names the encoder of sentences where the one that the manifest names lies elsewhere here, such as
    glove:<file>, or is behind a URL; another one than the index was built with is refused when a sentence comes.

    Format version, sizes, counts and dimensions are checked before a byte is mapped, and every file is hashed (a
    second for a gigabyte or so). Without `verify` nothing is hashed: opening then takes milliseconds at any size, but
    bytes that were altered in place may give wrong answers, and Annoy may crash the process on them, so do it
    where `gifdex verify` has passed before. Raises an ArtifactError that says what is wrong.
    """
    version = resolve(Path(path))
    manifest = read_manifest(version)
    check_sizes(version, manifest)
    if verify:
        check_hashes(version, manifest)
    items = _read_items(version, manifest)
    try:
        projection = projections.load(version / manifest.projection.file)
    except ProjectionError as err:
        raise CorruptIndexError(f"{err}; restore the index or rebuild it") from err
    if projection.dimensions != manifest.dimensions:
        raise CorruptIndexError(
            f"{version / manifest.projection.file} has {projection.dimensions} dimensions, but the manifest says "
            f"{manifest.dimensions}: restore the file or rebuild"
        )
    shards = open_shards(version, manifest.shards, manifest.dimensions, manifest.engine.trees)
    return Index(version, manifest, shards, items, projection, text_encoder)


def _read_items(version: Path, manifest: Manifest) -> pa.Table:
    path = version / manifest.items_file
    try:
        items = read_table(path, ["id", "uri", "caption", "metadata"])
    except (OSError, pa.ArrowException) as err:
        reason = str(err).partition("\n")[0]  # Arrow goes on for many lines
        raise CorruptIndexError(f"cannot read {path}: {reason}; restore the file or rebuild") from err
    expected = pa.schema([tables.ITEMS.field(name) for name in items.column_names])
    if len(items.column_names) != 4 or not items.schema.equals(expected):
        raise CorruptIndexError(f"{path} has the columns {items.schema.names}, not those of items: restore or rebuild")
    if items.num_rows != manifest.items:
        raise CorruptIndexError(
            f"{path} has {items.num_rows:,} rows, but the manifest says {manifest.items:,} items: restore or rebuild"
        )
    return items.combine_chunks()
