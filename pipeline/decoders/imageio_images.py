"""imageio: animated WebP and PNG, and GIFs where it is asked for.

Its GIFs are composited by Pillow, wrongly where an image without a disposal method follows one that is cleared or
restored. What a WebP or PNG says of itself is read from its chunks: the WebP container specification (RFC 9649)
and the PNG specification (third edition, sections 5 and 11.3.5).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version

import imageio.v3 as iio
from PIL import Image

from gifdex.pipeline.decoders.base import Clock, FrameError, Structure, check_frames, format_of, on_white, shown_for
from gifdex.pipeline.decoders.gif import read_structure
from gifdex.pipeline.settings import Limits
from gifdex.schemas.errors import DecodeError

_CHUNK = struct.Struct(">I4s")
_FRAME_CONTROL = struct.Struct(">IIIIIHHBB")
_ANIMATED = 0x02  # in the flags of a VP8X chunk
_STILL = "the {} is a still picture; expected an animation"


@dataclass(frozen=True)
class _Png(Structure):
    """A PNG's structure; `skipped` is 1 where its default image is no part of the animation."""

    skipped: int = 0

    def pictures(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Return the pictures as Pillow counts them: the default image is one, in the animation or not."""
        return tuple(frame + self.skipped for frame in wanted)


def _little(piece: bytes) -> int:
    return int.from_bytes(piece, "little")


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield each chunk's name and bytes, None for the bytes of one that is cut short."""
    position = 12
    while position + 8 <= len(data):
        name, size = data[position : position + 4], _little(data[position + 4 : position + 8])
        body = data[position + 8 : position + 8 + size]
        yield name, body if len(body) == size else None
        position += 8 + size + size % 2


def read_webp(data: bytes, limits: Limits, clock: Clock) -> Structure:
    """Return the structure of a WebP; raises as `Decoder.structure` does."""
    size: tuple[int, int] | None = None
    delays: list[int] = []
    animated = False
    for name, body in _webp_chunks(data):
        clock.check()
        if body is None:
            raise DecodeError(f"the WebP file ends within a chunk {name!r}")
        if name == b"VP8X" and len(body) >= 10:
            size, animated = (1 + _little(body[4:7]), 1 + _little(body[7:10])), bool(body[0] & _ANIMATED)
        elif name == b"ANMF" and len(body) >= 16:
            delays.append(shown_for(_little(body[12:15])))
            check_frames(len(delays), limits)
    if size is None or not animated:  # only the extended format is animated, and it tells the canvas' size
        raise DecodeError(_STILL.format("WebP"))
    return Structure("WebP", *size, tuple(delays))


def read_png(data: bytes, limits: Limits, clock: Clock) -> Structure:
    """Return the structure of a PNG, of whose chunks the checksums are looked at where they matter here.

    The default image is a frame only where no frame control comes after it. Raises as `Decoder.structure` does.
    """
    size: tuple[int, int] | None = None
    delays: list[int] = []
    animated, ended, skipped = False, False, 0
    position = 8  # the signature
    while position + 8 <= len(data) and not ended:
        clock.check()
        length, name = _CHUNK.unpack_from(data, position)
        body = data[position + 8 : position + 8 + length]
        if name in (b"IHDR", b"acTL", b"fcTL"):
            checksum = data[position + 8 + length : position + 12 + length]
            if zlib.crc32(name + body) != int.from_bytes(checksum, "big"):
                raise DecodeError(f"the PNG file's chunk {name.decode()} is damaged: its checksum differs")
        if name == b"IHDR" and len(body) >= 8:
            size = struct.unpack_from(">II", body)
        elif name == b"acTL":
            animated = True
        elif name == b"fcTL" and len(body) == _FRAME_CONTROL.size:
            numerator, denominator = _FRAME_CONTROL.unpack(body)[5:7]
            delays.append(shown_for(round(1000 * numerator / (denominator or 100))))
            check_frames(len(delays), limits)
        elif name == b"IDAT" and not delays:
            skipped = 1
        ended = name == b"IEND"
        position += 12 + length
    if size is None:
        raise DecodeError("the PNG file ends before it tells its size")
    if not animated:
        raise DecodeError(_STILL.format("PNG"))
    damage = None if ended else "ends before its end mark"
    return _Png("PNG", *size, tuple(delays), damage, None, skipped)


class ImageioDecoder:
    """Reads with imageio's Pillow plugin, frame by frame, in the watchdog's processes."""

    name = "imageio"
    watched = True

    @cached_property
    def version(self) -> str:
        """The packages that decode, with their versions."""
        return f"imageio {version('imageio')}, pillow {version('pillow')}"

    def structure(self, data: bytes, limits: Limits, clock: Clock) -> Structure:
        """Return the structure of a GIF, WebP or PNG."""
        readers = {"GIF": read_structure, "WebP": read_webp, "PNG": read_png}
        return readers[format_of(data)](data, limits, clock)

    def cost(self, structure: Structure, wanted: Sequence[int]) -> int:
        """Return the pixels of all frames up to the last one wanted: each is drawn on the one before."""
        return structure.width * structure.height * (structure.pictures(wanted)[-1] + 1)

    def draw(self, data: bytes, structure: Structure, wanted: Sequence[int], clock: Clock) -> Iterator[Image.Image]:
        """Yield the frames `wanted`; see `Decoder.draw`."""
        frame = wanted[0]
        try:
            suffix = f".{structure.format.lower()}"
            with iio.imopen(io.BytesIO(data), "r", plugin="pillow", extension=suffix) as opened:
                for frame, picture in zip(wanted, structure.pictures(wanted), strict=True):  # noqa: B007  # told below
                    pixels = opened.read(index=picture, mode="RGBA", writeable_output=False)  # type: ignore[call-arg]  # its own
                    clock.check()
                    yield on_white(Image.fromarray(pixels))
        except (DecodeError, MemoryError):
            raise
        except Exception as err:  # it may raise anything on hostile bytes
            detail = " ".join(str(err).split())[:200] or "no reason given"
            raise FrameError(frame, f"{self.version} cannot decode it: {type(err).__name__}: {detail}") from err


def decoder() -> ImageioDecoder:
    """Return the decoder."""
    return ImageioDecoder()
