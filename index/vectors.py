"""The stored vectors of one shard; all scores are computed from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gifdex.encoders.base import FloatArray, unit
from gifdex.index import kernels
from gifdex.index.engines.base import Rows
from gifdex.index.scores import NOT_FINITE, products
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.files import committing

NPY_SUFFIX = ".vectors.npy"
# How a field's vectors may be stored: unit vectors, or vectors of any length in half the bytes.
DTYPES = ("float32", "float16")
# An upper bound for the rounding error of a float32 product of two unit vectors; about 1e-7 occurs at 512 dimensions.
ROUNDING = 1e-5
_UNIT_TOLERANCE = 1e-3
# Rows per block, so that intermediate arrays stay in the cache.
_BLOCK = 4096
_BAD_ROWS = (
    "an engine's file names a row that does not exist, or one twice, so its bytes were altered: find it with gifdex "
    "verify, and restore the file or rebuild"
)

Scores = NDArray[np.float64]


def map_npy(path: Path, shape: tuple[int, int], dtype: DTypeLike) -> NDArray[Any]:
    """Map an array; raises CorruptIndexError unless it has that shape and type, in C order."""
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as err:  # numpy parses a damaged header into half a dozen kinds of error
        reason = str(err).partition("\n")[0]  # numpy may append advice
        raise CorruptIndexError(f"cannot read {path}: {reason}; restore the file or rebuild") from err
    if vectors.shape != shape or vectors.dtype != dtype or not (vectors.flags.c_contiguous and vectors.flags.aligned):
        raise CorruptIndexError(
            f"{path} holds {vectors.dtype} of shape {vectors.shape}, but the manifest says {np.dtype(dtype)} of shape "
            f"{shape}, in C order and aligned: restore the file or rebuild"
        )
    # A plain view: every operation on a numpy.memmap costs microseconds of bookkeeping.
    return np.asarray(vectors).view(np.ndarray)


def map_stored(path: Path) -> NDArray[Any]:
    """Map the vectors (n, d) that a build wrote for a shard; raises CorruptIndexError for anything else."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as err:
        raise CorruptIndexError(f"cannot read {path}: {err}; build it again") from err
    if stored.ndim != 2 or str(stored.dtype) not in DTYPES:
        raise CorruptIndexError(f"{path} holds {stored.dtype} of shape {stored.shape}, not vectors: build it again")
    return np.asarray(stored).view(np.ndarray)


def write_npy(path: Path, vectors: NDArray[Any], what: str) -> None:
    """Write a shard's vectors (n, d) in row order; errors call them `what`.

    float32 vectors have length one, or are zero: a zero vector scores 0 for every query. Raises ValueError without
    vectors, and for any that are not finite or have another length, because engines would accept them silently.
    """
    if vectors.ndim != 2 or not vectors.size:
        raise ValueError(f"{what} was given vectors of shape {vectors.shape}; expected at least one row")
    if vectors.dtype == np.float32:
        squares = np.einsum("ij,ij->i", vectors, vectors)
        fits = bool(((np.abs(squares - 1) < _UNIT_TOLERANCE) | (squares == 0)).all())
    else:
        fits = bool(np.isfinite(vectors).all())
    if not fits:
        raise ValueError(f"{what} was given vectors that are not finite or not of length one")
    with committing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(vectors), allow_pickle=False)


class StoredVectors:
    """A shard's mapped vectors (rows, d): float32 unit vectors, or float16 vectors of any length, normalized when read.

    Safe to read from several threads. Raises CorruptIndexError if a vector has values that are not finite.
    """

    def __init__(self, stored: NDArray[Any]) -> None:
        self._stored = stored
        self._are_units = stored.dtype == np.float32

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def dimensions(self) -> int:
        """Size of a vector."""
        return int(self._stored.shape[1])

    def at(self, rows: Rows | slice) -> FloatArray:
        """Return the unit vectors float32 (n, d) of rows."""
        found: FloatArray = self._stored[rows]
        return found if self._are_units else unit(found)

    def stored_at(self, rows: Rows) -> FloatArray:
        """Return the vectors float32 (n, d) of rows in the length that they have in the file."""
        found: FloatArray = self._stored[rows].astype(np.float32)
        return found

    def products(self, queries: FloatArray, rows: Rows | None = None) -> FloatArray:
        """Return the products float32 (n, m) of unit queries (n, d) with the vectors of m rows, or of all."""
        if rows is None and self._are_units:
            return products(queries, self._stored)
        count = len(self) if rows is None else len(rows)
        result: FloatArray = np.empty((len(queries), count), np.float32)
        for start in range(0, count, _BLOCK):
            part = slice(start, start + _BLOCK)
            result[:, part] = products(queries, self.at(part if rows is None else rows[part]))
        return result

    def rescore(self, query: FloatArray, rows: Rows, k: int) -> tuple[Rows, Scores]:
        """Return the k best of `rows` for a unit query (d,) and their exact cosines, best first; ties in row order."""
        if not self._are_units:
            return self._rescore_copies(query, rows, k)
        return _rescore(self._stored, query, rows, k)

    def _rescore_copies(self, query: FloatArray, rows: Rows, k: int) -> tuple[Rows, Scores]:
        """Rescore normalized copies of the vectors."""
        ascending = np.sort(rows)
        if len(rows) and not (ascending[0] >= 0 and ascending[-1] < len(self) and np.diff(ascending).all()):
            raise CorruptIndexError(_BAD_ROWS)
        found, scores = _rescore(self.at(ascending), query, np.arange(len(ascending)), k)
        return ascending[found], scores

    def cosines(self, query: FloatArray, rows: Rows) -> Scores:
        """Return the exact cosines float64 (n,) of a unit query (d,) with the vectors of rows, in their order."""
        distinct, places = np.unique(rows, return_inverse=True)
        found, scores = self.rescore(query, distinct, max(len(distinct), 1))
        ordered: Scores = scores[np.argsort(found)][places]
        return ordered


def _rescore(vectors: FloatArray, query: FloatArray, rows: Rows, k: int) -> tuple[Rows, Scores]:
    kept = min(k, len(rows))
    found, scores = np.empty(kept, np.int64), np.empty(kept)
    try:
        kernels.rescore(vectors, rows, query, k, ROUNDING, found, scores)
    except FloatingPointError as err:
        raise CorruptIndexError(NOT_FINITE) from err
    except IndexError as err:
        raise CorruptIndexError(_BAD_ROWS) from err
    return found, scores
