"""The reduction: the leading principal directions of a field's vectors, in which engines find candidates.

The product of two unit vectors is close to the product of their leading components if the spectrum of the vectors falls
quickly, as it does for embeddings of deep networks. So candidates are found in few dimensions and rescored in all. The
directions are those of the uncentred second moment, because products with the vectors themselves must be preserved, not
with their differences from a mean. No other directions preserve more of the squared length (Eckart and Young, 1936).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from gifdex.encoders.base import METADATA_KEY, FloatArray, safetensors_bytes
from gifdex.index import kernels
from gifdex.index.engines.base import Rows, Shape
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.files import commit_bytes

# The maximum number of vectors that directions are fitted on.
SAMPLE = 20_000
# The share of the squared length that the engines' dimensions preserve; dimensions are multiples of a cache line (of
# float32, and of bytes). For trees and scans, .75 (112 to 128 of the benchmark's 1024 dimensions) was as fast as .67 at
# recall@10 .95, and faster above. Graphs store one byte per dimension, so they can use more: with .88 (320), a graph is
# 15 % faster at recall@10 .97 than with .9 (384), 5 % slower at .99, and faster to build.
_SCANNED_SHARE, _SCANNED_MULTIPLE = 0.75, 16
_GRAPH_SHARE, _GRAPH_MULTIPLE = 0.88, 64
# Vectors of up to this many dimensions are not reduced, nor are those that would need more than half of their
# dimensions.
_MIN_DIMENSIONS = 64
# The minimum number of vectors per dimension: directions fitted on fewer would not suit other vectors.
_MIN_SAMPLE_PER_DIMENSION = 4
_BLOCK = 4096  # rows per block
_TENSOR = "directions"
_UNIT_TOLERANCE = 1e-3
_WHOLE = 32767  # the length of a direction in integers, as in kernels.c


@dataclass(frozen=True)
class Reduction:
    """Orthonormal `directions` float32 (d, r), the leading ones first, fitted on `sample` vectors.

    Trees and scans use the first `scanned` of them, and graphs all.
    """

    directions: FloatArray
    scanned: int
    sample: int

    @property
    def shape(self) -> Shape:
        """What engines are built over."""
        dimensions, kept = self.directions.shape
        return Shape(dimensions, reduced=True, scanned=self.scanned, kept=kept)

    def leading(self, dimensions: int) -> FloatArray:
        """Return the contiguous map float32 (d, dimensions) onto the leading directions."""
        return np.ascontiguousarray(self.directions[:, :dimensions])

    def for_queries(self, dimensions: int) -> Callable[[FloatArray], FloatArray]:
        """Return the map of unit queries float32 (n, d) onto the leading directions, to (n, dimensions).

        Each query reads all directions, so they are rounded to 16 bits, half the bytes; this changes products by less
        than .0001.
        """
        directions = np.rint(self.leading(dimensions).T * np.float32(_WHOLE)).astype(np.int16, order="C")

        def reduce(queries: FloatArray) -> FloatArray:
            reduced: FloatArray = np.empty((len(queries), dimensions), np.float32)
            kernels.reduce(np.ascontiguousarray(queries), directions, directions.shape[1], reduced)
            return reduced

        return reduce

    def save(self, path: Path) -> None:
        """Write the directions as safetensors."""
        metadata = {"kind": "principal-directions", "sample": self.sample, "scanned": self.scanned}
        commit_bytes(path, safetensors_bytes({_TENSOR: self.directions}, metadata))


def shape_of(dimensions: int, reduction: Reduction | None) -> Shape:
    """Return what engines are built over: a reduction, or full vectors of `dimensions`."""
    if reduction is None:
        return Shape(dimensions, reduced=False, scanned=dimensions, kept=dimensions)
    return reduction.shape


def fit(vectors: FloatArray) -> Reduction | None:
    """Fit the reduction of a sample of unit vectors float32 (n, d); None if a reduction would not help."""
    return fit_rows([(vectors, np.arange(len(vectors)))])


def fit_rows(parts: Sequence[tuple[FloatArray, Rows]]) -> Reduction | None:
    """Fit as `fit` does, on some rows of several arrays (n, d), read block by block."""
    count, dimensions = sum(len(rows) for _, rows in parts), parts[0][0].shape[1]
    if dimensions <= _MIN_DIMENSIONS or count < _MIN_SAMPLE_PER_DIMENSION * dimensions:
        return None
    moment = np.zeros((dimensions, dimensions))
    for vectors, rows in parts:
        for start in range(0, len(rows), _BLOCK):
            block = vectors[rows[start : start + _BLOCK]]
            moment += block.T @ block
    values, directions = np.linalg.eigh(moment)
    values, directions = values[::-1], directions[:, ::-1]
    kept = np.cumsum(np.maximum(values, 0)) / max(values.sum(), np.finfo(float).tiny)
    scanned = _dimensions(kept, _SCANNED_SHARE, _SCANNED_MULTIPLE)
    if scanned > dimensions // 2:
        return None
    graph = max(scanned, _dimensions(kept, _GRAPH_SHARE, _GRAPH_MULTIPLE))
    leading = directions[:, :graph]
    # An eigenvector's sign is arbitrary; this choice does not depend on the library.
    signs = np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(graph)])
    return Reduction(np.ascontiguousarray(leading * signs, np.float32), scanned, count)


def _dimensions(kept: FloatArray, share: float, multiple: int) -> int:
    """Return the smallest number of dimensions, a multiple or all, that preserve `share` of the squared length."""
    least = int(np.searchsorted(kept, share)) + 1
    return min(-(-least // multiple) * multiple, len(kept))


def load(path: Path, dimensions: int, kept: int | None = None) -> Reduction:
    """Read what `Reduction.save` wrote; raises CorruptIndexError unless it has `kept` directions of `dimensions`."""
    try:
        with safe_open(path, framework="np") as stream:
            directions = stream.get_tensor(_TENSOR)
            metadata = json.loads((stream.metadata() or {})[METADATA_KEY])
        scanned, sample = int(metadata["scanned"]), int(metadata["sample"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as err:
        raise CorruptIndexError(f"cannot read {path}: {err}; restore the file or rebuild") from err
    found = directions.shape
    fits = (
        len(found) == 2 and found[0] == dimensions and kept in (None, found[1]) and 1 <= scanned <= found[1] <= found[0]
    )
    if fits and directions.dtype == np.float32:
        lengths = np.einsum("ij,ij->j", directions, directions, dtype=np.float64)
        fits = bool((np.abs(lengths - 1) < _UNIT_TOLERANCE).all())
    if not fits or directions.dtype != np.float32:
        raise CorruptIndexError(
            f"{path} holds {directions.dtype} of shape {found}; expected directions of length one, float32 of shape "
            f"({dimensions}, {kept or 'fewer'}): restore the file or rebuild"
        )
    return Reduction(directions, scanned, sample)
