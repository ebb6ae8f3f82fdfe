"""Speeds are measured only on request, and no version contains them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from click.testing import CliRunner

import gifdex
from gifdex.encoders.base import FloatArray
from gifdex.index.engines import registry
from gifdex.index.lookup import Index
from gifdex.index.speed import queries_per_second
from gifdex.jobs.inspect import command


def test_every_engine_of_every_field_has_a_speed(reduced: Index) -> None:
    found = queries_per_second(reduced)
    assert set(found) == {"image"}
    assert set(found["image"]) == set(registry.names())
    assert all(isinstance(speed, float) and speed > 0 for speed in found["image"].values())


def test_a_field_without_engines_has_none(
    tmp_path: Path, make_version: Callable[..., Path], clustered: Callable[..., FloatArray]
) -> None:
    features = clustered(600, 8).astype(np.float16)
    captions = clustered(600, 16, seed=3)
    captions[:590] = np.nan
    fields = {"features": features, "caption": captions}
    found = queries_per_second(gifdex.open(make_version(tmp_path / "00000000000000aa", clustered(600), fields=fields)))
    assert {name: set(engines) for name, engines in found.items()} == {
        "image": {"annoy", "scan"},
        "caption": {"annoy", "scan"},
    }
    assert min(speed for engines in found.values() for speed in engines.values()) > 0


def test_inspect_measures_speeds_on_request(reduced_version: Path) -> None:
    before = (reduced_version / "manifest.json").read_bytes()
    runner = CliRunner()
    plain, measured = (runner.invoke(command, [str(reduced_version), "--json", *more]) for more in ([], ["--measure"]))
    assert (plain.exit_code, measured.exit_code) == (0, 0), measured.output
    assert "queries_per_second" not in json.loads(plain.stdout)
    found = json.loads(measured.stdout)["queries_per_second"]
    assert set(found["image"]) == set(registry.names())
    assert min(found["image"].values()) > 0
    for_people = runner.invoke(command, [str(reduced_version), "--measure"])
    assert for_people.exit_code == 0
    assert " ".join(for_people.stdout.split()).count("queries/s") == len(registry.names())
    assert (reduced_version / "manifest.json").read_bytes() == before
