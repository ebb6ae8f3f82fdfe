"""Manifests that do not fit their files, and files that fit their manifest but not each other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import gifdex
from gifdex.encoders.base import FloatArray
from gifdex.index import artifact, row_items
from gifdex.index.engines import registry
from gifdex.index.engines.names import HNSW
from gifdex.schemas.errors import CorruptIndexError

GRAPH = registry.kind(HNSW).file("image-00000", True)


def image(manifest: dict[str, Any]) -> dict[str, Any]:
    field: dict[str, Any] = manifest["fields"]["image"]
    return field


def shard(manifest: dict[str, Any], number: int, field: str = "image") -> dict[str, Any]:
    record: dict[str, Any] = manifest["fields"][field]["shards"][number]
    return record


def add_file(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["files"].update({name: {"bytes": 6, "sha256": "0" * 64}})


@pytest.mark.parametrize(
    "change",
    [
        *(
            lambda manifest, value=value: image(manifest).update(dimensions=value)
            for value in (64, 256, 127, 1, 0, -3, -128, 2**70)
        ),
        *(
            lambda manifest, value=value: manifest.update(items=value)
            for value in (0, -4000, 3999, 4001, 2**70, 4000.0, "4000")
        ),
        *(
            lambda manifest, value=value: image(manifest).update(rows=value)
            for value in (0, -3930, 3929, 3931, 4000, 2**70, "3930")
        ),
        lambda manifest: manifest.update(fields={}),
        lambda manifest: manifest["fields"].update(pictures=manifest["fields"].pop("image")),
        lambda manifest: image(manifest)["shards"].pop(),
        lambda manifest: image(manifest)["shards"].clear(),
        lambda manifest: image(manifest)["shards"].reverse(),
        lambda manifest: (image(manifest)["shards"].clear(), image(manifest).update(rows=0)),
        lambda manifest: (image(manifest)["shards"].clear(), manifest.update(items=0)),
        lambda manifest: shard(manifest, 0).update(items=2501) or shard(manifest, 1).update(items=1499),
        lambda manifest: shard(manifest, 0).update(rows=2461) or shard(manifest, 1).update(rows=1469),
        lambda manifest: shard(manifest, 0).update(rows=4300) or shard(manifest, 1).update(rows=-370),
        lambda manifest: shard(manifest, 0).update(first_item=1),
        lambda manifest: shard(manifest, 0).update(first_item=-1),
        lambda manifest: shard(manifest, 1).update(first_item=2499),
        lambda manifest: shard(manifest, 1).update(first_item=2501),
        lambda manifest: shard(manifest, 0).update(row_items=None),
        lambda manifest: shard(manifest, 0).update(row_items="image-00001.rows.arrow"),
        lambda manifest: shard(manifest, 0).update(row_items="items.arrow"),
        lambda manifest: shard(manifest, 0).update(row_items="../secret"),
        lambda manifest: shard(manifest, 0, "caption").update(row_items=None),
        lambda manifest: shard(manifest, 1, "caption").update(first_item=0),
        lambda manifest: shard(manifest, 1, "features").update(items=1501),
        lambda manifest: shard(manifest, 0)["engines"].update(annoy="image-00001.ann"),
        lambda manifest: shard(manifest, 0)["engines"].update(annoy="image-00000.vectors.npy"),
        lambda manifest: shard(manifest, 0)["engines"].update(annoy=GRAPH),
        lambda manifest: shard(manifest, 0)["engines"].update(scan="image-00000.vectors.npy"),
        lambda manifest: shard(manifest, 0)["engines"].update(scan="image-00001.ann"),
        lambda manifest: shard(manifest, 0)["engines"].pop("annoy"),
        lambda manifest: shard(manifest, 0)["engines"].pop("scan"),
        lambda manifest: shard(manifest, 1)["engines"].pop("hnsw"),
        lambda manifest: shard(manifest, 0).update(vectors="image-00000.ann"),
        lambda manifest: shard(manifest, 0).update(vectors="items.arrow"),
        lambda manifest: manifest["fields"]["caption"]["space"].update(name="pixels"),
        lambda manifest: manifest["fields"]["caption"]["space"].update(name="words"),
        lambda manifest: manifest["fields"]["caption"]["space"].update(fingerprint="0" * 16),
        lambda manifest: manifest["fields"]["caption"]["space"].update(fingerprint="f" * 16),
        lambda manifest: manifest.update(items_file="projection.safetensors"),
        lambda manifest: manifest["projection"].update(file="items.arrow"),
        lambda manifest: manifest.update(metric="euclidean"),
        lambda manifest: image(manifest).update(dtype="float16"),
        lambda manifest: image(manifest).update(dtype="float64"),
        lambda manifest: manifest["fields"]["features"].update(dtype="float32"),
        lambda manifest: image(manifest).update(engine="faiss"),
        lambda manifest: image(manifest).update(engine=None),
        lambda manifest: manifest["fields"]["features"].update(engine="scan"),
        lambda manifest: image(manifest)["engines"].update(faiss=image(manifest)["engines"]["annoy"]),
        lambda manifest: image(manifest)["engines"].pop("annoy"),
        lambda manifest: image(manifest)["engines"].pop("scan"),
        lambda manifest: image(manifest)["engines"]["annoy"].update(library="faiss"),
        lambda manifest: image(manifest)["engines"]["annoy"].update(metric="angular"),
        lambda manifest: image(manifest)["engines"]["annoy"].update(metric="dot"),
        lambda manifest: image(manifest)["engines"]["annoy"].update(num_candidates=0),
        lambda manifest: image(manifest)["engines"]["annoy"].update(num_candidates=10**400),
        lambda manifest: image(manifest)["engines"]["scan"].update(num_candidates=-1),
        *(
            lambda manifest, name=name, value=value: image(manifest)["engines"][name].update(dimensions=value)
            for name in ("annoy", "scan")
            for value in (0, -1, 1, 15, 17, 128, 2**70)
        ),
        lambda manifest: image(manifest).update(reduction=None),
        lambda manifest: image(manifest)["reduction"].update(dimensions=127),
        lambda manifest: image(manifest)["reduction"].update(file="projection.safetensors"),
        lambda manifest: manifest["files"].pop("items.arrow"),
        lambda manifest: manifest["files"].pop("image-00001.ann"),
        lambda manifest: manifest["files"].pop("image-00001.rows.arrow"),
        lambda manifest: manifest["files"]["items.arrow"].update(bytes=2**80),
        lambda manifest: manifest["files"]["items.arrow"].update(bytes=-1),
        lambda manifest: manifest.update(items_file="../secret"),
        lambda manifest: manifest.pop("files"),
        lambda manifest: manifest.update(format="another"),
        lambda manifest: manifest.update(format_version=0),
    ],
)
@pytest.mark.parametrize("verify", [True, False])
def test_manifest_that_does_not_fit_its_files_is_refused(
    tmp_path: Path,
    version: Path,
    change: Callable[[dict[str, Any]], object],
    verify: bool,
    rewrite: Callable[..., None],
) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    rewrite(copy, change)
    with pytest.raises(CorruptIndexError):
        gifdex.open(copy, verify=verify)


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "",
        "../secret",
        "/etc/hostname",
        "sub/file",
        "sub\\..\\file",
        "a\0b",
        "\ud800",
        "~root",
        "C:secret",
        "line\nbreak",
        "n" * 256,
    ],
)
def test_manifest_cannot_name_a_file_outside_its_folder(
    tmp_path: Path, version: Path, name: str, rewrite: Callable[..., None]
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    copy = shutil.copytree(version, tmp_path / version.name)
    rewrite(copy, add_file(name))
    for check in (gifdex.open, artifact.verify):
        with pytest.raises(CorruptIndexError, match="expected the name of a file beside it") as raised:
            check(copy)
        assert "\n" not in str(raised.value)


def test_manifest_cannot_name_something_other_than_a_file(
    tmp_path: Path, version: Path, rewrite: Callable[..., None]
) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    os.mkfifo(copy / "pipe")  # reading it would block forever
    rewrite(copy, lambda manifest: manifest["files"].update({"pipe": {"bytes": 0, "sha256": "0" * 64}}))
    with pytest.raises(CorruptIndexError, match="pipe is not a regular file"):
        gifdex.open(copy)


@pytest.fixture
def commit_items(vouch_for: Callable[..., None]) -> Callable[..., None]:
    """Return a function that replaces the items with a table and records its hash in the manifest."""

    def commit(copy: Path, table: pa.Table) -> None:
        with pa.ipc.new_file(str(copy / "items.arrow"), table.schema) as writer:
            writer.write_table(table.combine_chunks())
        vouch_for(copy, "items.arrow")

    return commit


def read_items(version: Path) -> pa.Table:
    with pa.OSFile(str(version / "items.arrow")) as source:
        return pa.ipc.open_file(source).read_all()


def test_projection_with_the_wrong_dimensions_is_refused(
    tmp_path: Path,
    version: Path,
    make_version: Callable[..., Path],
    clustered: Callable[..., FloatArray],
    vouch_for: Callable[..., None],
) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    narrow = make_version(tmp_path / "00000000000000bb", clustered(20, dimensions=8))
    shutil.copy(narrow / "projection.safetensors", copy)
    vouch_for(copy, "projection.safetensors")
    with pytest.raises(CorruptIndexError, match="has 8 dimensions, but the manifest says 128"):
        gifdex.open(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items: items.drop_columns(["caption"]), "not those of items"),
        (lambda items: items.set_column(0, "id", pa.array(range(4000))), "not those of items"),
        (lambda items: items.slice(1), "has 3,999 rows, but the manifest says 4,000"),
    ],
)
def test_items_with_the_wrong_columns_or_row_count_are_refused(
    tmp_path: Path,
    version: Path,
    change: Callable[[pa.Table], pa.Table],
    message: str,
    commit_items: Callable[..., None],
) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    commit_items(copy, change(read_items(version)))
    with pytest.raises(CorruptIndexError, match=message):
        gifdex.open(copy)


def test_metadata_that_is_not_json_is_an_error_that_names_its_row(
    tmp_path: Path, version: Path, commit_items: Callable[..., None]
) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    items = read_items(version)
    metadata = pa.array(["{"] + [None] * 3999, pa.large_string())
    commit_items(copy, items.set_column(items.schema.get_field_index("metadata"), items.field("metadata"), metadata))
    opened = gifdex.open(copy)
    with pytest.raises(CorruptIndexError, match=r"one of the rows \[.*0.*\] of the items"):
        opened.search(np.ones(128), 4000)


def test_items_without_a_row_in_the_image_field_are_refused(
    tmp_path: Path, version: Path, vouch_for: Callable[[Path, str], None]
) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    path = copy / "image-00001.rows.arrow"
    lists = pa.ipc.open_file(path).read_all()["items"].to_pylist()
    shared = next(items for items in lists if len(items) > 1)
    shared.pop()
    path.unlink()
    row_items.write(path, [np.array(items) for items in lists])
    vouch_for(copy, path.name)
    with pytest.raises(CorruptIndexError, match="has items without a row in the field image"):
        gifdex.open(copy)
