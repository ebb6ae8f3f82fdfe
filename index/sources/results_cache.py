"""Answers of outside sources, kept in a folder for a while: one JSON file for each source, query and count."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gifdex.index.sources.base import Candidate, CandidateSource
from gifdex.schemas.files import commit_bytes, remove_unfinished

_log = logging.getLogger(__name__)
_FORMAT = 1
_ABANDONED_SECONDS = 3600.0  # a temporary file that is older was left by a killed process


@dataclass(frozen=True)
class ResultsCache:
    """A folder of answers, each kept for `max_age_seconds`; the oldest go when there are more than `max_files`.

    Several processes may share it. A file that cannot be read counts as absent; one that cannot be written is logged,
    and no error.
    """

    folder: Path
    max_age_seconds: float = 86400.0
    max_files: int = 10_000

    def get(self, source: str, query: str, count: int) -> list[Candidate] | None:
        """Return what `put` was given for the same source, query and count, or None."""
        try:
            kept = json.loads(self._path(source, query, count).read_bytes())
            age = time.time() - kept["time"]
            if _key(source, query, count) != kept["key"] or not 0 <= age <= self.max_age_seconds:
                return None
            return [_candidate(each) for each in kept["candidates"]]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def put(self, source: str, query: str, count: int, candidates: list[Candidate]) -> None:
        """Keep an answer, whole or not at all."""
        kept = {
            "key": _key(source, query, count),
            "time": time.time(),
            "candidates": [dataclasses.asdict(each) for each in candidates],
        }
        try:
            commit_bytes(self._path(source, query, count), json.dumps(kept, indent=1).encode())
            self._prune()
        except OSError as err:
            _log.warning("an answer of %s is not kept in %s: %s", source, self.folder, err)

    def _path(self, source: str, query: str, count: int) -> Path:
        digest = hashlib.sha256(json.dumps(_key(source, query, count)).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.json"

    def _prune(self) -> None:
        remove_unfinished(self.folder, time.time() - _ABANDONED_SECONDS)
        written: list[tuple[float, Path]] = []
        for path in self.folder.glob("[!.]*.json"):
            try:
                written.append((path.stat().st_mtime, path))
            except FileNotFoundError:  # another process was here first
                continue
        for _, path in sorted(written)[: max(0, len(written) - self.max_files)]:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class CachedSource:
    """A source whose answers are kept in a cache; errors are not."""

    source: CandidateSource
    cache: ResultsCache

    @property
    def name(self) -> str:
        """The source's name."""
        return self.source.name

    @property
    def fingerprint(self) -> str:
        """The source's fingerprint."""
        return self.source.fingerprint

    def candidates(self, sentence: str, count: int) -> list[Candidate]:
        """Return the kept answer, or ask the source and keep its answer; raises SourceError."""
        kept = self.cache.get(self.fingerprint, sentence, count)
        if kept is None:
            kept = self.source.candidates(sentence, count)
            self.cache.put(self.fingerprint, sentence, count, kept)
        return kept


def _key(source: str, query: str, count: int) -> list[Any]:
    return [_FORMAT, source, query, count]


def _candidate(fields: dict[str, Any]) -> Candidate:
    """Return a kept candidate; raises TypeError or KeyError if it is none."""
    candidate = Candidate(**fields)
    if not all(isinstance(each, str) for each in (candidate.id, candidate.uri, candidate.source)):
        raise TypeError("a candidate's id, uri and source are text")
    return candidate
