"""How long work tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told how far a stage is; may be called from another thread than the one that runs the stage."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note that `done` of `total` of the stage are finished."""


def silent(stage: str, done: int, total: int) -> None:
    """A Progress that says nothing."""


class Notice(Protocol):
    """Told what someone should know before it happens, in one sentence."""

    def __call__(self, sentence: str) -> None:
        """Take note."""


def silence(sentence: str) -> None:
    """A Notice that says nothing."""
