"""The graph file: its content, what a search of it finds, and damage to it."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gifdex.encoders.base import FloatArray
from gifdex.index.engines import graph_file, hnsw
from gifdex.index.engines.graph_file import NO_LINK, Shape
from gifdex.index.engines.hnsw import HnswEngine, insertion_order, quantized
from gifdex.schemas.errors import CorruptIndexError
from tests.index.graph_reader import GraphReader

ITEMS, DIMENSIONS, CONNECTIVITY = 500, 16, 4


@pytest.fixture(scope="module")
def leading(spectral: Callable[..., FloatArray]) -> FloatArray:
    """The first 16 of 64 dimensions of unit vectors, so their lengths differ and are below 1."""
    return np.ascontiguousarray(spectral(ITEMS, 64)[:, :DIMENSIONS])


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory, leading: FloatArray) -> bytes:
    """The bytes of a graph over `leading`."""
    return graph(tmp_path_factory.mktemp("graph") / "g.graph", leading).read_bytes()


@pytest.fixture
def path(tmp_path: Path, intact: bytes) -> Path:
    (tmp_path / "g.graph").write_bytes(intact)
    return tmp_path / "g.graph"


def graph(path: Path, vectors: FloatArray) -> Path:
    hnsw.build(path, vectors, CONNECTIVITY, 32)
    return path


def queries_near(vectors: FloatArray, count: int) -> FloatArray:
    random = np.random.default_rng(3)
    return (vectors[:count] + random.normal(0, 0.1, (count, vectors.shape[1]))).astype(np.float32)


def offset(path: Path, section: int) -> int:
    numbers = struct.unpack_from("<7Q", path.read_bytes(), 16)
    return Shape(*numbers).sections()[section][2]


KEYS, UPPER_OFFSETS, LOWEST, UPPER = 1, 2, 3, 4


def put(path: Path, at: int, kind: str, value: int) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into(kind, data, at, value)
    path.write_bytes(data)


def found_in(path: Path, queries: FloatArray, count: int = ITEMS) -> list[list[int]] | None:
    """Return a graph's candidates for queries, or None where it is refused."""
    try:
        return [rows.tolist() for rows in HnswEngine(path, ITEMS, DIMENSIONS).candidates(queries, count)]
    except CorruptIndexError:
        return None


@pytest.mark.parametrize(("items", "dimensions"), [(1, 3), (2, 1), (37, 5), (ITEMS, DIMENSIONS), (9000, 7)])
def test_file_holds_what_usearch_built(
    tmp_path: Path, clustered: Callable[..., FloatArray], items: int, dimensions: int
) -> None:
    from usearch.index import Index

    vectors = clustered(items, dimensions)
    bytes_ = quantized(vectors)
    order = insertion_order(bytes_)
    built = Index(ndim=dimensions, metric="l2sq", dtype="i8", connectivity=CONNECTIVITY, expansion_add=32)
    built.add(order.astype(np.uint64), bytes_[order], threads=1)
    reader = GraphReader(graph(tmp_path / "g.graph", vectors))
    assert (reader.rows, reader.dimensions) == (items, dimensions)
    np.testing.assert_array_equal(reader.keys, order)
    np.testing.assert_array_equal(reader.vectors, bytes_[order])
    np.testing.assert_array_equal(reader.vectors, np.stack([built.get(key) for key in order.tolist()]))
    levels = [reader.level(slot) for slot in range(items)]
    assert max(levels) == built.max_level == reader.highest == levels[reader.entry]
    assert (reader.offsets[0], reader.offsets[-1]) == (0, len(reader.upper))
    for level in range(built.max_level + 1):
        at_level = [slot for slot in range(items) if levels[slot] >= level]
        stats = built.levels_stats[level]
        assert (stats.nodes, stats.edges) == (len(at_level), sum(len(reader.links(slot, level)) for slot in at_level))
        assert all(levels[link] >= level for slot in at_level for link in reader.links(slot, level))


@pytest.mark.parametrize("count", [1, 10, 60])
def test_search_finds_what_the_documentation_says(path: Path, leading: FloatArray, count: int) -> None:
    queries = queries_near(leading, 60)
    reader = GraphReader(path)
    found = HnswEngine(path, ITEMS, DIMENSIONS).candidates(queries, count)
    for query, rows in zip(queries, found, strict=True):
        assert rows.tolist() == reader.search(query, 3 * count, count)


