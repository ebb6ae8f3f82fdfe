"""Fixtures that build small, real index versions from seeded vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

import gifdex
from gifdex.encoders.base import Classifier, FloatArray, unit
from gifdex.encoders.projections.linear import LinearProjection
from gifdex.encoders.registry import text_encoder
from gifdex.index import text_file
from gifdex.index.build import (
    DEFAULT_ENGINES,
    Engines,
    FieldPlan,
    Origin,
    build_engines,
    finish_version,
    fit_reduction,
    shards_with_rows,
    write_items,
    write_rows,
)
from gifdex.index.engines.names import ANNOY, HNSW
from gifdex.index.field_records import IMAGE
from gifdex.index.fields import JOINT_SPACE
from gifdex.index.lookup import Index
from gifdex.index.moments import Times, distinct_frames
from gifdex.index.row_items import distinct_rows
from gifdex.schemas import tables
from gifdex.schemas.manifest import EncoderRecord, SpaceRecord

DIMENSIONS = 16
SHARDS = (300, 250, 150)

VersionMaker = Callable[..., Path]
VectorMaker = Callable[..., FloatArray]


@pytest.fixture(scope="session")
def clustered() -> VectorMaker:
    """Return a function that draws unit vectors float32 (n, d) around `n // 25` random centres."""

    def draw(n: int, dimensions: int = DIMENSIONS, seed: int = 0, spread: float = 0.3) -> FloatArray:
        random = np.random.default_rng(seed)
        centres = random.standard_normal((max(1, n // 25), dimensions))
        return unit(centres[random.integers(0, len(centres), n)] + spread * random.standard_normal((n, dimensions)))

    return draw


@pytest.fixture(scope="session")
def spectral() -> VectorMaker:
    """Return a function that draws clustered unit vectors float32 (n, d) with the spectrum 1/i of deep embeddings."""

    def draw(n: int, dimensions: int = 128, seed: int = 0) -> FloatArray:
        random = np.random.default_rng(seed)
        scale = 1 / np.sqrt(np.arange(1, dimensions + 1))
        centres = random.standard_normal((max(1, n // 50), dimensions))
        drawn = centres[random.integers(0, len(centres), n)] + 0.7 * random.standard_normal((n, dimensions))
        return unit(drawn * scale)

    return draw


@pytest.fixture(scope="session")
def items_table() -> Callable[[int, int], pa.Table]:
    """Return a function that makes n items of a corpus: even rows have a caption, every third row has metadata."""

    def make(n: int, corpus: int) -> pa.Table:
        rows = [
            {
                "id": f"gif-{row:05d}",
                "uri": f"/corpus-{corpus}/gif-{row:05d}.gif",
                "sha256": f"{row:064x}",
                "caption": f"caption of {row}" if row % 2 == 0 else None,
                "metadata": f'{{"row": {row}, "tags": ["a", "ü"]}}' if row % 3 == 0 else None,
            }
            for row in range(n)
        ]
        return pa.Table.from_pylist(rows, schema=tables.ITEMS)

    return make


@pytest.fixture(scope="session")
def make_version(items_table: Callable[[int, int], pa.Table]) -> VersionMaker:
    """Return a function that builds a version of seeded items from the vectors of its fields.

    `make(folder, vectors, shards=None, trees=10, seed=0, hnsw=False, fields={}, engines={}, sentences=None,
    classifier=None, scenes=None, items=None, text_columns=None)`. `shards` has each shard's number of items; another
    `seed` gives another projection and other items; `fields` maps names of other fields to their vectors, with a row of
    NaN for an item without one (frames: (items, n, d), 100 ms each, NaN where one is missing); `engines` are built
    beside the usual ones. `items` (schema ITEMS) replace the usual ones; `text_columns` builds the field `text`.
    """
    encoder = text_encoder()
    text = EncoderRecord(encoder.name, encoder.fingerprint, encoder.dimensions)

    def make(
        version: Path,
        vectors: FloatArray,
        shards: Sequence[int] | None = None,
        trees: int | None = 10,
        seed: int = 0,
        hnsw: bool = False,
        fields: Mapping[str, NDArray[Any]] | None = None,
        engines: Engines | None = None,
        sentences: FloatArray | None = None,
        classifier: Classifier | None = None,
        scenes: FloatArray | None = None,
        items: pa.Table | None = None,
        text_columns: Sequence[str] | None = None,
    ) -> Path:
        random = np.random.default_rng(seed)
        projection = LinearProjection(
            {
                "image_center": np.zeros(4, np.float32),
                "image_map": random.standard_normal((4, vectors.shape[1])).astype(np.float32),
                "text_center": (0.01 * random.standard_normal(512)).astype(np.float32),
                "text_map": random.standard_normal((512, vectors.shape[1])).astype(np.float32),
            }
        )
        counts = [len(vectors)] if shards is None else list(shards)
        graph = {HNSW: {"connectivity": 8, "expansion_add": 32}} if hnsw else {}
        built = {**DEFAULT_ENGINES, ANNOY: {} if trees is None else {"trees": trees}, **graph, **(engines or {})}
        joint = SpaceRecord(JOINT_SPACE, projection.fingerprint)
        plans = {IMAGE: FieldPlan(joint, built)}
        for name, others in (fields or {}).items():
            halved = others.dtype == np.float16
            plans[name] = FieldPlan(SpaceRecord("pixels", "0" * 16) if halved else joint, {} if halved else built)
        written = items_table(len(vectors), seed) if items is None else items
        write_items(version, written)
        words = None
        if text_columns is not None:
            words = text_file.write(version / text_file.TEXT_NAME, written, text_columns)
        for name, plan in plans.items():
            write_field(version, name, vectors if name == IMAGE else (fields or {})[name], counts, plan)
        origin = Origin(version.name, EncoderRecord("pixels", "0" * 16, 4), "1" * 16, text)
        finish_version(
            version,
            origin,
            counts,
            plans,
            projection,
            sentences=sentences,
            classifier=classifier,
            scenes=scenes,
            text=words,
        )
        return version

    return make


def write_field(version: Path, name: str, vectors: NDArray[Any], counts: Sequence[int], plan: FieldPlan) -> None:
    """Write the distinct rows of one field, shard by shard, and its engines."""
    ends = np.cumsum(counts).tolist()
    for number, (count, end) in enumerate(zip(counts, ends, strict=True)):
        own = vectors[end - count : end]
        keys = [None if np.isnan(vector).any() else vector.tobytes() for vector in own]
        if own.ndim == 3:
            write_frames(version, name, number, own)
            continue
        firsts, items = distinct_rows(keys)
        write_rows(version, name, number, own[firsts], items, count)
    if plan.engines:
        numbers = shards_with_rows(version, name, len(counts))
        fit_reduction(version, name, numbers)
        for number in numbers:
            build_engines(version, name, number, plan.engines)


def write_frames(version: Path, name: str, number: int, frames: NDArray[Any]) -> None:
    """Write a shard's distinct frames of items; `frames` (items, n, d) has NaN for a missing frame."""
    shown = [np.flatnonzero(~np.isnan(own).any(axis=1)) for own in frames]
    vectors = np.concatenate([own[places] for own, places in zip(frames, shown, strict=True)])
    places = np.concatenate(shown)
    starts = np.cumsum([0, *map(len, shown)]).tolist()
    times = Times(100 * places, places.astype(np.int32))
    keys = [vector.tobytes() for vector in vectors]
    firsts, items, times = distinct_frames(keys, times, starts, range(len(frames)))
    write_rows(version, name, number, vectors[firsts], items, len(frames), times)


