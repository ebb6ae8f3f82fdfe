from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gifdex.encoders.base import FloatArray, unit
from gifdex.index import search
from gifdex.index.artifact import read_manifest
from gifdex.index.build import write_rows
from gifdex.index.engines import registry
from gifdex.index.engines.base import Rows
from gifdex.index.fields import Field
from gifdex.index.queries.fuse import Fusion
from gifdex.index.row_items import RowItems
from gifdex.index.search import Searcher, best, candidates_for, contenders, open_shards, recall
from gifdex.index.vectors import StoredVectors
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.manifest import FieldRecord, ShardRecord, SpaceRecord

DIMENSIONS = 16
NAME = "image-00000.vectors.npy"
ENGINES = registry.names()


def record(version: Path) -> FieldRecord:
    return read_manifest(version).fields["image"]


def one_shard(rows: int, dimensions: int, dtype: str = "float32") -> FieldRecord:
    """A field of one shard without engines."""
    shards = (ShardRecord(0, rows, rows, NAME, None, {}),)
    return FieldRecord(SpaceRecord("joint", "0"), dimensions, dtype, rows, shards, None, None, {})


@pytest.fixture(scope="module")
def searcher(version: Path) -> Searcher:
    return Searcher(open_shards(version, record(version)), record(version).engines, None)


def searcher_of(folder: Path, vectors: FloatArray) -> Searcher:
    """Write vectors as one shard and open it for exact search."""
    folder.mkdir(exist_ok=True)
    write_rows(folder, "image", 0, vectors, [np.array([row]) for row in range(len(vectors))], len(vectors))
    return Searcher(open_shards(folder, one_shard(*vectors.shape)), {}, None)


def ranks(searcher: Searcher, queries: FloatArray, rows: Rows) -> list[int]:
    """Rank rows as a field with one row for each item ranks its items."""
    rows_are_items = RowItems(searcher.rows, searcher.rows, None, None)
    dimensions = searcher.shards[0].vectors.dimensions
    field = Field(Path(), "image", one_shard(searcher.rows, dimensions), searcher, lambda: rows_are_items)
    found: list[int] = Fusion(((field, 1.0),)).ranks(queries, rows).tolist()
    return found


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    scores=st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=40),
    k=st.integers(1, 50),
)
def test_best_equals_the_start_of_a_stable_sort(scores: list[float], k: int) -> None:
    rows, kept = best(np.arange(len(scores)) + 100, np.array(scores), k)
    expected = sorted(range(len(scores)), key=lambda row: -scores[row])[:k]
    assert rows.tolist() == [row + 100 for row in expected]
    assert kept.tolist() == [scores[row] for row in expected]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60), k=st.integers(1, 70))
def test_contenders_contain_the_best_despite_rounding_errors(seed: int, n: int, k: int) -> None:
    random = np.random.default_rng(seed)
    exact = np.round(random.uniform(-1, 1, n), 1)  # many ties
    rounded = (exact + random.uniform(-2e-6, 2e-6, n)).astype(np.float32)
    kept = contenders(rounded, k)
    highest = best(np.arange(n), exact, k)[0]
    assert set(highest.tolist()) <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()
    assert len(kept) == n or exact[kept].min() == exact[highest[-1]]


def test_scores_belong_to_the_requested_rows_across_shards(searcher: Searcher, vectors: FloatArray) -> None:
    query = unit(np.random.default_rng(0).standard_normal((1, DIMENSIONS)))
    for rows in ([0], [299, 300], [549, 550, 699], [], list(range(700))):
        found, scores = searcher.scan_rows(query, np.array(rows, np.int64), 700)[0]
        assert sorted(found.tolist()) == rows
        np.testing.assert_allclose(scores, vectors[found].astype(np.float64) @ query[0], atol=1e-12)
        assert (np.diff(scores) <= 0).all()


def test_scores_do_not_depend_on_the_batch_or_the_method(searcher: Searcher) -> None:
    queries = unit(np.random.default_rng(1).standard_normal((9, DIMENSIONS)))
    ways = [
        searcher.scan(queries, 700),
        searcher.scan_rows(queries, np.arange(700), 700),
        *(searcher.search(queries, 700, engine, 700) for engine in ENGINES),
    ]
    for number in range(9):
        single = searcher.scan(queries[number : number + 1], 700)[0]
        for rows, scores in (way[number] for way in ways):
            assert rows.tolist() == single[0].tolist()
            assert scores.tobytes() == single[1].tobytes()


@pytest.mark.parametrize("engine", ENGINES)
def test_proposed_rows_get_the_scores_of_a_scan(searcher: Searcher, engine: str) -> None:
    queries = unit(np.random.default_rng(1).standard_normal((9, DIMENSIONS)))
    assert 2 * 3 * candidates_for(20, 10) < 700  # otherwise everything would be scanned
    for query, (rows, scores) in zip(queries, searcher.search(queries, 10, engine, 20), strict=True):
        assert len(rows) == len(set(rows.tolist())) == 10
        exact = dict(zip(*(part.tolist() for part in searcher.scan(query[None], 700)[0]), strict=True))
        assert [exact[row] for row in rows.tolist()] == scores.tolist()


