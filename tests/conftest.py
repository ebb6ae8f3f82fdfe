"""Fixtures that several folders of tests use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Corpora for development: GIFDEX_TEST_DATA, or a folder beside the clone.
DATA = Path(os.environ.get("GIFDEX_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of development corpora, which a newcomer's clone does not have."""
    if not DATA.is_dir():
        pytest.skip(f"the development corpora are not at {DATA}: set GIFDEX_TEST_DATA")
    return DATA


GifMaker = Callable[..., Path]


@pytest.fixture
def make_gif(tmp_path: Path) -> GifMaker:
    """Return a function that writes a real GIF: `make_gif(path, seed=0, frames=4, delay=100, size=(48, 32))`."""

    def make(
        path: Path | str, seed: int = 0, frames: int = 4, delay: int | list[int] = 100, size: tuple[int, int] = (48, 32)
    ) -> Path:
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(seed)
        # A coarse random pattern that moves: compresses like a GIF, and no two frames are the same.
        coarse = random.integers(0, 256, (4, 6, 3), np.uint8)
        images = [
            Image.fromarray(np.roll(coarse, shift, axis=1)).resize(size, Image.Resampling.NEAREST)
            for shift in range(frames)
        ]
        images[0].save(target, save_all=True, append_images=images[1:], duration=delay, loop=0)
        return target

    return make
