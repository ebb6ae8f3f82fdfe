"""The text encoders `skip-thoughts`, `skip-thoughts-uni` and `skip-thoughts-bi`: the published GRU sentence encoders.

Kiros et al., "Skip-Thought Vectors" (2015, arXiv:1506.06726). Theano and Python 2 wrote the model's files; their GRUs
run in TensorFlow here. As in the original, sentences are tokenized by the Treebank rules. One thing differs: a rule
(., ! or ? and white space) splits a text into sentences, because NLTK's punkt model is a separate download. So a final
period after an abbreviation becomes a token.
"""

from __future__ import annotations

import importlib
import lzma
import re
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gifdex.encoders.base import FloatArray, fingerprint, unit
from gifdex.encoders.tensorflow.runtime import import_keras, import_tensorflow
from gifdex.encoders.texts.object_arrays import DAMAGE, Header, all_finite, read_floats, read_header, read_rows
from gifdex.schemas.errors import EncoderError, MissingExtraError, UnknownWordsError, WeightsError
from gifdex.schemas.files import absolute, sha256_file

Words = NDArray[np.intp]

PUBLISHED_AT = "http://www.cs.toronto.edu/~rkiros/models/"
_FETCH = f"fetch the file from {PUBLISHED_AT} again"
UNKNOWN = "UNK"
# Increment when a change of the tokens or the GRU gives other vectors for the same files.
_REVISION = 1
_BATCH = 128
# Long sentences run in smaller batches: a word of 620 float32 takes 2.5 kB, before the GRU's gates.
_BATCH_WORDS = 8192
# What a damaged zip file may also raise; a RuntimeError if it claims to be encrypted.
_DAMAGE = (*DAMAGE, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, RuntimeError)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class _Part:
    """One of the two models: the files of its GRUs and word vectors, and whether each GRU reads backwards."""

    weights: str
    table: str
    grus: Mapping[str, bool]


_UNI = _Part("uni_skip.npz", "utable.npy", {"encoder": False})
_BI = _Part("bi_skip.npz", "btable.npy", {"encoder": False, "encoder_r": True})
_DICTIONARY = "dictionary.txt"
# kind -> the encoder's name before the colon, and the parts whose vectors are concatenated
_KINDS = {
    "combined": ("skip-thoughts", (_UNI, _BI)),
    "uni": ("skip-thoughts-uni", (_UNI,)),
    "bi": ("skip-thoughts-bi", (_BI,)),
}
# The suffixes of a GRU's arrays and their axes: word dimensions d, units m, two gates g = 2 m.
_GRU_ARRAYS = {"U": "mg", "W": "dg", "b": "g", "Ux": "mm", "Wx": "dm", "bx": "m"}