@pytest.fixture(scope="session")
def vectors(clustered: VectorMaker) -> FloatArray:
    """The vectors of `version`."""
    return clustered(sum(SHARDS))


@pytest.fixture(scope="session")
def version(tmp_path_factory: pytest.TempPathFactory, make_version: VersionMaker, vectors: FloatArray) -> Path:
    """A finished version of three shards with every engine; tests must not change it."""
    return make_version(tmp_path_factory.mktemp("store") / "00000000000000aa", vectors, SHARDS, hnsw=True)


@pytest.fixture(scope="session")
def index(version: Path) -> Index:
    """The version, opened once."""
    return gifdex.open(version)


@pytest.fixture(scope="session")
def reduced_vectors(spectral: VectorMaker) -> FloatArray:
    """The vectors of `reduced_version`."""
    return spectral(4000)


@pytest.fixture(scope="session")
def reduced_version(
    tmp_path_factory: pytest.TempPathFactory, make_version: VersionMaker, reduced_vectors: FloatArray
) -> Path:
    """A finished version of two shards with a reduction and every engine; tests must not change it."""
    folder = tmp_path_factory.mktemp("reduced") / "00000000000000dd"
    return make_version(folder, reduced_vectors, (2500, 1500), hnsw=True)


@pytest.fixture(scope="session")
def reduced(reduced_version: Path) -> Index:
    """The version with a reduction, opened once."""
    return gifdex.open(reduced_version)
