"""Read the structure of a GIF: its canvas, images, delays and disposal, without decoding a pixel.

Section numbers are those of the GIF89a specification (CompuServe, 31 July 1990).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from gifdex.encoders.frames.decoders.base import Budget, Structure, check_frames, shown_for
from gifdex.encoders.frames.limits import Limits
from gifdex.schemas.errors import DecodeError

_IMAGE, _EXTENSION, _TRAILER = 0x2C, 0x21, 0x3B
_GRAPHIC_CONTROL, _APPLICATION = 0xF9, 0xFF
_LOOP_EXTENSIONS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")
_SCREEN = struct.Struct("<HHBBB")
_DESCRIPTOR = struct.Struct("<HHHHB")
# The bytes that introduce a block: extension, image, trailer.
_INTRODUCER = re.compile(rb"[\x21\x2c\x3b]")
# Disposal methods (23): what happens to an image's area before the next image is drawn. Old encoders write 4 for 3.
KEEP, CLEAR, RESTORE = 1, 2, 3
_DISPOSALS = {CLEAR: CLEAR, RESTORE: RESTORE, 4: RESTORE}
# The budget is checked after this many blocks.
_BLOCKS_PER_CHECK = 10_000
# The LZW minimum code sizes (22) that fit into codes of 12 bits (appendix F), and the usual ones: 2 to 8 as specified,
# and 1, which some encoders write for black and white.
CODE_SIZES = range(1, 12)
_USUAL_CODE_SIZES = range(1, 9)


@dataclass(frozen=True, slots=True)
class GifImage:
    """One image of a GIF (20-22), with what its Graphic Control Extension (23) said.

    `left`, `top`, `width` and `height` are in pixels. The color table has `colors` RGB triples, from byte `palette` of
    the file on; the LZW sub-blocks are the bytes from `start` to `end`. `transparent` is the index that is not drawn,
    `disposal` is KEEP, CLEAR or RESTORE. `whole` is false if the file ends within the sub-blocks.
    """

    left: int
    top: int
    width: int
    height: int
    palette: int
    colors: int
    transparent: int | None
    disposal: int
    interlaced: bool
    code_size: int
    start: int
    end: int
    whole: bool


@dataclass(frozen=True)
class GifStructure(Structure):
    """A GIF's structure: `images` in file order, and for each frame the index of the image that completes it.

    `loops` is the loop count of an application extension (0: forever), None if there is none.
    """

    images: tuple[GifImage, ...] = ()
    completed_by: tuple[int, ...] = ()
    loops: int | None = None

    def pictures(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Return which images complete the frames `wanted`."""
        return tuple(self.completed_by[frame] for frame in wanted)


@dataclass
class _Control:
    """Settings for the next image (23)."""

    delay_ms: int | None = None  # None without an extension
    disposal: int = KEEP
    transparent: int | None = None


