"""Build a words index: one item a word, most frequent first, in the vectors of GloVe or in an index's joint space."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version as package_version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from gifdex.encoders.base import FloatArray, fingerprint, unit
from gifdex.encoders.texts.glove import Glove
from gifdex.index import artifact, store
from gifdex.index.build import (
    Engines,
    FieldPlan,
    Origin,
    build_engines,
    finish_version,
    fit_reduction,
    write_items,
    write_rows,
)
from gifdex.index.engines import registry
from gifdex.index.field_records import IMAGE, WORD
from gifdex.index.kinds import only_gifs
from gifdex.index.lookup import Index
from gifdex.index.row_items import distinct_rows
from gifdex.schemas import tables
from gifdex.schemas.errors import ArtifactError, EncoderError, MissingExtraError, PublishError, WorkspaceBusyError
from gifdex.schemas.manifest import FORMAT_VERSION, EncoderRecord, Manifest, SpaceRecord
from gifdex.schemas.progress import QUIET, Progress

if TYPE_CHECKING:
    from threadpoolctl import threadpool_limits

# How many words are mapped into an index's joint space unless the caller says otherwise.
JOINT_WORDS = 20_000
_BLOCK = 1024
_SHARD_BYTES = 1024**3
_LOCK_NAME = ".words.lock"


@dataclass(frozen=True)
class WordList:
    """The words of an index, most frequent first, and what gives their unit vectors float32 (n, d).

    `vectors` may be slow. It returns the positions of the words that have a vector, and these vectors.
    """

    words: Sequence[str]
    vectors: Callable[[Progress], tuple[Sequence[int], FloatArray]]
    encoder: EncoderRecord
    space: SpaceRecord


@dataclass(frozen=True)
class WordsBuilt:
    """A finished and published words index; `is_reused` if it was there already."""

    store: Path
    manifest: Manifest
    is_reused: bool


def glove_words(file: Path | None = None, max_words: int | None = None) -> WordList:
    """Return the words of a GloVe file, or of the package; raises WeightsError or MissingExtraError."""
    glove = Glove(file)
    words, vectors = glove.words()
    words, vectors = words[:max_words], vectors[:max_words]
    encoder = EncoderRecord(glove.name, glove.fingerprint, glove.dimensions)
    space = SpaceRecord("glove", glove.fingerprint)
    return WordList(words, lambda _: (range(len(words)), unit(vectors)), encoder, space)


def joint_words(index: Index, words: Sequence[str] | None = None, max_words: int | None = None) -> WordList:
    """Return words in the joint space of an index of GIFs: as its text encoder and its projection map them.

    Without `words`, these are GloVe's words of letters alone, `max_words` (by default 20,000) of them. Raises
    QueryError for a words index, MissingExtraError without `words` and without GloVe's package.
    """
    if WORD in index.fields:
        raise only_gifs(index.path)
    if words is None:
        named, max_words = Glove().words()[0], max_words or JOINT_WORDS
        words = [word for word in named if word.isalpha()]
    chosen = list(dict.fromkeys(words))[:max_words]

    def vectors(progress: Progress) -> tuple[Sequence[int], FloatArray]:
        places: list[int] = []
        blocks = [np.empty((0, index.dimensions), np.float32)]
        for start in range(0, len(chosen), _BLOCK):
            progress.stage("words", start, len(chosen))
            found, block = index.embed_known(chosen[start : start + _BLOCK])
            places += [start + place for place in found]
            blocks.append(block)
        progress.stage("words", len(chosen), len(chosen))
        return places, np.concatenate(blocks)

    return WordList(chosen, vectors, index.manifest.text_encoder, index.field(IMAGE).space)


def build_words(folder: Path, words: WordList, engines: Engines, progress: Progress = QUIET) -> WordsBuilt:
    """Build a words index in the store at `folder` and publish it.

    The same words, encoder, space and engines give the same version, byte for byte. Raises EncoderError without words,
    PublishError for a folder with anything else in it, WorkspaceBusyError while another process builds there.
    """
    if not words.words:
        raise EncoderError("there are no words to index; expected at least one: give a file with one a line")
    for name in engines:
        registry.kind(name).require()
    build_id = _build_id(words, engines)
    with _held(folder):
        version = folder / build_id
        is_there = _is_whole(version)
        if not is_there:
            with _fixed_order():
                _write(version, words, engines, progress)
        manifest = artifact.verify(version)
        store.publish(folder, build_id)
    return WordsBuilt(folder, manifest, is_there)


def _build_id(words: WordList, engines: Engines) -> str:
    """Hash everything that determines the version's bytes."""
    packages = {registry.kind(name).package for name in engines} - {"numpy"}
    return fingerprint(
        {
            "format_version": FORMAT_VERSION,
            "words": hashlib.sha256("\n".join(words.words).encode()).hexdigest(),
            "text_encoder": [words.encoder.name, words.encoder.fingerprint],
            "space": [words.space.name, words.space.fingerprint],
            "engines": [[name, dict(parameters)] for name, parameters in engines.items()],
            "written_by": [package_version(name) for name in ["gifdex", "numpy", "pyarrow", *sorted(packages)]],
        }
    )


