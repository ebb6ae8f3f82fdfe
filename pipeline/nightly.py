"""The nightly run: build, gate, publish, prune."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from gifdex.index import store
from gifdex.index.store import push as pushing
from gifdex.index.store.place import Place
from gifdex.pipeline import gate
from gifdex.pipeline.build import BuildSummary, make_version
from gifdex.pipeline.holding import held_workspace, workspace_of
from gifdex.pipeline.inbox import expired, prune_inbox
from gifdex.pipeline.plan import RunPlan
from gifdex.pipeline.prune import PROTECTED, PruneSummary, prune
from gifdex.pipeline.run import StageTimes, commit_statistics, start
from gifdex.pipeline.settings import BuildSettings, NightlySettings
from gifdex.pipeline.workspace import Workspace
from gifdex.schemas.errors import ArtifactError, RemoteError
from gifdex.schemas.files import commit_bytes, is_url
from gifdex.schemas.progress import QUIET, Progress

PUBLISHED, UNCHANGED, REFUSED = "published", "unchanged", "refused"


@dataclass(frozen=True)
class NightlySummary:
    """The result of a nightly run: the summary of its build, and the outcome for the version.

    `outcome` is published, unchanged (the version was already published) or refused; `previous` is the version
    published before. `refused` maps the rules that the version breaks to reasons; if it is published, they were
    overruled. `pruned` is what was deleted, `pushed` what was copied, `not_pushed` why the copy failed. `seconds` are
    those of the stages after the build.
    """

    build: BuildSummary
    outcome: str
    previous: str | None
    refused: dict[str, str]
    pushed: dict[str, Any]
    not_pushed: str | None
    pruned: PruneSummary
    seconds: dict[str, float]

    @property
    def build_id(self) -> str:
        """The version's id."""
        return self.build.build_id

    def to_json(self) -> dict[str, Any]:
        """Return the summary as one JSON object."""
        own = asdict(self)
        own.pop("build")
        return {**self.build.to_json(), **own, "seconds": {**self.build.run.seconds, **self.seconds}}


def nightly(settings: NightlySettings, progress: Progress = QUIET) -> NightlySummary:
    """Build, publish the version if the gate accepts it, prune, and push.

    The version that is published at the end is pushed, so the next run also pushes a rollback. Raises a GifdexError if
    no version could be built; then the published one is unchanged. The summary reports a refusal or a failed push.
    """
    check(settings)
    with held_workspace(settings.build, progress) as workspace:
        built, times = make_version(settings.build, workspace, progress), StageTimes()
        gone = partial(expired, settings.build.inbox, workspace, built.build_id)
        with times.timed("gate"):
            progress.stage("gate", 0, 1)
            found = gate.check(workspace.store, built.build_id, built.run, settings.gate, gone)
            progress.stage("gate", 1, 1)
        refused = {refusal.rule: refusal.reason for refusal in found}
        previous = store.known_current(workspace.store)
        outcome = _publish(workspace.store, built.build_id, refused, previous, settings.force)
        with times.timed("prune"):
            if outcome != REFUSED:  # until then the published version may hold what has expired
                prune_inbox(settings.build.inbox, workspace, built.build_id)
            pruned = prune(workspace, settings.keep, also={built.build_id})
        pushed, not_pushed = _ship(settings, workspace, progress, times)
        summary = NightlySummary(built, outcome, previous, refused, pushed, not_pushed, pruned, times.seconds)
        commit_statistics(workspace, settings.build, built.build_id, summary.to_json())
        return summary


def _publish(folder: Path, build_id: str, refused: Mapping[str, str], previous: str | None, force: bool) -> str:
    """Publish a version of a store unless it is refused; return the outcome."""
    if refused and not (force and gate.NEVER_OVERRULED not in refused):
        return REFUSED
    store.publish(folder, build_id, refused=tuple(refused))
    return UNCHANGED if previous == build_id else PUBLISHED


def _ship(
    settings: NightlySettings, workspace: Workspace, progress: Progress, times: StageTimes
) -> tuple[dict[str, Any], str | None]:
    """Push the published version if a destination is set; return what was copied, and why it failed."""
    current = store.known_current(workspace.store)
    if settings.push is None or current is None:
        return {}, None
    pushed: dict[str, Any] = {}
    with times.timed("push"):
        try:
            pushed = pushing.push(workspace.store / current, settings.push, progress)
            there = pushing.destination_of(settings.push)
            pushed["pruned"] = pushing.prune(there, settings.keep, PROTECTED)
        except (ArtifactError, RemoteError) as err:  # the version is published anyway
            return pushed, str(err)
    return pushed, None


def check(settings: NightlySettings) -> None:
    """Check the canaries and the destination early; raises the errors that they would cause later."""
    if settings.gate.canaries is not None:
        gate.read_canaries(settings.gate.canaries)
    if settings.push is not None:
        pushing.destination_of(settings.push)


def make_plan(settings: BuildSettings, progress: Progress = QUIET) -> RunPlan:
    """List the corpus, hash new files and return what a run would do; nothing is encoded."""
    with held_workspace(settings, progress) as workspace:
        run = start(settings, workspace, progress)
        return run.plan(run.scan())


@dataclass(frozen=True)
class Status:
    """The status of nightly runs: when and how the last one ended, and when the last successful one did."""

    finished: str
    outcome: str
    error: str | None
    last_success: str | None


def record_status(where: Path | str, outcome: str, error: str | None) -> Status:
    """Record how a run ended in its workspace; for one at a URL, also there if it can be reached."""
    workspace = workspace_of(where)
    now = datetime.now(UTC).isoformat("T", "seconds")
    good = now if error is None else read_status(workspace).get("last_success")
    status = Status(now, outcome, error, good)
    data = (json.dumps(asdict(status), indent=2) + "\n").encode()
    commit_bytes(workspace.status, data, same_temporary_name=True)
    if isinstance(where, str) and is_url(where):
        with suppress(RemoteError):  # the run may have failed with the same error
            Place.of(where).put(data, workspace.status.name)
    return status


def read_status(workspace: Workspace) -> dict[str, Any]:
    """Return what `record_status` wrote; empty if the file is missing or damaged."""
    try:
        found = json.loads(workspace.status.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
