"""Read a table of numbers from a .npy file, even from an object array of rows, without running code from its pickle.

Python 2 programs often saved a table as an object array with one float array per row. Such a file is numpy's usual
header and then a pickle (the docstring of numpy.lib.format describes both). Here the opcodes are checked first, each
name resolves to a stand-in of ours, and rows are copied into one array as they arrive: memory holds the table once.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import tokenize
import warnings
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np

from gifdex.encoders.base import FloatArray
from gifdex.encoders.whitelist_unpickler import Whitelist, WhitelistUnpickler
from gifdex.schemas.errors import WeightsError

# The opcodes of pickles of such arrays, in protocols 2 to 4.
_WHITELIST = Whitelist(
    {
        "PROTO",
        "STOP",
        "FRAME",
        "MARK",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
    }
    | {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"}
    | {"SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES", "SHORT_BINUNICODE", "BINUNICODE"}
    | {"BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"},
    "a table of numbers",
)
_MAX_HEADER_BYTES = 16384

# What the unpickler and numpy raise for malformed bytes.
DAMAGE = (
    *(pickle.UnpicklingError, ValueError, LookupError, EOFError, TypeError, AttributeError, ArithmeticError),
    *(SyntaxError, tokenize.TokenError, ImportError, RecursionError),
)


class Header(NamedTuple):
    """The header of a .npy file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the array, unless it is an object array."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: IO[bytes]) -> Header:
    """Read the header of a .npy and leave `stream` at the array; raises one of DAMAGE for anything else."""
    head = io.BytesIO(stream.read(_MAX_HEADER_BYTES))  # a damaged header may claim gigabytes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns of headers from Python 2
        match np.lib.format.read_magic(head):
            case (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
            case (2, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(head)
            case version:
                raise ValueError(f"its format has the version {version}, expected (1, 0) or (2, 0)")
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {shape}")
    stream.seek(head.tell())
    return Header(shape, dtype, fortran)


def read_floats(stream: IO[bytes], header: Header) -> FloatArray:
    """Read the array after its header, of any float type, as contiguous float32; the caller limits its size."""
    flat = np.empty(math.prod(header.shape), header.dtype)
    read = stream.readinto(flat.view(np.uint8))  # type: ignore[attr-defined]
    if read != flat.nbytes:
        raise EOFError(f"{flat.nbytes} bytes of numbers were expected, but {read} follow its header")
    return np.ascontiguousarray(flat.reshape(header.shape, order="F" if header.fortran else "C"), np.float32)


class _Rows:
    """The table, filled as rows arrive; the number of `expected` rows and the file's `size` limit it."""

    def __init__(self, expected: int, size: int) -> None:
        self._expected, self._size = expected, size
        self._table: FloatArray | None = None
        self._count = 0

    def add(self, dtype: np.dtype[Any], data: bytes) -> int:
        """Copy one row and return its index."""
        row = np.frombuffer(data, dtype)
        if self._table is None:
            # Each row's bytes are in the file, so the file's size limits their number.
            capacity = min(self._expected, self._size // max(len(data), 1))
            self._table = np.empty((capacity, len(row)), np.float32)
        if len(row) != self._table.shape[1]:
            raise ValueError(f"row {self._count} has {len(row)} numbers, but row 0 has {self._table.shape[1]}")
        self._table[self._count] = row
        self._count += 1
        return self._count - 1

    def table(self, items: list[Any]) -> FloatArray:
        """Return the rows in the order of `items`; a pickle may repeat a row."""
        if not all(isinstance(item, _Array) and item.place is not None for item in items):
            raise ValueError("it contains something other than rows of numbers")
        if self._table is None:
            raise ValueError("it has no rows")
        places = [item.place for item in items]
        if places == list(range(len(places))):
            return self._table[: len(places)]
        if len(places) * self._table[0].nbytes > 2 * self._size:
            raise ValueError("its rows repeat beyond the size of the file")
        return self._table[places]


class _Type:
    """Stand-in for numpy.dtype in the pickle: a float of 2, 4 or 8 bytes, or a Python object."""

    def __init__(self, name: Any, align: Any = False, copy: Any = True) -> None:
        name = name.decode("latin1") if isinstance(name, bytes) else name
        if name not in ("f2", "f4", "f8", "O8", "O4", "O") or align not in (0, 1) or copy not in (0, 1):
            raise ValueError("its elements are of a type other than float16, float32 and float64")
        self._name: str = name
        self.dtype: np.dtype[Any] | None = None if name.startswith("O") else np.dtype(f"<{name}")

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise ValueError("its byte order is unknown")
        if self.dtype is not None:
            self.dtype = np.dtype(f"{order}{self._name}")


class _Array:
    """Stand-in for a numpy.ndarray in the pickle: a row whose numbers went to `rows`, or an object array's items."""

    __slots__ = ("_rows", "items", "place", "shape")

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows
        self.items: list[Any] | None = None
        self.place: int | None = None
        self.shape: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        _, self.shape, kind, _, content = state
        if not isinstance(kind, _Type):
            raise pickle.UnpicklingError("an array has no type")
        if kind.dtype is None and isinstance(content, list):
            self.items = content
        elif kind.dtype is not None and isinstance(content, bytes):
            self.place = self._rows.add(kind.dtype, content)
            if self.shape != (len(content) // kind.dtype.itemsize,):
                raise ValueError("a row's shape differs from its numbers")
        else:
            raise pickle.UnpicklingError("an array's elements are not of its type")


class _NDArray:
    """Stand-in for the class numpy.ndarray; without attributes, so that a stream cannot change it."""

    __slots__ = ()


_NDARRAY = _NDArray()


class _Unpickler(WhitelistUnpickler):
    """Resolves the names that a pickled array needs to stand-ins, and nothing else."""

    def __init__(self, stream: BinaryIO, rows: _Rows) -> None:
        # Python 2's strings stay bytes: decoding them would copy twice.
        super().__init__(stream, _WHITELIST, encoding="bytes")
        self._rows = rows

    def stand_in(self, module: str, name: str) -> Any:
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return lambda kind, shape, typecode: self._array(kind)
            case "numpy", "ndarray":
                return _NDARRAY
            case "numpy", "dtype":
                return lambda *arguments: _Type(*arguments)
            case "_codecs", "encode":  # how Python 3 writes bytes for Python 2
                return lambda text, encoding: _latin1(text, encoding)
        return None

    def _array(self, kind: Any) -> _Array:
        if kind is not _NDARRAY:
            raise pickle.UnpicklingError("an array is not a numpy.ndarray")
        return _Array(self._rows)


def _latin1(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("bytes are not encoded as latin1")
    return text.encode("latin1")


def _unpickle(stream: BinaryIO, header: Header, size: int) -> FloatArray:
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _WHITELIST.check(data, stream.tell())
    rows = _Rows(header.shape[0] if header.shape else 0, size)
    found = _Unpickler(stream, rows).load()
    if not isinstance(found, _Array) or found.items is None or found.shape != header.shape:
        raise ValueError("its pickle is not an object array of the shape in its header")
    if len(found.items) != math.prod(header.shape):
        raise ValueError(f"it holds {len(found.items)} items, but its header says {math.prod(header.shape)}")
    if len(header.shape) == 1:
        return rows.table(found.items)
    # numpy saves rows of equal length as a 2-D object array.
    if len(header.shape) == 2 and all(isinstance(item, float) for item in found.items):
        return np.array(found.items, np.float32).reshape(header.shape)
    raise ValueError("it contains something other than rows of numbers")


def _read(stream: BinaryIO, size: int) -> FloatArray:
    header = read_header(stream)
    if header.dtype.hasobject:
        return _unpickle(stream, header, size)
    if header.dtype.kind != "f" or header.dtype.itemsize > 8 or len(header.shape) != 2:
        raise ValueError(f"it holds {header.dtype} of shape {header.shape}")
    if header.nbytes > size - stream.tell():
        raise ValueError(f"its header says {header.nbytes} bytes of numbers, but {size - stream.tell()} follow")
    return read_floats(stream, header)


def all_finite(table: FloatArray) -> bool:
    """Tell whether all numbers are finite, without copying the table."""
    with np.errstate(invalid="ignore"):
        return not table.size or bool(np.isfinite([table.min(), table.max()]).all())


def read_rows(path: Path) -> FloatArray:
    """Return the table in a .npy as float32 (n, d), from a 2-D array of floats or an object array of n rows of d.

    Raises WeightsError if the file is absent, damaged, holds anything else, or names any Python object beyond arrays
    of floats.
    """
    try:
        with path.open("rb", buffering=1 << 20) as stream, np.errstate(over="ignore", invalid="ignore"):
            table = _read(stream, path.stat().st_size)
    except OSError as err:
        raise WeightsError(f"cannot read the table {path}: {err.strerror}; restore the file") from err
    except MemoryError as err:
        raise WeightsError(
            f"there is not enough memory for the table {path}: stop other programs, or restore the file if its size is "
            "wrong"
        ) from err
    except DAMAGE as err:
        raise WeightsError(
            f"{path} is not a readable table ({str(err) or type(err).__name__}); expected one float array per row, all "
            "of equal length: restore the file"
        ) from err
    if not all_finite(table):
        raise WeightsError(f"the table {path} has numbers that are not finite: restore the file")
    return table
