"""The projection that is fitted without captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gifdex.encoders.base import Classifier, FloatArray, Frames
from gifdex.encoders.images.efficientnet import EfficientNetLite
from gifdex.encoders.projections import zero_shot
from gifdex.encoders.projections.base import Projection
from gifdex.encoders.projections.zero_shot import PROMPT, STRENGTHS, fit, recipe_fingerprint, scene_descriptions
from gifdex.encoders.texts.use_multilingual import UseMultilingual
from gifdex.schemas.errors import ProjectionError

Wide = NDArray[np.float64]
LABELS = ("cat", "dog", "piano", "ocean", "bicycle", "teapot", "volcano", "violin", "tractor", "owl")


class MeanColour:
    """A real, if simple, image encoder: a frame's mean colour, and a linear map of it to ten classes or none."""

    name = "mean-colour"
    dimensions = 3
    frame_size = (8, 8)
    precision = "float32"
    batch_frames = 8

    def __init__(self, labels: tuple[str, ...] | None, fingerprint: str = "00") -> None:
        self._labels = labels
        self.fingerprint = fingerprint

    def __call__(self, frames: Frames) -> FloatArray:
        means: FloatArray = frames.mean(axis=(1, 2), dtype=np.float32)
        return means

    def classifier(self) -> Classifier | None:
        if self._labels is None:
            return None
        random = np.random.default_rng(3)
        weight = random.normal(size=(len(self._labels), 3)).astype(np.float32)
        bias = random.normal(size=len(self._labels)).astype(np.float32)
        return Classifier(weight, bias, self._labels, np.array([1, 2, 3], np.float32))


def refitted_without_each_row(sources: Wide, targets: Wide, strength: float) -> Wide:
    """Predict each row i by a ridge regression fitted without row i, in n fits.

    The penalty is that of the full problem, as in the closed form: `strength` times the mean eigenvalue.
    """
    penalty = strength * np.trace(sources @ sources.T) / len(sources)
    predictions = []
    for i, row in enumerate(sources):
        s, t = np.delete(sources, i, axis=0), np.delete(targets, i, axis=0)
        predictions.append(row @ np.linalg.solve(s.T @ s + penalty * np.eye(s.shape[1]), s.T @ t))
    return np.array(predictions)


def mean_reciprocal_rank(targets: Wide, predictions: Wide) -> float:
    """The mean reciprocal rank of prediction i for target i, by cosine."""
    t = targets / np.linalg.norm(targets, axis=1, keepdims=True)
    p = predictions / np.linalg.norm(predictions, axis=1, keepdims=True)
    ranks = [1 + sum(t[i] @ p[j] > t[i] @ p[i] for j in range(len(t)) if j != i) for i in range(len(t))]
    return float(np.mean([1 / rank for rank in ranks]))


def problem(n: int, d: int, e: int, noise: float, seed: int) -> tuple[Wide, Wide]:
    random = np.random.default_rng(seed)
    sources = random.normal(size=(n, d))
    return sources, sources @ random.normal(size=(d, e)) + noise * random.normal(size=(n, e))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(4, 20), st.integers(2, 25), st.integers(3, 12), st.sampled_from([0.1, 1, 5]), st.integers(0, 999))