class SkipThoughts:
    """Sentences to vectors of one or both skip-thoughts models; safe to call from several threads.

    `kind` is uni (one GRU over the words), bi (one forwards and one backwards) or combined (both models). Each model's
    vector has length one, so the combined one has length sqrt 2. `folder` has the published files; only those that the
    kind needs are opened. Unknown words are read as UNK.
    """

    def __init__(self, kind: str, folder: str | Path) -> None:
        if kind not in _KINDS:
            raise EncoderError(f"there is no kind {kind!r} of skip-thoughts: choose one of {', '.join(_KINDS)}")
        self._head, self._parts = _KINDS[kind]
        self._folder = absolute(folder)
        self._lock = threading.Lock()
        self._require_files()

    @property
    def name(self) -> str:
        """Its name in the registry: the kind and the folder's absolute path."""
        return f"{self._head}:{self._folder}"

    @cached_property
    def dimensions(self) -> int:
        """Size of a vector: the units of all GRUs, from their files' headers."""
        return sum(_units(self._folder / part.weights, part) * len(part.grus) for part in self._parts)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the files' bytes and of the tokenization."""
        try:
            files = {name: sha256_file(self._folder / name) for name in self._files}
        except OSError as err:
            raise WeightsError(f"cannot read {err.filename}: {err.strerror}; {_FETCH}") from err
        return fingerprint({"encoder": self._head, "revision": _REVISION, "tokens": "treebank", "files": files})

    def __call__(self, sentences: Sequence[str]) -> FloatArray:
        """Encode n sentences into float32 (n, d).

        Raises UnknownWordsError if a sentence has no words, WeightsError for unusable files, and MissingExtraError
        without nltk or TensorFlow.
        """
        if not sentences:
            return np.zeros((0, self.dimensions), np.float32)
        with self._lock:
            tokenize, rows, models = self._loaded
        texts = [[rows.get(token, rows[UNKNOWN]) for token in tokenize(sentence)] for sentence in sentences]
        if empty := [place for place, words in enumerate(texts) if not words]:
            raise UnknownWordsError(
                f"{self._head} found no word in the sentence {sentences[empty[0]][:80]!r}: give a sentence with at "
                "least one word",
                positions=empty,
            )
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        for batch in _batches([len(words) for words in texts]):
            words = np.array([texts[place] for place in batch])
            vectors[batch] = np.concatenate([unit(model(words)) for model in models], axis=1)
        return vectors

    @property
    def _files(self) -> list[str]:
        return [_DICTIONARY, *(name for part in self._parts for name in (part.table, part.weights))]

    def _require_files(self) -> None:
        absent = [name for name in self._files if not (self._folder / name).is_file()]
        if not self._folder.is_dir() or absent:
            found = f"has no file {absent[0]}" if self._folder.is_dir() else "is not a folder"
            raise WeightsError(
                f"{self._folder} {found}; {self._head} expects the files {', '.join(self._files)} there: check the "
                f"path, or {_FETCH}"
            )

    @cached_property
    def _loaded(self) -> tuple[Callable[[str], list[str]], Mapping[str, int], list[Callable[[Words], FloatArray]]]:
        """The tokenizer, the dictionary's rows by word, and each model as a function from rows to vectors."""
        needed_for = f"the text encoder {self._head}"
        tokenize = _tokenizer(needed_for)
        tf, keras = import_tensorflow(needed_for), import_keras(needed_for)
        # Small files first, to find faults in them before reading gigabytes.
        count, rows = _read_dictionary(self._folder / _DICTIONARY)
        grus = [_read_grus(self._folder / part.weights, part) for part in self._parts]
        tables = [_read_table(self._folder / part.table, count) for part in self._parts]
        for part, encoders, table in zip(self._parts, grus, tables, strict=True):
            if table.shape[1] != (expected := encoders[0].word_dimensions):
                raise WeightsError(
                    f"the word vectors in {self._folder / part.table} have {table.shape[1]} dimensions, but the GRUs "
                    f"in {part.weights} expect {expected}: {_FETCH}"
                )
        return (
            tokenize,
            rows,
            [_model(tf, keras, table, encoders) for table, encoders in zip(tables, grus, strict=True)],
        )


def _tokenizer(needed_for: str) -> Callable[[str], list[str]]:
    """Return a tokenizer whose tokens match the dictionary's words."""
    try:
        treebank = importlib.import_module("nltk.tokenize.destructive").NLTKWordTokenizer()
    except ImportError as err:
        raise MissingExtraError(needed_for, "nltk", "skip-thoughts") from err

    def tokenize(text: str) -> list[str]:
        sentences = _SENTENCE_END.split(text.strip())
        # Joined and split, as in the original: a token may contain white space other than a blank.
        return " ".join(token for sentence in sentences for token in treebank.tokenize(sentence)).split()

    return tokenize


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Turn every error that a file's bytes may cause into a WeightsError with its path."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            yield
    except MemoryError as err:
        raise WeightsError(f"there is not enough memory for {path}: stop other programs, or {_FETCH}") from err
    except OSError as err:
        raise WeightsError(f"cannot read {path}: {err.strerror or err}; {_FETCH}") from err
    except _DAMAGE as err:
        raise WeightsError(f"{path} is not {what} ({str(err) or type(err).__name__}): {_FETCH}") from err


def _read_dictionary(path: Path) -> tuple[int, dict[str, int]]:
    """Return how many lines the dictionary has, and the index of each word's last line."""
    with _reading(path, "a readable dictionary in UTF-8, one word per line"):
        words = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    rows = {word.strip(): row for row, word in enumerate(words)}
    if UNKNOWN not in rows:
        raise WeightsError(f"{path} has {len(words)} lines but none is {UNKNOWN}, the word for all others: {_FETCH}")
    return len(words), rows


def _read_table(path: Path, count: int) -> FloatArray:
    table = read_rows(path)
    if len(table) != count:
        raise WeightsError(
            f"the table {path} has {len(table)} rows, but {_DICTIONARY} beside it has {count} lines: {_FETCH}"
        )
    return table


