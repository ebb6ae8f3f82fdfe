"""The settings of builds and nightly runs, one frozen record per concern."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from gifdex.encoders.frames.limits import check_at_least
from gifdex.encoders.registry import DEFAULT_TEXT_ENCODER
from gifdex.encoders.settings import EncodeSettings
from gifdex.index.build import DEFAULT_ENGINES, Engines
from gifdex.schemas.errors import ConfigError

_URL = re.compile("[a-z][a-z0-9+.-]+:/")  # also of a Path, which has lost a slash


@dataclass(frozen=True)
class IndexSettings:
    """Settings of the index stage. `projection` is a file, or None for the zero-shot one.

    `engines` maps the engines to build to parameters that override their defaults. `keep_features` keeps the image
    encoder's features in the index, as the field `features`; `moments` keeps the embeddings of single frames, as the
    field `frames`. `dedupe` is the score of near duplicates, of which only one is indexed; None indexes all.
    `text_columns` are the columns of metadata whose words the field `text` has, besides id, caption and tags. Up to
    `tags` classes of the image encoder's classifier that have `min_tag_probability` become tags of each item. Each of
    the `shards` is built in its own task; None means as few as keep a task within 2 GiB of features and vectors.
    """

    text_encoder: str = DEFAULT_TEXT_ENCODER
    projection: Path | None = None
    engines: Engines = field(default_factory=lambda: dict(DEFAULT_ENGINES))
    shards: int | None = None
    keep_features: bool = False
    dedupe: float | None = None
    text_columns: tuple[str, ...] = ()
    tags: int = 0
    min_tag_probability: float = 0.1
    moments: bool = False

    def __post_init__(self) -> None:
        check_at_least(0, tags=self.tags)
        if not 0 <= self.min_tag_probability <= 1:  # also refuses NaN
            raise ValueError(f"min_tag_probability is {self.min_tag_probability}; expected a number from 0 to 1")
        if self.shards is not None:
            check_at_least(1, shards=self.shards)
        if self.dedupe is not None and not 0 < self.dedupe <= 1:
            raise ConfigError(f"dedupe is {self.dedupe}; expected a score above 0 and up to 1, such as 0.99")


@dataclass(frozen=True)
class InboxSettings:
    """Settings of the inbox, the `folder` that searches put GIFs from outside sources into; None if there is none.

    Items that were fetched more than `max_days` ago leave it, and the oldest do while it has more than `max_bytes`.
    """

    folder: Path | None = None
    max_days: float | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_days", "max_bytes"):
            if getattr(self, name) is not None and self.folder is None:
                raise ConfigError(f"{name} of the inbox is given, but no inbox is: name its folder, or leave it out")
        if self.folder is not None and _URL.match(str(self.folder)):
            raise ConfigError(f"the inbox is {self.folder}; expected a local folder, as searches write there: name one")
        if self.max_days is not None and not self.max_days > 0:  # also refuses NaN
            raise ConfigError(f"max_days of the inbox is {self.max_days}; expected more than 0")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise ConfigError(f"max_bytes of the inbox is {self.max_bytes}; expected at least 1")


@dataclass(frozen=True)
class BuildSettings:
    """All settings of a build: the corpus, the workspace (a folder, or a URL such as s3://bucket/ws), and the stages.

    `checksum` hashes every file again instead of trusting size and modification time. `strict` rejects GIFs that can
    only be decoded in part. The items of the `inbox` join the corpus. `beam_options` are passed to Beam unchanged.
    """

    corpus: str
    workspace: Path | str
    checksum: bool = False
    strict: bool = False
    encode: EncodeSettings = field(default_factory=EncodeSettings)
    index: IndexSettings = field(default_factory=IndexSettings)
    inbox: InboxSettings = field(default_factory=InboxSettings)
    beam_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class GateSettings:
    """Settings of the quality gate.

    `min_recall`: the minimum recall@10 of each field's default engine, as measured by its build on vectors and
    sentences. `max_shrink`: share of the last published version's items that may be missing. `max_rejects`: a share of
    all files if below 1, otherwise a count. `canaries`: a file of JSON Lines {"sentence": ..., "id": ..., "k": 10};
    each sentence must find its id among the first k.
    """

    min_recall: float = 0.95
    max_shrink: float = 0.2
    max_rejects: float = 0.2
    canaries: Path | None = None

    def __post_init__(self) -> None:
        for name in ("min_recall", "max_shrink", "max_rejects"):
            if not getattr(self, name) >= 0:  # also refuses NaN, which would disable the rule
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a number, at least 0")


@dataclass(frozen=True)
class NightlySettings:
    """Settings of a nightly run.

    Pruning keeps `keep` versions; the published version is copied to the URL or folder `push`; `force` publishes even
    if the gate refuses.
    """

    build: BuildSettings
    gate: GateSettings = field(default_factory=GateSettings)
    keep: int = 3
    push: str | None = None
    force: bool = False
