"""Fields: reposts, captions of some items, vectors of another space, and their weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import gifdex
from gifdex.encoders.base import FloatArray, unit
from gifdex.index.engines import registry
from gifdex.index.hits import Hit
from gifdex.index.lookup import Index
from gifdex.index.queries.vectors import unit_queries
from gifdex.schemas.errors import QueryError

ITEMS, DIMENSIONS = 900, 16
SHARDS = (500, 400)
ENGINES = registry.names()
SENTENCE = "a cat playing the piano"
FUSED = {"image": 1.0, "caption": 0.5}


@pytest.fixture(scope="module")
def images(clustered: Callable[..., FloatArray]) -> FloatArray:
    """Vectors of 900 items, 600 of them distinct: the last 300 are reposts from both shards."""
    vectors = clustered(ITEMS)
    vectors[600:] = vectors[np.random.default_rng(2).integers(0, 600, 300)]
    return vectors


@pytest.fixture(scope="module")
def captions(images: FloatArray) -> FloatArray:
    """Vectors near those of the images; a third of the items have none, and many share one."""
    random = np.random.default_rng(3)
    vectors = unit(images + 0.4 * random.standard_normal(images.shape))
    vectors[100:200] = vectors[:10].repeat(10, axis=0)
    vectors[::3] = np.nan
    return vectors


@pytest.fixture(scope="module")
def features() -> NDArray[np.float16]:
    """Vectors of another space and of any length; two items have none, and one has a zero vector."""
    random = np.random.default_rng(4)
    vectors = random.standard_normal((ITEMS, 9)) * random.uniform(0.1, 60, (ITEMS, 1))
    vectors[[7, 8]] = np.nan
    vectors[500] = 0
    return vectors.astype(np.float16)


@pytest.fixture(scope="module")
def index(
    tmp_path_factory: pytest.TempPathFactory,
    make_version: Callable[..., Path],
    images: FloatArray,
    captions: FloatArray,
    features: NDArray[np.float16],
) -> Index:
    folder = tmp_path_factory.mktemp("fields") / "00000000000000aa"
    fields = {"caption": captions, "features": features}
    return gifdex.open(make_version(folder, images, SHARDS, hnsw=True, fields=fields), verify=True)


def cosines(vectors: NDArray[Any], query: NDArray[Any]) -> NDArray[np.float64]:
    """Cosines with all vectors; 0 for a missing vector and a zero vector."""
    wide = np.nan_to_num(vectors.astype(np.float64))
    lengths = np.linalg.norm(wide, axis=1)
    products = np.array([float(vector @ query) for vector in wide]) / np.linalg.norm(query)
    return np.divide(products, lengths, out=np.zeros(len(wide)), where=lengths > 0)


def brute_force(
    vectors: Mapping[str, NDArray[Any]], weights: Mapping[str, float], query: NDArray[Any], k: int
) -> list[tuple[str, float]]:
    """Rank items by the weighted sum of their cosines, ties in item order; items without any vector are left out."""
    positive = {name: weight for name, weight in weights.items() if weight}
    scores = sum(weight * cosines(vectors[name], query) for name, weight in positive.items())
    known = ~np.all([np.isnan(vectors[name]).any(axis=1) for name in positive], axis=0)
    rounded = np.round(np.asarray(scores), 9)
    order = sorted(np.flatnonzero(known).tolist(), key=lambda item: (-rounded[item], item))[:k]
    return [(f"gif-{item:05d}", float(np.asarray(scores)[item])) for item in order]


def assert_equal_hits(hits: list[Hit], expected: list[tuple[str, float]]) -> None:
    assert [hit.id for hit in hits] == [key for key, _ in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], atol=5e-7)


def ids(hits: list[Hit]) -> list[str]:
    return [hit.id for hit in hits]


def test_rows_are_distinct_vectors(index: Index, captions: FloatArray) -> None:
    image, caption, features = (index.manifest.fields[name] for name in index.fields)
    assert index.fields == ("image", "caption", "features")
    assert image.rows < ITEMS
    assert sum(index.field("image").items.copies) == ITEMS
    assert caption.rows < np.count_nonzero(~np.isnan(captions).any(axis=1)) == sum(index.field("caption").items.copies)
    assert (features.dtype, features.engine, features.engines) == ("float16", None, {})
    assert (features.rows, features.dimensions, features.space.name) == (ITEMS - 2, 9, "pixels")


@pytest.mark.parametrize("k", [1, 7, 100, ITEMS, 10 * ITEMS])
def test_reposts_are_consecutive_hits_in_item_order(index: Index, images: FloatArray, k: int) -> None:
    for item in (0, 3, 599, 600, 899):
        hits = index.search(images[item], k, exact=True)
        assert_equal_hits(hits, brute_force({"image": images}, {"image": 1}, images[item], k))
        same = [f"gif-{row:05d}" for row in np.flatnonzero((images == images[item]).all(axis=1))]
        assert ids(hits)[: len(same)] == same[:k]
        assert len({hit.score for hit in hits[: len(same)]}) == 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fields", [{"image": 1}, {"caption": 1}, FUSED], ids=["image", "caption", "fused"])
def test_an_engine_that_proposes_all_rows_ranks_as_exact_search(
    index: Index, engine: str, fields: dict[str, float]
) -> None:
    for query in np.random.default_rng(5).standard_normal((5, DIMENSIONS)):
        for k in (1, 10, 200, 2 * ITEMS):
            exact = index.search(query, k, fields=fields, exact=True)
            assert index.search(query, k, fields=fields, engine=engine, num_candidates=ITEMS) == exact


@pytest.mark.parametrize("engine", ENGINES)
def test_a_proposed_row_brings_all_of_its_items(index: Index, images: FloatArray, engine: str) -> None:
    copied = np.flatnonzero(index.field("image").items.copies >= 4)[:5]
    assert len(copied)
    for row in copied:
        items = index.field("image").items.items_of(np.array([row]))
        hits = index.search(images[items[0]], 4, engine=engine, num_candidates=10)
        same = np.flatnonzero((images == images[items[0]]).all(axis=1))
        assert ids(hits) == [f"gif-{item:05d}" for item in same[:4]]


@pytest.mark.parametrize("fields", [{"image": 1}, {"image": 3.5}, {"caption": 1}, {"caption": 2}, FUSED])
def test_where_selects_single_items_of_a_row(
    index: Index, images: FloatArray, captions: FloatArray, fields: dict[str, float]
) -> None:
    wanted = np.random.default_rng(6).choice(ITEMS, 150, replace=False)
    where = {"id": [f"gif-{item:05d}" for item in wanted]}
    for query in np.random.default_rng(7).standard_normal((4, DIMENSIONS)):
        everything = brute_force({"image": images, "caption": captions}, fields, query, ITEMS)
        kept = [(key, score) for key, score in everything if key in set(where["id"])]
        for k in (1, 20, 200):
            assert_equal_hits(index.search(query, k, fields=fields, where=where), kept[:k])
            assert_equal_hits(index.search(query, k, fields=fields, where=where, exact=True), kept[:k])
    assert index.search(query, 5, fields=fields, where={"id": "unknown"}) == []


def test_an_item_without_a_caption_scores_0_there_and_is_no_hit_of_captions_alone(
    index: Index, images: FloatArray, captions: FloatArray
) -> None:
    query = np.random.default_rng(8).standard_normal(DIMENSIONS)
    hits = {hit.id: hit.score for hit in index.search(query, ITEMS, fields={"image": 1, "caption": 5}, exact=True)}
    assert len(hits) == ITEMS
    assert hits["gif-00003"] == pytest.approx(cosines(images[3:4], query)[0], abs=5e-7)
    with_captions = [f"gif-{item:05d}" for item in np.flatnonzero(~np.isnan(captions).any(axis=1))]
    for weight in (1, 2.5):
        for how in ({"exact": True}, {"engine": "scan", "num_candidates": ITEMS}):
            answers = index.search(query, ITEMS, fields={"caption": weight}, **how)
            assert sorted(ids(answers)) == with_captions
            expected = brute_force({"caption": captions}, {"caption": weight}, query, ITEMS)
            assert_equal_hits(answers, expected)


def test_fused_candidates_come_from_all_fields(index: Index, images: FloatArray, captions: FloatArray) -> None:
    # The best hit by caption is found although its image is far away.
    item = int(np.flatnonzero(~np.isnan(captions).any(axis=1))[20])
    hits = index.search(captions[item], 3, fields={"image": 0.01, "caption": 1}, num_candidates=10)
    expected = brute_force({"image": images, "caption": captions}, {"image": 0.01, "caption": 1}, captions[item], 3)
    assert_equal_hits(hits, expected)


def test_a_weight_of_0_gives_the_image_fields_ranking(index: Index) -> None:
    queries = np.random.default_rng(9).standard_normal((20, DIMENSIONS))
    for how in ({}, {"exact": True}, {"where": {"id": [f"gif-{item:05d}" for item in range(50)]}}):
        expected = index.search(queries, 12, **how)
        assert index.search(queries, 12, fields={"image": 1, "caption": 0}, **how) == expected
        assert index.search(queries, 12, fields={"caption": 0.0, "image": 1.0}, **how) == expected
        assert index.search(queries, 12, fields={"image": 1}, **how) == expected
    assert index.search(SENTENCE, fields={"image": 1, "caption": 0}) == index.search(SENTENCE)


def test_features_are_searched_with_vectors_of_their_own_space(index: Index, features: NDArray[np.float16]) -> None:
    for query in np.random.default_rng(10).standard_normal((5, 9)):
        for weight in (1, 0.25):
            hits = index.search(query, 30, fields={"features": weight})
            assert_equal_hits(hits, brute_force({"features": features}, {"features": weight}, query, 30))
    hits = index.search(features[42].astype(np.float32) * 3, fields={"features": 1})
    assert (hits[0].id, hits[0].score) == ("gif-00042", pytest.approx(1, abs=1e-6))
    everything = index.search(np.ones(9), ITEMS, fields={"features": 1})
    assert len(everything) == ITEMS - 2
    assert {hit.score for hit in everything if hit.id == "gif-00500"} == {0.0}


def test_a_batch_of_fused_queries_answers_as_single_queries(index: Index) -> None:
    queries = np.random.default_rng(11).standard_normal((12, DIMENSIONS))
    ways: list[dict[str, Any]] = [{"exact": True}, *({"engine": engine, "num_candidates": 30} for engine in ENGINES)]
    for how in ways:
        batch = index.search(queries, 9, fields=FUSED, **how)
        assert batch == [index.search(query, 9, fields=FUSED, **how) for query in queries]
    sentences = index.search([SENTENCE, "two dogs"], 5, fields=FUSED)
    assert ids(sentences[0]) == ids(index.search(SENTENCE, 5, fields=FUSED))
    assert index.search(np.zeros((0, DIMENSIONS)), fields=FUSED) == []


@pytest.mark.parametrize(
    ("query", "fields", "message"),
    [
        (SENTENCE, {"features": 1}, r"a sentence is in the space joint, but the field features is in the space pixels"),
        ([SENTENCE], {"features": 1}, r"search it with a vector of 9 dimensions"),
        (np.ones(16), {"features": 1}, r"has 9 dimensions, but the query has 16"),
        (np.ones(9), FUSED, r"has 16 dimensions, but the query has 9"),
        (np.ones(16), {"image": 1, "features": 1}, r"image and features are in different spaces, joint \(.*pixels \("),
        (np.ones(9), {"features": 1, "caption": 1}, r"features and caption are in different spaces, pixels \("),
        (np.ones(16), {"frames": 1}, r"has no field 'frames', only image, caption, features: build it with --m"),
        (np.ones(16), {"image": 1, "frames": 0}, r"has no field 'frames'"),
        (np.ones(16), {3: 1}, r"has no field 3"),
        (np.ones(16), {}, r"are all 0"),
        (np.ones(16), {"image": 0, "caption": 0.0}, r"are all 0"),
        (
            np.ones(16),
            {"image": float("nan")},
            r"the weight of the field image is nan; expected a number from 0 to 1,000,000",
        ),
        (np.ones(16), {"image": float("inf")}, r"the weight of the field image is inf"),
        (np.ones(16), {"image": 1, "caption": -0.5}, r"the weight of the field caption is -0\.5"),
        (np.ones(16), {"image": True}, r"the weight of the field image is True"),
        (np.ones(16), {"image": "1"}, r"the weight of the field image is '1'"),
        (np.ones(16), {"image": None}, r"the weight of the field image is None"),
        (np.ones(16), {"image": 1e300}, r"the weight of the field image is 1e\+300"),
        (np.ones(16), "image", r"fields is 'image'; expected names and weights"),
        (np.ones(16), ["image"], r"fields is \['image'\]; expected names and weights"),
    ],
)
def test_invalid_fields_and_weights_are_query_errors(index: Index, query: Any, fields: Any, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        index.search(query, fields=fields)


def test_asking_for_a_missing_field_says_how_to_get_it(
    tmp_path: Path, make_version: Callable[..., Path], images: FloatArray
) -> None:
    plain = gifdex.open(make_version(tmp_path / "00000000000000bb", images[:50]))
    assert plain.fields == ("image",)
    with pytest.raises(QueryError, match=r"no field 'caption', only image: give the corpus captions"):
        plain.search(SENTENCE, fields={"caption": 1})
    with pytest.raises(QueryError, match=r"no field 'features', only image: build it with --keep-features"):
        plain.search(np.ones(9), fields={"features": 1})
    with pytest.raises(QueryError, match="no field 'caption'"):
        plain.field("caption")


def test_engines_are_chosen_for_each_field(index: Index) -> None:
    assert index.engines == ("annoy", "scan", "hnsw")
    with pytest.raises(QueryError, match=r"the field image of the index .* has no engine 'faiss'"):
        index.search(np.ones(16), fields=FUSED, engine="faiss")
    for where in (None, {"id": "gif-00001"}):
        with pytest.raises(QueryError, match=r"the field features of the index .* has no engine 'annoy', only none"):
            index.search(np.ones(9), fields={"features": 1}, engine="annoy", where=where)
    assert index.search(np.ones(9), 3, fields={"features": 1}, num_candidates=5) == index.search(
        np.ones(9), 3, fields={"features": 1}, exact=True
    )


def test_scores_never_exceed_the_sum_of_the_weights(index: Index, images: FloatArray) -> None:
    for weight in (1.0, 0.3, 7.0, 1e-30, 1e6):
        for exact in (True, False):
            hits = index.search(images[:40], 1, fields={"image": weight}, exact=exact)
            assert all(answer[0].score <= weight for answer in hits)
            np.testing.assert_allclose([answer[0].score / weight for answer in hits], 1, atol=1e-6)


def test_weighted_sums_closer_than_float32_resolution_are_ranked_correctly(
    tmp_path: Path, make_version: Callable[..., Path]
) -> None:
    angles = 0.5 + np.random.default_rng(8).permutation(400) * 1e-7
    plane = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    turned = unit(plane @ np.linalg.qr(np.random.default_rng(9).standard_normal((33, 33)))[0][:2])
    index = gifdex.open(make_version(tmp_path / "00000000000000aa", turned, fields={"caption": turned[::-1]}))
    query = np.random.default_rng(10).standard_normal(33)
    exact = turned.astype(np.float64) @ unit_queries(query[None], 33)[0].astype(np.float64)
    for fields, scores in (({"image": 0.5}, 0.5 * exact), ({"image": 3, "caption": 0.25}, 3 * exact + exact[::-1] / 4)):
        hits = index.search(query, 20, fields=fields, exact=True)
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:20], rtol=0, atol=1e-12)


weights = st.sampled_from([0.0, 1e-3, 0.5, 1.0, 2.0, 40.0])


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    items=st.integers(1, 60),
    distinct=st.integers(1, 12),
    cut=st.floats(0, 1),
    missing=st.sampled_from([0.0, 0.3, 0.95]),
    weight=st.tuples(weights, weights),
    k=st.integers(1, 70),
)
def test_search_equals_brute_force_over_items(
    tmp_path_factory: pytest.TempPathFactory,
    make_version: Callable[..., Path],
    seed: int,
    items: int,
    distinct: int,
    cut: float,
    missing: float,
    weight: tuple[float, float],
    k: int,
) -> None:
    random = np.random.default_rng(seed)
    # Few vectors for many items, in one or two shards; some items have no caption.
    images = unit(random.standard_normal((distinct, 5)))[random.integers(0, distinct, items)]
    captions = unit(random.standard_normal((distinct, 5)))[random.integers(0, distinct, items)]
    captions[random.random(items) < missing] = np.nan
    first = min(items - 1, int(cut * items))
    shards = (first, items - first) if first else (items,)
    folder = tmp_path_factory.mktemp("random") / "00000000000000aa"
    index = gifdex.open(make_version(folder, images, shards, trees=1, fields={"caption": captions}))
    vectors, query = {"image": images, "caption": captions}, random.standard_normal(5)
    expected = brute_force(vectors, {"image": 1}, query, k)
    for how in ({"exact": True}, {"num_candidates": 100}):
        assert_equal_hits(index.search(query, k, **how), expected)
    fields = dict(zip(("image", "caption"), weight, strict=True))
    if np.isnan(captions).any(axis=1).all():
        assert index.fields == ("image",)
        return
    if any(weight):
        expected = brute_force(vectors, fields, query, k)
        for how in ({"exact": True}, {"num_candidates": 100}):
            assert_equal_hits(index.search(query, k, fields=fields, **how), expected)
