from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gifdex.encoders.frames.decoders.base import Budget
from gifdex.encoders.frames.decoders.gif import CLEAR, KEEP, RESTORE, GifStructure, read_structure
from gifdex.encoders.frames.limits import Limits
from gifdex.schemas.errors import DecodeError, LimitError

if TYPE_CHECKING:
    from tests.encoders.frames.conftest import Picture, RawGif

# For tests that are not about time limits.
PLENTY = Budget(Limits(seconds=math.inf))

GifMaker = Callable[..., Path]


def read(data: bytes) -> GifStructure:
    return read_structure(data, Limits(), PLENTY)


def pillow_delays(path: Path) -> tuple[int, ...]:
    with Image.open(path) as image:
        delays = []
        for frame in range(getattr(image, "n_frames", 1)):
            image.seek(frame)
            delay = round(image.info.get("duration", 0))
            delays.append(delay if delay > 10 else 100)
    return tuple(delays)


def test_canvas_and_delays_are_read_from_the_blocks(raw_gif: RawGif) -> None:
    red = raw_gif.solid(1)
    structure = read(raw_gif((7, 5), [raw_gif.picture(red, delay_cs=5), raw_gif.picture(red, delay_cs=123)]))
    assert (structure.format, structure.width, structure.height) == ("GIF", 7, 5)
    assert structure.delays_ms == (50, 1230)
    assert structure.pictures((0, 1)) == (0, 1)
    assert (structure.damage, structure.odd, structure.loops) == (None, None, None)


def test_an_image_has_position_disposal_colors_and_codes(raw_gif: RawGif) -> None:
    local = raw_gif.palette[:4]
    blocks = [
        raw_gif.picture(raw_gif.solid(1, 3, 2), left=1, top=2, disposal=2, transparent=9),
        raw_gif.picture(raw_gif.solid(2), interlaced=True, palette=local, disposal=3),
    ]
    data = raw_gif((4, 4), blocks)
    first, second = read(data).images
    assert (first.left, first.top, first.width, first.height) == (1, 2, 3, 2)
    assert (first.disposal, first.transparent, first.interlaced) == (CLEAR, 9, False)
    assert (second.disposal, second.transparent, second.interlaced) == (RESTORE, None, True)
    assert (first.palette, first.colors) == (13, 128)
    assert data[second.palette : second.palette + 12] == local.tobytes()
    assert (second.colors, second.code_size) == (4, 7)
    assert data[first.start] == 8  # six pixels, a clear code and an end code, a byte each
    assert data[first.end - 1] == 0
    assert first.whole


@pytest.mark.parametrize(
    ("stored", "effective"), [(0, KEEP), (1, KEEP), (2, CLEAR), (3, RESTORE), (4, RESTORE), (7, KEEP)]
)
def test_disposal_methods_are_read(raw_gif: RawGif, stored: int, effective: int) -> None:
    assert read(raw_gif((4, 4), [raw_gif.picture(raw_gif.solid(1), disposal=stored)])).images[0].disposal == effective


@pytest.mark.parametrize("delay_cs", [0, 1, None])
def test_a_delay_of_at_most_ten_milliseconds_becomes_a_hundred(raw_gif: RawGif, delay_cs: int | None) -> None:
    data = raw_gif((4, 4), [raw_gif.picture(raw_gif.solid(1), delay_cs=delay_cs)])
    assert read(data).delays_ms == (100,)


def test_a_delay_applies_only_to_the_next_frame(raw_gif: RawGif) -> None:
    red = raw_gif.solid(1)
    data = raw_gif((4, 4), [raw_gif.picture(red, delay_cs=50), raw_gif.picture(red, delay_cs=None)])
    assert read(data).delays_ms == (500, 100)


def test_an_image_without_timing_is_drawn_together_with_the_next_timed_one(raw_gif: RawGif) -> None:
    delays = [None, None, 50, None, 0, None]
    structure = read(raw_gif((4, 4), [raw_gif.picture(raw_gif.solid(1), delay_cs=delay) for delay in delays]))
    assert structure.delays_ms == (500, 100, 100, 100)
    assert structure.pictures((0, 1, 2, 3)) == (2, 3, 4, 5)


