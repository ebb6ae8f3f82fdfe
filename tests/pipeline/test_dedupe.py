"""A build with `dedupe` indexes one of each group of near duplicates, and its catalog says which were left out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageSequence

from gifdex.encoders.feature_cache import FeatureCache
from gifdex.index.opening import open_index
from gifdex.pipeline.dedupe import canvases
from gifdex.pipeline.encode import Source
from gifdex.pipeline.nightly import nightly
from gifdex.pipeline.settings import BuildSettings, IndexSettings, NightlySettings
from gifdex.pipeline.workspace import Workspace
from gifdex.schemas.errors import ConfigError, CorruptIndexError
from tests.pipeline.conftest import GifWriter

if TYPE_CHECKING:
    from tests.pipeline.conftest import Contents, Runner

SCORE = 0.98


def scaled(source: Path, to: Path, factor: float) -> Path:
    """Save a GIF again with another canvas."""
    with Image.open(source) as animation:
        size = round(animation.width * factor), round(animation.height * factor)
        frames = [
            frame.convert("RGB").resize(size, Image.Resampling.NEAREST) for frame in ImageSequence.Iterator(animation)
        ]
    frames[0].save(to, save_all=True, append_images=frames[1:], duration=100, loop=0)
    return to


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, write_gif: GifWriter) -> Path:
    """Six different GIFs; three sizes of one of them; and two copies of another, byte for byte."""
    folder = tmp_path_factory.mktemp("dedupe") / "gifs"
    for number in range(6):
        write_gif(folder / f"g{number}.gif", seed=number)
    scaled(folder / "g1.gif", folder / "a-small.gif", 0.5)
    scaled(folder / "g1.gif", folder / "z-large.gif", 2)
    for name in ("copy.gif", "another.gif"):
        shutil.copy(folder / "g3.gif", folder / name)
    return folder


LEFT_OUT = {"a-small": "z-large", "g1": "z-large", "copy": "another", "g3": "another"}
KEPT = {"g0", "g2", "g4", "g5", "z-large", "another"}


def with_dedupe(models: dict[str, Any], score: float | None = SCORE, **changes: Any) -> dict[str, Any]:
    return {
        **models,
        "index": IndexSettings(models["index"].text_encoder, models["index"].projection, dedupe=score, **changes),
    }


def left_out(workspace: Path, build_id: str) -> dict[str, str]:
    rows = pq.ParquetFile(Workspace(workspace).catalog(build_id)).read().to_pylist()
    return {row["id"]: row["duplicate_of"] for row in rows if row["duplicate_of"] is not None}


def test_the_largest_of_each_group_is_indexed(
    corpus: Path, tmp_path: Path, run: Runner, small_models: dict[str, Any]
) -> None:
    summary = run(corpus, tmp_path, **with_dedupe(small_models))
    index = open_index(summary.store)
    assert set(index.ids) == KEPT
    assert left_out(tmp_path, summary.build_id) == LEFT_OUT
    assert (summary.run.items, summary.run.duplicates, index.manifest.duplicates) == (6, 4, 4)
    assert "dedupe" in summary.run.seconds
    again = run(corpus, tmp_path, **with_dedupe(small_models))
    assert (again.build_id, again.index_reused, again.run.encoded, again.run.unchanged) == (
        summary.build_id,
        True,
        0,
        10,
    )
    everything = run(corpus, tmp_path, **small_models)
    assert (everything.run.items, everything.run.duplicates, everything.run.encoded) == (10, 0, 0)
    assert everything.build_id != summary.build_id
    assert left_out(tmp_path, everything.build_id) == {}
    # The index itself finds the same groups.
    found = {frozenset(hit.id for hit in group) for group in open_index(everything.store).duplicates(SCORE)}
    assert found == {frozenset({"a-small", "g1", "z-large"}), frozenset({"another", "copy", "g3"})}


def test_other_shards_and_caches_leave_out_the_same(
    corpus: Path, tmp_path: Path, run: Runner, small_models: dict[str, Any], contents: Contents
) -> None:
    one = run(corpus, tmp_path / "one", **with_dedupe(small_models, shards=2))
    catalog = tmp_path / "catalog.csv"
    names = sorted(path.stem for path in corpus.glob("*.gif"))
    catalog.write_text("id,uri\n" + "".join(f"{name},{corpus / name}.gif\n" for name in reversed(names)))
    run(catalog, tmp_path / "two", **small_models)
    two = run(catalog, tmp_path / "two", **with_dedupe(small_models, shards=2))
    assert one.build_id == two.build_id
    version = Path("index", one.build_id)
    assert contents(tmp_path / "one" / version) == contents(tmp_path / "two" / version)
    assert left_out(tmp_path / "two", two.build_id) == LEFT_OUT


def test_items_left_out_are_not_missing_for_the_gate(
    corpus: Path, tmp_path: Path, small_models: dict[str, Any]
) -> None:
    own = tmp_path / "gifs"
    shutil.copytree(corpus, own)

    def night(force: bool = False, **settings: Any) -> Any:
        return nightly(NightlySettings(BuildSettings(str(own), tmp_path / "ws", **settings), force=force))

    assert night(**small_models).outcome == "published"
    many = night(**with_dedupe(small_models))  # 6 of 10 items, and 4 left out
    assert many.refused["max_shrink"].startswith("40.0% of its items are left out as near duplicates, and 0.0% of")
    assert night(force=True, **with_dedupe(small_models)).outcome == "published"
    assert night(**with_dedupe(small_models)).refused == {}  # as many as before
    assert night(**small_models).outcome == "published"
    for name in ("g0", "g2", "g4"):
        (own / f"{name}.gif").unlink()
    refused = night(**with_dedupe(small_models))
    assert refused.outcome == "refused"
    assert "it has 7 items and the published version" in refused.refused["max_shrink"]
    assert "has 10: 30.0% fewer" in refused.refused["max_shrink"]


def without_sizes(cache_folder: Path) -> None:
    """Rewrite all parts as older versions of gifdex wrote them."""
    for part in cache_folder.rglob("*.parquet"):
        table = pq.ParquetFile(part).read()
        pq.write_table(table.drop_columns(["width", "height"]), part)


def test_features_of_older_versions_need_no_encoding(
    corpus: Path, tmp_path: Path, run: Runner, small_models: dict[str, Any]
) -> None:
    first = run(corpus, tmp_path, **small_models)
    widths = pa.concat_tables(pq.ParquetFile(part).read() for part in (tmp_path / "features").rglob("*.parquet"))
    assert sorted(zip(widths["width"].to_pylist(), widths["height"].to_pylist(), strict=True)) == sorted(
        [(48, 32)] * 6 + [(24, 16), (96, 64)]
    )
    without_sizes(tmp_path / "features")
    summary = run(corpus, tmp_path, **with_dedupe(small_models))
    assert (summary.run.encoded, summary.run.duplicates, first.run.encoded) == (0, 4, 8)
    assert left_out(tmp_path, summary.build_id) == LEFT_OUT


def test_a_canvas_that_cannot_be_read_again_is_unknown(
    corpus: Path, tmp_path: Path, small_models: dict[str, Any]
) -> None:
    cache = FeatureCache(tmp_path, "f" * 16, 48, "none")
    sources = [Source("0" * 64, str(corpus / "g0.gif")), Source("1" * 64, str(corpus / "gone.gif"))]
    assert canvases(sources, small_models["encode"], cache) == {}  # the first has other bytes now


@pytest.mark.parametrize("score", [0, -1, 1.5, float("nan")])
def test_a_score_that_means_nothing_is_refused(score: float) -> None:
    with pytest.raises(ConfigError, match="dedupe"):
        IndexSettings(dedupe=score)


def test_a_negative_count_in_a_manifest_is_refused(
    corpus: Path, tmp_path: Path, run: Runner, small_models: dict[str, Any]
) -> None:
    summary = run(corpus, tmp_path, **small_models)
    path = Path(summary.store, summary.build_id, "manifest.json")
    path.write_text(path.read_text().replace('"duplicates": 0', '"duplicates": -1'))
    with pytest.raises(CorruptIndexError, match="-1 duplicates"):
        open_index(summary.store)
