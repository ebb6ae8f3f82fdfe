"""What all kinds of projections share: tensors, metadata, and the file format."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gifdex.encoders.base import FloatArray, safetensors_bytes
from gifdex.schemas.errors import ProjectionError
from gifdex.schemas.files import commit_bytes


@dataclass(frozen=True)
class Projection(ABC):
    """Maps features (n, d_image) and sentence vectors (n, d_text) to unit vectors (n, d) of one joint space.

    Each kind is a subclass with a name (`kind`) and the axes of its `tensors` (`AXES`, one letter per axis: i for image
    features, t for text vectors, d for the joint space, c for classes). `metadata` are JSON values about the
    projection's origin: the encoders' names and fingerprints, the training data and the scores.

    Raises ProjectionError for tensors that are missing, do not fit together, or have values that are not finite.
    """

    kind: ClassVar[str]
    AXES: ClassVar[Mapping[str, str]]

    tensors: Mapping[str, FloatArray]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.tensors) != set(self.AXES):
            raise ProjectionError(
                f"a {self.kind} projection was given the tensors {sorted(self.tensors)}; expected {sorted(self.AXES)}"
            )
        self._check_shapes()
        for name, tensor in self.tensors.items():
            if not np.isfinite(tensor).all():
                raise ProjectionError(f"the projection's tensor {name} has values that are not finite: fit it again")

    @property
    @abstractmethod
    def dimensions(self) -> int:
        """Size of the joint space."""

    @property
    @abstractmethod
    def image_dimensions(self) -> int:
        """Size of the features it takes."""

    @property
    @abstractmethod
    def text_dimensions(self) -> int:
        """Size of the sentence vectors it takes."""

    @abstractmethod
    def _map_images(self, features: FloatArray) -> FloatArray:
        """Map features of the right width to unit embeddings."""

    @abstractmethod
    def _map_texts(self, vectors: FloatArray) -> FloatArray:
        """Map sentence vectors of the right width to unit embeddings."""

    @cached_property
    def data(self) -> bytes:
        """The file's bytes: equal projections give equal bytes."""
        return safetensors_bytes(self.tensors, {**self.metadata, "kind": self.kind})

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the file's bytes."""
        return hashlib.sha256(self.data).hexdigest()[:16]

    def embed_images(self, features: FloatArray) -> FloatArray:
        """Map features float32 (n, d_image) to unit embeddings float32 (n, d)."""
        _check_width("features", features, self.image_dimensions)
        return self._map_images(features)

    def embed_texts(self, vectors: FloatArray) -> FloatArray:
        """Map sentence vectors float32 (n, d_text) to unit embeddings float32 (n, d)."""
        _check_width("sentence vectors", vectors, self.text_dimensions)
        return self._map_texts(vectors)

    def save(self, path: Path) -> None:
        """Write the projection to `path` as safetensors, whole or not at all."""
        commit_bytes(path, self.data)

    def _check_shapes(self) -> None:
        sizes: dict[str, int] = {}
        for name, axes in self.AXES.items():
            shape = self.tensors[name].shape
            if len(shape) != len(axes) or any(sizes.setdefault(a, n) != n for a, n in zip(axes, shape, strict=True)):
                shapes = ", ".join(f"{other} {self.tensors[other].shape}" for other in self.AXES)
                raise ProjectionError(
                    f"the tensor {name} of a {self.kind} projection does not fit the others: {shapes}"
                )


def _check_width(what: str, vectors: FloatArray, expected: int) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != expected:
        raise ProjectionError(
            f"the projection was given {what} of shape {vectors.shape}; expected (n, {expected}): "
            "use the encoders it was fitted for"
        )
