"""The candidate engine: Annoy, behind checks that keep a bad file from killing the process."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from annoy import AnnoyIndex
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.files import committing

NAME = "annoy"
METRIC = "angular"
# Nodes looked at for each candidate that is asked for, times the number of trees: Annoy's own default is 1.
# At 2, recall@10 against exact search on clustered vectors rose in every trial; see benchmarks.
_EFFORT = 2


@dataclass(frozen=True)
class AnnoySettings:
    """How a candidate index is built. One thread and a fixed seed give the same bytes each time."""

    trees: int = 50
    seed: int = 20150622


def library_version() -> str:
    """Return the version of Annoy that is installed."""
    return version("annoy")


def node_bytes(dimensions: int) -> int:
    """Return the size of one node of an angular Annoy file.

    Annoy's source, ``struct Angular::Node`` (annoylib.h): a descendant count, two children (or the norm),
    then the vector: three 32-bit integers and `dimensions` floats.
    """
    return 3 * ctypes.sizeof(ctypes.c_int32) + dimensions * ctypes.sizeof(ctypes.c_float)


def build(path: Path, vectors: FloatArray, settings: AnnoySettings) -> None:
    """Write an Annoy index of float32 (n, d) unit vectors; item i is row i."""
    index = AnnoyIndex(vectors.shape[1], METRIC)
    index.set_seed(settings.seed)
    for row, vector in enumerate(vectors):
        index.add_item(row, vector)
    index.build(settings.trees, n_jobs=1)
    with committing(path) as temporary:
        index.save(str(temporary))


class AnnoyEngine:
    """A memory-mapped Annoy file that proposes candidates; several threads may ask it at once."""

    def __init__(self, path: Path, dimensions: int, items: int, trees: int) -> None:
        """Map the file; raises CorruptIndexError where it cannot hold `items` items of `dimensions`."""
        size = path.stat().st_size
        if size == 0 or size % node_bytes(dimensions):
            raise CorruptIndexError(
                f"{path} has {size:,} bytes, not a whole number of nodes of {dimensions} dimensions: "
                "restore the file or rebuild the index"
            )
        self._index = AnnoyIndex(dimensions, METRIC)
        self._trees = trees
        self._items = items
        try:
            self._index.load(str(path))
        except OSError as err:
            raise CorruptIndexError(f"Annoy cannot load {path}: {err}; restore the file or rebuild the index") from err
        if self._index.get_n_items() != items:
            raise CorruptIndexError(
                f"{path} holds {self._index.get_n_items():,} items, but the manifest says {items:,}: "
                "restore the file or rebuild the index"
            )

    def candidates(self, query: FloatArray, count: int) -> NDArray[np.int64]:
        """Return up to `count` rows near a float32 unit vector (d,), in no promised order."""
        effort = _EFFORT * self._trees * count
        rows = self._index.get_nns_by_vector(query.tolist(), min(count, self._items), effort)
        return np.asarray(rows, dtype=np.int64)
