from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from annoy import AnnoyIndex

import gifdex
from gifdex.encoders.base import FloatArray
from gifdex.index import reduction, tuning
from gifdex.index.engines.base import evenly_spaced
from gifdex.index.lookup import Index
from gifdex.index.search import Searcher
from gifdex.index.tuning import QUERIES, STEP, TARGETS, Measured, Tuned, across, curve, fastest, held_out, tune
from gifdex.schemas.errors import CorruptIndexError
from gifdex.schemas.manifest import QualityFacts


def searcher(index: Index) -> Searcher:
    return index._searcher


def recall_without_own(index: Index, engine: str, effort: int, k: int) -> float:
    """As the manifest's recall, by the public search alone: neighbours of stored vectors other than themselves."""
    rows = evenly_spaced(len(index), QUERIES)[:: STEP[engine]]
    queries = searcher(index).vectors_at(rows)
    exact = index.search(queries, k + 1, exact=True)
    found = index.search(queries, k + 1, engine=engine, effort=effort)
    shares = []
    for own, best, hits in zip(rows.tolist(), exact, found, strict=True):
        others = [{hit.id for hit in answer if hit.id != f"gif-{own:05d}"} for answer in (best, hits)]
        shares.append(len(others[0] & others[1]) / k)
    return float(np.mean(shares))


@pytest.mark.parametrize("engine", ["annoy", "scan"])
def test_recall_of_the_manifest_is_what_stored_vectors_find_of_each_other(reduced: Index, engine: str) -> None:
    facts = reduced.manifest.engines[engine]
    assert facts.quality.recall["10"] >= TARGETS[engine]
    assert recall_without_own(reduced, engine, facts.effort, 10) == pytest.approx(facts.quality.recall["10"], abs=0.01)


def test_default_effort_is_the_least_of_the_ladder_that_has_the_recall(reduced: Index) -> None:
    asked = held_out(searcher(reduced), evenly_spaced(len(reduced), QUERIES))
    for engine in ("annoy", "scan"):
        found = curve(asked, engine, len(reduced))
        *before, last = found
        assert last * {"annoy": 1, "scan": 2}[engine] == reduced.manifest.engines[engine].effort
        assert all(found[effort]["10"] < TARGETS[engine] for effort in before)
        assert set(found[last]) == {"1", "10", "100"}


def test_a_querys_own_item_takes_no_candidates_place(reduced: Index) -> None:
    rows = evenly_spaced(len(reduced), QUERIES)
    asked = held_out(searcher(reduced), rows)
    exact = searcher(reduced).scan(asked.queries, 11)

    def by_hand(count: int) -> float:
        answers = searcher(reduced).search_among(asked.queries, 11, "annoy", count)
        shares = [
            len(set(best.tolist()) & set(found.tolist()) - {own}) / 10
            for own, (best, _), (found, _) in zip(rows.tolist(), exact, answers, strict=True)
        ]
        return round(float(np.mean(shares)), 4)

    assert by_hand(15) < by_hand(16) < by_hand(17)
    assert asked.recalls("annoy", 10)["10"] == by_hand(15 + 1)


def test_graph_is_measured_on_vectors_that_it_does_not_have(
    tmp_path: Path, make_version: Callable[..., Path], spectral: Callable[..., FloatArray]
) -> None:
    # One far-off pair: each finds the other only if the graph leads there, and a vector in the graph leads to itself.
    vectors = spectral(3000)
    opened = gifdex.open(make_version(tmp_path / "00000000000000ee", vectors, hnsw=True))
    facts = opened.manifest.engines["hnsw"]
    in_graph = recall_without_own(opened, "hnsw", facts.effort, 10)
    assert facts.quality.queries == QUERIES
    assert TARGETS["hnsw"] <= facts.quality.recall["10"] <= 1.0
    assert in_graph >= facts.quality.recall["10"] - 0.01
    assert [path.name for path in opened.path.iterdir() if path.name.startswith(".")] == []


def test_graphs_of_several_shards_are_measured_on_each_others_vectors(
    tmp_path: Path, make_version: Callable[..., Path], spectral: Callable[..., FloatArray]
) -> None:
    vectors = spectral(4000)
    opened = gifdex.open(make_version(tmp_path / "00000000000000ee", vectors, shards=(2000, 1300, 700), hnsw=True))
    asked = across(searcher(opened), QUERIES)
    facts = opened.manifest.engines["hnsw"]
    assert facts.quality.queries == len(asked.queries) == 3 * 43
    # By hand: the best ten of the shards that a vector is not of, among what the engine finds in those.
    shares, firsts = [], np.array([0, 2000, 3300, 4000])
    for row in (searcher(opened).shards[s].first + place for s in range(3) for place in evenly_spaced(700, 43)):
        own = np.searchsorted(firsts, row, side="right") - 1
        scores = vectors @ vectors[row]
        scores[firsts[own] : firsts[own + 1]] = -2
        best = set(np.argsort(-scores)[:10].tolist())
        hits = searcher(opened).without(int(own)).search(vectors[row][None], 10, "hnsw", facts.effort)[0][0].tolist()
        assert not any(firsts[own] <= hit < firsts[own + 1] for hit in hits)
        shares.append(len(best & set(hits)) / 10)
    assert np.mean(shares) >= TARGETS["hnsw"] - 0.01
    assert TARGETS["hnsw"] <= facts.quality.recall["10"] <= 1.0
    # Three shards need not each find their own ten best.
    alone = gifdex.open(make_version(tmp_path / "00000000000000ef", vectors[:2000], hnsw=True))
    assert facts.effort <= alone.manifest.engines["hnsw"].effort * 1.5


