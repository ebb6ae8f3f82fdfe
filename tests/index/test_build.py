from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from gifdex.encoders import projections
from gifdex.encoders.base import FloatArray, unit
from gifdex.index import artifact
from gifdex.index.build import (
    Engines,
    FieldPlan,
    Origin,
    build_engines,
    engine_files,
    finish_version,
    fit_reduction,
    load_reduction,
    shards_with_rows,
    write_items,
    write_rows,
)
from gifdex.index.engines import registry
from gifdex.index.engines.annoy_trees import SEED
from gifdex.index.engines.names import ANNOY, HNSW, SCAN
from gifdex.index.tuning import MAX_VECTORS
from gifdex.schemas import tables
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.manifest import MANIFEST_NAME, EncoderRecord, SpaceRecord

SHARDS = (300, 250, 150)
FEW: Engines = {ANNOY: {"trees": 2}, SCAN: {}, HNSW: {"connectivity": 4, "expansion_add": 16}}


def single(count: int) -> list[NDArray[np.int64]]:
    """One row for each item."""
    return [np.array([row]) for row in range(count)]


def write_shard(folder: Path, shard: int, vectors: FloatArray) -> None:
    """Write a shard of the field image, with one row for each item, and its engines."""
    folder.mkdir(exist_ok=True)
    write_rows(folder, "image", shard, vectors, single(len(vectors)), len(vectors))
    build_engines(folder, "image", shard, FEW)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_building_twice_gives_the_same_bytes_in_every_file(
    tmp_path: Path, version: Path, make_version: Callable[..., Path], vectors: FloatArray
) -> None:
    again = make_version(tmp_path / version.name, vectors, SHARDS, hnsw=True)
    assert bytes_of(again) == bytes_of(version)


def test_building_twice_with_copies_captions_and_sentences_gives_the_same_bytes(
    tmp_path: Path, make_version: Callable[..., Path], spectral: Callable[..., FloatArray]
) -> None:
    vectors, captions = spectral(2000), spectral(2000, seed=1)
    vectors[1000:1300], captions[::3] = vectors[:300], np.nan
    features = (3 * spectral(2000, 64, seed=2)).astype(np.float16)
    fields, sentences = {"caption": captions, "features": features}, spectral(100, seed=3)
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        version = folder / "00000000000000aa"
        found.append(
            bytes_of(make_version(version, vectors, (1300, 700), hnsw=True, fields=fields, sentences=sentences))
        )
    assert found[0] == found[1]
    assert len(found[0]) == 3 + 1 + 4 * 2 - 1 + 1 + 4 * 2 + 2  # the second shard of image has no copies


def test_the_manifest_holds_no_timings(version: Path) -> None:
    assert not re.search(r"seconds|speed|time|elapsed", (version / MANIFEST_NAME).read_text())


def test_version_holds_exactly_the_files_of_its_manifest(version: Path) -> None:
    manifest = artifact.verify(version)
    engines = {registry.kind(name).file(f"image-{number:05d}", False) for number in range(3) for name in FEW}
    vectors = {artifact.vectors_name("image", number) for number in range(3)}
    assert set(manifest.files) == {"items.arrow", "projection.safetensors", *vectors, *engines}
    assert set(bytes_of(version)) == {*manifest.files, MANIFEST_NAME}
    assert len(engines | vectors) == 9


