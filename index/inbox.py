"""The inbox: a folder of GIFs that were fetched from outside sources, which the next build takes in.

Several processes may write to one folder at a time. Files are renamed into place whole, and an item's entry is the last
of its files, so it never refers to one that is missing. docs/outside-sources.md specifies them.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa

from gifdex.encoders.feature_cache import FeatureCache, Outcome
from gifdex.index.sources.base import Candidate
from gifdex.schemas.errors import WorkspaceError
from gifdex.schemas.files import commit_bytes, remove_unfinished

_SUFFIXES = {"GIF": ".gif", "WebP": ".webp", "PNG": ".png", "MP4": ".mp4", "WebM": ".webm"}
_FILE = re.compile(r"([0-9a-f]{64})\.(?:gif|webp|png|mp4|webm)")
_ENTRY = "[0-9a-f]" * 32 + ".json"
_MAX_ID, _MAX_TEXT = 200, 1000  # characters
_ABANDONED_SECONDS = 3600.0  # after which a file without an entry, or a temporary one, was left by a killed process
_DAY_SECONDS = 86400.0


@dataclass(frozen=True)
class InboxEntry:
    """One item of the inbox.

    `file` is its name in the folder, `uri` the address it was fetched from, `query` the sentence it was fetched for,
    and `fetched` when that was (ISO 8601, UTC).
    """

    id: str
    file: str
    uri: str
    source: str
    query: str
    fetched: str
    page_url: str | None = None
    title: str | None = None

    @property
    def sha256(self) -> str:
        """The SHA-256 of its bytes."""
        return self.file.partition(".")[0]

    @property
    def fetched_seconds(self) -> float:
        """When it was fetched, in seconds since 1970."""
        return datetime.fromisoformat(self.fetched).timestamp()

    @property
    def metadata(self) -> dict[str, str]:
        """Its metadata as an item of an index: where it came from."""
        kept = {"source": self.source, "fetched_from": self.uri, "fetched": self.fetched, "query": self.query}
        return kept | described(self.title, self.page_url)


def item_id(candidate: Candidate) -> str:
    """Return the id that a candidate has as an item: its source and its id there, percent-encoded."""
    name = "/".join(quote(part, safe="", errors="replace") for part in (candidate.source, candidate.id))
    return name if len(name) <= _MAX_ID else f"{name[:_MAX_ID]}-{sha256(name.encode()).hexdigest()[:16]}"


def described(title: str | None, page_url: str | None) -> dict[str, str]:
    """Return the metadata that a candidate's title and page give, as printable text."""
    given = {"title": title, "page_url": page_url}
    return {name: clean(value) for name, value in given.items() if value}


def clean(text: str) -> str:
    """Return text of an outside source without characters that cannot be printed or stored, and not too long."""
    return "".join(character if character.isprintable() else " " for character in text[:_MAX_TEXT])


