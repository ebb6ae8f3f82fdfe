"""What a build can be told, one frozen record a concern."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gifdex.encoders.frames.limits import check_at_least
from gifdex.encoders.registry import DEFAULT_TEXT_ENCODER
from gifdex.encoders.settings import EncodeSettings
from gifdex.index.build import USUAL_ENGINES, Engines
from gifdex.schemas.errors import ConfigError


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
            check_at_least(1, shards=self.shards)


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
