"""Turn features into vectors, and vectors into the shards of an index version, in two stages of tasks.

A shard has the items of one range of SHA-256s, sorted by id. So joining the catalog with the cached features shuffles
no vectors, and a task holds only the features and vectors of its own shard. The first stage writes each field's
vectors. The second builds the engines over them, after the reduction has been fitted on the whole field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.utils.shared import Shared
from numpy.typing import NDArray

from gifdex.encoders import projections
from gifdex.encoders.base import FloatArray, available_cpus, encode_known
from gifdex.encoders.feature_cache import FeatureCache
from gifdex.encoders.features import halved
from gifdex.encoders.fixed_order import fixed_order
from gifdex.encoders.frame_cache import FrameCache
from gifdex.encoders.projections.base import Projection
from gifdex.encoders.registry import text_encoder
from gifdex.index.build import Engines, build_engines, write_rows
from gifdex.index.field_records import CAPTION, FEATURES, IMAGE
from gifdex.index.items import read_rows
from gifdex.index.row_items import distinct_rows
from gifdex.pipeline.frames import projected, row_keys, write_frames
from gifdex.pipeline.settings import IndexSettings
from gifdex.schemas import tables
from gifdex.schemas.errors import UnknownWordsError
from gifdex.schemas.files import commit_table

# Sentences per block: limits memory.
_BLOCK = 4096
# The default limit for a shard's features and vectors in memory.
_SHARD_BYTES = 2 * 1024**3
# Shards that one machine builds at once; each takes that much memory.
_MAX_WORKERS = 4
# Shards are cut by the first 32 bits of SHA-256s.
_KEY_DIGITS, _KEY_BITS = 8, 32


@dataclass(frozen=True)
class EmbedTask:
    """Writes one shard's vectors: the shard's slice of the indexed items, and where its files go.

    `indexed` is the version's items file. The fields' files go to `version`; `output`, the table of embeddings, is
    written last.
    """

    number: int
    first: int
    items: int
    indexed: Path
    projection: Path
    version: Path
    output: Path


@dataclass(frozen=True)
class EngineTask:
    """Builds the engines of one shard of one field; `output` is the last file that it writes."""

    field: str
    number: int
    items: int
    version: Path
    output: Path


def embeddings_name(number: int) -> str:
    """Return the name of a shard's embeddings."""
    return f"shard-{number:05d}.parquet"