def test_everything_is_scanned_when_the_candidates_are_half_of_the_rows(version: Path, searcher: Searcher) -> None:
    # These shards have no engine files, so they can only be scanned.
    whole = record(version)
    shards = tuple(replace(shard, engines={"annoy": "absent.ann"}) for shard in whole.shards)
    opened = Searcher(open_shards(version, replace(whole, shards=shards)), searcher.engines, None)
    query = unit(np.random.default_rng(4).standard_normal((1, DIMENSIONS)))
    (found, scores), (rows, exact) = opened.search_among(query, 10, "annoy", 117)[0], searcher.scan(query, 10)[0]
    assert (found.tolist(), scores.tolist()) == (rows.tolist(), exact.tolist())
    with pytest.raises(CorruptIndexError, match=r"absent\.ann"):
        opened.search_among(query, 10, "annoy", 116)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_requested_by_four_threads_at_once_is_opened_once(
    version: Path, searcher: Searcher, engine: str
) -> None:
    opened = [shard for _ in range(100) for shard in open_shards(version, record(version))]
    ready = threading.Barrier(4, timeout=60)

    def engines(_: int) -> list[object]:
        found: list[object] = []
        for shard in opened:
            ready.wait()
            found.append(shard.engine(engine, searcher.engines[engine]))
        return found

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            opened_by_thread = list(pool.map(engines, range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert all(len({id(found) for found in same}) == 1 for same in zip(*opened_by_thread, strict=True))


def test_candidates_grow_with_k_and_are_never_fewer_than_k() -> None:
    assert [candidates_for(40, k) for k in (1, 10, 40, 1000)] == [40, 40, 80, 1500]
    assert [candidates_for(1, k) for k in (1, 3, 10)] == [1, 4, 15]


def test_scan_answers_a_batch_that_needs_several_blocks(tmp_path: Path, clustered: Callable[..., FloatArray]) -> None:
    vectors = clustered(20_000, dimensions=4)
    opened = searcher_of(tmp_path, vectors)
    queries = clustered(1000, dimensions=4, seed=1)
    assert len(queries) * len(vectors) > search._SCAN_SCORES
    for found in (opened.scan(queries, 1), opened.scan_rows(queries, np.arange(20_000), 1)):
        assert len(found) == 1000
        for number in (0, 499, 837, 838, 839, 999):
            scores = vectors.astype(np.float64) @ queries[number].astype(np.float64)
            assert found[number][1][0] == pytest.approx(scores.max(), abs=1e-12)


def test_vectors_at_crosses_shards(searcher: Searcher, vectors: FloatArray) -> None:
    rows = np.array([0, 299, 300, 549, 550, 699])
    np.testing.assert_array_equal(searcher.vectors_at(rows), vectors[rows])


def test_shards_are_consecutive_and_read_only(searcher: Searcher) -> None:
    assert [(shard.first, len(shard.vectors)) for shard in searcher.shards] == [(0, 300), (300, 250), (550, 150)]
    stored = [shard.vectors.at(slice(None)) for shard in searcher.shards]
    assert all(type(vectors) is np.ndarray and not vectors.flags.writeable for vectors in stored)


def test_rank_counts_the_items_that_score_higher(searcher: Searcher, vectors: FloatArray) -> None:
    queries = unit(np.random.default_rng(2).standard_normal((25, DIMENSIONS)))
    rows = np.random.default_rng(3).integers(0, 700, 25)
    scores = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    expected = 1 + (scores > scores[np.arange(25), rows][:, None]).sum(axis=1)
    assert ranks(searcher, queries, rows) == expected.tolist()


def test_equal_vectors_share_the_best_rank(tmp_path: Path) -> None:
    # With 33 dimensions and an odd count, a matrix product gives equal rows unequal scores.
    opened = searcher_of(tmp_path, np.repeat(unit(np.random.default_rng(4).standard_normal((3, 33))), 7, axis=0))
    for query in unit(np.random.default_rng(5).standard_normal((20, 33))):
        found = ranks(opened, np.tile(query, (21, 1)), np.arange(21))
        assert sorted(found) == [1] * 7 + [8] * 7 + [15] * 7


def test_ranks_separate_scores_closer_than_float32_resolution(tmp_path: Path) -> None:
    angles = 0.5 + np.random.default_rng(8).permutation(30) * 1e-6
    stored = unit(np.stack([np.cos(angles), np.sin(angles), np.zeros(30)], axis=1))
    query = unit(np.array([1.0, 0.0, 0.0]))
    scores = stored.astype(np.float64) @ query
    expected = [1 + np.count_nonzero(scores > score) for score in scores]
    assert ranks(searcher_of(tmp_path, stored), np.tile(query, (30, 1)), np.arange(30)) == expected
    assert max(expected) > 10


def test_recall_counts_hits_that_score_at_least_the_last_exact_hit() -> None:
    exact = [(np.array([4, 2]), np.array([0.9, 0.5])), (np.array([1, 0]), np.array([0.3, 0.1]))]
    assert recall(exact, exact) == 1.0
    ties = [(np.array([4, 7]), np.array([0.9, 0.5])), (np.array([1, 9]), np.array([0.3, 0.05]))]
    assert recall(exact, ties) == pytest.approx(0.75)
    assert recall(exact, [(np.array([4, 7, 8]), np.array([0.9, 0.5, 0.5])), exact[1]]) == 1.0
    assert recall([(np.empty(0, np.int64), np.empty(0))], [(np.empty(0, np.int64), np.empty(0))]) == 1.0


@pytest.mark.parametrize(
    ("rows", "dimensions"), [(299, DIMENSIONS), (301, DIMENSIONS), (300, 8), (150, 2 * DIMENSIONS)]
)
def test_a_shard_of_another_shape_is_refused(version: Path, rows: int, dimensions: int) -> None:
    with pytest.raises(CorruptIndexError, match=rf"float32 of shape \({rows}, {dimensions}\)"):
        open_shards(version, one_shard(rows, dimensions))


@pytest.mark.parametrize(
    "stored",
    [
        np.ones((5, 3), np.float64),
        np.ones((5, 3), ">f4"),
        np.ones((5, 3), np.int32),
        np.ones((5, 3), np.dtype([("a", "<f4")])),
        np.float32(1),
    ],
)
def test_vectors_of_another_type_are_refused(tmp_path: Path, stored: FloatArray) -> None:
    np.save(tmp_path / NAME, stored)
    with pytest.raises(CorruptIndexError, match="the manifest says float32"):
        open_shards(tmp_path, one_shard(5, 3))


def test_float16_is_refused_for_float32_and_vice_versa(tmp_path: Path) -> None:
    for dtype, other in (("float16", "float32"), ("float32", "float16")):
        np.save(tmp_path / NAME, np.ones((5, 3), dtype))
        with pytest.raises(CorruptIndexError, match=f"holds {dtype} of shape .* the manifest says {other}"):
            open_shards(tmp_path, one_shard(5, 3, other))


def test_float16_vectors_of_any_length_are_scored_by_cosine() -> None:
    random = np.random.default_rng(7)
    stored = (random.standard_normal((5000, 9)) * random.uniform(0.01, 900, (5000, 1))).astype(np.float16)
    stored[4321] = 0
    query = unit(random.standard_normal((1, 9)))
    wide = stored.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    expected = np.divide(wide @ query[0].astype(np.float64), lengths, out=np.zeros(5000), where=lengths > 0)
    vectors = StoredVectors(stored)
    np.testing.assert_allclose(vectors.products(query)[0], expected, atol=2e-6)
    rows = random.permutation(5000)[:4800]
    np.testing.assert_allclose(vectors.products(query, np.sort(rows))[0], expected[np.sort(rows)], atol=2e-6)
    np.testing.assert_allclose(vectors.cosines(query[0], rows), expected[rows], atol=2e-7)
    found, scores = vectors.rescore(query[0], rows, 20)
    assert found.tolist() == sorted(rows.tolist(), key=lambda row: -expected[row])[:20]
    np.testing.assert_allclose(scores, expected[found], atol=2e-7)
    np.testing.assert_allclose(np.linalg.norm(vectors.at(slice(0, 4000)), axis=1), 1, atol=1e-6)
    for odd in ([0, 5000], [-1, 3], [3, 3]):
        with pytest.raises(CorruptIndexError, match="a row that does not exist, or one twice"):
            vectors.rescore(query[0], np.array(odd), 2)


def test_vectors_in_column_order_are_refused(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    path = tmp_path / NAME
    np.save(path, stored)
    size = path.stat().st_size
    np.save(path, np.asfortranarray(stored))
    assert path.stat().st_size == size
    with pytest.raises(CorruptIndexError, match=r"float32 of shape \(5, 3\), in C order"):
        open_shards(tmp_path, one_shard(5, 3))


def test_pickled_vectors_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / NAME, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CorruptIndexError, match="cannot read"):
        open_shards(tmp_path, one_shard(1, 1))


def test_misaligned_vectors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / NAME
    np.save(path, np.full((5, 3), 0.25, np.float32))
    data = bytearray(path.read_bytes())
    data[8] -= 1  # a shorter header: the numbers begin one byte early
    path.write_bytes(data[:127] + data[128:] + b"\0")
    with pytest.raises(CorruptIndexError, match="in C order and aligned"):
        open_shards(tmp_path, one_shard(5, 3))
