"""Decode a GIF's bytes to sampled, composited, resized frames, within limits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gifdex.encoders.base import Frames
from gifdex.encoders.frames.decoders import registry
from gifdex.encoders.frames.decoders.base import Budget, Decoder, FrameError, Structure, check, check_bytes
from gifdex.encoders.frames.decoders.gif import GifStructure
from gifdex.encoders.frames.decoders.processes import DecoderProcesses
from gifdex.encoders.frames.limits import Limits, Sampling
from gifdex.encoders.frames.sampling import Sample, sample_by_time, sample_scenes
from gifdex.schemas.errors import DecodeError

# How frames are resized; part of the features' fingerprint.
RESIZE = "bilinear"
# Drawing a larger canvas takes hundreds of megabytes, so only a few are drawn at once.
_LARGE_CANVAS_PIXELS = 4 * 1024**2
_MAX_LARGE_CANVASES = 2
# Scene sampling compares thumbnails of this many pixels a side.
_THUMBNAIL = 16


@dataclass(frozen=True)
class SampledFrames:
    """`frames` uint8 RGB (n, height, width, 3) and `weights` float32 (n,), which sum to one.

    `numbers` int32 (n,) are the frames' indexes in the file, and `milliseconds` int64 (n,) when each is first shown.
    `damage` describes why decoding stopped early, if it did; the frames are those before the damage. `canvas` is the
    width and the height of the GIF in pixels.
    """

    frames: Frames
    weights: NDArray[np.float32]
    numbers: NDArray[np.int32]
    milliseconds: NDArray[np.int64]
    damage: str | None = None
    canvas: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Job:
    """One file and how to decode it."""

    data: bytes
    decoder: Decoder
    structure: Structure
    sampling: Sampling
    frame_size: tuple[int, int]
    budget: Budget

    def pictures(self, wanted: tuple[int, ...]) -> Iterator[Image.Image]:
        """Yield the frames `wanted` from the decoder, checked against the limits."""
        self.budget.spend(self.decoder.cost(self.structure, wanted))
        for picture in self.decoder.draw(self.data, self.structure, wanted, self.budget):
            # Some decoders find a larger canvas than the header states.
            check("pixels", picture.width * picture.height, self.budget.limits.pixels, "pixels in a frame")
            yield picture

    def sample(self) -> Sample:
        """Choose the frames."""
        delays = self.structure.delays_ms
        if self.sampling.strategy != "scene":
            return sample_by_time(self.sampling, delays)
        small = [
            np.asarray(picture.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX).convert("RGB"))
            for picture in self.pictures(tuple(range(len(delays))))
        ]
        return sample_scenes(np.stack(small), delays, self.sampling.count)

    def frames(self) -> SampledFrames:
        """Decode the sampled frames; raises FrameError at the first broken one."""
        sample = self.sample()
        height, width = self.frame_size
        frames = np.empty((len(sample.indexes), height, width, 3), np.uint8)
        for frame, picture in zip(frames, self.pictures(sample.indexes), strict=True):
            frame[...] = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR).convert("RGB"))
        canvas = self.structure.width, self.structure.height
        weights, numbers = np.asarray(sample.weights, np.float32), np.asarray(sample.indexes, np.int32)
        starts = np.cumsum([0, *self.structure.delays_ms[:-1]], dtype=np.int64)
        return SampledFrames(frames, weights, numbers, starts[numbers], self.structure.damage, canvas)


def _check_structure(structure: Structure, limits: Limits) -> None:
    if not structure.delays_ms:
        raise DecodeError(f"the {structure.format} {structure.damage or 'has no frame'}")
    if not structure.width * structure.height:
        raise DecodeError(f"the {structure.format} has a canvas of {structure.width} x {structure.height} pixels")
    check("pixels", structure.width * structure.height, limits.pixels, "pixels on its canvas")
    if isinstance(structure, GifStructure):
        largest = max((image.width * image.height for image in structure.images), default=0)
        check("pixels", largest, limits.pixels, "pixels in an image")


def _truncated(structure: Structure, good: int, damage: str) -> Structure:
    """Return the structure reduced to its first `good` frames."""
    changes: dict[str, object] = {"delays_ms": structure.delays_ms[:good], "damage": damage}
    if isinstance(structure, GifStructure):
        changes["completed_by"] = structure.completed_by[:good]
    return replace(structure, **changes)  # type: ignore[arg-type]


def _run(job: _Job) -> SampledFrames:
    """Decode in this thread; if a frame is broken, sample again from the frames before it."""
    while True:
        try:
            return job.frames()
        except FrameError as err:
            if err.frame == 0:
                raise DecodeError(f"the first frame cannot be decoded: {err.reason}") from err
            # This terminates: every round has fewer frames, and all share one budget.
            damage = f"has {err.frame:,} good frames, then: {err.reason}"
            job = replace(job, structure=_truncated(job.structure, err.frame, damage))
        except MemoryError as err:
            raise DecodeError("not enough memory to decode it: lower the limit pixels", lasting=False) from err


def _decode_watched(
    data: bytes, sampling: Sampling, frame_size: tuple[int, int], limits: Limits, asked: str
) -> SampledFrames:
    """Read the structure and decode; runs in another process."""
    decoder = registry.decoder_for(data, asked)
    try:
        budget = Budget(limits)
        structure = decoder.structure(data, limits, budget)
        _check_structure(structure, limits)
        return _run(_Job(data, decoder, structure, sampling, frame_size, budget))
    except DecodeError:
        raise
    except Exception as err:
        if not decoder.watched:  # a defect of ours
            raise
        # A library may raise anything on hostile bytes.
        reason = f"{type(err).__name__}: {' '.join(str(err).split())[:200] or 'no reason given'}"
        raise DecodeError(f"{decoder.version} cannot read it: {reason}") from err


class FrameDecoder:
    """Decodes GIFs, from several threads if needed, and owns the processes that decode odd files.

    `close` ends them; so does leaving a `with` block or deleting the decoder.
    """

    def __init__(self, processes: DecoderProcesses | None = None) -> None:
        self._processes = processes or DecoderProcesses()
        self._large_canvases = threading.BoundedSemaphore(_MAX_LARGE_CANVASES)

    def __enter__(self) -> FrameDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        self._processes.close()

    def __call__(
        self,
        data: bytes,
        sampling: Sampling,
        frame_size: tuple[int, int],
        limits: Limits,
        decoder: str = registry.AUTO,
    ) -> SampledFrames:
        """Decode the frames of a GIF that `sampling` chooses, resized to `frame_size` (height, width).

        Also reads animated WebP and PNG, MP4 and WebM; the first bytes tell the format. `decoder` is used for GIFs
        only (see `registry.decoder_names`). Frames are composited as a viewer shows them, transparency on white. If a
        file is cut short or broken, the frames before the damage are used, and `damage` describes it. A GIF with an
        odd structure, and every other format, is decoded in a separate process.

        Raises LimitError if a limit is exceeded, if possible before any pixel is allocated, and DecodeError for
        anything else that is wrong with the bytes.
        """
        check_bytes(len(data), limits)
        chosen = registry.decoder_for(data, decoder)
        if not chosen.watched:
            budget = Budget(limits)
            structure = chosen.structure(data, limits, budget)
            _check_structure(structure, limits)
            if structure.odd is None:
                is_large = structure.width * structure.height > _LARGE_CANVAS_PIXELS
                with self._large_canvases if is_large else nullcontext():
                    return _run(_Job(data, chosen, structure, sampling, frame_size, Budget(limits)))
            # All exact decoders give the same pixels, and pillow needs no compilation in each process.
            decoder = "pillow"
        return self._processes.run(limits, _decode_watched, data, sampling, frame_size, limits, decoder)
