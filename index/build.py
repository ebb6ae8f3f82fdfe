"""Write a version of an index: its shards, items, reduction and projection and, last, the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version as package_version
from pathlib import Path

import numpy as np
import pyarrow as pa

from gifdex.encoders.base import FloatArray
from gifdex.encoders.projection import Projection
from gifdex.index import items as item_files
from gifdex.index.artifact import (
    ITEMS_NAME,
    PROJECTION_NAME,
    REDUCTION_NAME,
    commit_manifest,
    file_facts,
    graph_name,
    shard_names,
)
from gifdex.index.engines import annoy_trees, hnsw, scan
from gifdex.index.engines.base import evenly_spaced
from gifdex.index.engines.settings import ANNOY, HNSW, SCAN, EngineSettings
from gifdex.index.reduction import Reduction
from gifdex.index.search import Searcher, open_shards
from gifdex.index.tuning import QUERIES, Measured, Tuned, across, curve, fastest, held_out, tune
from gifdex.schemas.files import committing
from gifdex.schemas.manifest import (
    FORMAT,
    FORMAT_VERSION,
    EncoderFacts,
    EngineFacts,
    Manifest,
    ProjectionFacts,
    QualityFacts,
    ReductionFacts,
    ShardFacts,
)

_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class VersionFacts:
    """What the manifest says of a version beyond its files."""

    build_id: str
    image_encoder: EncoderFacts
    features_fingerprint: str
    text_encoder: EncoderFacts


def write_items(version: Path, items: pa.Table) -> None:
    """Write the items (schema ITEMS), in row order."""
    item_files.write(version / ITEMS_NAME, items)


def write_shard(
    version: Path,
    number: int,
    vectors: FloatArray,
    reduction: Reduction | None,
    settings: EngineSettings,
    *,
    alone: bool = True,  # not needed any more
) -> None:
    """Write one shard's files from its unit vectors float32 (n, d), in row order, Annoy's last.

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
    vectors = np.ascontiguousarray(vectors, np.float32)
    with committing(version / vectors_name) as temporary, temporary.open("wb") as stream:
        np.save(stream, vectors, allow_pickle=False)
    facts = _facts(vectors.shape[1], reduction, settings)
    seen = vectors
    if reduction is not None:
        seen = vectors @ reduction.leading(max(engine.dimensions for engine in facts.values()))
    if settings.hnsw is not None:
        hnsw.build(version / graph_name(number), seen, settings.hnsw)
    seen = seen[:, : facts[ANNOY].dimensions]
    annoy_trees.build(version / annoy_name, seen, annoy_trees.metric(reduction is not None), settings.annoy)


def _facts(dimensions: int, reduction: Reduction | None, settings: EngineSettings) -> dict[str, EngineFacts]:
    """Return the engines that `settings` give, before anything was measured of them."""
    scanned = dimensions if reduction is None else reduction.scanned
    unknown = QualityFacts(0, {}, 0.0)
    trees = {"trees": settings.annoy.count(reduction is not None), "seed": settings.annoy.seed, "threads": 1}
    metric = annoy_trees.metric(reduction is not None)
    facts = {
        ANNOY: EngineFacts("annoy", annoy_trees.library_version(), metric, scanned, trees, 0, unknown),
        SCAN: EngineFacts("numpy", np.__version__, scan.METRIC, scanned, {}, 0, unknown),
    }
    if settings.hnsw is not None:
        seen = dimensions if reduction is None else reduction.directions.shape[1]
        links = asdict(settings.hnsw) | {"threads": 1}
        facts[HNSW] = EngineFacts("usearch", hnsw.library_version(), hnsw.METRIC, seen, links, 0, unknown)
    return facts


def finish_version(
    version: Path,
    facts: VersionFacts,
    shard_items: Sequence[int],
    projection: Projection,
    reduction: Reduction | None,
    settings: EngineSettings,
) -> Manifest:
    """Write projection, reduction and manifest beside items and shards that are already there; return the manifest.

    `shard_items` has the count of each shard. Raises CorruptIndexError where the files are not what it says.
    """
    total = sum(shard_items)
    item_files.load(version / ITEMS_NAME, total)
    projection.save(version / PROJECTION_NAME)
    if reduction is not None:
        reduction.save(version / REDUCTION_NAME)
    shards = tuple(_shard_facts(number, count, settings) for number, count in enumerate(shard_items))
    engines = _facts(projection.dimensions, reduction, settings)
    tuned = _tuned(version, shards, engines, projection.dimensions, reduction)
    names = [ITEMS_NAME, PROJECTION_NAME, *([] if reduction is None else [REDUCTION_NAME])]
    names += [name for shard in shards for name in (shard.vectors, *shard.engines.values())]
    manifest = Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        created_by=f"gifdex {package_version('gifdex')}",
        build_id=facts.build_id,
        items=total,
        dimensions=projection.dimensions,
        metric="cosine",
        engine=fastest(tuned),
        engines={
            name: replace(engine, effort=tuned[name].effort, quality=tuned[name].quality)
            for name, engine in engines.items()
        },
        reduction=None
        if reduction is None
        else ReductionFacts(reduction.directions.shape[1], reduction.sample, REDUCTION_NAME),
        image_encoder=facts.image_encoder,
        features_fingerprint=facts.features_fingerprint,
        text_encoder=facts.text_encoder,
        projection=ProjectionFacts(projection.kind, projection.fingerprint, PROJECTION_NAME),
        items_file=ITEMS_NAME,
        shards=shards,
        files=file_facts(version, names),
    )
    commit_manifest(version, manifest)
    return manifest


def _shard_facts(number: int, count: int, settings: EngineSettings) -> ShardFacts:
    annoy_name, vectors_name = shard_names(number)
    graphs = {} if settings.hnsw is None else {HNSW: graph_name(number)}
    return ShardFacts(count, vectors_name, {ANNOY: annoy_name, **graphs})


def _tuned(
    version: Path,
    shards: Sequence[ShardFacts],
    engines: dict[str, EngineFacts],
    dimensions: int,
    reduction: Reduction | None,
) -> dict[str, Tuned]:
    """Measure every engine on the files as they are."""
    opened = open_shards(version, shards, dimensions, reduction is not None)
    searcher = Searcher(opened, engines, reduction)
    asked = held_out(searcher, evenly_spaced(searcher.items, QUERIES))
    known = {}
    if HNSW in engines and len(shards) > 1:
        others = across(searcher, QUERIES)
        known[HNSW] = Measured(len(others.queries), curve(others, HNSW, searcher.items))
    return {name: tune(searcher, asked, name, known.get(name)) for name in engines}
