from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gifdex.pipeline.sampling import Sample, sample_in_time

DELAYS = st.lists(st.integers(20, 655_350), min_size=1, max_size=60)
MOMENTS = st.integers(1, 20)


def shown_at(delays: list[int], moments: int, moment: int) -> int:
    """The frame at (2 k + 1) T / 2 n, by walking, in whole numbers."""
    time, elapsed = (2 * moment + 1) * sum(delays), 0
    for frame, delay in enumerate(delays):
        elapsed += delay * 2 * moments
        if time < elapsed:
            return frame
    raise AssertionError("a moment lies within the playing time")


@given(DELAYS, MOMENTS)
@settings(deadline=None, derandomize=True)
def test_indexes_rise_and_each_weight_is_its_frames_share_of_the_moments(delays: list[int], moments: int) -> None:
    sample = sample_in_time(delays, moments)
    assert list(sample.indexes) == sorted(set(sample.indexes))
    assert sample.indexes[0] >= 0
    assert sample.indexes[-1] < len(delays)
    assert sum(sample.weights) == pytest.approx(1.0)
    shown = [shown_at(delays, moments, moment) for moment in range(moments)]
    assert sample == Sample(
        tuple(sorted(set(shown))), tuple(shown.count(index) / moments for index in sorted(set(shown)))
    )


@given(st.integers(1, 40), st.integers(20, 655_350))
@settings(deadline=None, derandomize=True)
def test_as_many_moments_as_equal_frames_take_each_frame_once(frames: int, delay: int) -> None:
    assert sample_in_time([delay] * frames, frames) == Sample(tuple(range(frames)), (1 / frames,) * frames)


@given(st.integers(20, 655_350), MOMENTS)
@settings(deadline=None, derandomize=True)
def test_one_frame_is_taken_once_with_all_the_weight(delay: int, moments: int) -> None:
    assert sample_in_time([delay], moments) == Sample((0,), (1.0,))


def test_frames_weigh_as_long_as_they_show() -> None:
    # 1000 ms in four slices: moments at 125, 375, 625, 875; the frames end at 300, 600 and 1000.
    assert sample_in_time([300, 300, 400], 4) == Sample((0, 1, 2), (0.25, 0.25, 0.5))


def test_a_frame_shows_up_to_its_end_but_not_at_it() -> None:
    # 200 ms, one moment: at 100, where the first frame ends and the second begins.
    assert sample_in_time([100, 100], 1) == Sample((1,), (1.0,))


def test_a_long_frame_is_taken_once_with_a_large_weight() -> None:
    assert sample_in_time([100, 9_800, 100], 8) == Sample((1,), (1.0,))
    assert sample_in_time([100] * 4 + [1_200], 8) == Sample((1, 3, 4), (0.125, 0.125, 0.75))
