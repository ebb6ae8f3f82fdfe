from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import gifdex
from gifdex.encoders import projections
from gifdex.encoders.base import FloatArray, unit
from gifdex.encoders.registry import text_encoder
from gifdex.index.engines import registry
from gifdex.index.evaluation import engine_recall
from gifdex.index.fields import SearchMethod
from gifdex.index.hits import Hit
from gifdex.index.lookup import Index
from gifdex.schemas.errors import QueryError

DIMENSIONS = 16
SENTENCE = "a cat playing the piano"
ENGINES = registry.names()
WAYS: list[dict[str, Any]] = [{"exact": True}, *({"engine": engine} for engine in ENGINES)]
EVERY_WAY = pytest.mark.parametrize("how", WAYS, ids=["exact", *ENGINES])


def brute_force(vectors: FloatArray, query: NDArray[Any], k: int) -> list[tuple[str, float]]:
    """Rank all vectors by cosine, one at a time, with ties in row order."""
    wide = query.astype(np.float64)
    cosines = [float(np.dot(v, wide) / (np.linalg.norm(v) * np.linalg.norm(wide))) for v in vectors.astype(np.float64)]
    order = sorted(range(len(cosines)), key=lambda row: (-cosines[row], row))[:k]
    return [(f"gif-{row:05d}", cosines[row]) for row in order]


def assert_equal_hits(hits: list[Hit], expected: list[tuple[str, float]]) -> None:
    assert [hit.id for hit in hits] == [key for key, _ in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], atol=2e-7)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 800), scale=st.sampled_from([1e-30, 1.0, 3.7, 1e30]))
def test_hits_of_a_vector_equal_brute_force(index: Index, vectors: FloatArray, seed: int, k: int, scale: float) -> None:
    query = np.random.default_rng(seed).standard_normal(DIMENSIONS) * scale
    assert_equal_hits(index.search(query, k), brute_force(vectors, query, k))


def test_a_batch_gives_the_same_hits_as_single_queries(index: Index, clustered: Callable[..., FloatArray]) -> None:
    queries = clustered(40, seed=5)
    for how in WAYS:
        batch = index.search(queries, 7, **how)
        assert batch == [index.search(query, 7, **how) for query in queries]
        assert [len(hits) for hits in batch] == [7] * 40


def test_an_empty_batch_has_no_answers(index: Index) -> None:
    assert index.search(np.zeros((0, DIMENSIONS), np.float32)) == []
    assert index.search([]) == []


def test_sentence_is_searched_by_its_embedding(index: Index, version: Path, vectors: FloatArray) -> None:
    tensors = projections.load(version / "projection.safetensors").tensors
    embedding = (text_encoder()([SENTENCE])[0] - tensors["text_center"]) @ tensors["text_map"]
    hits = index.search(SENTENCE, 12)
    assert [hit.id for hit in hits] == [key for key, _ in brute_force(vectors, embedding, 12)]
    np.testing.assert_allclose(index.embed(SENTENCE)[0], embedding / np.linalg.norm(embedding), atol=1e-6)


def test_a_list_of_sentences_gives_a_list_of_hits_for_each(index: Index) -> None:
    sentences = [SENTENCE, "un chien qui court sur la plage"]
    answers = index.search(sentences, 5)
    assert [[hit.id for hit in hits] for hits in answers] == [[h.id for h in index.search(s, 5)] for s in sentences]
    assert index.search([SENTENCE], 5)[0] == index.search(SENTENCE, 5)
    assert index.search((SENTENCE,), 5) == [index.search(SENTENCE, 5)]


@EVERY_WAY
def test_scores_are_exact_cosines_best_first(index: Index, vectors: FloatArray, how: dict[str, Any]) -> None:
    query = np.random.default_rng(3).standard_normal(DIMENSIONS)
    hits = index.search(query, 50, **how)
    rows = [int(hit.id.removeprefix("gif-")) for hit in hits]
    np.testing.assert_allclose([hit.score for hit in hits], vectors[rows] @ query / np.linalg.norm(query), atol=2e-7)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@EVERY_WAY
def test_stored_vector_finds_its_own_item_first_with_score_one(
    index: Index, vectors: FloatArray, how: dict[str, Any]
) -> None:
    for row in (0, 299, 300, 549, 550, 699):  # the shards' first and last rows
        best = index.search(vectors[row], 1, **how)[0]
        assert best.id == f"gif-{row:05d}"
        assert best.score == pytest.approx(1.0, abs=1e-6)
        assert best.score <= 1.0


