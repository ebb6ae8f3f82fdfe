"""Towards a class on more items than are rescored: candidates of the field `image` against all items."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gifdex
from gifdex.encoders.base import Classifier, FloatArray, unit
from gifdex.index.lookup import Index

ITEMS, DIMENSIONS, FEATURES, CLASSES = 10_000, 24, 32, 20
_K = 10


@pytest.fixture(scope="module")
def index(
    tmp_path_factory: pytest.TempPathFactory, make_version: Callable[..., Path], clustered: Callable[..., FloatArray]
) -> Index:
    """10,000 items whose embeddings are a linear map of their features, as in a build."""
    random = np.random.default_rng(3)
    features = 3 * clustered(ITEMS, FEATURES, spread=1.0)
    vectors = unit(features @ random.standard_normal((FEATURES, DIMENSIONS)))
    weight = random.standard_normal((CLASSES, FEATURES)).astype(np.float32)
    labels = tuple(f"class {number}" for number in range(CLASSES))
    classifier = Classifier(weight, np.zeros(CLASSES, np.float32), labels, np.zeros(FEATURES, np.float32))
    version = tmp_path_factory.mktemp("towards") / ("0" * 16)
    fields = {"features": features.astype(np.float16)}
    return gifdex.open(make_version(version, vectors, (6000, 4000), fields=fields, classifier=classifier))


def test_the_candidates_of_the_image_field_hold_most_of_the_best(index: Index) -> None:
    found = []
    for number in range(CLASSES):
        example = index.ids[499 * number]
        exact = index.similar(_K, id=example, towards=number, exact=True)
        fast = index.similar(_K, id=example, towards=number)
        lowest = exact[-1].score
        found.append(sum(hit.score >= lowest for hit in fast) / _K)
        scores = {hit.id: hit.score for hit in exact}
        assert all(hit.score == scores[hit.id] for hit in fast if hit.id in scores)
        assert len({hit.id for hit in fast}) == _K
    assert np.mean(found) > 0.75  # .82; with a tenth of the candidates .62


def test_more_hits_have_more_candidates(index: Index) -> None:
    few, many = (index.similar(k, id=index.ids[0], towards=1) for k in (100, 2000))
    assert (len(few), len(many)) == (100, 2000)
    assert [hit.score for hit in many] == sorted((hit.score for hit in many), reverse=True)


def test_a_filter_searches_all_items_that_it_lets_through(index: Index) -> None:
    wanted = index.ids[::3]
    hits = index.similar(_K, id=index.ids[1], towards=2, where={"id": wanted})
    exact = index.similar(ITEMS, id=index.ids[1], towards=2, exact=True)
    assert hits == [hit for hit in exact if hit.id in set(wanted)][:_K]
