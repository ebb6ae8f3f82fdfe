"""imageio: animated WebP and PNG, and GIFs on request.

Pillow composites its GIFs, and gets images without a disposal method wrong after one that is cleared or restored. The
structure of a WebP or PNG is read from its chunks: see the WebP container specification (RFC 9649) and the PNG
specification (third edition, sections 5 and 11.3.5).
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

from gifdex.encoders.frames.decoders.base import (
    Budget,
    FrameError,
    Structure,
    check_frames,
    format_of,
    on_white,
    shown_for,
)
from gifdex.encoders.frames.decoders.gif import read_structure
from gifdex.encoders.frames.limits import Limits
from gifdex.schemas.errors import DecodeError, UnsupportedFormatError

_CHUNK = struct.Struct(">I4s")
_FRAME_CONTROL = struct.Struct(">IIIIIHHBB")
_ANIMATED = 0x02  # in the flags of a VP8X chunk
_PNG_STRUCTURE = (b"IHDR", b"acTL", b"fcTL")


@dataclass(frozen=True)
class _Png(Structure):
    """A PNG's structure; `skipped` is 1 if its default image is not part of the animation."""

    skipped: int = 0

    def pictures(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Return indexes as Pillow counts them, which always include the default image."""
        return tuple(frame + self.skipped for frame in wanted)


def _little(piece: bytes) -> int:
    return int.from_bytes(piece, "little")


@dataclass(frozen=True)
class _Webp(Structure):
    """A WebP's structure; `end` is where the last whole chunk ends."""

    end: int = 0


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield each whole chunk's name, bytes and end, up to the end given in the header."""
    position, end = 12, min(8 + _little(data[4:8]), len(data))
    while position + 8 <= end:
        name, size = data[position : position + 4], _little(data[position + 4 : position + 8])
        body = data[position + 8 : position + 8 + size]
        position += 8 + size + size % 2
        if position > end:
            return
        yield name, body, position


def read_webp(data: bytes, limits: Limits, budget: Budget) -> Structure:
    """Return the structure of a WebP; raises as `Decoder.structure` does."""
    chunks = _webp_chunks(data)
    name, body, end = next(chunks, (b"", b"", 0))
    if name != b"VP8X" or len(body) < 10 or not body[0] & _ANIMATED:  # only the extended format is animated
        raise UnsupportedFormatError("the WebP is a still picture; expected an animation")
    width, height = 1 + _little(body[4:7]), 1 + _little(body[7:10])
    delays: list[int] = []
    for name, body, end in chunks:  # noqa: B007  # the last end counts
        budget.check_time()
        if name == b"VP8X":
            raise DecodeError("the WebP has two size chunks")
        if name == b"ANMF" and len(body) >= 16:
            delays.append(shown_for(_little(body[12:15])))
            check_frames(len(delays), limits)
    cut = end < 8 + _little(data[4:8]) - 1
    return _Webp("WebP", width, height, tuple(delays), f"ends after frame {len(delays):,}" if cut else None, None, end)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each chunk's name and bytes; raises DecodeError if one that is read here is damaged (5.3, 5.4)."""
    position = 8  # the signature
    while position + 8 <= len(data):
        length, name = _CHUNK.unpack_from(data, position)
        end = position + 8 + length
        body = data[position + 8 : end]
        if name in _PNG_STRUCTURE and zlib.crc32(name + body) != int.from_bytes(data[end : end + 4], "big"):
            raise DecodeError(f"the PNG file's chunk {name.decode()} is damaged: its checksum differs")
        yield name, body
        position = end + 4


def read_png(data: bytes, limits: Limits, budget: Budget) -> Structure:
    """Return the structure of a PNG; raises as `Decoder.structure` does.

    The default image is a frame only if a frame control chunk precedes it.
    """
    chunks = _png_chunks(data)
    name, header = next(chunks, (b"", b""))
    if name != b"IHDR" or len(header) < 8:
        raise DecodeError("the PNG file does not begin with its size")
    width, height = struct.unpack_from(">II", header)
    delays: list[int] = []
    animated, ended, skipped = False, False, 0
    for name, body in chunks:
        budget.check_time()
        if name == b"IHDR":
            raise DecodeError("the PNG has two size chunks")
        if name == b"acTL":
            animated = True
        elif name == b"fcTL" and len(body) == _FRAME_CONTROL.size:
            numerator, denominator = _FRAME_CONTROL.unpack(body)[5:7]
            delays.append(shown_for(round(1000 * numerator / (denominator or 100))))
            check_frames(len(delays), limits)
        elif name == b"IDAT" and not delays:
            skipped = 1
        elif name == b"IEND":
            ended = True
            break
    if not animated:
        raise UnsupportedFormatError("the PNG is a still picture; expected an animation")
    return _Png("PNG", width, height, tuple(delays), None if ended else "ends before its end mark", None, skipped)


class ImageioDecoder:
    """Reads with imageio's Pillow plugin, frame by frame, in separate processes."""

    name = "imageio"
    watched = True

    @cached_property
    def version(self) -> str:
        """The packages that decode, with their versions."""
        return f"imageio {version('imageio')}, pillow {version('pillow')}"

    def structure(self, data: bytes, limits: Limits, budget: Budget) -> Structure:
        """Return the structure of a GIF, WebP or PNG."""
        readers = {"GIF": read_structure, "WebP": read_webp, "PNG": read_png}
        return readers[format_of(data)](data, limits, budget)

    def cost(self, structure: Structure, wanted: Sequence[int]) -> int:
        """Return the pixels of all frames up to the last one wanted: each is drawn on the one before."""
        return structure.width * structure.height * (structure.pictures(wanted)[-1] + 1)

    def draw(self, data: bytes, structure: Structure, wanted: Sequence[int], budget: Budget) -> Iterator[Image.Image]:
        """Yield the frames `wanted`; see `Decoder.draw`."""
        frame = wanted[0]
        try:
            suffix = f".{structure.format.lower()}"
            if isinstance(structure, _Webp) and structure.damage:  # libwebp requires the right size in the header
                data = b"RIFF" + (structure.end - 8).to_bytes(4, "little") + data[8 : structure.end]
            with iio.imopen(io.BytesIO(data), "r", plugin="pillow", extension=suffix) as opened:
                for frame, picture in zip(wanted, structure.pictures(wanted), strict=True):  # noqa: B007  # used below
                    pixels = opened.read(index=picture, mode="RGBA", writeable_output=False)  # type: ignore[call-arg]  # its own
                    budget.check_time()
                    yield on_white(Image.fromarray(pixels))
        except (DecodeError, MemoryError):
            raise
        except Exception as err:  # it may raise anything on hostile bytes
            detail = " ".join(str(err).split())[:200] or "no reason given"
            raise FrameError(frame, f"{self.version} cannot decode it: {type(err).__name__}: {detail}") from err


def decoder() -> ImageioDecoder:
    """Return the decoder."""
    return ImageioDecoder()
