"""A new engine takes one module and one call: build, manifest, checks, search, tuning and speed then include it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import gifdex
from gifdex.encoders.base import FloatArray
from gifdex.index import artifact
from gifdex.index.engines import registry
from gifdex.index.evaluation import engine_recall
from gifdex.index.fields import SearchMethod
from gifdex.index.speed import queries_per_second
from gifdex.pipeline import gate
from gifdex.pipeline.run import RunSummary
from gifdex.pipeline.settings import GateSettings
from gifdex.schemas.errors import CorruptIndexError, QueryError
from gifdex.schemas.manifest import MANIFEST_NAME
from tests.index.toy_engine import NAME, ToyKind

SHARDS = (1700, 1300)


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    """The engine, registered for one test."""
    registry.register(ToyKind())
    try:
        yield
    finally:
        registry.unregister(NAME)


@pytest.fixture(scope="module")
def seen(spectral: Callable[..., FloatArray]) -> FloatArray:
    return spectral(3000)


@pytest.fixture
def version(tmp_path: Path, make_version: Callable[..., Path], seen: FloatArray) -> Path:
    return make_version(tmp_path / "00000000000000aa", seen, SHARDS, engines={NAME: {}}, sentences=seen[::50])


def test_it_is_built_verified_opened_and_searched(version: Path, spectral: Callable[..., FloatArray]) -> None:
    manifest = artifact.verify(version)
    image = manifest.fields["image"]
    assert set(image.engines) == {"annoy", "scan", NAME}
    assert {"image-00000.toy.npy", "image-00001.toy.npy"} <= set(manifest.files)
    assert [shard.engines[NAME] for shard in image.shards] == ["image-00000.toy.npy", "image-00001.toy.npy"]
    toy = image.engines[NAME]
    assert image.reduction is not None
    assert (toy.library, toy.metric, toy.dimensions) == ("numpy", "toy", image.reduction.dimensions)
    assert toy.recall is not None
    assert toy.recall >= 0.95
    assert image.engine == NAME  # the registry considers it first
    index = gifdex.open(version, verify=True)
    assert index.engine == NAME
    queries = spectral(60, seed=5)
    exact, found = (index.search(queries, 10, **how) for how in ({"exact": True}, {"engine": NAME}))
    shares = [len({h.id for h in e} & {h.id for h in f}) / 10 for e, f in zip(exact, found, strict=True)]
    assert np.mean(shares) >= 0.9
    assert engine_recall(index.fusion(), queries, 10, SearchMethod(NAME)) == pytest.approx(np.mean(shares))
    assert index.search(queries[0]) == index.search(queries[0], engine=NAME)
    assert queries_per_second(index)["image"][NAME] > 0


def test_building_twice_gives_the_same_bytes(
    version: Path, tmp_path: Path, make_version: Callable[..., Path], seen: FloatArray
) -> None:
    again = make_version(tmp_path / "b" / version.name, seen, SHARDS, engines={NAME: {}}, sentences=seen[::50])
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in version.iterdir()
    }


def test_damage_to_its_file_is_found(version: Path) -> None:
    path = version / "image-00001.toy.npy"
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(CorruptIndexError, match=r"image-00001\.toy\.npy has .* bytes, but the manifest says"):
        gifdex.open(version)
    np.save(path, np.zeros((1299, 64), np.float32))
    manifest = json.loads((version / MANIFEST_NAME).read_text())
    record = artifact.file_records(version, [path.name])[path.name]
    manifest["files"][path.name] = vars(record)
    (version / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(CorruptIndexError, match=r"image-00001\.toy\.npy holds float32 of shape \(1299, 64\)"):
        gifdex.open(version)


def test_its_manifest_record_is_checked(version: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(version, tmp_path / "copy" / version.name)
    manifest = json.loads((copy / MANIFEST_NAME).read_text())
    manifest["fields"]["image"]["engines"][NAME]["metric"] = "ip"
    (copy / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(CorruptIndexError, match="says that the engine toy has the metric 'ip', not 'toy'"):
        gifdex.open(copy)


def test_an_unknown_parameter_is_refused(tmp_path: Path, make_version: Callable[..., Path], seen: FloatArray) -> None:
    with pytest.raises(ValueError, match="the engine toy has no parameter 'colour'"):
        make_version(tmp_path / "00000000000000bb", seen, engines={NAME: {"colour": 1}})


def test_an_index_with_an_unregistered_engine_is_refused(version: Path) -> None:
    registry.unregister(NAME)
    try:
        with pytest.raises(CorruptIndexError, match="the field 'image' has the engine 'toy'; expected some of hnsw"):
            gifdex.open(version)
    finally:
        registry.register(ToyKind())
    assert registry.names()[0] == NAME
    with pytest.raises(QueryError, match="has no engine 'hnsw'"):
        gifdex.open(version).search(np.ones(128), engine="hnsw")


def test_an_engine_that_needs_many_candidates_is_not_the_default(
    tmp_path: Path, make_version: Callable[..., Path], seen: FloatArray
) -> None:
    poor = make_version(tmp_path / "00000000000000bb", seen, SHARDS, engines={NAME: {"coordinates": 1}})
    image = artifact.read_manifest(poor).fields["image"]
    assert 8 * 2 * image.engines[NAME].num_candidates > 3000  # it has to examine more than an eighth of the rows
    assert image.engines[NAME].recall is not None
    assert image.engine == "scan"
    assert len(gifdex.open(poor).search(np.ones(128), engine=NAME)) == 10


def test_the_gate_refuses_a_build_whose_engine_finds_too_little(
    tmp_path: Path, make_version: Callable[..., Path], seen: FloatArray
) -> None:
    settings = GateSettings(min_recall=0.95)
    registry.unregister(NAME)
    registry.register(ToyKind(target=0.1))  # a low target
    bad = make_version(
        tmp_path / "store" / "00000000000000ee", seen, engines={NAME: {"coordinates": 8}}, sentences=seen[::50]
    )
    refusals = gate.check(tmp_path / "store", bad.name, RunSummary(items=3000), settings)
    assert [refusal.rule for refusal in refusals] == ["min_recall", "min_recall"]
    for refusal, queries in zip(refusals, ("vectors", "sentences"), strict=True):
        assert "recall@10 of the engine toy over the field image is " in refusal.reason
        assert f" for {queries}, below 0.95" in refusal.reason
    good = make_version(tmp_path / "store" / "00000000000000ef", seen, sentences=seen[::50])
    assert gate.check(tmp_path / "store", good.name, RunSummary(items=3000), settings) == []
