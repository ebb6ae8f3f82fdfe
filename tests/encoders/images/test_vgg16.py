"""The image encoder vgg16, compared with Keras' own model, and the files that it refuses."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gifdex.encoders.base import Frames, ImageEncoderOptions
from gifdex.encoders.images.frame_model import probe_frames
from gifdex.encoders.images.vgg16 import VGG16, WEIGHTS_NAME, check_weights, find_weights
from gifdex.encoders.registry import image_encoder
from gifdex.encoders.tensorflow.runtime import cpu_has_amx, gpu_capabilities, import_tensorflow
from gifdex.schemas.errors import EncoderError, WeightsError

# Keras' saving warns, see test_keras_weights.py
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def vgg16(path: Path, precision: str = "float32", batch_frames: int = 4) -> VGG16:
    return VGG16(ImageEncoderOptions(path, precision, batch_frames))


@pytest.fixture(scope="module")
def encoder(vgg16_file: Path) -> VGG16:
    return vgg16(vgg16_file)


@pytest.fixture(scope="module")
def frames() -> Frames:
    return probe_frames(5, (224, 224))


@pytest.fixture(scope="module")
def expected(keras_vgg16: Any, frames: Frames) -> np.ndarray:
    """fc2 of Keras' own model, on frames preprocessed by Keras' own function."""
    keras = import_tensorflow("a test").keras
    fc2 = keras.Model(keras_vgg16.input, keras_vgg16.get_layer("fc2").output)
    return np.asarray(fc2(keras.applications.vgg16.preprocess_input(frames.astype(np.float32))))


def test_features_are_those_of_keras_own_model(encoder: VGG16, frames: Frames, expected: np.ndarray) -> None:
    features = encoder(frames)
    assert features.dtype == np.float32
    assert features.shape == (5, 4096)
    assert 0.2 < (features > 0).mean() < 0.8, "fc2 comes after the activation"
    assert np.abs(features - expected).max() < 1e-4 * expected.max()
    assert np.linalg.norm(features - expected) < 1e-4 * np.linalg.norm(expected)


def test_bfloat16_keeps_the_features(vgg16_file: Path, frames: Frames, expected: np.ndarray) -> None:
    if not (cpu_has_amx() or gpu_capabilities()):
        pytest.skip("without AMX or a GPU, bfloat16 takes minutes")
    lower = vgg16(vgg16_file, "auto")
    assert lower.precision == "bfloat16"
    features = lower(frames)
    assert features.dtype == np.float32
    cosines = (features * expected).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(expected, axis=1)
    assert 0.9999 <= cosines.min() <= cosines.max() < 0.9999999, "expected lower precision, but close features"


def test_the_classifier_is_the_models_last_layer(encoder: VGG16, keras_vgg16: Any) -> None:
    classifier = encoder.classifier()
    kernel, bias = keras_vgg16.get_layer("predictions").get_weights()
    np.testing.assert_array_equal(classifier.weight, kernel.T)
    np.testing.assert_array_equal(classifier.bias, bias)
    assert classifier.weight.shape == (1000, 4096)
    assert classifier.labels[281] == "tabby cat"
    assert classifier.feature_mean.shape == (4096,)


def test_the_fingerprint_depends_on_the_bytes_of_the_weights(encoder: VGG16, vgg16_file: Path, tmp_path: Path) -> None:
    assert vgg16(vgg16_file, "bfloat16").fingerprint == encoder.fingerprint, "precision is not part of the fingerprint"
    copy = Path(shutil.copy(vgg16_file, tmp_path / "moved.h5"))
    assert vgg16(copy).fingerprint == encoder.fingerprint
    with h5py.File(copy, "r+") as file:
        biases = next(vars_ for group in file["layers"].values() for vars_ in [group["vars"]] if len(vars_))["1"]
        biases[0] += 1
    assert vgg16(copy).fingerprint != encoder.fingerprint


def link_to(vgg16_file: Path, path: Path) -> None:
    """Make a small file with the same layers, whose arrays are links to the full file."""
    with h5py.File(vgg16_file) as source, h5py.File(path, "w") as file:
        groups = [group["vars"] for group in source["layers"].values() if len(group.get("vars", ()))]
        for place, group in enumerate(groups):
            target = file.create_group(f"layers/{place}/vars")
            target.attrs["name"] = group.attrs["name"]
            for number in group:
                target[number] = h5py.ExternalLink(str(vgg16_file), f"{group.name}/{number}")


def complaint(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        _ = vgg16(path).fingerprint
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_truncated_and_no_top_files_have_different_errors(vgg16_file: Path, tmp_path: Path) -> None:
    keras = import_tensorflow("a test").keras
    wrong, text, cut, top = (tmp_path / name for name in ("wrong.weights.h5", "t.h5", "cut.h5", "top.weights.h5"))
    pixels = keras.Input((8, 8, 3))
    keras.Model(pixels, keras.layers.Conv2D(64, 3, name="block1_conv1")(pixels)).save_weights(wrong)
    assert "is not VGG16: expected the layer block1_conv2" in complaint(wrong)
    text.write_text("not found")
    assert "is not an HDF5 file" in complaint(text)
    with vgg16_file.open("rb") as stream:
        cut.write_bytes(stream.read(1_000_000))
    assert "is cut short: it ends after 1,000,000 bytes" in complaint(cut)
    keras.applications.VGG16(weights=None, include_top=False).save_weights(top)
    assert "is VGG16 without its top (no layer fc1, fc2, predictions)" in complaint(top)


def test_vgg19_weights_are_refused(keras_vgg16: Any, vgg16_file: Path, tmp_path: Path) -> None:
    """VGG19 has every layer of VGG16 and three more."""
    path = tmp_path / "vgg19.h5"
    link_to(vgg16_file, path)
    with h5py.File(path, "r+") as file:
        group = file.create_group("layers/more/vars")
        group.attrs["name"] = "block3_conv4"
        group["0"], group["1"] = np.zeros((3, 3, 256, 256), np.float32), np.zeros(256, np.float32)
    assert "it also has the layer 'block3_conv4'" in complaint(path)


def test_a_non_finite_classifier_is_an_error_that_names_the_file(vgg16_file: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(vgg16_file, tmp_path / "nan.h5"))
    with h5py.File(copy, "r+") as file:
        vars_ = [group["vars"] for group in file["layers"].values() if len(group["vars"])]
        next(v for v in vars_ if v["1"].shape == (1000,))["1"][3] = np.nan
    with pytest.raises(WeightsError, match=r"nan.h5 has numbers that are not finite in its layer predictions"):
        vgg16(copy).classifier()


def test_a_file_changed_after_hashing_is_not_read(vgg16_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    link_to(vgg16_file, path)
    encoder = vgg16(path)
    before = encoder.fingerprint
    link_to(vgg16_file, tmp_path / "new.h5")
    (tmp_path / "new.h5").replace(path)
    with pytest.raises(WeightsError, match=r"weights.h5 was changed while it was in use"):
        encoder.classifier()
    assert vgg16(path).classifier().weight.shape == (1000, 4096)
    assert encoder.fingerprint == before


def test_auto_falls_back_to_float32_where_other_precisions_change_the_features(
    vgg16_file: Path, frames: Frames, tmp_path: Path
) -> None:
    if not (cpu_has_amx() or gpu_capabilities()):
        pytest.skip("nothing here is faster than float32")
    copy = Path(shutil.copy(vgg16_file, tmp_path / "odd.h5"))
    with h5py.File(copy, "r+") as file:
        biases = [group["vars"]["1"] for group in file["layers"].values() if len(group["vars"])]
        fc2 = [bias for bias in biases if bias.shape == (4096,)][1]
        whole = vgg16(vgg16_file)(frames)
        fc2[...] = fc2[...] - 3 * whole.max()  # leaves few activations, all of them small differences
        fc2[:8] = fc2[:8] + 3 * whole.max() - whole[:, :8].min(axis=0) * 0.999
    encoder = vgg16(copy, "auto")
    assert encoder.precision == "float32"
    assert encoder(frames).dtype == np.float32
    with pytest.raises(EncoderError, match="gives other features in bfloat16"):
        vgg16(copy, "bfloat16")(frames)


def test_a_layer_of_another_shape_is_refused(tmp_path: Path) -> None:
    keras = import_tensorflow("a test").keras
    pixels = keras.Input((8, 8, 3))
    first = keras.layers.Conv2D(32, 3, name="block1_conv1")(pixels)
    keras.Model(pixels, first).save_weights(tmp_path / "narrow.weights.h5")
    found = complaint(tmp_path / "narrow.weights.h5")
    assert "arrays of (3, 3, 3, 64), (64,), found arrays of (3, 3, 3, 32), (32,)" in found


def test_a_file_of_the_official_size_must_have_the_official_md5(vgg16_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "resized.h5"
    link_to(vgg16_file, path)
    check_weights(path)
    with path.open("r+b") as stream:
        stream.truncate(553_467_096)
    with pytest.raises(
        WeightsError, match=r"has the size of the official weights, but the MD5 [0-9a-f]{32}; expected 6437"
    ):
        check_weights(path)


def test_weights_are_searched_in_the_environments_folder_and_then_in_keras_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "keras"
    monkeypatch.setenv("KERAS_HOME", str(theirs))
    monkeypatch.setenv("GIFDEX_WEIGHTS", str(ours))
    with pytest.raises(WeightsError, match=f"GIFDEX_WEIGHTS is {ours}, which is not a folder"):
        find_weights()
    ours.mkdir()
    assert find_weights() is None
    (theirs / "models").mkdir(parents=True)
    (theirs / "models" / WEIGHTS_NAME).write_text("on its way")
    assert find_weights() is None, "an aborted or unfinished download does not count"
    os.truncate(theirs / "models" / WEIGHTS_NAME, 553_467_096)
    assert find_weights() == theirs / "models" / WEIGHTS_NAME
    (ours / WEIGHTS_NAME).write_text("ours")
    assert find_weights() == ours / WEIGHTS_NAME
    with pytest.raises(WeightsError, match=f"{WEIGHTS_NAME} is not an HDF5 file"):
        _ = image_encoder("vgg16").fingerprint


def test_without_weights_and_network_the_error_says_where_to_put_which_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("GIFDEX_WEIGHTS", str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there, whatever network the machine has
    with pytest.raises(WeightsError) as caught:
        _ = VGG16().fingerprint
    for part in (f"it is not in {tmp_path / 'mine'} (GIFDEX_WEIGHTS)", WEIGHTS_NAME, "553,467,096 bytes", "--weights"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == "", "stdout is for results"
    assert not list(tmp_path.rglob("*.h5")), "no partial download may have the final name"
