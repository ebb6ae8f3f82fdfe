"""The image encoder `vgg16`: 4096 activations of keras-applications' VGG16, after the second fully connected layer.

Architecture and weights: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition"
(2014, arXiv:1409.1556), as keras-applications publishes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gifdex.encoders.base import Classifier, FloatArray, fingerprint
from gifdex.encoders.images import keras_weights
from gifdex.encoders.images.frame_model import KerasFrameModel
from gifdex.encoders.images.imagenet import imagenet_labels
from gifdex.encoders.tensorflow.runtime import import_keras
from gifdex.schemas.errors import WeightsError
from gifdex.schemas.files import TEMPORARY_PREFIX, absolute, sha256_file

WEIGHTS_FOLDER = "GIFDEX_WEIGHTS"
WEIGHTS_NAME = "vgg16_weights_tf_dim_ordering_tf_kernels.h5"
_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{WEIGHTS_NAME}"
_BYTES, _MD5 = 553_467_096, "64373286793e3c8b2b4e3219cbf3544b"

_SIDE = 224
# Convolutions (3 x 3) per block and their channels; each block ends with pooling that halves the side.
_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
_TOP = {"fc1": (7 * 7 * 512, 4096), "fc2": (4096, 4096), "predictions": (4096, 1000)}


def _convolutions() -> dict[str, tuple[int, ...]]:
    """Return the shape of each convolution's kernel, by the layer's name in Keras."""
    kernels: dict[str, tuple[int, ...]] = {}
    channels = 3
    for block, (count, width) in enumerate(_BLOCKS, start=1):
        for number in range(1, count + 1):
            kernels[f"block{block}_conv{number}"] = (3, 3, channels, width)
            channels = width
    return kernels


_KERNELS = {**_convolutions(), **_TOP}
_ORDER = {"conv2d": list(_convolutions()), "dense": list(_TOP)}


def find_weights() -> Path | None:
    """Return the official file in the folder GIFDEX_WEIGHTS or where Keras keeps its downloads, or None."""
    if given := os.environ.get(WEIGHTS_FOLDER):
        folder = absolute(given)
        if not folder.is_dir():
            raise WeightsError(
                f"{WEIGHTS_FOLDER} is {given}, which is not a folder; expected the folder of {WEIGHTS_NAME}"
            )
        if (folder / WEIGHTS_NAME).is_file():
            return folder / WEIGHTS_NAME
    downloaded = absolute(os.environ.get("KERAS_HOME") or "~/.keras") / "models" / WEIGHTS_NAME
    # Another size means that a download is under way or was interrupted.
    return downloaded if downloaded.is_file() and downloaded.stat().st_size == _BYTES else None


def _download() -> Path:
    keras = import_keras("the image encoder vgg16")
    temporary = f"{TEMPORARY_PREFIX}{os.getpid()}-{WEIGHTS_NAME}"  # Keras itself writes in place
    try:
        with contextlib.redirect_stdout(sys.stderr):  # its progress bar; stdout is for results
            path = Path(keras.utils.get_file(temporary, _URL, cache_subdir="models", file_hash=_MD5))
        return path.replace(path.with_name(WEIGHTS_NAME))
    except Exception as err:  # Keras raises the transfer's errors, and plain Exceptions
        folder = os.environ.get(WEIGHTS_FOLDER)
        where = f"it is not in {folder} ({WEIGHTS_FOLDER})" if folder else f"{WEIGHTS_FOLDER} is not set"
        raise WeightsError(
            f"vgg16 has no weights: --weights was not given, {where}, and the download failed "
            f"({' '.join(str(err).split())[:200]}): download {WEIGHTS_NAME} ({_BYTES:,} bytes) from {_URL}, then set "
            f"{WEIGHTS_FOLDER} to its folder, or name the file with --weights"
        ) from err


def check_weights(path: Path) -> None:
    """Raise WeightsError if a file is not the whole VGG16, with a message for each kind of mistake."""
    found = keras_weights.shapes(path, _ORDER)
    if _convolutions().keys() <= found.keys() and not _TOP.keys() & found.keys():
        raise WeightsError(
            f"{path} is VGG16 without its top (no layer {', '.join(_TOP)}), but features come from fc2; expected the "
            f"full model, such as {WEIGHTS_NAME}: choose that file"
        )
    for layer, kernel in _KERNELS.items():
        expected = [kernel, kernel[-1:]]
        if (given := found.get(layer)) != expected:
            what = "no such layer" if given is None else f"arrays of {', '.join(map(str, given))}"
            raise WeightsError(
                f"{path} is not VGG16: expected the layer {layer} with arrays of {expected[0]}, "
                f"{expected[1]}, found {what}: choose another file"
            )
    if more := sorted(found.keys() - _KERNELS.keys()):
        raise WeightsError(
            f"{path} is not VGG16: it also has the layer {more[0]!r} (VGG19 has block3_conv4): choose another file"
        )
    if path.stat().st_size == _BYTES:
        with path.open("rb") as stream:
            md5 = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if md5 != _MD5:
            raise WeightsError(
                f"{path} has the size of the official weights, but the MD5 {md5}; expected {_MD5}: download it "
                "again, or save weights of your own as .weights.h5"
            )


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


class VGG16(KerasFrameModel):
    """uint8 RGB frames of 224 x 224 to float32 features of 4096 dimensions, none negative."""

    name = "vgg16"
    dimensions = 4096
    frame_size = (_SIDE, _SIDE)
    # The cosine is above .9999 in both; bfloat16 first, because activations might exceed float16's maximum of 65,504.
    keeps_features = ("bfloat16", "float16")

    @cached_property
    def _path(self) -> Path:
        """The weights file, checked; downloaded if there is none."""
        path = self._options.weights or find_weights() or _download()
        check_weights(path)
        return path

    @cached_property
    def _hashed(self) -> tuple[str, tuple[int, int, int]]:
        """The file's SHA-256, and the stamp of the file that was hashed."""
        stamp = _stamp(self._path)
        return sha256_file(self._path), stamp

    def _read(self, layer: str) -> list[FloatArray]:
        """Read a layer's arrays; raises WeightsError if the file changed since it was hashed."""
        arrays = keras_weights.read(self._path, layer, _ORDER)
        if _stamp(self._path) != self._hashed[1]:
            raise WeightsError(f"{self._path} was changed while it was in use: run again")
        return arrays

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the architecture, the weights' bytes and the preprocessing."""
        recipe = {
            "encoder": self.name,
            "layer": "fc2, after ReLU",
            "weights": self._hashed[0],
            "preprocessing": {"mode": "caffe", "size": self.frame_size},
            "revision": 1,
        }
        return fingerprint(recipe)

    def _build(self, keras: Any) -> Any:
        model = keras.applications.VGG16(weights=None)
        for layer in _KERNELS:  # one at a time: they are half a gigabyte
            model.get_layer(layer).set_weights(self._read(layer))
        return keras.Model(model.input, model.get_layer("fc2").output)

    def _preprocess(self, tf: Any, pixels: Any) -> Any:
        # BGR, minus the training photographs' mean: Keras' own function for this model
        return tf.keras.applications.vgg16.preprocess_input(pixels)

    def classifier(self) -> Classifier:
        """Return the ImageNet classifier over these features.

        The model does not contain the features' mean over the training photographs, so `feature_mean` is zero. It
        matters little: efficientnet-lite0 ranks 36 of 64 clips first without its mean, and 37 with it.
        """
        kernel, bias = self._read("predictions")
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise WeightsError(
                f"{self._path} has numbers that are not finite in its layer predictions: choose another file"
            )
        mean = np.zeros(self.dimensions, np.float32)
        return Classifier(np.ascontiguousarray(kernel.T), bias, imagenet_labels(self.name), mean)
