"""One build id means one set of bytes, however many processors and workers there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gifdex.index.opening import open_index
from gifdex.pipeline.settings import IndexSettings

if TYPE_CHECKING:
    from tests.pipeline.conftest import Built, Contents, Runner

SHARDS = IndexSettings(shards=3, keep_features=True, tags=3, min_tag_probability=0)


def catalog_of(built: Built, path: Path) -> Path:
    """Write a catalog that lists every GIF of the corpus three times, twice with a caption."""
    lines = ["uri,id,caption"]
    for copy, caption in enumerate(("a red cat", "", "two dogs run")):
        lines += [f"{gif},{gif.stem}-{copy},{caption}" for gif in sorted(built.corpus.glob("*.gif"))]
    path.write_text("\n".join(lines) + "\n")
    return path


def delete_built_files(workspace: Path) -> Path:
    """Delete projections and indexes, so that they are made again; keep the features."""
    for folder in ("index", "builds", "projections"):
        for path in sorted((workspace / folder).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    return workspace


@pytest.mark.parametrize(
    "options",
    [
        ("--direct_num_workers=1",),
        ("--direct_num_workers=2", "--direct_running_mode=multi_threading"),
    ],
)
def test_one_and_two_workers_write_the_same_bytes(
    built: Built, tmp_path: Path, run: Runner, contents: Contents, options: tuple[str, ...]
) -> None:
    catalog = catalog_of(built, tmp_path / "catalog.csv")
    usual = built.copy_workspace(tmp_path / "usual")
    other = delete_built_files(built.copy_workspace(tmp_path / "other"))
    first = run(catalog, usual, index=SHARDS)
    again = run(catalog, other, index=SHARDS, beam_options=options)
    assert (first.run.items, again.run.encoded, again.build_id) == (36, 0, first.build_id)
    version = Path("index", first.build_id)
    assert contents(usual / version) == contents(other / version)
    assert contents(usual / "builds" / first.build_id / "embeddings") == (
        contents(other / "builds" / first.build_id / "embeddings")
    )


def test_one_and_many_threads_of_linear_algebra_write_the_same_bytes(
    built: Built, tmp_path: Path, contents: Contents
) -> None:
    catalog = catalog_of(built, tmp_path / "catalog.csv")
    versions = []
    for threads in ("1", "4"):
        workspace = delete_built_files(built.copy_workspace(tmp_path / threads))
        command = [sys.executable, "-m", "gifdex", "build", str(catalog), "--workspace", str(workspace)]
        variables = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        subprocess.run(command, env=variables, check=True, capture_output=True, timeout=200)
        found = contents(workspace / "index")
        versions.append({name: data for name, data in found.items() if not name.startswith("PUBLISHED")})
    assert versions[0] == versions[1]
    assert any(name.endswith("manifest.json") for name in versions[0])


def test_copies_share_a_row_and_are_all_found(built: Built, tmp_path: Path, run: Runner) -> None:
    catalog = catalog_of(built, tmp_path / "catalog.csv")
    workspace = built.copy_workspace(tmp_path)
    run(catalog, workspace, index=SHARDS)
    index = open_index(workspace / "index")
    fields = index.manifest.fields
    assert len(index) == 36
    assert {name: field.rows for name, field in fields.items() if name != "caption"} == {"image": 12, "features": 12}
    assert sum(shard.rows for shard in fields["caption"].shards) == 2 * len(fields["caption"].shards)
    hits = index.search("a red cat", 36)
    assert len({hit.id for hit in hits}) == 36
    for first in range(0, 36, 3):
        copies = hits[first : first + 3]
        assert len({hit.id.rpartition("-")[0] for hit in copies}) == 1
        assert len({hit.score for hit in copies}) == 1
    assert {hit.id[-1] for hit in index.search("a red cat", 12, fields={"caption": 1})} == {"0"}
    features = index.field("features").searcher.vectors_at(np.array([0]))[0]
    assert len(index.search(features, 3, fields={"features": 1})) == 3
