"""Read a PyTorch *legacy* checkpoint (a pickle stream) without PyTorch and without running its code.

The format (PyTorch < 1.6, ``torch.save(..., _use_new_zipfile_serialization=False)``) is five parts in a
row: a pickled magic number, a pickled protocol version, pickled facts about the writing machine, the
pickled object whose tensors refer to storages by key, and the pickled list of storage keys; then, for each
key, a little-endian int64 element count followed by the raw elements. Source: the comments in
``torch/serialization.py`` (``_legacy_save``).
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gifdex.schemas.errors import WeightsError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

# storage class named in the stream -> element type on disk (torch/storage.py)
_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}


@dataclass(frozen=True)
class _Storage:
    """One named block of elements; tensors are strided views into it."""

    key: str
    dtype: str
    size: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements, as torch counts them


def _rebuild(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


class _Unpickler(pickle.Unpickler):
    """Resolves the four globals a plain state dict needs, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"the global {module}.{name} is not allowed in a weights file")

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", str(dtype), str(key), _, int(size), None):
                return _Storage(key, dtype, size)
        raise pickle.UnpicklingError(f"unexpected reference {pid!r}")


def _view(tensor: _Tensor, flat: NDArray[Any]) -> NDArray[Any]:
    reach = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True)) + 1
    if min(tensor.shape, default=1) < 1 or min(tensor.strides, default=0) < 0 or tensor.offset < 0 or reach > flat.size:
        raise ValueError(f"a tensor of shape {tensor.shape} reaches beyond its storage of {flat.size} elements")
    strides = tuple(s * flat.itemsize for s in tensor.strides)
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides).copy()


def _read(stream: BinaryIO) -> dict[str, NDArray[Any]]:
    load: Callable[[], Any] = lambda: _Unpickler(stream).load()  # noqa: E731
    if load() != MAGIC or load() != PROTOCOL:
        raise ValueError("the file does not begin like a PyTorch legacy checkpoint")
    load()  # facts about the writing machine; element sizes are fixed by the storage classes
    tensors: dict[str, _Tensor] = load()
    keys: list[str] = load()
    dtypes = {t.storage.key: t.storage.dtype for t in tensors.values()}
    flat: dict[str, NDArray[Any]] = {}
    for key in keys:
        count = int(np.frombuffer(stream.read(8), "<i8")[0])
        dtype = np.dtype(dtypes[key])
        flat[key] = np.frombuffer(stream.read(count * dtype.itemsize), dtype, count)
    return {name: _view(t, flat[t.storage.key]) for name, t in tensors.items()}


def read_state_dict(path: Path) -> dict[str, NDArray[Any]]:
    """Return the checkpoint's tensors by name, as native numpy arrays of the shapes stored.

    Raises WeightsError where the file is absent, is not such a checkpoint, is truncated, or names any
    Python object beyond tensors and an ordered dict.
    """
    try:
        return _read(io.BytesIO(path.read_bytes()))
    except OSError as err:
        raise WeightsError(f"cannot read the weights file {path}: {err.strerror}; install or restore it") from err
    except (pickle.UnpicklingError, ValueError, KeyError, EOFError, IndexError, TypeError, AttributeError) as err:
        raise WeightsError(
            f"{path} is not a readable PyTorch legacy checkpoint ({err}); expected a plain state dict: "
            "reinstall the package it came from"
        ) from err
