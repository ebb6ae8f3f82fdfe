"""Walk a GIF's blocks without decoding a pixel: canvas size and when each frame shows.

Section numbers are those of the GIF89a specification (CompuServe, 31 July 1990).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from gifdex.schemas.errors import DecodeError

_IMAGE, _TRAILER = 0x2C, 0x3B
_GRAPHIC_CONTROL = 0xF9
_DESCRIPTOR = struct.Struct("<HHHHB")
# Extension, image, trailer.
_INTRODUCER = re.compile(rb"[\x21\x2c\x3b]")
# Browsers show a frame that asks for 10 ms or less for 100 ms; authors rely on it.
_SHORTEST_MS, _DEFAULT_MS = 10, 100


@dataclass(frozen=True)
class GifHeader:
    """Canvas size in pixels, grown by frames that reach beyond it, and each frame's time in milliseconds."""

    width: int
    height: int
    delays_ms: tuple[int, ...]


class _Walk:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        piece = self.data[self.position : self.position + count]
        if len(piece) < count:
            raise EOFError
        self.position += count
        return piece

    def skip_color_table(self, packed: int) -> None:
        """Skip a color table where bit 7 says there is one; its size is 3 x 2^(n + 1) bytes (19, 21)."""
        if packed & 0x80:
            self.take(3 << ((packed & 7) + 1))

    def skip_sub_blocks(self) -> None:
        """Skip data sub-blocks up to the empty one that ends them (15, 16)."""
        data, position = self.data, self.position  # local: a hostile file has millions of them
        try:
            while size := data[position]:
                position += size + 1
        except IndexError:
            raise EOFError from None
        self.position = position + 1

    def next_introducer(self) -> int:
        """Return the byte that begins the next block; decoders step over bytes that begin none, and so does this."""
        found = _INTRODUCER.search(self.data, self.position)
        if found is None:
            raise EOFError
        self.position = found.end()
        return self.data[found.start()]

    def take_descriptor(self) -> tuple[int, int]:
        """Take an Image Descriptor and its color table (20, 21); return the frame's right and bottom edges."""
        left, top, width, height, packed = _DESCRIPTOR.unpack(self.take(_DESCRIPTOR.size))
        self.skip_color_table(packed)
        return left + width, top + height


def _read_graphic_control(walk: _Walk) -> int:
    """Return the delay in milliseconds that a Graphic Control Extension asks for (23)."""
    size = walk.take(1)[0]
    block = walk.take(size)
    walk.skip_sub_blocks()
    return int.from_bytes(block[1:3], "little") * 10 if size >= 3 else 0


def _walk_frames(walk: _Walk, width: int, height: int) -> GifHeader:
    delays: list[int] = []
    delay = 0
    try:
        while (introducer := walk.next_introducer()) != _TRAILER:
            if introducer == _IMAGE:
                right, bottom = walk.take_descriptor()
                walk.take(1)  # LZW minimum code size (22)
                delays.append(delay if delay > _SHORTEST_MS else _DEFAULT_MS)
                if right > width or bottom > height:
                    width, height = max(width, right), max(height, bottom)
                delay = 0
                walk.skip_sub_blocks()
            elif walk.take(1)[0] == _GRAPHIC_CONTROL:
                delay = _read_graphic_control(walk)
            else:
                walk.skip_sub_blocks()
    except EOFError:
        pass  # cut short: what was there so far counts, and the decoder has the last word on the pixels
    return GifHeader(width, height, tuple(delays))


def read_header(data: bytes) -> GifHeader:
    """Return the canvas and the frames' delays of a GIF.

    Raises DecodeError where `data` is no GIF or has no frame.
    """
    if data[:6] not in (b"GIF87a", b"GIF89a"):
        found = f"begins with {data[:6]!r}" if data else "is empty"
        raise DecodeError(f"the file {found}; expected a GIF, which begins with GIF87a or GIF89a")
    walk = _Walk(data)
    try:
        screen = walk.take(13)
        walk.skip_color_table(screen[10])
    except EOFError as err:
        raise DecodeError(f"the file ends after {len(data)} bytes, within the GIF's header") from err
    width, height = (int.from_bytes(screen[at : at + 2], "little") for at in (6, 8))
    header = _walk_frames(walk, width, height)
    if not header.delays_ms:
        raise DecodeError("the GIF has no frame")
    return header
