"""Read a PyTorch *legacy* checkpoint (a pickle stream) without PyTorch and without running its code.

The format (PyTorch < 1.6, ``torch.save(..., _use_new_zipfile_serialization=False)``) is five parts in a
row: a pickled magic number, a pickled protocol version, a pickled description of the writing machine, the
pickled object whose tensors refer to storages by key, and the pickled list of storage keys; then, for each
key, a little-endian int64 element count followed by the raw elements. Source: the comments in
``torch/serialization.py`` (``_legacy_save``).
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.whitelist_unpickler import Whitelist, WhitelistUnpickler
from gifdex.schemas.errors import WeightsError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

# storage class -> element type on disk (torch/storage.py)
_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}

# The opcodes of a protocol 2 pickle of a state dict.
_WHITELIST = Whitelist(
    {"PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"}
    | {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT"}
    | {"SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"}
    | {"GLOBAL", "REDUCE", "BUILD", "BINPERSID"},
    "a weights file",
)


# The records are tuples because BUILD could rewrite the attributes of anything else.
class _Storage(NamedTuple):
    """One named block of elements; tensors are strided views into it."""

    key: str
    dtype: str
    size: int


class _Tensor(NamedTuple):
    """A strided view into a storage; offset and strides count elements, as torch does."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild(storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor refers to something that is not a storage")
    return _Tensor(storage, offset, shape, strides)


class _Unpickler(WhitelistUnpickler):
    """Resolves the globals a plain state dict needs, and nothing else."""

    def stand_in(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _rebuild(*arguments)
        return _DTYPES.get(name) if module == "torch" else None

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", str(dtype), str(key), _, int(size), None) if dtype in _DTYPES.values():
                return _Storage(key, dtype, size)
        raise pickle.UnpicklingError("a reference is not to a storage of numbers")


def _load(stream: io.BytesIO, data: bytes) -> Any:
    """Unpickle the next object of a stream over `data`."""
    _WHITELIST.check(data, stream.tell())
    return _Unpickler(stream, _WHITELIST).load()


def _view(tensor: _Tensor, flat: NDArray[Any]) -> NDArray[Any]:
    reach = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True)) + 1
    lowest = min((*tensor.shape, *tensor.strides, tensor.offset))
    # With strides of 0, a shape may need more elements than there are without reaching beyond them.
    if lowest < 0 or (0 not in tensor.shape and max(reach, math.prod(tensor.shape)) > flat.size):
        raise ValueError(f"a tensor of shape {tensor.shape} reaches beyond its storage of {flat.size} elements")
    strides = tuple(s * flat.itemsize for s in tensor.strides)
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides).copy()


def _read(data: bytes) -> dict[str, NDArray[Any]]:
    stream = io.BytesIO(data)
    if _load(stream, data) != MAGIC or _load(stream, data) != PROTOCOL:
        raise ValueError("the file does not begin like a PyTorch legacy checkpoint")
    _load(stream, data)  # the writing machine; the storage classes fix element sizes
    tensors, keys = _load(stream, data), _load(stream, data)
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in tensors.items()
    ):
        raise ValueError("it contains something other than named tensors")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if not isinstance(keys, list) or not set(storages) == set(keys):
        raise ValueError("the storages listed are not those of the tensors")
    flat: dict[str, NDArray[Any]] = {}
    for storage in (storages[key] for key in keys):
        count = int(np.frombuffer(stream.read(8), "<i8", 1)[0])
        if count != storage.size or count < 0:
            raise ValueError(f"storage {storage.key} has {count} elements, but its tensors expect {storage.size}")
        dtype = np.dtype(storage.dtype)
        flat[storage.key] = np.frombuffer(stream.read(count * dtype.itemsize), dtype, count)
    return {name: _view(tensor, flat[tensor.storage.key]) for name, tensor in tensors.items()}


def read_state_dict(path: Path) -> dict[str, NDArray[Any]]:
    """Return the checkpoint's tensors by name, as native numpy arrays of the shapes stored.

    Raises WeightsError if the file is absent, truncated, not such a checkpoint, or names any Python object beyond
    tensors and an ordered dict.
    """
    try:
        return _read(path.read_bytes())
    except OSError as err:
        raise WeightsError(f"cannot read the weights file {path}: {err.strerror}; install or restore it") from err
    # What the unpickler and numpy raise for malformed streams.
    except (pickle.UnpicklingError, ValueError, LookupError, EOFError, TypeError, AttributeError, OverflowError) as err:
        raise WeightsError(
            f"{path} is not a readable PyTorch legacy checkpoint ({err}); expected a plain state dict: "
            "reinstall the package it came from"
        ) from err
