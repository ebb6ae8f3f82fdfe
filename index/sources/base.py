"""What an outside source is: it answers a sentence with candidates, GIFs that may be downloaded and ranked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Candidate:
    """One GIF of an outside source.

    `id` is the source's own, so it is unique only together with `source`, the source's name. `uri` is the file to
    download. `page_url` and `title` describe it where the source says so. Nothing of it was checked: the id may hold
    any characters, and the URI any address (see `downloads`).
    """

    id: str
    uri: str
    source: str
    page_url: str | None = None
    title: str | None = None


@runtime_checkable
class CandidateSource(Protocol):
    """An outside service that finds GIFs for a sentence."""

    @property
    def name(self) -> str:
        """A short name for results and messages, such as giphy."""
        ...

    @property
    def fingerprint(self) -> str:
        """Everything that shapes the answers except the query: a cache keeps answers by it. It holds no secret."""
        ...

    def candidates(self, sentence: str, count: int) -> list[Candidate]:
        """Return up to `count` distinct candidates, best first.

        Raises SourceError if the service cannot be asked, refuses, or answers nonsense.
        """
        ...
