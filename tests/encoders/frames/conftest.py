"""GIFs written byte by byte, because no encoder would write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

CLEAR, END = 0x80, 0x81


@dataclass(frozen=True)
class Picture:
    """One image: palette indexes (height, width) below 128, position, graphic control and local palette."""

    pixels: NDArray[np.uint8]
    left: int = 0
    top: int = 0
    delay_cs: int | None = 10
    disposal: int = 0
    transparent: int | None = None
    interlaced: bool = False
    palette: NDArray[np.uint8] | None = None

    def to_bytes(self) -> bytes:
        height, width = self.pixels.shape
        control = b""
        if self.delay_cs is not None:
            packed = self.disposal << 2 | (self.transparent is not None)
            control = b"\x21\xf9\x04" + bytes([packed]) + self.delay_cs.to_bytes(2, "little")
            control += bytes([self.transparent or 0, 0])
        place = b"".join(number.to_bytes(2, "little") for number in (self.left, self.top, width, height))
        colors = b"" if self.palette is None else self.palette.tobytes()
        packed = self.interlaced << 6 | (0 if self.palette is None else 0x80 | len(self.palette).bit_length() - 2)
        rows = list(range(height))
        if self.interlaced:
            rows = rows[::8] + rows[4::8] + rows[2::4] + rows[1::2]
        codes = sub_blocks(lzw(self.pixels[rows].tobytes()))
        return control + b"\x2c" + place + bytes([packed]) + colors + b"\x07" + codes + b"\x00"


def lzw(pixels: bytes) -> bytes:
    """Encode pixels below 128 without compression: a clear code every 100 pixels keeps codes one byte wide."""
    pieces = [bytes([CLEAR]) + pixels[at : at + 100] for at in range(0, len(pixels), 100)]
    return b"".join(pieces) + bytes([END])


def sub_blocks(data: bytes) -> bytes:
    return b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))


@dataclass(frozen=True)
class RawGif:
    """Writes pictures (or the bytes of other blocks) into a GIF with a palette of 128 colours."""

    palette: NDArray[np.uint8] = field(
        default_factory=lambda: np.random.default_rng(7).integers(0, 256, (128, 3), dtype=np.uint8)
    )

    def __call__(self, size: tuple[int, int], blocks: Sequence[Picture | bytes], trailer: bytes = b";") -> bytes:
        width, height = size
        screen = b"GIF89a" + width.to_bytes(2, "little") + height.to_bytes(2, "little") + b"\xf6\x00\x00"
        body = b"".join(block if isinstance(block, bytes) else block.to_bytes() for block in blocks)
        return screen + self.palette.tobytes() + body + trailer

    @staticmethod
    def picture(
        pixels: NDArray[np.uint8],
        left: int = 0,
        top: int = 0,
        delay_cs: int | None = 10,
        disposal: int = 0,
        transparent: int | None = None,
        interlaced: bool = False,
        palette: NDArray[np.uint8] | None = None,
    ) -> Picture:
        return Picture(pixels, left, top, delay_cs, disposal, transparent, interlaced, palette)

    @staticmethod
    def solid(color: int, width: int = 4, height: int = 4) -> NDArray[np.uint8]:
        return np.full((height, width), color, np.uint8)


@pytest.fixture(scope="session")
def raw_gif() -> RawGif:
    return RawGif()
