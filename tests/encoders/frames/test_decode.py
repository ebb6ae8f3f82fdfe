from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gifdex.encoders.frames.decode import FrameDecoder, SampledFrames
from gifdex.encoders.frames.decoders import registry
from gifdex.encoders.frames.decoders.base import check_bytes
from gifdex.encoders.frames.limits import SAMPLING_STRATEGIES, Limits, Sampling
from gifdex.schemas.errors import DecodeError, LimitError

if TYPE_CHECKING:
    from tests.encoders.frames.conftest import RawGif

decode = FrameDecoder()
GifMaker = Callable[..., Path]
WHITE = 255


def all_frames(data: bytes, frames: int, size: tuple[int, int] = (4, 4)) -> SampledFrames:
    """Decode all of a GIF's equally long frames, at its own size."""
    sampled = decode(data, Sampling(frames), size, Limits())
    assert len(sampled.frames) == frames
    return sampled


def canvas(raw_gif: RawGif, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    colors: NDArray[np.uint8] = raw_gif.palette[pixels]
    return colors


def test_frames_are_composited_as_a_viewer_shows_them(raw_gif: RawGif) -> None:
    patch = np.array([[2, 3], [4, 5]], np.uint8)
    data = raw_gif((4, 4), [raw_gif.picture(raw_gif.solid(1), disposal=1), raw_gif.picture(patch, left=1, top=2)])
    second = raw_gif.solid(1)
    second[2:4, 1:3] = patch
    expected = np.stack([canvas(raw_gif, raw_gif.solid(1)), canvas(raw_gif, second)])
    sampled = all_frames(data, 2)
    np.testing.assert_array_equal(sampled.frames, expected)
    np.testing.assert_array_equal(sampled.weights, np.array([0.5, 0.5], np.float32))


def test_only_the_sampled_frames_are_returned_with_their_share_of_the_time(raw_gif: RawGif) -> None:
    pictures = [raw_gif.picture(raw_gif.solid(c), delay_cs=d) for c, d in ((1, 10), (2, 60), (3, 10))]
    sampled = decode(raw_gif((4, 4), pictures), Sampling(4), (4, 4), Limits())
    expected = np.stack([canvas(raw_gif, raw_gif.solid(color)) for color in (2, 3)])  # at 100, 300, 500, 700 of 800 ms
    np.testing.assert_array_equal(sampled.frames, expected)
    np.testing.assert_array_equal(sampled.weights, np.array([0.75, 0.25], np.float32))
    assert (sampled.numbers.tolist(), sampled.milliseconds.tolist()) == ([1, 2], [100, 700])


def test_transparent_pixels_are_composited_on_white(raw_gif: RawGif) -> None:
    pixels = raw_gif.solid(1)
    pixels[0] = 9
    sampled = all_frames(raw_gif((4, 4), [raw_gif.picture(pixels, transparent=9)]), 1)
    expected = canvas(raw_gif, pixels)
    expected[0] = WHITE
    np.testing.assert_array_equal(sampled.frames[0], expected)


def test_a_transparent_pixel_of_a_later_frame_shows_the_one_below(raw_gif: RawGif) -> None:
    patch = raw_gif.solid(2)
    patch[:, 0] = 9
    pictures = [raw_gif.picture(raw_gif.solid(1), disposal=1), raw_gif.picture(patch, transparent=9)]
    expected = raw_gif.solid(2)
    expected[:, 0] = 1
    np.testing.assert_array_equal(all_frames(raw_gif((4, 4), pictures), 2).frames[1], canvas(raw_gif, expected))


def test_disposal_to_background_shows_white(raw_gif: RawGif) -> None:
    patch = raw_gif.solid(2, 2, 2)
    pictures = [
        raw_gif.picture(raw_gif.solid(1), disposal=1, transparent=9),
        raw_gif.picture(patch, left=0, top=0, disposal=2, transparent=9),
        raw_gif.picture(raw_gif.solid(3, 2, 2), left=2, top=2, transparent=9),
    ]
    expected = canvas(raw_gif, raw_gif.solid(1))
    expected[:2, :2] = WHITE
    expected[2:, 2:] = raw_gif.palette[3]
    np.testing.assert_array_equal(all_frames(raw_gif((4, 4), pictures), 3).frames[2], expected)


def test_disposal_to_previous_restores_the_earlier_pixels(raw_gif: RawGif) -> None:
    pictures = [
        raw_gif.picture(raw_gif.solid(1), disposal=1),
        raw_gif.picture(raw_gif.solid(2, 2, 2), disposal=3),
        raw_gif.picture(raw_gif.solid(3, 2, 2), left=2, top=2),
    ]
    expected = raw_gif.solid(1)
    expected[2:, 2:] = 3
    np.testing.assert_array_equal(all_frames(raw_gif((4, 4), pictures), 3).frames[2], canvas(raw_gif, expected))


def test_frames_are_resized_to_height_and_width(make_gif: GifMaker) -> None:
    sampled = decode(make_gif("a.gif", size=(48, 32)).read_bytes(), Sampling(4), (10, 20), Limits())
    assert sampled.frames.shape == (4, 10, 20, 3)
    assert sampled.frames.dtype == np.uint8


def expect_limit(data: bytes, limits: Limits, *parts: str) -> None:
    with pytest.raises(LimitError) as caught:
        decode(data, Sampling(4), (4, 4), limits)
    for part in parts:
        assert part in str(caught.value)


def test_each_limit_error_gives_its_name_and_both_values(make_gif: GifMaker) -> None:
    data = make_gif("a.gif", frames=4, size=(48, 32)).read_bytes()
    expect_limit(data, Limits(bytes=100), "limit bytes of 100", f"{len(data):,} bytes")
    expect_limit(data, Limits(pixels=1535), "limit pixels of 1,535", "1,536 pixels")
    expect_limit(data, Limits(frames=3), "limit frames of 3", "4 frames")
    # Each frame is unpacked, and each is one of the four wanted frames.
    expect_limit(data, Limits(total_pixels=12_287), "limit total_pixels of 12,287", "12,288 pixels")
    expect_limit(data, Limits(seconds=-1.0), "limit seconds of -1.0", "seconds of decoding")


def test_a_gif_exactly_at_its_limits_is_decoded(make_gif: GifMaker) -> None:
    data = make_gif("a.gif", frames=4, size=(48, 32)).read_bytes()
    limits = Limits(bytes=len(data), pixels=1536, frames=4, total_pixels=12_288)
    assert len(decode(data, Sampling(4), (4, 4), limits).frames) == 4


def test_check_bytes_needs_only_a_size() -> None:
    check_bytes(100, Limits(bytes=100))
    with pytest.raises(LimitError, match="101 bytes, above the limit bytes of 100"):
        check_bytes(101, Limits(bytes=100))


def test_a_huge_canvas_is_refused_before_decoding_any_pixel(raw_gif: RawGif) -> None:
    undecodable = b"\x2c\0\0\0\0\x01\x00\x01\x00\x00\x0f\x01\xff\x00"  # a code size that no decoder accepts
    with pytest.raises(DecodeError) as caught:
        decode(raw_gif((4, 4), [undecodable]), Sampling(1), (4, 4), Limits())
    assert not isinstance(caught.value, LimitError)
    expect_limit(raw_gif((65_535, 65_535), [undecodable]), Limits(), "limit pixels", "4,294,836,225")


def test_a_huge_frame_on_a_small_canvas_is_refused_before_decoding_any_pixel(raw_gif: RawGif) -> None:
    undecodable = b"\x2c\0\0\0\0\xff\xff\xff\xff\x00\x0f\x01\xff\x00"
    expect_limit(raw_gif((4, 4), [undecodable]), Limits(), "limit pixels", "4,294,836,225", "in an image")


@pytest.mark.parametrize("data", [b"", b"hello", b"GIF89a", b"GIF89a" + bytes(100)])
def test_garbage_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(data, Sampling(4), (4, 4), Limits())


def test_a_gif_truncated_within_its_only_frame_is_a_decode_error(make_gif: GifMaker) -> None:
    data = make_gif("a.gif", frames=1, size=(48, 32)).read_bytes()
    with pytest.raises(DecodeError, match="the first frame cannot be decoded: the file ends within it"):
        decode(data[:-30], Sampling(1), (4, 4), Limits())


def test_a_gif_that_lacks_only_the_end_of_its_last_frame_is_complete(make_gif: GifMaker) -> None:
    data = make_gif("a.gif", frames=1, size=(48, 32)).read_bytes()
    whole, cut = decode(data, Sampling(1), (32, 48), Limits()), decode(data[:-2], Sampling(1), (32, 48), Limits())
    np.testing.assert_array_equal(cut.frames, whole.frames)
    assert cut.damage == "ends within frame 1"


def test_a_truncated_gif_gives_the_frames_before_the_cut_sampled_in_time(raw_gif: RawGif) -> None:
    pictures = [raw_gif.picture(raw_gif.solid(color), delay_cs=10) for color in (1, 2, 3, 4)]
    data = raw_gif((4, 4), pictures)
    sampled = decode(data[:-12], Sampling(8), (4, 4), Limits())
    assert sampled.damage == "has 3 good frames, then: the file ends within it"
    expected = decode(raw_gif((4, 4), pictures[:3]), Sampling(8), (4, 4), Limits())
    np.testing.assert_array_equal(sampled.frames, expected.frames)
    np.testing.assert_array_equal(sampled.weights, expected.weights)
    assert (sampled.numbers.tolist(), sampled.milliseconds.tolist()) == ([0, 1, 2], [0, 100, 200])


def test_a_gif_with_a_broken_frame_gives_the_frames_before_it(raw_gif: RawGif) -> None:
    broken = b"\x21\xf9\x04\0\x0a\0\0\0\x2c\0\0\0\0\x04\x00\x04\x00\x00\x07\x01\xff\x00"
    pictures = [raw_gif.picture(raw_gif.solid(color)) for color in (1, 2)]
    sampled = decode(raw_gif((4, 4), [*pictures, broken, *pictures]), Sampling(8), (4, 4), Limits())
    assert sampled.damage == "has 2 good frames, then: its LZW codes are broken"
    np.testing.assert_array_equal(sampled.frames, [canvas(raw_gif, raw_gif.solid(color)) for color in (1, 2)])


def test_a_frame_of_no_area_shows_the_frame_below(raw_gif: RawGif) -> None:
    frame_of_no_area = b"\x21\xf9\x04\0\x0a\0\0\0\x2c" + bytes(9) + b"\x07\x02\x80\x81\x00"
    sampled = all_frames(raw_gif((4, 4), [raw_gif.picture(raw_gif.solid(1)), frame_of_no_area]), 2)
    np.testing.assert_array_equal(sampled.frames[1], canvas(raw_gif, raw_gif.solid(1)))


def test_a_gif_without_a_frame_or_a_canvas_is_refused(raw_gif: RawGif) -> None:
    for data, reason in ((raw_gif((4, 4), []), "has no frame"), (raw_gif((4, 4), [])[:20], "within the GIF's header")):
        with pytest.raises(DecodeError, match=reason):
            decode(data, Sampling(), (4, 4), Limits())
    frame_of_no_area = b"\x2c" + bytes(9) + b"\x07\x02\x80\x81\x00"
    with pytest.raises(DecodeError, match="a canvas of 0 x 0 pixels"):
        decode(raw_gif((0, 0), [frame_of_no_area]), Sampling(), (4, 4), Limits())


@pytest.mark.parametrize("strategy", SAMPLING_STRATEGIES)
def test_each_strategy_selects_its_frames(raw_gif: RawGif, strategy: str) -> None:
    delays = [10, 10, 10, 50]
    pictures = [raw_gif.picture(raw_gif.solid(c), delay_cs=d) for c, d in zip((1, 2, 2, 1), delays, strict=True)]
    sampled = decode(raw_gif((4, 4), pictures), Sampling(strategy=strategy), (4, 4), Limits())
    shown, weights = {
        "uniform": ([1, 2, 2, 1], [0.125, 0.125, 0.125, 0.625]),
        "scene": ([1, 2], [0.75, 0.25]),  # a red frame is nearest to the mean, and one of the others differs from it
        "all": ([1, 2, 2, 1], [0.125, 0.125, 0.125, 0.625]),
        "first": ([1], [1.0]),
    }[strategy]
    np.testing.assert_array_equal(sampled.frames, [canvas(raw_gif, raw_gif.solid(color)) for color in shown])
    np.testing.assert_allclose(sampled.weights, weights)
    numbers = {"uniform": [0, 1, 2, 3], "scene": [0, 1], "all": [0, 1, 2, 3], "first": [0]}[strategy]
    assert sampled.numbers.tolist() == numbers
    assert sampled.milliseconds.tolist() == [[0, 100, 200, 300][number] for number in numbers]


def test_both_passes_of_scenes_count_towards_one_budget(make_gif: GifMaker) -> None:
    data = make_gif("a.gif", frames=4, size=(48, 32)).read_bytes()
    cost = 4 * 2 * 1536  # each frame is unpacked and looked up
    assert len(decode(data, Sampling(strategy="scene"), (4, 4), Limits(total_pixels=2 * cost)).frames) == 4
    expect = f"limit total_pixels of {2 * cost - 1:,}"
    with pytest.raises(LimitError, match=expect):
        decode(data, Sampling(strategy="scene"), (4, 4), Limits(total_pixels=2 * cost - 1))


@pytest.mark.parametrize("decoder_name", registry.decoder_names())
def test_every_decoder_gives_the_same_frames_for_an_ordinary_gif(make_gif: GifMaker, decoder_name: str) -> None:
    data = make_gif("a.gif", frames=6).read_bytes()
    expected = decode(data, Sampling(), (10, 20), Limits(), "pillow")
    sampled = decode(data, Sampling(), (10, 20), Limits(), decoder_name)
    np.testing.assert_array_equal(sampled.weights, expected.weights)
    np.testing.assert_array_equal(sampled.numbers, expected.numbers)
    np.testing.assert_array_equal(sampled.milliseconds, expected.milliseconds)
    difference = np.abs(sampled.frames.astype(int) - expected.frames).max()
    assert difference == 0


@given(st.data())
@settings(deadline=None, derandomize=True, max_examples=150)
def test_damaged_bytes_give_frames_or_a_decode_error(raw_gif: RawGif, data: st.DataObject) -> None:
    whole = bytearray(raw_gif((4, 4), [raw_gif.picture(raw_gif.solid(c), delay_cs=c) for c in (1, 20, 30)]))
    for _ in range(data.draw(st.integers(0, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        sampled = decode(cut, Sampling(4), (4, 4), Limits(pixels=10_000, total_pixels=100_000))
    except DecodeError:
        return
    assert sampled.frames.shape[1:] == (4, 4, 3)
    assert len(sampled.frames) == len(sampled.numbers) == len(sampled.milliseconds)
    assert float(sampled.weights.sum()) == pytest.approx(1.0)


def test_only_a_reject_for_exceeding_the_time_limit_does_not_last(make_gif: GifMaker) -> None:
    data = make_gif("slow.gif", frames=3).read_bytes()
    for limits, lasting in ((Limits(seconds=-1.0), False), (Limits(frames=2), True)):
        with pytest.raises(LimitError) as caught:
            decode(data, Sampling(3), (16, 16), limits)
        assert caught.value.lasting is lasting
