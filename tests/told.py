"""A Progress that remembers what it was told, and one that calls a function."""

from __future__ import annotations

from collections.abc import Callable

from gifdex.schemas.progress import QuietProgress


class Told(QuietProgress):
    """Keeps every stage and notice in the order that it came."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, int]] = []
        self.notices: list[str] = []

    def stage(self, name: str, done: int, total: int) -> None:
        self.stages.append((name, done, total))

    def notice(self, sentence: str) -> None:
        self.notices.append(sentence)


class Calls(QuietProgress):
    """Calls a function with every stage that it is told of."""

    def __init__(self, function: Callable[[str, int, int], None]) -> None:
        self._function = function

    def stage(self, name: str, done: int, total: int) -> None:
        self._function(name, done, total)
