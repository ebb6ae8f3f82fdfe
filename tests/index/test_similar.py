"""Search by example: items, sums and differences of them, and features reweighted towards a class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gifdex
from gifdex.encoders.base import Classifier, FloatArray, unit
from gifdex.index.lookup import Index
from gifdex.schemas.errors import CorruptIndexError, EncoderError, QueryError

ITEMS, DIMENSIONS, FEATURES = 700, 16, 12
LABELS = ("tabby cat", "Siamese cat", "crane", "crane")


@pytest.fixture(scope="module")
def vectors(clustered: Callable[..., FloatArray]) -> FloatArray:
    drawn = clustered(ITEMS, DIMENSIONS)
    drawn[5] = drawn[3]
    return drawn


@pytest.fixture(scope="module")
def features(clustered: Callable[..., FloatArray]) -> np.ndarray:
    return (3 * clustered(ITEMS, FEATURES, seed=1)).astype(np.float16)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    random = np.random.default_rng(2)
    weight = random.standard_normal((4, FEATURES)).astype(np.float32)
    return Classifier(weight, np.zeros(4, np.float32), LABELS, np.zeros(FEATURES, np.float32))


@pytest.fixture(scope="module")
def index(
    tmp_path_factory: pytest.TempPathFactory,
    make_version: Callable[..., Path],
    vectors: FloatArray,
    features: np.ndarray,
    classifier: Classifier,
) -> Index:
    version = tmp_path_factory.mktemp("similar") / ("0" * 16)
    return gifdex.open(make_version(version, vectors, fields={"features": features}, classifier=classifier))


def key(item: int) -> str:
    return f"gif-{item:05d}"


def expected(scores: FloatArray, left_out: tuple[int, ...], k: int = 10) -> list[str]:
    order = np.argsort(-scores, kind="stable")
    return [key(item) for item in order.tolist() if item not in left_out][:k]


def test_items_like_another_leave_out_the_item_and_its_copies(index: Index, vectors: FloatArray) -> None:
    hits = index.similar(id=key(3), exact=True)
    assert [hit.id for hit in hits] == expected(vectors @ vectors[3], (3, 5))
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(vectors @ vectors[3])[::-1][2:12], atol=1e-6)


def test_examples_are_added_with_their_weights_and_subtracted(index: Index, vectors: FloatArray) -> None:
    query = unit((vectors[10] + 2.5 * vectors[20] - vectors[30])[None])[0]
    more = gifdex.Example(id=key(20), weight=2.5)
    hits = index.similar(id=key(10), examples=[more], minus=key(30), exact=True)
    assert [hit.id for hit in hits] == expected(vectors @ query, (10, 20, 30))


def test_features_are_compared_in_their_own_space(index: Index, features: np.ndarray) -> None:
    units = unit(features)
    hits = index.similar(id=key(7), fields={"features": 1})
    assert [hit.id for hit in hits] == expected(units @ units[7], (7,))


@pytest.mark.parametrize("name", ["Siamese cat", "siamesecat", 1])
@pytest.mark.parametrize("exact", [True, False])
def test_towards_a_class_compares_features_multiplied_by_its_weights(
    index: Index, features: np.ndarray, classifier: Classifier, name: str | int, exact: bool
) -> None:
    reweighted = unit(features.astype(np.float64) * classifier.weight[1])
    hits = index.similar(id=key(7), towards=name, exact=exact)  # 1,000 candidates are all items
    assert [hit.id for hit in hits] == expected(reweighted @ reweighted[7], (7,))
    assert [hit.id for hit in hits] != [hit.id for hit in index.similar(id=key(7), fields={"features": 1})]


@pytest.mark.parametrize("towards", [None, "tabby cat"])
def test_a_filter_and_a_minimum_score_hold_for_examples_too(index: Index, towards: str | None) -> None:
    kept = [key(item) for item in range(0, 60, 3)]
    hits = index.similar(50, id=key(0), where={"id": kept}, towards=towards)
    assert {hit.id for hit in hits} == set(kept) - {key(0)}
    lowest = hits[4].score
    above = index.similar(50, id=key(0), where={"id": kept}, towards=towards, min_score=lowest)
    assert above == [hit for hit in hits if hit.score >= lowest]


def test_a_search_gives_nothing_below_the_minimum_score(index: Index, vectors: FloatArray) -> None:
    hits = index.search(vectors[9])
    assert index.search(vectors[9], min_score=hits[3].score) == [hit for hit in hits if hit.score >= hits[3].score]
    assert index.search(vectors[9], min_score=1.5) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, QueryError, "there is no example; expected a gif, an image or an id"),
        ({"id": "nobody"}, QueryError, "has no item 'nobody'"),
        ({"id": key(1), "minus": key(1)}, QueryError, "the examples cancel out"),
        ({"id": key(1), "towards": "siamees cat"}, EncoderError, r"did you mean .*Siamese cat \(1\)"),
        ({"id": key(1), "towards": "crane"}, EncoderError, r"the classes crane \(2\), crane \(3\) have the name"),
        ({"id": key(1), "towards": 4}, EncoderError, "there is no class 4; expected a number from 0 to 3"),
        ({"id": key(1), "towards": 1, "fields": {"image": 1}}, QueryError, "towards searches the field features"),
        ({"id": key(1), "towards": 1, "fields": "features"}, QueryError, "but fields is 'features': leave it out"),
        ({"id": key(1), "min_score": float("nan")}, QueryError, "min_score is nan"),
        ({"id": key(1), "min_score": 10**400}, QueryError, "min_score is 1000"),
        ({"id": key(1), "minus": 5}, QueryError, "the examples are a int; expected a list of gifdex.Example or ids"),
        ({"gif": "nowhere.gif"}, QueryError, "cannot read the example nowhere.gif: No such file"),
        ({"gif": b"GIF89a"}, EncoderError, "there is no image encoder 'pixels'"),
    ],
)
def test_a_mistake_gives_one_sentence(
    index: Index, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        index.similar(**options)  # type: ignore[arg-type]


def test_an_example_is_one_thing_with_a_weight_above_zero() -> None:
    with pytest.raises(QueryError, match="an example has gif and id; expected one of gif, image and id"):
        gifdex.Example(gif="a", id="b")
    with pytest.raises(QueryError, match="the weight of an example is 0"):
        gifdex.Example(id="b", weight=0)


def test_an_index_without_features_or_classifier_says_how_to_get_them(
    tmp_path: Path, make_version: Callable[..., Path], vectors: FloatArray, classifier: Classifier
) -> None:
    plain = gifdex.open(make_version(tmp_path / ("1" * 16), vectors[:50]))
    with pytest.raises(QueryError, match="has no classifier of its image encoder pixels"):
        plain.similar(id=key(1), towards="tabby cat")
    classified = gifdex.open(make_version(tmp_path / ("2" * 16), vectors[:50], classifier=classifier))
    with pytest.raises(QueryError, match="does not keep features, which this query needs: build it with"):
        classified.similar(id=key(1), towards="tabby cat")


def test_a_class_may_be_a_number_of_numpy(index: Index) -> None:
    assert index.similar(3, id=key(1), towards=np.int64(1)) == index.similar(3, id=key(1), towards=1)  # type: ignore[arg-type]


def test_a_classifier_of_other_features_is_corrupt(
    tmp_path: Path, make_version: Callable[..., Path], vectors: FloatArray, features: np.ndarray
) -> None:
    other = Classifier(np.zeros((2, 3), np.float32), np.zeros(2, np.float32), ("cat", "dog"), np.zeros(3, np.float32))
    made = make_version(tmp_path / "00000000000000ee", vectors, fields={"features": features}, classifier=other)
    with pytest.raises(CorruptIndexError, match="is for features of 3 dimensions, but those of the index have"):
        gifdex.open(made).similar(id=key(1), towards="cat")
