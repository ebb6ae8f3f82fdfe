"""An HNSW graph (Malkov and Yashunin, 2018, arXiv:1603.09320) over reduced vectors in bytes.

usearch builds it; searching needs no usearch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.index.engines import graph_file, usearch_file
from gifdex.index.engines.base import Rows, Shape, Tuning, evenly_spaced
from gifdex.index.engines.graph_file import SUFFIX, GraphFile
from gifdex.index.engines.names import HNSW
from gifdex.index.engines.usearch_file import UsearchGraph
from gifdex.schemas.errors import MissingExtraError
from gifdex.schemas.manifest import EngineRecord, RecallRecord

# The default parameters of `build`.
DEFAULT_PARAMETERS = {"connectivity": 24, "expansion_add": 96}
# Below this many rows, a scan answers a hundred queries per call as fast as a graph.
_MIN_BATCH_ROWS = 5_000
METRIC = "ip"  # a search finds the highest inner products
# Links are chosen by squared distance. Long vectors have high inner products with all others, so a graph linked by
# inner product has a recall@10 of only .958, instead of .976.
_LINKED_BY = "l2sq"
# How many nodes a search keeps per candidate that it returns. For 100,000 vectors of 1024 dimensions, recall@10 .97 is
# reached fastest with two, and .99 with four.
_EXPANSION = 3
_MAX_BYTE = np.float32(127)
_MIN_SCALE = np.float32(1e-30)  # so that zeros stay zeros
# For the insertion order: the number of cells, the number of coordinates whose signs order the cells, and the interval
# between rows that are inserted early.
_CENTRES, _SIGNS, _EARLY = 512, 14, 10
_BLOCK = 4096  # rows per block


def usearch() -> Any:
    """Return the library's module; raises MissingExtraError if it is not installed."""
    try:
        from usearch import index
    except ImportError as err:
        raise MissingExtraError("the engine hnsw", "usearch", "hnsw") from err
    return index


def quantized(vectors: FloatArray) -> NDArray[np.int8]:
    """Quantize float32 (n, r) vectors to int8 with one common scale, which preserves the order of products."""
    largest = max(vectors.max(initial=_MIN_SCALE), -vectors.min(initial=-_MIN_SCALE))
    rounded: NDArray[np.int8] = np.empty(vectors.shape, np.int8)
    for start in range(0, len(vectors), _BLOCK):
        scaled = vectors[start : start + _BLOCK] * (_MAX_BYTE / largest)
        rounded[start : start + _BLOCK] = np.rint(scaled, out=scaled)
    return rounded


def insertion_order(bytes_: NDArray[np.int8]) -> Rows:
    """Return an order of rows int8 (n, r) for fast building and searching: similar rows together, every tenth first.

    Rows that are inserted one after the other are neighbours in memory and in the file, so building and searching
    mostly read cached memory. With 100,000 vectors, the build takes .7 times as long as in the rows' own order, and a
    search at equal recall .85 times. The first tenth, which is in the same order, gives the graph its long links.
    """
    centres = bytes_[evenly_spaced(len(bytes_), _CENTRES)].astype(np.float32)
    # Similar centres get neighbouring positions: they are sorted by the signs of their leading coordinates, as a tree
    # would do.
    signs = centres[:, :_SIGNS] > np.median(centres[:, :_SIGNS], axis=0)
    places = np.argsort(np.lexsort(signs.T[::-1]))
    offsets = 0.5 * np.einsum("ij,ij->i", centres, centres)
    cell = np.empty(len(bytes_), np.int64)
    for start in range(0, len(bytes_), _BLOCK):
        block = bytes_[start : start + _BLOCK].astype(np.float32)
        cell[start : start + _BLOCK] = places[(block @ centres.T - offsets).argmax(axis=1)]
    order = np.argsort(cell, kind="stable")
    early = order % _EARLY == 0
    return np.concatenate([order[early], order[~early]])


