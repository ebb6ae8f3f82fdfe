"""A projection that needs no captions: it is fitted from the image encoder's classifier.

An image is mapped to the sum of two unit vectors in the text encoder's space:

1. A linear map. The classifier's weight vectors serve as images and the sentences "a photo of a <label>" as their
   captions; ridge regression maps the former to the latter. Its strength is chosen by leave-one-out retrieval of
   each class's sentence, without any caption or GIF.
2. ConSE (Norouzi et al., "Zero-Shot Learning by Convex Combination of Semantic Embeddings", 2013,
   arXiv:1312.5650): the mean of the label sentences, weighted by the class probabilities.

Both sides are centred: labels by their own mean, sentences by the mean of 320 plain scene descriptions that
ship with gifdex (people do not describe scenes in the form of label sentences), features by their expected value over
the classifier's training photographs (Classifier.feature_mean).
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import Classifier, FloatArray, ImageEncoder, TextEncoder, fingerprint, unit
from gifdex.encoders.projections.base import Projection
from gifdex.schemas.errors import ProjectionError, UnknownWordsError

PROMPT = "a photo of a {}"
# Candidate ridge strengths, as multiples of the mean eigenvalue of the classes' Gram matrix, so that one list fits
# encoders of any scale: half decades from 0.3 % to ten times.
STRENGTHS = tuple(float(s) for s in 10.0 ** np.arange(-2.5, 1.01, 0.5))
_METHOD = {"method": "ridge+conse", "version": 1, "prompt": PROMPT, "strengths": list(STRENGTHS)}

_Wide = NDArray[np.float64]


class ZeroShotProjection(Projection):
    """u(u((x - c_image) image_map) + u(p label_embeddings)) for features x, and u(s - c_text) for a sentence vector s.

    p are the class probabilities softmax(classifier_weight x + classifier_bias), c the centers, and u(v) = v / |v|.
    """

    kind = "zero-shot"
    AXES = {  # noqa: RUF012
        "image_center": "i",
        "image_map": "id",
        "classifier_weight": "ci",
        "classifier_bias": "c",
        "label_embeddings": "cd",
        "text_center": "d",
    }

    @property
    def dimensions(self) -> int:
        """Size of the joint space."""
        return int(self.tensors["image_map"].shape[1])

    @property
    def image_dimensions(self) -> int:
        """Size of the features it takes."""
        return int(self.tensors["image_map"].shape[0])

    @property
    def text_dimensions(self) -> int:
        """Size of the sentence vectors it takes: the joint space is the text encoder's."""
        return self.dimensions

    def _map_images(self, features: FloatArray) -> FloatArray:
        t = self.tensors
        linear = unit((features - t["image_center"]) @ t["image_map"])
        logits = features @ t["classifier_weight"].T + t["classifier_bias"]
        logits -= logits.max(axis=1, keepdims=True)
        probabilities = np.exp(logits)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return unit(linear + unit(probabilities @ t["label_embeddings"]))

    def _map_texts(self, vectors: FloatArray) -> FloatArray:
        return unit(vectors - self.tensors["text_center"])


def scene_descriptions() -> list[str]:
    """Return the sentences whose mean is the centre of sentence vectors."""
    text = files("gifdex.encoders.projections").joinpath("scene_descriptions.txt").read_text(encoding="utf-8")
    return text.splitlines()


def recipe_fingerprint(image: ImageEncoder, text: TextEncoder) -> str:
    """Return a hash of `fit`'s inputs: equal recipes give equal projections."""
    labels = _classifier(image).labels
    encoders = {"image": image.fingerprint, "text": text.fingerprint}
    return fingerprint({**_METHOD, **encoders, "labels": labels, "sentences": scene_descriptions()})


def _classifier(image: ImageEncoder) -> Classifier:
    classifier = image.classifier()
    if classifier is None:
        raise ProjectionError(
            f"the image encoder {image.name} has no classifier to fit a zero-shot projection from: "
            "give a trained projection with --projection FILE"
        )
    return classifier


def fit(image: ImageEncoder, text: TextEncoder) -> ZeroShotProjection:
    """Return the zero-shot projection from `image`'s features into `text`'s space.

    Raises ProjectionError if the image encoder has no classifier.
    """
    classifier = _classifier(image)
    weights = classifier.weight.astype(np.float64)
    labels = _sentences(text, [PROMPT.format(label) for label in classifier.labels])
    sources, targets = weights - weights.mean(axis=0), labels - labels.mean(axis=0)
    strength, image_map, reciprocal_rank = _ridge(sources, targets)
    tensors = {
        "image_center": classifier.feature_mean,
        "image_map": image_map.astype(np.float32),
        "classifier_weight": classifier.weight,
        "classifier_bias": classifier.bias,
        "label_embeddings": targets.astype(np.float32),
        "text_center": _sentences(text, scene_descriptions()).mean(axis=0).astype(np.float32),
    }
    metadata = {
        **_METHOD,
        "image_encoder": {"name": image.name, "fingerprint": image.fingerprint, "dimensions": image.dimensions},
        "text_encoder": {"name": text.name, "fingerprint": text.fingerprint, "dimensions": text.dimensions},
        "classes": len(classifier.labels),
        "scene_descriptions": len(scene_descriptions()),
        "strength": strength,
        "leave_one_out_reciprocal_rank": round(reciprocal_rank, 4),
    }
    return ZeroShotProjection(tensors, metadata)


def _sentences(text: TextEncoder, sentences: list[str]) -> _Wide:
    """Encode our own sentences; raises ProjectionError if the encoder knows no word of one."""
    try:
        return text(sentences).astype(np.float64)
    except UnknownWordsError as err:
        raise ProjectionError(
            f"{text.name} knows no word of {len(err.positions):,} of the {len(sentences):,} English sentences that a "
            f"zero-shot projection is fitted with, such as {sentences[err.positions[0]]!r}: choose a text encoder with "
            "a larger vocabulary, or give a trained projection with --projection FILE"
        ) from err


def _ridge(sources: _Wide, targets: _Wide) -> tuple[float, _Wide, float]:
    """Fit targets (n, e) from sources (n, d); return the best strength, the map (d, e) and its score.

    In the dual form the fit is sources.T @ inverse(G + s I) @ targets, where G is the Gram matrix. A fit without row i
    predicts target_i - (inverse @ targets)_i / inverse_ii for row i (Rasmussen and Williams, "Gaussian Processes for
    Machine Learning", 2006, equation 5.12).
    """
    values, vectors = np.linalg.eigh(sources @ sources.T)
    best: tuple[float, float, _Wide] | None = None
    for strength in STRENGTHS:
        inverse = (vectors / (values + strength * values.mean())) @ vectors.T
        dual = inverse @ targets
        held_out = targets - dual / np.diag(inverse)[:, None]
        score = _mean_reciprocal_rank(unit(targets), unit(held_out))
        if best is None or score > best[0]:
            best = (score, strength, dual)
    assert best is not None
    score, strength, dual = best
    return strength, sources.T @ dual, score


def _mean_reciprocal_rank(queries: FloatArray, answers: FloatArray) -> float:
    """Return the mean of 1 / rank of answer i for query i, by cosine of unit rows."""
    cosines = queries @ answers.T
    ranks = 1 + (cosines > np.diag(cosines)[:, None]).sum(axis=1)
    return float((1.0 / ranks).mean())
