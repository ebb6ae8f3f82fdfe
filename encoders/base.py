"""The encoder protocols, fingerprints, and small helpers for vectors."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from gifdex.schemas.errors import UnknownWordsError

FloatArray = NDArray[np.float32]
Frames = NDArray[np.uint8]

# A single key: safetensors writes several in no fixed order, and equal content must give equal bytes.
METADATA_KEY = "gifdex"
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Classifier:
    """The last layer of a classifier over the encoder's features, and the names of its classes.

    `weight` is float32 (classes, d_image), `bias` float32 (classes,), and `labels` has one plain English name per
    class. `feature_mean` is float32 (d_image,), the features' expected value over the training photographs.
    """

    weight: FloatArray
    bias: FloatArray
    labels: tuple[str, ...]
    feature_mean: FloatArray

    @property
    def data(self) -> bytes:
        """The classifier as a safetensors file: the arrays under the names used here, the labels as metadata."""
        tensors = {"weight": self.weight, "bias": self.bias, "feature_mean": self.feature_mean}
        return safetensors_bytes(tensors, {"labels": self.labels})


@dataclass(frozen=True)
class ImageEncoderOptions:
    """Options of an image encoder.

    `weights` is a file that replaces the encoder's own weights. `precision` is one of PRECISIONS; `auto` chooses a
    lower one if the device is built for it and the features stay the same. `batch_frames` is the batch size; the
    default suits the device.
    """

    weights: Path | None = None
    precision: str = "auto"
    batch_frames: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"the precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}")
        if self.batch_frames is not None and self.batch_frames < 1:
            raise ValueError(f"batch_frames is {self.batch_frames}; expected at least 1")


def safetensors_bytes(tensors: Mapping[str, FloatArray], metadata: Mapping[str, Any]) -> bytes:
    """Return tensors, as float32, and JSON metadata as a safetensors file; equal content gives equal bytes."""
    contiguous = {name: np.ascontiguousarray(tensors[name], np.float32) for name in sorted(tensors)}
    return save(contiguous, metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True)})


class ImageEncoder(Protocol):
    """Turns frames into features. Constructing one is cheap; the first call may load a model."""

    @property
    def name(self) -> str:
        """Its name in the registry and the manifest."""

    @property
    def dimensions(self) -> int:
        """Size of a vector."""

    @property
    def fingerprint(self) -> str:
        """Hash of the architecture, the weights' bytes and the preprocessing."""

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width in pixels that frames must have."""

    @property
    def precision(self) -> str:
        """What it computes in: float32, bfloat16 or float16. Features in two precisions have a cosine near one."""

    @property
    def batch_frames(self) -> int:
        """The batch size, in frames."""

    def __call__(self, frames: Frames) -> FloatArray:
        """Encode uint8 RGB (n, height, width, 3) into float32 (n, dimensions); n may be anything."""

    def classifier(self) -> Classifier | None:
        """Return the classifier the features were trained with, or None if there is none."""


class TextEncoder(Protocol):
    """Turns sentences into vectors. Constructing one is cheap; the first call may load a model."""

    @property
    def name(self) -> str:
        """Its name in the registry and the manifest."""

    @property
    def dimensions(self) -> int:
        """Size of a vector."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that shapes the vectors."""

    def __call__(self, sentences: Sequence[str]) -> FloatArray:
        """Encode n sentences into float32 (n, dimensions)."""


def encode_known(encoder: TextEncoder, sentences: Sequence[str]) -> tuple[list[int], FloatArray]:
    """Encode the sentences with at least one known word; return their indexes (k,) and vectors (k, d)."""
    places = list(range(len(sentences)))
    try:
        return places, encoder(sentences)
    except UnknownWordsError as err:
        unknown = set(err.positions)
        known = [place for place in places if place not in unknown]
        if len(known) == len(places):
            raise
        return known, encoder([sentences[place] for place in known])


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fingerprint(values: Mapping[str, Any]) -> str:
    """Return a hash of JSON values as 16 hexadecimal digits; equal values give equal digits."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def unit(vectors: NDArray[Any]) -> FloatArray:
    """Scale each row of (..., d) to length one, as float32; a zero row stays zero.

    Divides in float64: float32 loses the last digit for long vectors.
    """
    wide = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    result: FloatArray = np.divide(wide, length, out=np.zeros_like(wide), where=length > 0).astype(np.float32)
    return result
