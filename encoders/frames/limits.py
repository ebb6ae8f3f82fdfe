"""Limits for one GIF, and which of its frames are sampled."""

from __future__ import annotations

from dataclasses import dataclass


def check_at_least(minimum: float, **values: float) -> None:
    """Raise ValueError naming the first value below the minimum."""
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"{name} is {value}; expected at least {minimum}")


@dataclass(frozen=True)
class Limits:
    """Limits for one GIF; a GIF above a limit becomes a reject that names the limit.

    `bytes` limits the file, `pixels` the canvas and every image on it, `frames` the frames in the file, `total_pixels`
    what is decoded and drawn for the sampled frames, and `seconds` the decoding time, checked between frames. Only
    `bytes` also applies to GIFs whose features are cached.
    """

    bytes: int = 64 * 1024**2
    pixels: int = 16 * 1024**2
    frames: int = 10_000
    total_pixels: int = 800_000_000
    seconds: float = 8.0


# The default maximum number of frames for each strategy.
SAMPLING_STRATEGIES = {"uniform": 8, "scene": 8, "all": 256, "first": 1}


@dataclass(frozen=True)
class Sampling:
    """Which frames represent a GIF, at most `frames` (None: the strategy's default in SAMPLING_STRATEGIES).

    `uniform`: those shown at evenly spaced moments of the playing time; `scene`: those that differ most from each
    other; `all`: every frame, or as `uniform` if there are more than `frames`; `first`: the first ones.
    """

    frames: int | None = None
    strategy: str = "uniform"

    def __post_init__(self) -> None:
        if self.strategy not in SAMPLING_STRATEGIES:
            raise ValueError(f"the sampling is {self.strategy!r}; expected one of {', '.join(SAMPLING_STRATEGIES)}")
        check_at_least(1, frames=self.count)

    @property
    def count(self) -> int:
        """The maximum number of frames for one GIF."""
        return SAMPLING_STRATEGIES[self.strategy] if self.frames is None else self.frames
