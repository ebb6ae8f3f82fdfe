"""Annoy trees over reduced vectors, with checks that keep a damaged file from crashing the process.

The reduced part x' of a unit vector gets one more coordinate, sqrt(1 - |x'|^2), and a query gets a 0. All vectors then
have length one, so the order by Euclidean distance is the order by inner product: |q - x|^2 = |q|^2 + 1 - 2 q.x
(Bachrach et al., 2014, RecSys, "Speeding up the Xbox recommender system"). Without a reduction, the trees are plain
angular ones.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from annoy import AnnoyIndex
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import Rows, Shape, Tuning
from gifdex.index.engines.names import ANNOY
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.files import committing
from gifdex.schemas.manifest import EngineRecord, RecallRecord

SUFFIX = ".ann"
ANGULAR, EUCLIDEAN = "angular", "euclidean"
# From annoylib.h: a node begins with its number of descendants. Then an angular node has two children (or a norm), a
# Euclidean one the plane's offset and two children; the vector follows. A node with few descendants has their ids
# instead, from the place of the children to its end. Sizes are in words of 32 bits.
_HEADER_WORDS = {ANGULAR: 3, EUCLIDEAN: 4}
_WORD = ctypes.sizeof(ctypes.c_int32)
# How many nodes of the trees a query inspects per candidate. For 100,000 vectors in 128 dimensions, 30,000 nodes and
# 200 candidates reach recall@10 .95 fastest; 100 to 200 nodes per candidate hardly differ.
_NODES_PER_CANDIDATE = 128
_MAX_NODES = 2**31 - 1  # Annoy takes a C int
# Over reduced vectors, more than 5 trees make a larger file and, for the same number of nodes, hardly better candidates
# (with 100,000 vectors, 5, 20 and 100 trees have the same recall within .01). Over full vectors, more trees help
# (GloVe, 50 dimensions: at equal recall, 5 trees had a third of the speed of 50 or 100).
_REDUCED_TREES, _WHOLE_TREES = 5, 50
SEED = 20150622
_BLOCK = 4096  # nodes or vectors per block, so that they stay in the cache
_SEE = "restore the file or rebuild the index"


def _width(dimensions: int, metric: str) -> int:
    """Return the dimensions of Annoy's vectors: one more than a reduction has."""
    return dimensions + (metric == EUCLIDEAN)


def node_bytes(dimensions: int, metric: str) -> int:
    """Return the size of one node of an Annoy file over vectors of `dimensions`."""
    return _WORD * (_HEADER_WORDS[metric] + _width(dimensions, metric))


def build(path: Path, vectors: FloatArray, metric: str, trees: int, seed: int = SEED) -> None:
    """Write an Annoy index of float32 (n, r) vectors, full or reduced unit vectors; item i is row i.

    One thread and a fixed seed give the same bytes each time.
    """
    vectors = np.ascontiguousarray(vectors)  # the layout affects the rounding of sums
    if metric == EUCLIDEAN:
        rest = np.sqrt(np.maximum(0, 1 - np.einsum("ij,ij->i", vectors, vectors)))
        vectors = np.hstack([vectors, rest[:, None]])
    index = AnnoyIndex(vectors.shape[1], metric)
    index.set_seed(seed)
    for start in range(0, len(vectors), _BLOCK):
        for row, vector in enumerate(vectors[start : start + _BLOCK].tolist(), start):  # Annoy reads lists faster
            index.add_item(row, vector)
    index.build(trees, n_jobs=1)
    with committing(path) as temporary:
        index.save(str(temporary))


def map_vectors(path: Path, rows: int, dimensions: int, metric: str) -> FloatArray:
    """Map the file, and return a view of its rows' reduced vectors float32 (rows, dimensions).

    Raises CorruptIndexError if the file does not match these counts.
    """
    words = _map_words(path, rows, dimensions, metric)
    first = _HEADER_WORDS[metric]
    vectors: FloatArray = words[:rows, first : first + dimensions].view(np.float32)
    return vectors


