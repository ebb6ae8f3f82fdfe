"""The field of frames: an item has the score of its best frame, and every hit says when that is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import gifdex
from gifdex.encoders.base import FloatArray, unit
from gifdex.index import moments, row_items
from gifdex.index.engines import registry
from gifdex.index.hits import Hit
from gifdex.index.lookup import Index
from gifdex.index.moments import Times, distinct_frames
from gifdex.index.row_items import RowItems
from gifdex.schemas.errors import CorruptIndexError, QueryError

ITEMS, FRAMES, DIMENSIONS = 700, 6, 16
SHARDS = (400, 300)
ENGINES = registry.names()
BLACK = 3  # the items whose second frame, if any, is the same black one


@pytest.fixture(scope="module")
def images(clustered: Callable[..., FloatArray]) -> FloatArray:
    vectors = clustered(ITEMS)
    vectors[600:] = vectors[np.random.default_rng(2).integers(0, 600, 100)]  # reposts
    return vectors


@pytest.fixture(scope="module")
def frames(images: FloatArray) -> NDArray[np.float32]:
    """Frames near each GIF's own vector: one to six of them, some shown twice, one shared by many GIFs, reposts."""
    random = np.random.default_rng(4)
    spread = random.uniform(0.01, 0.8, (ITEMS, 1, 1))  # from still pictures to films
    found = unit(images[:, None] + spread * random.standard_normal((ITEMS, FRAMES, DIMENSIONS)))
    found[::5, 3] = found[::5, 0]  # A B C A
    found[::BLACK, 1] = unit(np.ones(DIMENSIONS))
    for item in range(ITEMS):
        found[item, 1 + item % FRAMES :] = np.nan
    for item in range(600, ITEMS):
        (original,) = np.flatnonzero((images[:600] == images[item]).all(axis=1))[:1]
        found[item] = found[original]
    return found


@pytest.fixture(scope="module")
def index(
    tmp_path_factory: pytest.TempPathFactory,
    make_version: Callable[..., Path],
    images: FloatArray,
    frames: NDArray[np.float32],
) -> Index:
    folder = tmp_path_factory.mktemp("moments") / "00000000000000aa"
    return gifdex.open(make_version(folder, images, SHARDS, hnsw=True, fields={"frames": frames}), verify=True)


def cosines(vectors: NDArray[Any], query: FloatArray) -> NDArray[np.float64]:
    """Cosines with vectors (..., d), NaN for a missing one; rounded, so that equal vectors tie."""
    wide = vectors.astype(np.float64)
    return np.round(wide @ (query / np.linalg.norm(query)) / np.linalg.norm(wide, axis=-1), 9)


def brute_force(
    images: FloatArray, frames: NDArray[Any], weights: Mapping[str, float], query: FloatArray, k: int
) -> list[tuple[str, float]]:
    """Rank all items by the weighted sum of their cosine and that of their best frame; ties in item order."""
    query = query.astype(np.float64)
    best = np.nanmax(cosines(frames, query), axis=1)
    scores = weights.get("image", 0) * cosines(images, query) + weights.get("frames", 0) * best
    order = np.lexsort((np.arange(ITEMS), -scores))[:k]
    return [(f"gif-{item:05d}", float(scores[item])) for item in order.tolist()]


def queries(count: int, frames: NDArray[Any], seed: int = 5) -> FloatArray:
    """Vectors near single frames."""
    random = np.random.default_rng(seed)
    drawn = frames[random.integers(0, ITEMS, count), 0]
    return unit(drawn + 0.1 * random.standard_normal(drawn.shape))


def assert_equal_hits(hits: list[Hit], expected: list[tuple[str, float]]) -> None:
    assert [hit.id for hit in hits] == [key for key, _ in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], atol=5e-7)


def test_rows_are_distinct_frames_and_a_row_may_be_of_several_items(index: Index, frames: NDArray[Any]) -> None:
    for shard, first in zip(index.manifest.fields["frames"].shards, (0, 400), strict=True):
        own = frames[first : first + shard.items].reshape(-1, DIMENSIONS)
        own = own[~np.isnan(own).any(axis=1)]
        assert shard.rows == len(np.unique(own, axis=0)) < len(own)
    mapping = index.field("frames").items
    assert mapping.many_to_many
    assert mapping.covers_all
    assert mapping.max_rows == FRAMES
    assert mapping.copies.max() > 20  # the black frame
    assert not index.field("image").items.many_to_many


