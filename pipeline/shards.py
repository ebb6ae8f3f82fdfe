"""Third stage: features become embeddings, and embeddings become the shards of an index version.

A shard holds the items of one range of SHA-256s, sorted by id, so joining the catalog with the cached features
shuffles no vectors, and a task holds the features and the vectors of its own shard alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.utils.shared import Shared

from gifdex.encoders import projections
from gifdex.encoders.base import FloatArray, available_cpus, encode_known
from gifdex.encoders.feature_cache import FeatureCache
from gifdex.encoders.registry import text_encoder
from gifdex.index import reduction as reductions
from gifdex.index.artifact import shard_names
from gifdex.index.build import write_shard
from gifdex.index.items import read_rows
from gifdex.index.reduction import SAMPLE, Reduction, fit
from gifdex.pipeline.settings import IndexSettings
from gifdex.schemas import tables
from gifdex.schemas.files import commit_table

# Rows that go through the projection at a time: bounds memory, and keeps the products' shapes the same.
_BLOCK = 4096


# Bytes of features and vectors that a shard is built in, where nothing else is asked for.
_SHARD_BYTES = 2 * 1024**3
# Shards that one machine builds at once: each takes that much.
_MOST_WORKERS = 4
# Shards are cut by the first 32 bits of SHA-256s.
_KEY_DIGITS, _KEY_BITS = 8, 32


@dataclass(frozen=True)
class IndexTask:
    """One shard, `alone` or one of several: which slice of the indexed items it holds, and where its files go.

    `indexed` is the index's file of items in row order; `embeddings` and the shard's files in `version` are
    written, `output` (its Annoy file) last.
    """

    number: int
    first: int
    items: int
    indexed: Path
    projection: Path
    reduction: Path | None
    embeddings: Path
    version: Path
    alone: bool

    @property
    def output(self) -> Path:
        """The file whose presence says that the task is done."""
        return self.version / shard_names(self.number)[0]


def embeddings_name(number: int) -> str:
    """Return the name of a shard's embeddings."""
    return f"shard-{number:05d}.parquet"


def automatic_shards(items: int, features: int, dimensions: int) -> int:
    """Return how many shards keep each one's features and vectors (in memory twice) within the usual size."""
    bytes_ = items * 4 * (features + 2 * dimensions)
    return max(1, -(-bytes_ // _SHARD_BYTES))


def row_order(items: pa.Table, shards: int) -> pa.Table:
    """Sort items (schema ITEMS) as the index has them: by shard, and by id within it."""
    ordered = items.append_column("shard", _shard_of(items, shards))
    return ordered.sort_by([("shard", "ascending"), ("id", "ascending")]).drop_columns(["shard"])


def _shard_of(items: pa.Table, shards: int) -> pa.Array:
    """Return each item's shard: equal ranges of SHA-256s, so that shards are of about one size."""
    keys = np.array([int(key[:_KEY_DIGITS], 16) for key in items["sha256"].to_pylist()], np.uint64)
    return pa.array((keys * np.uint64(shards)) >> np.uint64(_KEY_BITS))


def plan(
    items: pa.Table,
    shards: int,
    indexed: Path,
    projection: Path,
    reduction: Path | None,
    embeddings: Path,
    version: Path,
) -> list[IndexTask]:
    """Return one task for each shard that has items (schema ITEMS, in row order)."""
    numbers = _shard_of(items, shards).to_numpy()
    firsts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist() if len(numbers) else []
    ends = [*firsts[1:], len(numbers)]
    return [
        IndexTask(
            number,
            first,
            end - first,
            indexed,
            projection,
            reduction,
            embeddings / embeddings_name(number),
            version,
            len(firsts) == 1,
        )
        for number, (first, end) in enumerate(zip(firsts, ends, strict=True))
    ]


def beam_options(given: Sequence[str], tasks: int) -> list[str]:
    """Return the options of a run that builds several shards at once: those given or, if none are, a thread each.

    Building a shard is numpy's, Annoy's and usearch's work, during which other threads run.
    """
    workers = min(tasks, available_cpus(), _MOST_WORKERS)
    if given or workers < 2:
        return list(given)
    return ["--direct_running_mode=multi_threading", f"--direct_num_workers={workers}"]


def fit_reduction(items: pa.Table, cache: FeatureCache, projection: projections.Projection) -> Reduction | None:
    """Fit the reduction on the items of the lowest SHA-256s, which are a random sample of all."""
    distinct = pa.table({"sha256": pc.unique(items["sha256"])})
    lowest = pc.select_k_unstable(distinct, min(SAMPLE, len(distinct)), [("sha256", "ascending")])
    return fit(_projected(cache, distinct["sha256"].take(lowest).to_pylist(), projection))


def _projected(cache: FeatureCache, keys: list[str], projection: projections.Projection) -> FloatArray:
    """Return the embeddings float32 (n, d) of distinct SHA-256s."""
    features = cache.features(keys)
    blocks = [projection.embed_images(features[at : at + _BLOCK]) for at in range(0, len(features), _BLOCK)]
    return np.concatenate(blocks)


class RunIndexTask(beam.DoFn):  # type: ignore[misc]  # Beam has no types
    """Build one shard."""

    def __init__(self, settings: IndexSettings, cache: FeatureCache) -> None:
        self._settings = settings
        self._cache = cache
        self._shared = Shared()

    def process(self, task: IndexTask) -> Iterator[tuple[str, int]]:
        """Yield the shard's Annoy file and its count of items."""
        items = read_rows(task.indexed, task.first, task.items)
        projection = projections.load(task.projection)
        keys, places = np.unique(np.asarray(items["sha256"].to_pylist(), dtype=np.str_), return_inverse=True)
        vectors = _projected(self._cache, [str(key) for key in keys], projection)[places]
        captions = self._embed_captions(items["caption"].to_pylist(), projection)
        commit_table(task.embeddings, _embeddings_table(items, vectors, captions, projection.dimensions))
        reduction = None if task.reduction is None else reductions.load(task.reduction, projection.dimensions)
        write_shard(task.version, task.number, vectors, reduction, self._settings.engines, alone=task.alone)
        yield str(task.output), task.items

    def _embed_captions(
        self, captions: Sequence[str | None], projection: projections.Projection
    ) -> list[FloatArray | None]:
        places = [place for place, caption in enumerate(captions) if caption and caption.strip()]
        vectors: list[FloatArray | None] = [None] * len(captions)
        if not places:
            return vectors
        encoder = self._shared.acquire(lambda: text_encoder(self._settings.text_encoder))
        for at in range(0, len(places), _BLOCK):
            block = places[at : at + _BLOCK]
            known, encoded = encode_known(encoder, [str(captions[place]) for place in block])
            for place, vector in zip(known, projection.embed_texts(encoded), strict=True):
                vectors[block[place]] = vector
        return vectors


def _embeddings_table(
    items: pa.Table, vectors: FloatArray, captions: Sequence[FloatArray | None], dimensions: int
) -> pa.Table:
    schema = tables.embeddings(dimensions)
    flat = pa.array(vectors.reshape(-1), pa.float32())
    return pa.table(
        {
            "id": items["id"].cast(pa.string()),
            "sha256": items["sha256"].cast(pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type),
            "caption_embedding": pa.array(captions, schema.field("caption_embedding").type),
        },
        schema=schema,
    )
