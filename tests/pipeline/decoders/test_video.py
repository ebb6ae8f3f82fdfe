from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gifdex.pipeline.decode import decode
from gifdex.pipeline.decoders import registry
from gifdex.pipeline.decoders.base import Clock
from gifdex.pipeline.settings import Limits, Sampling
from gifdex.schemas.errors import DecodeError, LimitError

if TYPE_CHECKING:
    from tests.pipeline.decoders.conftest import Animate, Pictures

# Of tests that are not about time.
CLOCK = Clock(Limits(seconds=math.inf))


def levels(data: bytes, sampling: Sampling) -> list[int]:
    """The greys of the frames, which tell their numbers (8 apart, give or take the video's losses)."""
    sampled = decode(data, sampling, (32, 48), Limits())
    assert sampled.damage is None
    assert float(sampled.weights.sum()) == pytest.approx(1.0)
    return [round(float(frame.mean()) / 8) for frame in sampled.frames]


@pytest.mark.parametrize("container", ["mp4", "webm"])
def test_frames_of_a_video_are_sampled_in_time(animate: Animate, greys: Pictures, container: str) -> None:
    data = animate.video(greys, container)
    structure = registry.decoder("pyav").structure(data, Limits(), CLOCK)
    assert (structure.width, structure.height) == (48, 32)
    assert structure.delays_ms == (100,) * 30
    assert levels(data, Sampling(strategy="all")) == list(range(30))
    assert levels(data, Sampling(5)) == [3, 9, 15, 21, 27]
    assert levels(data, Sampling(1)) == [15]
    assert levels(data, Sampling(3, "first")) == [0, 1, 2]


def test_what_lies_before_a_key_frame_is_jumped_over(animate: Animate, greys: Pictures) -> None:
    decoder = registry.decoder("pyav")
    data = animate.video(greys, keys_every=10)
    structure = decoder.structure(data, Limits(), CLOCK)
    assert decoder.cost(structure, (25,)) == 32 * 48 * 6
    assert decoder.cost(structure, (3, 4, 25)) == 32 * 48 * (4 + 1 + 6)
    wanted = (3, 4, 10, 25)
    pictures = [np.asarray(picture) for picture in decoder.draw(data, structure, wanted, CLOCK)]
    assert [round(float(picture.mean()) / 8) for picture in pictures] == list(wanted)


def test_limits_hold_for_videos(animate: Animate, greys: Pictures) -> None:
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
def test_what_only_begins_as_a_video_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(data, Sampling(), (4, 4), Limits())


def test_a_webm_cut_short_gives_the_frames_before_the_cut(animate: Animate) -> None:
    noise = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8) for seed in range(10)]
    data = animate.video(noise, "webm")
    sampled = decode(data[: len(data) // 2], Sampling(strategy="all"), (64, 64), Limits())
    assert 2 <= len(sampled.frames) <= 8
