"""Keras weights files, as Keras writes them and damaged in many ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gifdex.encoders.images import keras_weights
from gifdex.encoders.tensorflow.runtime import import_tensorflow
from gifdex.schemas.errors import WeightsError

# Keras 3.15 converts variables to arrays in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def model() -> Any:
    keras = import_tensorflow("a test").keras
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="late")(pixels)
    x = keras.layers.Conv2D(2, 3, name="early", use_bias=False)(x)
    x = keras.layers.Dense(12, name="top")(keras.layers.Flatten()(x))
    return keras.Model(pixels, x)


def save_keras3(model: Any, folder: Path) -> Path:
    model.save_weights(folder / "a.weights.h5")
    return folder / "a.weights.h5"


def save_whole_model(model: Any, folder: Path) -> Path:
    model.save(folder / "a.h5")
    return folder / "a.h5"


def save_legacy(model: Any, folder: Path) -> Path:
    """Save in the layout of Keras 1 and 2, which keras-applications publishes."""
    with h5py.File(folder / "legacy.h5", "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}_W_{number}:0" for number in range(len(layer.weights))]
            group.attrs["weight_names"] = np.array([name.encode() for name in names], "S40")
            for name, array in zip(names, layer.get_weights(), strict=True):
                group[name] = array
    return folder / "legacy.h5"


Save = Callable[[Any, Path], Path]


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("save", [save_keras3, save_whole_model, save_legacy])
def test_every_layout_gives_the_models_arrays_by_layer(model: Any, save: Save, tmp_path: Path) -> None:
    path = save(model, tmp_path)
    found = keras_weights.shapes(path, {})
    assert found == {"late": [(3, 3, 3, 4), (4,)], "early": [(3, 3, 4, 2)], "top": [(32, 12), (12,)]}
    for layer in found:
        for read, right in zip(keras_weights.read(path, layer, {}), model.get_layer(layer).get_weights(), strict=True):
            assert read.dtype == np.float32
            np.testing.assert_array_equal(read, right)


def complaint(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        keras_weights.shapes(path, {})
    return str(caught.value)


def test_a_file_that_is_not_hdf5_is_refused_and_its_first_bytes_shown(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_text("<html>not found</html>")
    assert "is not an HDF5 file (it begins with b'<html>no')" in complaint(path)
    path.write_bytes(b"")
    assert "is not an HDF5 file" in complaint(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert f"cannot read the weights file {tmp_path / 'x.h5'}: No such file" in complaint(tmp_path / "x.h5")
    assert "Is a directory" in complaint(tmp_path)


def test_a_file_truncated_anywhere_is_refused(model: Any, tmp_path: Path) -> None:
    whole = save_keras3(model, tmp_path).read_bytes()
    path = tmp_path / "cut.h5"
    for size in (9, 100, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert str(path) in complaint(path)
    assert f"is cut short: it ends after {len(whole) - 1:,} bytes" in complaint(path)


def test_a_file_altered_anywhere_is_refused_or_read(model: Any, tmp_path: Path) -> None:
    whole = save_keras3(model, tmp_path).read_bytes()
    path = tmp_path / "altered.h5"
    random = np.random.default_rng(3)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for place in random.integers(8, len(data), 8):
            data[place] ^= 0xFF
        path.write_bytes(data)
        try:  # without checksums the numbers may be wrong, but nothing else may happen
            for layer in keras_weights.shapes(path, {}):
                keras_weights.read(path, layer, {})
        except WeightsError:
            refused += 1
    assert refused > 10


def test_hdf5_without_weights_is_an_error_that_lists_its_content(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["temperature"] = np.zeros(3)
    assert "without Keras weights (it has 'temperature')" in complaint(tmp_path / "x.h5")


def test_without_names_the_given_order_identifies_layers_of_one_class(model: Any, tmp_path: Path) -> None:
    """The first versions of Keras 3 wrote such files."""
    path = save_keras3(model, tmp_path)
    with h5py.File(path, "r+") as file:
        for group in file["layers"].values():
            del group["vars"].attrs["name"]
    order = {"conv2d": ["late", "early"], "dense": ["top"]}
    assert keras_weights.shapes(path, order) == {
        "late": [(3, 3, 3, 4), (4,)],
        "early": [(3, 3, 4, 2)],
        "top": [(32, 12), (12,)],
    }
    np.testing.assert_array_equal(keras_weights.read(path, "early", order)[0], model.get_layer("early").kernel.numpy())
    assert set(keras_weights.shapes(path, {"conv2d": ["late"]})) == {"late", "conv2d_1", "dense"}


def test_objects_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "layers.h5", "w") as file:
        file["layers"] = np.zeros(3)
    assert "is damaged" in complaint(tmp_path / "layers.h5")
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file.create_group("layers/conv2d/vars/0")
    assert "is damaged" in complaint(tmp_path / "group.h5")
    with h5py.File(tmp_path / "name.h5", "w") as file:
        file["two\nlines"] = np.zeros(3)
    assert "\n" not in complaint(tmp_path / "name.h5")
