"""A build with moments: single frames are cached beside the pooled features and become a field of their own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gifdex.encoders.feature_cache import FeatureCache, FrameFeatures, Outcome
from gifdex.encoders.features import halved
from gifdex.encoders.frame_cache import FrameCache
from gifdex.index.opening import open_index
from gifdex.pipeline.prune import prune
from gifdex.pipeline.shards import automatic_shards
from gifdex.pipeline.workspace import Workspace
from gifdex.schemas.errors import EncoderError

if TYPE_CHECKING:
    from gifdex.pipeline.build import BuildSummary
    from tests.pipeline.conftest import Contents, Runner

COLORS = ((220, 30, 30), (30, 200, 60), (30, 60, 220), (230, 220, 40))
DELAYS = (300, 100, 500, 100)


def write_colors(path: Path, colors: tuple[tuple[int, int, int], ...], delays: tuple[int, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.new("RGB", (24, 24), color) for color in colors]
    images[0].save(path, save_all=True, append_images=images[1:], duration=list(delays), loop=0)


def write_corpus(folder: Path) -> Path:
    """GIFs of one to four plain colors; two have the same bytes, and one shows its first color twice."""
    for number in range(4):
        write_colors(folder / f"g{number}.gif", COLORS[: number + 1], DELAYS[: number + 1])
    shutil.copyfile(folder / "g3.gif", folder / "same.gif")
    write_colors(folder / "twice.gif", (COLORS[0], COLORS[2], COLORS[0]), (200, 200, 200))
    return folder


def settings(models: dict[str, Any], **index: Any) -> dict[str, Any]:
    from dataclasses import replace

    return {**models, "index": replace(models["index"], **index)}


class Once:
    """One corpus, built without moments and then with them in the same workspace."""

    def __init__(self, root: Path, run: Runner, models: dict[str, Any], contents: Contents) -> None:
        self.corpus, self.workspace = write_corpus(root / "corpus"), root / "workspace"
        self.plain: BuildSummary = run(self.corpus, self.workspace, **models)
        self.plain_features = contents(self.workspace / "features")
        self.moments: BuildSummary = run(self.corpus, self.workspace, **settings(models, moments=True))
        self.features = contents(self.workspace / "features")


@pytest.fixture(scope="module")
def once(
    tmp_path_factory: pytest.TempPathFactory, run: Runner, small_models: dict[str, Any], contents: Contents
) -> Once:
    return Once(tmp_path_factory.mktemp("moments"), run, small_models, contents)


def test_a_build_with_moments_encodes_only_what_lacks_frames_and_leaves_features_alone(
    once: Once, run: Runner, small_models: dict[str, Any], contents: Contents
) -> None:
    assert (once.plain.run.tried, once.moments.run.tried, once.moments.run.reused) == (5, 5, 0)
    assert not any("-frames/" in name for name in once.plain_features)
    assert {name: data for name, data in once.features.items() if "-frames/" not in name} == once.plain_features
    assert once.moments.build_id != once.plain.build_id
    again = run(once.corpus, once.workspace, **settings(small_models, moments=True))
    assert (again.run.tried, again.build_id, again.index_reused) == (0, once.moments.build_id, True)
    assert contents(once.workspace / "features") == once.features


def test_pooled_and_single_features_made_at_once_give_the_same_version(
    once: Once, tmp_path: Path, run: Runner, small_models: dict[str, Any], contents: Contents
) -> None:
    at_once = run(once.corpus, tmp_path / "ws", **settings(small_models, moments=True))
    assert (at_once.build_id, at_once.run.tried) == (once.moments.build_id, 5)
    versions = [contents(ws / "index" / at_once.build_id) for ws in (once.workspace, tmp_path / "ws")]
    assert versions[0] == versions[1]
    assert any(name.startswith("frames-") for name in versions[0])
    later = run(once.corpus, tmp_path / "ws", **small_models)
    assert (later.build_id, later.run.tried) == (once.plain.build_id, 0)
    plain = [contents(ws / "index" / later.build_id) for ws in (once.workspace, tmp_path / "ws")]
    assert plain[0] == plain[1]
    assert not any(name.startswith("frames-") for name in plain[0])


@pytest.mark.parametrize("shards", [1, 3])
def test_frames_have_their_times_and_copies_share_rows(
    once: Once, tmp_path: Path, run: Runner, small_models: dict[str, Any], shards: int
) -> None:
    workspace = Path(shutil.copytree(once.workspace, tmp_path / "ws"))
    run(once.corpus, workspace, **settings(small_models, moments=True, shards=shards))
    index = open_index(workspace / "index")
    field = index.field("frames")
    assert (len(index), field.record.engine is not None) == (6, True)
    if shards == 1:
        assert field.record.rows == len(COLORS)  # whatever GIF a frame is from, equal vectors are one row
    starts = dict(zip(range(4), (0, 300, 400, 900), strict=True))
    for item, key in enumerate(index.ids):
        entries, rows, counts = field.items.entries_of(np.array([item]))
        times = field.times_of(entries)
        found = sorted(zip(times.frames.tolist(), times.milliseconds.tolist(), strict=True))
        expected = {"same": 4, "twice": 2}.get(key) or int(key[1:]) + 1
        assert counts.tolist() == [len(set(rows.tolist()))] == [expected]
        assert found == ([(0, 0), (1, 200)] if key == "twice" else [(n, starts[n]) for n in range(expected)])


def test_the_best_moment_of_a_frame_is_when_it_is_shown(once: Once) -> None:
    index = open_index(once.workspace / "index" / once.moments.build_id)
    field = index.field("frames")
    found = [{index.ids[item] for item in field.items.items_of(np.array([row]))} for row in range(field.record.rows)]
    blue = found.index({"g2", "g3", "same", "twice"})
    hits = index.search(field.searcher.vectors_at(np.array([blue]))[0], 6, fields={"frames": 1})
    assert {hit.id: hit.moments[0].milliseconds for hit in hits if hit.score > 0.9999} == {
        "g2": 400,
        "g3": 400,
        "same": 400,
        "twice": 200,
    }
    assert [hit.moments[0].frame for hit in hits[:4]] == [2, 2, 2, 1]


def test_pruning_keeps_the_frames_of_needed_gifs_only(
    once: Once, tmp_path: Path, run: Runner, small_models: dict[str, Any]
) -> None:
    shutil.copytree(once.corpus, tmp_path / "corpus")
    workspace = Path(shutil.copytree(once.workspace, tmp_path / "ws"))
    (folder,) = (workspace / "features").glob("*-frames")
    assert prune(Workspace(workspace), 3).parts == 0
    assert list(folder.glob("*/*.parquet"))
    shutil.rmtree(tmp_path / "corpus")
    write_colors(tmp_path / "corpus" / "other.gif", (COLORS[1], COLORS[3]), (100, 100))
    run(tmp_path / "corpus", workspace, **small_models)
    from datetime import timedelta

    pruned = prune(Workspace(workspace), 1, timedelta())
    assert pruned.parts == 2
    assert not folder.exists()


def test_a_gif_whose_frames_cannot_be_had_any_more_is_a_reject(
    once: Once, tmp_path: Path, run: Runner, small_models: dict[str, Any]
) -> None:
    from dataclasses import replace

    from gifdex.encoders.frames.limits import Limits

    workspace = tmp_path / "ws"
    run(once.corpus, workspace, **small_models)
    limited = {
        **settings(small_models, moments=True),
        "encode": replace(small_models["encode"], limits=Limits(frames=2)),
    }
    for tried in (5, 0):  # the rejects last, as long as the limits are the same
        built = run(once.corpus, workspace, **limited)
        assert (built.run.tried, built.run.rejects_by_error) == (tried, {"LimitError": 4})
    assert open_index(workspace / "index").ids == ["g0", "g1"]
    assert run(once.corpus, workspace, **small_models).run.rejects == 0
    assert run(once.corpus, workspace, **settings(small_models, moments=True)).build_id == once.moments.build_id


def test_a_run_killed_between_the_two_parts_encodes_the_gifs_again(
    once: Once, tmp_path: Path, run: Runner, small_models: dict[str, Any]
) -> None:
    run(once.corpus, tmp_path / "ws", **settings(small_models, moments=True))
    pooled = [path for path in (tmp_path / "ws" / "features").glob("*/*/*.parquet") if "-frames" not in str(path)]
    for path in pooled:
        path.unlink()
    shutil.rmtree(tmp_path / "ws" / "index")
    again = run(once.corpus, tmp_path / "ws", **settings(small_models, moments=True))
    assert (again.run.tried, again.build_id) == (5, once.moments.build_id)


def frame_features(count: int, seed: int) -> FrameFeatures:
    random = np.random.default_rng(seed)
    numbers = np.arange(count, dtype=np.int32)
    return FrameFeatures(random.standard_normal((count, 3)).astype(np.float16), numbers, 40 * numbers.astype(np.int64))


def test_the_cache_gives_frames_back_in_the_order_of_keys(tmp_path: Path) -> None:
    cache = FrameCache.beside(FeatureCache(tmp_path, "f" * 16, 3, "decoder 1"))
    keys = [f"{number:02d}" + "a" * 62 for number in range(20)]
    each = {key: frame_features(1 + number % 4, number) for number, key in enumerate(keys)}
    for part, own in (("one", keys[::2]), ("two", keys[1::2]), ("three", keys[:3])):  # a key may come twice
        outcomes = [Outcome(key, len(each[key]), np.zeros(3, np.float32), each=each[key]) for key in own]
        cache.commit(cache.part("", part), [*outcomes, Outcome("b" * 64, 0, None, "LimitError", "too large")])
    assert cache.counts(keys).tolist() == [len(each[key]) for key in keys]
    found = [gif for block in cache.blocks(keys[3:15]) for gif in block]
    for gif, key in zip(found, keys[3:15], strict=True):
        np.testing.assert_array_equal(gif.features, each[key].features)
        np.testing.assert_array_equal(gif.numbers, each[key].numbers)
        np.testing.assert_array_equal(gif.milliseconds, each[key].milliseconds)
    with pytest.raises(KeyError, match=r"b{64}"):
        cache.counts(["b" * 64])
    schema = pq.read_schema(cache.part("", "one"))
    assert schema.metadata[b"dtype"] == b"float16"
    assert not (tmp_path / ("f" * 16)).exists()


def test_features_beyond_float16_are_an_error_that_names_the_option() -> None:
    with pytest.raises(EncoderError, match=r"features up to 70,000, but float16 holds .*: build without --moments"):
        halved(np.array([1.0, 70_000], np.float32), "--moments")


def test_frames_make_shards_smaller() -> None:
    assert automatic_shards(100_000, 1280, 512) == 1
    assert automatic_shards(100_000, 1280, 512, frames=800_000) == 2
