"""What a build measures: recall with stored vectors and sentences, and the candidates that reach the target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from annoy import AnnoyIndex

import gifdex
from gifdex.encoders.base import FloatArray, unit
from gifdex.index import tuning
from gifdex.index.engines import registry
from gifdex.index.engines.base import evenly_spaced
from gifdex.index.engines.names import ANNOY, HNSW
from gifdex.index.evaluation import engine_recall
from gifdex.index.fields import SearchMethod
from gifdex.index.lookup import Index
from gifdex.index.search import Searcher, candidates_for, recall, shard_rows
from gifdex.index.tuning import MAX_SENTENCES, MAX_VECTORS, Probe, stored_vectors, tune
from gifdex.schemas.manifest import MANIFEST_NAME, EngineRecord

ENGINES = registry.names()
EACH_ENGINE = pytest.mark.parametrize("engine", ENGINES)


def searcher(index: Index) -> Searcher:
    return index.field("image").searcher


def record(index: Index, engine: str) -> EngineRecord:
    return index.manifest.fields["image"].engines[engine]


def recall_without_own(index: Index, engine: str, num_candidates: int, k: int) -> float:
    """Compute the manifest's recall with the public search: neighbours of stored vectors other than themselves."""
    rows = evenly_spaced(len(index), MAX_VECTORS)[:: registry.kind(engine).tuning.step]
    queries = searcher(index).vectors_at(rows)
    exact = index.search(queries, k + 1, exact=True)
    found = index.search(queries, k + 1, engine=engine, num_candidates=num_candidates)
    shares = []
    for own, best, hits in zip(rows.tolist(), exact, found, strict=True):
        others = [{hit.id for hit in answer if hit.id != f"gif-{own:05d}"} for answer in (best, hits)]
        shares.append(len(others[0] & others[1]) / k)
    return float(np.mean(shares))


def measured(searcher: Searcher, engine: str, probe: Probe, num_candidates: int, k: int = 10) -> float:
    """The recall at k of an engine, with all queries of a probe in one batch."""
    count = candidates_for(num_candidates, k)
    found = searcher.search_among(probe.queries, k, engine, count, probe.without)
    return recall([(rows[:k], scores[:k]) for rows, scores in probe.exact], found)


def every(probe: Probe, step: int) -> Probe:
    return probe.take(np.arange(0, len(probe.queries), step))


@pytest.fixture(scope="module")
def sentence_queries(spectral: Callable[..., FloatArray]) -> FloatArray:
    """Sentence-like queries: the spectrum of `reduced_vectors`, but near none of them."""
    return spectral(MAX_SENTENCES + 200, seed=8)


@pytest.fixture(scope="module")
def tuned(
    tmp_path_factory: pytest.TempPathFactory,
    make_version: Callable[..., Path],
    reduced_vectors: FloatArray,
    sentence_queries: FloatArray,
) -> Index:
    """A version with every engine, tuned with sentences."""
    folder = tmp_path_factory.mktemp("tuned") / "00000000000000ab"
    return gifdex.open(
        make_version(folder, reduced_vectors, (2500, 1500), hnsw=True, sentences=sentence_queries[:MAX_SENTENCES])
    )


