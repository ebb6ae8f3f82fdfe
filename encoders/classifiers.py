"""An image encoder's classifier: read it from its file, find a class by name, and get class probabilities."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from gifdex.encoders.base import METADATA_KEY, Classifier, FloatArray
from gifdex.schemas.errors import EncoderError, WeightsError

_SUGGESTIONS = 3


def load(path: Path) -> Classifier:
    """Read a classifier that `Classifier.data` wrote; raises WeightsError for anything else."""
    try:
        with safe_open(path, framework="numpy") as opened:
            weight, bias, mean = (opened.get_tensor(name) for name in ("weight", "bias", "feature_mean"))
            labels = json.loads((opened.metadata() or {})[METADATA_KEY])["labels"]
    except (OSError, SafetensorError, TypeError, ValueError, KeyError, RecursionError) as err:
        raise WeightsError(f"cannot read the classifier {path}: {err}; restore the file or build again") from err
    tensors = (weight, bias, mean)
    fits = weight.ndim == 2 and bias.shape == weight.shape[:1] and mean.shape == weight.shape[1:]
    if (
        not fits
        or not len(bias)
        or not all(tensor.dtype == np.float32 and np.isfinite(tensor).all() for tensor in tensors)
    ):
        raise WeightsError(f"the classifier {path} has tensors that do not fit together: restore it or build again")
    if not isinstance(labels, list) or len(labels) != len(bias) or not all(map(_is_label, labels)):
        raise WeightsError(f"the classifier {path} does not name its {len(bias):,} classes: restore it or build again")
    return Classifier(weight, bias, tuple(labels), mean)


def _is_label(label: object) -> bool:
    """Tell whether a label can be shown: text, not empty, without a lone surrogate."""
    return isinstance(label, str) and bool(label.strip()) and label.encode(errors="ignore").decode() == label


def find_class(labels: Sequence[str], wanted: str | int) -> int:
    """Return the number of a class, given by number, or by name in any case and with or without spaces.

    Raises EncoderError for an unknown name, with the nearest ones, and for a name that two classes share.
    """
    if isinstance(wanted, (int, np.integer)) and not isinstance(wanted, bool):
        if 0 <= wanted < len(labels):
            return wanted
        raise EncoderError(f"there is no class {wanted}; expected a number from 0 to {len(labels) - 1:,}, or a name")
    if not isinstance(wanted, str) or not _plain(wanted):
        raise EncoderError(f"the class is {wanted!r:.40}; expected a name such as 'Siamese cat', or a number")
    plain = [_plain(label) for label in labels]
    found = [number for number, label in enumerate(plain) if label == _plain(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise EncoderError(f"the classes {_listed(labels, found)} have the name {wanted!r:.40}: choose one by number")
    near = [label for label in plain if _plain(wanted) in label]
    near += difflib.get_close_matches(_plain(wanted), plain, _SUGGESTIONS, cutoff=0.5)
    numbers = sorted({plain.index(label) for label in list(dict.fromkeys(near))[:_SUGGESTIONS]})
    hint = f"did you mean {_listed(labels, numbers)}?" if numbers else "expected the name or the number of a class"
    raise EncoderError(f"there is no class {wanted!r:.40}; {hint}")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _listed(labels: Sequence[str], numbers: Sequence[int]) -> str:
    return ", ".join(f"{labels[number]} ({number})" for number in numbers)


def best_classes(classifier: Classifier, features: FloatArray, count: int) -> list[list[tuple[str, float]]]:
    """Return the names and probabilities of the `count` most probable classes of features (n, d_image), best first.

    The probabilities of classes with the same name are added up.
    """
    names = list(dict.fromkeys(classifier.labels))
    place = {name: number for number, name in enumerate(names)}
    shares = np.zeros((len(names), len(features)))
    np.add.at(shares, [place[label] for label in classifier.labels], probabilities(classifier, features).T)
    order = np.argsort(-shares, axis=0, kind="stable")[:count].T
    return [[(names[one], float(own[one])) for one in row] for row, own in zip(order.tolist(), shares.T, strict=True)]


def probabilities(classifier: Classifier, features: FloatArray) -> NDArray[np.float64]:
    """Return the class probabilities float64 (n, classes) of features float32 (n, d_image)."""
    logits = features.astype(np.float64) @ classifier.weight.T + classifier.bias
    logits -= logits.max(axis=1, keepdims=True)
    exponentials = np.exp(logits)
    shares: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares
