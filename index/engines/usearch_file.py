"""usearch's graph file: the output of its builder, and the graphs of index format 2 (shard-NNNNN.usearch).

usearch's format 2 has the number of vectors and of bytes per vector as uint32, the vectors, a header of 64 bytes, five
uint64 (rows, links per node on upper levels and on the lowest, highest level, entry), each node's level as int16, and
the nodes. A node has its key as uint64, its level as int16, and for each level a count and the slots for links, as
uint32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.index import kernels
from gifdex.index.engines.base import Rows
from gifdex.index.engines.graph_file import MAX_LINKS, NO_LINK, Shape, map_bytes, refused, write

SUFFIX = ".usearch"
_VECTORS_AT, _HEADER, _GRAPH_HEADER, _NODE_HEAD, _LINK = 8, 64, 40, 10, 4
_KINDS_AT = 13  # offset in the header of the types: metric, scalar, key and link
_SQUARED_DISTANCE, _INNER_PRODUCT = 101, 105  # the metric: as built, and as index format 2 stored it
_KINDS = (23, 14, 15)  # int8, uint64 keys, uint32 links
_BLOCK = 4096  # nodes per block


@dataclass(frozen=True)
class UsearchGraph:
    """A graph in usearch's file; several threads may search it at once.

    `starts` int64 (rows,) has the offset of each node, `levels` int64 (rows,) its level.
    """

    data: NDArray[np.uint8]
    shape: Shape
    starts: NDArray[np.int64]
    levels: NDArray[np.int64]

    def search(
        self,
        queries: FloatArray,
        without: Rows | None,
        expansion: int,
        count: int,
        found: Rows,
        counts: NDArray[np.int64],
    ) -> None:
        """See `kernels.search_usearch_graph`."""
        shape = self.shape
        layout = (shape.dimensions, shape.lowest_links, shape.upper_links, shape.highest_level, shape.entry)
        file = self.data, self.starts
        kernels.search_usearch_graph(file, layout, queries, without, expansion, count, found, counts)


def check_file(path: Path, rows: int, dimensions: int) -> None:
    """Raise CorruptIndexError unless a file's header is that of a graph of `rows` vectors of `dimensions` bytes."""
    _check_header(path, map_bytes(path), rows, dimensions, _INNER_PRODUCT)


def open_graph(path: Path, rows: int, dimensions: int) -> UsearchGraph:
    """Map a file of index format 2; raises CorruptIndexError unless it is a graph of `rows` vectors."""
    data = map_bytes(path)
    _check_header(path, data, rows, dimensions, _INNER_PRODUCT)
    return _parsed(path, data, rows, dimensions)


def convert(path: Path, data: bytes, rows: int, dimensions: int) -> None:
    """Convert a graph that usearch built and serialised as `data` to our format, and write it to `path`."""
    source = f"the graph that usearch built for {path}"
    view = np.frombuffer(data, np.uint8)
    _check_header(source, view, rows, dimensions, _SQUARED_DISTANCE)
    graph = _parsed(source, view, rows, dimensions)
    upper_offsets = np.concatenate([[0], np.cumsum(graph.levels)])
    vectors = view[_VECTORS_AT : _VECTORS_AT + rows * dimensions].view(np.int8).reshape(rows, dimensions)
    sections = [_blocks(vectors.__getitem__, rows), _keys(graph), [upper_offsets], _lowest(graph), _upper(graph)]
    write(path, graph.shape, sections)


def _header_end(rows: int, dimensions: int) -> int:
    return _VECTORS_AT + rows * dimensions + _HEADER


def _check_header(source: Path | str, data: NDArray[np.uint8], rows: int, dimensions: int, metric: int) -> None:
    end = _header_end(rows, dimensions)
    if len(data) < end + _GRAPH_HEADER or np.frombuffer(data, "<u4", 2).tolist() != [rows, dimensions]:
        raise refused(source, f"does not hold {rows:,} vectors of {dimensions} bytes")
    head = data[end - _HEADER : end]
    if bytes(head[:9]) != b"usearch\x02\x00" or tuple(head[_KINDS_AT : _KINDS_AT + 4].tolist()) != (metric, *_KINDS):
        raise refused(source, "is not an int8 graph in usearch's format 2")
    present, deleted, width = np.frombuffer(head, "<u8", 3, 17).tolist()
    if (present, deleted, width) != (rows, 0, dimensions) or head[41]:
        raise refused(source, f"does not have {rows:,} nodes")


def _parsed(source: Path | str, data: NDArray[np.uint8], rows: int, dimensions: int) -> UsearchGraph:
    """Return the graph; raises CorruptIndexError if its nodes do not fill the file to its end."""
    end = _header_end(rows, dimensions)
    levels_at = end + _GRAPH_HEADER
    nodes_at = levels_at + 2 * rows
    size, upper, lowest, highest, entry = np.frombuffer(data, "<u8", 5, end).tolist()
    if size != rows or len(data) < nodes_at:
        raise refused(source, f"does not have {rows:,} nodes")
    levels = np.frombuffer(data, "<i2", rows, levels_at).astype(np.int64)
    fits = entry < rows and levels.min() >= 0 and levels.max() == highest == levels[entry]
    if not fits or min(upper, lowest) < 1 or max(upper, lowest) > MAX_LINKS:
        raise refused(source, "has no valid entry point")
    sizes = _NODE_HEAD + _LINK * (1 + lowest) + levels * _LINK * (1 + upper)
    starts = nodes_at + np.cumsum(sizes) - sizes
    if nodes_at + int(sizes.sum()) != len(data):
        raise refused(source, f"has {len(data):,} bytes, but its nodes take {nodes_at + int(sizes.sum()):,}")
    shape = Shape(rows, dimensions, lowest, upper, int(levels.sum()), highest, entry)
    return UsearchGraph(data, shape, starts, levels)


def _blocks(read: Callable[[slice], NDArray[Any]], count: int) -> Iterator[NDArray[Any]]:
    for start in range(0, count, _BLOCK):
        yield read(slice(start, start + _BLOCK))


def _words(graph: UsearchGraph, offsets: NDArray[np.int64], count: int) -> NDArray[np.uint32]:
    """Return `count` uint32 words from each of the offsets, which are all odd or all even: (offsets, count)."""
    halves = np.frombuffer(graph.data, "<u2", (len(graph.data) - offsets[0] % 2) // 2, offsets[0] % 2)
    windows = np.lib.stride_tricks.sliding_window_view(halves, 2 * count)
    return np.ascontiguousarray(windows[offsets // 2]).view("<u4")


def _keys(graph: UsearchGraph) -> Iterator[NDArray[np.uint32]]:
    # Keys are rows, so the upper half of each is zero.
    yield from _blocks(lambda block: _words(graph, graph.starts[block], 1), len(graph.starts))


def _lowest(graph: UsearchGraph) -> Iterator[NDArray[np.uint32]]:
    lists = graph.starts + _NODE_HEAD
    yield from _blocks(lambda block: _links(graph, lists[block], graph.shape.lowest_links), len(lists))


def _upper(graph: UsearchGraph) -> Iterator[NDArray[np.uint32]]:
    """Yield the lists of upper links: for each node in order, those of its levels 1, 2 ..."""
    shape = graph.shape
    nodes = np.repeat(np.arange(shape.rows), graph.levels)
    levels = np.arange(len(nodes)) - np.repeat(np.cumsum(graph.levels) - graph.levels, graph.levels)
    lists = graph.starts[nodes] + _NODE_HEAD + _LINK * (1 + shape.lowest_links)
    lists += levels * _LINK * (1 + shape.upper_links)
    yield from _blocks(lambda block: _links(graph, lists[block], shape.upper_links), len(lists))


def _links(graph: UsearchGraph, lists: NDArray[np.int64], room: int) -> NDArray[np.uint32]:
    """Return the links (lists, room) in lists that begin at these offsets, filled up with NO_LINK."""
    words = _words(graph, lists, 1 + room)
    links: NDArray[np.uint32] = words[:, 1:]
    links[np.arange(room) >= words[:, :1]] = NO_LINK
    return links
