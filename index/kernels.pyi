"""The steps that take most of a query's time, compiled (kernels.c).

Arrays must be contiguous and of these types. ValueError is raised where their sizes do not fit together; nothing else
is checked. Output arrays must be at least as long as what is written to them.
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

    `found` and `scores` are at least min(k, m) long; as many are written, best first, equal scores in row order, and
    that count is returned. A product is first summed in float32; those within `rounding` of the k-th are summed again,
    in float64, in an order that depends on d alone. Raises IndexError for a row that is out of range or twice among
    the best, FloatingPointError for a vector whose product is not finite.
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
    """Write, for queries float32 (n, d), the rows of the `count` nearest of the `expansion` nodes that a search keeps.

    `sections` are those of a graph's file (docs/index-format.md, shard-NNNNN.graph): vectors, keys, upper offsets,
    lowest and upper links. `layout` is d, the links of a node on the lowest level and on others, the highest level, and
    the slot where a search begins. `without` int64 (n,) has, for each query, a row that the search treats as if it
    were not in the graph, or -1. `found` (n, count) gets rows, best first, and `counts` (n,) how many. Nearest are the
    nodes of highest product. Raises IndexError where a link or a key leads out of the graph.
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
    """As `search_graph`, in a file of usearch's: its bytes, and int64 (nodes,) the offset of each node."""

def normalize(wide: NDArray[np.float64], d: int, min_square: float, max_square: float, narrow: FloatArray) -> int:
    """Write vectors float64 (n, d) as unit vectors float32 (n, d).

    Stop before a vector whose squared length is not between `min_square` and `max_square`; return how many are written.
    """

def reduce(queries: FloatArray, directions: NDArray[np.int16], d: int, reduced: FloatArray) -> None:
    """Write the products float32 (n, r) of queries float32 (n, d) with directions int16 (r, d) of length 32767.

    Directions count as vectors of length one. Queries are rounded to whole numbers in the same way.
    """

def texts(offsets: Buffer, wide: bool, data: Buffer, valid: Buffer | None, first: int, rows: Rows) -> list[str | None]:
    """Return the strings of `rows` of an Arrow column of (large, if `wide`) strings that begins at row `first`.

    Raises ValueError for offsets or bytes that are not a column's, also as UnicodeDecodeError.
    """
