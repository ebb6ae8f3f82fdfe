"""The decoders with exact pixels, compared with a plain implementation of the specification and each other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gifdex.encoders.frames.decoders import canvas, registry
from gifdex.encoders.frames.decoders.base import Budget, FrameError
from gifdex.encoders.frames.decoders.gif import GifStructure
from gifdex.encoders.frames.limits import Limits
from gifdex.schemas.errors import LimitError

if TYPE_CHECKING:
    from tests.encoders.frames.conftest import Picture, RawGif

# For tests that are not about time limits.
PLENTY = Budget(Limits(seconds=math.inf))

EXACT = ["pillow", "numba"]
WHITE = (255, 255, 255)


def draw(name: str, data: bytes, wanted: tuple[int, ...] | None = None) -> list[NDArray[np.uint8]]:
    """Decode the wanted frames, or all, at the size of the canvas."""
    decoder = registry.decoder(name)
    structure = decoder.structure(data, Limits(), PLENTY)
    wanted = tuple(range(len(structure.delays_ms))) if wanted is None else wanted
    return [np.asarray(picture)[..., :3] for picture in decoder.draw(data, structure, wanted, PLENTY)]


def by_the_book(raw_gif: RawGif, size: tuple[int, int], pictures: list[Picture]) -> list[NDArray[np.uint8]]:
    """Composite pixel by pixel, exactly as section 23 of the specification describes."""
    width, height = size
    canvas = np.full((height, width, 3), 255, np.uint8)
    frames = []
    for picture in pictures:
        before = canvas.copy()
        palette = raw_gif.palette if picture.palette is None else picture.palette
        for (row, column), index in np.ndenumerate(picture.pixels):
            y, x = picture.top + row, picture.left + column
            if index != picture.transparent and index < len(palette) and y < height and x < width:
                canvas[y, x] = palette[index]
        frames.append(canvas.copy())
        bottom, right = picture.top + picture.pixels.shape[0], picture.left + picture.pixels.shape[1]
        if picture.disposal == 2:
            canvas[picture.top : bottom, picture.left : right] = WHITE
        elif picture.disposal == 3:
            canvas = before
    return frames


@st.composite
def pictures(draw: st.DrawFn, raw_gif: RawGif) -> list[Picture]:
    """Images of any position, size, disposal and transparency on a 5 x 4 canvas; some extend beyond it."""
    result = []
    for _ in range(draw(st.integers(1, 6))):
        whole = draw(st.booleans())
        left, top = (0, 0) if whole else (draw(st.integers(0, 5)), draw(st.integers(0, 4)))
        width, height = (5, 4) if whole else (draw(st.integers(1, 5)), draw(st.integers(1, 12)))
        pixels = np.array(draw(st.lists(st.integers(0, 5), min_size=width * height, max_size=width * height)), np.uint8)
        local = raw_gif.palette[draw(st.integers(4, 100)) :][:4] if draw(st.booleans()) else None
        result.append(
            raw_gif.picture(
                pixels.reshape(height, width),
                left,
                top,
                disposal=draw(st.integers(0, 3)),
                transparent=draw(st.sampled_from([None, None, 0, 5])),
                interlaced=draw(st.booleans()),
                palette=local,
            )
        )
    return result


@pytest.mark.parametrize("name", EXACT)
@given(st.data())
@settings(deadline=None, derandomize=True, max_examples=300)
def test_frames_match_the_specification_whichever_are_wanted(raw_gif: RawGif, name: str, data: st.DataObject) -> None:
    images = data.draw(pictures(raw_gif))
    gif = raw_gif((5, 4), images)
    expected = by_the_book(raw_gif, (5, 4), images)
    wanted = tuple(sorted(data.draw(st.sets(st.integers(0, len(images) - 1), min_size=1))))
    np.testing.assert_array_equal(draw(name, gif, wanted), [expected[frame] for frame in wanted])


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("before", [2, 3])
@pytest.mark.parametrize("control", [True, False])
def test_frames_after_a_cleared_or_restored_image_are_right(
    raw_gif: RawGif, name: str, before: int, control: bool
) -> None:
    """Pillow's own compositing gets these cases wrong."""
    images = [
        raw_gif.picture(raw_gif.solid(1), disposal=1, transparent=9),
        raw_gif.picture(raw_gif.solid(2, 2, 2), disposal=before, transparent=9),
        raw_gif.picture(raw_gif.solid(3, 2, 2), left=2, top=2, delay_cs=0 if control else None),
        raw_gif.picture(raw_gif.solid(4, 1, 1), left=3, delay_cs=0),
    ]
    np.testing.assert_array_equal(draw(name, raw_gif((4, 4), images)), by_the_book(raw_gif, (4, 4), images))


