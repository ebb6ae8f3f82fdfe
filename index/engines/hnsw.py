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

# What a build is told unless it says otherwise, see `build`.
DEFAULT_PARAMETERS = {"connectivity": 24, "expansion_add": 96}
# So few rows a scan multiplies with a hundred queries as fast as a graph answers them.
_MIN_BATCH_ROWS = 5_000
METRIC = "ip"  # a search finds the highest inner products
# Links are chosen by squared distance: a graph linked by inner product, which long vectors have much of with all
# others, has recall@10 .958 where this one has .976.
_LINKED_BY = "l2sq"
# Nodes that a search keeps for each candidate that it returns: of 100,000 vectors of 1024 dimensions, recall@10 .97 is
# reached soonest with twice as many, .99 with four times as many.
_EXPANSION = 3
_MAX_BYTE = np.float32(127)
_MIN_SCALE = np.float32(1e-30)  # so that zeros stay zeros
# The insertion order: cells around so many rows, coordinates whose signs order the cells, one row in so many comes
# early.
_CENTRES, _SIGNS, _EARLY = 512, 14, 10
_BLOCK = 4096  # rows that are rounded and placed at a time


def usearch() -> Any:
    """Return the library's module; raises MissingExtraError where it is not installed."""
    try:
        from usearch import index
    except ImportError as err:
        raise MissingExtraError("the engine hnsw", "usearch", "hnsw") from err
    return index


def quantized(vectors: FloatArray) -> NDArray[np.int8]:
    """Return float32 (n, r) vectors as int8, all scaled by one number, which keeps the order of products."""
    largest = max(vectors.max(initial=_MIN_SCALE), -vectors.min(initial=-_MIN_SCALE))
    rounded: NDArray[np.int8] = np.empty(vectors.shape, np.int8)
    for start in range(0, len(vectors), _BLOCK):
        scaled = vectors[start : start + _BLOCK] * (_MAX_BYTE / largest)
        rounded[start : start + _BLOCK] = np.rint(scaled, out=scaled)
    return rounded


def insertion_order(bytes_: NDArray[np.int8]) -> Rows:
    """Return rows int8 (n, r) in an order that makes a good graph quickly: like ones together, every tenth row first.

    What is inserted one after the other lies side by side in the file. Against the rows' own order, building and
    searching read memory that was just read: on 100,000 vectors the build takes .7 of the time, a search at equal
    recall .85. The tenth that comes first, in that order too, gives the graph its long links.
    """
    centres = bytes_[evenly_spaced(len(bytes_), _CENTRES)].astype(np.float32)
    # Alike centres get neighbouring places: they are sorted by the signs of their leading coordinates, as a tree
    # would.
    signs = centres[:, :_SIGNS] > np.median(centres[:, :_SIGNS], axis=0)
    places = np.argsort(np.lexsort(signs.T[::-1]))
    offsets = 0.5 * np.einsum("ij,ij->i", centres, centres)
    cell = np.empty(len(bytes_), np.int64)
    for start in range(0, len(bytes_), _BLOCK):
        like = bytes_[start : start + _BLOCK].astype(np.float32)
        cell[start : start + _BLOCK] = places[(like @ centres.T - offsets).argmax(axis=1)]
    order = np.argsort(cell, kind="stable")
    early = order % _EARLY == 0
    return np.concatenate([order[early], order[~early]])


def build(path: Path, seen: FloatArray, connectivity: int, expansion_add: int) -> None:
    """Write a graph of float32 (n, r) vectors, or leading parts of unit vectors; keys are rows. Needs usearch.

    A node gets up to `connectivity` links on each level but the lowest, which has twice as many, chosen among
    `expansion_add` nodes. One thread adds the rows in a fixed order, so the same vectors give the same bytes.
    """
    bytes_ = quantized(seen)
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
    del index  # as large as what it saved
    usearch_file.convert(path, data, *bytes_.shape)


def check_file(path: Path, rows: int, dimensions: int) -> None:
    """Raise CorruptIndexError where a file's header is none of a graph over `rows` vectors of `dimensions` bytes."""
    if path.suffix == usearch_file.SUFFIX:
        usearch_file.check_file(path, rows, dimensions)
    else:
        graph_file.open_graph(path, rows, dimensions)


class HnswEngine:
    """A memory-mapped graph that proposes candidates; several threads may ask it at once.

    Files of index format 2, with the suffix .usearch, are read too.
    """

    def __init__(self, path: Path, rows: int, dimensions: int) -> None:
        """Map the file; raises CorruptIndexError where it is no graph over `rows` vectors of `dimensions`."""
        self._path, self._rows = path, rows
        of_usearch = path.suffix == usearch_file.SUFFIX
        open_graph = usearch_file.open_graph if of_usearch else graph_file.open_graph
        self._graph: GraphFile | UsearchGraph = open_graph(path, rows, dimensions)

    def candidates(self, queries: FloatArray, count: int, without: Rows | None = None) -> Sequence[Rows]:
        """See Engine; these are the best of the nodes that a search keeps.

        A row of `without` is neither returned nor followed, as if the graph had never had it; only its effect on the
        links between others remains.
        """
        count, queries = min(count, self._rows), np.ascontiguousarray(queries, np.float32)
        found, counts = np.empty((len(queries), count), np.int64), np.empty(len(queries), np.int64)
        if without is not None:
            without = np.ascontiguousarray(without, np.int64)
        try:
            self._graph.search(queries, without, _EXPANSION * count, count, found, counts)
        except IndexError as err:
            raise graph_file.refused(self._path, "has nodes that lead out of the graph") from err
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
        told = DEFAULT_PARAMETERS | dict(parameters) | {"threads": 1}
        return EngineRecord("usearch", version("usearch"), METRIC, shape.kept, told, 0, RecallRecord(0, {}), None)

    def file(self, stem: str, reduced: bool) -> str:
        """See EngineKind."""
        return f"{stem}{SUFFIX}"

    def build(self, folder: Path, stem: str, seen: FloatArray, record: EngineRecord) -> None:
        """See EngineKind."""
        told = record.parameters
        build(folder / f"{stem}{SUFFIX}", seen, told["connectivity"], told["expansion_add"])

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
        """See EngineKind: always, but for few rows, of which many queries a call are multiplied sooner."""
        return rows >= _MIN_BATCH_ROWS or not batch
