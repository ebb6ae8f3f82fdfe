"""Check and normalize query vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray, unit
from gifdex.index import kernels
from gifdex.schemas.errors import QueryError

_DOUBLE = 8  # bytes of a float64
# Between these limits, a squared length has neither overflowed nor underflowed.
_MIN_SQUARE, _MAX_SQUARE = 1e-200, 1e200


def unit_queries(queries: NDArray[Any], dimensions: int) -> FloatArray:
    """Return queries (n, dimensions) as unit vectors float32, computed in float64.

    Raises QueryError for an array of another type or shape, for NaN or infinity, and for a vector of length zero.
    """
    if queries.dtype.kind not in "fiub":
        raise QueryError(
            f"the query is an array of {queries.dtype}; expected real numbers, or sentences as a list of str"
        )
    if queries.ndim != 2:
        raise QueryError(f"the query has shape {queries.shape}; expected ({dimensions},) or (n, {dimensions})")
    if queries.shape[1] != dimensions:
        raise QueryError(f"the index has {dimensions} dimensions, but the query has {queries.shape[1]}")
    if queries.dtype.itemsize <= _DOUBLE:
        wide = np.ascontiguousarray(queries, np.float64)
    else:
        with np.errstate(over="ignore"):  # overflows give infinity, which is checked next
            wide = np.ascontiguousarray(queries, np.float64)
    units: FloatArray = np.empty(wide.shape, np.float32)
    if kernels.normalize(wide, dimensions, _MIN_SQUARE, _MAX_SQUARE, units) == len(wide):
        return units
    if not np.isfinite(wide).all():
        raise QueryError("the query has values that are NaN or infinite; expected finite numbers")
    largest = np.abs(wide).max(axis=1, keepdims=True)  # scaled first, so that no square overflows or underflows
    if not largest.all():
        raise QueryError("the query is a zero vector, which has no direction to search in")
    return unit(wide / largest)
