"""Bytes of a GIF to sampled, composited, resized frames, within limits."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gifdex.encoders.base import Frames
from gifdex.pipeline.gif_header import GifHeader, read_header
from gifdex.pipeline.sampling import Sample, sample_in_time
from gifdex.pipeline.settings import Limits, Sampling
from gifdex.schemas.errors import DecodeError, LimitError

# How frames are resized; part of the features' fingerprint.
RESIZE = "bilinear"


@dataclass(frozen=True)
class SampledFrames:
    """`frames` uint8 RGB (n, height, width, 3) and `weights` float32 (n,), which sum to one."""

    frames: Frames
    weights: NDArray[np.float32]


@cache
def decoder_name() -> str:
    """Return what decodes, with its versions: another one may succeed where this one failed."""
    return f"imageio {version('imageio')}, pillow {version('pillow')}"


def _check(limit: str, found: float, allowed: float, unit: str, *, lasting: bool = True) -> None:
    if found > allowed:
        raise LimitError(f"the GIF has {found:,} {unit}, above the limit {limit} of {allowed:,}", lasting=lasting)


def check_bytes(size: int, limits: Limits) -> None:
    """Raise LimitError where a file of `size` bytes is larger than the limit."""
    _check("bytes", size, limits.bytes, "bytes")


def _check_header(header: GifHeader, limits: Limits) -> None:
    _check("pixels", header.width * header.height, limits.pixels, "pixels on its canvas")
    _check("frames", len(header.delays_ms), limits.frames, "frames")


def _resize(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Put an RGBA frame (h, w, 4) on white and resize it to RGB (height, width, 3)."""
    image = Image.fromarray(frame)
    if frame[..., 3].min() < 255:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def _read_frames(data: bytes, sample: Sample, height: int, width: int, limits: Limits) -> Frames:
    frames = np.empty((len(sample.indexes), height, width, 3), np.uint8)
    started = time.monotonic()
    with iio.imopen(io.BytesIO(data), "r", plugin="pillow", extension=".gif") as opened:
        for place, index in enumerate(sample.indexes):
            frame = opened.read(index=index, mode="RGBA", writeable_output=False)  # type: ignore[call-arg]  # its own
            # A damaged file may hold a frame that the decoder grows its canvas for.
            _check("pixels", frame.shape[0] * frame.shape[1], limits.pixels, "pixels in a frame")
            frames[place] = _resize(frame, height, width)
            taken = round(time.monotonic() - started, 1)
            _check("seconds", taken, limits.seconds, "seconds of decoding behind it", lasting=False)
    return frames


def decode(data: bytes, sampling: Sampling, frame_size: tuple[int, int], limits: Limits) -> SampledFrames:
    """Decode the frames of a GIF that `sampling` asks for, resized to `frame_size` (height, width).

    Frames are composited as a viewer shows them, transparency on white. Raises LimitError where a limit is
    exceeded, before any pixel is allocated where the header tells, and DecodeError for anything else that
    is wrong with the bytes.
    """
    check_bytes(len(data), limits)
    header = read_header(data)
    _check_header(header, limits)
    sample = sample_in_time(header.delays_ms, sampling.frames)
    drawn = header.width * header.height * (sample.indexes[-1] + 1)
    _check("total_pixels", drawn, limits.total_pixels, "pixels to draw")
    try:
        frames = _read_frames(data, sample, *frame_size, limits)
    except DecodeError:
        raise
    except MemoryError as err:
        raise DecodeError("there was no memory left to decode it: lower the limit pixels", lasting=False) from err
    except Exception as err:  # the decoder may raise anything on hostile bytes; each ends as a reject
        detail = " ".join(str(err).split())[:200] or "no reason given"
        raise DecodeError(f"{decoder_name()} cannot decode it: {type(err).__name__}: {detail}") from err
    return SampledFrames(frames, np.asarray(sample.weights, np.float32))
