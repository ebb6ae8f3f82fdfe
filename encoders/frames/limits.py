"""What one GIF may cost, and which of its frames stand for it."""

from __future__ import annotations

from dataclasses import dataclass


def check_at_least(minimum: float, **values: float) -> None:
    """Raise ValueError that names the first of the values below the minimum."""
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"{name} is {value}; expected at least {minimum}")


@dataclass(frozen=True)
class Limits:
    """What one GIF may cost; one beyond a limit becomes a reject that names the limit.

    `bytes` of the file, `pixels` of the canvas and of every image on it, `frames` in the file, `total_pixels` decoded
    and drawn for the frames that are needed, and `seconds` of decoding, looked at between frames. Only `bytes` also
    applies to GIFs that were encoded before: features that are there are used.
    """

    bytes: int = 64 * 1024**2
    pixels: int = 16 * 1024**2
    frames: int = 10_000
    total_pixels: int = 800_000_000
    seconds: float = 8.0


# How many frames each strategy takes at most where nothing else is asked for.
SAMPLING_STRATEGIES = {"uniform": 8, "scene": 8, "all": 256, "first": 1}


@dataclass(frozen=True)
class Sampling:
    """Which frames stand for a GIF, `frames` at most (None: the strategy's own default, in SAMPLING_STRATEGIES).

    `uniform`: those shown at moments evenly spaced over the playing time; `scene`: those that differ most from
    each other; `all`: every one, and of a GIF with more than `frames`, as `uniform`; `first`: the first ones.
    """

    frames: int | None = None
    strategy: str = "uniform"

    def __post_init__(self) -> None:
        if self.strategy not in SAMPLING_STRATEGIES:
            raise ValueError(f"the sampling is {self.strategy!r}; expected one of {', '.join(SAMPLING_STRATEGIES)}")
        check_at_least(1, frames=self.count)

    @property
    def count(self) -> int:
        """The most frames that are taken of one GIF."""
        return SAMPLING_STRATEGIES[self.strategy] if self.frames is None else self.frames
