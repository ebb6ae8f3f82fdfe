"""Annoy's file: the size and content of its nodes, and that none points outside it."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from annoy import AnnoyIndex

from gifdex.encoders.base import FloatArray
from gifdex.index.engines import annoy_trees
from gifdex.index.engines.annoy_trees import ANGULAR, EUCLIDEAN, AnnoyEngine
from gifdex.schemas.errors import CorruptIndexError

ITEMS, DIMENSIONS, TREES = 500, 16, 3
METRICS = pytest.mark.parametrize("metric", [ANGULAR, EUCLIDEAN])


@pytest.fixture(scope="module")
def stored(clustered: Callable[..., FloatArray]) -> FloatArray:
    return clustered(ITEMS)


@pytest.fixture(scope="module")
def leading(spectral: Callable[..., FloatArray]) -> FloatArray:
    """The first 16 of 64 dimensions of unit vectors, so their lengths differ and are below 1."""
    return np.ascontiguousarray(spectral(ITEMS, 64)[:, :DIMENSIONS])


def built(path: Path, stored: FloatArray, metric: str = ANGULAR, seed: int = annoy_trees.SEED) -> Path:
    annoy_trees.build(path, stored, metric, TREES, seed)
    return path


@pytest.fixture
def path(tmp_path: Path, stored: FloatArray) -> Path:
    return built(tmp_path / "a.ann", stored)


@METRICS
@pytest.mark.parametrize("dimensions", [1, 2, 3, 16, 50, 512])
def test_node_bytes_is_the_node_size_of_annoy(tmp_path: Path, dimensions: int, metric: str) -> None:
    index = AnnoyIndex(dimensions + (metric == EUCLIDEAN), metric)
    index.add_item(0, [1.0] * index.f)
    index.build(1)
    index.save(str(tmp_path / "one.ann"))
    # One item, and one root that Annoy writes twice.
    assert (tmp_path / "one.ann").stat().st_size % annoy_trees.node_bytes(dimensions, metric) == 0
    assert (tmp_path / "one.ann").stat().st_size // annoy_trees.node_bytes(dimensions, metric) in (2, 3)


@METRICS
def test_vectors_are_mapped_from_annoys_file_without_a_copy(tmp_path: Path, leading: FloatArray, metric: str) -> None:
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


def test_the_same_seed_gives_the_same_bytes_and_another_seed_different_ones(
    tmp_path: Path, path: Path, stored: FloatArray
) -> None:
    same = built(tmp_path / "same", stored)
    other = built(tmp_path / "other", stored, seed=1)
    assert same.read_bytes() == path.read_bytes() != other.read_bytes()


def test_build_leaves_no_unfinished_file(path: Path) -> None:
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("size", [0, 1, 75, 77])
def test_file_size_that_is_not_a_multiple_of_the_node_size_is_refused(path: Path, size: int) -> None:
    assert annoy_trees.node_bytes(DIMENSIONS, ANGULAR) == 76
    os.truncate(path, size)
    with pytest.raises(CorruptIndexError, match=f"has {size} bytes, not a whole number of nodes of 16 dimensions"):
        AnnoyEngine(path, ITEMS, DIMENSIONS, ANGULAR)


@pytest.mark.parametrize("items", [1, ITEMS - 1, ITEMS + 1, 2**40])
def test_file_with_another_number_of_items_is_refused(path: Path, items: int) -> None:
    with pytest.raises(CorruptIndexError, match=r"holds 500 items|too few for trees"):
        AnnoyEngine(path, items, DIMENSIONS, ANGULAR)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptIndexError, match="No such file"):
        AnnoyEngine(tmp_path / "absent.ann", ITEMS, DIMENSIONS, ANGULAR)


def altered(path: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def put(data: bytearray, at: int, kind: str, value: int) -> None:
    struct.pack_into(kind, data, at, value)


@METRICS
@pytest.mark.parametrize("value", [-1, -(2**31), 2**31 - 1, 10**6])
def test_nodes_that_point_outside_the_file_are_refused(
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
        with pytest.raises(CorruptIndexError, match="point outside the file"):
            AnnoyEngine(path, ITEMS, DIMENSIONS, metric)


def test_nodes_that_form_a_cycle_are_refused(path: Path) -> None:
    size = annoy_trees.node_bytes(DIMENSIONS, ANGULAR)
    last = path.stat().st_size // size - 1
    altered(path, lambda data: put(data, last * size + 4, "<i", last))
    with pytest.raises(CorruptIndexError, match="point outside the file"):
        AnnoyEngine(path, ITEMS, DIMENSIONS, ANGULAR)