def automatic_shards(items: int, features: int, dimensions: int, frames: int = 0) -> int:
    """Return how many shards keep each one's features and vectors (held twice) within the default limit.

    `frames` are those whose vectors are kept too.
    """
    bytes_ = 4 * (items * (features + 2 * dimensions) + frames * 2 * dimensions)
    return max(1, -(-bytes_ // _SHARD_BYTES))


def row_order(items: pa.Table, shards: int) -> pa.Table:
    """Sort items (schema ITEMS) in the order of the index: by shard, then by id."""
    ordered = items.append_column("shard", _shard_of(items, shards))
    return ordered.sort_by([("shard", "ascending"), ("id", "ascending")]).drop_columns(["shard"])


def _shard_of(items: pa.Table, shards: int) -> pa.Array:
    """Return each item's shard: equal ranges of SHA-256s, so that shards have about the same size."""
    keys = np.array([int(key[:_KEY_DIGITS], 16) for key in items["sha256"].to_pylist()], np.uint64)
    return pa.array((keys * np.uint64(shards)) >> np.uint64(_KEY_BITS))


def plan_shards(
    items: pa.Table, shards: int, indexed: Path, projection: Path, embeddings: Path, version: Path
) -> list[EmbedTask]:
    """Return one task for each shard that has items (schema ITEMS, in row order)."""
    numbers = _shard_of(items, shards).to_numpy()
    firsts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist() if len(numbers) else []
    ends = [*firsts[1:], len(numbers)]
    return [
        EmbedTask(number, first, end - first, indexed, projection, version, embeddings / embeddings_name(number))
        for number, (first, end) in enumerate(zip(firsts, ends, strict=True))
    ]


def beam_options(given: Sequence[str], tasks: int) -> list[str]:
    """Return Beam options for building several shards at once: those given or, without any, a thread per shard.

    Threads are enough, because numpy and the engines' libraries release the GIL.
    """
    workers = min(tasks, available_cpus(), _MAX_WORKERS)
    if given or workers < 2:
        return list(given)
    return ["--direct_running_mode=multi_threading", f"--direct_num_workers={workers}"]


class RunEmbedTask(beam.DoFn):  # type: ignore[misc]  # Beam has no types
    """Write one shard's vectors."""

    def __init__(self, settings: IndexSettings, cache: FeatureCache) -> None:
        self._settings = settings
        self._cache = cache
        self._shared = Shared()

    def setup(self) -> None:
        """Fix the order of sums, because this may run in a worker process."""
        fixed_order()

    def process(self, task: EmbedTask) -> Iterator[tuple[str, int]]:
        """Yield the table of embeddings and its count of rows."""
        items = read_rows(task.indexed, task.first, task.items)
        projection = projections.load(task.projection)
        keys, places = np.unique(np.asarray(items["sha256"].to_pylist(), dtype=np.str_), return_inverse=True)
        features = self._cache.features([str(key) for key in keys])
        images = projected(features, projection)
        captions, caption_places = self._embed_captions(items["caption"].to_pylist(), projection)
        _write_field(task, IMAGE, images, places)
        _write_field(task, CAPTION, captions, caption_places)
        kept = features if self._settings.keep_features else features[:0]
        halves = halved(kept, "--keep-features")
        _write_field(task, FEATURES, halves, places if len(kept) else np.full(len(places), -1))
        if self._settings.moments:
            write_frames(task.version, task.number, keys[places].tolist(), FrameCache.beside(self._cache), projection)
        commit_table(task.output, _embeddings_table(items, images[places], captions, caption_places))
        yield str(task.output), task.items

    def _embed_captions(
        self, captions: Sequence[str | None], projection: Projection
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return the embeddings float32 (m, d) of the distinct captions with a known word, and each item's position.

        Positions are int64 (items,), -1 for items without an embedding.
        """
        texts = list(dict.fromkeys(caption for caption in captions if caption and caption.strip()))
        vectors, known = [np.empty((0, projection.dimensions), np.float32)], []
        if texts:
            encoder = self._shared.acquire(lambda: text_encoder(self._settings.text_encoder))
        for at in range(0, len(texts), _BLOCK):
            block = texts[at : at + _BLOCK]
            try:
                found, encoded = encode_known(encoder, block)
            except UnknownWordsError:  # none of them has a known word
                continue
            known += [block[place] for place in found]
            vectors.append(projection.embed_texts(encoded))
        place_of = {text: place for place, text in enumerate(known)}
        places = np.array([place_of.get(caption or "", -1) for caption in captions], np.int64)
        return np.concatenate(vectors), places


class RunEngineTask(beam.DoFn):  # type: ignore[misc]  # Beam has no types
    """Build the engines of one shard of one field."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def setup(self) -> None:
        """Fix the order of sums, because this may run in a worker process."""
        fixed_order()

    def process(self, task: EngineTask) -> Iterator[tuple[str, int]]:
        """Yield the last file and the count of rows."""
        build_engines(task.version, task.field, task.number, self._engines)
        yield str(task.output), task.items


def _write_field(task: EmbedTask, field: str, vectors: NDArray[Any], places: NDArray[np.int64]) -> None:
    """Write one field's rows: the distinct ones of `vectors` (m, d). `places` has each item's index there, or -1."""
    keys = row_keys(vectors)
    firsts, items = distinct_rows([None if place < 0 else keys[place] for place in places.tolist()])
    write_rows(task.version, field, task.number, vectors[places[firsts]], items, task.items)


def _embeddings_table(
    items: pa.Table, images: FloatArray, captions: FloatArray, caption_places: NDArray[np.int64]
) -> pa.Table:
    schema = tables.embeddings(images.shape[1])
    flat = pa.array(images.reshape(-1), pa.float32())
    of_captions = [None if place < 0 else captions[place] for place in caption_places.tolist()]
    return pa.table(
        {
            "id": items["id"].cast(pa.string()),
            "sha256": items["sha256"].cast(pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type),
            "caption_embedding": pa.array(of_captions, schema.field("caption_embedding").type),
        },
        schema=schema,
    )
