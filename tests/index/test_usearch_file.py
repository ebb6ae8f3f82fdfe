"""Graphs of index format 2, in usearch's own file: they answer as current ones do, and damage is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from usearch.index import Index

from gifdex.encoders.base import FloatArray
from gifdex.index.engines import hnsw
from gifdex.index.engines.hnsw import HnswEngine, insertion_order, quantized
from gifdex.schemas.errors import CorruptIndexError

ITEMS, DIMENSIONS = 500, 16
METRIC_AT, INNER_PRODUCT = 13, 105  # in usearch's header


@pytest.fixture(scope="module")
def leading(spectral: Callable[..., FloatArray]) -> FloatArray:
    """The first 16 of 64 dimensions of unit vectors, so their lengths differ and are below 1."""
    return np.ascontiguousarray(spectral(ITEMS, 64)[:, :DIMENSIONS])


def usearch_graph(path: Path, vectors: FloatArray, metric: int = INNER_PRODUCT) -> Path:
    """Write a graph as index format 2 did: linked by squared distance, searched by inner product."""
    bytes_ = quantized(vectors)
    order = insertion_order(bytes_)
    index = Index(ndim=bytes_.shape[1], metric="l2sq", dtype="i8", connectivity=4, expansion_add=32)
    index.add(order.astype(np.uint64), bytes_[order], threads=1)
    index.save(str(path))
    put(path, 8 + bytes_.size + METRIC_AT, "<B", metric)
    return path


def put(path: Path, at: int, kind: str, value: int) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into(kind, data, at, value)
    path.write_bytes(data)


@pytest.mark.parametrize(("items", "dimensions"), [(1, 3), (ITEMS, DIMENSIONS), (3000, 7)])
def test_usearchs_file_and_ours_give_the_same_candidates(
    tmp_path: Path, clustered: Callable[..., FloatArray], items: int, dimensions: int
) -> None:
    vectors = clustered(items, dimensions)
    old = HnswEngine(usearch_graph(tmp_path / "g.usearch", vectors), items, dimensions)
    hnsw.build(tmp_path / "g.graph", vectors, 4, 32)
    new = HnswEngine(tmp_path / "g.graph", items, dimensions)
    queries = clustered(80, dimensions, seed=5)
    for without in (None, np.arange(80) % (items + 1) - 1):
        for count in (1, 10, items):
            for rows, same in zip(
                old.candidates(queries, count, without), new.candidates(queries, count, without), strict=True
            ):
                assert rows.tolist() == same.tolist()


def test_usearch_itself_finds_the_same(tmp_path: Path, leading: FloatArray) -> None:
    theirs = Index.restore(str(usearch_graph(tmp_path / "g.usearch", leading)), view=True)
    hnsw.build(tmp_path / "g.graph", leading, 4, 32)
    bytes_ = quantized(leading)
    found = HnswEngine(tmp_path / "g.graph", ITEMS, DIMENSIONS).candidates(bytes_.astype(np.float32), 10)
    same = [theirs.search(query, 30).keys[:10].tolist() for query in bytes_]
    # Our search rounds the query to 16 bits, so nodes with nearly equal products may swap places.
    shares = [len(set(rows.tolist()) & set(others)) / 10 for rows, others in zip(found, same, strict=True)]
    assert np.mean(shares) > 0.98
    assert np.median(shares) == 1


def test_a_file_linked_and_searched_by_distance_is_refused(tmp_path: Path, leading: FloatArray) -> None:
    with pytest.raises(CorruptIndexError, match="is not an int8 graph in usearch's format 2"):
        HnswEngine(usearch_graph(tmp_path / "g.usearch", leading, 101), ITEMS, DIMENSIONS)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptIndexError, match="No such file"):
        HnswEngine(tmp_path / "absent.usearch", ITEMS, DIMENSIONS)


def levels(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield slot, offset and level of each node of a graph over 16 bytes a vector."""
    graph_at = 8 + ITEMS * DIMENSIONS + 64
    upper, lowest = struct.unpack_from("<QQ", data, graph_at + 8)
    at = graph_at + 40 + 2 * ITEMS
    for slot in range(ITEMS):
        (level,) = struct.unpack_from("<h", data, graph_at + 40 + 2 * slot)
        yield slot, at, level
        at += 10 + 4 * (1 + lowest) + level * 4 * (1 + upper)
    assert at == len(data)


