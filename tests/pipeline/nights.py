"""A corpus and its nightly runs, for several test files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gifdex.index import store
from gifdex.pipeline.nightly import NightlySummary, nightly
from gifdex.pipeline.settings import BuildSettings, GateSettings, NightlySettings
from gifdex.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from tests.pipeline.conftest import GifWriter

GIFS = 8


class Nights:
    """A corpus with a catalog file, and its nightly runs."""

    def __init__(self, root: Path, write_gif: GifWriter) -> None:
        self.root, self._write = root, write_gif
        self.rows: dict[str, dict[str, str]] = {}
        for number in range(GIFS):
            self.add(f"g{number}", number)

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root / "ws")

    @property
    def store(self) -> Path:
        return self.workspace.store

    def gif(self, name: str) -> Path:
        return self.root / "gifs" / f"{name}.gif"

    def add(self, name: str, seed: int) -> None:
        self._write(self.gif(name), seed=seed, frames=2)
        self.rows[name] = {"id": name, "uri": str(self.gif(name)), "caption": f"pattern {seed}"}

    def remove(self, name: str) -> None:
        self.gif(name).unlink()
        del self.rows[name]

    def move(self, name: str, to: str) -> None:
        self.gif(name).rename(self.gif(to))
        self.rows[to] = self.rows.pop(name) | {"id": to, "uri": str(self.gif(to))}

    def settings(
        self, keep: int = 3, force: bool = False, gate: Any = None, push: str | None = None, **changes: Any
    ) -> NightlySettings:
        catalog = self.root / "catalog.jsonl"
        catalog.write_text("".join(json.dumps(row) + "\n" for row in self.rows.values()))
        build = BuildSettings(str(catalog), self.workspace.root, **changes)
        return NightlySettings(build, GateSettings(**(gate or {})), keep, push=push, force=force)

    def run(self, **changes: Any) -> NightlySummary:
        return nightly(self.settings(**changes))

    def backdate(self) -> None:
        """Date every publication far back."""
        path = self.store / store.HISTORY_NAME
        rows = [json.loads(line) | {"at": "2020-01-01T00:00:00+00:00"} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def first_night(tmp_path_factory: pytest.TempPathFactory, write_gif: GifWriter) -> Nights:
    """A first run, published. Do not change it: use `nights`."""
    nights = Nights(tmp_path_factory.mktemp("nights"), write_gif)
    assert nights.run().outcome == "published"
    return nights


@pytest.fixture
def nights(first_night: Nights, tmp_path: Path, write_gif: GifWriter) -> Iterator[Nights]:
    """The first night in its original place, so that URIs and times stay the same; restored after each test."""
    kept = tmp_path / "kept"
    shutil.copytree(first_night.root, kept, symlinks=True)
    copy = Nights.__new__(Nights)
    copy.root, copy._write = first_night.root, write_gif
    copy.rows = {name: dict(row) for name, row in first_night.rows.items()}
    yield copy
    shutil.rmtree(first_night.root)
    shutil.copytree(kept, first_night.root, symlinks=True)
