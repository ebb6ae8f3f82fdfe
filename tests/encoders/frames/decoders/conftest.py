"""Animations in formats other than GIF."""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

Pictures = list[NDArray[np.uint8]]


@dataclass(frozen=True)
class Animate:
    """Writes uint8 RGB or RGBA pictures (n, h, w, 3 or 4) as an animation, `delays` in milliseconds."""

    def image(self, form: str, pictures: Pictures, delays: list[int] | int = 100, **options: object) -> bytes:
        images = [Image.fromarray(picture) for picture in pictures]
        stream = io.BytesIO()
        if form == "WEBP":
            options = {"lossless": True, **options}
        images[0].save(stream, form, save_all=True, append_images=images[1:], duration=delays, **options)
        return stream.getvalue()

    def video(self, pictures: Pictures, container: str = "mp4", keys_every: int = 12, faststart: bool = False) -> bytes:
        """Write MPEG-4 or VP8 video with a key frame every `keys_every` frames; `faststart` puts the index first."""
        rate, options = 10, {"movflags": "faststart"} if faststart and container == "mp4" else {}
        with (
            tempfile.NamedTemporaryFile(suffix=f".{container}") as file,
            av.open(file.name, "w", format=container, options=options) as target,
        ):
            track = target.add_stream("mpeg4" if container == "mp4" else "libvpx", rate=rate)
            track.height, track.width = pictures[0].shape[:2]
            track.pix_fmt, track.gop_size, track.bit_rate = "yuv420p", keys_every, 4_000_000
            track.time_base = Fraction(1, rate)
            track.options = {"sc_threshold": "1000000000"}  # the codec adds no other key frames
            for number, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = number
                target.mux(track.encode(frame))
            target.mux(track.encode())
            target.close()
            return Path(file.name).read_bytes()


@pytest.fixture(scope="session")
def animate() -> Animate:
    return Animate()


@pytest.fixture(scope="session")
def greys() -> Pictures:
    """Thirty pictures of 32 x 48 pixels, each a plain grey that encodes its number."""
    return [np.full((32, 48, 3), 8 * number, np.uint8) for number in range(30)]
