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
# Items a query looks at, counted once for each tree that leads to them: so many for each candidate and tree (Annoy's
# own default is 1), and no less than this share of all items, because no fixed number does. Worst recall@10 of two to
# four synthetic sets of clustered unit vectors (512 dimensions, 50 trees, 200 candidates), by items looked at:
# of 100,000 items 10,000: .91, 20,000: .976, 25,000: .983; of 400,000 items 20,000: .66, 100,000: .951, 120,000: .965.
_EFFORT = 2
_LEAST_SHARE = 0.3
_MAX_EFFORT = 2**31 - 1  # Annoy takes a C int


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
        try:
            size = path.stat().st_size
        except OSError as err:
            raise CorruptIndexError(f"cannot read {path}: {err.strerror}; restore the file or rebuild") from err
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
        count = min(count, self._items)
        effort = min(max(_EFFORT * self._trees * count, int(_LEAST_SHARE * self._items)), _MAX_EFFORT)
        rows = self._index.get_nns_by_vector(query.tolist(), count, effort)
        return np.asarray(rows, dtype=np.int64)
