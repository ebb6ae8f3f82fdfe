from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

from gifdex.encoders import projections
from gifdex.encoders.base import FloatArray, unit
from gifdex.index import artifact
from gifdex.index.build import VersionFacts, finish_version, write_items, write_shard
from gifdex.index.engines.settings import AnnoySettings, EngineSettings, HnswSettings
from gifdex.index.tuning import QUERIES
from gifdex.schemas import tables
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.manifest import MANIFEST_NAME, EncoderFacts, Manifest

SHARDS = (300, 250, 150)
FEW = EngineSettings(AnnoySettings(2), HnswSettings(4, 16))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_building_twice_gives_the_same_bytes_of_every_file(
    tmp_path: Path, version: Path, make_version: Callable[..., Path], vectors: FloatArray
) -> None:
    again = make_version(tmp_path / version.name, vectors, SHARDS, hnsw=True)
    ours, theirs = bytes_of(again), bytes_of(version)
    facts = [json.loads(found.pop(MANIFEST_NAME)) for found in (ours, theirs)]
    for manifest in facts:  # where only the speeds that were measured may differ
        manifest.pop("engine")
        for engine in manifest["engines"].values():
            assert engine["quality"].pop("queries_per_second") > 0
    assert facts[0] == facts[1]
    assert ours == theirs


def test_version_holds_the_files_of_its_manifest_and_no_others(version: Path) -> None:
    manifest = artifact.verify(version)
    shard_files = [name for number in range(3) for name in (*artifact.shard_names(number), artifact.graph_name(number))]
    assert set(manifest.files) == {"items.arrow", "projection.safetensors", *shard_files}
    assert set(bytes_of(version)) == {*manifest.files, MANIFEST_NAME}


