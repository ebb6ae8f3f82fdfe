"""How long work tells how far it is, and what someone should know before it goes on."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told what a long run does; may be called from other threads than the one that runs it."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Take note that `done` of `total` of a stage are finished."""

    def notice(self, sentence: str) -> None:
        """Take note of what someone should know before it happens."""


class QuietProgress:
    """A Progress that says nothing."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Say nothing."""

    def notice(self, sentence: str) -> None:
        """Say nothing."""


QUIET = QuietProgress()
