"""The inbox: a folder of GIFs that were fetched from outside sources, which the next build takes in.

Several processes may write to one folder at a time. Files are renamed into place whole, and an item's entry is the last
of its files, so it never refers to one that is missing. docs/outside-sources.md specifies them.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import pyarrow as pa

from gifdex.encoders.feature_cache import FeatureCache, Outcome
from gifdex.index.sources.base import Candidate
from gifdex.schemas.errors import WorkspaceError
from gifdex.schemas.files import commit_bytes, remove_unfinished

_SUFFIXES = {"GIF": ".gif", "WebP": ".webp", "PNG": ".png", "MP4": ".mp4", "WebM": ".webm"}
MARKER = "gifdex-inbox.json"  # tells that a folder is an inbox; files are deleted in no other
_FILE = re.compile(r"([0-9a-f]{64})\.(?:gif|webp|png|mp4|webm)")
_PART = re.compile(r"([0-9a-f]{64})\.parquet")
_ENTRY = "[0-9a-f]" * 32 + ".json"
_MAX_ID, _MAX_TEXT = 200, 1000  # characters
_MAX_ENTRY_BYTES = 64 << 10
_ABANDONED_SECONDS = 3600.0  # after which a file without an entry, or a temporary one, was left by a killed process
_DAY_SECONDS = 86400.0
_PREFIX = "outside_"  # of the names of metadata, so that a corpus's own columns are others


@dataclass(frozen=True)
class InboxEntry:
    """One item of the inbox.

    `file` is its name in the folder, `uri` the address it was fetched from without its secrets, `query` the sentence
    it was fetched for, and `fetched` when that was (ISO 8601, UTC).
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
        kept = {"source": self.source, "uri": self.uri, "fetched": self.fetched, "query": self.query}
        return {_PREFIX + name: value for name, value in kept.items()} | metadata_of(self.title, self.page_url)


def item_id(candidate: Candidate) -> str:
    """Return the id that a candidate has as an item: its source and its id there, percent-encoded."""
    name = "/".join(_quoted(part) for part in (candidate.source, candidate.id))
    return name if len(name) <= _MAX_ID else f"{name[:_MAX_ID]}-{sha256(name.encode()).hexdigest()[:16]}"


def _quoted(part: str) -> str:
    """Return a part of an id percent-encoded, also if it is . or .., which mean other folders in a path."""
    return part.replace(".", "%2E") if part in (".", "..") else quote(part, safe="", errors="replace")


def metadata_of(title: str | None, page_url: str | None) -> dict[str, str]:
    """Return the metadata that a candidate's title and page give, as printable text."""
    given = {"title": title, "page_url": page_url}
    return {_PREFIX + name: clean(value) for name, value in given.items() if value}


def without_secrets(uri: str) -> str:
    """Return a URI without user, password, query and fragment, which may hold keys and signatures."""
    try:
        parts = urlsplit(uri)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return re.split("[?#]", uri, maxsplit=1)[0].rpartition("@")[2]


def clean(text: str) -> str:
    """Return text of an outside source without characters that cannot be printed or stored, and not too long."""
    return "".join(character if character.isprintable() else " " for character in text[:_MAX_TEXT])