@dataclass(frozen=True)
class Inbox:
    """A folder of fetched GIFs, each with an entry and its features."""

    folder: Path

    def find(self, candidate: Candidate) -> InboxEntry | None:
        """Return the entry of a candidate that was fetched before and still has its file."""
        return self._read(self._entry_path(item_id(candidate)))

    def add(self, candidate: Candidate, query: str, data: bytes, outcome: Outcome, cache: FeatureCache) -> None:
        """Keep a fetched GIF with its features; raises OSError. `cache` is one of `features`."""
        from gifdex.encoders.frames.decoders.base import format_of  # which imports Pillow

        key = item_id(candidate)
        entry = InboxEntry(
            key,
            f"{outcome.sha256}{_SUFFIXES[format_of(data)]}",
            clean(candidate.uri),
            clean(candidate.source),
            clean(query),
            datetime.now(UTC).isoformat("T", "seconds"),
            **described(candidate.title, candidate.page_url),
        )
        part, path = cache.part("", outcome.sha256), self.folder / entry.file
        if not part.exists():
            cache.commit(part, [outcome])
        if not path.exists():
            commit_bytes(path, data)
        commit_bytes(self._entry_path(key), (json.dumps(asdict(entry), indent=1) + "\n").encode())

    def read(self, entry: InboxEntry) -> bytes:
        """Return the bytes of an entry's file; raises OSError."""
        return (self.folder / entry.file).read_bytes()

    def features(self, fingerprint: str, dimensions: int) -> FeatureCache:
        """Return the features of the inbox's GIFs that were made in one way, one part file for each."""
        return FeatureCache(self.folder / "features", fingerprint, dimensions, "")

    def entries(self) -> list[InboxEntry]:
        """Return all entries that have a file, by id; entries that cannot be read are left out.

        Raises WorkspaceError if the folder does not exist: a disk that is not mounted is no empty inbox.
        """
        if not self.folder.is_dir():
            raise WorkspaceError(
                f"there is no inbox {self.folder}; expected a folder: create it, mount it, or name another"
            )
        found = [self._read(path) for path in self.folder.glob(_ENTRY)]
        return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.id)

    def prune(self, kept: Iterable[InboxEntry]) -> int:
        """Delete all entries but some, and files that no entry needs; return how many entries.

        Files of the last hour stay: they may belong to a process that has yet to write their entry.
        """
        before = time.time() - _ABANDONED_SECONDS
        ids = {entry.id for entry in kept}
        gone = [entry for entry in self.entries() if entry.id not in ids]
        for entry in gone:
            self._entry_path(entry.id).unlink(missing_ok=True)
        needed = {entry.sha256 for entry in self.entries()}
        given_up = {entry.sha256 for entry in gone}
        for path in [*self.folder.iterdir(), *self.folder.glob("features/*/*/*.parquet")]:
            key = path.name.partition(".")[0]
            is_ours = _FILE.fullmatch(path.name) or path.suffix == ".parquet"
            if is_ours and key not in needed and (key in given_up or _is_older(path, before)):
                path.unlink(missing_ok=True)
        remove_unfinished(self.folder, before)
        return len(gone)

    def _entry_path(self, key: str) -> Path:
        return self.folder / f"{sha256(key.encode()).hexdigest()[:32]}.json"

    def _read(self, path: Path) -> InboxEntry | None:
        try:
            entry = InboxEntry(**json.loads(path.read_bytes()))
            texts = (entry.id, entry.file, entry.uri, entry.source, entry.query, entry.fetched)
            whole = all(isinstance(text, str) for text in texts) and entry.fetched_seconds > 0
            good = whole and _FILE.fullmatch(entry.file) and path == self._entry_path(entry.id)
            return entry if good and (self.folder / entry.file).is_file() else None
        except (OSError, ValueError, TypeError, RecursionError):
            return None


def unexpired(
    entries: Iterable[InboxEntry], folder: Path, max_days: float | None, max_bytes: int | None
) -> list[InboxEntry]:
    """Return the entries that retention lets stay: those fetched in the last `max_days`, the newest `max_bytes`."""
    newest_first = sorted(entries, key=lambda entry: (entry.fetched_seconds, entry.id), reverse=True)
    if max_days is not None:
        oldest = time.time() - max_days * _DAY_SECONDS
        newest_first = [entry for entry in newest_first if entry.fetched_seconds >= oldest]
    if max_bytes is None:
        return newest_first
    stay, total, counted = [], 0, set[str]()
    for entry in newest_first:
        if entry.file not in counted:
            counted.add(entry.file)
            total += _size(folder / entry.file)
        if total > max_bytes:
            break
        stay.append(entry)
    return stay


def features_of(cache: FeatureCache, keys: Iterable[str]) -> dict[str, Outcome]:
    """Return the outcomes with features that an inbox's cache has for some SHA-256s."""
    found: dict[str, Outcome] = {}
    for key in keys:
        part = cache.part("", key)
        if not part.is_file():
            continue
        try:
            outcomes = cache.outcomes_in(part)
        except (OSError, WorkspaceError, pa.ArrowException):
            continue
        found |= {outcome.sha256: outcome for outcome in outcomes if outcome.sha256 == key}
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # deleted in the meantime
        return 0


def _is_older(path: Path, before: float) -> bool:
    try:
        return path.is_file() and path.stat().st_mtime < before
    except OSError:  # another process was here first
        return False