def test_an_excluded_row_is_neither_returned_nor_followed(path: Path, leading: FloatArray) -> None:
    reader, engine = GraphReader(path), HnswEngine(path, ITEMS, DIMENSIONS)
    own = np.arange(ITEMS)
    found = engine.candidates(leading, 10, own)
    for row, (query, rows) in enumerate(zip(leading, found, strict=True)):
        assert row not in rows.tolist()
        assert rows.tolist() == reader.search(query, 30, 10, row)
    plain = engine.candidates(leading, 10)
    for without in (np.full(ITEMS, -1), np.full(ITEMS, ITEMS), np.full(ITEMS, 2**62)):
        assert [rows.tolist() for rows in engine.candidates(leading, 10, without)] == [rows.tolist() for rows in plain]


def test_the_entry_may_be_excluded(path: Path, leading: FloatArray) -> None:
    reader, engine = GraphReader(path), HnswEngine(path, ITEMS, DIMENSIONS)
    entry = int(reader.keys[reader.entry])
    queries = np.concatenate([leading[entry][None], queries_near(leading, 40)])
    found = engine.candidates(queries, ITEMS, np.full(len(queries), entry))
    for rows in found:
        assert entry not in rows.tolist()
        assert len(rows) > 0.9 * ITEMS
    assert found[0].tolist() == reader.search(queries[0], ITEMS, ITEMS, entry)


def test_the_only_row_may_be_excluded(tmp_path: Path) -> None:
    engine = HnswEngine(graph(tmp_path / "g.graph", np.ones((1, 3), np.float32)), 1, 3)
    assert [rows.tolist() for rows in engine.candidates(np.ones((2, 3), np.float32), 5, np.array([0, -1]))] == [[], [0]]


def test_excluded_rows_must_be_one_for_each_query(path: Path, leading: FloatArray) -> None:
    with pytest.raises(ValueError, match="number of rows to leave out is not"):
        HnswEngine(path, ITEMS, DIMENSIONS).candidates(leading[:3], 10, np.arange(2))


def test_same_vectors_give_the_same_bytes(tmp_path: Path, intact: bytes, leading: FloatArray) -> None:
    assert graph(tmp_path / "again.graph", leading).read_bytes() == intact
    assert graph(tmp_path / "other.graph", leading[::-1]).read_bytes() != intact
    assert sorted(found.name for found in tmp_path.iterdir()) == ["again.graph", "other.graph"]


def test_opening_reads_no_links(path: Path) -> None:
    at, end = offset(path, LOWEST), offset(path, UPPER)
    data = bytearray(path.read_bytes())
    data[at:end] = b"\xfe" * (end - at)
    path.write_bytes(data)
    engine = HnswEngine(path, ITEMS, DIMENSIONS)
    with pytest.raises(CorruptIndexError, match="has links that point outside the graph, so its bytes were altered"):
        engine.candidates(np.ones((1, DIMENSIONS), np.float32), 10)


def test_links_outside_the_graph_are_not_followed(path: Path, intact: bytes, leading: FloatArray) -> None:
    reader = GraphReader(path)
    places = [offset(path, LOWEST) + 4 * 2 * CONNECTIVITY * slot for slot in range(0, ITEMS, 60)]
    places += [offset(path, UPPER) + 4 * CONNECTIVITY * block for block in range(0, len(reader.upper), 20)]
    refused = []
    for at in places:
        for value in (ITEMS, NO_LINK - 1, 2**31):
            path.write_bytes(intact)
            put(path, at, "<I", value)
            found = found_in(path, leading)
            refused.append(found is None)
            assert all(0 <= row < ITEMS for rows in found or [] for row in rows)
    assert np.mean(refused) > 0.8  # no search reaches the others