@EVERY_WAY
@pytest.mark.parametrize("k", [700, 701, 10**6, 10**12])
def test_k_beyond_the_index_gives_every_item_once(index: Index, how: dict[str, Any], k: int) -> None:
    hits = index.search(np.ones(DIMENSIONS), k, **how)
    assert sorted(hit.id for hit in hits) == index.ids
    assert len(index) == len(hits) == 700


@pytest.mark.parametrize("k", [0, -1, -(10**12), 2.5, "3", None])
def test_k_that_is_not_a_positive_integer_is_a_query_error(index: Index, k: Any) -> None:
    with pytest.raises(QueryError, match=r"k is .*at least 1"):
        index.search(np.ones(DIMENSIONS), k)


def test_k_may_be_a_numpy_integer(index: Index) -> None:
    assert len(index.search(np.ones(DIMENSIONS), np.int64(3))) == 3  # type: ignore[call-overload]


@EVERY_WAY
@pytest.mark.parametrize("shards", [None, (5, 40, 15)])
def test_equal_vectors_tie_and_are_ranked_in_row_order(
    tmp_path: Path, make_version: Callable[..., Path], how: dict[str, Any], shards: tuple[int, ...] | None
) -> None:
    # With 33 dimensions and blocks of odd sizes, a matrix product gives equal rows unequal scores.
    random = np.random.default_rng(1)
    distinct = unit(random.standard_normal((4, 33)))
    opened = gifdex.open(make_version(tmp_path / "00000000000000bb", np.tile(distinct, (15, 1)), shards, hnsw=True))
    for query in random.standard_normal((20, 33)):
        hits = opened.search(query, 60, **how)
        assert len({hit.score for hit in hits}) == 4
        assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.id))
        few = opened.search(query, 7, **how)  # an engine may propose other tied rows
        assert [hit.score for hit in few] == [hit.score for hit in hits[:7]]
        assert few == sorted(few, key=lambda hit: (-hit.score, hit.id))
    assert opened.search(query, 7, exact=True) == hits[:7]


