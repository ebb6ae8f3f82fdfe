"""The settings of the encode stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gifdex.encoders.base import ImageEncoderOptions, available_cpus
from gifdex.encoders.frames.limits import Limits, Sampling, check_at_least
from gifdex.encoders.registry import DEFAULT_IMAGE_ENCODER
from gifdex.schemas.files import absolute

# Each decoding thread may hold a few canvases of the maximum size (64 MiB as RGBA), so memory limits their number.
_MAX_THREADS = 8


@dataclass(frozen=True)
class EncodeSettings:
    """Settings of the encode stage.

    Features depend on the encoder, its `weights` (a file, for encoders that take one) and `precision`, the sampling
    and the decoder; the other settings affect their last digits at most. `decoder` is for GIFs; `auto` is the fastest
    installed one. `batch_frames` is the encoder's batch size (None: what suits the device), `threads` decode ahead of
    it, and a task has at most `task_items` GIFs, which have to be encoded again if it dies.
    """

    image_encoder: str = DEFAULT_IMAGE_ENCODER
    weights: Path | None = None
    precision: str = "auto"
    batch_frames: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=Limits)
    decoder: str = "auto"
    threads: int = field(default_factory=lambda: min(available_cpus(), _MAX_THREADS))
    task_items: int = 64

    def __post_init__(self) -> None:
        check_at_least(1, threads=self.threads, task_items=self.task_items)
        _ = self.encoder_options  # checks the other settings

    @property
    def encoder_options(self) -> ImageEncoderOptions:
        """The options of the image encoder."""
        weights = None if self.weights is None else absolute(self.weights)
        return ImageEncoderOptions(weights, self.precision, self.batch_frames)
