"""Take in what searches fetched from outside sources: the inbox's items join the corpus, their features the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from gifdex.encoders.feature_cache import FeatureCache, Outcome
from gifdex.index.inbox import Inbox, InboxEntry, features_of, unexpired
from gifdex.pipeline.corpus import Entry, Listing, as_text
from gifdex.pipeline.encode import Source, unused_part
from gifdex.pipeline.settings import BuildSettings, InboxSettings
from gifdex.pipeline.workspace import Workspace
from gifdex.schemas.errors import ConfigError
from gifdex.schemas.files import absolute, is_url, read_table


def check_inbox(settings: BuildSettings) -> None:
    """Raise ConfigError if the inbox and the corpus or the workspace lie in each other."""
    if settings.inbox.folder is None:
        return
    folder = _real(settings.inbox.folder)
    places = {"corpus": settings.corpus, "workspace": settings.workspace}
    for what, place in places.items():
        if isinstance(place, str) and is_url(place):
            continue
        other = _real(place)
        if folder == other or folder in other.parents or other in folder.parents:
            raise ConfigError(
                f"the inbox {settings.inbox.folder} and the {what} {place} lie in each other; expected a folder of its "
                "own for what searches fetch: name another inbox"
            )


def _real(place: Path | str) -> Path:
    return Path(os.path.realpath(absolute(place)))


def with_inbox(listing: Listing, settings: InboxSettings) -> Listing:
    """Return the listing of a corpus with the items of an inbox that retention lets stay.

    Where both have an item of the same id, the corpus's counts. Raises WorkspaceError if the folder does not exist.
    """
    inbox = _inbox(settings)
    if inbox is None:
        return listing
    taken = {entry.id for entry in listing.entries}
    more = [_entry(inbox, entry) for entry in _staying(inbox, settings) if entry.id not in taken]
    entries = sorted([*listing.entries, *more], key=lambda entry: (entry.id, entry.uri))
    return replace(listing, entries=tuple(entries))


def from_inbox(settings: InboxSettings) -> Callable[[str], bool]:
    """Return a function that tells whether a URI of a catalog is a file of the inbox."""
    inbox = _inbox(settings)
    folder = None if inbox is None else as_text(str(inbox.folder))
    return lambda uri: folder is not None and uri.rpartition("/")[0] == folder


def known_features(settings: InboxSettings, missing: Sequence[Source], cache: FeatureCache) -> list[Outcome]:
    """Return the features that the inbox has of its own GIFs that are missing in a cache."""
    inbox = _inbox(settings)
    if inbox is None:
        return []
    is_ours = from_inbox(settings)
    keys = [source.sha256 for source in missing if is_ours(source.uri)]
    found = features_of(inbox.features(cache.fingerprint, cache.dimensions), keys)
    return [found[key] for key in sorted(found)]


def take_in(settings: InboxSettings, missing: Sequence[Source], cache: FeatureCache) -> bool:
    """Copy features that the inbox has into the cache that lacks them; tell whether there were any."""
    outcomes = known_features(settings, missing, cache)
    if outcomes:
        keys = [Source(outcome.sha256, "") for outcome in outcomes]
        cache.commit(unused_part(cache, "", keys), outcomes)
    return bool(outcomes)


def prune_inbox(settings: InboxSettings, workspace: Workspace, build_id: str) -> int:
    """Delete what retention does not let stay and a published version does not hold; return how many items."""
    inbox = _inbox(settings)
    if inbox is None:
        return 0
    return inbox.prune(settings.max_days, settings.max_bytes, _held(workspace, build_id, settings))


def expired(settings: InboxSettings, workspace: Workspace, build_id: str, before: str) -> int:
    """Return how many items of the version `before` the version `build_id` lacks because retention expired them."""
    inbox = _inbox(settings)
    if inbox is None:
        return 0
    gone = {entry.id for entry in inbox.entries()} - {entry.id for entry in _staying(inbox, settings)}
    return len((gone & _held(workspace, before, settings)) - _held(workspace, build_id, settings))


def _held(workspace: Workspace, build_id: str, settings: InboxSettings) -> set[str]:
    """Return the ids of the items that a build took from the inbox, near duplicates too; none without a catalog."""
    try:
        catalog = read_table(workspace.catalog(build_id), ["id", "uri"])
    except (OSError, pa.ArrowException):
        return set()
    columns = (catalog[name].to_pylist() for name in ("id", "uri"))
    is_ours = from_inbox(settings)
    return {key for key, uri in zip(*columns, strict=True) if is_ours(uri)}


def _inbox(settings: InboxSettings) -> Inbox | None:
    return None if settings.folder is None else Inbox(absolute(settings.folder))


def _staying(inbox: Inbox, settings: InboxSettings) -> list[InboxEntry]:
    return unexpired(inbox.entries(), inbox.folder, settings.max_days, settings.max_bytes)


def _entry(inbox: Inbox, entry: InboxEntry) -> Entry:
    metadata = json.dumps(entry.metadata, sort_keys=True, ensure_ascii=False)
    return Entry(entry.id, as_text(str(inbox.folder / entry.file)), metadata=metadata)