@pytest.mark.parametrize("weights", [{"frames": 1.0}, {"image": 1.0, "frames": 0.5}, {"image": 0.25, "frames": 2}])
@pytest.mark.parametrize("k", [1, 3, 10, 100, ITEMS, 5000])
def test_exact_search_finds_the_items_with_the_best_frames(
    index: Index, images: FloatArray, frames: NDArray[Any], weights: dict[str, float], k: int
) -> None:
    asked = queries(5, frames)
    together = index.search(asked, k, fields=weights, exact=True)
    for query, hits in zip(asked, together, strict=True):
        assert_equal_hits(hits, brute_force(images, frames, weights, query, k))
        assert index.search(query, k, fields=weights, exact=True) == hits


def test_frames_that_tie_are_in_item_order(index: Index, images: FloatArray, frames: NDArray[Any]) -> None:
    black = unit(np.ones(DIMENSIONS))
    for k in (1, 5, 30, 200):
        hits = index.search(black, k, fields={"frames": 1}, exact=True)
        assert_equal_hits(hits, brute_force(images, frames, {"frames": 1}, black, k))
    assert sum(hit.score > 0.999999 for hit in hits) > 100


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_propose_enough_rows_for_k_items(index: Index, frames: NDArray[Any], engine: str) -> None:
    asked = queries(40, frames)
    found = index.search(asked, 10, fields={"frames": 1}, engine=engine)
    exact = index.search(asked, 10, fields={"frames": 1}, exact=True)
    assert all(len({hit.id for hit in hits}) == 10 for hits in found)
    assert shared(found, exact) > 0.97
    fused = index.search(asked[0], 10, fields={"image": 1, "frames": 1}, engine=engine)
    assert len({hit.id for hit in fused}) == 10


def shared(found: list[list[Hit]], exact: list[list[Hit]]) -> float:
    """Return the mean share of the exact hits that were found."""
    same = [{hit.id for hit in one} & {hit.id for hit in other} for one, other in zip(found, exact, strict=True)]
    return sum(map(len, same)) / sum(map(len, exact))


def test_several_fields_get_enough_candidates_among_frames(index: Index, frames: NDArray[Any]) -> None:
    asked, weights = queries(40, frames), {"frames": 1, "image": 0.001}
    found = index.search(asked, 10, fields=weights, engine="scan", num_candidates=1)
    assert shared(found, index.search(asked, 10, fields=weights, exact=True)) > 0.99


def test_a_filter_searches_only_the_frames_of_its_items(index: Index, images: FloatArray, frames: NDArray[Any]) -> None:
    query = queries(1, frames)[0]
    every = brute_force(images, frames, {"frames": 1}, query, ITEMS)
    allowed = {f"gif-{row:05d}" for row in range(0, ITEMS, 90)}
    hits = index.search(query, 5, fields={"frames": 1}, where={"id": sorted(allowed)})
    assert_equal_hits(hits, [pair for pair in every if pair[0] in allowed][:5])
    both = index.search(query, 5, fields={"frames": 1, "image": 1}, where={"id": sorted(allowed)})
    assert {hit.id for hit in both} <= allowed
    assert all(hit.moments for hit in both)


def test_a_hit_has_its_best_moments_first(index: Index, frames: NDArray[Any]) -> None:
    for query in queries(5, frames):
        for hit in index.search(query, 10, fields={"image": 1, "frames": 1}, exact=True):
            own = cosines(frames[int(hit.id[4:])], query.astype(np.float64))
            known = np.flatnonzero(~np.isnan(own)).tolist()
            firsts = {own[frame]: frame for frame in reversed(known)}  # an equal frame counts at its first time
            best = sorted(firsts.items(), reverse=True)[:3]
            assert [(moment.frame, moment.milliseconds) for moment in hit.moments] == [
                (frame, 100 * frame) for _, frame in best
            ]
            np.testing.assert_allclose(
                [moment.score for moment in hit.moments], [score for score, _ in best], atol=1e-6
            )


