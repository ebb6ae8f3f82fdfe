from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gifdex.encoders.frames.limits import Sampling
from gifdex.encoders.frames.sampling import Sample, sample_by_time, sample_in_time, sample_scenes

DELAYS = st.lists(st.integers(20, 655_350), min_size=1, max_size=60)
MOMENTS = st.integers(1, 20)


def shown_at(delays: list[int], moments: int, moment: int) -> int:
    """The frame shown at (2 k + 1) T / 2 n, found by adding up delays in integers."""
    time, elapsed = (2 * moment + 1) * sum(delays), 0
    for frame, delay in enumerate(delays):
        elapsed += delay * 2 * moments
        if time < elapsed:
            return frame
    raise AssertionError("every moment is within the total duration")


@given(DELAYS, MOMENTS)
@settings(deadline=None, derandomize=True)
def test_indexes_increase_and_each_weight_is_its_frames_share_of_the_moments(delays: list[int], moments: int) -> None:
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
def test_equal_frames_and_as_many_moments_give_each_frame_once(frames: int, delay: int) -> None:
    assert sample_in_time([delay] * frames, frames) == Sample(tuple(range(frames)), (1 / frames,) * frames)


@given(st.integers(20, 655_350), MOMENTS)
@settings(deadline=None, derandomize=True)
def test_a_single_frame_gets_all_the_weight(delay: int, moments: int) -> None:
    assert sample_in_time([delay], moments) == Sample((0,), (1.0,))


def test_frames_are_weighted_by_their_duration() -> None:
    # 1000 ms in four slices: moments at 125, 375, 625, 875; the frames end at 300, 600 and 1000.
    assert sample_in_time([300, 300, 400], 4) == Sample((0, 1, 2), (0.25, 0.25, 0.5))


def test_a_frame_is_shown_up_to_but_not_at_its_end() -> None:
    # 200 ms, one moment: at 100, where the first frame ends and the second begins.
    assert sample_in_time([100, 100], 1) == Sample((1,), (1.0,))


def test_a_long_frame_is_taken_once_with_a_large_weight() -> None:
    assert sample_in_time([100, 9_800, 100], 8) == Sample((1,), (1.0,))
    assert sample_in_time([100] * 4 + [1_200], 8) == Sample((1, 3, 4), (0.125, 0.125, 0.75))


def test_all_frames_are_taken_up_to_a_cap_and_evenly_spaced_ones_beyond_it() -> None:
    assert sample_by_time(Sampling(strategy="all"), [100, 300]) == Sample((0, 1), (0.25, 0.75))
    assert sample_by_time(Sampling(2, "all"), [100, 300]) == Sample((0, 1), (0.25, 0.75))
    assert sample_by_time(Sampling(2, "all"), [100, 100, 100, 100]) == Sample((1, 3), (0.5, 0.5))


def test_the_first_frames_are_taken_with_their_durations() -> None:
    assert sample_by_time(Sampling(strategy="first"), [100, 300]) == Sample((0,), (1.0,))
    assert sample_by_time(Sampling(2, "first"), [100, 300, 600]) == Sample((0, 1), (0.25, 0.75))
    assert sample_by_time(Sampling(9, "first"), [100, 300]) == Sample((0, 1), (0.25, 0.75))


def pictures(*levels: int) -> np.ndarray:
    return np.array(levels, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)


def test_one_scene_is_the_frame_nearest_to_the_time_weighted_mean() -> None:
    shots = pictures(10, 12, 11, 200, 201, 90)
    assert sample_scenes(shots, [100] * 6, 1).indexes == (5,)  # the mean is about 87
    sample = sample_scenes(shots, [100] * 4 + [9_000, 100], 1)  # the mean is about 194, nearer to 200 than to 201
    assert (sample.indexes, sample.weights) == ((3,), pytest.approx((1.0,)))


def test_scenes_are_the_frames_that_differ_most_weighted_by_similar_frames() -> None:
    sample = sample_scenes(pictures(0, 0, 100, 100, 255), [200, 200, 100, 100, 200], 3)
    assert sample.indexes == (0, 2, 4)
    assert sample.weights == pytest.approx((0.5, 0.25, 0.25))


def test_frames_that_look_alike_form_one_scene() -> None:
    assert sample_scenes(pictures(7, 7, 7), [100, 200, 300], 8) == Sample((0,), (1.0,))


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(20, 1000)), min_size=1, max_size=30), st.integers(1, 12))
@settings(deadline=None, derandomize=True)
def test_every_scene_is_distinct_and_no_other_frame_is_farther_from_all(
    frames: list[tuple[int, int]], count: int
) -> None:
    levels, delays = [level for level, _ in frames], [delay for _, delay in frames]
    sample = sample_scenes(pictures(*levels), delays, count)
    assert list(sample.indexes) == sorted(set(sample.indexes))
    assert len(sample.indexes) == min(count, len(set(levels)))
    assert sum(sample.weights) == pytest.approx(1.0)
    taken = {levels[index] for index in sample.indexes}
    assert len(taken) == len(sample.indexes)
    if len(taken) > 1:
        nearest = min(abs(one - other) for one in taken for other in taken if one != other)
        farthest = max(min(abs(level - one) for one in taken) for level in levels)
        assert farthest <= nearest  # the guarantee of farthest-point sampling