@dataclass(frozen=True)
class Inbox:
    """A folder of fetched GIFs, each with an entry and its features."""

    folder: Path

    def find(self, candidate: Candidate) -> InboxEntry | None:
        """Return the entry of a candidate that was fetched before and still has its file."""
        entry = self._read(self._entry_path(item_id(candidate)))
        return entry if entry is not None and self._has_file(entry) else None

    def add(self, candidate: Candidate, query: str, data: bytes, outcome: Outcome, cache: FeatureCache) -> None:
        """Keep a fetched GIF with its features; raises OSError. `cache` is one of `features`."""
        from gifdex.encoders.frames.decoders.base import format_of  # which imports Pillow

        key = item_id(candidate)
        entry = InboxEntry(
            key,
            f"{outcome.sha256}{_SUFFIXES[format_of(data)]}",
            clean(without_secrets(candidate.uri)),
            clean(candidate.source),
            clean(query),
            datetime.now(UTC).isoformat("T", "seconds"),
            candidate.page_url and clean(candidate.page_url),
            candidate.title and clean(candidate.title),
        )
        part, path = cache.part("", outcome.sha256), self.folder / entry.file
        if not (marker := self.folder / MARKER).exists():
            commit_bytes(marker, b'{"format": 1}\n')
        for each in (part, path):  # so that no other process takes them for abandoned
            with suppress(FileNotFoundError):
                os.utime(each)
        if not part.exists():
            cache.commit(part, [outcome])
        if not path.exists():
            commit_bytes(path, data)
        commit_bytes(self._entry_path(key), (json.dumps(asdict(entry), indent=1) + "\n").encode())
        if not path.exists():  # deleted by another process just before the entry was there
            commit_bytes(path, data)

    def read(self, entry: InboxEntry) -> bytes:
        """Return the bytes of an entry's file; raises OSError."""
        return (self.folder / entry.file).read_bytes()

    def features(self, fingerprint: str, dimensions: int) -> FeatureCache:
        """Return the features of the inbox's GIFs that were made in one way, one part file for each."""
        return FeatureCache(self.folder / "features", fingerprint, dimensions, "")

    def entries(self) -> list[InboxEntry]:
        """Return all entries that have a file, by id; entries that cannot be read are left out.

        Raises WorkspaceError if the folder does not exist: a wrong path is no empty inbox.
        """
        if not self.folder.is_dir():
            raise WorkspaceError(
                f"there is no inbox {self.folder}; expected a folder: create it, mount it, or name another"
            )
        return [entry for entry in self._all()[0] if self._has_file(entry)]

    def prune(self, max_days: float | None, max_bytes: int | None, needed: Iterable[str] = ()) -> int:
        """Delete the entries that retention does not let stay, and files of no entry; return how many entries.

        Entries of the ids `needed` stay. Files of the last hour stay: they may belong to a process that has yet to
        write their entry. While any entry cannot be read, all files stay, as it may need them. A folder that no search
        has written to is left alone.
        """
        if not (self.folder / MARKER).is_file():
            return 0
        found, before = self._all()[0], time.time() - _ABANDONED_SECONDS
        stay = {entry.id for entry in unexpired(found, self.folder, max_days, max_bytes)} | set(needed)
        gone = [entry for entry in found if entry.id not in stay]
        for entry in gone:
            self._entry_path(entry.id).unlink(missing_ok=True)
        left, unreadable = self._all()
        if not unreadable:
            self._delete_files({entry.sha256 for entry in left}, before)
        remove_unfinished(self.folder, before)
        return len(gone)

    def _delete_files(self, keys: set[str], before: float) -> None:
        """Delete GIFs and features of other SHA-256s than these that were last written before a time."""
        for pattern, paths in ((_FILE, self.folder.iterdir()), (_PART, self.folder.glob("features/*/*/*.parquet"))):
            for path in paths:
                name = pattern.fullmatch(path.name)
                if name is not None and name[1] not in keys and _is_older(path, before):
                    path.unlink(missing_ok=True)

    def _entry_path(self, key: str) -> Path:
        return self.folder / f"{sha256(key.encode()).hexdigest()[:32]}.json"

    def _has_file(self, entry: InboxEntry) -> bool:
        return (self.folder / entry.file).is_file()

    def _all(self) -> tuple[list[InboxEntry], int]:
        """Return all entries that can be read, by id, and how many cannot."""
        found = [self._read(path) for path in self.folder.glob(_ENTRY)]
        entries = sorted((entry for entry in found if entry is not None), key=lambda entry: entry.id)
        return entries, len(found) - len(entries)

    def _read(self, path: Path) -> InboxEntry | None:
        """Return the entry in a file, or None if it is missing or is not an entry."""
        try:
            info = path.stat()
            if not stat.S_ISREG(info.st_mode) or info.st_size > _MAX_ENTRY_BYTES:
                return None
            entry = _parsed(json.loads(path.read_bytes()))
            if entry.fetched_seconds > (now := time.time()):  # a wrong clock must not keep it for ever
                when = datetime.fromtimestamp(min(info.st_mtime, now), UTC)
                entry = replace(entry, fetched=when.isoformat("T", "seconds"))
            good = entry.fetched_seconds > 0 and _FILE.fullmatch(entry.file) and path == self._entry_path(entry.id)
            return entry if good else None
        except (OSError, ValueError, TypeError, OverflowError, RecursionError):
            return None


def _parsed(found: dict[str, Any]) -> InboxEntry:
    """Return an entry with clean texts; keys of newer versions are ignored. Raises TypeError or ValueError."""
    names = [field.name for field in fields(InboxEntry)]
    texts = {name: found[name] for name in names if isinstance(found, dict) and found.get(name) is not None}
    if not all(isinstance(text, str) for text in texts.values()):
        raise TypeError("all that an entry has is text")
    entry = InboxEntry(**{name: text if name == "id" else clean(text) for name, text in texts.items()})
    entry.id.encode()
    return entry


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
        except (OSError, ValueError, WorkspaceError, pa.ArrowException):
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
