"""Builds that fail, are killed, or find files damaged since the last build."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gifdex.encoders import projections
from gifdex.encoders.frames.decoders import registry
from gifdex.encoders.settings import EncodeSettings
from gifdex.index import store
from gifdex.index.engines.names import HNSW
from gifdex.pipeline.settings import IndexSettings
from gifdex.schemas.errors import CorpusError, MissingExtraError, PipelineError, ProjectionError
from gifdex.schemas.files import TEMPORARY_PREFIX, read_table

if TYPE_CHECKING:
    from tests.pipeline.conftest import Built, Contents, GifWriter, Runner


def test_a_missing_graph_library_stops_the_build_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_gif: GifWriter, run: Runner
) -> None:
    monkeypatch.setitem(sys.modules, "usearch", None)
    write_gif(tmp_path / "gifs" / "a.gif")
    with pytest.raises(MissingExtraError, match="the engine hnsw needs the module usearch"):
        run(tmp_path / "gifs", tmp_path / "ws", index=IndexSettings(engines={HNSW: {}}))
    assert not list((tmp_path / "ws").rglob("*.parquet"))


def test_an_unknown_decoder_stops_the_build_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Runner
) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    registry._load.cache_clear()
    with pytest.raises(MissingExtraError, match="the decoder pyav needs the module av"):
        run(tmp_path, tmp_path / "workspace", encode=EncodeSettings(decoder="pyav"))
    assert not (tmp_path / "workspace").exists()


def test_a_corpus_of_rejects_publishes_nothing(
    built: Built,
    tmp_path: Path,
    run: Runner,
    contents: Contents,
) -> None:
    workspace = built.copy_workspace(tmp_path)
    before = contents(workspace / "index")
    with pytest.raises(
        CorpusError, match=r"none of the 4 files .*UnsupportedFormatError \(2\), such as .*empty\.gif: "
    ):
        run(built.corpus / "broken", workspace)
    assert contents(workspace / "index") == before


def test_a_missing_corpus_publishes_nothing(built: Built, tmp_path: Path, run: Runner, contents: Contents) -> None:
    workspace = built.copy_workspace(tmp_path)
    before = contents(workspace)
    with pytest.raises(CorpusError, match="does not exist"):
        run(tmp_path / "nowhere", workspace)
    assert {**contents(workspace), ".lock": b""} == {**before, ".lock": b""}


def test_a_damaged_version_is_rebuilt(built: Built, tmp_path: Path, run: Runner, contents: Contents) -> None:
    workspace = built.copy_workspace(tmp_path)
    version = workspace / "index" / built.summary.build_id
    shard = version / "image-00000.ann"
    data = bytearray(shard.read_bytes())
    data[100] ^= 0xFF
    shard.write_bytes(data)
    (version / "items.arrow").unlink()
    again = run(built.corpus, workspace)
    assert (again.index_reused, again.run.tried) == (False, 0)
    assert contents(workspace / "index") == contents(built.workspace / "index")


def test_lost_embeddings_are_written_again(built: Built, tmp_path: Path, run: Runner, contents: Contents) -> None:
    workspace = built.copy_workspace(tmp_path)
    shutil.rmtree(workspace / "builds")
    again = run(built.corpus, workspace)
    assert (again.index_reused, again.run.tried) == (False, 0)
    assert contents(workspace / "builds" / again.build_id / "embeddings") == contents(
        built.workspace / "builds" / again.build_id / "embeddings"
    )


def test_leftovers_of_a_killed_writer_are_removed_and_other_files_kept(
    built: Built,
    tmp_path: Path,
    run: Runner,
) -> None:
    workspace = built.copy_workspace(tmp_path)
    fingerprint = next((workspace / "features").iterdir()).name
    left = [workspace / "features" / fingerprint / "all" / ".tmp-0-x.parquet", workspace / "index" / ".tmp-1-CURRENT"]
    mine = workspace / f"{TEMPORARY_PREFIX}mine"
    for path in [*left, mine]:
        path.write_bytes(b"half")
    run(built.corpus, workspace)
    assert [path.exists() for path in [*left, mine]] == [False, False, True]


def test_gifs_of_a_damaged_cache_part_are_encoded_again(
    built: Built, tmp_path: Path, run: Runner, contents: Contents
) -> None:
    workspace = built.copy_workspace(tmp_path)
    part = next((workspace / "features").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-10])
    summary = run(built.corpus, workspace)
    assert summary.run.encoded > 0
    assert contents(workspace / "index") == contents(built.workspace / "index")


def test_a_projection_for_another_encoder_is_refused_before_encoding(
    built: Built, tmp_path: Path, write_gif: GifWriter, run: Runner, contents: Contents
) -> None:
    whole = projections.load(next((built.workspace / "projections").iterdir()))
    metadata = {
        **whole.metadata,
        "image_encoder": {"name": "vgg16", "fingerprint": "0123456789abcdef", "dimensions": 1280},
    }
    projections.make(whole.kind, whole.tensors, metadata).save(tmp_path / "other.safetensors")
    write_gif(tmp_path / "new" / "a.gif", seed=77)
    workspace = built.copy_workspace(tmp_path)
    before = contents(workspace / "index"), contents(workspace / "features")
    with pytest.raises(ProjectionError, match=r"was made for the image encoder vgg16 \(0123456789abcdef\), but"):
        run(tmp_path / "new", workspace, index=IndexSettings(projection=tmp_path / "other.safetensors"))
    assert (contents(workspace / "index"), contents(workspace / "features")) == before


def test_beam_options_reach_beam(built: Built, tmp_path: Path, run: Runner) -> None:
    with pytest.raises(PipelineError, match="NoSuchRunner"):
        run(built.corpus, built.copy_workspace(tmp_path), checksum=True, beam_options=("--runner=NoSuchRunner",))


BUILD = """
import sys
from pathlib import Path
from gifdex.pipeline.build import build
from gifdex.encoders.settings import EncodeSettings
from gifdex.pipeline.settings import BuildSettings
build(BuildSettings(sys.argv[1], Path(sys.argv[2]), encode=EncodeSettings(task_items=2)))
"""


def committed(workspace: Path) -> list[Path]:
    return [p for p in (workspace / "features").rglob("*.parquet") if not p.name.startswith(TEMPORARY_PREFIX)]


def test_a_killed_build_is_resumed_and_gives_the_same_bytes(
    built: Built, tmp_path: Path, run: Runner, contents: Contents
) -> None:
    workspace = tmp_path / "workspace"
    shutil.copytree(built.workspace / "projections", workspace / "projections")  # fitting one would take seconds
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", BUILD, built.corpus, workspace], stdout=log, stderr=log)
        while process.poll() is None and not committed(workspace):
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    done = sum(read_table(path, ["sha256"]).num_rows for path in committed(workspace))
    assert 0 < done < built.summary.run.tried
    assert store.current(workspace / "index") is None

    resumed = run(built.corpus, workspace)
    assert (resumed.run.tried, resumed.run.reused) == (built.summary.run.tried - done, done)
    assert contents(workspace / "index") == contents(built.workspace / "index")
    assert not list(workspace.rglob(f"{TEMPORARY_PREFIX}*"))
