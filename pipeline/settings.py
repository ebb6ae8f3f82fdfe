"""What a build can be told, one frozen record a concern."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gifdex.encoders.base import ImageEncoderOptions, available_cpus
from gifdex.encoders.registry import DEFAULT_IMAGE_ENCODER, DEFAULT_TEXT_ENCODER
from gifdex.index.build import USUAL_ENGINES, Engines
from gifdex.schemas.errors import ConfigError
from gifdex.schemas.files import absolute


def _at_least(least: float, **values: float) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")


# Each decoding thread may hold a canvas of the limit's size (64 MiB as RGBA) a few times over, so memory bounds them.
_MOST_THREADS = 8


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
        _at_least(1, frames=self.count)

    @property
    def count(self) -> int:
        """The most frames that are taken of one GIF."""
        return SAMPLING_STRATEGIES[self.strategy] if self.frames is None else self.frames


@dataclass(frozen=True)
class EncodeSettings:
    """How the encode stage runs.

    Features depend on the encoder, its `weights` (a file, for encoders that take one) and its `precision`, on the
    sampling and the decoder, and on nothing else here but in their last digits. `decoder` is the one for GIFs, `auto`
    for the fastest that is installed. `batch_frames` frames go to the encoder at a time (None: what suits the device),
    `threads` decode ahead of it, and a task has at most `task_items` GIFs: what is lost when a task dies.
    """

    image_encoder: str = DEFAULT_IMAGE_ENCODER
    weights: Path | None = None
    precision: str = "auto"
    batch_frames: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=Limits)
    decoder: str = "auto"
    threads: int = field(default_factory=lambda: min(available_cpus(), _MOST_THREADS))
    task_items: int = 64

    def __post_init__(self) -> None:
        _at_least(1, threads=self.threads, task_items=self.task_items)
        _ = self.encoder_options  # which checks the others

    @property
    def encoder_options(self) -> ImageEncoderOptions:
        """What the image encoder is made with."""
        weights = None if self.weights is None else absolute(self.weights)
        return ImageEncoderOptions(weights, self.precision, self.batch_frames)


@dataclass(frozen=True)
class IndexSettings:
    """How the index stage runs. `projection` is a file, or None for the zero-shot one.

    `engines` are those to build, and what each is told besides its defaults. `keep_features` keeps the image encoder's
    features in the index, as the field `features`.
    `shards` are built apart, each in one task; None: as few as keep a task within 2 GiB of features and vectors.
    """

    text_encoder: str = DEFAULT_TEXT_ENCODER
    projection: Path | None = None
    engines: Engines = field(default_factory=lambda: dict(USUAL_ENGINES))
    shards: int | None = None
    keep_features: bool = False

    def __post_init__(self) -> None:
        if self.shards is not None:
            _at_least(1, shards=self.shards)


@dataclass(frozen=True)
class BuildSettings:
    """Everything `build` is told: what to read, where to write (a folder, or a URL such as s3://bucket/ws), and how.

    `checksum` hashes every file again instead of trusting size and modification time. `strict` rejects GIFs of which
    only the good beginning could be decoded. `beam_options` are
    passed to Beam as they are.
    """

    corpus: str
    workspace: Path | str
    checksum: bool = False
    strict: bool = False
    encode: EncodeSettings = field(default_factory=EncodeSettings)
    index: IndexSettings = field(default_factory=IndexSettings)
    beam_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class GateSettings:
    """What the gate asks for.

    `min_recall`: recall@10 of each field's default engine as its build measured it, on vectors and on sentences.
    `max_shrink`: share of the last published version's items that may be missing. `max_rejects`: of all files, a share
    if below 1, else a count. `canaries`: a file of JSON Lines {"sentence": ..., "id": ..., "k": 10}; each sentence must
    find its id among the first k.
    """

    min_recall: float = 0.95
    max_shrink: float = 0.2
    max_rejects: float = 0.2
    canaries: Path | None = None

    def __post_init__(self) -> None:
        for name in ("min_recall", "max_shrink", "max_rejects"):
            if not getattr(self, name) >= 0:  # of NaN, nothing is true: it would let everything through
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a number, at least 0")


@dataclass(frozen=True)
class NightlySettings:
    """What a nightly run is told.

    `keep` versions stay; what is published is copied to the URL or folder `push`; `force` publishes what the gate
    refuses.
    """

    build: BuildSettings
    gate: GateSettings = field(default_factory=GateSettings)
    keep: int = 3
    push: str | None = None
    force: bool = False
