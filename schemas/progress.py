"""How long-running work reports progress and notices."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives progress and notices of a run, possibly from several threads."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Report that `done` of `total` units of a stage are finished."""

    def notice(self, sentence: str) -> None:
        """Report something that the user should know before it happens."""


class QuietProgress:
    """A Progress that ignores everything."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Ignore it."""

    def notice(self, sentence: str) -> None:
        """Ignore it."""


QUIET = QuietProgress()
