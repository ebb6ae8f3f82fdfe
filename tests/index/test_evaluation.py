from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gifdex
from gifdex.encoders.base import FloatArray, unit
from gifdex.index.evaluation import Evaluation, engine_recall, evaluate
from gifdex.index.fields import SearchMethod
from gifdex.index.lookup import Index
from gifdex.schemas.errors import CaptionsError, QueryError

CAPTIONS = [
    ("gif-00003", "a cat playing the piano"),
    ("gif-00500", "two dogs on a beach"),
    ("gone", "nobody"),
    ("gif-00699", "rain"),
]


def test_a_rank_is_the_place_among_all_hits(index: Index) -> None:
    evaluation = evaluate(index, CAPTIONS)
    known = [pair for pair in CAPTIONS if pair[0] != "gone"]
    expected = [
        1 + [hit.id for hit in index.search(caption, len(index), exact=True)].index(key) for key, caption in known
    ]
    assert evaluation.ranks.tolist() == expected
    assert evaluation.absent == ("gone",)
    assert evaluation.engine == index.engine
    assert 0.0 <= evaluation.engine_recall <= 1.0


def test_measures_follow_from_the_ranks() -> None:
    evaluation = Evaluation(np.array([1, 2, 5, 6, 11]), (), 0.98765, "annoy")
    assert evaluation.measures() == {
        "queries": 5,
        "unknown": 0,
        "recall@1": 0.2,
        "recall@5": 0.6,
        "recall@10": 0.8,
        "median_rank": 5.0,
        "engine_recall@10": 0.9877,
        "engine": "annoy",
    }


def test_captions_of_unknown_items_are_refused(index: Index) -> None:
    with pytest.raises(CaptionsError, match=r"none of the 2 ids .*\(the first: another\)"):
        evaluate(index, [("gone", "a cat"), ("another", "a dog")])


def test_empty_caption_is_a_query_error(index: Index) -> None:
    with pytest.raises(QueryError, match="empty"):
        evaluate(index, [("gif-00003", " ")])


@pytest.fixture(scope="module")
def captioned(
    tmp_path_factory: pytest.TempPathFactory, make_version: Callable[..., Path], vectors: FloatArray
) -> Index:
    """An index where some items have captions and all have features."""
    folder = tmp_path_factory.mktemp("captioned") / "00000000000000aa"
    captions = np.roll(vectors, 100, axis=0)
    captions[::4] = np.nan
    captions[5] = captions[9]
    features = (2 * vectors[:, :6]).astype(np.float16)
    return gifdex.open(make_version(folder, vectors, (400, 300), fields={"caption": captions, "features": features}))


@pytest.mark.parametrize("fields", [{"caption": 1.0}, {"image": 1.0, "caption": 0.5}, {"image": 2.0, "caption": 0.0}])
def test_a_rank_in_fused_fields_is_the_place_among_all_hits(captioned: Index, fields: dict[str, float]) -> None:
    pairs = [(f"gif-{row:05d}", f"a {word} cat") for row, word in ((3, "red"), (4, "blue"), (5, "old"), (699, "wet"))]
    evaluation = evaluate(captioned, pairs, fields)
    expected = []
    for key, caption in pairs:
        scores = {hit.id: hit.score for hit in captioned.search(caption, 700, fields=fields, exact=True)}
        # The caption field alone never returns an item without a caption.
        expected.append(1 + sum(score > scores.get(key, -2.0) for score in scores.values()))
    assert evaluation.ranks.tolist() == expected
    assert 0.5 < evaluation.engine_recall <= 1.0
    assert evaluation.engine == captioned.engine
    if fields["caption"] == 0.0:
        assert expected == evaluate(captioned, pairs).ranks.tolist()


def test_fields_that_a_sentence_cannot_query_are_refused(captioned: Index) -> None:
    with pytest.raises(QueryError, match="has no field 'frames'"):
        evaluate(captioned, CAPTIONS, {"frames": 1.0})
    with pytest.raises(QueryError, match="are in different spaces"):
        evaluate(captioned, CAPTIONS, {"image": 1.0, "features": 1.0})
    with pytest.raises(QueryError, match="a sentence is in the space joint, but the field features"):
        evaluate(captioned, CAPTIONS, {"features": 1.0})


def test_recall_of_an_engine_is_its_share_of_the_exact_hits(captioned: Index) -> None:
    queries = unit(np.random.default_rng(1).standard_normal((40, 16)))
    fused = captioned.fusion({"image": 1.0, "caption": 1.0})
    assert engine_recall(fused, queries, 10, SearchMethod(exact=True)) == 1.0
    found = engine_recall(fused, queries, 10, SearchMethod("annoy", 1))
    exact, some = (fused.search(queries, 10, asked) for asked in (SearchMethod(exact=True), SearchMethod("annoy", 1)))
    shares = [len(set(a.tolist()) & set(b.tolist())) / 10 for (a, _), (b, _) in zip(exact, some, strict=True)]
    assert found == pytest.approx(np.mean(shares), abs=0.01)
    assert 0.3 < found <= 1.0
