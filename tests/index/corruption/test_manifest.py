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
from gifdex.index import artifact
from gifdex.schemas.errors import CorruptIndexError


def add_file(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["files"].update({name: {"bytes": 6, "sha256": "0" * 64}})


@pytest.mark.parametrize(
    "change",
    [
        *(
            lambda manifest, value=value: manifest.update(dimensions=value)
            for value in (64, 256, 127, 1, 0, -3, -128, 2**70)
        ),
        *(
            lambda manifest, value=value: manifest.update(items=value)
            for value in (0, -4000, 3999, 4001, 2**70, 4000.0, "4000")
        ),
        lambda manifest: manifest["shards"].pop(),
        lambda manifest: manifest["shards"].clear(),
        lambda manifest: (manifest["shards"].clear(), manifest.update(items=0)),
        lambda manifest: manifest["shards"][0].update(items=2501) or manifest["shards"][1].update(items=1499),
        lambda manifest: manifest["shards"][0].update(items=4300) or manifest["shards"][1].update(items=-300),
        lambda manifest: manifest["shards"][0]["engines"].update(annoy="image-00001.ann"),
        lambda manifest: manifest["shards"][0]["engines"].update(annoy="image-00000.vectors.npy"),
        lambda manifest: manifest["shards"][0]["engines"].update(annoy="image-00000.usearch"),
        lambda manifest: manifest["shards"][0]["engines"].pop("annoy"),
        lambda manifest: manifest["shards"][1]["engines"].pop("hnsw"),
        lambda manifest: manifest["shards"][0].update(vectors="image-00000.ann"),
        lambda manifest: manifest["shards"][0].update(vectors="items.arrow"),
        lambda manifest: manifest.update(items_file="projection.safetensors"),
        lambda manifest: manifest["projection"].update(file="items.arrow"),
        lambda manifest: manifest.update(metric="euclidean"),
        lambda manifest: manifest.update(engine="faiss"),
        lambda manifest: manifest["engines"].update(faiss=manifest["engines"]["annoy"]),
        lambda manifest: manifest["engines"].pop("annoy"),
        lambda manifest: manifest["engines"].pop("scan"),
        lambda manifest: manifest["engines"]["annoy"].update(library="faiss"),
        lambda manifest: manifest["engines"]["annoy"].update(metric="angular"),
        lambda manifest: manifest["engines"]["annoy"].update(metric="dot"),
        lambda manifest: manifest["engines"]["annoy"].update(effort=0),
        lambda manifest: manifest["engines"]["annoy"].update(effort=10**400),
        lambda manifest: manifest["engines"]["scan"].update(effort=-1),
        *(
            lambda manifest, name=name, value=value: manifest["engines"][name].update(dimensions=value)
            for name in ("annoy", "scan")
            for value in (0, -1, 1, 15, 17, 128, 2**70)
        ),
        lambda manifest: manifest.update(reduction=None),
        lambda manifest: manifest["reduction"].update(dimensions=127),
        lambda manifest: manifest["reduction"].update(file="projection.safetensors"),
        lambda manifest: manifest["files"].pop("items.arrow"),
        lambda manifest: manifest["files"].pop("image-00001.ann"),
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
        with pytest.raises(CorruptIndexError, match="expected a plain name") as raised:
            check(copy)
        assert "\n" not in str(raised.value)


def test_manifest_cannot_name_what_is_no_file(tmp_path: Path, version: Path, rewrite: Callable[..., None]) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    os.mkfifo(copy / "pipe")  # reading it would wait for ever
    rewrite(copy, lambda manifest: manifest["files"].update({"pipe": {"bytes": 0, "sha256": "0" * 64}}))
    with pytest.raises(CorruptIndexError, match="pipe is no file"):
        gifdex.open(copy)


@pytest.fixture
def commit_items(vouch_for: Callable[..., None]) -> Callable[..., None]:
    """Return a function that replaces the items by a table that the manifest vouches for."""

    def commit(copy: Path, table: pa.Table) -> None:
        with pa.ipc.new_file(str(copy / "items.arrow"), table.schema) as writer:
            writer.write_table(table.combine_chunks())
        vouch_for(copy, "items.arrow")

    return commit


def read_items(version: Path) -> pa.Table:
    with pa.OSFile(str(version / "items.arrow")) as source:
        return pa.ipc.open_file(source).read_all()


def test_projection_into_a_space_of_other_dimensions_is_refused(
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
def test_items_of_other_columns_or_rows_are_refused(
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


def test_metadata_that_is_no_json_is_an_error_of_its_row(
    tmp_path: Path, version: Path, commit_items: Callable[..., None]
) -> None:
    copy = shutil.copytree(version, tmp_path / version.name)
    items = read_items(version)
    metadata = pa.array(["{"] + [None] * 3999, pa.large_string())
    commit_items(copy, items.set_column(items.schema.get_field_index("metadata"), items.field("metadata"), metadata))
    opened = gifdex.open(copy)
    with pytest.raises(CorruptIndexError, match=r"one of the rows \[.*0.*\] of the items"):
        opened.search(np.ones(128), 4000)
