"""Decode a still picture: JPEG, PNG, WebP, BMP, or the first frame of a GIF."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from gifdex.encoders.base import Frames
from gifdex.encoders.frames.decoders.base import check, check_bytes, on_white
from gifdex.encoders.frames.limits import Limits
from gifdex.schemas.errors import DecodeError, UnsupportedFormatError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")


def decode_still(data: bytes, frame_size: tuple[int, int], limits: Limits) -> Frames:
    """Return the picture as uint8 RGB (1, height, width, 3), upright, resized to `frame_size`, transparency on white.

    Raises LimitError, UnsupportedFormatError, or DecodeError for anything else that is wrong with the bytes.
    """
    check_bytes(len(data), limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on odd metadata, and on sizes that are checked here
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                check("pixels", image.width * image.height, limits.pixels, "pixels")
                return _resized(on_white(ImageOps.exif_transpose(image).convert("RGBA")), frame_size)
    except UnidentifiedImageError as err:
        raise UnsupportedFormatError(
            f"the file begins with {data[:12]!r} and is no picture that gifdex reads; expected one of "
            f"{', '.join(FORMATS)}"
        ) from err
    except DecodeError:
        raise
    except Exception as err:  # Pillow raises many kinds of errors for broken files
        raise DecodeError(f"the picture cannot be decoded: {' '.join(str(err).split())[:200]}") from err


def frame_of(pixels: NDArray[np.uint8], frame_size: tuple[int, int]) -> Frames:
    """Return pixels uint8 RGB (height, width, 3) as a frame uint8 (1, height, width, 3) of `frame_size`."""
    return _resized(Image.fromarray(pixels), frame_size)


def _resized(image: Image.Image, frame_size: tuple[int, int]) -> Frames:
    """Resize as the frames of a GIF are resized (RESIZE in decode.py)."""
    height, width = frame_size
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR).convert("RGB"))[None]
