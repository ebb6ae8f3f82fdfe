from __future__ import annotations

import gc
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gifdex.encoders import projections
from gifdex.encoders.frames.limits import Limits
from gifdex.encoders.images.frame_model import FrameModel
from gifdex.encoders.registry import text_encoder
from gifdex.encoders.settings import EncodeSettings
from gifdex.index import store
from gifdex.index.artifact import read_manifest, verify
from gifdex.index.build import DEFAULT_ENGINES
from gifdex.index.engines.names import HNSW
from gifdex.index.opening import open_index
from gifdex.pipeline.build import BuildSummary, build
from gifdex.pipeline.settings import BuildSettings, IndexSettings
from gifdex.pipeline.workspace import Workspace
from gifdex.schemas.files import TEMPORARY_PREFIX, read_table
from tests.progress import CallbackProgress

if TYPE_CHECKING:
    from tests.pipeline.conftest import Built, Contents, GifWriter, Runner

GIFS = 12


def reject_rows(workspace: Path, summary: BuildSummary) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_table(Workspace(workspace).rejects(summary.build_id)).to_pylist()}


def test_every_file_becomes_an_item_or_a_reject_with_a_reason(built: Built) -> None:
    summary, rejects = built.summary, reject_rows(built.workspace, built.summary)
    assert (summary.run.items, summary.run.rejects, summary.run.ignored) == (GIFS, 4, 1)
    assert (summary.run.tried, summary.run.encoded, summary.run.reused, summary.run.unchanged) == (GIFS + 3, GIFS, 0, 0)
    assert set(rejects) == {"broken/empty", "broken/gone", "broken/text", "broken/truncated"}
    assert all(row["reason"] and row["error"] for row in rejects.values())
    assert rejects["broken/empty"]["reason"] == (
        "the file is empty; expected a GIF (GIF87a or GIF89a), or a WebP, PNG, MP4 or WebM"
    )
    assert (rejects["broken/gone"]["stage"], rejects["broken/gone"]["sha256"]) == ("scan", None)
    assert (rejects["broken/text"]["stage"], rejects["broken/text"]["error"]) == ("encode", "UnsupportedFormatError")
    assert summary.run.rejects_by_error == {"DecodeError": 1, "FileNotFoundError": 1, "UnsupportedFormatError": 2}


def test_the_published_version_verifies_and_finds_each_item_by_its_own_vector(built: Built) -> None:
    path = built.workspace / "index"
    assert store.current(path) == built.summary.build_id
    verify(path / built.summary.build_id)
    index = open_index(path)
    assert sorted(index.ids) == [f"g{number:02d}" for number in range(GIFS)]
    table = read_table(Workspace(built.workspace).embeddings(built.summary.build_id) / "shard-00000.parquet")
    vectors = np.stack(table["embedding"].to_pylist())
    assert [hits[0].id for hits in index.search(vectors, k=1)] == table["id"].to_pylist()
    assert table["caption_embedding"].null_count == GIFS


def test_the_statistics_describe_the_build(built: Built) -> None:
    statistics = json.loads((Workspace(built.workspace).build(built.summary.build_id) / "stats.json").read_text())
    assert (statistics["items"], statistics["rejects"], statistics["corpus"]) == (GIFS, 4, str(built.corpus))
    assert list(statistics["seconds"]) == ["scan", "projection", "encode", "index"]


def test_the_workspace_holds_only_documented_files(built: Built) -> None:
    assert sorted(path.name for path in built.workspace.iterdir()) == [
        ".lock", "builds", "features", "index", "projections", "scan",
    ]  # fmt: skip
    assert not list((built.workspace / "scan").iterdir())
    assert not list(built.workspace.rglob(f"{TEMPORARY_PREFIX}*"))


