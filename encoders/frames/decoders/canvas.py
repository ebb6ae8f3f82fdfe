"""Composite a GIF's images into what a viewer shows, with any LZW decoder.

The canvas holds color numbers: 256 x the number of the color table + the index within it; the next number after all
of these means that nothing is drawn (white). So compositing is a few passes over small integers, even if images have
color tables of their own, and colors are looked up only for the frames that are needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gifdex.encoders.frames.decoders.base import Budget, FrameError
from gifdex.encoders.frames.decoders.gif import CLEAR, KEEP, RESTORE, GifImage, GifStructure, covers

_Bytes = NDArray[np.uint8]
_Numbers = NDArray[np.unsignedinteger]  # uint16, or uint32 where there are many tables
# Larger images are drawn in bands of rows, to keep intermediate arrays small.
_DRAWN_AT_ONCE = 2**20
# numpy converts all indexes to eight bytes before a look-up.
_LOOKED_UP_AT_ONCE = 2**18
_Pixel = TypeVar("_Pixel", bound=np.generic)
# With more color tables than this, numbers need more than 16 bits.
_MAX_TABLES = 255


class Unpack(Protocol):
    """Decodes an image's LZW codes (22 and appendix F of the GIF89a specification)."""

    def __call__(self, data: bytes, image: GifImage) -> tuple[_Bytes, int]:
        """Return indexes uint8 (width x height,) in the order of the codes, and how many were decoded.

        The array is valid until the next call. Raises ValueError with the reason at an invalid code.
        """


def steps(gif: GifStructure, wanted: Sequence[int]) -> list[tuple[int, bool]]:
    """Return the images to draw for the frames `wanted` (ascending), and whether each starts on an empty canvas.

    Skips images that no wanted frame shows: those before an image that hides or clears everything, and those whose
    area is cleared or restored before a wanted frame.
    """
    result: list[tuple[int, bool]] = []
    done = -1
    for last in gif.pictures(wanted):
        fresh = next((i for i in range(last, done, -1) if _starts_afresh(gif, i)), None)
        first = done + 1 if fresh is None else fresh
        for index in range(first, last + 1):
            result.append((index, index == first and fresh is not None))
        done = last
    return result


def _starts_afresh(gif: GifStructure, index: int) -> bool:
    """Tell whether frames from image `index` on do not depend on the images before it."""
    if index == 0:
        return True
    before, image = gif.images[index - 1], gif.images[index]
    if before.disposal == CLEAR and covers(before, gif.width, gif.height):
        return True
    opaque = image.transparent is None and image.colors >> image.code_size >= 1
    return opaque and covers(image, gif.width, gif.height) and image.disposal != RESTORE


def _is_seen(image: GifImage) -> bool:
    """Tell whether an image leaves anything on the canvas for later frames."""
    return image.disposal == KEEP


def pixels_drawn(gif: GifStructure, wanted: Sequence[int]) -> int:
    """Return how many pixels are decoded, cleared or looked up for the frames `wanted`."""
    shown = set(gif.pictures(wanted))
    images = ((index in shown, gif.images[index]) for index, _ in steps(gif, wanted))
    needed = (image for is_shown, image in images if is_shown or image.disposal != RESTORE)
    return sum(image.width * image.height for image in needed) + len(wanted) * gif.width * gif.height


class _NotOpaqueError(Exception):
    """An image that should hide everything before it has too few pixels."""


def compose(
    data: bytes, gif: GifStructure, wanted: Sequence[int], unpack: Unpack, budget: Budget
) -> Iterator[Image.Image]:
    """Yield the frames `wanted` (ascending) as RGBX pictures of the canvas, transparency on white.

    Raises FrameError at the first frame whose codes are broken or incomplete, and LimitError if it takes too long.
    """
    done = 0
    try:
        for picture in _compose(data, gif, wanted, unpack, budget, steps(gif, wanted)):
            yield picture
            done += 1
    except _NotOpaqueError:  # try again without skipping images
        last = gif.pictures(wanted)[-1]
        every = [(index, index == 0) for index in range(last + 1)]
        budget.spend(sum(image.width * image.height for image in gif.images[: last + 1]))
        yield from itertools.islice(_compose(data, gif, wanted, unpack, budget, every), done, None)


def _compose(
    data: bytes,
    gif: GifStructure,
    wanted: Sequence[int],
    unpack: Unpack,
    budget: Budget,
    plan: list[tuple[int, bool]],
) -> Iterator[Image.Image]:
    canvas = _Canvas(data, gif)
    shown = set(gif.pictures(wanted))
    for index, fresh in plan:
        budget.check_time()
        image = gif.images[index]
        if fresh:
            canvas.clear()
        else:
            canvas.dispose()
        if image.width * image.height and (index in shown or _is_seen(image)):
            try:
                pixels, count = unpack(data, image)
                if not image.whole and count < image.width * image.height:
                    raise ValueError("the file ends within it")
            except ValueError as err:
                raise FrameError(_frame_of(gif, index), str(err)) from err
            if fresh and index and count < image.width * image.height:
                raise _NotOpaqueError
            canvas.draw(image, pixels, count)
        else:
            canvas.skip(image)
        if index in shown:
            yield canvas.picture()


