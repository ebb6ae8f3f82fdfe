"""The decoder protocol, the structure of a file before decoding, and checks of limits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image

from gifdex.encoders.frames.limits import Limits
from gifdex.schemas.errors import LimitError, UnsupportedFormatError

# Browsers show a frame that asks for 10 ms or less for 100 ms; authors rely on it.
_SHORTEST_MS, _DEFAULT_MS = 10, 100


def shown_for(delay_ms: int) -> int:
    """Return how many milliseconds a viewer shows a frame whose delay is `delay_ms`."""
    return delay_ms if delay_ms > _SHORTEST_MS else _DEFAULT_MS


@dataclass(frozen=True)
class Structure:
    """What is known of a file before a pixel is decoded.

    `width` and `height` of the canvas are in pixels; `delays_ms` says how long each frame shows (all above zero).
    `damage` describes where the file ends too early, in words that follow "the file". `odd` describes, in the same
    way, anything unusual: a reason to decode the file in a separate process.
    """

    format: str
    width: int
    height: int
    delays_ms: tuple[int, ...]
    damage: str | None = None
    odd: str | None = None

    def pictures(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Return the indexes of the pictures that complete the frames `wanted`: the same, except in some GIFs."""
        return tuple(wanted)


class Budget:
    """What decoding one file may still cost within `limits`: seconds from now on, and pixels."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._started = time.monotonic()
        self._pixels = 0

    def check_time(self) -> None:
        """Raise LimitError if time is up; call it between steps."""
        seconds = time.monotonic() - self._started
        if seconds > self.limits.seconds:
            check("seconds", round(seconds, 3), self.limits.seconds, "seconds of decoding time", lasting=False)

    def spend(self, pixels: int) -> None:
        """Count pixels to decode and draw; raise LimitError if they exceed the limit."""
        self._pixels += pixels
        check("total_pixels", self._pixels, self.limits.total_pixels, "pixels to decode")


class FrameError(Exception):
    """A frame cannot be decoded; those before `frame` (counted from 0) may still be good."""

    def __init__(self, frame: int, reason: str) -> None:
        super().__init__(frame, reason)
        self.frame = frame
        self.reason = reason


@runtime_checkable
class Decoder(Protocol):
    """Turns bytes into frames as a viewer shows them."""

    @property
    def name(self) -> str:
        """Its name on the command line."""

    @property
    def version(self) -> str:
        """The libraries that decode, with their versions; another version may read what these cannot."""

    @property
    def watched(self) -> bool:
        """Whether every file is decoded in a separate process, not just odd ones."""

    def structure(self, data: bytes, limits: Limits, budget: Budget) -> Structure:
        """Return the structure of the file without decoding a pixel.

        Raises DecodeError if the file is malformed, LimitError if it has more frames than allowed or takes too long.
        """

    def cost(self, structure: Structure, wanted: Sequence[int]) -> int:
        """Return how many pixels are decoded and drawn for the frames `wanted` (ascending indexes)."""

    def draw(self, data: bytes, structure: Structure, wanted: Sequence[int], budget: Budget) -> Iterator[Image.Image]:
        """Yield the frames `wanted` (ascending indexes), RGB or RGBX at the canvas' size, transparency on white.

        Raises FrameError with the index of the first frame that cannot be decoded, LimitError if it takes too long.
        """


def format_of(data: bytes) -> str:
    """Return the format by the first bytes: GIF, WebP, PNG, MP4 (or MOV) or WebM. The file's name does not matter.

    Raises UnsupportedFormatError for any other. See GIF89a 17, RFC 9649, PNG (third edition) 5.2, ISO/IEC 14496-12 4.3
    and RFC 8794.
    """
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[4:8] == b"ftyp":
        return "MP4"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "WebM"
    found = f"begins with {data[:8]!r}" if data else "is empty"
    raise UnsupportedFormatError(f"the file {found}; expected a GIF (GIF87a or GIF89a), or a WebP, PNG, MP4 or WebM")


def check(limit: str, found: float, allowed: float, unit: str, *, lasting: bool = True) -> None:
    """Raise LimitError if `found` is above `allowed`."""
    if found > allowed:
        option = f"--max-{limit.replace('_', '-')}"
        message = (
            f"the GIF has {found:,} {unit}, above the limit {limit} of {allowed:,}: leave it out, or raise {option}"
        )
        raise LimitError(message, lasting=lasting)


def check_frames(found: int, limits: Limits) -> None:
    """Raise LimitError if more frames are found than allowed; callers stop counting there."""
    check("frames", found, limits.frames, "frames or more")


def check_bytes(size: int, limits: Limits) -> None:
    """Raise LimitError if a file of `size` bytes is above the limit."""
    check("bytes", size, limits.bytes, "bytes")


def on_white(image: Image.Image) -> Image.Image:
    """Return an RGBA picture as RGB, on white."""
    if image.getchannel("A").getextrema() != (255, 255):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
