"""The decoder that is always available: Pillow decodes the LZW codes, our canvas composites.

Pillow's own compositing is wrong if an image without a disposal method follows one that is cleared or restored, and it
raises at the first broken frame. Its LZW decoder is right, and releases the GIL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gifdex.encoders.frames.decoders.base import Budget, Structure
from gifdex.encoders.frames.decoders.canvas import Unpack, compose, pixels_drawn
from gifdex.encoders.frames.decoders.gif import CODE_SIZES, GifImage, GifStructure, read_structure
from gifdex.encoders.frames.limits import Limits


class GifDecoder:
    """Draws GIFs on our canvas; `unpack` decodes each image's LZW codes."""

    watched = False

    def __init__(self, name: str, package: str, unpack: type[Unpack]) -> None:
        self.name = name
        self._package = package
        self._unpack = unpack

    @cached_property
    def version(self) -> str:
        """The package that unpacks, with its version."""
        return f"{self._package} {version(self._package)}"

    def structure(self, data: bytes, limits: Limits, budget: Budget) -> Structure:
        """Return the structure of a GIF; see `gif.read_structure`."""
        return read_structure(data, limits, budget)

    def cost(self, structure: Structure, wanted: Sequence[int]) -> int:
        """Return how many pixels are unpacked and looked up for the frames `wanted`."""
        assert isinstance(structure, GifStructure)
        return pixels_drawn(structure, wanted)

    def draw(self, data: bytes, structure: Structure, wanted: Sequence[int], budget: Budget) -> Iterator[Image.Image]:
        """Yield the frames `wanted`; see `canvas.compose`."""
        assert isinstance(structure, GifStructure)
        return compose(data, structure, wanted, self._unpack(), budget)


def check_code_size(image: GifImage) -> None:
    """Raise ValueError if an image's LZW minimum code size (22) is invalid."""
    if image.code_size not in CODE_SIZES:
        raise ValueError(f"its LZW code size is {image.code_size}, expected 1 to 11")


class PillowUnpack:
    """Unpack with Pillow's GIF codec."""

    def __init__(self) -> None:
        self._pixels = np.empty(0, np.uint8)

    def __call__(self, data: bytes, image: GifImage) -> tuple[NDArray[np.uint8], int]:
        """Return an image's indexes and their count; see `canvas.Unpack`."""
        check_code_size(image)
        size = image.width * image.height
        if len(self._pixels) < size:
            self._pixels = np.empty(size, np.uint8)
        pixels = self._pixels[:size]
        codes = data[image.start : image.end]
        if not size or _unpack(codes, image, pixels):
            return pixels, size
        # Pillow does not say how many pixels it wrote: those that do not depend on what the memory held before.
        other = np.full(size, 255, np.uint8)
        pixels.fill(0)
        _unpack(codes, image, pixels)
        _unpack(codes, image, other)
        differing = pixels != other
        return pixels, int(differing.argmax()) if differing.any() else size


def _unpack(codes: bytes, image: GifImage, pixels: NDArray[np.uint8]) -> bool:
    """Unpack into `pixels`, the memory of Pillow's picture; return whether there were enough codes."""
    picture = Image.frombuffer("L", (image.width, image.height), pixels, "raw", "L", 0, 1)
    try:
        picture.frombytes(codes, "gif", (image.code_size, 0, -1))  # we handle interlacing and transparency
    except ValueError as err:
        if "not enough" not in str(err):
            raise ValueError("its LZW codes are broken") from err
        return False
    return True


def decoder() -> GifDecoder:
    """Return the decoder."""
    return GifDecoder("pillow", "pillow", PillowUnpack)
