"""Upgrade manifests of earlier formats step by step to the current one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from gifdex.index.engines.names import ANNOY, SCAN
from gifdex.schemas.manifest import EncoderRecord, FileRecord, ProjectionRecord, ReductionRecord, Upgrade, decode

# Up to this many items, an index of format 1 was scanned completely.
_MAX_SCANNED_ITEMS = 20_000


@dataclass(frozen=True)
class _Engine1:
    name: str
    library_version: str
    metric: str
    trees: int
    seed: int
    threads: int


@dataclass(frozen=True)
class _Shard1:
    items: int
    annoy: str
    vectors: str


@dataclass(frozen=True)
class _Quality1:
    queries: int
    k: int
    engine_recall: float


@dataclass(frozen=True)
class _Manifest1:
    items: int
    dimensions: int
    engine: _Engine1
    shards: tuple[_Shard1, ...]
    quality: _Quality1


def _to_format_2(value: dict[str, Any]) -> dict[str, Any]:
    """Upgrade a manifest of format 1, which had one engine and no reduction, to format 2."""
    first: _Manifest1 = decode(_Manifest1, value, "manifest")
    # Format 1 searched 2 * trees * 200 of Annoy's nodes; a candidate corresponds to a hundred nodes.
    effort = max(200, 4 * first.engine.trees)
    recall = {str(first.quality.k): first.quality.engine_recall}
    trees = {
        "library": first.engine.name,
        "library_version": first.engine.library_version,
        "metric": first.engine.metric,
        "dimensions": first.dimensions,
        "parameters": {"trees": first.engine.trees, "seed": first.engine.seed, "threads": first.engine.threads},
        "effort": effort,
        "quality": {"queries": first.quality.queries, "recall": recall},
    }
    # It scanned full vectors: every item is proposed and rescored.
    unmeasured = {"queries": 0, "recall": {}}
    scan = trees | {"metric": "ip", "parameters": {}, "effort": max(first.items, 1), "quality": unmeasured}
    shards = [
        {"items": shard.items, "vectors": shard.vectors, "engines": {ANNOY: shard.annoy}} for shard in first.shards
    ]
    engine = SCAN if first.items <= _MAX_SCANNED_ITEMS else ANNOY
    return value | {"engine": engine, "engines": {ANNOY: trees, SCAN: scan}, "reduction": None, "shards": shards}


@dataclass(frozen=True)
class _Quality2:
    queries: int
    recall: dict[str, float]


@dataclass(frozen=True)
class _Engine2:
    library: str
    library_version: str
    metric: str
    dimensions: int
    parameters: dict[str, int]
    effort: int
    quality: _Quality2


@dataclass(frozen=True)
class _Shard2:
    items: int
    vectors: str
    engines: dict[str, str]


@dataclass(frozen=True)
class _Manifest2:
    format: str
    format_version: int
    created_by: str
    build_id: str
    items: int
    dimensions: int
    metric: str
    engine: str
    engines: dict[str, _Engine2]
    reduction: ReductionRecord | None
    image_encoder: EncoderRecord
    features_fingerprint: str
    text_encoder: EncoderRecord
    projection: ProjectionRecord
    items_file: str
    shards: tuple[_Shard2, ...]
    files: dict[str, FileRecord]


def _to_format_3(value: dict[str, Any]) -> dict[str, Any]:
    """Upgrade a manifest of format 2, which had one set of vectors and one row per item, to format 3."""
    second: _Manifest2 = decode(_Manifest2, value, "manifest")
    engines = {name: _engine_3(engine) for name, engine in second.engines.items()}
    first_item, shards = 0, []
    for shard in second.shards:
        read_by_scan = shard.vectors if second.reduction is None else shard.engines[ANNOY]
        shards.append(
            {
                "first_item": first_item,
                "items": shard.items,
                "rows": shard.items,
                "vectors": shard.vectors,
                "row_items": None,
                "engines": {**shard.engines, SCAN: read_by_scan},
            }
        )
        first_item += shard.items
    image = {
        "space": {"name": "joint", "fingerprint": second.projection.fingerprint},
        "dimensions": second.dimensions,
        "dtype": "float32",
        "rows": second.items,
        "shards": shards,
        "reduction": value["reduction"],
        "engine": second.engine,
        "engines": engines,
    }
    return value | {"fields": {"image": image}}


def _engine_3(engine: _Engine2) -> dict[str, Any]:
    record = dataclasses.asdict(engine)
    quality, record["num_candidates"] = record.pop("quality"), record.pop("effort")
    vector_recall = {"queries": quality["queries"], "at": quality["recall"]}
    return record | {"vector_recall": vector_recall, "sentence_recall": None}


def _to_format_4(value: dict[str, Any]) -> dict[str, Any]:
    """Upgrade a manifest of format 3, which is one of format 4 without the new kinds of fields."""
    return value


UPGRADES: dict[int, Upgrade] = {1: _to_format_2, 2: _to_format_3, 3: _to_format_4}
