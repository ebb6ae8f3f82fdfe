"""Near duplicates: groups connected by exact scores, against brute force, and results that show one of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gifdex
from gifdex.encoders.base import FloatArray, unit
from gifdex.index.engines.base import Rows
from gifdex.index.groups import Groups
from gifdex.index.lookup import Index
from gifdex.index.pairs import connect_all
from gifdex.schemas.errors import QueryError
from tests.index.conftest import VectorMaker, VersionMaker

ITEMS, DIMENSIONS, SCORE = 900, 96, 0.97


def near_copies(vectors: FloatArray, seed: int = 0, share: float = 0.4, reach: float = 0.4) -> FloatArray:
    """Return vectors of which a share are others with noise, so that some are near duplicates and some are not."""
    random = np.random.default_rng(seed)
    count = int(share * len(vectors))
    copied, source = random.permutation(len(vectors))[:count], random.integers(0, len(vectors), count)
    noise = unit(random.standard_normal((count, vectors.shape[1])))
    result = vectors.copy()
    result[copied] = unit(vectors[source] + random.uniform(0, reach, (count, 1)) * noise)
    return result


def brute_force(vectors: FloatArray, min_score: float) -> set[frozenset[int]]:
    """Return the components of two or more vectors, by following neighbours one at a time."""
    wide = vectors.astype(np.float64)
    near = wide @ wide.T >= min_score
    left, found = set(range(len(vectors))), set()
    while left:
        component, waiting = set(), [min(left)]
        while waiting:
            row = waiting.pop()
            if row not in component:
                component.add(row)
                waiting += np.flatnonzero(near[row]).tolist()
        left -= component | {min(left)}
        if len(component) > 1:
            found.add(frozenset(component))
    return found


def numbers(groups: list[list[gifdex.Hit]]) -> set[frozenset[int]]:
    return {frozenset(int(hit.id[-5:]) for hit in group) for group in groups}


def components(groups: Groups, count: int) -> set[frozenset[int]]:
    return {frozenset(rows.tolist()) for rows in groups.members(np.ones(count, np.int64))}


@pytest.fixture(scope="module")
def planted(spectral: VectorMaker) -> FloatArray:
    drawn = near_copies(spectral(ITEMS, DIMENSIONS))
    drawn[100:180] = unit(drawn[100] + 0.1 * unit(np.random.default_rng(3).standard_normal((80, DIMENSIONS))))
    drawn[700] = drawn[50]  # equal vectors of two shards
    drawn[[20, 30]] = drawn[10]  # and of one
    return drawn


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, make_version: VersionMaker, planted: FloatArray) -> Index:
    version = tmp_path_factory.mktemp("duplicates") / ("0" * 16)
    features = (3 * planted[:, :40]).astype(np.float16)
    return gifdex.open(make_version(version, planted, (600, 300), hnsw=True, fields={"features": features}))


@pytest.mark.parametrize("min_score", [0.9, SCORE, 0.999, 1])
def test_groups_are_the_components_of_exact_scores(index: Index, planted: FloatArray, min_score: float) -> None:
    expected = brute_force(planted, min(min_score, 1 - 1e-5))
    assert len(expected) >= 2
    assert numbers(index.duplicates(min_score, exact=True)) == expected
    assert numbers(index.duplicates(min_score)) == expected  # so few items are compared with all, too


@pytest.mark.parametrize("engine", ["annoy", "scan", "hnsw"])
def test_pairs_that_an_engine_proposes_are_pairs(index: Index, planted: FloatArray, engine: str) -> None:
    expected = brute_force(planted, SCORE)
    found = numbers(index.duplicates(SCORE, engine=engine, num_candidates=10))
    assert all(any(group <= other for other in expected) for group in found)
    assert sum(map(len, found)) >= 0.95 * sum(map(len, expected))


@pytest.mark.parametrize("engine", ["annoy", "scan", "hnsw"])
def test_a_group_that_fills_the_candidates_of_its_members_is_complete(
    tmp_path: Path, make_version: VersionMaker, spectral: VectorMaker, engine: str
) -> None:
    """Two tight clusters are one group, but the nearest of each member are all in its own."""
    vectors, random = spectral(900, DIMENSIONS), np.random.default_rng(4)
    other = unit(vectors[0] + 0.15 * unit(random.standard_normal(DIMENSIONS)))
    noise = 0.01 * unit(random.standard_normal((80, DIMENSIONS)))
    vectors[:80] = unit(np.repeat([vectors[0], other], 40, axis=0) + noise)
    index = gifdex.open(make_version(tmp_path / ("0" * 16), vectors, hnsw=True))
    found = numbers(index.duplicates(SCORE, engine=engine, num_candidates=10))
    assert frozenset(range(80)) in found


def test_groups_of_features_are_those_of_their_own_vectors(index: Index, planted: FloatArray) -> None:
    features = unit((3 * planted[:, :40]).astype(np.float16))
    assert numbers(index.duplicates(SCORE, field="features")) == brute_force(features, SCORE)


def test_the_largest_group_comes_first_and_its_most_central_item_leads(index: Index, planted: FloatArray) -> None:
    found = index.duplicates(SCORE)
    assert [(-len(group), group[0].id) for group in found] == sorted((-len(group), group[0].id) for group in found)
    for group in found:
        rows = np.array([int(hit.id[-5:]) for hit in group])
        distinct = np.unique(planted[rows], axis=0).astype(np.float64)
        sums = planted[rows].astype(np.float64) @ distinct.sum(axis=0)
        assert sums[0] == pytest.approx(sums.max(), abs=1e-5)
        scores = [hit.score for hit in group]
        assert scores[0] == 1
        assert scores == sorted(scores, reverse=True)
        assert scores == pytest.approx((planted[rows] @ planted[rows[0]]).tolist(), abs=1e-5)
        assert group[0].metadata is not None
        assert group[0].uri.endswith(f"{group[0].id}.gif")


def test_exact_copies_are_a_group_at_every_score(index: Index) -> None:
    found = numbers(index.duplicates(1))
    assert any({10, 20, 30} <= group for group in found)
    assert any({50, 700} <= group for group in found)


def test_without_near_duplicates_there_is_no_group(tmp_path: Path, make_version: VersionMaker) -> None:
    vectors = np.eye(40, dtype=np.float32)
    assert gifdex.open(make_version(tmp_path / ("0" * 16), vectors)).duplicates() == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 3000),
    dimensions=st.sampled_from([3, 16, 70, 128]),
    min_score=st.floats(0.5, 0.999),
)
def test_comparing_all_with_all_misses_nothing(
    spectral: VectorMaker, seed: int, count: int, dimensions: int, min_score: float
) -> None:
    vectors = near_copies(spectral(count, dimensions, seed), seed) if count else np.empty((0, dimensions), np.float32)
    groups, done = Groups(count), []

    def at(rows: Rows) -> FloatArray:
        assert (np.diff(rows) > 0).all()
        return vectors[rows]

    connect_all(at, count, min_score, groups, tick=lambda *numbers: done.append(numbers))
    assert components(groups, count) == brute_force(vectors, min_score)
    assert not done or done[-1] == (count, count)


def test_some_rows_are_compared_with_all(spectral: VectorMaker) -> None:
    vectors = near_copies(spectral(2000, DIMENSIONS))
    wide = vectors.astype(np.float64)
    some = np.arange(0, 2000, 3)
    near = wide @ wide.T >= SCORE
    mask = np.zeros(2000, bool)
    mask[some] = True
    near &= mask[:, None] | mask[None, :]
    groups, expected = Groups(2000), Groups(2000)
    connect_all(lambda rows: vectors[rows], 2000, SCORE, groups, some)
    expected.join(*np.nonzero(near))
    np.testing.assert_array_equal(groups.labels(), expected.labels())


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60))
def test_groups_do_not_depend_on_the_order_of_pairs(pairs: list[tuple[int, int]]) -> None:
    one, other = Groups(31), Groups(31)
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    one.join(left, right)
    for first, second in reversed(pairs):
        other.join(np.array([second]), np.array([first]))
    np.testing.assert_array_equal(one.labels(), other.labels())
    assert (one.labels() <= np.arange(31)).all()


@pytest.mark.parametrize("min_score", [0, -0.5, 1.01, float("nan"), "0.9", None, True])
def test_a_score_that_means_nothing_is_refused(index: Index, min_score: float) -> None:
    with pytest.raises(QueryError, match="min_score"):
        index.duplicates(min_score)


def test_fields_and_engines_that_cannot_answer_are_refused(index: Index, version: Path) -> None:
    with pytest.raises(QueryError, match="no field 'features'"):
        gifdex.open(version).duplicates(field="features")
    with pytest.raises(QueryError, match="no engine 'faiss'"):
        index.duplicates(engine="faiss")
    with pytest.raises(QueryError, match="num_candidates"):
        index.duplicates(num_candidates=0)


def one_of_each(vectors: FloatArray, ranked: list[int], k: int, score: float) -> list[tuple[int, list[int]]]:
    """Return what a grouped search shows of ranked items, with the duplicates of each, one item at a time."""
    shown: list[tuple[int, list[int]]] = []
    for item in ranked:
        near = [own for leader, own in shown if float(vectors[leader].astype(np.float64) @ vectors[item]) >= score]
        if near:
            near[0].append(item)
        elif len(shown) == k:
            break
        else:
            shown.append((item, []))
    return shown


def pairs_of(hits: list[gifdex.Hit]) -> list[tuple[int, list[int]]]:
    return [(int(hit.id[-5:]), [int(key[-5:]) for key in hit.duplicates]) for hit in hits]


@pytest.mark.parametrize("k", [1, 10, 300, 2000])
@pytest.mark.parametrize("score", [0.6, 0.95])
def test_a_grouped_search_shows_one_of_each(index: Index, planted: FloatArray, k: int, score: float) -> None:
    for query in planted[[0, 100, 700]]:
        ranked = [int(hit.id[-5:]) for hit in index.search(query, ITEMS, exact=True)]
        expected = one_of_each(planted, ranked, k, score)
        assert pairs_of(index.search(query, k, exact=True, group=score)) == expected
        lowest = 0.4
        kept = [item for item in ranked if float(planted[item] @ query) >= lowest]
        found = index.search(query, k, exact=True, group=score, min_score=lowest)
        assert pairs_of(found) == one_of_each(planted, kept, k, score)


def test_a_grouped_search_looks_further_until_it_has_k_hits(index: Index, planted: FloatArray) -> None:
    plain, found = index.search(planted[100], 3), index.search(planted[100], 3, group=True)
    assert len({hit.id for hit in plain} - {hit.id for hit in found}) == 2
    assert all(hit.duplicates == () for hit in plain)
    assert len(found) == 3
    assert len(found[0].duplicates) >= 79
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


def test_several_queries_and_filters_are_grouped_too(index: Index, planted: FloatArray) -> None:
    found = index.search(planted[[100, 700]], 4, group=0.95)
    assert [hits[0].id for hits in found] == [index.search(query, 1)[0].id for query in planted[[100, 700]]]
    some = [f"gif-{item:05d}" for item in range(90, 110)]
    (hit, *_) = index.search(planted[100], 5, group=0.95, where={"id": some})
    assert {hit.id, *hit.duplicates} <= set(some)
    assert len(hit.duplicates) >= 9


def test_similar_items_are_grouped(index: Index, planted: FloatArray) -> None:
    ranked = [int(hit.id[-5:]) for hit in index.similar(ITEMS, id="gif-00010", exact=True)]
    assert not {10, 20, 30} & set(ranked)
    found = index.similar(6, id="gif-00010", exact=True, group=0.6)
    assert pairs_of(found) == one_of_each(planted, ranked, 6, 0.6)


@pytest.mark.parametrize("group", [0, -1, 1.5, "yes", float("nan")])
def test_a_group_that_means_nothing_is_refused(index: Index, planted: FloatArray, group: float) -> None:
    with pytest.raises(QueryError, match="group is"):
        index.search(planted[0], group=group)
    with pytest.raises(QueryError, match="group is"):
        index.similar(id="gif-00000", group=group)