def _map_words(path: Path, rows: int, dimensions: int, metric: str) -> NDArray[np.int32]:
    """Map the file as int32 words (nodes, words)."""
    size = node_bytes(dimensions, metric)
    try:
        found = path.stat().st_size
        if found == 0 or found % size:
            raise CorruptIndexError(
                f"{path} has {found:,} bytes, not a whole number of nodes of {dimensions} dimensions: {_SEE}"
            )
        words = np.memmap(path, np.int32, "r", shape=(found // size, size // _WORD))
    except OSError as err:
        raise CorruptIndexError(f"cannot read {path}: {err.strerror}; {_SEE}") from err
    if len(words) <= rows:
        raise CorruptIndexError(f"{path} has {len(words):,} nodes, too few for trees over {rows:,} rows: {_SEE}")
    if (count := int(words[-1, 0])) != rows:  # a root's number of descendants
        raise CorruptIndexError(f"{path} holds {count:,} items, but the manifest says {rows:,}: {_SEE}")
    return np.asarray(words).view(np.ndarray)


def _check_nodes(path: Path, words: NDArray[np.int32], rows: int, metric: str) -> None:
    """Raise CorruptIndexError unless all nodes that Annoy may reach lie in the file and form trees without cycles.

    Annoy follows a file's offsets without checking them. Its builder writes children before their parents, each child
    with one parent, and copies of the roots at the end.
    """
    first_id = _HEADER_WORDS[metric] - 2
    most_ids = words.shape[1] - first_id
    others = np.flatnonzero(words[::-1, 0] != rows)
    first_root = max(rows, len(words) - int(others[0]) if len(others) else 0)  # the file ends with the roots' copies
    damaged = (words[:rows, 0] != 1).any()
    parents = np.zeros(len(words), np.int32)
    for start in range(rows, len(words), _BLOCK):
        part = words[start : start + _BLOCK]
        descendants = part[:, 0]
        is_split = descendants > most_ids
        numbers = start + np.flatnonzero(is_split)
        children = part[is_split, first_id : first_id + 2]
        # A root shares its children with its copy; no other nodes share any.
        damaged |= (descendants < 1).any() or (children < 0).any()
        damaged |= (children >= np.minimum(numbers, first_root)[:, None]).any()
        if damaged:
            break
        own = children[numbers < first_root].ravel()
        np.add.at(parents, own[own >= rows], 1)
        leaves = part[~is_split, first_id:]
        counted = np.arange(most_ids) < descendants[~is_split, None]
        damaged |= (((leaves < 0) | (leaves >= rows)) & counted).any()
    if damaged or parents.max() > 1:
        raise CorruptIndexError(f"{path} has nodes that point outside the file, so its bytes were altered: {_SEE}")


class AnnoyEngine:
    """A memory-mapped Annoy file that proposes candidates; several threads may search it at once."""

    def __init__(self, path: Path, rows: int, dimensions: int, metric: str) -> None:
        """Map the file; raises CorruptIndexError unless it has trees over `rows` rows of `dimensions`."""
        _check_nodes(path, _map_words(path, rows, dimensions, metric), rows, metric)
        self._index = AnnoyIndex(_width(dimensions, metric), metric)
        self._rows = rows
        self._tail = [0.0] * (_width(dimensions, metric) - dimensions)
        try:
            self._index.load(str(path))
        except OSError as err:
            raise CorruptIndexError(f"Annoy cannot load {path}: {err}; {_SEE}") from err
        if self._index.get_n_items() != rows:
            raise CorruptIndexError(
                f"{path} holds {self._index.get_n_items():,} items, but the manifest says {rows:,}: {_SEE}"
            )

    def candidates(self, queries: FloatArray, count: int, without: Rows | None = None) -> Sequence[Rows]:
        """See Engine; Annoy answers one query at a time, without holding the GIL."""
        count = min(count + (without is not None), self._rows)
        nodes = min(_NODES_PER_CANDIDATE * count, _MAX_NODES)
        found = [self._nearest(query, count, nodes) for query in queries.tolist()]
        if without is not None:  # a single row hardly affects the trees
            found = [rows[rows != own] for rows, own in zip(found, without, strict=True)]
        return found

    def _nearest(self, query: Iterable[float], count: int, nodes: int) -> Rows:
        found = self._index.get_nns_by_vector([*query, *self._tail], count, nodes)
        return np.asarray(found, dtype=np.int64)


class AnnoyKind:
    """Annoy's trees: see EngineKind."""

    name = ANNOY
    package = "annoy"
    # Slow to query, so a quarter of the vectors must do; the recall is then off by .01.
    tuning = Tuning(target=0.98, step=4)
    is_exhaustive = False

    def require(self) -> None:
        """Annoy is always installed."""

    def describe(self, shape: Shape, parameters: Mapping[str, int]) -> EngineRecord:
        """See EngineKind; the parameters are `trees` and `seed`."""
        usual = {"trees": _REDUCED_TREES if shape.reduced else _WHOLE_TREES, "seed": SEED, "threads": 1}
        if unknown := set(parameters) - {"trees", "seed"}:
            raise ValueError(f"the engine {ANNOY} has no parameter {min(unknown)!r}; expected trees or seed")
        metric = EUCLIDEAN if shape.reduced else ANGULAR
        merged, unmeasured = usual | dict(parameters), RecallRecord(0, {})
        return EngineRecord("annoy", version("annoy"), metric, shape.scanned, merged, 0, unmeasured, None)

    def file(self, stem: str, reduced: bool) -> str:
        """See EngineKind."""
        return f"{stem}{SUFFIX}"

    def build(self, folder: Path, stem: str, vectors: FloatArray, record: EngineRecord) -> None:
        """See EngineKind."""
        build(folder / f"{stem}{SUFFIX}", vectors, record.metric, record.parameters["trees"], record.parameters["seed"])

    def problem(self, record: EngineRecord, shape: Shape) -> str | None:
        """See EngineKind."""
        expected = EUCLIDEAN if shape.reduced else ANGULAR
        if (record.library, record.metric) != ("annoy", expected):
            found = f"has the library {record.library!r:.40} and the metric {record.metric!r:.40}"
            return f"{found}, not 'annoy' and {expected!r}"
        return None

    def check(self, path: Path, rows: int, record: EngineRecord) -> None:
        """See EngineKind."""
        map_vectors(path, rows, record.dimensions, record.metric)

    def open(self, path: Path, rows: int, record: EngineRecord) -> AnnoyEngine:
        """See EngineKind."""
        return AnnoyEngine(path, rows, record.dimensions, record.metric)

    def suits(self, rows: int, record: EngineRecord, *, reduced: bool, batch: bool) -> bool:
        """See EngineKind: always, because faster kinds come first."""
        return True
