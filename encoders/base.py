"""What an encoder is, and how anything that shapes its vectors is fingerprinted."""

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

# One key, because safetensors keeps several in no fixed order and a file must have the same bytes each time.
FACTS_KEY = "gifdex"
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Classifier:
    """The last layer of a classifier over the encoder's features, and what its classes are called.

    `weight` is float32 (classes, d_image), `bias` float32 (classes,), `labels` one plain English name a
    class. `feature_mean` is float32 (d_image,), the features' expected value over the training photographs.
    """

    weight: FloatArray
    bias: FloatArray
    labels: tuple[str, ...]
    feature_mean: FloatArray

    @property
    def data(self) -> bytes:
        """The classifier as a safetensors file's bytes: the arrays by their names here, and the labels as facts."""
        tensors = {"weight": self.weight, "bias": self.bias, "feature_mean": self.feature_mean}
        return safetensors_bytes(tensors, {"labels": self.labels})


@dataclass(frozen=True)
class ImageEncoderOptions:
    """How an image encoder is made.

    `weights` is a file to load instead of what the encoder comes with. `precision` is one of PRECISIONS; `auto` takes a
    lower one where the device is built for it and the encoder's features stay the same. `batch_frames` run at a time,
    by default what suits the device.
    """

    weights: Path | None = None
    precision: str = "auto"
    batch_frames: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"the precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}")
        if self.batch_frames is not None and self.batch_frames < 1:
            raise ValueError(f"batch_frames is {self.batch_frames}; expected at least 1")


def safetensors_bytes(tensors: Mapping[str, FloatArray], facts: Mapping[str, Any]) -> bytes:
    """Return tensors, as float32, and JSON facts as a safetensors file; equal ones give equal bytes."""
    contiguous = {name: np.ascontiguousarray(tensors[name], np.float32) for name in sorted(tensors)}
    return save(contiguous, metadata={FACTS_KEY: json.dumps(facts, sort_keys=True)})


class ImageEncoder(Protocol):
    """Turns frames into features. Constructing one is cheap; the first call may load a model."""

    @property
    def name(self) -> str:
        """What the registry and the manifest call it."""

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
        """What it computes in: float32, bfloat16 or float16. Features of two precisions have a cosine near one."""

    @property
    def batch_frames(self) -> int:
        """How many frames it runs at a time."""

    def __call__(self, frames: Frames) -> FloatArray:
        """Encode uint8 RGB (n, height, width, 3) into float32 (n, dimensions); n may be anything."""

    def classifier(self) -> Classifier | None:
        """Return the classifier the features were trained with, or None where there is none."""


class TextEncoder(Protocol):
    """Turns sentences into vectors. Constructing one is cheap; the first call may load a model."""

    @property
    def name(self) -> str:
        """What the registry and the manifest call it."""

    @property
    def dimensions(self) -> int:
        """Size of a vector."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that shapes the vectors."""

    def __call__(self, sentences: Sequence[str]) -> FloatArray:
        """Encode n sentences into float32 (n, dimensions)."""


def encode_known(encoder: TextEncoder, sentences: Sequence[str]) -> tuple[list[int], FloatArray]:
    """Encode the sentences that the encoder knows a word of; return their places (k,) and vectors (k, d)."""
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
    """Return how many processors this process may use: no more threads than that are worth starting."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fingerprint(values: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that stand for JSON values; equal values, equal digits."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def unit(vectors: NDArray[Any]) -> FloatArray:
    """Scale each row of (..., d) to length one, as float32; a zero row stays zero.

    The division is done in float64: float32 loses the last digit for long vectors.
    """
    wide = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    result: FloatArray = np.divide(wide, length, out=np.zeros_like(wide), where=length > 0).astype(np.float32)
    return result
