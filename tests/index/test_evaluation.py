from __future__ import annotations

import numpy as np
import pytest

from gifdex.index.evaluation import Evaluation, evaluate
from gifdex.index.lookup import Index
from gifdex.schemas.errors import CaptionsError, QueryError

CAPTIONS = [
    ("gif-00003", "a cat playing the piano"),
    ("gif-00500", "two dogs on a beach"),
    ("gone", "nobody"),
    ("gif-00699", "rain"),
]


def test_ranks_are_the_places_among_all_hits(index: Index) -> None:
    evaluation = evaluate(index, CAPTIONS)
    known = [pair for pair in CAPTIONS if pair[0] != "gone"]
    expected = [
        1 + [hit.id for hit in index.search(caption, len(index), exact=True)].index(key) for key, caption in known
    ]
    assert evaluation.ranks.tolist() == expected
    assert evaluation.absent == ("gone",)
    assert evaluation.engine == index.engine
    assert 0.0 <= evaluation.engine_recall <= 1.0


def test_measures_are_shares_of_the_ranks() -> None:
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


def test_captions_of_no_item_are_refused(index: Index) -> None:
    with pytest.raises(CaptionsError, match=r"none of the 2 ids .*\(the first: another\)"):
        evaluate(index, [("gone", "a cat"), ("another", "a dog")])


def test_empty_caption_is_a_query_error(index: Index) -> None:
    with pytest.raises(QueryError, match="empty"):
        evaluate(index, [("gif-00003", " ")])
