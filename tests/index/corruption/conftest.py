"""Versions to damage, and ways to let a manifest agree with the damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gifdex.encoders.base import FloatArray
from gifdex.index import artifact
from gifdex.schemas.manifest import MANIFEST_NAME

Rewriter = Callable[[Path, Callable[[dict[str, Any]], object]], None]


@pytest.fixture(scope="session")
def version(reduced_version: Path) -> Path:
    """One that has every kind of file."""
    return reduced_version


@pytest.fixture(scope="session")
def other_version(
    tmp_path_factory: pytest.TempPathFactory, make_version: Callable[..., Path], spectral: Callable[..., FloatArray]
) -> Path:
    """A version of the same counts as `version`, of other vectors and another projection."""
    folder = tmp_path_factory.mktemp("other") / "00000000000000cc"
    return make_version(folder, spectral(4000, seed=77), (2500, 1500), seed=77, hnsw=True)


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
    """Return a function that lets the manifest say what a file of the version now is: `vouch_for(folder, name)`."""

    def vouch(copy: Path, name: str) -> None:
        facts = artifact.file_facts(copy, [name])[name]
        rewrite(copy, lambda manifest: manifest["files"].update({name: vars(facts)}))

    return vouch
