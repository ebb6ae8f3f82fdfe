"""The slowest steps of a query, compiled (kernels.c).

Arrays must be contiguous and of these types. ValueError is raised if their sizes do not match; nothing else is checked.
Output arrays must be at least as long as the output.
"""

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import Rows

def rescore(
    vectors: FloatArray,
    rows: Rows,
    query: FloatArray,
    k: int,
    rounding: float,
    found: Rows,
    scores: NDArray[np.float64],
) -> int:
    """Write the `k` of `rows` (m,) whose vectors float32 (n, d) have the highest products with `query` (d,).

    Writes min(k, m) rows and scores to `found` and `scores`, best first and equal scores in row order; returns that
    count. Products are first summed in float32; those within `rounding` of the k-th are summed again in float64, in an
    order that depends only on d. Raises IndexError for a row that is out of range or twice among the best,
    FloatingPointError for a vector whose product is not finite.
    """

def search_graph(
    sections: tuple[NDArray[np.int8], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]],
    layout: tuple[int, int, int, int, int],
    queries: FloatArray,
    without: Rows | None,
    expansion: int,
    count: int,
    found: Rows,
    counts: NDArray[np.int64],
) -> None:
    """Search a graph for queries float32 (n, d), and write the rows of the `count` nearest of `expansion` nodes.

    The nearest nodes have the highest products. `sections` are those of a graph's file (docs/index-format.md,
    FIELD-NNNNN.graph): vectors, keys, upper offsets, lowest and upper links. `layout` is d, the links per node on the
    lowest level and on others, the highest level, and the slot where a search begins. `without` int64 (n,) has one row
    per query that the search ignores, or -1. Rows are written to `found` (n, count), best first, and their numbers to
    `counts` (n,). Raises IndexError if a link or a key is out of range.
    """

def search_usearch_graph(
    file: tuple[NDArray[np.uint8], NDArray[np.int64]],
    layout: tuple[int, int, int, int, int],
    queries: FloatArray,
    without: Rows | None,
    expansion: int,
    count: int,
    found: Rows,
    counts: NDArray[np.int64],
) -> None:
    """As `search_graph`, in the bytes of a usearch file, with the offset of each node int64 (nodes,)."""

def normalize(wide: NDArray[np.float64], d: int, min_square: float, max_square: float, narrow: FloatArray) -> int:
    """Write vectors float64 (n, d) as unit vectors float32 (n, d).

    Stops before a vector whose squared length is not between `min_square` and `max_square`; returns how many were
    written.
    """

def reduce(queries: FloatArray, directions: NDArray[np.int16], d: int, reduced: FloatArray) -> None:
    """Write the products float32 (n, r) of queries float32 (n, d) with directions int16 (r, d) of length 32767.

    Directions represent unit vectors. Queries are rounded to integers in the same way.
    """

def texts(offsets: Buffer, wide: bool, data: Buffer, valid: Buffer | None, first: int, rows: Rows) -> list[str | None]:
    """Return the strings of `rows` of an Arrow column of strings (large if `wide`) that begins at row `first`.

    Raises ValueError for invalid offsets, and its subclass UnicodeDecodeError for invalid bytes.
    """
