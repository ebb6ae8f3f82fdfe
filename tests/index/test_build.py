from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gifdex.encoders import projection as projections
from gifdex.encoders.base import FloatArray, unit
from gifdex.index import artifact
from gifdex.index.build import VersionFacts, finish_version, write_shard
from gifdex.index.engine import AnnoySettings
from gifdex.schemas import tables
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.manifest import MANIFEST_NAME, EncoderFacts, Manifest

SHARDS = (300, 250, 150)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_building_twice_gives_the_same_bytes_of_every_file(
    tmp_path: Path, version: Path, make_version: Callable[..., Path], vectors: FloatArray
) -> None:
    again = make_version(tmp_path / version.name, vectors, SHARDS)
    assert bytes_of(again) == bytes_of(version)


def test_version_holds_the_files_of_its_manifest_and_no_others(version: Path) -> None:
    manifest = artifact.verify(version)
    shard_files = [name for number in range(3) for name in artifact.shard_names(number)]
    assert set(manifest.files) == {"items.parquet", "projection.safetensors", *shard_files}
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
    assert (manifest.engine.name, manifest.engine.metric, manifest.engine.threads) == ("annoy", "angular", 1)
    projection = projections.load(version / manifest.projection.file)
    assert (manifest.projection.kind, manifest.projection.fingerprint) == ("linear", projection.fingerprint)
    assert (manifest.quality.queries, manifest.quality.k) == (200, 10)
    assert 0.9 <= manifest.quality.engine_recall <= 1.0


def test_items_are_stored_in_row_order_with_the_documented_schema(version: Path) -> None:
    items = pq.read_table(version / "items.parquet")
    assert items.schema.equals(tables.ITEMS)
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
        write_shard(tmp_path, 7, vectors, AnnoySettings())
    assert list(tmp_path.iterdir()) == []


def test_vectors_in_another_memory_order_are_stored_the_same(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(0).standard_normal((40, 5)))
    for name, same in (("c", vectors), ("f", np.asfortranarray(vectors)), ("s", np.repeat(vectors, 2, axis=0)[::2])):
        write_shard(tmp_path / name, 0, same, AnnoySettings(2))
    assert bytes_of(tmp_path / "c") == bytes_of(tmp_path / "f") == bytes_of(tmp_path / "s")


def finish(version: Path, source: Path, items: pa.Table, counts: list[int]) -> None:
    """Finish `version` with the projection of another."""
    encoder = EncoderFacts("pixels", "0" * 16, 4)
    facts = VersionFacts(version.name, encoder, "1" * 16, encoder)
    finish_version(version, facts, items, counts, projections.load(source / "projection.safetensors"), AnnoySettings(2))


def test_counts_of_shards_that_do_not_add_up_write_no_manifest(
    tmp_path: Path, version: Path, vectors: FloatArray, items_table: Callable[[int, int], pa.Table]
) -> None:
    write_shard(tmp_path, 0, vectors[:100], AnnoySettings(2))
    with pytest.raises(ValueError, match="100 items were given for shards of 99"):
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
    write_shard(tmp_path, 0, vectors[:100], AnnoySettings(2))
    finish(tmp_path, version, items_table(100, 0), [100])
    assert json.loads((tmp_path / MANIFEST_NAME).read_text())["items"] == 100
    assert artifact.verify(tmp_path).items == 100
    assert not list(tmp_path.glob(".tmp-*"))
