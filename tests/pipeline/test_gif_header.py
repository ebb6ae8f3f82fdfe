from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gifdex.pipeline.gif_header import GifHeader, read_header
from gifdex.schemas.errors import DecodeError

if TYPE_CHECKING:
    from tests.pipeline.conftest import RawGif

GifMaker = Callable[..., Path]


def pillow_delays(path: Path) -> tuple[int, ...]:
    with Image.open(path) as image:
        delays = []
        for frame in range(getattr(image, "n_frames", 1)):
            image.seek(frame)
            asked = round(image.info.get("duration", 0))
            delays.append(asked if asked > 10 else 100)
    return tuple(delays)


def test_canvas_and_delays_are_what_the_blocks_say(raw_gif: RawGif) -> None:
    red = raw_gif.solid(1)
    data = raw_gif((7, 5), [raw_gif.picture(red, delay_cs=5), raw_gif.picture(red, delay_cs=123)])
    assert read_header(data) == GifHeader(7, 5, (50, 1230))


@pytest.mark.parametrize("delay_cs", [0, 1, None])
def test_a_delay_of_ten_milliseconds_or_less_or_none_at_all_shows_for_a_hundred(
    raw_gif: RawGif, delay_cs: int | None
) -> None:
    data = raw_gif((4, 4), [raw_gif.picture(raw_gif.solid(1), delay_cs=delay_cs)])
    assert read_header(data).delays_ms == (100,)


def test_a_delay_belongs_to_the_next_frame_alone(raw_gif: RawGif) -> None:
    red = raw_gif.solid(1)
    data = raw_gif((4, 4), [raw_gif.picture(red, delay_cs=50), raw_gif.picture(red, delay_cs=None)])
    assert read_header(data).delays_ms == (500, 100)


def test_a_frame_beyond_the_canvas_grows_it(raw_gif: RawGif) -> None:
    data = raw_gif((4, 4), [raw_gif.picture(raw_gif.solid(1), left=10, top=20)])
    assert read_header(data) == GifHeader(14, 24, (100,))


def test_other_extensions_local_palettes_and_stray_bytes_are_stepped_over(raw_gif: RawGif) -> None:
    comment = b"\x21\xfe\x05hello\x02, \x00"
    local_palette = b"\x2c\0\0\0\0\x01\x00\x01\x00\x81" + b"," * 12 + b"\x02\x02\x44\x01\x00"
    data = raw_gif((4, 4), [comment, b"\0\0junk", local_palette, raw_gif.picture(raw_gif.solid(2), delay_cs=7)])
    assert read_header(data).delays_ms == (100, 70)


def test_what_follows_the_trailer_is_not_looked_at(raw_gif: RawGif) -> None:
    red = raw_gif.picture(raw_gif.solid(1))
    assert len(read_header(raw_gif((4, 4), [red], trailer=b";" + red.to_bytes())).delays_ms) == 1


def test_a_gif_without_a_frame_is_refused(raw_gif: RawGif) -> None:
    with pytest.raises(DecodeError, match="has no frame"):
        read_header(raw_gif((4, 4), []))


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n" + bytes(50), b"GIF88a" + bytes(50), b"<html>", b"gif89a;"])
def test_what_is_no_gif_is_refused_with_its_first_bytes(data: bytes) -> None:
    with pytest.raises(DecodeError, match="expected a GIF") as caught:
        read_header(data)
    assert repr(data[:6]) in str(caught.value)


def test_an_empty_file_is_refused_as_empty() -> None:
    with pytest.raises(DecodeError, match="the file is empty"):
        read_header(b"")


def test_a_header_cut_short_says_how_many_bytes_there_are(raw_gif: RawGif) -> None:
    with pytest.raises(DecodeError, match="ends after 10 bytes"):
        read_header(raw_gif((4, 4), [])[:10])


def real_gif_bytes() -> bytes:
    """A GIF with every kind of block, as a constant that strategies can refer to."""
    screen = b"GIF89a\x04\x00\x04\x00\x80\x00\x00" + b"\xff\xff\xff\x00\x00\x00"
    loop = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"
    frame = b"\x21\xf9\x04\x04\x0a\x00\x00\x00\x2c\0\0\0\0\x04\x00\x04\x00\x00\x02\x04\x84\x8f\x09\x05\x00"
    return screen + loop + frame * 3 + b";"


REAL = real_gif_bytes()


def frames_or_error(data: bytes) -> int:
    """Anything but a DecodeError escapes and fails the test."""
    try:
        return len(read_header(data).delays_ms)
    except DecodeError:
        return 0


@given(st.integers(0, len(REAL)))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_a_gif_cut_anywhere_gives_frames_or_a_decode_error(end: int) -> None:
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
def test_frames_and_durations_agree_with_pillow(make_gif: GifMaker, frames: int, delay: int | list[int]) -> None:
    path = make_gif("a.gif", frames=frames, delay=delay)
    header = read_header(path.read_bytes())
    assert header.delays_ms == pillow_delays(path)
    assert (header.width, header.height) == (48, 32)


def test_frames_and_durations_agree_with_pillow_on_the_conformance_suite(data: Path) -> None:
    compared = 0
    for path in sorted((data / "gif-suite" / "conformance").glob("*.gif")):
        try:
            expected = pillow_delays(path)
        except (OSError, EOFError, ValueError, SyntaxError):
            continue  # Pillow cannot read it
        assert (path.name, read_header(path.read_bytes()).delays_ms) == (path.name, expected)
        compared += 1
    assert compared > 60