def test_moments_are_given_only_where_frames_are_searched(index: Index, frames: NDArray[Any]) -> None:
    query = queries(1, frames)[0]
    assert all(hit.moments == () for hit in index.search(query))
    assert all(hit.moments == () for hit in index.search(query, fields={"image": 1, "frames": 0}))
    hits = index.search(query, fields={"frames": 2})
    assert all(hit.score == pytest.approx(2 * hit.moments[0].score) for hit in hits)
    assert index.search(query, fields={"frames": 1}, min_score=2) == []


def test_items_as_examples_have_moments_too(index: Index) -> None:
    hits = index.similar(3, id="gif-00005", fields={"image": 1, "frames": 0.5})
    assert len(hits) == 3
    assert all(1 <= len(hit.moments) <= 3 for hit in hits)
    assert "gif-00005" not in [hit.id for hit in hits]
    assert all(hit.moments == () for hit in index.similar(3, id="gif-00005"))


def test_ranks_agree_with_exact_search(index: Index, frames: NDArray[Any]) -> None:
    asked = queries(6, frames)
    for weights in ({"frames": 1.0}, {"image": 1.0, "frames": 0.5}):
        fused = index.fusion(weights)
        items = np.array([3, 200, 301, 450, 610, 699])
        expected = []
        for query, item in zip(asked, items.tolist(), strict=True):
            hits = index.search(query, ITEMS, fields=weights, exact=True)
            own = next(hit.score for hit in hits if hit.id == f"gif-{item:05d}")
            expected.append(1 + sum(hit.score > own for hit in hits))
        assert fused.ranks(asked, items).tolist() == expected


def test_the_documented_files_give_each_items_frames(index: Index, frames: NDArray[Any]) -> None:
    found: dict[int, list[tuple[int, int, bytes]]] = {}
    for number, shard in enumerate(index.manifest.fields["frames"].shards):
        rows, times = (
            pa.ipc.open_file(str(index.path / f"frames-{number:05d}.{name}.arrow")).read_all().to_pydict()
            for name in ("rows", "moments")
        )
        vectors = np.load(index.path / shard.vectors)
        shown = iter(zip(times["milliseconds"], times["frame"], strict=True))
        for vector, items in zip(vectors, rows["items"], strict=True):
            for item in items:
                found.setdefault(shard.first_item + item, []).append((*next(shown), vector.tobytes()))
        assert next(shown, None) is None
    for item, own in enumerate(frames):
        expected: dict[bytes, tuple[int, int, bytes]] = {}
        for frame in np.flatnonzero(~np.isnan(own).any(axis=1)).tolist():
            expected.setdefault(own[frame].tobytes(), (100 * frame, frame, own[frame].tobytes()))
        assert sorted(found[item]) == sorted(expected.values())


def test_the_frames_are_read_only_when_they_are_searched(index: Index, tmp_path: Path, frames: NDArray[Any]) -> None:
    folder = shutil.copytree(index.path, tmp_path / index.path.name)
    opened = gifdex.open(folder)
    field = opened.field("frames")
    opened.search(queries(1, frames)[0])
    assert "items" not in vars(field)
    opened.prepare()
    query = queries(1, frames)[0]
    expected = index.search(query, fields={"frames": 1}, exact=True)
    shutil.rmtree(folder)  # what is mapped stays
    assert opened.search(query, fields={"frames": 1}, exact=True) == expected