def test_known_curve_gives_the_effort_and_the_engine_its_speed(reduced: Index) -> None:
    asked = held_out(searcher(reduced), evenly_spaced(len(reduced), 20))
    known = Measured(70, {10: {"1": 1.0, "10": 0.5}, 15: {"1": 1.0, "10": 0.995, "100": 0.9}})
    tuned = tune(searcher(reduced), asked, "hnsw", known)
    assert (tuned.effort, tuned.quality.recall, tuned.quality.queries) == (15, known.curve[15], 70)
    assert tuned.quality.queries_per_second > 0


def test_vectors_of_no_length_are_no_queries(tmp_path: Path, make_version: Callable[..., Path]) -> None:
    vectors = np.zeros((600, 4), np.float32)
    vectors[::3, 0] = 1
    facts = gifdex.open(make_version(tmp_path / "00000000000000ef", vectors, hnsw=True)).manifest.engines
    assert 0 < facts["annoy"].quality.queries < 32
    assert 0 < facts["hnsw"].quality.queries < 61


def test_whole_vectors_get_more_trees_than_reduced_ones(
    tmp_path: Path, make_version: Callable[..., Path], spectral: Callable[..., FloatArray]
) -> None:
    for dimensions, trees in ((128, 5), (64, 50)):
        version = make_version(tmp_path / f"{dimensions:016x}", spectral(1000, dimensions), trees=None)
        manifest = gifdex.open(version).manifest
        assert (manifest.reduction is None) == (dimensions == 64)
        annoy = manifest.engines["annoy"]
        assert annoy.parameters["trees"] == trees
        index = AnnoyIndex(annoy.dimensions + (dimensions == 128), annoy.metric)
        index.load(str(version / "shard-00000.ann"))
        assert index.get_n_trees() == trees


def test_fastest_engine_answers() -> None:
    speeds = {"annoy": 50.0, "scan": 70.0, "hnsw": 60.0}
    assert fastest({name: Tuned(10, QualityFacts(1, {}, speed)) for name, speed in speeds.items()}) == "scan"


def test_reduction_is_fitted_where_the_spectrum_falls_and_nowhere_else(spectral: Callable[..., FloatArray]) -> None:
    random = np.random.default_rng(0)
    flat = random.standard_normal((2000, 128)).astype(np.float32)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    assert reduction.fit(flat) is None
    assert reduction.fit(spectral(2000, 64)) is None
    found = reduction.fit(spectral(2000, 256))
    assert found is not None
    kept = np.sum((spectral(2000, 256) @ found.directions) ** 2) / 2000
    assert 0.9 <= kept <= 0.98
    assert found.scanned % 16 == 0
    assert np.sum((spectral(2000, 256) @ found.leading(found.scanned)) ** 2) / 2000 >= 0.75


def test_the_largest_number_of_each_direction_is_positive(spectral: Callable[..., FloatArray]) -> None:
    found = reduction.fit(spectral(2000, 256))
    assert found is not None
    np.testing.assert_array_equal(found.directions.max(axis=0), np.abs(found.directions).max(axis=0))


def test_reduction_comes_back_as_it_was_and_not_as_another(tmp_path: Path, spectral: Callable[..., FloatArray]) -> None:
    assert reduction.fit(spectral(1000, 256)) is None  # too few to tell
    found = reduction.fit(spectral(1100, 256))
    assert found is not None
    found.save(tmp_path / "r.safetensors")
    again = reduction.load(tmp_path / "r.safetensors", 256, found.directions.shape[1])
    np.testing.assert_array_equal(again.directions, found.directions)
    assert (again.scanned, again.sample) == (found.scanned, 1100)
    for dimensions, kept in ((255, None), (256, 1)):
        with pytest.raises(CorruptIndexError, match="expected directions of length one, float32 of shape"):
            reduction.load(tmp_path / "r.safetensors", dimensions, kept)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 2.0, 0.0])
def test_directions_that_are_not_of_length_one_are_refused(
    tmp_path: Path, spectral: Callable[..., FloatArray], value: float
) -> None:
    found = reduction.fit(spectral(1100, 256))
    assert found is not None
    found.directions[17] = value
    found.save(tmp_path / "r.safetensors")
    with pytest.raises(CorruptIndexError, match="expected directions of length one"):
        reduction.load(tmp_path / "r.safetensors", 256)


def test_several_small_shards_are_measured_as_they_answer(tmp_path: Path, make_version: Callable[..., Path]) -> None:
    random = np.random.default_rng(5)
    vectors = random.standard_normal((1000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    opened = gifdex.open(make_version(tmp_path / "00000000000000ee", vectors, shards=(500, 500), hnsw=True))
    queries = random.standard_normal((200, 64))
    # Were the other shard's 500 items scanned, for they are few, the least effort would do.
    assert opened.engine_recall(queries, engine="hnsw") >= 0.985


def test_a_build_whose_engine_finds_too_little_is_refused_by_the_gate(
    tmp_path: Path,
    make_version: Callable[..., Path],
    spectral: Callable[..., FloatArray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gifdex.pipeline import gate
    from gifdex.pipeline.run import RunSummary
    from gifdex.pipeline.settings import GateSettings

    settings = GateSettings(min_recall=TARGETS["scan"])
    monkeypatch.setattr(tuning, "TARGETS", dict.fromkeys(TARGETS, 0.1))
    version = make_version(tmp_path / "store" / "00000000000000ee", spectral(5000))
    (refusal,) = gate.check(tmp_path / "store", version.name, RunSummary(items=5000), settings)
    assert refusal.rule == "min_recall"
    assert "recall@10 of the engine" in refusal.reason
    monkeypatch.undo()
    good = make_version(tmp_path / "store" / "00000000000000ef", spectral(5000))
    assert gate.check(tmp_path / "store", good.name, RunSummary(items=5000), settings) == []