@dataclass(frozen=True)
class _Gru:
    """A GRU's float32 arrays, by their names in `_GRU_ARRAYS`."""

    arrays: Mapping[str, FloatArray]
    backwards: bool

    @property
    def word_dimensions(self) -> int:
        return int(self.arrays["Wx"].shape[0])

    def layer(self, keras: Any) -> Any:
        """Return it as a Keras layer, whose arrays concatenate update gate, reset gate and candidate."""
        words, units = self.arrays["Wx"].shape
        # reset_after: the reset gate scales h Ux, not h. No jit: it would compile once per sentence length.
        # Initially zeros, because Keras' default, an orthogonal matrix, takes ten seconds at this size.
        layer = keras.layers.GRU(
            units,
            reset_after=True,
            go_backwards=self.backwards,
            dtype="float32",
            kernel_initializer="zeros",
            recurrent_initializer="zeros",
        )
        layer.build((None, None, words))

        def gates(both: str, candidate: str) -> FloatArray:
            reset, update = np.split(self.arrays[both], 2, axis=-1)
            return np.concatenate([update, reset, self.arrays[candidate]], axis=-1)

        bias = gates("b", "bx")
        layer.set_weights([gates("W", "Wx"), gates("U", "Ux"), np.stack([bias, np.zeros_like(bias)])])
        return layer


def _read_grus(path: Path, part: _Part) -> list[_Gru]:
    """Read the part's GRUs without opening other members of the file."""
    _units(path, part)
    with _reading(path, "a readable .npz of weights"), zipfile.ZipFile(path) as archive:
        grus = [
            _Gru({short: _read_member(archive, f"{name}_{short}") for short in _GRU_ARRAYS}, backwards)
            for name, backwards in part.grus.items()
        ]
    for gru in grus:
        if bad := [short for short, array in gru.arrays.items() if not all_finite(array)]:
            raise WeightsError(f"{path} has numbers in {bad[0]} that are not finite: {_FETCH}")
    return grus


def _read_member(archive: zipfile.ZipFile, name: str) -> FloatArray:
    with archive.open(f"{name}.npy") as member:
        array = read_floats(member, read_header(member))
        if member.read():  # reading to the end checks the checksum
            raise ValueError(f"{name} continues after its numbers")
    return array


def _units(path: Path, part: _Part) -> int:
    """Return the units of each of the part's GRUs, from the headers; raises WeightsError for wrong shapes."""
    with _reading(path, "a readable .npz of weights"), zipfile.ZipFile(path) as archive:
        headers = {
            f"{name}_{short}": _member_header(archive, f"{name}_{short}") for name in part.grus for short in _GRU_ARRAYS
        }
        first = headers[f"{next(iter(part.grus))}_Wx"].shape
        if len(first) != 2 or 0 in first:
            raise ValueError(f"encoder_Wx has the shape {first}, expected word dimensions by units")
        sizes = {"d": first[0], "m": first[1], "g": 2 * first[1]}
        for name, header in headers.items():
            expected = tuple(sizes[axis] for axis in _GRU_ARRAYS[name.rpartition("_")[2]])
            if header.shape != expected:
                raise ValueError(
                    f"{name} has the shape {header.shape}, but encoder_Wx of shape {first} needs {expected}"
                )
    return first[1]


def _member_header(archive: zipfile.ZipFile, name: str) -> Header:
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError as err:
        raise ValueError(f"it has no array {name}") from err
    with archive.open(info) as member:
        header = read_header(member)
    if header.dtype.kind != "f" or header.dtype.itemsize > 8 or header.nbytes > info.file_size:
        raise ValueError(f"{name} is {header.dtype} of shape {header.shape} in {info.file_size} bytes, expected floats")
    return header


def _model(tf: Any, keras: Any, table: FloatArray, grus: Sequence[_Gru]) -> Callable[[Words], FloatArray]:
    """Return a function from rows of `table` (n, words), without padding, to the GRUs' last states (n, units)."""
    layers = [gru.layer(keras) for gru in grus]

    def last_states(vectors: Any) -> Any:
        return tf.concat([layer(vectors) for layer in layers], axis=1)

    # One graph for all lengths and batch sizes.
    run = tf.function(last_states, input_signature=[tf.TensorSpec((None, None, table.shape[1]), tf.float32)])

    def encode(words: Words) -> FloatArray:
        try:
            states: FloatArray = run(table[words]).numpy()
        except tf.errors.ResourceExhaustedError as err:
            raise EncoderError(
                f"skip-thoughts ran out of the device's memory with sentences of {words.shape[1]} words: shorten them, "
                "or stop other programs that use the device"
            ) from err
        return states

    return encode


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the indexes of sentences to run together: of equal length, to avoid padding."""
    places = sorted(range(len(lengths)), key=lengths.__getitem__)
    for length, group in groupby(places, key=lengths.__getitem__):
        same = list(group)
        size = min(_BATCH, max(1, _BATCH_WORDS // length))
        yield from (same[at : at + size] for at in range(0, len(same), size))
