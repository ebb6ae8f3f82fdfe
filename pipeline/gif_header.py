"""Walk a GIF's blocks without decoding a pixel: canvas size and when each frame shows.

Section numbers are those of the GIF89a specification (CompuServe, 31 July 1990).
"""

from __future__ import annotations

from dataclasses import dataclass

from gifdex.schemas.errors import DecodeError

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL = 0xF9
# Browsers show a frame that asks for 10 ms or less for 100 ms; authors rely on it.
_SHORTEST_MS, _DEFAULT_MS = 10, 100


@dataclass(frozen=True)
class GifHeader:
    """Canvas size in pixels, and how long each frame shows, in milliseconds."""

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
        while size := self.take(1)[0]:
            self.take(size)


def _read_graphic_control(walk: _Walk) -> int:
    """Return the delay in milliseconds that a Graphic Control Extension asks for (23)."""
    size = walk.take(1)[0]
    block = walk.take(size)
    walk.skip_sub_blocks()
    return int.from_bytes(block[1:3], "little") * 10 if size >= 3 else 0


def _walk_frames(walk: _Walk) -> list[int]:
    delays: list[int] = []
    delay = 0
    try:
        while (introducer := walk.take(1)[0]) != _TRAILER:
            if introducer == _IMAGE:
                walk.skip_color_table(walk.take(9)[8])
                walk.take(1)  # LZW minimum code size (22)
                delays.append(delay if delay > _SHORTEST_MS else _DEFAULT_MS)
                delay = 0
                walk.skip_sub_blocks()
            elif introducer == _EXTENSION:
                if walk.take(1)[0] == _GRAPHIC_CONTROL:
                    delay = _read_graphic_control(walk)
                else:
                    walk.skip_sub_blocks()
            # Any other byte belongs to no block: decoders step over it, and so does this walk.
    except EOFError:
        pass  # cut short: what was there so far counts, and the decoder has the last word on the pixels
    return delays


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
    delays = _walk_frames(walk)
    if not delays:
        raise DecodeError("the GIF has no frame")
    width, height = (int.from_bytes(screen[at : at + 2], "little") for at in (6, 8))
    return GifHeader(width, height, tuple(delays))
