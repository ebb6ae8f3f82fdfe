"""The graph file FIELD-NNNNN.graph: a header and five arrays, which are searched in place.

docs/index-format.md specifies the format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray
from gifdex.index import kernels
from gifdex.index.engines.base import Rows
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.files import committing

SUFFIX = ".graph"
NO_LINK = 2**32 - 1  # fills a node's list after its last link
MAX_LINKS = 4096  # per node and level, as in kernels.c
_MAGIC, _VERSION = b"gifgraph", 1
_HEADER = struct.Struct("<8sII7Q")
_SECTIONS_AT = 128
_ALIGNMENT = 64  # bytes of a cache line
_SEE = "restore the file or rebuild the index"


@dataclass(frozen=True)
class Shape:
    """The numbers in a graph's header, in order."""

    rows: int
    dimensions: int
    lowest_links: int
    upper_links: int
    upper_blocks: int
    highest_level: int
    entry: int

    def is_possible(self) -> bool:
        """Tell whether a graph can have these numbers."""
        return (
            1 <= self.rows < NO_LINK
            and 1 <= self.dimensions < NO_LINK
            and 1 <= self.lowest_links <= MAX_LINKS
            and 1 <= self.upper_links <= MAX_LINKS
            and self.highest_level <= self.upper_blocks < NO_LINK
            and self.entry < self.rows
        )

    def sections(self) -> list[tuple[str, tuple[int, ...], int]]:
        """Return dtype, shape and offset of each array: vectors, keys, upper offsets, lowest and upper links."""
        arrays: list[tuple[str, tuple[int, ...]]] = [
            ("i1", (self.rows, self.dimensions)),
            ("<u4", (self.rows,)),
            ("<u4", (self.rows + 1,)),
            ("<u4", (self.rows, self.lowest_links)),
            ("<u4", (self.upper_blocks, self.upper_links)),
        ]
        sizes = [_size(dtype, shape) for dtype, shape in arrays]
        offsets = accumulate((-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes[:-1]), initial=_SECTIONS_AT)
        return [(dtype, shape, offset) for (dtype, shape), offset in zip(arrays, offsets, strict=True)]

    def file_size(self) -> int:
        """Return the file's size in bytes."""
        dtype, shape, offset = self.sections()[-1]
        return offset + _size(dtype, shape)


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    count = np.dtype(dtype).itemsize
    for length in shape:
        count *= length
    return count


def write(path: Path, shape: Shape, sections: Sequence[Iterable[NDArray[Any]]]) -> None:
    """Write a graph file from its sections in order, each given as blocks of rows.

    Raises ValueError if the blocks do not add up to the shape.
    """
    with committing(path) as temporary, temporary.open("wb") as stream:
        stream.write(_HEADER.pack(_MAGIC, _VERSION, 0, *astuple(shape)))
        for (dtype, of_section, offset), blocks in zip(shape.sections(), sections, strict=True):
            stream.write(bytes(offset - stream.tell()))
            for block in blocks:
                stream.write(np.ascontiguousarray(block, dtype).tobytes())
            if (found := stream.tell() - offset) != (expected := _size(dtype, of_section)):
                raise ValueError(f"a section of {path} was given {found:,} bytes; expected {expected:,}")


@dataclass(frozen=True)
class GraphFile:
    """A memory-mapped graph; several threads may search it at once."""

    shape: Shape
    sections: tuple[NDArray[np.int8], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]

    def search(
        self,
        queries: FloatArray,
        without: Rows | None,
        expansion: int,
        count: int,
        found: Rows,
        counts: NDArray[np.int64],
    ) -> None:
        """See `kernels.search_graph`."""
        shape = self.shape
        layout = (shape.dimensions, shape.lowest_links, shape.upper_links, shape.highest_level, shape.entry)
        kernels.search_graph(self.sections, layout, queries, without, expansion, count, found, counts)


def open_graph(path: Path, rows: int, dimensions: int) -> GraphFile:
    """Map a graph file; raises CorruptIndexError unless it has `rows` vectors of `dimensions` bytes.

    Checks only the header and the sizes. `kernels.search_graph` checks each link before following it.
    """
    mapped = map_bytes(path)
    shape = _read_shape(path, mapped)
    if (shape.rows, shape.dimensions) != (rows, dimensions):
        raise refused(
            path,
            f"holds {shape.rows:,} vectors of {shape.dimensions:,} bytes, but the manifest says {rows:,} of "
            f"{dimensions:,}",
        )
    if not shape.is_possible():
        raise refused(path, "has a header whose numbers do not fit together")
    if len(mapped) != shape.file_size():
        raise refused(path, f"has {len(mapped):,} bytes, but its header says {shape.file_size():,}")
    vectors, keys, upper_offsets, lowest, upper = (
        np.frombuffer(mapped, dtype, _size("i1", of_section), offset).reshape(of_section)
        for dtype, of_section, offset in shape.sections()
    )
    first, end, last = (int(upper_offsets[slot]) for slot in (shape.entry, shape.entry + 1, rows))
    if end - first != shape.highest_level or last != shape.upper_blocks:
        raise refused(path, "has upper levels that do not fit its header")
    return GraphFile(shape, (vectors, keys, upper_offsets, lowest, upper))


def _read_shape(path: Path, mapped: NDArray[np.uint8]) -> Shape:
    if len(mapped) < _SECTIONS_AT or bytes(mapped[: len(_MAGIC)]) != _MAGIC:
        raise refused(path, "does not begin like a graph file")
    _, version, _, *numbers = _HEADER.unpack(mapped[: _HEADER.size].tobytes())
    if version != _VERSION:
        raise CorruptIndexError(f"{path} has version {version} of the graph format; expected {_VERSION}: {_SEE}")
    return Shape(*numbers)


def map_bytes(path: Path) -> NDArray[np.uint8]:
    """Map a file's bytes; raises CorruptIndexError if it cannot be read or is empty."""
    try:
        mapped: NDArray[np.uint8] = np.asarray(np.memmap(path, np.uint8, "r")).view(np.ndarray)
    except (OSError, ValueError) as err:  # ValueError: an empty file
        raise CorruptIndexError(f"cannot read {path}: {err}; {_SEE}") from err
    return mapped


def refused(path: Path | str, what: str) -> CorruptIndexError:
    """Return the error for a graph file; `what` says what is wrong with it."""
    return CorruptIndexError(f"{path} {what}, so its bytes were altered or another version wrote it: {_SEE}")
