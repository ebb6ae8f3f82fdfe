from __future__ import annotations

import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from annoy import AnnoyIndex
from hypothesis import given, settings
from hypothesis import strategies as st

from gifdex.encoders.base import FloatArray
from gifdex.index.engines import annoy_trees, hnsw
from gifdex.index.engines.annoy_trees import ANGULAR, EUCLIDEAN, AnnoyEngine
from gifdex.index.engines.base import Engine
from gifdex.index.engines.hnsw import HnswEngine, insertion_order, quantized
from gifdex.index.engines.scan import ScanEngine, highest
from gifdex.index.engines.settings import AnnoySettings, HnswSettings
from gifdex.schemas.errors import CorruptIndexError

ITEMS, DIMENSIONS, TREES = 500, 16, 3
METRICS = pytest.mark.parametrize("metric", [ANGULAR, EUCLIDEAN])


@pytest.fixture(scope="module")
def stored(clustered: Callable[..., FloatArray]) -> FloatArray:
    return clustered(ITEMS)


@pytest.fixture(scope="module")
def leading(spectral: Callable[..., FloatArray]) -> FloatArray:
    """The first 16 of 64 dimensions of unit vectors: shorter than 1, of different lengths."""
    return np.ascontiguousarray(spectral(ITEMS, 64)[:, :DIMENSIONS])


def built(path: Path, stored: FloatArray, metric: str = ANGULAR, settings: AnnoySettings | None = None) -> Path:
    annoy_trees.build(path, stored, metric, settings or AnnoySettings(TREES))
    return path


def graph(path: Path, stored: FloatArray) -> Path:
    hnsw.build(path, stored, HnswSettings(4, 32))
    return path


@pytest.fixture
def path(tmp_path: Path, stored: FloatArray) -> Path:
    return built(tmp_path / "a.ann", stored)


@pytest.fixture(params=["annoy", "scan", "hnsw"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, leading: FloatArray) -> Engine:
    """Each engine over the same vectors."""
    if request.param == "hnsw":
        return HnswEngine(graph(tmp_path / "a.graph", leading), ITEMS, DIMENSIONS)
    path = built(tmp_path / "a.ann", leading, EUCLIDEAN)
    if request.param == "annoy":
        return AnnoyEngine(path, ITEMS, DIMENSIONS, EUCLIDEAN)
    return ScanEngine(annoy_trees.map_vectors(path, ITEMS, DIMENSIONS, EUCLIDEAN))


def test_candidates_are_distinct_rows_for_each_query(engine: Engine, leading: FloatArray) -> None:
    found = engine.candidates(leading[::50], 30)
    assert len(found) == 10
    for rows in found:
        assert rows.dtype == np.int64
        assert len(rows) == len(set(rows.tolist()))
        assert 30 <= len(rows) <= 60
        assert rows.min() >= 0
        assert rows.max() < ITEMS


def test_candidates_are_those_of_the_highest_products(engine: Engine, leading: FloatArray) -> None:
    queries = np.random.default_rng(3).standard_normal((50, DIMENSIONS)).astype(np.float32) * leading.std(axis=0)
    best = np.argsort(-(queries @ leading.T), axis=1)[:, :10]
    found = engine.candidates(queries, 60)
    shares = [len(set(rows.tolist()) & set(b.tolist())) / 10 for rows, b in zip(found, best, strict=True)]
    assert np.mean(shares) >= 0.95


@pytest.mark.parametrize("count", [ITEMS, ITEMS + 1, 10**9])
def test_more_candidates_than_items_are_all_items(engine: Engine, leading: FloatArray, count: int) -> None:
    found = sorted(engine.candidates(leading[:1], count)[0].tolist())
    # A graph may have nodes that no path leads to; an index scans then, for this many candidates.
    assert found == list(range(ITEMS)) or (isinstance(engine, HnswEngine) and len(found) > 0.9 * ITEMS)


def test_batch_has_the_candidates_of_its_queries_one_by_one(engine: Engine, leading: FloatArray) -> None:
    queries = leading[:40] + np.random.default_rng(4).normal(0, 0.1, (40, DIMENSIONS)).astype(np.float32)
    batch = engine.candidates(queries, 20)
    alone = [engine.candidates(query[None], 20)[0] for query in queries]
    assert [sorted(rows.tolist()) for rows in batch] == [sorted(rows.tolist()) for rows in alone]
    assert list(engine.candidates(queries[:0], 20)) == []


def test_four_threads_get_the_candidates_of_one(engine: Engine, leading: FloatArray) -> None:
    def ask(_: int) -> list[list[int]]:
        return [rows.tolist() for _ in range(20) for rows in engine.candidates(leading[:50], 25)]

    expected = ask(0)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(ask, range(8)))


@METRICS
@pytest.mark.parametrize("dimensions", [1, 2, 3, 16, 50, 512])
def test_node_size_is_annoys(tmp_path: Path, dimensions: int, metric: str) -> None:
    index = AnnoyIndex(dimensions + (metric == EUCLIDEAN), metric)
    index.add_item(0, [1.0] * index.f)
    index.build(1)
    index.save(str(tmp_path / "one.ann"))
    # One item, and one root which Annoy writes twice.
    assert (tmp_path / "one.ann").stat().st_size % annoy_trees.node_bytes(dimensions, metric) == 0
    assert (tmp_path / "one.ann").stat().st_size // annoy_trees.node_bytes(dimensions, metric) in (2, 3)