def test_manifest_says_what_the_version_is(version: Path) -> None:
    manifest = Manifest.from_json((version / MANIFEST_NAME).read_text(), "it")
    assert (manifest.build_id, manifest.items, manifest.dimensions, manifest.metric) == (
        version.name,
        700,
        16,
        "cosine",
    )
    assert tuple(shard.items for shard in manifest.shards) == SHARDS
    assert {name: (facts.library, facts.metric, facts.dimensions) for name, facts in manifest.engines.items()} == {
        "annoy": ("annoy", "angular", 16),
        "scan": ("numpy", "ip", 16),
        "hnsw": ("usearch", "ip", 16),
    }
    assert manifest.engines["annoy"].parameters == {"trees": 10, "seed": AnnoySettings().seed, "threads": 1}
    assert manifest.engines["hnsw"].parameters == {"connectivity": 8, "expansion_add": 32, "threads": 1}
    assert manifest.reduction is None
    projection = projections.load(version / manifest.projection.file)
    assert (manifest.projection.kind, manifest.projection.fingerprint) == ("linear", projection.fingerprint)
    asked = sum(min(count, -(-QUERIES // len(SHARDS))) for count in SHARDS)
    assert {name: facts.quality.queries for name, facts in manifest.engines.items()} == {
        "annoy": 32,
        "scan": 128,
        "hnsw": asked,
    }
    for facts in manifest.engines.values():
        assert set(facts.quality.recall) == {"1", "10", "100"}
        assert 0.9 <= min(facts.quality.recall.values()) <= max(facts.quality.recall.values()) <= 1.0
        assert facts.quality.queries_per_second > 0
    assert manifest.engine in manifest.engines


def test_reduction_is_in_the_version_and_its_manifest(reduced_version: Path, reduced_vectors: FloatArray) -> None:
    manifest = artifact.verify(reduced_version)
    assert manifest.reduction is not None
    kept, scanned = manifest.reduction.dimensions, manifest.engines["annoy"].dimensions
    assert 0 < scanned <= kept < 128
    assert (manifest.engines["scan"].dimensions, manifest.engines["hnsw"].dimensions) == (scanned, kept)
    directions = load_file(reduced_version / manifest.reduction.file)["directions"]
    np.testing.assert_allclose(directions.T @ directions, np.eye(kept), atol=1e-5)
    seen = np.sum((reduced_vectors @ directions) ** 2) / len(reduced_vectors)
    best = np.linalg.svd(reduced_vectors, compute_uv=False)[:kept]
    assert seen == pytest.approx(np.sum(best**2) / len(reduced_vectors), rel=1e-5)
    assert seen >= 0.9


def test_items_are_stored_in_row_order_with_the_documented_schema(version: Path) -> None:
    items = pa.ipc.open_file(version / "items.arrow").read_all()
    assert items.select(tables.ITEMS.names).cast(tables.ITEMS).schema.equals(tables.ITEMS)
    assert items.schema.names == [*tables.ITEMS.names, "row", "tags"]
    assert items["tags"].to_pylist()[:4] == [["a", "ü"], None, None, ["a", "ü"]]
    assert items["row"].type == pa.int64()
    assert items["id"].to_pylist() == [f"gif-{row:05d}" for row in range(700)]


def test_stored_vectors_are_plain_npy_that_anyone_can_read(version: Path, vectors: FloatArray) -> None:
    stored = np.concatenate([np.load(version / artifact.shard_names(number)[1]) for number in range(3)])
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, vectors)


@pytest.mark.parametrize(
    "vectors",
    [
        np.full((3, 4), np.nan, np.float32),
        np.array([[1, 0], [0, np.inf]], np.float32),
        np.array([[1, 0], [2, 0]], np.float32),
        np.array([[1, 0], [0.5, 0]], np.float32),
        np.array([[1, 0], [1e30, 1e30]], np.float32),
        np.zeros((0, 4), np.float32),
        np.zeros((4, 0), np.float32),
        np.ones(4, np.float32),
    ],
)
def test_vectors_that_could_not_be_searched_are_refused(tmp_path: Path, vectors: FloatArray) -> None:
    with pytest.raises(ValueError, match="shard 7 was given vectors"):
        write_shard(tmp_path, 7, vectors, None, EngineSettings())
    assert list(tmp_path.iterdir()) == []


def test_vectors_in_another_memory_order_are_stored_the_same(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(0).standard_normal((40, 5)))
    for name, same in (("c", vectors), ("f", np.asfortranarray(vectors)), ("s", np.repeat(vectors, 2, axis=0)[::2])):
        write_shard(tmp_path / name, 0, same, None, FEW)
    assert bytes_of(tmp_path / "c") == bytes_of(tmp_path / "f") == bytes_of(tmp_path / "s")


def finish(version: Path, source: Path, items: pa.Table, counts: list[int]) -> None:
    """Finish `version` with the projection of another."""
    encoder = EncoderFacts("pixels", "0" * 16, 4)
    facts = VersionFacts(version.name, encoder, "1" * 16, encoder)
    write_items(version, items)
    finish_version(version, facts, counts, projections.load(source / "projection.safetensors"), None, FEW)


def test_counts_of_shards_that_do_not_add_up_write_no_manifest(
    tmp_path: Path, version: Path, vectors: FloatArray, items_table: Callable[[int, int], pa.Table]
) -> None:
    write_shard(tmp_path, 0, vectors[:100], None, FEW)
    with pytest.raises(CorruptIndexError, match="has 100 rows, but the manifest says 99"):
        finish(tmp_path, version, items_table(100, 0), [99])
    with pytest.raises(CorruptIndexError, match=r"holds float32 of shape \(100, 16\)"):
        finish(tmp_path, version, items_table(99, 0), [99])
    assert not (tmp_path / MANIFEST_NAME).exists()


def test_manifest_is_written_last(
    tmp_path: Path, version: Path, vectors: FloatArray, items_table: Callable[[int, int], pa.Table]
) -> None:
    with pytest.raises(CorruptIndexError, match="No such file"):
        finish(tmp_path, version, items_table(100, 0), [100])  # no shard was written
    assert not (tmp_path / MANIFEST_NAME).exists()
    write_shard(tmp_path, 0, vectors[:100], None, FEW)
    finish(tmp_path, version, items_table(100, 0), [100])
    assert json.loads((tmp_path / MANIFEST_NAME).read_text())["items"] == 100
    assert artifact.verify(tmp_path).items == 100
    assert not list(tmp_path.glob(".tmp-*"))