@pytest.mark.parametrize("name", EXACT)
def test_images_that_no_wanted_frame_shows_are_not_decoded(raw_gif: RawGif, name: str) -> None:
    broken = b"\x21\xf9\x04\x0c\x0a\x00\x00\x00\x2c\0\0\0\0\x04\x00\x04\x00\x00\x07\x01\xff\x00"  # restored afterwards
    hidden = b"\x21\xf9\x04\x04\x0a\x00\x00\x00\x2c\0\0\0\0\x04\x00\x04\x00\x00\x07\x01\xff\x00"  # drawn over
    red, blue = raw_gif.picture(raw_gif.solid(1)), raw_gif.picture(raw_gif.solid(2))
    expected = raw_gif.palette[raw_gif.solid(2)]
    np.testing.assert_array_equal(draw(name, raw_gif((4, 4), [red, broken, hidden, blue]), (0, 3))[1], expected)
    patch = raw_gif.picture(raw_gif.solid(2, 2, 2), left=1)
    with_patch = raw_gif.palette[raw_gif.solid(1)]
    with_patch[:2, 1:3] = raw_gif.palette[2]
    np.testing.assert_array_equal(draw(name, raw_gif((4, 4), [red, broken, patch]), (2,))[0], with_patch)
    with pytest.raises(FrameError) as caught:
        draw(name, raw_gif((4, 4), [red, hidden, patch]), (2,))
    assert caught.value.frame == 1
    assert "LZW codes are broken" in caught.value.reason


@pytest.mark.parametrize("name", EXACT)
def test_the_cost_counts_pixels_decoded_and_looked_up(raw_gif: RawGif, name: str) -> None:
    decoder = registry.decoder(name)
    patch = raw_gif.picture(raw_gif.solid(2, 2, 3))
    data = raw_gif((4, 4), [raw_gif.picture(raw_gif.solid(1)), patch, patch, raw_gif.picture(raw_gif.solid(1))])
    structure = decoder.structure(data, Limits(), PLENTY)
    assert decoder.cost(structure, (0,)) == 16 + 16
    assert decoder.cost(structure, (0, 2)) == 16 + 6 + 6 + 32
    assert decoder.cost(structure, (3,)) == 16 + 16
    images = [raw_gif.picture(raw_gif.solid(k, 3, 4), disposal=disposal) for k, disposal in enumerate((1, 2, 3, 2, 0))]
    structure = decoder.structure(raw_gif((4, 4), images), Limits(), PLENTY)
    assert decoder.cost(structure, (4,)) == 4 * 12 + 16  # cleared images count, restored ones do not


@pytest.mark.parametrize("name", EXACT)
def test_the_time_limit_is_checked_between_images_that_are_not_shown(raw_gif: RawGif, name: str) -> None:
    decoder = registry.decoder(name)
    images = [raw_gif.picture(raw_gif.solid(k, 2, 2), disposal=3) for k in range(5)]
    data = raw_gif((4, 4), images)
    structure = decoder.structure(data, Limits(), PLENTY)
    with pytest.raises(LimitError, match="limit seconds of -1"):
        next(decoder.draw(data, structure, (4,), Budget(Limits(seconds=-1))))


