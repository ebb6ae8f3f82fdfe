"""Versions to damage, and functions that make a manifest agree with the damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gifdex.encoders.base import FloatArray
from gifdex.index import artifact
from gifdex.index.field_records import CAPTION, FEATURES
from gifdex.schemas.manifest import MANIFEST_NAME

Rewriter = Callable[[Path, Callable[[dict[str, Any]], object]], None]


ITEMS, SHARDS = 4000, (2500, 1500)
DIMENSIONS = 8  # of the features


@pytest.fixture(scope="session")
def make_damageable(make_version: Callable[..., Path], spectral: Callable[..., FloatArray]) -> Callable[..., Path]:
    """Return a function that makes a version with every kind of file: `make(folder, seed)`.

    Another seed gives the same counts, but other vectors, and other items for their rows.
    """

    def make(folder: Path, seed: int) -> Path:
        vectors, random = spectral(ITEMS, seed=seed), np.random.default_rng(seed)
        vectors[1000 + seed : 1040 + seed] = vectors[:40]
        vectors[3000 + seed : 3030 + seed] = vectors[2600:2630]
        captions = np.full_like(vectors, np.nan)
        captions[100 + seed : 130 + seed] = spectral(30, seed=seed + 1)
        captions[3000 + seed : 3010 + seed] = spectral(10, seed=seed + 2)
        features = random.uniform(-3, 3, (ITEMS, DIMENSIONS)).astype(np.float16)
        features[10 + seed : 20 + seed] = np.nan
        return make_version(
            folder, vectors, SHARDS, seed=seed, hnsw=True, fields={CAPTION: captions, FEATURES: features}
        )

    return make


@pytest.fixture(scope="session")
def version(tmp_path_factory: pytest.TempPathFactory, make_damageable: Callable[..., Path]) -> Path:
    """A version that has every kind of file."""
    return make_damageable(tmp_path_factory.mktemp("damaged") / "00000000000000dd", 0)


@pytest.fixture(scope="session")
def other_version(tmp_path_factory: pytest.TempPathFactory, make_damageable: Callable[..., Path]) -> Path:
    """A version with the same counts as `version`, but other vectors and another projection."""
    return make_damageable(tmp_path_factory.mktemp("other") / "00000000000000cc", 77)


@pytest.fixture(scope="session")
def rewrite() -> Rewriter:
    """Return a function that changes a version's manifest: `rewrite(folder, change)`."""

    def write(copy: Path, change: Callable[[dict[str, Any]], object]) -> None:
        manifest = json.loads((copy / MANIFEST_NAME).read_text())
        change(manifest)
        (copy / MANIFEST_NAME).write_text(json.dumps(manifest))

    return write


@pytest.fixture(scope="session")
def vouch_for(rewrite: Rewriter) -> Callable[[Path, str], None]:
    """Return a function that records a file's current size and hash in the manifest: `vouch_for(folder, name)`."""

    def vouch(copy: Path, name: str) -> None:
        record = artifact.file_records(copy, [name])[name]
        rewrite(copy, lambda manifest: manifest["files"].update({name: vars(record)}))

    return vouch