@pytest.mark.parametrize(
    "how", [{"exact": True}, {"engine": "annoy", "num_candidates": 10**6}, {"num_candidates": 100}]
)
def test_several_shards_answer_as_one(
    tmp_path: Path, make_version: Callable[..., Path], index: Index, vectors: FloatArray, how: dict[str, Any]
) -> None:
    whole = gifdex.open(make_version(tmp_path / "00000000000000bb", vectors))
    queries = np.random.default_rng(2).standard_normal((30, DIMENSIONS))
    assert whole.search(queries, 10, **how) == index.search(queries, 10, **how)


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_find_most_of_the_exact_hits_with_their_default_candidates(
    reduced: Index, engine: str, spectral: Any
) -> None:
    queries = unit(spectral(4200)[4000:] + 0.05 * spectral(200, seed=8))  # of the same centres
    exact, found = (reduced.search(queries, 10, **how) for how in ({"exact": True}, {"engine": engine}))
    shares = [len({h.id for h in e} & {h.id for h in f}) / 10 for e, f in zip(exact, found, strict=True)]
    assert np.mean(shares) >= 0.95
    assert engine_recall(reduced.fusion(), queries, 10, SearchMethod(engine)) == pytest.approx(
        np.mean(shares), abs=1e-9
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_more_candidates_find_more_and_finally_everything(
    reduced: Index, reduced_vectors: FloatArray, engine: str
) -> None:
    queries = reduced_vectors[::40] + np.random.default_rng(1).normal(0, 0.05, (100, 128))
    exact = [{hit.id for hit in hits} for hits in reduced.search(queries, 10, exact=True)]

    def recall(num_candidates: int) -> float:
        found = reduced.search(queries, 10, engine=engine, num_candidates=num_candidates)
        return float(np.mean([len(e & {h.id for h in f}) / 10 for e, f in zip(exact, found, strict=True)]))

    rising = [recall(count) for count in (1, 40, 10**9)]
    assert rising[0] < rising[1] <= rising[2] == 1.0


def test_an_engines_candidates_are_scored_in_all_dimensions(reduced: Index, reduced_vectors: FloatArray) -> None:
    query = np.random.default_rng(2).standard_normal(128)
    for engine in reduced.engines:
        for hit in reduced.search(query, 10, engine=engine):
            exact = reduced_vectors[int(hit.id.removeprefix("gif-"))] @ query / np.linalg.norm(query)
            assert hit.score == pytest.approx(exact, abs=2e-7)


def test_the_engine_that_answers_is_the_registrys_default(reduced: Index) -> None:
    image = reduced.manifest.fields["image"]
    assert reduced.engine == image.engine == registry.default(image.engines, image.rows, 2, reduced=True)
    query = np.random.default_rng(3).standard_normal(128)
    assert reduced.search(query) == reduced.search(query, engine=reduced.engine)


def test_a_batch_is_scanned_where_that_is_faster(reduced: Index) -> None:
    field = reduced.field("image")
    assert (reduced.engine, field.engine_for(SearchMethod(), 1), field.engine_for(SearchMethod(), 2)) == (
        "hnsw",
        "hnsw",
        "scan",
    )
    assert field.engine_for(SearchMethod(batch=False), 2) == "hnsw"
    assert field.engine_for(SearchMethod("annoy"), 2) == "annoy"
    assert field.engine_for(SearchMethod(exact=True), 2) is None
    queries = np.random.default_rng(1).standard_normal((2, 128))
    assert reduced.search(queries) == reduced.search(queries, engine="scan")


@pytest.mark.parametrize("huge", [10**18, 10**400])
def test_huge_counts_mean_the_whole_index(index: Index, huge: int) -> None:
    query = np.ones(DIMENSIONS)
    assert len(index.search(query, huge)) == 700
    assert index.search(query, 5, engine="annoy", num_candidates=huge) == index.search(query, 5, exact=True)


def test_unknown_engines_and_invalid_candidate_counts_are_query_errors(
    tmp_path: Path, make_version: Callable[..., Path]
) -> None:
    opened = gifdex.open(make_version(tmp_path / "00000000000000bb", unit(np.ones((5, 3)))))
    with pytest.raises(QueryError, match=r"has no engine 'hnsw', only annoy, scan: build it with --hnsw"):
        opened.search(np.ones(3), engine="hnsw")
    with pytest.raises(QueryError, match=r"has no engine 'faiss', only annoy, scan$"):
        opened.search(np.ones(3), engine="faiss")
    with pytest.raises(QueryError, match="has no engine"):
        opened.search(np.ones(3), engine=["annoy"])  # type: ignore[call-overload]
    odd: list[Any] = [0, -1, 2.5, "9"]
    for count in odd:
        with pytest.raises(QueryError, match=r"num_candidates is .*at least 1"):
            opened.search(np.ones(3), num_candidates=count)


def test_a_graph_is_searched_without_its_library(reduced_version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gifdex.open(reduced_version).search(np.ones(128), engine="hnsw")
    monkeypatch.setitem(sys.modules, "usearch", None)
    opened = gifdex.open(reduced_version)
    assert opened.engines == ("annoy", "scan", "hnsw")
    assert opened.search(np.ones(128), engine="hnsw") == expected


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (np.ones(15), "has 16 dimensions, but the query has 15"),
        (np.ones((3, 32)), "has 16 dimensions, but the query has 32"),
        (np.ones(0), "has 16 dimensions, but the query has 0"),
        (np.array(1.0), r"shape \(\)"),
        (np.ones((2, 3, DIMENSIONS)), r"shape \(2, 3, 16\)"),
        (np.array(["1.0"] * DIMENSIONS), "array of <U3; expected real numbers"),
        (np.array([SENTENCE, SENTENCE]), "sentences as a list"),
        (np.array([b"1"] * DIMENSIONS), "expected real numbers"),
        (np.full(DIMENSIONS, None), "array of object"),
        (np.full(DIMENSIONS, 1j), "array of complex128"),
        (np.full(DIMENSIONS, np.datetime64("2024-01-01")), "array of datetime64"),
        (np.full(DIMENSIONS, np.nan), "NaN or infinite"),
        (np.r_[np.ones(DIMENSIONS - 1), np.inf], "NaN or infinite"),
        (np.r_[np.ones(DIMENSIONS - 1), -np.inf].astype(np.float32), "NaN or infinite"),
        (np.vstack([np.ones(DIMENSIONS), np.full(DIMENSIONS, np.nan)]), "NaN or infinite"),
        (np.full(DIMENSIONS, np.longdouble("1e4000")), "NaN or infinite"),
        (np.zeros(DIMENSIONS), "zero vector"),
        (np.vstack([np.ones(DIMENSIONS), np.zeros(DIMENSIONS)]), "zero vector"),
        ("", "sentence is empty"),
        (" \t\n", "sentence is empty"),
        ([SENTENCE, ""], "sentence is empty"),
        ("caf\udce9", "not valid text"),
        ([SENTENCE, 3], "holds a int"),
        ([[0.5] * DIMENSIONS], "vectors as a numpy array"),
        (None, "holds a NoneType"),
        (7, "holds a int"),
        (b"a cat", "holds a int"),
    ],
)
@EVERY_WAY
def test_an_invalid_query_is_a_query_error(index: Index, query: Any, message: str, how: dict[str, Any]) -> None:
    with pytest.raises(QueryError, match=message):
        index.search(query, **how)


