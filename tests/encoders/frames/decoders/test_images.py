from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gifdex.encoders.frames.decode import FrameDecoder
from gifdex.encoders.frames.decoders.base import Budget, Structure
from gifdex.encoders.frames.decoders.imageio_images import read_png, read_webp
from gifdex.encoders.frames.limits import Limits, Sampling
from gifdex.schemas.errors import DecodeError, LimitError

if TYPE_CHECKING:
    from tests.encoders.frames.decoders.conftest import Animate, Pictures

# For tests that are not about time limits.
decode = FrameDecoder()
PLENTY = Budget(Limits(seconds=math.inf))

READ = {"WEBP": read_webp, "PNG": read_png}
FORMATS = list(READ)


@pytest.mark.parametrize("form", FORMATS)
def test_the_structure_is_read_from_the_chunks(animate: Animate, greys: Pictures, form: str) -> None:
    data = animate.image(form, greys[:3], [50, 5, 1230])
    structure = READ[form](data, Limits(), PLENTY)
    assert (structure.width, structure.height, structure.delays_ms) == (48, 32, (50, 100, 1230))
    assert (structure.damage, structure.odd) == (None, None)


@pytest.mark.parametrize("form", FORMATS)
def test_frames_are_sampled_in_time_and_composited_on_white(animate: Animate, greys: Pictures, form: str) -> None:
    pictures = [np.dstack([picture, np.full((32, 48), 255, np.uint8)]) for picture in greys[1:4]]
    for picture in pictures:
        picture[:16, :, 3] = 0
    sampled = decode(animate.image(form, pictures, [100, 600, 100]), Sampling(4), (32, 48), Limits())
    np.testing.assert_allclose(sampled.weights, [0.75, 0.25])
    assert (sampled.frames[:, :15] == 255).all()
    assert [int(frame[17:].min()) for frame in sampled.frames] == [int(frame[17:].max()) for frame in sampled.frames]
    assert [int(frame[20, 20, 0]) for frame in sampled.frames] == [16, 24]


def test_a_default_image_outside_the_animation_is_not_a_frame(animate: Animate, greys: Pictures) -> None:
    data = animate.image("PNG", [greys[9], greys[1], greys[2]], 100, default_image=True)
    assert read_png(data, Limits(), PLENTY).delays_ms == (100, 100)
    sampled = decode(data, Sampling(strategy="all"), (4, 4), Limits())
    assert [int(frame[0, 0, 0]) for frame in sampled.frames] == [8, 16]


@pytest.mark.parametrize("form", FORMATS)
def test_a_still_picture_is_refused(animate: Animate, greys: Pictures, form: str) -> None:
    import io

    stream = io.BytesIO()
    Image.fromarray(greys[0]).save(stream, form)
    with pytest.raises(DecodeError, match="is a still picture; expected an animation"):
        decode(stream.getvalue(), Sampling(), (4, 4), Limits())


@pytest.mark.parametrize("form", FORMATS)
def test_limits_apply_to_every_format(animate: Animate, greys: Pictures, form: str) -> None:
    data = animate.image(form, greys[:5])
    for limits, name in (
        (Limits(bytes=100), "bytes"), (Limits(pixels=1535), "pixels"), (Limits(frames=4), "frames"),
        (Limits(total_pixels=5 * 1536 - 1), "total_pixels"), (Limits(seconds=-1.0), "seconds"),
    ):  # fmt: skip
        with pytest.raises(LimitError, match=f"limit {name} of"):
            decode(data, Sampling(), (4, 4), limits)


def test_a_truncated_png_gives_the_frames_before_the_cut(animate: Animate) -> None:
    noise = [np.random.default_rng(seed).integers(0, 256, (32, 48, 3), np.uint8) for seed in range(4)]
    data = animate.image("PNG", noise)
    sampled = decode(data[: len(data) * 5 // 8], Sampling(strategy="all"), (32, 48), Limits())
    np.testing.assert_array_equal(sampled.frames, noise[: len(sampled.frames)])
    assert len(sampled.frames) == 2
    assert sampled.damage is not None
    assert "has 2 good frames, then: imageio " in sampled.damage


def test_a_truncated_webp_gives_the_frames_before_the_cut(animate: Animate) -> None:
    noise = [np.random.default_rng(seed).integers(0, 256, (32, 48, 3), np.uint8) for seed in range(4)]
    data = animate.image("WEBP", noise)
    sampled = decode(data[: len(data) * 5 // 8], Sampling(strategy="all"), (32, 48), Limits())
    np.testing.assert_array_equal(sampled.frames, noise[:2])
    assert sampled.damage == "ends after frame 2"
    with pytest.raises(DecodeError, match="the WebP ends after frame 0"):
        decode(data[:60], Sampling(), (4, 4), Limits())


def test_a_png_with_a_damaged_header_is_refused(animate: Animate, greys: Pictures) -> None:
    data = bytearray(animate.image("PNG", greys[:2]))
    data[18] ^= 0xFF  # a byte of the width
    with pytest.raises(DecodeError, match="chunk IHDR is damaged: its checksum differs"):
        decode(bytes(data), Sampling(), (4, 4), Limits())


def test_a_png_header_with_a_false_size_is_refused(animate: Animate, greys: Pictures) -> None:
    data = bytearray(animate.image("PNG", greys[:2]))
    data[16:24] = b"\x00\x01\x00\x00" * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(LimitError, match="4,294,967,296 pixels on its canvas"):
        decode(bytes(data), Sampling(), (4, 4), Limits())


def test_the_size_must_come_first_and_only_once(animate: Animate, greys: Pictures) -> None:
    png, webp = animate.image("PNG", greys[:2]), animate.image("WEBP", greys[:2])
    header = png[8:33]
    for data in (png[:33] + header + png[33:], png[:-12] + header + png[-12:]):
        with pytest.raises(DecodeError, match="the PNG has two size chunks"):
            decode(data, Sampling(), (4, 4), Limits())
    with pytest.raises(DecodeError, match="the PNG file does not begin with its size"):
        decode(png[:8] + png[33:], Sampling(), (4, 4), Limits())
    extended = webp[12:30]
    longer = b"RIFF" + (len(webp) - 8 + 18).to_bytes(4, "little") + webp[8:] + extended
    with pytest.raises(DecodeError, match="the WebP has two size chunks"):
        decode(longer, Sampling(), (4, 4), Limits())
    assert decode(webp + extended, Sampling(), (4, 4), Limits()).damage is None  # data after the end is not read


def structure_or_error(form: str, data: bytes) -> Structure | None:
    try:
        return READ[form](data, Limits(), PLENTY)
    except DecodeError:
        return None


@pytest.mark.parametrize("form", FORMATS)
@given(st.data())
@settings(deadline=None, derandomize=True, max_examples=300)
def test_a_mutated_file_has_a_structure_or_a_decode_error(
    animate: Animate, greys: Pictures, form: str, data: st.DataObject
) -> None:
    whole = bytearray(animate.image(form, greys[:3]))
    for _ in range(data.draw(st.integers(0, 8))):
        whole[data.draw(st.integers(12, len(whole) - 1))] = data.draw(st.integers(0, 255))
    structure_or_error(form, bytes(whole[: data.draw(st.integers(12, len(whole)))]))