def test_untimed_tiles_are_one_still_and_untimed_full_images_an_animation(raw_gif: RawGif) -> None:
    tiles = [raw_gif.picture(raw_gif.solid(k, 2, 4), left=2 * k, delay_cs=None) for k in (0, 1)]
    assert read(raw_gif((4, 4), tiles)).pictures((0,)) == (1,)
    loop = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x05\x00\x00"
    looped = read(raw_gif((4, 4), [loop, *tiles]))
    assert (looped.loops, len(looped.delays_ms)) == (5, 2)
    whole = [raw_gif.picture(raw_gif.solid(k), delay_cs=None) for k in (0, 1)]
    assert len(read(raw_gif((4, 4), whole)).delays_ms) == 2


def test_an_image_beyond_the_canvas_is_odd_and_does_not_grow_it(raw_gif: RawGif) -> None:
    structure = read(raw_gif((4, 4), [raw_gif.picture(raw_gif.solid(1), left=10, top=20)]))
    assert (structure.width, structure.height) == (4, 4)
    assert structure.odd == "has an image that reaches beyond its canvas"


def test_without_a_canvas_size_the_first_image_sets_it(raw_gif: RawGif) -> None:
    structure = read(raw_gif((0, 0), [raw_gif.picture(raw_gif.solid(1), left=1, top=2)]))
    assert (structure.width, structure.height) == (5, 6)


def test_other_extensions_local_palettes_and_stray_bytes_are_skipped(raw_gif: RawGif) -> None:
    comment = b"\x21\xfe\x05hello\x02, \x00"
    local_palette = b"\x2c\0\0\0\0\x01\x00\x01\x00\x81" + b"," * 12 + b"\x02\x02\x44\x01\x00"
    first, second = raw_gif.picture(raw_gif.solid(1)), raw_gif.picture(raw_gif.solid(2), delay_cs=0)
    plain: list[Picture | bytes] = [comment, first, local_palette, second]
    assert read(raw_gif((4, 4), plain)).odd is None
    structure = read(raw_gif((4, 4), [plain[0], b"\0\0junk", *plain[1:]]))
    assert structure.delays_ms == (100, 100, 100)
    assert structure.odd == "has 6 stray bytes between blocks"


@pytest.mark.parametrize("empty", [b"\x21\xff\x00", b"\x21\xf9\x00", b"\x21\xfe\x00"])
def test_an_empty_extension_does_not_swallow_the_next_block(raw_gif: RawGif, empty: bytes) -> None:
    red = raw_gif.picture(raw_gif.solid(1))
    structure = read(raw_gif((4, 4), [red, empty, red, red]))
    assert (len(structure.delays_ms), structure.damage) == (3, None)


def test_data_after_the_trailer_is_ignored(raw_gif: RawGif) -> None:
    red = raw_gif.picture(raw_gif.solid(1))
    structure = read(raw_gif((4, 4), [red], trailer=b";" + red.to_bytes()))
    assert len(structure.delays_ms) == 1
    assert structure.odd is None


def test_a_gif_without_a_trailer_is_odd_but_complete(raw_gif: RawGif) -> None:
    structure = read(raw_gif((4, 4), [raw_gif.picture(raw_gif.solid(1))], trailer=b""))
    assert (structure.damage, structure.odd) == (None, "has no trailer")


def test_a_truncated_file_says_where_it_ends(raw_gif: RawGif) -> None:
    data = raw_gif((4, 4), [raw_gif.picture(raw_gif.solid(color)) for color in (1, 2)])
    last = read(data).images[1]
    within = read(data[: last.start + 5])
    assert within.damage == within.odd == "ends within frame 2"
    assert [image.whole for image in within.images] == [True, False]
    assert read(data[: last.start - 5]).damage == "ends after frame 1"
    assert read(data[: 13 + 3 * 128 + 2]).damage == "ends before its first frame"


@pytest.mark.parametrize(("code_size", "odd"), [(0, True), (2, False), (8, False), (9, True), (255, True)])
def test_invalid_code_sizes_are_odd(raw_gif: RawGif, code_size: int, odd: bool) -> None:
    image = b"\x2c\0\0\0\0\x01\x00\x01\x00\x00" + bytes([code_size]) + b"\x02\x44\x01\x00"
    assert (read(raw_gif((4, 4), [image])).odd is not None) == odd