def test_manifest_describes_the_version(version: Path) -> None:
    manifest = artifact.read_manifest(version)
    assert (manifest.build_id, manifest.items, manifest.metric) == (version.name, 700, "cosine")
    assert list(manifest.fields) == ["image"]
    assert manifest.projection is not None
    image = manifest.fields["image"]
    assert manifest.projection is not None
    assert image.space == SpaceRecord("joint", manifest.projection.fingerprint)
    assert (image.rows, image.dimensions, image.dtype, image.reduction) == (700, 16, "float32", None)
    assert tuple((shard.first_item, shard.items, shard.rows) for shard in image.shards) == (
        (0, 300, 300),
        (300, 250, 250),
        (550, 150, 150),
    )
    assert {name: (record.library, record.metric, record.dimensions) for name, record in image.engines.items()} == {
        "annoy": ("annoy", "angular", 16),
        "scan": ("numpy", "ip", 16),
        "hnsw": ("usearch", "ip", 16),
    }
    assert image.engines["annoy"].parameters == {"trees": 10, "seed": SEED, "threads": 1}
    assert image.engines["hnsw"].parameters == {"connectivity": 8, "expansion_add": 32, "threads": 1}
    for number, shard in enumerate(image.shards):
        stem = f"image-{number:05d}"
        assert (shard.vectors, shard.row_items) == (f"{stem}.vectors.npy", None)
        assert shard.engines == {name: registry.kind(name).file(stem, False) for name in image.engines}
        assert shard.engines["scan"] == shard.vectors
    projection = projections.load(version / manifest.projection.file)
    assert (manifest.projection.kind, manifest.projection.fingerprint) == ("linear", projection.fingerprint)
    queries = {name: record.vector_recall.queries for name, record in image.engines.items()}
    assert queries == {"annoy": MAX_VECTORS // 4, "scan": MAX_VECTORS, "hnsw": MAX_VECTORS}
    for record in image.engines.values():
        assert record.sentence_recall is None
        assert set(record.vector_recall.at) == {"1", "10", "100"}
        assert 0.9 <= min(record.vector_recall.at.values()) <= max(record.vector_recall.at.values()) <= 1.0
    assert image.engine in image.engines


def test_reduction_is_in_the_version_and_its_manifest(reduced_version: Path, reduced_vectors: FloatArray) -> None:
    image = artifact.verify(reduced_version).fields["image"]
    assert image.reduction is not None
    kept, scanned = image.reduction.dimensions, image.engines["annoy"].dimensions
    assert 0 < scanned <= kept < 128
    assert (image.engines["scan"].dimensions, image.engines["hnsw"].dimensions) == (scanned, kept)
    assert [shard.engines["scan"] == shard.engines["annoy"] for shard in image.shards] == [True, True]
    directions = load_file(reduced_version / image.reduction.file)["directions"]
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


def test_stored_vectors_are_plain_npy_files(version: Path, vectors: FloatArray) -> None:
    stored = np.concatenate([np.load(version / artifact.vectors_name("image", number)) for number in range(3)])
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
def test_vectors_that_cannot_be_searched_are_refused(tmp_path: Path, vectors: FloatArray) -> None:
    with pytest.raises(ValueError, match="shard 7 of the field image was given vectors"):
        write_rows(tmp_path, "image", 7, vectors, single(3), 3)
    assert list(tmp_path.iterdir()) == []


def test_vectors_in_another_memory_order_are_stored_the_same(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(0).standard_normal((40, 5)))
    for name, same in (("c", vectors), ("f", np.asfortranarray(vectors)), ("s", np.repeat(vectors, 2, axis=0)[::2])):
        write_shard(tmp_path / name, 0, same)
    assert bytes_of(tmp_path / "c") == bytes_of(tmp_path / "f") == bytes_of(tmp_path / "s")


def finish(version: Path, source: Path, items: pa.Table, counts: list[int]) -> None:
    """Finish `version` with the projection of another one."""
    encoder = EncoderRecord("pixels", "0" * 16, 4)
    origin = Origin(version.name, encoder, "1" * 16, encoder)
    projection = projections.load(source / "projection.safetensors")
    plans = {"image": FieldPlan(SpaceRecord("joint", projection.fingerprint), FEW)}
    write_items(version, items)
    finish_version(version, origin, counts, plans, projection)


def test_shard_counts_that_do_not_add_up_write_no_manifest(
    tmp_path: Path, version: Path, vectors: FloatArray, items_table: Callable[[int, int], pa.Table]
) -> None:
    write_shard(tmp_path, 0, vectors[:100])
    with pytest.raises(CorruptIndexError, match="has 100 rows, but the manifest says 99"):
        finish(tmp_path, version, items_table(100, 0), [99])
    with pytest.raises(CorruptIndexError, match="has 100 rows, but the shard has 99 items"):
        finish(tmp_path, version, items_table(99, 0), [99])
    assert not (tmp_path / MANIFEST_NAME).exists()


def test_manifest_is_written_last(
    tmp_path: Path, version: Path, vectors: FloatArray, items_table: Callable[[int, int], pa.Table]
) -> None:
    write_rows(tmp_path, "image", 0, vectors[:100], single(100), 100)
    with pytest.raises(CorruptIndexError, match="No such file"):
        finish(tmp_path, version, items_table(100, 0), [100])  # no engine has been built
    assert not (tmp_path / MANIFEST_NAME).exists()
    write_shard(tmp_path, 0, vectors[:100])
    finish(tmp_path, version, items_table(100, 0), [100])
    assert json.loads((tmp_path / MANIFEST_NAME).read_text())["items"] == 100
    assert artifact.verify(tmp_path).items == 100
    assert not list(tmp_path.glob(".tmp-*"))


def test_identical_rows_and_items_need_no_mapping_and_an_old_mapping_is_removed(
    tmp_path: Path, vectors: FloatArray
) -> None:
    write_rows(tmp_path, "image", 0, vectors[:2], [np.array([0, 2]), np.array([1])], 3)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["image-00000.rows.arrow", "image-00000.vectors.npy"]
    write_rows(tmp_path, "image", 0, vectors[:2], single(2), 2)
    assert [path.name for path in tmp_path.iterdir()] == ["image-00000.vectors.npy"]
    write_rows(tmp_path, "image", 0, vectors[:2], single(2), 3)  # the last item has no row
    assert len(list(tmp_path.iterdir())) == 2
    write_rows(tmp_path, "image", 0, vectors[:0], [], 3)
    assert list(tmp_path.iterdir()) == []
    assert shards_with_rows(tmp_path, "image", 1) == []


def test_a_field_may_have_rows_in_only_some_shards(
    tmp_path: Path, make_version: Callable[..., Path], vectors: FloatArray
) -> None:
    captions = np.full((700, 16), np.nan, np.float32)
    captions[310:330] = vectors[:20]
    caption = artifact.verify(
        make_version(tmp_path / "00000000000000aa", vectors, SHARDS, fields={"caption": captions})
    ).fields["caption"]
    assert [(shard.first_item, shard.items, shard.rows) for shard in caption.shards] == [(300, 250, 20)]
    assert (caption.shards[0].vectors, caption.rows) == ("caption-00001.vectors.npy", 20)
    captions[:] = np.nan
    none = make_version(tmp_path / "00000000000000bb", vectors, SHARDS, fields={"caption": captions})
    assert list(artifact.verify(none).fields) == ["image"]
    assert not list(none.glob("caption*"))


def test_the_reduction_covers_all_shards_and_is_removed_where_it_does_not_pay(
    tmp_path: Path, spectral: Callable[..., FloatArray]
) -> None:
    vectors = spectral(1000)
    for shard, part in enumerate((vectors[:600], vectors[600:])):
        write_rows(tmp_path, "image", shard, part, single(len(part)), len(part))
    found = fit_reduction(tmp_path, "image", [0, 1])
    assert found is not None
    assert found.sample == 1000
    stored = load_reduction(tmp_path, "image", 128)
    assert stored is not None
    np.testing.assert_array_equal(stored.directions, found.directions)
    write_rows(tmp_path, "image", 0, vectors[:60], single(60), 60)
    assert fit_reduction(tmp_path, "image", [0]) is None
    assert load_reduction(tmp_path, "image", 128) is None


@pytest.mark.parametrize("reduced", [True, False])
def test_the_files_of_an_engines_build_are_known_before(
    tmp_path: Path, spectral: Callable[..., FloatArray], reduced: bool
) -> None:
    vectors = spectral(600, 128 if reduced else 32)
    write_rows(tmp_path, "image", 0, vectors, single(600), 600)
    assert (fit_reduction(tmp_path, "image", [0]) is not None) == reduced
    before = set(tmp_path.iterdir())
    build_engines(tmp_path, "image", 0, FEW)
    assert set(tmp_path.iterdir()) - before == set(engine_files(tmp_path, "image", 0, FEW, reduced=reduced))