@EACH_ENGINE
def test_recall_in_the_manifest_is_what_stored_vectors_find(reduced: Index, engine: str) -> None:
    found, wanted = record(reduced, engine), registry.kind(engine).tuning
    assert found.vector_recall.at["10"] >= wanted.target
    assert found.vector_recall.queries == -(-MAX_VECTORS // wanted.step)
    assert found.sentence_recall is None
    by_hand = recall_without_own(reduced, engine, found.num_candidates, 10)
    assert by_hand == pytest.approx(found.vector_recall.at["10"], abs=0.02)


@EACH_ENGINE
def test_default_candidates_are_the_fewest_that_reach_the_target(reduced: Index, engine: str) -> None:
    wanted, chosen = registry.kind(engine).tuning, record(reduced, engine).num_candidates
    probe = every(stored_vectors(searcher(reduced)), wanted.step)
    ladder = list(tuning._rising(4000))
    assert ladder[:4] == [10, 15, 22, 33]
    assert ladder[-1] == 4000
    assert chosen in ladder
    assert measured(searcher(reduced), engine, probe, chosen) >= wanted.target
    assert all(measured(searcher(reduced), engine, probe, count) < wanted.target for count in ladder if count < chosen)


@EACH_ENGINE
def test_recalls_in_a_manifest_can_be_reproduced(tuned: Index, engine: str, sentence_queries: FloatArray) -> None:
    found, step = record(tuned, engine), registry.kind(engine).tuning.step
    vectors = every(stored_vectors(searcher(tuned)), step)
    sentences = every(tuning.sentences(searcher(tuned), sentence_queries[:MAX_SENTENCES]), max(1, step // 2))
    for probe, recorded in ((vectors, found.vector_recall), (sentences, found.sentence_recall)):
        assert recorded is not None
        assert recorded.queries == len(probe.queries)
        assert recorded.at["10"] == pytest.approx(
            measured(searcher(tuned), engine, probe, found.num_candidates), abs=1e-4
        )
        hundred = measured(searcher(tuned), engine, every(probe, 4 * max(1, step // 2)), found.num_candidates, 100)
        assert recorded.at["100"] == pytest.approx(hundred, abs=1e-4)
        assert recorded.at["1"] >= recorded.at["10"] - 0.05


@EACH_ENGINE
def test_with_sentences_both_recalls_reach_the_target(tuned: Index, reduced: Index, engine: str) -> None:
    found, target = record(tuned, engine), registry.kind(engine).tuning.target
    assert found.sentence_recall is not None
    assert min(found.vector_recall.at["10"], found.sentence_recall.at["10"]) == found.recall
    assert found.recall is not None
    assert found.recall >= target
    # Stored vectors alone need no more.
    assert record(reduced, engine).num_candidates <= found.num_candidates


@EACH_ENGINE
def test_other_sentences_reach_the_recall_in_the_manifest(
    tuned: Index, engine: str, sentence_queries: FloatArray
) -> None:
    recorded = record(tuned, engine).sentence_recall
    found = engine_recall(tuned.fusion(), sentence_queries[MAX_SENTENCES:], 10, SearchMethod(engine))
    assert recorded is not None
    assert found >= 0.95
    assert found == pytest.approx(recorded.at["10"], abs=0.025)


def test_a_stored_vector_as_query_does_not_count_as_its_own_candidate(reduced: Index) -> None:
    probe, rows = stored_vectors(searcher(reduced)), evenly_spaced(len(reduced), MAX_VECTORS)
    exact = searcher(reduced).scan(probe.queries, 11)
    assert probe.without is not None
    assert probe.without.tolist() == rows.tolist()

    def by_hand(count: int) -> float:
        answers = searcher(reduced).search_among(probe.queries, 11, "annoy", count)
        shares = [
            len(set(best.tolist()) & set(found.tolist()) - {own}) / 10
            for own, (best, _), (found, _) in zip(rows.tolist(), exact, answers, strict=True)
        ]
        return float(np.mean(shares))

    assert by_hand(15) < by_hand(16) < by_hand(17)
    assert measured(searcher(reduced), "annoy", probe, 10) == pytest.approx(by_hand(15 + 1))


@EACH_ENGINE
def test_a_row_is_excluded_only_in_its_own_shard(reduced: Index, engine: str) -> None:
    rows = np.array([0, 2499, 2500, 3999])
    queries = searcher(reduced).vectors_at(rows)
    assert [shard_rows(shard, rows).tolist() for shard in searcher(reduced).shards] == [
        [0, 2499, -1, -1],
        [-1, -1, 0, 1499],
    ]
    for found in (
        searcher(reduced).search_among(queries, 10, engine, 40, rows),
        searcher(reduced).scan(queries, 10, rows),
    ):
        for row, (best, scores) in zip(rows.tolist(), found, strict=True):
            assert row not in best
            assert len(best) == 10
            assert scores[0] < 1 - 1e-6
    with_them = searcher(reduced).search_among(queries, 10, engine, 40)
    assert [best[0] for best, _ in with_them] == rows.tolist()


def test_several_shards_need_no_more_candidates_than_one(
    tmp_path: Path, make_version: Callable[..., Path], spectral: Callable[..., FloatArray]
) -> None:
    vectors = spectral(4000)
    split = gifdex.open(make_version(tmp_path / "00000000000000ee", vectors, shards=(2000, 1300, 700), hnsw=True))
    # By hand: each vector's ten best others, among the engine's candidates from all shards.
    found, shares = record(split, HNSW), []
    for row in evenly_spaced(4000, MAX_VECTORS).tolist():
        scores = vectors @ vectors[row]
        scores[row] = -2
        best = set(np.argsort(-scores)[:10].tolist())
        own = np.array([row])
        hits, _ = searcher(split).search_among(vectors[row][None], 10, HNSW, found.num_candidates, own)[0]
        shares.append(len(best & set(hits.tolist())) / 10)
    assert np.mean(shares) >= registry.kind(HNSW).tuning.target - 0.01
    # Each of the three shards need not find its own ten best.
    one = gifdex.open(make_version(tmp_path / "00000000000000ef", vectors[:2000], hnsw=True))
    assert found.num_candidates <= record(one, HNSW).num_candidates * 1.5


@pytest.mark.parametrize("shards", [None, (2400, 1600)])
def test_near_copies_do_not_hide_each_other(
    tmp_path: Path,
    make_version: Callable[..., Path],
    spectral: Callable[..., FloatArray],
    shards: tuple[int, ...] | None,
) -> None:
    random = np.random.default_rng(4)
    saved_again = np.repeat(spectral(500), 8, axis=0) + 1e-3 * random.standard_normal((4000, 128))
    queries = spectral(MAX_SENTENCES + 150, seed=8)
    sentences, held_out = queries[:MAX_SENTENCES], queries[MAX_SENTENCES:]
    version = make_version(
        tmp_path / "00000000000000ab", unit(saved_again), shards, trees=None, hnsw=True, sentences=sentences
    )
    index = gifdex.open(version)
    for engine in ENGINES:
        assert engine_recall(index.fusion(), held_out, 10, SearchMethod(engine)) >= 0.95, engine
    assert engine_recall(index.fusion(), held_out) >= 0.95


def test_recall_of_several_small_shards_is_measured_as_they_answer(
    tmp_path: Path, make_version: Callable[..., Path]
) -> None:
    random = np.random.default_rng(5)
    vectors = unit(random.standard_normal((1000, 64)))
    opened = gifdex.open(make_version(tmp_path / "00000000000000ee", vectors, shards=(500, 500), hnsw=True))
    queries = unit(random.standard_normal((200, 64)))
    # If tuning scanned the other shard's 500 rows, the smallest number of candidates would seem enough.
    assert engine_recall(opened.fusion(), queries, 10, SearchMethod(HNSW)) >= 0.985


def test_a_zero_vector_is_not_used_as_a_query(tmp_path: Path, make_version: Callable[..., Path]) -> None:
    vectors = np.vstack([np.zeros((1, 4), np.float32), unit(np.random.default_rng(0).standard_normal((599, 4)))])
    index = gifdex.open(make_version(tmp_path / "00000000000000ef", vectors, hnsw=True))
    assert record(index, ANNOY).vector_recall.queries == MAX_VECTORS // 4
    assert record(index, HNSW).vector_recall.queries == MAX_VECTORS - 1
    nothing = gifdex.open(make_version(tmp_path / "00000000000000ff", np.zeros((9, 4), np.float32), hnsw=True))
    for engine in ENGINES:
        found = record(nothing, engine)
        assert (found.vector_recall.queries, found.vector_recall.at, found.recall) == (0, {}, None)


def test_tuning_again_changes_nothing_but_the_measurements(tuned: Index, sentence_queries: FloatArray) -> None:
    before = tuned.manifest.fields["image"].engines
    again = tune(searcher(tuned), sentence_queries[:MAX_SENTENCES])
    assert again == before
    assert all(record.sentence_recall is None for record in tune(searcher(tuned), None).values())


def test_two_builds_choose_the_same_engine_and_record_the_same_recall(
    tmp_path: Path,
    make_version: Callable[..., Path],
    tuned: Index,
    reduced_vectors: FloatArray,
    sentence_queries: FloatArray,
) -> None:
    again = make_version(
        tmp_path / tuned.path.name, reduced_vectors, (2500, 1500), hnsw=True, sentences=sentence_queries[:MAX_SENTENCES]
    )
    assert (again / MANIFEST_NAME).read_bytes() == (tuned.path / MANIFEST_NAME).read_bytes()


def test_full_vectors_get_more_trees_than_reduced_ones(
    tmp_path: Path, make_version: Callable[..., Path], spectral: Callable[..., FloatArray]
) -> None:
    for dimensions, trees in ((128, 5), (64, 50)):
        version = make_version(tmp_path / f"{dimensions:016x}", spectral(1000, dimensions), trees=None)
        image = gifdex.open(version).manifest.fields["image"]
        assert (image.reduction is None) == (dimensions == 64)
        annoy = image.engines["annoy"]
        assert annoy.parameters["trees"] == trees
        index = AnnoyIndex(annoy.dimensions + (dimensions == 128), annoy.metric)
        index.load(str(version / "image-00000.ann"))
        assert index.get_n_trees() == trees
