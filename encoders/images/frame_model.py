"""What image encoders in TensorFlow share: batches of one shape, precision, and handling of low memory."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gifdex.encoders.base import Classifier, FloatArray, Frames, ImageEncoderOptions
from gifdex.encoders.tensorflow.runtime import (
    default_batch_frames,
    fastest_precision,
    import_keras,
    import_tensorflow,
)
from gifdex.schemas.errors import EncoderError

# The minimum cosine between a test frame's features in a lower precision and in float32.
MIN_COSINE = 0.9999
_PROBES = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Compiled:
    """The model for one batch size: uint8 (batch, height, width, 3) to float32 (batch, d)."""

    batch: int
    run: Callable[[Frames], Any]

    def __call__(self, frames: Frames) -> FloatArray:
        """Encode any number of frames; the last batch is padded."""
        return np.concatenate([self._one(frames[at : at + self.batch]) for at in range(0, len(frames), self.batch)])

    def _one(self, frames: Frames) -> FloatArray:
        count = len(frames)
        if count < self.batch:
            padded = np.zeros((self.batch, *frames.shape[1:]), np.uint8)
            padded[:count] = frames
            frames = padded
        features: FloatArray = self.run(frames).numpy()[:count]
        return features


class FrameModel(ABC):
    """uint8 RGB frames to float32 features by a TensorFlow model, which is built at the first call, under a lock.

    Batches have one fixed shape (the last one is padded), so a frame's features do not depend on the frames around
    it. If a batch does not fit into memory, its size is halved once.
    """

    def __init__(self, options: ImageEncoderOptions | None = None) -> None:
        self._options = options or ImageEncoderOptions()
        self._lock = threading.Lock()
        self._compiled: _Compiled | None = None
        self._halved = False

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in the registry and the manifest."""

    @property
    @abstractmethod
    def dimensions(self) -> int:
        """Size of a vector."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of the architecture, the weights' bytes and the preprocessing."""

    @property
    @abstractmethod
    def frame_size(self) -> tuple[int, int]:
        """Height and width in pixels that frames must have."""

    @property
    @abstractmethod
    def precision(self) -> str:
        """The precision that the model runs in: float32, bfloat16 or float16."""

    @abstractmethod
    def _load(self, tf: Any) -> Callable[[Any], Any]:
        """Return the forward pass, from a uint8 tensor (n, height, width, 3) to float32 (n, d); for a tf.function."""

    def classifier(self) -> Classifier | None:
        """Return the classifier the features were trained with, or None if there is none."""
        return None

    @cached_property
    def batch_frames(self) -> int:
        """The batch size, in frames: as requested, or what suits the device."""
        return self._options.batch_frames or default_batch_frames()

    def __call__(self, frames: Frames) -> FloatArray:
        """Encode uint8 RGB (n, height, width, 3) into float32 (n, d).

        Raises EncoderError for frames of another shape or type, a precision that changes the features, or too little
        memory.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != (*self.frame_size, 3):
            height, width = self.frame_size
            raise EncoderError(
                f"{self.name} was given {frames.dtype} frames of shape {frames.shape}; expected uint8 "
                f"(n, {height}, {width}, 3): resize the frames first"
            )
        if not len(frames):
            return np.zeros((0, self.dimensions), np.float32)
        tf = import_tensorflow(f"the image encoder {self.name}")
        with self._lock:  # two threads must not build it twice
            compiled = self._compiled = self._compiled or self._compile(tf, self.batch_frames)
        try:
            return compiled(frames)
        except tf.errors.ResourceExhaustedError as err:
            smaller = self._smaller(tf, compiled.batch, err)
        try:
            return smaller(frames)
        except tf.errors.ResourceExhaustedError as err:
            raise self._out_of_memory(smaller.batch) from err

    def _compile(self, tf: Any, batch: int) -> _Compiled:
        signature = [tf.TensorSpec((batch, *self.frame_size, 3), tf.uint8)]
        # No jit: on CPUs it makes VGG16 1.8 times slower and EfficientNet-Lite 30 times.
        return _Compiled(batch, tf.function(self._forward, input_signature=signature, autograph=False))

    @cached_property
    def _forward(self) -> Callable[[Any], Any]:
        tf = import_tensorflow(f"the image encoder {self.name}")
        try:
            return self._load(tf)
        except tf.errors.ResourceExhaustedError as err:
            raise self._does_not_fit() from err

    def _smaller(self, tf: Any, failed: int, err: Exception) -> _Compiled:
        """Return the model for half the failed batch size; another thread may have halved it already."""
        with self._lock:
            assert self._compiled is not None
            if self._compiled.batch == failed:
                if self._halved or failed == 1:
                    raise self._out_of_memory(failed) from err
                _log.warning(
                    "%s: batches of %d frames do not fit into memory; trying %d", self.name, failed, failed // 2
                )
                self._compiled, self._halved = self._compile(tf, failed // 2), True
            return self._compiled

    def _does_not_fit(self) -> EncoderError:
        return EncoderError(
            f"{self.name} does not fit into the device's memory: stop other programs that use it, or use a smaller "
            "encoder"
        )

    def _out_of_memory(self, batch: int) -> EncoderError:
        return EncoderError(
            f"{self.name} ran out of the device's memory with batches of {batch} frame{'s' if batch > 1 else ''}: "
            "lower --batch-frames, stop other programs that use the device, or use a smaller encoder"
        )


class KerasFrameModel(FrameModel):
    """A FrameModel of Keras layers, which can run in a lower precision than float32."""

    # The lower precisions that are known to preserve its features, the better one first.
    keeps_features: tuple[str, ...] = ()

    def __init__(self, options: ImageEncoderOptions | None = None) -> None:
        super().__init__(options)
        self._lower: Any = None
        self._min_cosine = float("nan")

    @abstractmethod
    def _build(self, keras: Any) -> Any:
        """Return the Keras model, with its weights, from preprocessed pixels to features."""

    @abstractmethod
    def _preprocess(self, tf: Any, pixels: Any) -> Any:
        """Convert RGB from 0 to 255, a float32 tensor, to the model's input."""

    @cached_property
    def precision(self) -> str:
        """The precision that the model runs in.

        `auto` is the one this machine's device is built for, if a test shows that it preserves the features.
        """
        asked = self._options.precision
        if asked != "auto":
            return asked
        fastest = fastest_precision(self.keeps_features)
        if fastest == "float32":
            return fastest
        try:
            if self._cosine(fastest) >= MIN_COSINE:
                return fastest
        except import_tensorflow(f"the image encoder {self.name}").errors.ResourceExhaustedError as err:
            raise self._does_not_fit() from err
        _log.warning("%s: %s would change the features; using float32", self.name, fastest)
        self._lower = None  # it is not used
        return "float32"

    def _load(self, tf: Any) -> Callable[[Any], Any]:
        if self.precision == "float32":
            return self._pass(tf, self._build(self._keras))
        cosine = self._cosine(self.precision)
        if not cosine >= MIN_COSINE:  # nan too
            raise EncoderError(
                f"{self.name} gives other features in {self.precision} than in float32: on a test frame their "
                f"cosine is {cosine:.5f}, expected at least {MIN_COSINE}; use --precision float32"
            )
        return self._pass(tf, self._lower)

    @property
    def _keras(self) -> Any:
        return import_keras(f"the image encoder {self.name}")

    def _pass(self, tf: Any, model: Any) -> Callable[[Any], Any]:
        def forward(frames: Any) -> Any:
            # Pooling and the output stay in float32.
            return tf.cast(model(self._preprocess(tf, tf.cast(frames, tf.float32)), training=False), tf.float32)

        return forward

    def _cosine(self, precision: str) -> float:
        """Build the model in a lower precision; return the lowest cosine of its features to those in float32."""
        if self._lower is None:
            tf, whole = import_tensorflow(f"the image encoder {self.name}"), self._build(self._keras)
            self._lower = in_precision(self._keras, whole, precision)
            probes = tf.constant(probe_frames(_PROBES, self.frame_size))
            reference, lower = (self._pass(tf, model)(probes).numpy() for model in (whole, self._lower))
            self._min_cosine = min_cosine(reference, lower)
        return self._min_cosine


