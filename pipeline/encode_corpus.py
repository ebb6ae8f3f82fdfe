"""Scan and encode a corpus without building an index: `gifdex encode`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gifdex.pipeline.holding import held_workspace
from gifdex.pipeline.lists import commit_lists, recipe_id, split
from gifdex.pipeline.run import RunSummary, commit_statistics, start
from gifdex.pipeline.settings import BuildSettings
from gifdex.schemas.progress import QUIET, Progress


@dataclass(frozen=True)
class EncodeSummary:
    """The summary of a run, the folder of the features, and the catalog file."""

    run: RunSummary
    features: str
    catalog: str

    def to_json(self) -> dict[str, Any]:
        """Return the summary as one JSON object."""
        return {**self.run.to_json(), "features": self.features, "catalog": self.catalog}


def encode_corpus(settings: BuildSettings, progress: Progress = QUIET) -> EncodeSummary:
    """Bring the workspace's features up to date with the corpus, without building or publishing an index.

    Writes the catalog and the rejects as a build does, under a separate id. Raises a GifdexError.
    """
    with held_workspace(settings, progress) as workspace:
        run = start(settings, workspace, progress)
        scanned = run.scan()
        encoded = run.encode(scanned)
        lists = split(scanned, encoded, settings.strict)
        build_id = recipe_id({"features": run.cache.fingerprint}, lists.items)
        commit_lists(workspace, build_id, lists, run.cache.fingerprint)
        counts = run.summary(build_id, scanned, encoded, lists)
        summary = EncodeSummary(counts, str(run.cache.folder), str(workspace.catalog(build_id)))
        commit_statistics(workspace, settings, build_id, summary.to_json())
        return summary