def _is_whole(version: Path) -> bool:
    try:
        artifact.verify(version)
    except (ArtifactError, OSError):
        return False
    return True


def _write(version: Path, words: WordList, engines: Engines, progress: Progress) -> None:
    places, vectors = words.vectors(progress)
    if not len(places):
        raise EncoderError(f"{words.encoder.name} knows none of the {len(words.words):,} words: give other words")
    artifact.clear(version)  # so that a damaged version does not exist while it is rewritten
    write_items(version, _items([words.words[place] for place in places]))
    counts = _shard_sizes(*vectors.shape)
    first = 0
    for number, count in enumerate(counts):
        own = vectors[first : first + count]
        firsts, items = distinct_rows([vector.tobytes() for vector in own])
        write_rows(version, WORD, number, own[firsts], items, count)
        first += count
    progress.stage("engines", 0, len(counts))
    fit_reduction(version, WORD, range(len(counts)))
    for number in range(len(counts)):
        build_engines(version, WORD, number, engines)
        progress.stage("engines", number + 1, len(counts))
    origin = Origin(version.name, None, None, words.encoder)
    finish_version(version, origin, counts, {WORD: FieldPlan(words.space, engines)}, None)


def _items(words: Sequence[str]) -> pa.Table:
    """Return words as items (schema ITEMS): the id is the word, uri and sha256 are empty."""
    empty = pa.array([""] * len(words), pa.string())
    nothing = pa.nulls(len(words), pa.string())
    return pa.table([pa.array(words, pa.string()), empty, empty, nothing, nothing], schema=tables.ITEMS)


def _shard_sizes(words: int, dimensions: int) -> list[int]:
    """Return the sizes of as few shards as keep each one's vectors within a limit."""
    shards = max(1, -(-words * dimensions * 4 // _SHARD_BYTES))
    ends = [words * number // shards for number in range(shards + 1)]
    return [end - start for start, end in pairwise(ends)]


def _fixed_order() -> threadpool_limits:
    try:
        from gifdex.encoders.fixed_order import fixed_order
    except ImportError as err:
        raise MissingExtraError("building a words index", "threadpoolctl", "glove") from err
    return fixed_order()


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Create and lock the store of a words index for the duration of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    _check_store(folder)
    descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise WorkspaceBusyError(
                f"another process builds a words index in {folder}: wait for it, or name another folder"
            ) from err
        store.clear_unfinished(folder)
        yield
    finally:
        os.close(descriptor)


def _check_store(folder: Path) -> None:
    """Raise PublishError if a folder has other versions or other files than those of words indexes."""
    for build_id in store.finished(folder):
        with suppress(ArtifactError):  # a damaged version may be built again
            if WORD not in artifact.read_manifest(folder / build_id).fields:
                raise PublishError(
                    f"{folder} is a store of an index of GIFs; expected a new folder, or a store of words: name another"
                )
    own = {store.POINTER_NAME, store.HISTORY_NAME}
    names = sorted(path.name for path in folder.iterdir())
    others = [name for name in names if not (name in own or name.startswith(".") or store.is_build_id(name))]
    if others:
        raise PublishError(f"{folder} has {others[0]!r:.80}; expected a new folder, or a store of words: name another")
