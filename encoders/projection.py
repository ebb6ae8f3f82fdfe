"""The trained maps from image features and sentence vectors into the joint space, and their file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from gifdex.encoders.base import FACTS_KEY, FloatArray, safetensors_bytes, unit
from gifdex.schemas.errors import ProjectionError
from gifdex.schemas.files import commit_bytes

# kind -> tensor -> its axes, a letter each: image features, text vectors, joint space d, classes.
_TENSORS = {
    "linear": {"image_center": "i", "image_map": "id", "text_center": "t", "text_map": "td"},
    "zero-shot": {
        "image_center": "i",
        "image_map": "id",
        "classifier_weight": "ci",
        "classifier_bias": "c",
        "label_embeddings": "cd",
        "text_center": "d",
    },
}


@dataclass(frozen=True)
class Projection:
    """Maps features (n, d_image) and sentence vectors (n, d_text) to unit vectors (n, d) of one joint space.

    `kind` says how. With x the features, s a sentence vector, c the centers and u(v) = v / |v|:

    - ``linear``: u((x - c_image) image_map) and u((s - c_text) text_map);
    - ``zero-shot``: u(u((x - c_image) image_map) + u(p label_embeddings)) with p the classifier's class
      probabilities softmax(classifier_weight x + classifier_bias), and u(s - c_text).

    `facts` are JSON values that say where it came from: the encoders' names and fingerprints, the training
    data and the scores.
    """

    kind: str
    tensors: Mapping[str, FloatArray]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in _TENSORS:
            raise ProjectionError(f"a projection of kind {self.kind!r} was given; expected one of {sorted(_TENSORS)}")
        if set(self.tensors) != set(_TENSORS[self.kind]):
            raise ProjectionError(
                f"a {self.kind} projection was given the tensors {sorted(self.tensors)}; "
                f"expected {sorted(_TENSORS[self.kind])}"
            )
        _check_shapes(self.kind, self.tensors)
        bad = [name for name, tensor in self.tensors.items() if not np.isfinite(tensor).all()]
        if bad:
            raise ProjectionError(f"the projection's tensor {bad[0]} has values that are not finite: fit it again")

    @property
    def dimensions(self) -> int:
        """Size of the joint space."""
        return int(self.tensors["image_map"].shape[1])

    @property
    def image_dimensions(self) -> int:
        """Size of the features it takes."""
        return int(self.tensors["image_map"].shape[0])

    @property
    def text_dimensions(self) -> int:
        """Size of the sentence vectors it takes."""
        return int(self.tensors["text_center"].shape[0])

    @cached_property
    def data(self) -> bytes:
        """The file's bytes: equal projections give equal bytes."""
        return safetensors_bytes(self.tensors, {**self.facts, "kind": self.kind})

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the file's bytes."""
        return hashlib.sha256(self.data).hexdigest()[:16]

    def embed_images(self, features: FloatArray) -> FloatArray:
        """Map features float32 (n, d_image) to unit embeddings float32 (n, d)."""
        _check_width("features", features, self.image_dimensions)
        t = self.tensors
        embedding = unit((features - t["image_center"]) @ t["image_map"])
        if self.kind == "linear":
            return embedding
        logits = features @ t["classifier_weight"].T + t["classifier_bias"]
        logits -= logits.max(axis=1, keepdims=True)
        probabilities = np.exp(logits)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return unit(embedding + unit(probabilities @ t["label_embeddings"]))

    def embed_texts(self, vectors: FloatArray) -> FloatArray:
        """Map sentence vectors float32 (n, d_text) to unit embeddings float32 (n, d)."""
        _check_width("sentence vectors", vectors, self.text_dimensions)
        centred = vectors - self.tensors["text_center"]
        return unit(centred @ self.tensors["text_map"] if self.kind == "linear" else centred)

    def save(self, path: Path) -> None:
        """Write the projection to `path` as safetensors, whole or not at all."""
        commit_bytes(path, self.data)


def load(path: Path) -> Projection:
    """Read a projection file; raises ProjectionError that names the file and what is wrong with it."""
    try:
        with safe_open(path, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            if FACTS_KEY not in metadata:
                raise ProjectionError(
                    f"{path} is a safetensors file but holds no gifdex projection: choose another file"
                )
            # safe_open is no mapping: it has keys() and no iteration
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, TypeError) as err:  # TypeError: an element type that numpy does not have
        raise ProjectionError(f"cannot read the projection {path}: {err}; expected a safetensors file") from err
    try:
        facts = json.loads(metadata[FACTS_KEY])
    except (ValueError, RecursionError) as err:
        raise ProjectionError(f"the projection {path} has damaged facts ({err}): fit or copy it again") from err
    other = [f"{name} is {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype != np.float32]
    if other:
        raise ProjectionError(
            f"the projection {path} has tensors of another type than float32 ({other[0]}): fit it again"
        )
    if not isinstance(facts, dict) or not isinstance(facts.get("kind"), str):
        raise ProjectionError(f"the projection {path} has facts without a kind: fit or copy it again")
    try:
        return Projection(facts.pop("kind"), tensors, facts)
    except ProjectionError as err:
        raise ProjectionError(f"{path}: {err}") from err


def _check_shapes(kind: str, tensors: Mapping[str, FloatArray]) -> None:
    sizes: dict[str, int] = {}
    for name, axes in _TENSORS[kind].items():
        shape = tensors[name].shape
        if len(shape) != len(axes) or any(sizes.setdefault(a, n) != n for a, n in zip(axes, shape, strict=True)):
            shapes = ", ".join(f"{name} {tensors[name].shape}" for name in _TENSORS[kind])
            raise ProjectionError(f"the tensor {name} of a {kind} projection does not fit the others: {shapes}")


def _check_width(what: str, vectors: FloatArray, expected: int) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != expected:
        raise ProjectionError(
            f"the projection was given {what} of shape {vectors.shape}; expected (n, {expected}): "
            "use the encoders it was made for"
        )