def test_the_score_and_strength_match_refitting_without_each_row(
    n: int, d: int, e: int, noise: float, seed: int
) -> None:
    sources, targets = problem(n, d, e, noise, seed)
    scores = [mean_reciprocal_rank(targets, refitted_without_each_row(sources, targets, s)) for s in STRENGTHS]
    strength, image_map, score = zero_shot._ridge(sources, targets)
    assert score == pytest.approx(max(scores), abs=1e-8)
    assert strength == STRENGTHS[int(np.argmax(scores))]
    penalty = strength * np.trace(sources @ sources.T) / n
    expected = np.linalg.solve(sources.T @ sources + penalty * np.eye(d), sources.T @ targets)
    np.testing.assert_allclose(image_map, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_the_closed_form_in_the_docstring_equals_refitting_without_each_row(seed: int) -> None:
    sources, targets = problem(12, 7, 4, 1.0, seed)
    for strength in STRENGTHS:
        gram = sources @ sources.T
        inverse = np.linalg.inv(gram + strength * np.trace(gram) / 12 * np.eye(12))
        closed = targets - (inverse @ targets) / np.diag(inverse)[:, None]
        np.testing.assert_allclose(closed, refitted_without_each_row(sources, targets, strength), atol=1e-8)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_the_scale_of_an_encoder_changes_neither_strength_nor_predictions(scale: float, seed: int) -> None:
    sources, targets = problem(15, 6, 4, 2.0, seed)
    strength, image_map, score = zero_shot._ridge(sources, targets)
    other_strength, other_map, other_score = zero_shot._ridge(sources * scale, targets)
    assert (other_strength, other_score) == (strength, score)
    np.testing.assert_allclose(other_map * scale, image_map, rtol=1e-6, atol=1e-9)


def test_more_noise_gives_a_stronger_ridge() -> None:
    chosen = [np.mean([zero_shot._ridge(*problem(40, 30, 8, z, seed))[0] for seed in range(10)]) for z in (0.01, 20.0)]
    assert chosen[0] < chosen[1]


def test_an_encoder_without_a_classifier_is_an_error_that_says_what_to_give_instead(sentences: UseMultilingual) -> None:
    with pytest.raises(ProjectionError, match=r"mean-colour has no classifier.*--projection FILE"):
        fit(MeanColour(None), sentences)


@pytest.mark.heavy
def test_the_tensors_follow_from_the_classifier_and_the_sentences(sentences: UseMultilingual) -> None:
    image = MeanColour(LABELS)
    classifier = image.classifier()
    assert classifier is not None
    projection = fit(image, sentences)
    t = projection.tensors
    labels = sentences([PROMPT.format(label) for label in LABELS]).astype(np.float64)
    np.testing.assert_array_equal(t["image_center"], classifier.feature_mean)
    np.testing.assert_array_equal(t["classifier_weight"], classifier.weight)
    np.testing.assert_array_equal(t["classifier_bias"], classifier.bias)
    np.testing.assert_allclose(t["label_embeddings"], labels - labels.mean(axis=0), atol=1e-7)
    np.testing.assert_allclose(t["text_center"], sentences(scene_descriptions()).mean(axis=0), atol=1e-6)
    weights = classifier.weight.astype(np.float64)
    expected = zero_shot._ridge(weights - weights.mean(axis=0), labels - labels.mean(axis=0))
    np.testing.assert_allclose(t["image_map"], expected[1], atol=1e-6)
    assert all(tensor.dtype == np.float32 for tensor in t.values())
    assert projection.metadata["strength"] == expected[0]
    assert projection.metadata["image_encoder"] == {"name": "mean-colour", "fingerprint": "00", "dimensions": 3}
    assert projection.metadata["text_encoder"]["fingerprint"] == sentences.fingerprint
    assert projection.metadata["classes"] == len(LABELS)


def test_equal_recipes_have_equal_fingerprints_and_different_ones_differ(sentences: UseMultilingual) -> None:
    recipe = recipe_fingerprint(MeanColour(LABELS), sentences)
    assert recipe == recipe_fingerprint(MeanColour(LABELS), UseMultilingual())
    assert recipe != recipe_fingerprint(MeanColour(LABELS, fingerprint="01"), sentences)


@pytest.fixture(scope="module")
def real(lite0: EfficientNetLite, sentences: UseMultilingual) -> Projection:
    return fit(lite0, sentences)


@pytest.mark.heavy
def test_fitting_twice_gives_the_same_bytes(real: Projection, sentences: UseMultilingual, tmp_path: Path) -> None:
    again = fit(EfficientNetLite(), sentences)
    assert again.data == real.data
    real.save(tmp_path / "p")
    assert (tmp_path / "p").read_bytes() == again.data


@pytest.mark.heavy
def test_the_real_fit_chooses_a_strength_inside_its_grid_and_generalises(real: Projection) -> None:
    assert min(STRENGTHS) < real.metadata["strength"] < max(STRENGTHS)
    assert real.metadata["leave_one_out_reciprocal_rank"] > 0.15  # chance among 1000 is 0.007
    assert (real.image_dimensions, real.text_dimensions, real.dimensions) == (1280, 512, 512)


@pytest.mark.heavy
def test_each_sentence_finds_its_own_photograph(
    real: Projection, lite0: EfficientNetLite, sentences: UseMultilingual
) -> None:
    skimage = pytest.importorskip("skimage")
    captions: dict[str, Sequence[str]] = {
        "chelsea.png": ("a close-up of a cat's face", "un gato mira a la cámara"),
        "coffee.png": ("a cup of coffee on a wooden table", "eine Tasse Kaffee"),
        "rocket.jpg": ("a rocket stands on its launch pad at night", "une fusée"),
        "motorcycle_left.png": ("a motorcycle in a garage", "мотоцикл в гараже"),
    }
    folder = Path(skimage.__file__).parent / "data"
    photographs = [Image.open(folder / name).convert("RGB").resize((224, 224)) for name in captions]
    images = real.embed_images(lite0(np.stack([np.asarray(photograph) for photograph in photographs])))
    for language in (0, 1):
        texts = real.embed_texts(sentences([both[language] for both in captions.values()]))
        assert (texts @ images.T).argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_the_scene_descriptions_are_many_distinct_plain_lines() -> None:
    lines = scene_descriptions()
    assert len(lines) >= 300
    assert len({line.casefold().rstrip(".") for line in lines}) == len(lines)
    assert all(line == line.strip() and len(line.split()) >= 2 for line in lines)
