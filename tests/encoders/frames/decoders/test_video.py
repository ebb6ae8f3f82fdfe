from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gifdex.encoders.frames.decode import FrameDecoder
from gifdex.encoders.frames.decoders import registry
from gifdex.encoders.frames.decoders.base import Budget
from gifdex.encoders.frames.limits import Limits, Sampling
from gifdex.schemas.errors import DecodeError, LimitError

if TYPE_CHECKING:
    from tests.encoders.frames.decoders.conftest import Animate, Pictures

# For tests that are not about time limits.
decode = FrameDecoder()
PLENTY = Budget(Limits(seconds=math.inf))


def levels(data: bytes, sampling: Sampling) -> list[int]:
    """The greys of the frames, which encode their numbers (8 apart, up to compression losses)."""
    sampled = decode(data, sampling, (32, 48), Limits())
    assert sampled.damage is None
    assert float(sampled.weights.sum()) == pytest.approx(1.0)
    return [round(float(frame.mean()) / 8) for frame in sampled.frames]


@pytest.mark.parametrize("container", ["mp4", "webm"])
def test_frames_of_a_video_are_sampled_in_time(animate: Animate, greys: Pictures, container: str) -> None:
    data = animate.video(greys, container)
    structure = registry.decoder("pyav").structure(data, Limits(), PLENTY)
    assert (structure.width, structure.height) == (48, 32)
    assert structure.delays_ms == (100,) * 30
    assert levels(data, Sampling(strategy="all")) == list(range(30))
    assert levels(data, Sampling(5)) == [3, 9, 15, 21, 27]
    assert levels(data, Sampling(1)) == [15]
    assert levels(data, Sampling(3, "first")) == [0, 1, 2]


def test_decoding_seeks_to_the_key_frame_before_a_wanted_frame(animate: Animate, greys: Pictures) -> None:
    decoder = registry.decoder("pyav")
    data = animate.video(greys, keys_every=10)
    structure = decoder.structure(data, Limits(), PLENTY)
    assert decoder.cost(structure, (25,)) == 32 * 48 * 6
    assert decoder.cost(structure, (3, 4, 25)) == 32 * 48 * (4 + 1 + 6)
    wanted = (3, 4, 10, 25)
    pictures = [np.asarray(picture) for picture in decoder.draw(data, structure, wanted, PLENTY)]
    assert [round(float(picture.mean()) / 8) for picture in pictures] == list(wanted)


def test_limits_apply_to_videos(animate: Animate, greys: Pictures) -> None:
    data = animate.video(greys)
    for limits, name in (
        (Limits(bytes=100), "bytes"), (Limits(pixels=1535), "pixels"), (Limits(frames=29), "frames"),
        (Limits(total_pixels=23 * 1536), "total_pixels"), (Limits(seconds=-1.0), "seconds"),
    ):  # fmt: skip
        with pytest.raises(LimitError, match=f"limit {name} of"):
            decode(data, Sampling(), (4, 4), limits)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\x18ftypmp42" + bytes(40), "PyAV cannot read the video"),
        (b"\x1a\x45\xdf\xa3" + bytes(40), "PyAV cannot read the video"),
    ],
)
def test_a_file_that_only_starts_like_a_video_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(data, Sampling(), (4, 4), Limits())


@pytest.mark.parametrize("container", ["webm", "mp4"])
def test_a_truncated_video_gives_the_frames_before_the_cut_and_says_so(animate: Animate, container: str) -> None:
    noise = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8) for seed in range(10)]
    data = animate.video(noise, container, faststart=True)
    sampled = decode(data[: len(data) // 2], Sampling(strategy="all"), (64, 64), Limits())
    assert 2 <= len(sampled.frames) <= 8
    assert sampled.damage is not None
    assert "after frame" in sampled.damage or "good frames" in sampled.damage
    assert decode(data, Sampling(strategy="all"), (64, 64), Limits()).damage is None


def test_an_mp4_whose_edit_list_cuts_the_first_frames_is_complete(animate: Animate, greys: Pictures) -> None:
    data = bytearray(animate.video(greys))
    edit = data.index(b"elst")
    assert int.from_bytes(data[edit + 16 : edit + 20], "big", signed=True) == 0  # the start in media time
    data[edit + 16 : edit + 20] = (5 * 1024).to_bytes(4, "big")
    structure = registry.decoder("pyav").structure(bytes(data), Limits(), PLENTY)
    assert (len(structure.delays_ms), structure.damage) == (25, None)


def test_frames_larger_than_declared_are_refused_before_allocation(animate: Animate) -> None:
    data = animate.video([np.zeros((300, 500, 3), np.uint8)] * 3, "webm")
    limits = Limits(pixels=100_000)
    with pytest.raises(LimitError, match="150,000 pixels on its canvas"):
        decode(data, Sampling(), (4, 4), limits)
    width, height = b"\xb0\x82\x01\xf4", b"\xba\x82\x01\x2c"  # in the track's header
    assert (data.count(width), data.count(height)) == (1, 1)
    lying = data.replace(width, b"\xb0\x82\x00\x10").replace(height, b"\xba\x82\x00\x10")
    with pytest.raises(DecodeError, match=r"cannot be decoded|cannot read the video|above the limit pixels"):
        decode(lying, Sampling(), (4, 4), limits)
