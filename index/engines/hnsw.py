"""An HNSW graph (Malkov and Yashunin, 2018, arXiv:1603.09320) over reduced vectors in bytes, by usearch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.index import kernels
from gifdex.index.engines.base import Rows, Shape, Tuning, evenly_spaced
from gifdex.index.engines.names import HNSW
from gifdex.schemas.errors import CorruptIndexError, MissingExtraError
from gifdex.schemas.files import committing
from gifdex.schemas.manifest import EngineRecord, RecallRecord

# What a build is told unless it says otherwise: links that a node has on each level but the lowest, which has twice as
# many, and how many nodes it looks at to choose them.
USUAL = {"connectivity": 24, "expansion_add": 96}
METRIC = "ip"  # inner product: what is searched for, and what the file says
# Links are chosen by distance: by inner product, which a long vector has much of with all others, a graph over the
# same vectors finds recall@10 .958 where this one finds .976.
_LINKED_BY = "l2sq"
# Nodes that a search keeps for each candidate that it returns: of 100,000 vectors of 1024 dimensions, recall@10 .97
# comes soonest with twice as many, .99 with four times as many.
_EXPANSION = 3
_HIGHEST = np.float32(127)
_LEAST = np.float32(1e-30)  # so that zeros stay zeros
# The insertion order: cells around so many rows, coordinates whose signs order the cells, one row in so many comes
# early.
_CENTRES, _SIGNS, _EARLY = 512, 14, 10
# So many rows a scan multiplies with a hundred queries as fast as the graph answers them.
_MIN_BATCH_ROWS = 5_000
SUFFIX = ".usearch"
_BLOCK = 4096  # rows that are rounded and placed at a time
# The layout of usearch's file, format 2: counts of vectors and of bytes each as uint32, the vectors, a header of 64
# bytes, five uint64 (items, links a node on upper levels and on the lowest, highest level, entry), each node's
# level as int16, then each node: its key as uint64, its level as int16, and for every level a count and the slots
# for links, as uint32.
_DENSE_HEADER, _GRAPH_HEADER, _NODE_HEAD, _LINK = 64, 40, 10, 4
_METRIC_AT = 13  # in the header
_MOST_LINKS = 4096  # more would be no graph; kernels.c takes no more
_KINDS = (105, 23, 14, 15)  # inner product, int8, uint64 keys, uint32 links
_SEE = "restore the file or rebuild the index"


def usearch() -> Any:
    """Return the library's module; raises MissingExtraError where it is not installed."""
    try:
        from usearch import index
    except ImportError as err:
        raise MissingExtraError("the engine hnsw", "usearch", "hnsw") from err
    return index


def is_installed() -> bool:
    """Tell whether the engine can be used here."""
    try:
        usearch()
    except MissingExtraError:
        return False
    return True


def library_version() -> str:
    """Return the version of usearch that is installed."""
    return version("usearch")


def quantized(vectors: FloatArray) -> NDArray[np.int8]:
    """Return float32 (n, r) vectors as int8, all scaled by one number, which keeps the order of products."""
    largest = max(vectors.max(initial=_LEAST), -vectors.min(initial=-_LEAST))
    rounded: NDArray[np.int8] = np.empty(vectors.shape, np.int8)
    for start in range(0, len(vectors), _BLOCK):
        scaled = vectors[start : start + _BLOCK] * (_HIGHEST / largest)
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


class HnswBuilder:
    """A graph under construction: rows are added in parts, and it can be saved in between."""

    def __init__(self, dimensions: int, connectivity: int, expansion_add: int) -> None:
        self._index = usearch().Index(
            ndim=dimensions,
            metric=_LINKED_BY,
            dtype="i8",
            connectivity=connectivity,
            expansion_add=expansion_add,
            expansion_search=1,
        )

    def add(self, rows: Rows, bytes_: NDArray[np.int8]) -> None:
        """Add rows and their int8 (n, r) vectors, in their order, by one thread: the same gives the same bytes."""
        self._index.add(rows.astype(np.uint64), bytes_, threads=1, copy=True)

    def save(self, path: Path) -> None:
        """Write the graph; raises OSError where the disk does not take it."""
        with committing(path) as temporary:
            try:
                self._index.save(str(temporary))
            except RuntimeError as err:
                raise OSError(f"usearch cannot write {path}: {err}") from err
            with temporary.open("r+b") as stream:
                stream.seek(_graph_at(len(self._index), self._index.ndim) - _DENSE_HEADER + _METRIC_AT)
                stream.write(bytes(_KINDS[:1]))


class HnswEngine:
    """A memory-mapped graph that proposes candidates; several threads may ask it at once.

    Walking it needs no usearch: this reads usearch's file, and checks each link before it follows it.
    """

    def __init__(self, path: Path, items: int, dimensions: int, rows: int | None = None) -> None:
        """Map the file; raises CorruptIndexError where it is no graph over `items` items of `dimensions`.

        A graph that is not complete has fewer items than there are `rows`.
        """
        self._path, self._items, self._rows = path, items, rows or items
        self._mapped = map_graph(path, items, dimensions)
        self._starts, self._layout = _nodes(path, self._mapped, items, dimensions)

    def candidates(self, queries: FloatArray, count: int, without: Rows | None = None) -> Sequence[Rows]:
        """See Engine; of the nodes that are kept on the way, these are the best."""
        count, queries = min(count, self._items), np.ascontiguousarray(queries, np.float32)
        found, counts = np.empty((len(queries), count), np.int64), np.empty(len(queries), np.int64)
        expansion = _EXPANSION * count
        try:
            kernels.walk(self._mapped, self._starts, self._layout, self._rows, queries, expansion, count, found, counts)
        except IndexError as err:
            raise _refused(self._path, "has nodes that lead out of the graph") from err
        return [rows[:having] for rows, having in zip(found, counts.tolist(), strict=True)]


