"""The fastest decoder (extra `fast`): a loop compiled by numba decodes LZW codes to the same pixels as Pillow.

GIF's LZW (appendix F of the GIF89a specification; Welch, "A Technique for High-Performance Data Compression",
1984) is decoded by remembering where in the output each code's string was first written, so most codes are one copy
of eight bytes. The literals precede the output, so they need no special case.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from gifdex.encoders.frames.decoders.gif import GifImage
from gifdex.encoders.frames.decoders.pillow_gif import GifDecoder, check_code_size

_LITERALS = 2048  # as many as the largest code size has; indexes have eight bits
_CODES = 4096
# Whole words are read and written: up to seven extra bytes, which are overwritten or never read.
_SPARE = 8

_u8, _u32, _u64 = np.uint8, np.uint32, np.uint64
_0, _1, _2, _4, _8, _32 = (_u64(number) for number in (0, 1, 2, 4, 8, 32))


def _join_blocks(data: Any, start: int, end: int, codes: Any) -> int:
    """Copy the bytes of the whole sub-blocks (15) in data[start:end] to `codes`; return their count."""
    count, position = 0, start
    while position < end:
        size = int(data[position])
        position += 1
        if size == 0 or position + size > end:
            break
        for i in range(size):
            codes[count + i] = data[position + i]
        position += size
        count += size
    return count


@numba.njit(inline="always")
def _load(array: Any, at: Any, count: int) -> Any:
    """Return `count` bytes as a little-endian number; the compiler makes it one read."""
    word = _u64(0)
    for i in range(count):
        word |= _u64(array[at + _u64(i)]) << _u64(8 * i)
    return word


@numba.njit(inline="always")
def _store(array: Any, at: Any, word: Any) -> None:
    """Write eight bytes, the lowest first; the compiler makes it one write."""
    for i in range(8):
        array[at + _u64(i)] = _u8(word >> _u64(8 * i))


def _unpack(codes: Any, count: int, code_size: int, output: Any, pixels: int) -> int:
    """Write up to `pixels` indexes to output[2048:]; return how many, or -1 at an invalid code.

    `codes` has eight bytes more than `count`, `output` eight more than 2048 + `pixels`; nothing is read or
    written beyond. `code_size` is 1 to 11.
    """
    start = np.empty(_CODES, np.uint32)  # where in the output a code's string begins
    length = np.empty(_CODES, np.uint32)
    for literal in range(_LITERALS):
        output[literal] = _u8(literal & 255)
        start[literal] = _u32(literal)
        length[literal] = _u32(1)
    clear = _1 << _u64(code_size)
    left = _8 * _u64(count)  # bits not yet taken as codes
    position, held, bits = _0, _0, _0
    size, following = _u64(code_size) + _1, clear + _2
    top = _1 << size  # the first code that needs more bits
    at, limit = _u64(_LITERALS), _u64(_LITERALS) + _u64(pixels)
    last, last_length = _0, _0  # the previous string; empty after a clear code
    while at < limit and left >= size:
        if held < size:
            bits |= _load(codes, position, 4) << held
            position += _4
            held += _32
        code = bits & (top - _1)
        bits >>= size
        held -= size
        left -= size
        if code == clear:
            size, following = _u64(code_size) + _1, clear + _2
            top = _1 << size
            last_length = _0
            continue
        if code == clear + _1:  # the end
            break
        if code < following:
            source, many = _u64(start[code]), _u64(length[code])
        elif code == following and last_length > _0:  # the previous string and its first index
            source, many = last, last_length + _1
        else:
            return -1
        kept = min(many, limit - at)  # what is beyond the image is not drawn
        _store(output, at, _load(output, source, 8))
        done = _8
        while done < kept:
            _store(output, at + done, _load(output, source + done, 8))
            done += _8
        if code == following:
            output[at + many - _1 if kept == many else at] = output[source]
        if last_length > _0 and following < _u64(_CODES):
            start[following] = _u32(last)
            length[following] = _u32(last_length + _1)
            following += _1
            if following == top and size < _u64(12):
                size += _1
                top <<= _1
        last, last_length = at, many
        at += kept
    return int(at) - _LITERALS


@cache
def _compiled() -> tuple[Callable[..., int], Callable[..., int]]:
    """Compile both loops (about two seconds, once per process); they release the GIL."""
    array = types.Array(types.uint8, 1, "C")
    given = types.Array(types.uint8, 1, "C", readonly=True)
    join = numba.njit(types.int64(given, types.int64, types.int64, array), nogil=True)(_join_blocks)
    unpack = numba.njit(types.int64(array, types.int64, types.int64, array, types.int64), nogil=True)(_unpack)
    return join, unpack


class NumbaUnpack:
    """Unpack with the compiled loop."""

    def __init__(self) -> None:
        self._join, self._loop = _compiled()
        self._codes = np.empty(0, np.uint8)
        self._output = np.empty(0, np.uint8)

    def __call__(self, data: bytes, image: GifImage) -> tuple[NDArray[np.uint8], int]:
        """Return an image's indexes and their count; see `canvas.Unpack`."""
        check_code_size(image)
        pixels = image.width * image.height
        if len(self._codes) < image.end - image.start + _SPARE:
            self._codes = np.empty(image.end - image.start + _SPARE, np.uint8)
        if len(self._output) < _LITERALS + pixels + _SPARE:
            self._output = np.zeros(_LITERALS + pixels + _SPARE, np.uint8)
        count = self._join(np.frombuffer(data, np.uint8), image.start, image.end, self._codes)
        written = self._loop(self._codes, count, image.code_size, self._output, pixels)
        if written < 0:
            raise ValueError("its LZW codes are broken")
        return self._output[_LITERALS : _LITERALS + pixels], written


def decoder() -> GifDecoder:
    """Return the decoder, compiled."""
    _compiled()
    return GifDecoder("numba", "numba", NumbaUnpack)
