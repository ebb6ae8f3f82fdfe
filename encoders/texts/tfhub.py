"""The text encoder `tfhub:<folder or URL>`: a TensorFlow Hub module or another SavedModel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gifdex.encoders.base import FloatArray, fingerprint
from gifdex.encoders.tensorflow.hub_calls import checked_vectors, one_sentence_failures
from gifdex.encoders.tensorflow.hub_module import HubModule
from gifdex.encoders.tensorflow.hub_signature import TEXTS
from gifdex.encoders.tensorflow.runtime import import_tensorflow

SENTENCES_AT_A_TIME = 256


class HubTexts:
    """Sentences to a module's vectors; safe to call from several threads.

    Raises WeightsError if the folder has no module.
    """

    def __init__(self, folder_or_url: str) -> None:
        self._module = HubModule(folder_or_url, TEXTS)
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """`tfhub:` and the folder's absolute path, or the URL as given."""
        return self._module.name

    @property
    def dimensions(self) -> int:
        """Size of a vector; loads the module."""
        return self._module.endpoint.dimensions

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the module's files, which determine its function; a folder's hash needs no TensorFlow."""
        return fingerprint({"encoder": "tfhub texts", "files": self._module.files, "revision": 1})

    @cached_property
    def _run(self) -> Callable[[Any], Any]:
        tf, endpoint = import_tensorflow(f"the encoder {self.name}"), self._module.endpoint
        signature = [tf.TensorSpec(endpoint.shape, tf.string)]
        run: Callable[[Any], Any] = tf.function(
            lambda sentences: checked_vectors(tf, endpoint, sentences), input_signature=signature
        )
        return run

    def __call__(self, sentences: Sequence[str]) -> FloatArray:
        """Encode n sentences into float32 (n, d); raises EncoderError if the module fails."""
        if not len(sentences):
            return np.zeros((0, self.dimensions), np.float32)
        tf = import_tensorflow(f"the encoder {self.name}")
        with self._lock:
            run = self._run
        fixed = self._module.endpoint.shape[0]
        data, size = [sentence.encode(errors="replace") for sentence in sentences], fixed or SENTENCES_AT_A_TIME
        batches = [data[at : at + size] for at in range(0, len(data), size)]
        if fixed:
            batches[-1] += [b""] * (fixed - len(batches[-1]))
        with one_sentence_failures(tf, self.name):
            vectors: FloatArray = np.concatenate([run(tf.constant(batch)).numpy() for batch in batches])
        return vectors[: len(sentences)]