@pytest.mark.parametrize("name", EXACT)
def test_more_than_256_color_tables_are_kept_apart(raw_gif: RawGif, name: str) -> None:
    random = np.random.default_rng(3)
    tables = [random.integers(0, 255, (2, 3)).astype(np.uint8) for _ in range(300)]
    dot = np.ones((1, 1), np.uint8)
    images = [raw_gif.picture(dot, left=k % 20, top=k // 20, palette=table) for k, table in enumerate(tables)]
    last = draw(name, raw_gif((20, 15), images), (299,))[0]
    np.testing.assert_array_equal(last.reshape(300, 3), [table[1] for table in tables])


@pytest.mark.parametrize("name", EXACT)
def test_large_images_are_drawn_in_bands(raw_gif: RawGif, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "_DRAWN_AT_ONCE", 11)
    monkeypatch.setattr(canvas, "_LOOKED_UP_AT_ONCE", 7)
    random = np.random.default_rng(5)
    images = [
        raw_gif.picture(
            random.integers(0, 6, (7, 5)).astype(np.uint8),
            disposal=k % 4,
            transparent=[None, 5][k % 2],
            interlaced=k > 2,
        )
        for k in range(8)
    ]
    np.testing.assert_array_equal(draw(name, raw_gif((5, 7), images)), by_the_book(raw_gif, (5, 7), images))


@pytest.mark.parametrize("name", EXACT)
def test_missing_pixels_are_not_drawn(raw_gif: RawGif, name: str) -> None:
    red = raw_gif.picture(raw_gif.solid(1))
    codes = bytes([0x80, 5, 5, 5, 5, 6, 0x81])  # five of sixteen pixels, then the end
    short = b"\x21\xf9\x04\x00\x0a\x00\x00\x00\x2c\0\0\0\0\x04\x00\x04\x00\x00\x07\x07" + codes + b"\x00"
    expected = raw_gif.palette[raw_gif.solid(1)]
    expected[0], expected[1, 0] = raw_gif.palette[5], raw_gif.palette[6]
    for wanted in ((1,), (0, 1)):
        np.testing.assert_array_equal(draw(name, raw_gif((4, 4), [red, short]), wanted)[-1], expected)


@pytest.mark.parametrize("name", EXACT)
def test_a_second_drawing_counts_towards_the_limit(raw_gif: RawGif, name: str) -> None:
    codes = bytes([0x80, 5, 0x81])
    short = b"\x21\xf9\x04\x00\x0a\x00\x00\x00\x2c\0\0\0\0\x04\x00\x04\x00\x00\x07\x03" + codes + b"\x00"
    data = raw_gif((4, 4), [raw_gif.picture(raw_gif.solid(1))] * 9 + [short])
    decoder = registry.decoder(name)
    structure = decoder.structure(data, Limits(), PLENTY)
    assert decoder.cost(structure, (9,)) == 32  # the last image seems to hide all earlier ones
    with pytest.raises(LimitError, match="160 pixels to decode, above the limit total_pixels of 159"):
        next(decoder.draw(data, structure, (9,), Budget(Limits(total_pixels=159))))
    assert next(decoder.draw(data, structure, (9,), Budget(Limits(total_pixels=160))))


@pytest.mark.parametrize("name", EXACT)
def test_indexes_beyond_the_color_table_are_not_drawn(raw_gif: RawGif, name: str) -> None:
    pixels = raw_gif.solid(1)
    pixels[0] = 100
    red = raw_gif.picture(raw_gif.solid(1))
    data = raw_gif((4, 4), [red, raw_gif.picture(pixels, palette=raw_gif.palette[8:10])])
    expected = raw_gif.palette[np.where(pixels == 100, 1, 9)]
    np.testing.assert_array_equal(draw(name, data)[1], expected)


@pytest.mark.heavy
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("folder", ["real-gifs", "clips", "exercises"])
def test_ordinary_gifs_match_pillows_compositing(data: Path, name: str, folder: str) -> None:
    for path in sorted((data / folder).glob("**/*.gif"))[:40]:
        with Image.open(path) as image:
            count = getattr(image, "n_frames", 1)
            wanted = tuple(sorted({0, count // 2, count - 1}))
            expected = []
            for frame in wanted:
                image.seek(frame)
                rgba = image.convert("RGBA")
                expected.append(np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba))[..., :3])
        for frame, got, right in zip(wanted, draw(name, path.read_bytes(), wanted), expected, strict=True):
            assert (path.name, frame, np.abs(got.astype(int) - right).max()) == (path.name, frame, 0)


def outcome(name: str, data: bytes) -> object:
    """The frames as bytes, or the number of the broken frame."""
    decoder = registry.decoder(name)
    structure = decoder.structure(data, Limits(), PLENTY)
    assert isinstance(structure, GifStructure)
    if structure.width * structure.height > 10_000 or any(i.width * i.height > 10_000 for i in structure.images):
        return "large"
    frames: list[bytes] = []
    wanted = tuple(range(len(structure.delays_ms)))
    try:
        frames.extend(p.tobytes() for p in decoder.draw(data, structure, wanted, PLENTY))
    except FrameError as err:
        return frames, err.frame, err.reason
    return frames


@given(st.data())
@settings(deadline=None, derandomize=True, max_examples=1_000)
def test_all_exact_decoders_agree_on_damaged_codes(raw_gif: RawGif, data: st.DataObject) -> None:
    code_size = data.draw(st.integers(0, 12))
    codes = data.draw(st.binary(max_size=80))
    blocks = b"".join(bytes([len(codes[at : at + 30])]) + codes[at : at + 30] for at in range(0, len(codes), 30))
    image = b"\x2c\0\0\0\0\x08\x00\x07\x00\x00" + bytes([code_size]) + blocks + b"\x00"
    gif = raw_gif((8, 7), [raw_gif.picture(raw_gif.solid(1)), image])
    assert outcome("numba", gif) == outcome("pillow", gif)


@given(st.data())
@settings(deadline=None, derandomize=True, max_examples=300)
def test_all_exact_decoders_agree_on_long_codes(raw_gif: RawGif, data: st.DataObject) -> None:
    """Real LZW data that fills its table, with some bytes changed."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    colors = data.draw(st.sampled_from([2, 4, 60, 256]))
    pixels = random.integers(0, colors, (90, 100), np.uint8)
    if data.draw(st.booleans()):
        pixels = np.repeat(pixels[:, :10], 10, axis=1)
    image = Image.fromarray(pixels).convert("P")
    image.putpalette(random.integers(0, 256, 768, np.uint8).tobytes())
    gif = bytearray(gif_bytes(image))
    for _ in range(data.draw(st.integers(0, 3))):
        gif[data.draw(st.integers(len(gif) // 2, len(gif) - 1))] = data.draw(st.integers(0, 255))
    assert outcome("numba", bytes(gif)) == outcome("pillow", bytes(gif))


def gif_bytes(image: Image.Image) -> bytes:
    import io

    stream = io.BytesIO()
    image.save(stream, "GIF")
    return stream.getvalue()