def test_upper_links_to_a_node_without_that_level_are_not_followed(path: Path, leading: FloatArray) -> None:
    reader = GraphReader(path)
    low = next(slot for slot in range(ITEMS) if reader.level(slot) == 0)
    upper = offset(path, UPPER)
    data = bytearray(path.read_bytes())
    data[upper:] = struct.pack("<I", low) * ((len(data) - upper) // 4)
    path.write_bytes(data)
    assert found_in(path, leading) is None


def test_upper_lists_outside_the_file_are_not_read(path: Path, intact: bytes, leading: FloatArray) -> None:
    reader = GraphReader(path)
    for slot in [slot for slot in range(ITEMS) if reader.level(slot)][:20]:
        for value in (len(reader.upper) + 1, 2**31, 2**32 - 1):
            path.write_bytes(intact)
            put(path, offset(path, UPPER_OFFSETS) + 4 * (slot + 1), "<I", value)
            assert all(0 <= row < ITEMS for rows in found_in(path, leading) or [] for row in rows)


@pytest.mark.parametrize("value", [ITEMS, 2**31, 2**32 - 1])
def test_keys_that_are_not_rows_are_refused(path: Path, leading: FloatArray, value: int) -> None:
    put(path, offset(path, KEYS), "<I", value)
    assert found_in(path, leading) is None


def test_a_truncated_or_longer_file_is_refused(path: Path, intact: bytes) -> None:
    for size in [0, 1, 7, 8, 71, 127, 128, *range(200, len(intact), len(intact) // 40), len(intact) - 1]:
        path.write_bytes(intact)
        os.truncate(path, size)
        with pytest.raises(CorruptIndexError):
            HnswEngine(path, ITEMS, DIMENSIONS)
    path.write_bytes(intact + b"\0")
    with pytest.raises(CorruptIndexError, match=f"has {len(intact) + 1:,} bytes, but its header says {len(intact):,}"):
        HnswEngine(path, ITEMS, DIMENSIONS)


@pytest.mark.parametrize(("items", "dimensions"), [(ITEMS - 1, 16), (ITEMS + 1, 16), (ITEMS, 8), (2**40, 16)])
def test_a_file_of_another_shape_is_refused(path: Path, items: int, dimensions: int) -> None:
    with pytest.raises(
        CorruptIndexError, match=f"holds 500 vectors of 16 bytes, but the manifest says {items:,} of {dimensions}"
    ):
        HnswEngine(path, items, dimensions)


def test_a_missing_file_or_one_of_another_kind_or_version_is_refused(path: Path) -> None:
    with pytest.raises(CorruptIndexError, match="No such file"):
        HnswEngine(path.with_name("absent.graph"), ITEMS, DIMENSIONS)
    put(path, 8, "<I", 2)
    with pytest.raises(CorruptIndexError, match="has version 2 of the graph format; expected 1"):
        hnsw.check_file(path, ITEMS, DIMENSIONS)
    put(path, 0, "<Q", 0)
    with pytest.raises(CorruptIndexError, match="does not begin like a graph file"):
        hnsw.check_file(path, ITEMS, DIMENSIONS)


def test_every_altered_byte_of_the_header_is_refused_or_changes_no_answer(
    path: Path, intact: bytes, leading: FloatArray
) -> None:
    expected = found_in(path, leading[:20], 10)
    for at in range(128):
        for bits in (0x01, 0x80, 0xFF):
            path.write_bytes(intact)
            put(path, at, "<B", intact[at] ^ bits)
            found = found_in(path, leading[:20], 10)
            if found is not None:
                assert found == expected, at
                assert 12 <= at < 16 or at >= 72


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=30),
    words=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from([0, 1, ITEMS - 1, ITEMS, 2**31, 2**32 - 1])),
        max_size=30,
    ),
    header=st.lists(st.tuples(st.integers(16, 71), st.integers(1, 255)), max_size=2),
    kept=st.sampled_from([1.0, 1.0, 1.0, 0.99, 0.5]),
)
def test_damage_is_an_error_or_gives_other_rows_of_the_shard(
    tmp_path_factory: pytest.TempPathFactory,
    intact: bytes,
    leading: FloatArray,
    flips: list[tuple[float, int]],
    words: list[tuple[float, int]],
    header: list[tuple[int, int]],
    kept: float,
) -> None:
    data = bytearray(intact)
    for place, bits in flips:
        data[int(place * len(data))] ^= bits
    for place, value in words:
        struct.pack_into("<I", data, int(place * (len(data) // 4)) * 4, value)
    for at, bits in header:
        data[at] ^= bits
    path = tmp_path_factory.getbasetemp() / "damaged.graph"
    path.write_bytes(data[: int(kept * len(data))])
    for count in (10, ITEMS):
        found = found_in(path, leading[::25], count)
        assert all(0 <= row < ITEMS and len(rows) <= count for rows in found or [] for row in rows)


def test_blocks_of_another_shape_are_not_written(tmp_path: Path) -> None:
    shape = Shape(3, 2, 1, 1, 0, 0, 0)
    vectors, numbers, links = np.zeros((3, 2)), np.zeros(3), np.zeros((3, 1))
    with pytest.raises(ValueError, match="was given 8 bytes; expected 16"):
        graph_file.write(
            tmp_path / "g.graph", shape, [[vectors], [numbers], [np.zeros(2)], [links], [np.zeros((0, 1))]]
        )
    assert list(tmp_path.iterdir()) == []