def test_counting_stops_at_the_frame_limit(raw_gif: RawGif) -> None:
    data = raw_gif((4, 4), [raw_gif.picture(raw_gif.solid(1))] * 5)
    assert len(read_structure(data, Limits(frames=5), PLENTY).delays_ms) == 5
    with pytest.raises(LimitError, match="5 frames or more, above the limit frames of 4"):
        read_structure(data, Limits(frames=4), PLENTY)


def test_millions_of_blocks_are_abandoned_at_the_time_limit(raw_gif: RawGif) -> None:
    data = raw_gif((4, 4), [b"\x21\xfe\x00" * 30_000, raw_gif.picture(raw_gif.solid(1))])
    assert len(read(data).delays_ms) == 1
    with pytest.raises(LimitError, match="limit seconds of -1"):
        read_structure(data, Limits(), Budget(Limits(seconds=-1)))


def test_many_loop_extensions_cost_no_more_than_their_bytes(raw_gif: RawGif) -> None:
    loop = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x05\x00\x00"
    data = raw_gif((4, 4), [loop * 400_000, raw_gif.picture(raw_gif.solid(1))])
    structure = read_structure(data, Limits(), Budget(Limits()))  # within the time limit
    assert (structure.loops, len(structure.delays_ms)) == (5, 1)


def test_a_truncated_header_is_an_error_with_the_number_of_bytes(raw_gif: RawGif) -> None:
    with pytest.raises(DecodeError, match="ends after 10 bytes"):
        read(raw_gif((4, 4), [])[:10])


def real_gif_bytes() -> bytes:
    """A GIF with every kind of block, built at import so that strategies can use it."""
    screen = b"GIF89a\x04\x00\x04\x00\x80\x00\x00" + b"\xff\xff\xff\x00\x00\x00"
    loop = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"
    frame = b"\x21\xf9\x04\x04\x0a\x00\x00\x00\x2c\0\0\0\0\x04\x00\x04\x00\x00\x02\x04\x84\x8f\x09\x05\x00"
    return screen + loop + frame * 3 + b";"


REAL = real_gif_bytes()


def frames_or_error(data: bytes) -> int:
    """Decode the data; any error but a DecodeError fails the test."""
    try:
        return len(read(data).delays_ms)
    except DecodeError:
        return 0


@given(st.integers(0, len(REAL)))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_a_gif_truncated_anywhere_gives_frames_or_a_decode_error(end: int) -> None:
    assert frames_or_error(REAL[:end]) <= 3


@given(st.lists(st.tuples(st.integers(6, len(REAL) - 1), st.integers(0, 255)), max_size=8), st.integers(0, len(REAL)))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_a_mutated_gif_gives_frames_or_a_decode_error(changes: list[tuple[int, int]], end: int) -> None:
    data = bytearray(REAL)
    for place, value in changes:
        data[place] = value
    assert frames_or_error(bytes(data[:end])) <= len(REAL)


@given(st.binary(max_size=200))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_any_bytes_after_the_signature_give_frames_or_a_decode_error(body: bytes) -> None:
    assert frames_or_error(b"GIF89a" + body) <= len(body)


@pytest.mark.parametrize(("frames", "delay"), [(1, 100), (2, 40), (7, 100), (4, [20, 500, 70, 3000])])
def test_frames_and_durations_match_pillow(make_gif: GifMaker, frames: int, delay: int | list[int]) -> None:
    path = make_gif("a.gif", frames=frames, delay=delay)
    structure = read(path.read_bytes())
    assert structure.delays_ms == pillow_delays(path)
    assert (structure.width, structure.height) == (48, 32)
    assert structure.odd is None


@pytest.mark.heavy
def test_real_gifs_match_pillow_and_are_not_odd(data: Path) -> None:
    paths = sorted(path for folder in ("real-gifs", "clips") for path in (data / folder).glob("*.gif"))
    assert len(paths) > 70
    for path in paths:
        structure = read(path.read_bytes())
        assert (path.name, structure.delays_ms) == (path.name, pillow_delays(path))
        assert (path.name, structure.odd) == (path.name, None)
