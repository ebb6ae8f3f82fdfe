"""What a query's time is spent in, compiled (kernels.c).

Arrays must be contiguous and of these types; ValueError is raised where sizes do not fit together, nothing else is
checked. What is written into is as long as what is written, or longer.
"""

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from gifdex.encoders.base import FloatArray
from gifdex.index.engines.base import Rows

def best(
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
    in float64, in an order that depends on d alone. Raises IndexError for a row that is none, or is twice
    among the best, FloatingPointError for a vector whose product is not finite.
    """

def walk(
    file: NDArray[np.uint8],
    starts: NDArray[np.int64],
    layout: tuple[int, int, int, int, int],
    rows: int,
    queries: FloatArray,
    expansion: int,
    count: int,
    found: Rows,
    counts: NDArray[np.int64],
) -> None:
    """Write, for queries float32 (n, d), the keys of the `count` nearest nodes of `expansion` that are kept.

    `file` is a graph's (docs/index-format.md, shard-NNNNN.usearch), `starts` int64 (items,) has the offset of each
    node, and `layout` is d, the links of a node on the lowest level and on others, the highest level, and the slot
    where to begin. `found` (n, count) gets keys, best first, all of them under `rows`, and `counts` (n,) how many.
    Nearest are those of highest product. Raises IndexError where a link or a key leads out of the graph.
    """

def units(wide: NDArray[np.float64], d: int, least: float, most: float, narrow: FloatArray) -> int:
    """Write vectors float64 (n, d) as unit vectors float32 (n, d), up to the first with an odd squared length.

    Return how many there are before one whose squared length is not between `least` and `most`.
    """

def reduce(queries: FloatArray, directions: NDArray[np.int16], d: int, reduced: FloatArray) -> None:
    """Write the products float32 (n, r) of queries float32 (n, d) with directions int16 (r, d) of length 32767.

    A direction is taken for one of length one. Queries are rounded to whole numbers in the same way.
    """

def texts(offsets: Buffer, wide: bool, data: Buffer, valid: Buffer | None, first: int, rows: Rows) -> list[str | None]:
    """Return the strings of `rows` of an Arrow column of (large, if `wide`) strings that begins at row `first`.

    Raises ValueError for what cannot be one: UnicodeDecodeError is one, too.
    """
