"""Fixtures that make real, small index versions of seeded vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import gifdex
from gifdex.encoders.base import FloatArray, unit
from gifdex.encoders.projections.linear import LinearProjection
from gifdex.encoders.registry import text_encoder
from gifdex.index.build import VersionFacts, finish_version, write_items, write_shard
from gifdex.index.engines.settings import AnnoySettings, EngineSettings, HnswSettings
from gifdex.index.lookup import Index
from gifdex.index.reduction import fit
from gifdex.schemas import tables
from gifdex.schemas.manifest import EncoderFacts

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
    """Return a function that makes n items of a corpus: even rows have a caption, every third one metadata."""

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
    """Return a function that builds a version: `make(folder, vectors, shards=None, trees=10, seed=0, hnsw=False)`.

    `shards` are the shards' counts of items; `seed` tells the projection and the items from other versions'.
    """
    encoder = text_encoder()
    text_facts = EncoderFacts(encoder.name, encoder.fingerprint, encoder.dimensions)

    def make(
        version: Path,
        vectors: FloatArray,
        shards: Sequence[int] | None = None,
        trees: int | None = 10,
        seed: int = 0,
        hnsw: bool = False,
    ) -> Path:
        random = np.random.default_rng(seed)
        projection = LinearProjection(
            {
                "image_center": np.zeros(4, np.float32),
                "image_map": random.standard_normal((4, vectors.shape[1])).astype(np.float32),
                "text_center": (0.01 * random.standard_normal(512)).astype(np.float32),
                "text_map": random.standard_normal((512, vectors.shape[1])).astype(np.float32),
            },
        )
        counts = [len(vectors)] if shards is None else list(shards)
        ends = np.cumsum(counts).tolist()
        settings = EngineSettings(AnnoySettings(trees), HnswSettings(8, 32) if hnsw else None)
        reduction = fit(vectors)
        write_items(version, items_table(len(vectors), seed))
        for number, (count, end) in enumerate(zip(counts, ends, strict=True)):
            write_shard(version, number, vectors[end - count : end], reduction, settings, alone=len(counts) == 1)
        facts = VersionFacts(version.name, EncoderFacts("pixels", "0" * 16, 4), "1" * 16, text_facts)
        finish_version(version, facts, counts, projection, reduction, settings)
        return version

    return make


@pytest.fixture(scope="session")
def vectors(clustered: VectorMaker) -> FloatArray:
    """The vectors of `version`."""
    return clustered(sum(SHARDS))


@pytest.fixture(scope="session")
def version(tmp_path_factory: pytest.TempPathFactory, make_version: VersionMaker, vectors: FloatArray) -> Path:
    """A finished version of three shards with every engine; nothing may change it."""
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
    """A finished version of two shards with a reduction and every engine; nothing may change it."""
    folder = tmp_path_factory.mktemp("reduced") / "00000000000000dd"
    return make_version(folder, reduced_vectors, (2500, 1500), hnsw=True)


@pytest.fixture(scope="session")
def reduced(reduced_version: Path) -> Index:
    """The version with a reduction, opened once."""
    return gifdex.open(reduced_version)