def map_graph(path: Path, items: int, dimensions: int) -> NDArray[np.uint8]:
    """Map a graph's file; raises CorruptIndexError where it is none over `items` vectors of `dimensions` bytes."""
    try:
        mapped: NDArray[np.uint8] = np.asarray(np.memmap(path, np.uint8, "r")).view(np.ndarray)
    except (OSError, ValueError) as err:  # ValueError: an empty file
        raise CorruptIndexError(f"cannot read {path}: {err}; {_SEE}") from err
    graph_at = _graph_at(items, dimensions)
    if len(mapped) < graph_at + _GRAPH_HEADER or np.frombuffer(mapped, "<u4", 2).tolist() != [items, dimensions]:
        raise _refused(path, f"does not hold {items:,} vectors of {dimensions} bytes")
    head = mapped[graph_at - _DENSE_HEADER : graph_at]
    if bytes(head[:9]) != b"usearch\x02\x00" or tuple(head[_METRIC_AT : _METRIC_AT + 4].tolist()) != _KINDS:
        raise _refused(path, "is no graph of usearch's format 2 over bytes")
    present, deleted, width = np.frombuffer(head, "<u8", 3, 17).tolist()
    if (present, deleted, width) != (items, 0, dimensions) or head[41]:
        raise _refused(path, f"does not say that it has {items:,} nodes")
    return mapped


def _graph_at(items: int, dimensions: int) -> int:
    return 8 + items * dimensions + _DENSE_HEADER


def _refused(path: Path, what: str) -> CorruptIndexError:
    return CorruptIndexError(f"{path} {what}, so its bytes were altered or another version wrote it: {_SEE}")


def _nodes(
    path: Path, mapped: NDArray[np.uint8], items: int, dimensions: int
) -> tuple[NDArray[np.int64], tuple[int, int, int, int, int]]:
    """Return where a mapped graph's nodes begin, and its layout, as `kernels.walk` takes them.

    Raises CorruptIndexError where the nodes do not fill the file to its end.
    """
    graph_at = _graph_at(items, dimensions)
    levels_at = graph_at + _GRAPH_HEADER
    nodes_at = levels_at + 2 * items
    size, upper, lowest, highest, entry = np.frombuffer(mapped, "<u8", 5, graph_at).tolist()
    if size != items or len(mapped) < nodes_at:
        raise _refused(path, f"does not say that it has {items:,} nodes")
    levels = np.frombuffer(mapped, "<i2", items, levels_at).astype(np.int64)
    fits = entry < items and levels.min() >= 0 and levels.max() == highest == levels[entry]
    if not fits or min(upper, lowest) < 1 or max(upper, lowest) > _MOST_LINKS:
        raise _refused(path, "does not say where to begin")
    sizes = _NODE_HEAD + _LINK * (1 + lowest) + levels * _LINK * (1 + upper)
    starts = nodes_at + np.cumsum(sizes) - sizes
    if nodes_at + int(sizes.sum()) != len(mapped):
        raise _refused(path, f"has {len(mapped):,} bytes, not those of its nodes")
    return starts, (dimensions, lowest, upper, highest, entry)


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
        """See EngineKind; the parameters are those of USUAL."""
        if unknown := set(parameters) - set(USUAL):
            raise ValueError(
                f"the engine {HNSW} has no parameter {min(unknown)!r}; expected some of {', '.join(USUAL)}"
            )
        told = USUAL | dict(parameters) | {"threads": 1}
        return EngineRecord("usearch", version("usearch"), METRIC, shape.kept, told, 0, RecallRecord(0, {}), None)

    def file(self, stem: str, reduced: bool) -> str:
        """See EngineKind."""
        return f"{stem}{SUFFIX}"

    def build(self, folder: Path, stem: str, seen: FloatArray, record: EngineRecord) -> None:
        """See EngineKind."""
        rows = quantized(seen)
        order = insertion_order(rows)
        told = record.parameters
        builder = HnswBuilder(rows.shape[1], told["connectivity"], told["expansion_add"])
        builder.add(order, rows[order])
        builder.save(folder / f"{stem}{SUFFIX}")

    def problem(self, record: EngineRecord, shape: Shape) -> str | None:
        """See EngineKind."""
        return None if record.metric == METRIC else f"has the metric {record.metric!r:.40}, not {METRIC!r}"

    def check(self, path: Path, rows: int, record: EngineRecord) -> None:
        """See EngineKind."""
        map_graph(path, rows, record.dimensions)

    def open(self, path: Path, rows: int, record: EngineRecord) -> HnswEngine:
        """See EngineKind."""
        return HnswEngine(path, rows, record.dimensions)

    def suits(self, rows: int, record: EngineRecord, *, reduced: bool, batch: bool) -> bool:
        """See EngineKind: always, but for few rows, of which many queries a call are multiplied sooner."""
        return rows >= _MIN_BATCH_ROWS or not batch
