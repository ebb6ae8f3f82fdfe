"""Choose which frames represent a GIF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.frames.limits import Sampling


@dataclass(frozen=True)
class Sample:
    """Distinct frame indexes in ascending order, and the share of the sampled time that each represents."""

    indexes: tuple[int, ...]
    weights: tuple[float, ...]


def sample_in_time(delays_ms: Sequence[int], moments: int) -> Sample:
    """Take `moments` moments, each in the middle of an equal slice of the playing time.

    `delays_ms` (all above zero) says how long each frame shows. A frame that shows at several moments is
    taken once and weighted by their share; the weights sum to one.
    """
    ends = np.cumsum(np.asarray(delays_ms, dtype=np.int64))
    # In integers: moment k of n is at (2k + 1) T / 2n, and a frame shows up to, but not at, its end.
    times = (2 * np.arange(moments, dtype=np.int64) + 1) * ends[-1]
    shown = np.searchsorted(ends * 2 * moments, times, side="right")
    indexes, counts = np.unique(shown, return_counts=True)
    return Sample(tuple(indexes.tolist()), tuple((counts / moments).tolist()))


def sample_scenes(thumbnails: NDArray[np.uint8], delays_ms: Sequence[int], count: int) -> Sample:
    """Take up to `count` frames that differ most: farthest-point sampling (Gonzalez, 1985) of the thumbnails.

    `thumbnails` is uint8 (n, ...), a small picture of each frame. The first choice is the frame nearest to the mean
    over the playing time; each next one is the farthest from all chosen so far, until none differs. A frame's weight
    is the share of the time in which it is the nearest chosen frame.
    """
    pictures = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    shares = np.asarray(delays_ms, np.float64) / sum(delays_ms)
    taken = [int(np.argmin(_distances(pictures, (pictures * shares[:, None].astype(np.float32)).sum(axis=0))))]
    nearest = _distances(pictures, pictures[taken[0]])
    owner = np.zeros(len(pictures), np.int64)
    while len(taken) < count and nearest.max() > 0:
        taken.append(int(nearest.argmax()))
        distances = _distances(pictures, pictures[taken[-1]])
        closer = distances < nearest
        owner[closer] = len(taken) - 1
        nearest = np.minimum(nearest, distances)
    weights = np.bincount(owner, shares, len(taken))
    order = np.argsort(taken)
    return Sample(tuple(taken[i] for i in order), tuple(float(weights[i]) for i in order))


def _distances(pictures: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the squared distance of each picture (n, d) to another (d,)."""
    result: NDArray[np.float32] = ((pictures - other) ** 2).sum(axis=1)
    return result


def sample_by_time(sampling: Sampling, delays_ms: Sequence[int]) -> Sample:
    """Choose frames by their times, for every strategy except `scene`, which compares pictures."""
    if sampling.strategy == "first":
        delays_ms = delays_ms[: sampling.count]
    if sampling.strategy == "uniform" or len(delays_ms) > sampling.count:
        return sample_in_time(delays_ms, sampling.count)
    total = sum(delays_ms)
    return Sample(tuple(range(len(delays_ms))), tuple(delay / total for delay in delays_ms))