def _frame_of(gif: GifStructure, image: int) -> int:
    return next(frame for frame, last in enumerate(gif.completed_by) if last >= image)


@dataclass
class _Canvas:
    data: bytes
    gif: GifStructure
    _pending: tuple[tuple[slice, slice], _Numbers | None] | None = None
    _bases: dict[tuple[int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        gif = self.gif
        for image in gif.images:
            self._bases.setdefault((image.palette, image.colors), 256 * len(self._bases))
        self._nothing = 256 * len(self._bases)
        numbers = np.uint16 if len(self._bases) <= _MAX_TABLES else np.uint32
        self._canvas: _Numbers = np.full((gif.height, gif.width), self._nothing, numbers)
        self._changes: _Numbers = np.empty(max(_DRAWN_AT_ONCE, gif.width), numbers)
        table = np.full((self._nothing + 1, 4), 255, np.uint8)
        for (start, colors), base in self._bases.items():
            rgb = np.frombuffer(self.data, np.uint8, 3 * colors, start).reshape(colors, 3)
            table[base : base + colors, :3] = rgb
        self._table: NDArray[np.uint32] = table.view(np.uint32)[:, 0]  # one look-up per pixel, in any byte order

    def clear(self) -> None:
        self._canvas[...] = self._nothing
        self._pending = None

    def dispose(self) -> None:
        """Apply the previous image's disposal method (23): clear or restore its area."""
        if self._pending is not None:
            area, before = self._pending
            self._canvas[area] = self._nothing if before is None else before
            self._pending = None

    def _area(self, image: GifImage) -> tuple[slice, slice]:
        """Return the part of the canvas that an image covers; the rest of the image is not shown."""
        bottom, right = image.top + image.height, image.left + image.width
        return slice(image.top, min(bottom, self.gif.height)), slice(image.left, min(right, self.gif.width))

    def skip(self, image: GifImage) -> None:
        """Skip an image that is never seen; its area is still cleared."""
        if image.disposal == CLEAR:
            self._pending = (self._area(image), None)

    def draw(self, image: GifImage, pixels: _Bytes, count: int) -> None:
        """Draw the first `count` of an image's indexes where they are not transparent."""
        area = self._area(image)
        view = self._canvas[area]
        if image.disposal == CLEAR:
            self._pending = (area, None)
        elif image.disposal == RESTORE:
            self._pending = (area, view.copy())
        if not view.size:
            return
        height, width = view.shape
        indexes = _in_rows(pixels, image)[:height, :width]
        there = None
        if count < image.width * image.height:
            there = np.zeros(image.width * image.height, np.bool_)
            there[:count] = True
            there = _in_rows(there, image)[:height, :width]
        rows = max(1, _DRAWN_AT_ONCE // width)
        for first in range(0, height, rows):
            band = slice(first, first + rows)
            self._draw_band(image, indexes[band], view[band], None if there is None else there[band])

    def _draw_band(self, image: GifImage, indexes: _Bytes, view: _Numbers, there: NDArray[np.bool_] | None) -> None:
        base = self._bases[image.palette, image.colors]
        visible = _visible(image, indexes, there)
        if visible is None:
            np.add(indexes, base, out=view, dtype=view.dtype, casting="unsafe")
            return
        # view += (numbers - view) x visible, where overflows cancel out: fifteen times as fast as a masked copy, whose
        # branches are unpredictable.
        changes = self._changes[: view.size].reshape(view.shape)
        np.subtract(indexes, view, out=changes, dtype=view.dtype, casting="unsafe")
        if base:
            np.add(changes, base, out=changes, dtype=view.dtype, casting="unsafe")
        np.multiply(changes, visible.view(np.uint8), out=changes, dtype=view.dtype, casting="unsafe")
        np.add(view, changes, out=view)

    def picture(self) -> Image.Image:
        """Return the canvas as it is shown now, RGBX."""
        pixels = np.empty(self._canvas.shape, np.uint32)
        rows = max(1, _LOOKED_UP_AT_ONCE // self.gif.width)
        for first in range(0, self.gif.height, rows):
            part = slice(first, first + rows)
            np.take(self._table, self._canvas[part], out=pixels[part], mode="clip")
        return Image.frombuffer("RGBX", (self.gif.width, self.gif.height), pixels, "raw", "RGBX", 0, 1)


def _visible(image: GifImage, indexes: _Bytes, there: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Return which pixels are drawn, None for all; transparent, missing and out-of-table ones are not."""
    visible = None if there is None else there.copy()
    if image.transparent is not None:
        opaque = indexes != image.transparent
        visible = opaque if visible is None else visible & opaque
    if image.colors >> image.code_size == 0:
        inside = indexes < image.colors
        visible = inside if visible is None else visible & inside
    return visible


def _in_rows(pixels: NDArray[_Pixel], image: GifImage) -> NDArray[_Pixel]:
    """Return an image's pixels as (height, width), its interlaced rows in order (appendix E)."""
    rows = pixels.reshape(image.height, image.width)
    if not image.interlaced:
        return rows
    order = np.concatenate([np.arange(image.height)[start::step] for start, step in ((0, 8), (4, 8), (2, 4), (1, 2))])
    result = np.empty_like(rows)
    result[order] = rows
    return result
