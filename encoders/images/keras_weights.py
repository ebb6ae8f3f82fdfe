"""Read the layers of a Keras weights file, HDF5 in either layout, without building a model.

The legacy layout (`.h5`, also below `model_weights` of a whole saved model) names its layers in the attribute
`layer_names` and each layer's arrays in `weight_names`. Keras 3 (`.weights.h5`) has `layers/<class>/vars/<number>`,
with the layer's name as an attribute of `vars`. Its first versions omitted the name, so only the order of the layers
of one class is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gifdex.encoders.base import FloatArray
from gifdex.schemas.errors import MissingExtraError, WeightsError

_MAGIC = b"\x89HDF\r\n\x1a\n"

Shape = tuple[int, ...]
Order = Mapping[str, Sequence[str]]


def shapes(path: Path, order: Order) -> dict[str, list[Shape]]:
    """Return the shapes of every layer's arrays by the layer's name, without layers that have none.

    `order` lists the model's layers of each class, such as conv2d, for files without names. Raises WeightsError if the
    file cannot be read, is not HDF5, is cut short, or has no Keras weights.
    """
    with _opened(path, order) as layers:
        return {name: [array.shape for array in arrays] for name, arrays in layers.items() if arrays}


def read(path: Path, layer: str, order: Order) -> list[FloatArray]:
    """Return a layer's arrays as float32, in the layer's order; raises as `shapes` does."""
    with _opened(path, order) as layers:
        return [np.asarray(array[()], np.float32) for array in layers[layer]]


@contextmanager
def _opened(path: Path, order: Order) -> Iterator[Mapping[str, Sequence[Any]]]:
    """Yield the arrays, unread, by layer."""
    try:
        import h5py
    except ImportError as err:
        raise MissingExtraError(f"the weights file {path}", "h5py", "pipeline") from err
    try:
        with path.open("rb") as stream:
            magic = stream.read(len(_MAGIC))
    except OSError as err:
        raise WeightsError(f"cannot read the weights file {path}: {err.strerror}; expected a file: check it") from err
    if magic != _MAGIC:
        raise WeightsError(
            f"{path} is not an HDF5 file (it begins with {magic!r}); expected weights that Keras saved as .h5 or "
            ".weights.h5: choose another file"
        )
    try:
        with h5py.File(path, "r") as file:
            yield _layers(file, path, order)
    # What h5py raises for a truncated or damaged file, at opening or later.
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as err:
        if "truncated" in str(err):
            size = path.stat().st_size
            raise WeightsError(
                f"{path} is cut short: it ends after {size:,} bytes, earlier than its header says; download or "
                "copy it again"
            ) from err
        raise WeightsError(
            f"{path} is damaged ({' '.join(str(err).split())[:200]}): download or copy it again"
        ) from err


def _layers(file: Any, path: Path, order: Order) -> dict[str, list[Any]]:
    root = file.get("model_weights", file)
    if "layer_names" in root.attrs:
        names = [_text(name) for name in root.attrs["layer_names"]]
        return {name: [root[name][_text(array)] for array in root[name].attrs["weight_names"]] for name in names}
    if "layers" in file:
        groups = {key: group["vars"] for key, group in file["layers"].items() if "vars" in group}
        return {
            _text(group.attrs["name"]) if "name" in group.attrs else _by_order(key, order): [
                group[number] for number in sorted(group, key=int)
            ]
            for key, group in groups.items()
        }
    raise WeightsError(
        f"{path} is an HDF5 file without Keras weights (it has {', '.join(map(repr, sorted(file))) or 'nothing'}); "
        "expected what model.save_weights wrote: choose another file"
    )


def _by_order(key: str, order: Order) -> str:
    """Return the name of the layer called conv2d or conv2d_3 in a file: the first or fourth of its class."""
    kind, _, number = key.rpartition("_") if key.rpartition("_")[2].isdigit() else (key, "", "0")
    names = order.get(kind, ())
    return names[int(number)] if int(number) < len(names) else key


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
