"""How long work tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told how far a stage is; may be called from another thread than the one that runs the stage."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note that `done` of `total` of the stage are finished."""


def silent(stage: str, done: int, total: int) -> None:
    """A Progress that says nothing."""
