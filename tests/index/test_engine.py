from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from annoy import AnnoyIndex

from gifdex.encoders.base import FloatArray
from gifdex.index import engine
from gifdex.index.engine import AnnoyEngine, AnnoySettings
from gifdex.schemas.errors import CorruptIndexError

ITEMS, DIMENSIONS, TREES = 500, 16, 3


@pytest.fixture(scope="module")
def stored(clustered: Callable[..., FloatArray]) -> FloatArray:
    return clustered(ITEMS)


@pytest.fixture
def path(tmp_path: Path, stored: FloatArray) -> Path:
    engine.build(tmp_path / "a.ann", stored, AnnoySettings(TREES))
    return tmp_path / "a.ann"


@pytest.mark.parametrize("dimensions", [1, 2, 3, 16, 50, 512])
def test_node_size_is_annoys(tmp_path: Path, dimensions: int) -> None:
    index = AnnoyIndex(dimensions, engine.METRIC)
    index.add_item(0, [1.0] * dimensions)
    index.build(1)
    index.save(str(tmp_path / "one.ann"))
    # One item, and one root which Annoy writes twice.
    assert (tmp_path / "one.ann").stat().st_size % engine.node_bytes(dimensions) == 0
    assert (tmp_path / "one.ann").stat().st_size // engine.node_bytes(dimensions) in (2, 3)


def test_candidates_are_rows_without_repetition(path: Path, stored: FloatArray) -> None:
    opened = AnnoyEngine(path, DIMENSIONS, ITEMS, TREES)
    for row in range(0, ITEMS, 50):
        found = opened.candidates(stored[row], 30)
        assert found.dtype == np.int64
        assert len(found) == len(set(found.tolist())) == 30
        assert row in found
        assert found.min() >= 0
        assert found.max() < ITEMS


@pytest.mark.parametrize("count", [ITEMS, ITEMS + 1, 10**9, 10**15])
def test_more_candidates_than_items_are_all_items(path: Path, stored: FloatArray, count: int) -> None:
    opened = AnnoyEngine(path, DIMENSIONS, ITEMS, TREES)
    assert sorted(opened.candidates(stored[0], count).tolist()) == list(range(ITEMS))


def test_number_of_trees_beyond_any_sense_is_no_overflow(path: Path, stored: FloatArray) -> None:
    opened = AnnoyEngine(path, DIMENSIONS, ITEMS, trees=10**12)
    assert 7 in opened.candidates(stored[7], 10)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path, path: Path, stored: FloatArray) -> None:
    for name, seed in (("same", AnnoySettings(TREES).seed), ("other", 1)):
        engine.build(tmp_path / name, stored, AnnoySettings(TREES, seed))
    assert (tmp_path / "same").read_bytes() == path.read_bytes()
    assert (tmp_path / "other").read_bytes() != path.read_bytes()


def test_build_leaves_no_unfinished_file(path: Path) -> None:
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("size", [0, 1, 75, 77])
def test_file_of_no_whole_number_of_nodes_is_refused(path: Path, size: int) -> None:
    assert engine.node_bytes(DIMENSIONS) == 76
    os.truncate(path, size)
    with pytest.raises(CorruptIndexError, match=f"has {size} bytes, not a whole number of nodes of 16 dimensions"):
        AnnoyEngine(path, DIMENSIONS, ITEMS, TREES)


@pytest.mark.parametrize("items", [1, ITEMS - 1, ITEMS + 1, 2**40])
def test_file_of_another_count_of_items_is_refused(path: Path, items: int) -> None:
    with pytest.raises(CorruptIndexError, match=f"holds 500 items, but the manifest says {items:,}"):
        AnnoyEngine(path, DIMENSIONS, items, TREES)


def test_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptIndexError, match="No such file"):
        AnnoyEngine(tmp_path / "absent.ann", DIMENSIONS, ITEMS, TREES)


def test_library_version_is_the_installed_ones() -> None:
    assert engine.library_version().startswith("1.")