@pytest.mark.parametrize(
    "scaled",
    [
        lambda query: query * 1e308,
        lambda query: query * 1e-320,
        lambda query: (query * 1e38).astype(np.float32),
        lambda query: (query * 1e-38).astype(np.float32),
        lambda query: (query * 6e4).astype(np.float16),
        lambda query: (query * 2**62).astype(np.int64),
        lambda query: np.asfortranarray(np.tile(query, (2, 1)))[0],
    ],
)
def test_the_length_and_type_of_a_vector_do_not_matter(index: Index, scaled: Callable[..., Any]) -> None:
    query = np.random.default_rng(6).integers(-3, 4, DIMENSIONS) / 4
    expected, hits = index.search(query, 5), index.search(scaled(query), 5)
    assert [hit.id for hit in hits] == [hit.id for hit in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in expected], atol=1e-3)


def test_a_query_is_not_modified(index: Index) -> None:
    query = np.random.default_rng(8).standard_normal(DIMENSIONS)
    before = query.copy()
    query.flags.writeable = False
    index.search(query)
    np.testing.assert_array_equal(query, before)


def test_hits_have_caption_and_metadata(index: Index, vectors: FloatArray) -> None:
    found = [index.search(vectors[row], 1)[0] for row in (6, 3, 2, 1)]
    assert [(hit.uri, hit.metadata) for hit in found] == [
        ("/corpus-0/gif-00006.gif", {"caption": "caption of 6", "row": 6, "tags": ["a", "ü"]}),
        ("/corpus-0/gif-00003.gif", {"row": 3, "tags": ["a", "ü"]}),
        ("/corpus-0/gif-00002.gif", {"caption": "caption of 2"}),
        ("/corpus-0/gif-00001.gif", {}),
    ]


def test_index_of_one_item_answers(tmp_path: Path, make_version: Callable[..., Path]) -> None:
    opened = gifdex.open(make_version(tmp_path / "00000000000000bb", unit(np.ones((1, 3))), hnsw=True))
    for how in WAYS:
        assert [hit.id for hit in opened.search(np.array([1.0, 0.0, 0.0]), **how)] == ["gif-00000"]
    engines = opened.manifest.fields["image"].engines
    assert {name: record.vector_recall.at["10"] for name, record in engines.items()} == dict.fromkeys(ENGINES, 1.0)


def test_a_zero_vector_scores_zero(tmp_path: Path, make_version: Callable[..., Path]) -> None:
    stored = np.vstack([np.eye(3), np.zeros((1, 3))]).astype(np.float32)
    opened = gifdex.open(make_version(tmp_path / "00000000000000bb", stored))
    hits = opened.search(np.array([1.0, 0.5, -0.5]), 4)
    assert [hit.id for hit in hits] == ["gif-00000", "gif-00001", "gif-00003", "gif-00002"]
    assert hits[2].score == 0.0


def test_four_threads_get_the_answers_that_one_gets(version: Path) -> None:
    fresh = gifdex.open(version)  # the first thread to need it loads the text encoder
    sentences = [f"{count} dogs on a {place}" for count in ("two", "three") for place in ("beach", "roof", "bus")]
    queries = np.random.default_rng(9).standard_normal((20, DIMENSIONS))

    def ask(_: int) -> list[list[Hit]]:
        by_sentence = [fresh.search(sentence, 5) for sentence in sentences]
        by_vector = [fresh.search(query, 5, **how) for query in queries for how in WAYS]
        return by_sentence + by_vector

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    assert answers == [ask(0)] * 4
