"""Small GIFs, and a workspace built from them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from gifdex.index.store import HISTORY_NAME
from tests.pipeline.nights import first_night, nights  # noqa: F401  # fixtures
from tests.pipeline.small_models import small_models  # noqa: F401  # fixture

if TYPE_CHECKING:
    from gifdex.pipeline.build import BuildSummary

GifWriter = Callable[..., Path]


@pytest.fixture(scope="session")
def write_gif() -> GifWriter:
    """Like make_gif, but writes to any path and suits fixtures of any scope: `write_gif(path, seed=0, frames=4)`."""

    def write(path: Path, seed: int = 0, frames: int = 4) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
        images = [
            Image.fromarray(np.roll(coarse, k, axis=1)).resize((48, 32), Image.Resampling.NEAREST)
            for k in range(frames)
        ]
        images[0].save(path, save_all=True, append_images=images[1:], duration=100, loop=0)
        return path

    return write


@dataclass(frozen=True)
class Built:
    """A corpus, a workspace built from it once, and that build's summary. Do not change it: use `copy`."""

    corpus: Path
    workspace: Path
    summary: BuildSummary

    def copy(self, to: Path) -> Built:
        """Copy both to another place; files keep their times."""
        shutil.copytree(self.corpus, to / "corpus", symlinks=True)
        return Built(to / "corpus", self.copy_workspace(to), self.summary)

    def copy_workspace(self, to: Path) -> Path:
        return Path(shutil.copytree(self.workspace, to / "workspace"))


Runner = Callable[..., "BuildSummary"]
Contents = Callable[[Path], dict[str, bytes]]


@pytest.fixture(scope="session")
def run() -> Runner:
    """Return a function that builds: `run(corpus, workspace, **settings)`."""
    from gifdex.pipeline.build import build  # imported here because Beam takes seconds
    from gifdex.pipeline.settings import BuildSettings

    def run_build(corpus: Path | str, workspace: Path, **changes: Any) -> BuildSummary:
        return build(BuildSettings(str(corpus), workspace, **changes))

    return run_build


@pytest.fixture(scope="session")
def contents() -> Contents:
    """Return a function that reads a folder: `contents(folder)` gives bytes by file, histories without times."""

    def read(folder: Path) -> dict[str, bytes]:
        found = {
            str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
        }
        for name in (name for name in found if name.endswith(HISTORY_NAME)):
            found[name] = re.sub(rb'"at": "[^"]*"', b"", found[name])
        return found

    return read


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, write_gif: GifWriter, run: Runner) -> Built:
    """A corpus of twelve GIFs, four broken GIFs and one file to ignore, and its workspace."""
    root = tmp_path_factory.mktemp("built")
    corpus = root / "corpus"
    for number in range(12):
        write_gif(corpus / f"g{number:02d}.gif", seed=number, frames=1 + number % 5)
    whole = (corpus / "g01.gif").read_bytes()
    (corpus / "broken").mkdir()
    (corpus / "broken" / "truncated.gif").write_bytes(whole[: len(whole) // 2])
    (corpus / "broken" / "text.gif").write_text("<html>not found</html>")
    (corpus / "broken" / "empty.gif").write_bytes(b"")
    (corpus / "broken" / "gone.gif").symlink_to("nowhere.gif")
    (corpus / "broken" / "loop").symlink_to(corpus)
    (corpus / "notes.txt").write_text("about the corpus")
    return Built(corpus, root / "workspace", run(corpus, root / "workspace"))
