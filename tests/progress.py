"""A Progress that records its calls, and one that passes them to a function."""

from __future__ import annotations

from collections.abc import Callable

from gifdex.schemas.progress import QuietProgress


class RecordedProgress(QuietProgress):
    """Records every stage and notice in order."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, int]] = []
        self.notices: list[str] = []

    def stage(self, name: str, done: int, total: int) -> None:
        self.stages.append((name, done, total))

    def notice(self, sentence: str) -> None:
        self.notices.append(sentence)


class CallbackProgress(QuietProgress):
    """Calls a function with every stage."""

    def __init__(self, function: Callable[[str, int, int], None]) -> None:
        self._function = function

    def stage(self, name: str, done: int, total: int) -> None:
        self._function(name, done, total)
