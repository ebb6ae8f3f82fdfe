"""The image encoder `tfhub:<folder or URL>`: a TensorFlow Hub module or another SavedModel."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from gifdex.encoders.base import FloatArray, Frames, ImageEncoderOptions, fingerprint
from gifdex.encoders.images.frame_model import FrameModel
from gifdex.encoders.tensorflow.hub_calls import checked_vectors, one_sentence_failures
from gifdex.encoders.tensorflow.hub_module import HubModule
from gifdex.encoders.tensorflow.hub_signature import IMAGES
from gifdex.encoders.tensorflow.runtime import default_batch_frames, import_tensorflow
from gifdex.schemas.errors import EncoderError


class HubImages(FrameModel):
    """uint8 RGB frames to a module's features, at the size and in the precision that the module was saved with.

    The frames become float32 from 0 to 1 (TensorFlow Hub's "Common SavedModel APIs for image tasks"), unless the module
    takes uint8. Raises WeightsError if the folder has no module, EncoderError for options that it does not support.
    """

    def __init__(self, folder_or_url: str, options: ImageEncoderOptions | None = None) -> None:
        super().__init__(options)
        if self._options.weights is not None:
            raise EncoderError("tfhub takes no --weights, the module has its own: omit --weights")
        self._module = HubModule(folder_or_url, IMAGES)
        if self.precision != "float32":
            raise EncoderError(
                f"{self.name} cannot run in {self.precision}, only in the precision it was saved with: omit --precision"
            )

    @property
    def name(self) -> str:
        """`tfhub:` and the folder's absolute path, or the URL as given."""
        return self._module.name

    @property
    def dimensions(self) -> int:
        """Size of a vector; loads the module."""
        return self._module.endpoint.dimensions

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width in pixels, 224 if the module leaves them open; loads the module."""
        _, height, width, _ = self._module.endpoint.shape
        assert height is not None
        assert width is not None
        return height, width

    @property
    def precision(self) -> str:
        """Always float32: a module runs as it was saved."""
        return "float32" if self._options.precision == "auto" else self._options.precision

    @cached_property
    def batch_frames(self) -> int:
        """The batch size, in frames: the module's if fixed, otherwise as requested or what suits the device."""
        fixed, asked = self._module.endpoint.shape[0], self._options.batch_frames
        if fixed is None:
            return asked or default_batch_frames()
        if asked not in (None, fixed):
            raise EncoderError(
                f"{self.name} was saved for batches of exactly {fixed} frames, but --batch-frames is {asked}: "
                "omit --batch-frames"
            )
        return fixed

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the module's files, the function used and the preprocessing; loads the module."""
        endpoint = self._module.endpoint
        recipe = {
            "encoder": "tfhub images",
            "files": self._module.files,
            "signature": [endpoint.signature, endpoint.output],
            "preprocessing": {"size": self.frame_size, "pixels": "0..1" if endpoint.dtype == "float32" else "0..255"},
            "revision": 1,
        }
        return fingerprint(recipe)

    def __call__(self, frames: Frames) -> FloatArray:
        """Encode uint8 RGB (n, height, width, 3) into float32 (n, d).

        Raises EncoderError for frames of another shape or type, too little memory, or if the module fails.
        """
        tf = import_tensorflow(f"the encoder {self.name}")
        with one_sentence_failures(tf, self.name):
            return super().__call__(frames)

    def _load(self, tf: Any) -> Callable[[Any], Any]:
        endpoint = self._module.endpoint

        def forward(frames: Any) -> Any:
            images = tf.cast(frames, tf.float32) / 255.0 if endpoint.dtype == "float32" else frames
            return checked_vectors(tf, endpoint, images)

        return forward

    def _smaller(self, tf: Any, failed: int, err: Exception) -> Any:
        if self._module.endpoint.shape[0] is not None:
            raise EncoderError(
                f"{self.name} ran out of the device's memory with batches of {failed} frames, the only size it was "
                "saved for: stop other programs that use the device, or use a smaller module"
            ) from err
        return super()._smaller(tf, failed, err)
