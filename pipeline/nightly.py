"""The nightly run: build, gate, publish, prune."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from apache_beam.utils.shared import Shared

from gifdex.index import shipping, store
from gifdex.index.remote import Place
from gifdex.pipeline import gate
from gifdex.pipeline.build import BuildSummary, make_version
from gifdex.pipeline.embed import commit_statistics, held_workspace, prepare, workspace_of
from gifdex.pipeline.encode import look_up
from gifdex.pipeline.plan import Plan, plan
from gifdex.pipeline.prune import PROTECTED, prune
from gifdex.pipeline.scan import scan
from gifdex.pipeline.settings import BuildSettings, NightlySettings
from gifdex.pipeline.workspace import Workspace
from gifdex.schemas.errors import ArtifactError, RemoteError
from gifdex.schemas.files import commit_bytes, is_url
from gifdex.schemas.progress import Notice, Progress, silence, silent

PUBLISHED, UNCHANGED, REFUSED = "published", "unchanged", "refused"


@dataclass
class NightlySummary(BuildSummary):
    """What a nightly run did, beyond its build.

    `outcome` is published, unchanged (the version was published before) or refused; `previous` is what was
    published before; `refused` has the rules that the version did not keep, each with its reason: overruled, if it
    is published. `pruned` says what was deleted, `pushed` what was copied elsewhere, `not_pushed` why it was not.
    """

    outcome: str = ""
    previous: str | None = None
    refused: dict[str, str] = field(default_factory=dict)
    pushed: dict[str, Any] = field(default_factory=dict)
    not_pushed: str | None = None
    pruned: dict[str, Any] = field(default_factory=dict)


def nightly(settings: NightlySettings, progress: Progress = silent, notice: Notice = silence) -> NightlySummary:
    """Bring the index up to date, publish it if the gate lets it through, delete what is not needed, and ship.

    What is shipped is what is published here at the end, so a rollback here reaches there with the next run. Raises a
    GifdexError where no version could be made; then the published one is untouched. A refusal is an `outcome`, and a
    failure to ship is in the summary.
    """
    check(settings)
    with held_workspace(settings.build, progress) as workspace:
        summary = NightlySummary()
        make_version(settings.build, workspace, progress, notice, summary)
        with summary.timed("gate"):
            progress("gate", 0, 1)
            found = gate.check(workspace.store, summary.build_id, summary, settings.gate)
            progress("gate", 1, 1)
        summary.refused = {refusal.rule: refusal.reason for refusal in found}
        summary.previous = store.known_current(workspace.store)
        if found and not (settings.force and gate.NEVER_OVERRULED not in summary.refused):
            summary.outcome = REFUSED
        else:
            store.publish(workspace.store, summary.build_id, refused=tuple(summary.refused))
            summary.outcome = UNCHANGED if summary.previous == summary.build_id else PUBLISHED
        with summary.timed("prune"):
            summary.pruned = asdict(prune(workspace, settings.keep, also={summary.build_id}))
        if settings.push is not None and (current := store.known_current(workspace.store)) is not None:
            with summary.timed("push"):
                try:
                    summary.pushed = shipping.push(workspace.store / current, settings.push, progress)
                    there = shipping.destination_of(settings.push)
                    summary.pushed["pruned"] = shipping.prune(there, settings.keep, PROTECTED)
                except (ArtifactError, RemoteError) as err:  # it was published all the same
                    summary.not_pushed = str(err)
        commit_statistics(workspace, settings.build, summary)
        return summary


def check(settings: NightlySettings) -> None:
    """Raise what is wrong with canaries and destination, which should not wait until they are needed."""
    if settings.gate.canaries is not None:
        gate.read_canaries(settings.gate.canaries)
    if settings.push is not None:
        shipping.destination_of(settings.push)


def make_plan(settings: BuildSettings, progress: Progress = silent) -> Plan:
    """Return what a run would do, after listing the corpus and hashing what is new in it; nothing is encoded."""
    with held_workspace(settings, progress) as workspace:
        shared = Shared()
        encoder, cache = prepare(settings, workspace, shared, progress)
        scanned = scan(settings, workspace, progress)
        return plan(scanned, look_up(scanned.catalog, cache), workspace, cache, encoder.name)


@dataclass(frozen=True)
class Status:
    """What became of the last nightly runs: when the last one ended and how, and when the last good one did."""

    finished: str
    outcome: str
    error: str | None
    last_success: str | None


def note_status(where: Path | str, outcome: str, error: str | None) -> Status:
    """Write down how a run of a workspace ended; of one at a URL, there too, if it can be reached."""
    workspace = workspace_of(where)
    now = datetime.now(UTC).isoformat("T", "seconds")
    good = now if error is None else read_status(workspace).get("last_success")
    status = Status(now, outcome, error, good)
    data = (json.dumps(asdict(status), indent=2) + "\n").encode()
    commit_bytes(workspace.status, data, alone=True)
    if isinstance(where, str) and is_url(where):
        with suppress(RemoteError):  # which may be what the run failed with
            Place.of(where).put(data, workspace.status.name)
    return status


def read_status(workspace: Workspace) -> dict[str, Any]:
    """Return what `note_status` wrote; nothing where there is none or it is damaged."""
    try:
        found = json.loads(workspace.status.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