@METRICS
def test_vectors_are_read_where_they_lie_in_annoys_file(tmp_path: Path, leading: FloatArray, metric: str) -> None:
    mapped = annoy_trees.map_vectors(built(tmp_path / "a.ann", leading, metric), ITEMS, DIMENSIONS, metric)
    np.testing.assert_array_equal(mapped, leading)
    assert not mapped.flags.writeable
    assert not mapped.flags.owndata


def test_extra_coordinate_makes_every_vector_a_unit_vector(tmp_path: Path, leading: FloatArray) -> None:
    index = AnnoyIndex(DIMENSIONS + 1, "euclidean")
    index.load(str(built(tmp_path / "a.ann", leading, EUCLIDEAN)))
    for row in (0, 7, ITEMS - 1):
        vector = np.array(index.get_item_vector(row))
        np.testing.assert_array_equal(vector[:-1].astype(np.float32), leading[row])
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path, path: Path, stored: FloatArray) -> None:
    same = built(tmp_path / "same", stored)
    other = built(tmp_path / "other", stored, settings=AnnoySettings(TREES, 1))
    assert same.read_bytes() == path.read_bytes() != other.read_bytes()


def test_build_leaves_no_unfinished_file(path: Path) -> None:
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("size", [0, 1, 75, 77])
def test_file_of_no_whole_number_of_nodes_is_refused(path: Path, size: int) -> None:
    assert annoy_trees.node_bytes(DIMENSIONS, ANGULAR) == 76
    os.truncate(path, size)
    with pytest.raises(CorruptIndexError, match=f"has {size} bytes, not a whole number of nodes of 16 dimensions"):
        AnnoyEngine(path, ITEMS, DIMENSIONS, ANGULAR)


@pytest.mark.parametrize("items", [1, ITEMS - 1, ITEMS + 1, 2**40])
def test_file_of_another_count_of_items_is_refused(path: Path, items: int) -> None:
    with pytest.raises(CorruptIndexError, match=r"holds 500 items|too few for trees"):
        AnnoyEngine(path, items, DIMENSIONS, ANGULAR)


def test_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptIndexError, match="No such file"):
        AnnoyEngine(tmp_path / "absent.ann", ITEMS, DIMENSIONS, ANGULAR)


def test_library_versions_are_the_installed_ones() -> None:
    assert annoy_trees.library_version().startswith("1.")
    assert hnsw.library_version().startswith("2.")


def altered(path: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def put(data: bytearray, at: int, kind: str, value: int) -> None:
    struct.pack_into(kind, data, at, value)


@METRICS
@pytest.mark.parametrize("value", [-1, -(2**31), 2**31 - 1, 10**6])
def test_annoy_nodes_that_lead_out_of_the_file_are_refused(
    tmp_path: Path, leading: FloatArray, metric: str, value: int
) -> None:
    size = annoy_trees.node_bytes(DIMENSIONS, metric)
    ids = 4 if metric == ANGULAR else 8
    path = built(tmp_path / "a.ann", leading, metric)
    intact = path.read_bytes()
    last = len(intact) // size - 1
    places = [last * size + ids, last * size + ids + 4, ITEMS * size + ids, (last - 1) * size + ids]
    for at in places:
        path.write_bytes(intact)
        altered(path, lambda data, at=at: put(data, at, "<i", value))  # type: ignore[misc]
        with pytest.raises(CorruptIndexError, match="lead out of the file"):
            AnnoyEngine(path, ITEMS, DIMENSIONS, metric)


def test_annoy_nodes_that_go_in_circles_are_refused(path: Path) -> None:
    size = annoy_trees.node_bytes(DIMENSIONS, ANGULAR)
    last = path.stat().st_size // size - 1
    altered(path, lambda data: put(data, last * size + 4, "<i", last))
    with pytest.raises(CorruptIndexError, match="lead out of the file"):
        AnnoyEngine(path, ITEMS, DIMENSIONS, ANGULAR)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 3000),
    share=st.floats(0.0, 0.999),
    distinct=st.sampled_from([1, 2, 5, 10**9]),
)
def test_highest_hold_the_highest_and_are_not_many_more(seed: int, n: int, share: float, distinct: int) -> None:
    random = np.random.default_rng(seed)
    scores = (random.integers(0, distinct, n) / distinct).astype(np.float32)
    count = max(1, int(share * n))
    found = highest(scores, count)
    assert count <= len(found) <= 2 * count
    assert (np.diff(found) > 0).all()
    assert np.sort(scores[found])[::-1][:count].tolist() == np.sort(scores)[::-1][:count].tolist()


def test_quantized_vectors_keep_the_order_of_their_products(leading: FloatArray) -> None:
    found = quantized(leading)
    assert np.abs(found).max() == 127
    exact, rounded = leading @ leading.T, found.astype(np.float64) @ found.astype(np.float64).T
    scale = (127 / np.abs(leading).max()) ** 2
    np.testing.assert_allclose(rounded / scale, exact, atol=0.01)
    assert quantized(np.zeros((3, 4), np.float32)).tolist() == [[0] * 4] * 3


def test_insertion_order_has_every_row_once_and_like_rows_together(stored: FloatArray) -> None:
    bytes_ = quantized(stored)
    order = insertion_order(bytes_)
    assert sorted(order.tolist()) == list(range(ITEMS))
    assert sorted(order[: ITEMS // 10].tolist()) == list(range(0, ITEMS, 10))
    rest = order[ITEMS // 10 :]
    following = np.einsum("ij,ij->i", stored[rest[:-1]], stored[rest[1:]]).mean()
    assert following > np.einsum("ij,ij->i", stored[:-1], stored[1:]).mean() + 0.3
    assert insertion_order(bytes_[:1]).tolist() == [0]