def min_cosine(one: FloatArray, other: FloatArray) -> float:
    """Return the smallest cosine between corresponding rows, NaN if a row is zero or not finite."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return float(((one * other).sum(axis=1) / norms).min())


def in_precision(keras: Any, model: Any, precision: str) -> Any:
    """Return a copy of a Keras model whose layers hold their weights and compute in `precision`."""

    def convert(layer: Any) -> Any:
        config = {**layer.get_config(), "dtype": precision}
        if "kernel_initializer" in config:
            config["kernel_initializer"] = "zeros"  # random numbers take seconds and are overwritten anyway
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=convert)
    for new, old in zip(copy.variables, model.variables, strict=True):
        new.assign(old.value)
    return copy


def probe_frames(count: int, size: tuple[int, int]) -> Frames:
    """Return uint8 (count, height, width, 3), always the same test frames with the spectrum of photographs.

    Their amplitude falls with the spatial frequency (Field, "Relations between the statistics of natural images",
    1987); the phases are random.
    """
    height, width = size
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1.0 / np.maximum(frequency, 1.0 / max(size))
    phases = np.exp(2j * np.pi * random.random((count, *amplitude.shape, 3)))
    waves = np.fft.irfft2(amplitude[None, :, :, None] * phases, s=size, axes=(1, 2))
    waves -= waves.mean(axis=(1, 2), keepdims=True)
    waves /= waves.std(axis=(1, 2), keepdims=True)
    frames: Frames = np.clip(128.0 + 64.0 * waves, 0.0, 255.0).astype(np.uint8)
    return frames