def walked(path: Path, queries: FloatArray) -> list[list[int]] | None:
    """Return a damaged graph's rows for queries that reach all of its nodes, or None where it is refused."""
    engine = HnswEngine(path, ITEMS, DIMENSIONS)
    try:
        return [rows.tolist() for rows in engine.candidates(queries, ITEMS)]
    except CorruptIndexError:
        return None


@pytest.mark.parametrize("upper", [False, True])
def test_links_outside_the_graph_are_not_followed(tmp_path: Path, leading: FloatArray, upper: bool) -> None:
    path = usearch_graph(tmp_path / "g.usearch", leading)
    intact = path.read_bytes()
    lowest = 8  # twice the connectivity
    nodes = [(slot, at) for slot, at, level in levels(intact) if level > 0 or not upper]
    low = {slot for slot, _, level in levels(intact) if level == 0}
    refused, tried = 0, 0
    for _, at in nodes[:: max(1, len(nodes) // 8)]:
        first = at + 10 + (4 * (1 + lowest) if upper else 0)
        # Links of 2**32 - 1, more links than there is room for, and a link one beyond the last node.
        for place, value in ((first, 2**32 - 1), (first, 1000), (first + 4, ITEMS), (first + 4, 2**32 - 1)):
            path.write_bytes(intact)
            put(path, place, "<I", value)
            found = walked(path, leading)
            tried, refused = tried + 1, refused + (found is None)
            assert all(0 <= row < ITEMS for rows in found or [] for row in rows)
        if upper:  # to a node without that level: another node's links are read there
            path.write_bytes(intact)
            put(path, first + 4, "<I", min(low))
            assert all(0 <= row < ITEMS for rows in walked(path, leading) or [] for row in rows)
    assert refused > (0.7 if upper else 0.9) * tried  # no search reaches the others


def test_a_graph_whose_keys_are_not_its_rows_is_refused(tmp_path: Path, leading: FloatArray) -> None:
    path = usearch_graph(tmp_path / "g.usearch", leading)
    intact = path.read_bytes()
    _, first, _ = next(levels(intact))
    for value in (ITEMS, 2**63, 2**64 - 1):
        path.write_bytes(intact)
        put(path, first, "<Q", value)
        assert walked(path, leading) is None


def test_a_truncated_graph_or_one_of_another_shape_is_refused(tmp_path: Path, leading: FloatArray) -> None:
    path = usearch_graph(tmp_path / "g.usearch", leading)
    intact = path.read_bytes()
    for size in [0, 1, 7, 8, *range(100, len(intact), len(intact) // 40), len(intact) - 1]:
        path.write_bytes(intact[:size])
        with pytest.raises(CorruptIndexError):
            HnswEngine(path, ITEMS, DIMENSIONS)
    path.write_bytes(intact)
    for items, dimensions in (
        (ITEMS - 1, DIMENSIONS),
        (ITEMS + 1, DIMENSIONS),
        (ITEMS, 8),
        (ITEMS * 2, 8),
        (2**40, 16),
    ):
        with pytest.raises(CorruptIndexError, match="does not hold"):
            HnswEngine(path, items, dimensions)


def test_every_altered_byte_of_the_header_is_refused_or_changes_no_answer(tmp_path: Path, leading: FloatArray) -> None:
    path = usearch_graph(tmp_path / "g.usearch", leading)
    intact = path.read_bytes()
    expected = [rows.tolist() for rows in HnswEngine(path, ITEMS, DIMENSIONS).candidates(leading[:20], 10)]
    header = 8 + ITEMS * DIMENSIONS
    refused = 0
    for at in [*range(8), *range(header, header + 64 + 40)]:
        path.write_bytes(intact)
        put(path, at, "<B", intact[at] ^ 0xFF)
        try:
            found = HnswEngine(path, ITEMS, DIMENSIONS).candidates(leading[:20], 10)
        except CorruptIndexError:
            refused += 1
            continue
        assert [rows.tolist() for rows in found] == expected, at
    assert refused > 60
