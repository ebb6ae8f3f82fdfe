"""Take in what searches fetched from outside sources: the inbox's items join the corpus, their features the cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from gifdex.encoders.feature_cache import FeatureCache, Outcome
from gifdex.index.inbox import Inbox, InboxEntry, features_of, unexpired
from gifdex.pipeline.corpus import Entry, Listing
from gifdex.pipeline.encode import Source, unused_part
from gifdex.pipeline.settings import InboxSettings
from gifdex.schemas.files import absolute


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


def known_features(settings: InboxSettings, missing: Sequence[Source], cache: FeatureCache) -> list[Outcome]:
    """Return the features that the inbox has of GIFs that are missing in a cache."""
    inbox = _inbox(settings)
    if inbox is None:
        return []
    found = features_of(inbox.features(cache.fingerprint, cache.dimensions), [source.sha256 for source in missing])
    return [found[key] for key in sorted(found)]


def take_in(settings: InboxSettings, missing: Sequence[Source], cache: FeatureCache) -> bool:
    """Copy features that the inbox has into the cache that lacks them; tell whether there were any."""
    outcomes = known_features(settings, missing, cache)
    if outcomes:
        keys = [Source(outcome.sha256, "") for outcome in outcomes]
        cache.commit(unused_part(cache, "", keys), outcomes)
    return bool(outcomes)


def prune_inbox(settings: InboxSettings) -> int:
    """Delete the inbox's items that retention does not let stay; return how many."""
    inbox = _inbox(settings)
    return 0 if inbox is None else inbox.prune(_staying(inbox, settings))


def _inbox(settings: InboxSettings) -> Inbox | None:
    return None if settings.folder is None else Inbox(absolute(settings.folder))


def _staying(inbox: Inbox, settings: InboxSettings) -> list[InboxEntry]:
    return unexpired(inbox.entries(), inbox.folder, settings.max_days, settings.max_bytes)


def _entry(inbox: Inbox, entry: InboxEntry) -> Entry:
    metadata = json.dumps(entry.metadata, sort_keys=True, ensure_ascii=False)
    return Entry(entry.id, str(inbox.folder / entry.file), metadata=metadata)