class _Walk:
    def __init__(self, data: bytes, limits: Limits, budget: Budget) -> None:
        self.data = data
        self.limits = limits
        self.budget = budget
        self.position = 0
        self.images: list[GifImage] = []
        self.delays: list[int | None] = []  # None where the image has no control extension
        self.loops: int | None = None
        self.odd: str | None = None

    def take(self, count: int) -> bytes:
        piece = self.data[self.position : self.position + count]
        if len(piece) < count:
            raise EOFError
        self.position += count
        return piece

    def take_color_table(self, packed: int) -> tuple[int, int]:
        """Skip a color table, present if bit 7 is set (19, 21); return its position and length."""
        begin, colors = self.position, 2 << (packed & 7) if packed & 0x80 else 0
        self.take(3 * colors)
        return begin, colors

    def skip_sub_blocks(self) -> None:
        """Skip data sub-blocks up to the empty one that ends them (15, 16)."""
        data, position = self.data, self.position  # local for speed: a hostile file has millions of sub-blocks
        try:
            while size := data[position]:
                position += size + 1
        except IndexError:
            self.position = len(data)
            raise EOFError from None
        self.position = position + 1

    def take_first_block(self) -> bytes:
        """Read the first sub-block and skip the others."""
        size = self.take(1)[0]
        if not size:
            self.note("has an empty extension")
            return b""
        block = self.take(size)
        self.skip_sub_blocks()
        return block

    def next_introducer(self) -> int:
        """Return the byte that introduces the next block; stray bytes are skipped, as decoders do."""
        found = _INTRODUCER.search(self.data, self.position)
        if found is None:
            self.note("has no trailer")
            return _TRAILER
        if found.start() != self.position:
            self.note(f"has {found.start() - self.position:,} stray bytes between blocks")
        self.position = found.end()
        return self.data[found.start()]

    def note(self, odd: str) -> None:
        self.odd = self.odd or odd

    def take_graphic_control(self) -> _Control:
        """Read a Graphic Control Extension (23)."""
        block = self.take_first_block()
        if len(block) < 4:
            self.note("has a control extension that is too short")
            return _Control(0)
        disposal = _DISPOSALS.get(block[0] >> 2 & 7, KEEP)
        delay_ms = 10 * int.from_bytes(block[1:3], "little")
        return _Control(delay_ms, disposal, block[3] if block[0] & 1 else None)

    def take_application(self) -> None:
        """Read an Application Extension (26); two kinds have a loop count."""
        start = self.position
        name = self.take_first_block()
        after = start + 1 + len(name)
        loop = self.data[after : after + 4] if name in _LOOP_EXTENSIONS else b""
        if loop[:2] == b"\x03\x01" and len(loop) == 4:
            self.loops = int.from_bytes(loop[2:], "little")

    def take_image(self, control: _Control, palette: tuple[int, int]) -> None:
        """Read an Image Descriptor, its color table and its data (20-22)."""
        left, top, width, height, packed = _DESCRIPTOR.unpack(self.take(_DESCRIPTOR.size))
        code_size, start, whole = 0, len(self.data), True
        try:
            if packed & 0x80:
                palette = self.take_color_table(packed)
            code_size = self.take(1)[0]
            if code_size not in _USUAL_CODE_SIZES:
                self.note(f"has an image with an LZW code size of {code_size}")
            start = self.position
            self.skip_sub_blocks()
        except EOFError:
            self.position = len(self.data)
            whole = not width * height  # an image without pixels needs no data
        self.images.append(
            GifImage(
                left, top, width, height, *palette, control.transparent, control.disposal, bool(packed & 0x40),
                code_size, start, max(start, self.position), whole,
            )
        )  # fmt: skip
        self.delays.append(control.delay_ms)
        check_frames(len(self.images), self.limits)
        if not whole:
            raise EOFError

    def take_blocks(self, palette: tuple[int, int]) -> None:
        control, blocks = _Control(), 0
        while (introducer := self.next_introducer()) != _TRAILER:
            blocks += 1
            if blocks % _BLOCKS_PER_CHECK == 0:
                self.budget.check_time()
            if introducer == _IMAGE:
                self.take_image(control, palette)
                control = _Control()
            elif (label := self.take(1)[0]) == _GRAPHIC_CONTROL:
                control = self.take_graphic_control()
            elif label == _APPLICATION:
                self.take_application()
            else:
                self.skip_sub_blocks()


def read_structure(data: bytes, limits: Limits, budget: Budget) -> GifStructure:
    """Walk the blocks of a GIF whose signature was checked (see `base.format_of`).

    As in viewers, every image is a frame, with two exceptions for images without a control extension (23), which have
    no delay: an image followed by one with a delay is drawn together with it; and if no image has an extension, the
    file has no loop count and no image covers the canvas, they are tiles of one still picture. Raises DecodeError if
    `data` ends within the header, LimitError if it has more frames than `limits` allow or takes too long.
    """
    walk = _Walk(data, limits, budget)
    walk.position = 6
    try:
        width, height, packed, _, _ = _SCREEN.unpack(walk.take(_SCREEN.size))
        palette = walk.take_color_table(packed)
    except EOFError as err:
        raise DecodeError(f"the file ends after {len(data)} bytes, within the GIF's header") from err
    damage = None
    try:
        walk.take_blocks(palette)
    except EOFError:  # cut short: keep what was read so far
        cut = walk.images and not walk.images[-1].whole
        place = f"within frame {len(walk.images):,}" if cut else f"after frame {len(walk.images):,}"
        damage = f"ends {place}" if walk.images else "ends before its first frame"
    return _structure(data, walk, width, height, damage)


def _structure(data: bytes, walk: _Walk, width: int, height: int, damage: str | None) -> GifStructure:
    images = tuple(walk.images)
    if not width * height and images:  # no canvas: viewers use the first image's area
        width, height = images[0].left + images[0].width, images[0].top + images[0].height
    if any(image.left + image.width > width or image.top + image.height > height for image in images):
        walk.note("has an image that reaches beyond its canvas")
    tiles = walk.loops is None and not any(covers(image, width, height) for image in images)
    completed_by = _frames(walk.delays, tiles)
    delays = tuple(shown_for(walk.delays[index] or 0) for index in completed_by)
    odd = damage or walk.odd
    return GifStructure("GIF", width, height, delays, damage, odd, images, completed_by, walk.loops)


def covers(image: GifImage, width: int, height: int) -> bool:
    """Tell whether an image covers a whole canvas."""
    return not image.left and not image.top and image.width >= width and image.height >= height


def _frames(delays: list[int | None], tiles: bool) -> tuple[int, ...]:
    """Return the index of the image that completes each frame; see `read_structure`."""
    if tiles and all(delay is None for delay in delays):
        return (len(delays) - 1,) if delays else ()
    frames: list[int] = []
    with_next = False  # whether an image without an extension is drawn together with the one after it
    for index in reversed(range(len(delays))):
        delay = delays[index]
        if delay is not None or not with_next:
            frames.append(index)
            with_next = bool(delay)
    return tuple(reversed(frames))
