"""Two trained matrices into one joint space, without a non-linearity: DeepGIF's model."""

from __future__ import annotations

from gifdex.encoders.base import FloatArray, unit
from gifdex.encoders.projections.base import Projection


class LinearProjection(Projection):
    """u((x - c_image) image_map) for features x and u((s - c_text) text_map) for a sentence vector s.

    c are the centers and u(v) = v / |v|.
    """

    kind = "linear"
    AXES = {"image_center": "i", "image_map": "id", "text_center": "t", "text_map": "td"}  # noqa: RUF012

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
        return int(self.tensors["text_map"].shape[0])

    def _map_images(self, features: FloatArray) -> FloatArray:
        return unit((features - self.tensors["image_center"]) @ self.tensors["image_map"])

    def _map_texts(self, vectors: FloatArray) -> FloatArray:
        return unit((vectors - self.tensors["text_center"]) @ self.tensors["text_map"])
