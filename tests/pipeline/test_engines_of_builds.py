"""Builds with engines in another order or without engines, and leftovers of an interrupted build."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gifdex
from gifdex.index.build import Engines
from gifdex.index.engines.names import ANNOY, SCAN
from tests.pipeline.conftest import GifWriter, Runner

Small = tuple[Path, Path, str]


def settings_of(engines: Engines) -> Any:
    from gifdex.pipeline.settings import IndexSettings

    return IndexSettings(engines=engines)


def read(version: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in version.iterdir()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, write_gif: GifWriter, run: Runner) -> Small:
    """A corpus of three GIFs, its workspace, and the build id."""
    root = tmp_path_factory.mktemp("small")
    for number in range(3):
        write_gif(root / "corpus" / f"g{number}.gif", seed=number, frames=2)
    summary = run(root / "corpus", root / "ws")
    return root / "corpus", root / "ws", summary.build_id


def test_engines_in_another_order_give_another_build(small: Small, tmp_path: Path, run: Runner) -> None:
    corpus, workspace, _ = small
    shutil.copytree(workspace, tmp_path / "ws")
    orders: tuple[Engines, Engines] = ({ANNOY: {}, SCAN: {}}, {SCAN: {}, ANNOY: {}})
    first, second = (run(corpus, tmp_path / "ws", index=settings_of(engines)).build_id for engines in orders)
    store = tmp_path / "ws" / "index"
    assert (read(store / first) == read(store / second)) == (first == second)


def test_an_index_without_engines_is_scanned(small: Small, tmp_path: Path, run: Runner) -> None:
    corpus, workspace, _ = small
    shutil.copytree(workspace, tmp_path / "ws")
    summary = run(corpus, tmp_path / "ws", index=settings_of({}))
    assert (summary.engine, summary.engine_recall) == ("exact", 1.0)
    index = gifdex.open(tmp_path / "ws" / "index")
    assert len(index.search(np.ones(index.dimensions))) == 3


def test_leftovers_of_an_interrupted_build_change_no_byte(small: Small, tmp_path: Path, run: Runner) -> None:
    corpus, workspace, build_id = small
    shutil.copytree(workspace, tmp_path / "ws")
    version = tmp_path / "ws" / "index" / build_id
    (version / "manifest.json").unlink()
    for name in ("caption-00000.vectors.npy", "image-00001.vectors.npy", "image-00000.rows.arrow", ".tmp-items.arrow"):
        (version / name).write_bytes((version / "image-00000.vectors.npy").read_bytes())
    (version / "image.reduction.safetensors").write_bytes(b"half of a reduction")
    (version / "image-00000.ann").write_bytes(b"half of the trees")
    assert run(corpus, tmp_path / "ws").build_id == build_id
    assert read(version) == read(workspace / "index" / build_id)
