"""What every run over a corpus shares: encoder, cache, scanning, encoding, and the summary."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow.compute as pc
from apache_beam.utils.shared import Shared

from gifdex.encoders.base import ImageEncoder
from gifdex.encoders.feature_cache import FeatureCache
from gifdex.pipeline.encode import Encoded, acquire_encoder, encode_missing, look_up, open_cache
from gifdex.pipeline.inbox import from_inbox, known_features, take_in
from gifdex.pipeline.lists import Lists
from gifdex.pipeline.plan import RunPlan, plan_run
from gifdex.pipeline.scan import Scan, scan
from gifdex.pipeline.settings import BuildSettings
from gifdex.pipeline.workspace import Workspace
from gifdex.schemas.files import commit_bytes
from gifdex.schemas.progress import Progress


@dataclass(frozen=True)
class RunSummary:
    """The result of scanning and encoding. `tried`, `encoded` and `reused` count distinct GIFs, the others items.

    `precision` is what the image encoder computes in; `duplicates` are the items left out as near duplicates of others.
    `inbox_rejects` are those of the `rejects` that are from the inbox. Of `partial` items, only the frames before some
    damage count; `example_partial` has the URI and the damage of the first one. `example_rejects` has the URI and
    reason of the first reject of each class of error. `tried` GIFs were not in the cache; `encoded` of them have
    features now, and `gifs_per_second` counts all of them. `seconds` are by stage.
    """

    build_id: str = ""
    precision: str = ""
    items: int = 0
    partial: int = 0
    example_partial: str = ""
    rejects: int = 0
    inbox_rejects: int = 0
    rejects_by_error: dict[str, int] = field(default_factory=dict)
    example_rejects: dict[str, str] = field(default_factory=dict)
    unchanged: int = 0
    ignored: int = 0
    duplicates: int = 0
    tried: int = 0
    encoded: int = 0
    reused: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    gifs_per_second: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


class StageTimes:
    """The seconds that each stage of a run took."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Measure the seconds of a stage."""
        started = time.monotonic()
        yield
        self._seconds[stage] = round(time.monotonic() - started, 3)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage, for finished stages."""
        return dict(self._seconds)


@dataclass(frozen=True)
class Run:
    """A run over a corpus in a locked workspace; see `start`."""

    settings: BuildSettings
    workspace: Workspace
    progress: Progress
    encoder: ImageEncoder
    cache: FeatureCache
    times: StageTimes
    _shared: Shared

    def scan(self) -> Scan:
        """List the corpus and hash new files."""
        with self.times.timed("scan"):
            return scan(self.settings, self.workspace, self.progress)

    def plan(self, scanned: Scan) -> RunPlan:
        """Return what the run has to do."""
        found = look_up(scanned.catalog, self.cache, moments=self.settings.index.moments)
        to_encode = found.to_encode - len(known_features(self.settings.inbox, found.missing, self.cache))
        return plan_run(scanned, to_encode, self.workspace, self.cache, self.encoder.name)

    def encode(self, scanned: Scan) -> Encoded:
        """Encode the GIFs that are not cached, after a notice if another encoder was chosen."""
        moments = self.settings.index.moments
        found = look_up(scanned.catalog, self.cache, moments=moments)
        if take_in(self.settings.inbox, found.missing, self.cache):
            found = look_up(scanned.catalog, self.cache, moments=moments)
        planned = plan_run(scanned, found.to_encode, self.workspace, self.cache, self.encoder.name)
        if planned.notice is not None:
            self.progress.notice(planned.notice)
        with self.times.timed("encode"):
            return encode_missing(found, self.settings, self.cache, self.encoder, self._shared, self.progress)

    def summary(self, build_id: str, scanned: Scan, encoded: Encoded, lists: Lists) -> RunSummary:
        """Return the summary of the stages, under the id of the run's results."""
        partial = lists.catalog.filter(pc.is_valid(lists.catalog["damage"]))
        examples = [f"{row['uri']}: {row['damage']}" for row in partial.slice(0, 1).to_pylist()]
        rejects = lists.rejects.to_pylist()
        seconds = self.times.seconds
        return RunSummary(
            build_id,
            self.encoder.precision,
            items=len(lists.items),
            partial=len(partial),
            example_partial=examples[0] if examples else "",
            rejects=len(rejects),
            inbox_rejects=sum(map(from_inbox(self.settings.inbox), (row["uri"] for row in rejects))),
            rejects_by_error=dict(sorted(Counter(row["error"] for row in rejects).items())),
            example_rejects={row["error"]: f"{row['uri']}: {row['reason']}" for row in reversed(rejects)},
            unchanged=scanned.unchanged,
            ignored=scanned.ignored,
            duplicates=lists.duplicates,
            tried=encoded.tried,
            encoded=encoded.encoded,
            reused=encoded.reused,
            seconds=seconds,
            gifs_per_second=round(encoded.tried / seconds["encode"], 2) if encoded.tried else None,
        )


def start(settings: BuildSettings, workspace: Workspace, progress: Progress) -> Run:
    """Create the image encoder and open its cache: hash weights, and load the model if the precision depends on it."""
    shared = Shared()
    progress.stage("encoder", 0, 1)
    encoder = acquire_encoder(settings.encode, shared)
    cache = open_cache(workspace, encoder, settings.encode)
    progress.stage("encoder", 1, 1)
    return Run(settings, workspace, progress, encoder, cache, StageTimes(), shared)


def commit_statistics(workspace: Workspace, settings: BuildSettings, build_id: str, summary: Mapping[str, Any]) -> None:
    """Write the run's statistics, for people and dashboards."""
    statistics = {"finished": datetime.now(UTC).isoformat("T", "seconds"), "corpus": settings.corpus, **summary}
    commit_bytes(workspace.statistics(build_id), (json.dumps(statistics, indent=2) + "\n").encode())