def build(path: Path, vectors: FloatArray, connectivity: int, expansion_add: int) -> None:
    """Write a graph of float32 (n, r) vectors, full or reduced unit vectors; keys are rows. Needs usearch.

    A node gets up to `connectivity` links on each upper level and twice as many on the lowest, chosen among
    `expansion_add` nodes. One thread adds the rows in a fixed order, so the same vectors give the same bytes.
    """
    bytes_ = quantized(vectors)
    order = insertion_order(bytes_)
    index = usearch().Index(
        ndim=bytes_.shape[1],
        metric=_LINKED_BY,
        dtype="i8",
        connectivity=connectivity,
        expansion_add=expansion_add,
        expansion_search=1,
    )
    index.add(order.astype(np.uint64), bytes_[order], threads=1, copy=True)
    data = index.save()
    del index  # free its memory, as large as `data`
    usearch_file.convert(path, data, *bytes_.shape)


def check_file(path: Path, rows: int, dimensions: int) -> None:
    """Raise CorruptIndexError unless a file's header is that of a graph of `rows` vectors of `dimensions` bytes."""
    if path.suffix == usearch_file.SUFFIX:
        usearch_file.check_file(path, rows, dimensions)
    else:
        graph_file.open_graph(path, rows, dimensions)


class HnswEngine:
    """A memory-mapped graph that proposes candidates; several threads may search it at once.

    Also reads the .usearch files of index format 2.
    """

    def __init__(self, path: Path, rows: int, dimensions: int) -> None:
        """Map the file; raises CorruptIndexError unless it is a graph of `rows` vectors of `dimensions`."""
        self._path, self._rows = path, rows
        of_usearch = path.suffix == usearch_file.SUFFIX
        open_graph = usearch_file.open_graph if of_usearch else graph_file.open_graph
        self._graph: GraphFile | UsearchGraph = open_graph(path, rows, dimensions)

    def candidates(self, queries: FloatArray, count: int, without: Rows | None = None) -> Sequence[Rows]:
        """See Engine; returns the best of the nodes that a search keeps.

        A row in `without` is neither returned nor followed, as if it were not in the graph; only its effect on the
        links between other nodes remains.
        """
        count, queries = min(count, self._rows), np.ascontiguousarray(queries, np.float32)
        found, counts = np.empty((len(queries), count), np.int64), np.empty(len(queries), np.int64)
        if without is not None:
            without = np.ascontiguousarray(without, np.int64)
        try:
            self._graph.search(queries, without, _EXPANSION * count, count, found, counts)
        except IndexError as err:
            raise graph_file.refused(self._path, "has links that point outside the graph") from err
        return [rows[:length] for rows, length in zip(found, counts.tolist(), strict=True)]


class HnswKind:
    """A graph: see EngineKind."""

    name = HNSW
    package = "usearch"
    tuning = Tuning(target=0.99)
    is_exhaustive = False

    def require(self) -> None:
        """See EngineKind."""
        usearch()

    def describe(self, shape: Shape, parameters: Mapping[str, int]) -> EngineRecord:
        """See EngineKind; the parameters are those of DEFAULT_PARAMETERS."""
        if unknown := set(parameters) - set(DEFAULT_PARAMETERS):
            raise ValueError(
                f"the engine {HNSW} has no parameter {min(unknown)!r}; expected some of {', '.join(DEFAULT_PARAMETERS)}"
            )
        merged = DEFAULT_PARAMETERS | dict(parameters) | {"threads": 1}
        return EngineRecord("usearch", version("usearch"), METRIC, shape.kept, merged, 0, RecallRecord(0, {}), None)

    def file(self, stem: str, reduced: bool) -> str:
        """See EngineKind."""
        return f"{stem}{SUFFIX}"

    def build(self, folder: Path, stem: str, vectors: FloatArray, record: EngineRecord) -> None:
        """See EngineKind."""
        parameters = record.parameters
        build(folder / f"{stem}{SUFFIX}", vectors, parameters["connectivity"], parameters["expansion_add"])

    def problem(self, record: EngineRecord, shape: Shape) -> str | None:
        """See EngineKind."""
        return None if record.metric == METRIC else f"has the metric {record.metric!r:.40}, not {METRIC!r}"

    def check(self, path: Path, rows: int, record: EngineRecord) -> None:
        """See EngineKind."""
        check_file(path, rows, record.dimensions)

    def open(self, path: Path, rows: int, record: EngineRecord) -> HnswEngine:
        """See EngineKind."""
        return HnswEngine(path, rows, record.dimensions)

    def suits(self, rows: int, record: EngineRecord, *, reduced: bool, batch: bool) -> bool:
        """See EngineKind: always, except for many queries per call over few rows, where a scan is faster."""
        return rows >= _MIN_BATCH_ROWS or not batch
