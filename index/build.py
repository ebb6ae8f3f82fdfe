"""Write a version of an index: its shards, items and projection and, last, the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path

import numpy as np
import pyarrow as pa

from gifdex.encoders.base import FloatArray
from gifdex.encoders.projection import Projection
from gifdex.index import engine
from gifdex.index.artifact import ITEMS_NAME, PROJECTION_NAME, commit_manifest, file_facts, shard_names
from gifdex.index.engine import AnnoySettings
from gifdex.index.search import engine_recall, open_shards, vector_at
from gifdex.schemas import tables
from gifdex.schemas.files import commit_table, committing
from gifdex.schemas.manifest import (
    FORMAT,
    FORMAT_VERSION,
    EncoderFacts,
    EngineFacts,
    Manifest,
    ProjectionFacts,
    QualityFacts,
    ShardFacts,
)

_QUALITY_QUERIES, _QUALITY_K = 200, 10
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class VersionFacts:
    """What the manifest says of a version beyond its files."""

    build_id: str
    image_encoder: EncoderFacts
    features_fingerprint: str
    text_encoder: EncoderFacts


def write_shard(version: Path, number: int, vectors: FloatArray, settings: AnnoySettings) -> None:
    """Write one shard's files from its unit vectors float32 (n, d), in row order.

    A vector of length zero is let through: it has no direction, and scores 0 against every query. Raises
    ValueError for no vectors, and for others that are not finite or not of length one: Annoy would take
    them in silence.
    """
    if vectors.ndim != 2 or not vectors.size:
        raise ValueError(f"shard {number} was given vectors of shape {vectors.shape}; expected at least one row")
    squares = np.einsum("ij,ij->i", vectors, vectors)
    if not ((np.abs(squares - 1) < _UNIT_TOLERANCE) | (squares == 0)).all():
        raise ValueError(f"shard {number} was given vectors that are not finite or not of length one")
    annoy_name, vectors_name = shard_names(number)
    with committing(version / vectors_name) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(vectors, np.float32), allow_pickle=False)
    engine.build(version / annoy_name, vectors, settings)


def finish_version(
    version: Path,
    facts: VersionFacts,
    items: pa.Table,
    shard_items: Sequence[int],
    projection: Projection,
    settings: AnnoySettings,
) -> Manifest:
    """Write items, projection and manifest beside shards that are already there; return the manifest.

    `items` has the schema ITEMS in row order, `shard_items` the count of each shard. Raises ValueError where
    they disagree, CorruptIndexError where a shard's files are not what `shard_items` says.
    """
    if sum(shard_items) != items.num_rows:
        raise ValueError(f"{items.num_rows:,} items were given for shards of {sum(shard_items):,}")
    commit_table(version / ITEMS_NAME, items.cast(tables.ITEMS))
    projection.save(version / PROJECTION_NAME)
    shards = tuple(ShardFacts(count, *shard_names(number)) for number, count in enumerate(shard_items))
    names = [ITEMS_NAME, PROJECTION_NAME, *(name for shard in shards for name in (shard.annoy, shard.vectors))]
    manifest = Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        created_by=f"gifdex {package_version('gifdex')}",
        build_id=facts.build_id,
        items=items.num_rows,
        dimensions=projection.dimensions,
        metric="cosine",
        engine=EngineFacts(
            engine.NAME, engine.library_version(), engine.METRIC, settings.trees, settings.seed, threads=1
        ),
        image_encoder=facts.image_encoder,
        features_fingerprint=facts.features_fingerprint,
        text_encoder=facts.text_encoder,
        projection=ProjectionFacts(projection.kind, projection.fingerprint, PROJECTION_NAME),
        items_file=ITEMS_NAME,
        shards=shards,
        quality=_measure(version, shards, projection.dimensions, settings),
        files=file_facts(version, names),
    )
    commit_manifest(version, manifest)
    return manifest


def _measure(version: Path, shards: Sequence[ShardFacts], dimensions: int, settings: AnnoySettings) -> QualityFacts:
    """Measure the engine on vectors of the index itself, evenly spaced over its rows."""
    opened = open_shards(version, shards, dimensions, settings.trees)
    rows = np.unique(np.linspace(0, sum(s.items for s in shards) - 1, _QUALITY_QUERIES).astype(np.int64))
    queries = np.stack([vector_at(opened, int(row)) for row in rows])
    return QualityFacts(len(rows), _QUALITY_K, engine_recall(opened, queries, _QUALITY_K))