def test_an_index_without_frames_says_how_to_get_them(
    make_version: Callable[..., Path], images: FloatArray, tmp_path: Path
) -> None:
    index = gifdex.open(make_version(tmp_path / "00000000000000aa", images))
    with pytest.raises(QueryError, match=r"has no field 'frames', only image: build it with --moments"):
        index.search(images[0], fields={"frames": 1})


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    gifs=st.lists(st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), min_size=1, max_size=5), min_size=1, max_size=5),
    data=st.data(),
)
def test_frames_are_grouped_and_folded(gifs: list[list[bytes]], data: st.DataObject) -> None:
    items = data.draw(st.lists(st.sampled_from(range(len(gifs))), min_size=1, max_size=8))
    keys = [key for gif in gifs for key in gif]
    starts = np.cumsum([0, *map(len, gifs)]).tolist()
    frames = np.concatenate([np.arange(len(gif)) for gif in gifs])
    firsts, groups, times = distinct_frames(keys, Times(10 * frames, frames.astype(np.int32)), starts, items)
    assert len({keys[first] for first in firsts}) == len(firsts)
    pairs = iter(zip(times.milliseconds.tolist(), times.frames.tolist(), strict=True))
    for first, group in zip(firsts.tolist(), groups, strict=True):
        key = keys[first]
        assert group.tolist() == [item for item, gif in enumerate(items) if key in gifs[gif]]
        for item in group.tolist():
            shown = gifs[items[item]].index(key)
            assert next(pairs) == (10 * shown, shown)
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)

    ends = np.cumsum([0, *map(len, groups)])
    mapping = RowItems(len(groups), len(items), ends, np.concatenate(groups), many_to_many=True)
    scores = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(groups), max_size=len(groups))))
    best = [max(scores[row] for row, group in enumerate(groups) if item in group) for item in range(len(items))]
    np.testing.assert_array_equal(mapping.best_of_rows(scores), best)
    ranked = sorted(range(len(items)), key=lambda item: (-best[item], item))
    for k in (1, 2, len(items)):
        order = np.lexsort((np.arange(len(groups)), -scores))[: mapping.rows_for(k)]
        found, their = mapping.expand(order, scores[order], k)
        assert found.tolist() == ranked[:k]
        assert their.tolist() == [best[item] for item in ranked[:k]]
    wanted = np.array(data.draw(st.lists(st.sampled_from(range(len(items))), max_size=5)), np.int64)
    entries, rows, counts = mapping.entries_of(wanted)
    assert mapping.items is not None
    np.testing.assert_array_equal(mapping.items[entries], np.repeat(wanted, counts))
    np.testing.assert_array_equal(np.searchsorted(ends, entries, side="right") - 1, rows)


def damaged(index: Index, tmp_path: Path, change: Callable[[Path, dict[str, Any]], None]) -> Path:
    """Return a copy of the version, changed, whose manifest has the files' new sizes."""
    folder = shutil.copytree(index.path, tmp_path / index.path.name)
    manifest = json.loads((folder / "manifest.json").read_text())
    change(folder, manifest["fields"]["frames"])
    for name, record in manifest["files"].items():
        record["bytes"] = (folder / name).stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Path(folder)


def rewrite_times(folder: Path, _: Any) -> None:
    moments.write(folder / "frames-00001.moments.arrow", Times(np.zeros(3, np.int64), np.zeros(3, np.int32)))


def negative_times(folder: Path, _: Any) -> None:
    path = folder / "frames-00001.moments.arrow"
    count = pa.ipc.open_file(str(path)).read_all().num_rows
    moments.write(path, Times(np.full(count, -1), np.zeros(count, np.int32)))


def other_columns(folder: Path, _: Any) -> None:
    (folder / "frames-00000.moments.arrow").write_bytes((folder / "frames-00000.rows.arrow").read_bytes())


def falling_items(folder: Path, field: Any) -> None:
    rows = field["shards"][1]["rows"]
    row_items.write(folder / "frames-00001.rows.arrow", [np.array([1, 1])] + [np.array([2])] * (rows - 1))


def times_of_one_shard(_: Path, field: Any) -> None:
    field["shards"][0]["moments"] = None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rewrite_times, r"there are .* times for .* pairs of frames and items: restore the index or rebuild"),
        (negative_times, r"cannot read .*frames-00001.moments.arrow: it has times or frames below 0"),
        (other_columns, r"cannot read .*frames-00000.moments.arrow: its columns are \['items'\]"),
        (falling_items, r"cannot read .*frames-00001.rows.arrow: it has a row whose items do not rise"),
        (times_of_one_shard, r"the field 'frames' has times in some shards only; expected them in all or in none"),
    ],
)
def test_damaged_times_are_an_error(
    index: Index, tmp_path: Path, frames: NDArray[Any], change: Callable[[Path, Any], None], message: str
) -> None:
    folder = damaged(index, tmp_path, change)
    with pytest.raises(CorruptIndexError, match=message):
        gifdex.open(folder).search(queries(1, frames)[0], fields={"frames": 1})


def test_only_the_field_of_frames_may_have_times(index: Index, tmp_path: Path) -> None:
    folder = shutil.copytree(index.path, tmp_path / index.path.name)
    manifest = json.loads((folder / "manifest.json").read_text())
    for shard in manifest["fields"]["image"]["shards"]:
        shard["moments"] = "frames-00000.moments.arrow"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptIndexError, match=r"has times in the field 'image'"):
        gifdex.open(folder)