def test_a_second_run_encodes_nothing_and_writes_the_same_bytes(
    built: Built, tmp_path: Path, run: Runner, contents: Contents
) -> None:
    workspace = built.copy_workspace(tmp_path)
    again = run(built.corpus, workspace)
    assert (again.run.tried, again.run.reused, again.run.unchanged) == (0, GIFS + 3, GIFS + 3)
    assert again.index_reused
    assert again.build_id == built.summary.build_id
    assert contents(workspace / "index") == contents(built.workspace / "index")
    assert contents(workspace / "features") == contents(built.workspace / "features")


def test_another_usearch_release_gives_another_version_only_with_a_graph(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Runner
) -> None:
    workspace = built.copy_workspace(tmp_path)
    graph = IndexSettings(engines={**DEFAULT_ENGINES, HNSW: {}})
    first = run(built.corpus, workspace, index=graph)
    (tmp_path / "site" / "usearch-0.0.1.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "usearch-0.0.1.dist-info" / "METADATA").write_text("Name: usearch\nVersion: 0.0.1\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert run(built.corpus, workspace).build_id == built.summary.build_id
    assert len({built.summary.build_id, first.build_id, run(built.corpus, workspace, index=graph).build_id}) == 3


def test_hashing_every_file_again_gives_the_same_version(built: Built, tmp_path: Path, run: Runner) -> None:
    again = run(built.corpus, built.copy_workspace(tmp_path), checksum=True)
    assert (again.run.tried, again.run.unchanged, again.build_id) == (0, 0, built.summary.build_id)


def test_a_build_from_scratch_elsewhere_gives_the_same_bytes(
    built: Built, tmp_path: Path, run: Runner, contents: Contents
) -> None:
    workspace = tmp_path / "other"
    (projection,) = (built.workspace / "projections").iterdir()
    (workspace / "projections").mkdir(parents=True)
    (workspace / "projections" / projection.name).write_bytes(projection.read_bytes()[:100])  # so it is fitted again
    other = run(built.corpus, workspace, encode=EncodeSettings(task_items=5, threads=1))
    assert other.run.tried == GIFS + 3
    assert contents(workspace / "index") == contents(built.workspace / "index")
    assert contents(workspace / "projections") == contents(built.workspace / "projections")


def test_a_process_loads_one_model_however_many_threads_run_tasks(built: Built, tmp_path: Path) -> None:
    before = {id(thing) for thing in gc.get_objects() if isinstance(thing, FrameModel)}
    seen: set[int] = set()

    def look(stage: str, done: int, total: int) -> None:
        if stage != "encode" or done not in (total // 2, total):  # each look takes a second
            return
        loaded = [o for o in gc.get_objects() if isinstance(o, FrameModel) and o._compiled is not None]
        seen.update(id(model) for model in loaded if id(model) not in before)

    threads = ("--direct_running_mode=multi_threading", "--direct_num_workers=3")
    shutil.copytree(built.workspace / "projections", tmp_path / "projections")
    settings = BuildSettings(str(built.corpus), tmp_path, encode=EncodeSettings(task_items=3), beam_options=threads)
    assert build(settings, CallbackProgress(look)).run.tried == GIFS + 3
    assert len(seen) == 1


def test_moved_and_duplicated_files_are_not_encoded_again(built: Built, tmp_path: Path, run: Runner) -> None:
    copied = built.copy(tmp_path)
    (copied.corpus / "g00.gif").rename(copied.corpus / "moved.gif")
    shutil.copy(copied.corpus / "g01.gif", copied.corpus / "twice.gif")
    summary = run(copied.corpus, copied.workspace)
    assert (summary.run.items, summary.run.tried, summary.run.reused) == (GIFS + 1, 0, GIFS + 3)
    ids = open_index(copied.workspace / "index").ids
    assert {"moved", "twice", "g01"} <= set(ids)
    assert "g00" not in ids


def test_a_changed_file_is_the_only_one_encoded_again(
    built: Built,
    tmp_path: Path,
    write_gif: GifWriter,
    run: Runner,
) -> None:
    copied = built.copy(tmp_path)
    run(copied.corpus, copied.workspace)
    write_gif(copied.corpus / "g03.gif", seed=1_000)
    summary = run(copied.corpus, copied.workspace)
    assert (summary.run.tried, summary.run.items, summary.run.unchanged) == (1, GIFS, GIFS + 2)
    assert summary.build_id != built.summary.build_id


def test_a_deleted_file_leaves_the_index_but_not_the_cache(built: Built, tmp_path: Path, run: Runner) -> None:
    copied = built.copy(tmp_path)
    gone = (copied.corpus / "g05.gif").rename(tmp_path / "g05.gif")
    summary = run(copied.corpus, copied.workspace)
    assert (summary.run.items, summary.run.tried) == (GIFS - 1, 0)
    assert "g05" not in open_index(copied.workspace / "index").ids
    gone.rename(copied.corpus / "g05.gif")
    assert run(copied.corpus, copied.workspace).run.tried == 0


def write_catalog(built: Built, path: Path, captions: dict[int, str], also: str = "") -> Path:
    rows = [{"id": f"{n:03d}", "uri": f"{built.corpus}/g{n:02d}.gif", "caption": captions.get(n)} for n in range(4)]
    path.write_text("\n".join(json.dumps(row) for row in rows) + f"\n{also}")
    return path


def test_captions_are_embedded_and_a_changed_caption_needs_no_encoding(
    built: Built,
    tmp_path: Path,
    run: Runner,
) -> None:
    workspace = built.copy_workspace(tmp_path)
    catalog = write_catalog(built, tmp_path / "catalog.jsonl", {0: "a red cat", 2: "two dogs run"})
    first = run(catalog, workspace)
    assert (first.run.items, first.run.tried) == (4, 0)
    table = read_table(Workspace(workspace).embeddings(first.build_id) / "shard-00000.parquet")
    found = table["caption_embedding"].to_pylist()
    assert [vector is not None for vector in found] == [True, False, True, False]
    projection = projections.load(next((workspace / "projections").iterdir()))
    expected = projection.embed_texts(text_encoder()(["a red cat", "two dogs run"]))
    np.testing.assert_array_equal(np.asarray([found[0], found[2]], np.float32), expected)
    index = open_index(workspace / "index")
    hit = index.search(np.asarray(table["embedding"][2].as_py(), np.float32), k=1)[0]
    assert (hit.id, hit.metadata["caption"]) == ("002", "two dogs run")
    assert index.manifest.fields["caption"].rows == 2
    assert [hit.id for hit in index.search("two dogs run", fields={"caption": 1})] == ["002", "000"]

    write_catalog(built, catalog, {0: "a red cat", 2: "two dogs sleep"})
    second = run(catalog, workspace)
    assert (second.run.items, second.run.tried) == (4, 0)
    assert second.build_id != first.build_id


def test_an_unreadable_file_is_retried_in_the_next_run(built: Built, tmp_path: Path, run: Runner) -> None:
    workspace, late = built.copy_workspace(tmp_path), tmp_path / "late.gif"
    catalog = write_catalog(built, tmp_path / "c.jsonl", {}, json.dumps({"id": "late", "uri": str(late)}))
    first = run(catalog, workspace)
    assert (first.run.items, first.run.rejects) == (4, 1)
    assert "late.gif" in reject_rows(workspace, first)["late"]["reason"]
    shutil.copy(built.corpus / "g09.gif", late)
    second = run(catalog, workspace)
    assert (second.run.items, second.run.rejects, second.run.tried) == (5, 0, 0)


def test_changed_limits_retry_rejects_and_keep_features(built: Built, tmp_path: Path, run: Runner) -> None:
    workspace = built.copy_workspace(tmp_path)
    summary = run(built.corpus, workspace, encode=EncodeSettings(limits=Limits(frames=9_999)))
    assert (summary.run.tried, summary.run.reused) == (3, GIFS)
    assert summary.build_id == built.summary.build_id


def test_a_truncated_gif_is_a_partial_item_or_with_strict_a_reject(
    tmp_path: Path, write_gif: GifWriter, run: Runner
) -> None:
    corpus, workspace = tmp_path / "corpus", tmp_path / "workspace"
    write_gif(corpus / "whole.gif", frames=5)
    data = (corpus / "whole.gif").read_bytes()
    (corpus / "cut.gif").write_bytes(data[: len(data) * 2 // 3])

    def damage(summary: BuildSummary) -> dict[str, Any]:
        catalog = read_table(Workspace(workspace).catalog(summary.build_id))
        return dict(zip(catalog["id"].to_pylist(), catalog["damage"].to_pylist(), strict=True))

    first = run(corpus, workspace)
    assert (first.run.items, first.run.partial, first.run.rejects, first.run.encoded) == (2, 1, 0, 2)
    found = damage(first)
    assert first.run.example_partial == f"{corpus / 'cut.gif'}: {found['cut']}"
    assert found["whole"] is None
    assert re.fullmatch(r"has [1-4] good frames, then: the file ends within it", found["cut"])
    strict = run(corpus, workspace, strict=True)
    assert (strict.run.items, strict.run.partial, strict.run.rejects, strict.run.tried) == (1, 0, 1, 0)
    row = reject_rows(workspace, strict)["cut"]
    assert (row["stage"], row["error"]) == ("encode", "DecodeError")
    assert row["reason"] == f"only the beginning of the file is good, and --strict rejects that: it {found['cut']}"
    again = run(corpus, workspace)
    assert (again.build_id, again.run.partial, again.run.tried, damage(again)) == (first.build_id, 1, 0, found)


def test_a_lower_byte_limit_applies_to_known_files_too(built: Built, tmp_path: Path, run: Runner) -> None:
    workspace = built.copy_workspace(tmp_path)
    sizes = {path.stem: path.stat().st_size for path in built.corpus.glob("*.gif")}
    limit = sorted(sizes.values())[GIFS // 2]
    summary = run(built.corpus, workspace, encode=EncodeSettings(limits=Limits(bytes=limit)))
    refused = {key for key, row in reject_rows(workspace, summary).items() if row["error"] == "LimitError"}
    assert refused == {key for key, size in sizes.items() if size > limit} != set()


def test_several_shards_give_the_same_answers_as_one(built: Built, tmp_path: Path, run: Runner) -> None:
    workspace = built.copy_workspace(tmp_path)
    summary = run(built.corpus, workspace, index=IndexSettings(shards=5))
    manifest = read_manifest(workspace / "index" / summary.build_id)
    shards = manifest.fields["image"].shards
    assert 3 < len(shards) <= 5
    assert sum(shard.items for shard in shards) == GIFS
    one, several = open_index(built.workspace / "index"), open_index(workspace / "index")
    queries = np.random.default_rng(5).standard_normal((5, one.dimensions))
    for how in ({"exact": True}, {"engine": "annoy"}, {"engine": "scan"}, {}):
        for left, right in zip(one.search(queries, **how), several.search(queries, **how), strict=True):
            assert [hit.id for hit in left] == [hit.id for hit in right]
            np.testing.assert_allclose([h.score for h in left], [h.score for h in right], atol=1e-6)


def test_a_compatible_projection_file_is_used(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Runner
) -> None:
    whole = projections.load(next((built.workspace / "projections").iterdir()))
    projections.make(whole.kind, whole.tensors, {**whole.metadata, "note": "mine"}).save(tmp_path / "mine.safetensors")
    workspace = built.copy_workspace(tmp_path)
    monkeypatch.chdir(tmp_path)
    summary = run(built.corpus, workspace, index=IndexSettings(projection=Path("mine.safetensors")))
    version = workspace / "index" / summary.build_id
    assert summary.build_id != built.summary.build_id
    assert (version / "projection.safetensors").read_bytes() == (tmp_path / "mine.safetensors").read_bytes()
