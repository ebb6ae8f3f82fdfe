"""Small models in the published layout of skip-thoughts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]

WORDS = [
    "eos",
    "UNK",
    "the",
    "The",
    "cat",
    "caf\u00e9",
    "plays",
    "piano",
    ".",
    ",",
    "do",
    "n't",
    "``",
    "''",
    "Mr.",
    "Mr",
]
DIMENSIONS, UNI, BI = 5, 6, 3


def gru_arrays(random: np.random.Generator, prefix: str, units: int) -> dict[str, Array]:
    shapes = {
        "U": (units, 2 * units),
        "W": (DIMENSIONS, 2 * units),
        "b": (2 * units,),
        "Ux": (units, units),
        "Wx": (DIMENSIONS, units),
        "bx": (units,),
    }
    return {f"{prefix}_{name}": random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def words() -> list[str]:
    """The words of the model's dictionary, in its order."""
    return WORDS


@pytest.fixture(scope="session")
def models() -> Callable[..., dict[str, dict[str, Array]]]:
    """Return a function that draws the arrays of both models, keyed by file name: `models(seed=0)`."""

    def draw(seed: int = 0) -> dict[str, dict[str, Array]]:
        random = np.random.default_rng(seed)
        decoder = {"decoder_U": random.standard_normal((2, 2)), "Wemb": np.array([{"an": "object"}], object)}
        return {
            "uni_skip.npz": {**gru_arrays(random, "encoder", UNI), **decoder},
            "bi_skip.npz": {**gru_arrays(random, "encoder", BI), **gru_arrays(random, "encoder_r", BI), **decoder},
        }

    return draw


@pytest.fixture(scope="session")
def tables() -> Callable[..., dict[str, Array]]:
    """Return a function that draws both word tables, keyed by file name: `tables(seed=1)`."""

    def draw(seed: int = 1) -> dict[str, Array]:
        random = np.random.default_rng(seed)
        shape = (len(WORDS), DIMENSIONS)
        return {name: random.standard_normal(shape).astype(np.float32) for name in ("utable.npy", "btable.npy")}

    return draw


@pytest.fixture(scope="session")
def write(
    models: Callable[..., dict[str, dict[str, Array]]], tables: Callable[..., dict[str, Array]]
) -> Callable[..., Path]:
    """Return a function that writes a small model like the published one: tables are object arrays of rows."""

    def write_model(folder: Path, seed: int = 0) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / "dictionary.txt").write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
        for name, arrays in models(seed).items():
            np.savez(folder / name, **arrays)  # type: ignore[arg-type]
        for name, table in tables(seed + 1).items():
            rows = np.empty(len(table), object)
            for place, row in enumerate(table):
                rows[place] = row
            np.save(folder / name, rows, allow_pickle=True)
        return folder

    return write_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, write: Callable[..., Path]) -> Path:
    return write(tmp_path_factory.mktemp("skip") / "models")


@pytest.fixture
def own(tmp_path: Path, write: Callable[..., Path]) -> Path:
    """A folder that the test may break."""
    return write(tmp_path / "models")
