"""Third stage: features become embeddings, and embeddings become the shards of an index version.

A shard holds the items of one partition of SHA-256s, sorted by id, so joining the catalog with the cached
features shuffles no vectors.
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

from gifdex.encoders import projection as projections
from gifdex.encoders.base import FloatArray, encode_known
from gifdex.encoders.registry import text_encoder
from gifdex.index.artifact import shard_names
from gifdex.index.build import write_shard
from gifdex.pipeline.cache import FeatureCache
from gifdex.pipeline.settings import IndexSettings
from gifdex.schemas import tables
from gifdex.schemas.files import commit_table, read_table

# Rows that go through the projection at a time: bounds memory, and keeps the products' shapes the same.
_BLOCK = 4096


@dataclass(frozen=True)
class IndexTask:
    """One shard: which slice of the indexed items it holds, and where its files go.

    `indexed` is the Parquet table (schema ITEMS) of the items in row order; `embeddings` and the shard's
    files in `version` are written, `output` (its Annoy file) last.
    """

    number: int
    partition: str
    first: int
    items: int
    indexed: Path
    projection: Path
    embeddings: Path
    version: Path

    @property
    def output(self) -> Path:
        """The file whose presence says that the task is done."""
        return self.version / shard_names(self.number)[0]


def embeddings_name(number: int) -> str:
    """Return the name of a shard's embeddings."""
    return f"shard-{number:05d}.parquet"


def partition_digits(items: int, shard_items: int) -> int:
    """Return how many hexadecimal digits cut `items` into shards of about `shard_items` or fewer."""
    digits = 0
    while items > shard_items * 16**digits:
        digits += 1
    return digits


def row_order(items: pa.Table, digits: int) -> pa.Table:
    """Sort items (schema ITEMS) as the index has them: by partition, and by id within it."""
    partition = pc.utf8_slice_codeunits(items["sha256"], 0, digits) if digits else pa.nulls(len(items), pa.string())
    ordered = items.append_column("partition", partition).sort_by([("partition", "ascending"), ("id", "ascending")])
    return ordered.drop_columns(["partition"])


def plan(
    items: pa.Table, digits: int, indexed: Path, projection: Path, embeddings: Path, version: Path
) -> list[IndexTask]:
    """Return one task for each partition that has items (schema ITEMS, in row order)."""
    partitions = [sha256[:digits] for sha256 in items["sha256"].to_pylist()]
    firsts = [row for row, name in enumerate(partitions) if row == 0 or name != partitions[row - 1]]
    ends = [*firsts[1:], len(partitions)]
    return [
        IndexTask(
            number,
            partitions[first],
            first,
            end - first,
            indexed,
            projection,
            embeddings / embeddings_name(number),
            version,
        )
        for number, (first, end) in enumerate(zip(firsts, ends, strict=True))
    ]


class RunIndexTask(beam.DoFn):  # type: ignore[misc]  # Beam has no types
    """Build one shard."""

    def __init__(self, settings: IndexSettings, cache: FeatureCache) -> None:
        self._settings = settings
        self._cache = cache
        self._shared = Shared()

    def process(self, task: IndexTask) -> Iterator[tuple[str, int]]:
        """Yield the shard's Annoy file and its count of items."""
        items = read_table(task.indexed, ["id", "sha256", "caption"]).slice(task.first, task.items)
        projection = projections.load(task.projection)
        vectors = self._embed_images(items["sha256"].to_pylist(), task.partition, projection)
        captions = self._embed_captions(items["caption"].to_pylist(), projection)
        table = _embeddings_table(items, vectors, captions, projection.dimensions)
        commit_table(task.embeddings, table)
        write_shard(task.version, task.number, vectors, self._settings.annoy)
        yield str(task.output), task.items

    def _embed_images(self, keys: Sequence[str], partition: str, projection: projections.Projection) -> FloatArray:
        distinct, places = np.unique(np.asarray(keys, dtype=np.str_), return_inverse=True)
        features = self._cache.features([str(key) for key in distinct], partition)
        blocks = [projection.embed_images(features[at : at + _BLOCK]) for at in range(0, len(features), _BLOCK)]
        return np.concatenate(blocks)[places]

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
            "id": items["id"],
            "sha256": items["sha256"],
            "embedding": pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type),
            "caption_embedding": pa.array(captions, schema.field("caption_embedding").type),
        },
        schema=schema,
    )
