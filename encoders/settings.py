"""How GIFs become features: the settings of the encode stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gifdex.encoders.base import ImageEncoderOptions, available_cpus
from gifdex.encoders.frames.limits import Limits, Sampling, check_at_least
from gifdex.encoders.registry import DEFAULT_IMAGE_ENCODER
from gifdex.schemas.files import absolute

# Each decoding thread may hold a canvas of the limit's size (64 MiB as RGBA) a few times over, so memory bounds them.
_MAX_THREADS = 8


@dataclass(frozen=True)
class EncodeSettings:
    """How the encode stage runs.

    Features depend on the encoder, its `weights` (a file, for encoders that take one) and its `precision`, on the
    sampling and the decoder, and on nothing else here but in their last digits. `decoder` is the one for GIFs, `auto`
    for the fastest that is installed. `batch_frames` frames go to the encoder at a time (None: what suits the device),
    `threads` decode ahead of it, and a task has at most `task_items` GIFs: what is lost when a task dies.
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
        _ = self.encoder_options  # which checks the others

    @property
    def encoder_options(self) -> ImageEncoderOptions:
        """What the image encoder is made with."""
        weights = None if self.weights is None else absolute(self.weights)
        return ImageEncoderOptions(weights, self.precision, self.batch_frames)
