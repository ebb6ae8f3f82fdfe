"""Tags of items and pictures: classes with probabilities, and the nearest words of a words index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import gifdex
from gifdex.encoders.base import Classifier, FloatArray
from gifdex.encoders.classifiers import best_classes, probabilities
from gifdex.index.build import DEFAULT_ENGINES
from gifdex.index.lookup import Index
from gifdex.index.queries.tags import stop_words
from gifdex.index.words_build import build_words, glove_words, joint_words
from gifdex.schemas.errors import EncoderError, QueryError

ITEMS, FEATURES = 60, 12
LABELS = ("tabby cat", "crane", "piano", "crane")
WORDS = ["the", "cat", "dog", "piano", "of", "ocean", "1,000", "mountain", "cat", "street"]


@pytest.fixture(scope="module")
def vectors(clustered: Callable[..., FloatArray]) -> FloatArray:
    return clustered(ITEMS)


@pytest.fixture(scope="module")
def features(clustered: Callable[..., FloatArray]) -> np.ndarray:
    return (3 * clustered(ITEMS, FEATURES, seed=1)).astype(np.float16)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    random = np.random.default_rng(2)
    weight, bias = random.standard_normal((4, FEATURES)), random.standard_normal(4)
    return Classifier(weight.astype(np.float32), bias.astype(np.float32), LABELS, np.zeros(FEATURES, np.float32))


@pytest.fixture(scope="module")
def tagged(
    tmp_path_factory: pytest.TempPathFactory,
    make_version: Callable[..., Path],
    vectors: FloatArray,
    features: np.ndarray,
    classifier: Classifier,
) -> Index:
    version = tmp_path_factory.mktemp("tags") / ("0" * 16)
    return gifdex.open(make_version(version, vectors, fields={"features": features}, classifier=classifier))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, tagged: Index) -> Index:
    """A words index in the joint space of `tagged`."""
    folder = tmp_path_factory.mktemp("words")
    build_words(folder, joint_words(tagged, WORDS), DEFAULT_ENGINES)
    return gifdex.open(folder)


def test_tags_are_classes_with_probabilities_and_equal_names_are_added_up(
    tagged: Index, features: np.ndarray, classifier: Classifier
) -> None:
    logits = features[7].astype(np.float64) @ classifier.weight.T.astype(np.float64) + classifier.bias
    shares = np.exp(logits) / np.exp(logits).sum()
    expected = {"tabby cat": shares[0], "crane": shares[1] + shares[3], "piano": shares[2]}
    found = tagged.tags(id="gif-00007")
    assert [tag.word for tag in found] == sorted(expected, key=lambda name: -expected[name])
    assert {tag.word: tag.score for tag in found} == pytest.approx(expected)
    assert tagged.tags(1, id="gif-00007") == found[:1]
    assert tagged.tags(id="gif-00007", min_score=found[1].score) == found[:2]


def test_the_best_classes_of_many_are_those_of_each(features: np.ndarray, classifier: Classifier) -> None:
    wide = features.astype(np.float32)
    many = best_classes(classifier, wide, 2)
    for row, found in zip(wide, many, strict=True):
        (alone,) = best_classes(classifier, row[None], 2)
        assert [name for name, _ in found] == [name for name, _ in alone]
        assert dict(found) == pytest.approx(dict(alone))
    assert probabilities(classifier, wide).sum(axis=1) == pytest.approx(1)


def test_the_nearest_words_are_in_the_joint_space_without_stop_words_and_numbers(
    tagged: Index, words: Index, vectors: FloatArray
) -> None:
    assert words.ids == ["the", "cat", "dog", "piano", "of", "ocean", "1,000", "mountain", "street"]
    assert words.manifest.fields["word"].space == tagged.manifest.fields["image"].space
    kept = ["cat", "dog", "piano", "ocean", "mountain", "street"]
    cosines = dict(zip(kept, (tagged.embed(kept) @ vectors[7]).tolist(), strict=True))
    found = tagged.tags(id="gif-00007", words=words)
    assert [tag.word for tag in found] == sorted(cosines, key=lambda word: -cosines[word])
    assert dict(found) == pytest.approx(cosines, abs=1e-6)
    assert {tag.word for tag in tagged.tags(id="gif-00007", words=words, max_rank=4)} == {"cat", "dog", "piano"}


def test_words_of_an_index_may_be_cut_and_asked_for_neighbours(tagged: Index, tmp_path: Path) -> None:
    build_words(tmp_path, joint_words(tagged, WORDS, 3), DEFAULT_ENGINES)
    near = gifdex.open(tmp_path)
    assert near.ids == ["the", "cat", "dog"]
    assert {found.word for found in near.words("cat")} == {"the", "dog"}


def test_stop_words_are_words_of_letters() -> None:
    assert {"the", "of", "with", "a"} <= stop_words()
    assert all(word.isalpha() and word == word.lower() for word in stop_words())


def test_spaces_that_differ_are_refused_with_both_names(tagged: Index, tmp_path: Path) -> None:
    (tmp_path / "vectors.txt").write_text("cat 1 0\ndog 0 1\n")
    build_words(tmp_path / "words", glove_words(tmp_path / "vectors.txt"), DEFAULT_ENGINES)
    other = gifdex.open(tmp_path / "words")
    message = rf"{tagged.path} is in the space joint \(.*, but the words index {other.path} is in the space glove \("
    with pytest.raises(QueryError, match=message):
        tagged.tags(id="gif-00001", words=other)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, QueryError, "there is no example; expected a gif, an image or an id"),
        ({"id": ["gif-00001", "gif-00002"]}, QueryError, "there are 2 examples; expected one GIF"),
        ({"id": "nobody"}, QueryError, "has no item 'nobody'"),
        ({"gif": "nowhere.gif"}, QueryError, "cannot read the example nowhere.gif"),
        ({"gif": b"GIF89a"}, EncoderError, "there is no image encoder 'pixels'"),
        ({"id": "gif-00001", "k": 0}, QueryError, "k is 0; expected at least 1"),
        ({"id": "gif-00001", "words": "words/"}, QueryError, "words is a str; expected a words index"),
        ({"id": "gif-00001", "max_rank": 5}, QueryError, "max_rank is for tags from a words index"),
    ],
)
def test_a_mistake_gives_one_sentence(
    tagged: Index, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tagged.tags(**options)  # type: ignore[arg-type]


def test_only_a_words_index_has_words_for_tags(tagged: Index) -> None:
    with pytest.raises(QueryError, match="is an index of GIFs, but this query needs a words index"):
        tagged.tags(id="gif-00001", words=tagged)


def test_words_go_only_into_the_space_of_an_index_of_gifs(words: Index) -> None:
    with pytest.raises(QueryError, match="is a words index, which has no GIFs"):
        joint_words(words, ["cat"])


def test_an_index_without_features_or_classifier_says_how_to_get_them(
    tmp_path: Path, make_version: Callable[..., Path], vectors: FloatArray, classifier: Classifier
) -> None:
    plain = gifdex.open(make_version(tmp_path / ("1" * 16), vectors[:20]))
    with pytest.raises(QueryError, match="has no classifier of its image encoder pixels"):
        plain.tags(id="gif-00001")
    classified = gifdex.open(make_version(tmp_path / ("2" * 16), vectors[:20], classifier=classifier))
    with pytest.raises(QueryError, match="does not keep features, which this query needs: build it with --keep-feat"):
        classified.tags(id="gif-00001")
