"""Check sentences, and embed them with the text encoder that the index was built with."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gifdex.encoders import registry
from gifdex.encoders.base import FloatArray, TextEncoder, encode_known
from gifdex.encoders.projections.base import Projection
from gifdex.index.kinds import only_gifs
from gifdex.schemas.errors import EncoderError, QueryError, WeightsError
from gifdex.schemas.manifest import EncoderRecord


class SentenceEmbedder:
    """Maps sentences into an index's joint space. Loads the encoder at first use; safe to use from several threads."""

    def __init__(
        self, path: Path, record: EncoderRecord, projection: Projection | None, encoder_name: str | None
    ) -> None:
        """Take the index's path, text encoder and projection, which a words index does not have.

        `encoder_name` is the encoder's name here, None if unchanged.
        """
        self._path = path
        self._record = record
        self._projection = projection
        self._name = encoder_name
        self._encoder: TextEncoder | None = None
        self._lock = threading.Lock()  # one thread loads the encoder, the others wait for it

    def embed(self, sentences: Sequence[str]) -> FloatArray:
        """Return n sentences as unit embeddings float32 (n, d); raises QueryError and EncoderError."""
        projection, checked = self._required(), checked_sentences(sentences)
        return projection.embed_texts(self._loaded()(checked))

    def embed_known(self, sentences: Sequence[str]) -> tuple[list[int], FloatArray]:
        """Return the positions (k,) of the sentences with a known word, and their embeddings (k, d)."""
        projection, checked = self._required(), checked_sentences(sentences)
        places, vectors = encode_known(self._loaded(), checked)
        return places, projection.embed_texts(vectors)

    def _required(self) -> Projection:
        if self._projection is None:
            raise only_gifs(self._path)
        return self._projection

    def _loaded(self) -> TextEncoder:
        with self._lock:
            if self._encoder is None:
                encoder, record = self._construct(), self._record
                if encoder.fingerprint != record.fingerprint:
                    raise EncoderError(
                        f"the index {self._path} was built with the text encoder {record.name} ({record.fingerprint}), "
                        f"but the query would be encoded by {encoder.name} ({encoder.fingerprint}): use the "
                        "encoder and the weights of the build, or rebuild"
                    )
                self._encoder = encoder
            return self._encoder

    def _construct(self) -> TextEncoder:
        """Return the text encoder that the caller named, or else the manifest's."""
        record = self._record
        if self._name is not None:
            return registry.text_encoder(self._name)
        here = "with --text-encoder, or text_encoder= in gifdex.open"
        if "://" in record.name:  # a module is a program, and an index may come from anyone
            raise EncoderError(
                f"the index {self._path} was built with the text encoder {record.name} ({record.fingerprint}), which "
                f"would be downloaded and run: if you trust it, name it {here}"
            )
        try:
            return registry.text_encoder(record.name)
        except WeightsError as err:
            raise WeightsError(
                f"the index {self._path} was built with the text encoder {record.name} ({record.fingerprint}), which "
                f"is not available here: give its new place {here} ({err})"
            ) from err


def checked_sentences(query: object) -> list[str]:
    """Return one or several sentences as a list; raises QueryError for anything else."""
    given: list[Any] = [query] if isinstance(query, str) or not isinstance(query, Iterable) else list(query)
    for sentence in given:
        if not isinstance(sentence, str):
            raise QueryError(
                f"the query holds a {type(sentence).__name__}; expected a sentence, a list of sentences, or vectors as "
                "a numpy array"
            )
        if not sentence.strip():
            raise QueryError("the sentence is empty; expected words, such as 'a cat playing the piano'")
        try:
            sentence.encode()
        except UnicodeEncodeError as err:  # such as command line arguments that are not UTF-8
            raise QueryError(f"the sentence {sentence!r:.60} is not valid text; expected words in UTF-8") from err
    return given
