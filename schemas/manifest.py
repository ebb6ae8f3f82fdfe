"""The manifest of an index version: typed records, their JSON form, and the format version."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from gifdex.schemas.errors import CorruptIndexError, FormatVersionError

FORMAT = "gifdex-index"
FORMAT_VERSION = 4
MANIFEST_NAME = "manifest.json"
# Converts the parsed JSON of one format version to the next.
Upgrade: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class FileRecord:
    """The size and hash of one file of the version."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class EncoderRecord:
    """Which encoder made the vectors; queries need one with the same fingerprint."""

    name: str
    fingerprint: str
    dimensions: int


@dataclass(frozen=True)
class FeaturesRecord:
    """How features were made from GIFs, so that a GIF that is a query is encoded in the same way.

    `sampling` is the strategy and `frames` the maximum number of frames; `precision` is what the image encoder computed
    in; `decoder` is the decoder if it gives other pixels than the usual ones, else None.
    """

    sampling: str
    frames: int
    precision: str
    decoder: str | None


@dataclass(frozen=True)
class ProjectionRecord:
    """Which projection the embeddings went through; `file` holds its tensors."""

    kind: str
    fingerprint: str
    file: str


@dataclass(frozen=True)
class SpaceRecord:
    """The space that a field's vectors lie in: its name and the fingerprint of what maps into it.

    "joint" has the projection's fingerprint; the space of an image encoder's features has that encoder's name and
    fingerprint. Vectors of two spaces cannot be compared.
    """

    name: str
    fingerprint: str


@dataclass(frozen=True)
class ReductionRecord:
    """The leading principal directions of a field's vectors, in which engines look for candidates.

    `dimensions` of them were fitted on `sample` vectors; `file` holds them, float32 (d, dimensions).
    """

    dimensions: int
    sample: int
    file: str


@dataclass(frozen=True)
class RecallRecord:
    """The recall of one engine at its default `num_candidates`, against exact search.

    `at` maps "1", "10" and "100" to the share of the best rows found, over `queries` queries. It is empty if nothing
    was measured.
    """

    queries: int
    at: dict[str, float]


@dataclass(frozen=True)
class EngineRecord:
    """How one engine was built, how it is queried, and its recall.

    The engine sees the leading `dimensions` of the reduction, or of the vectors if there is none. `parameters` are
    those of its build. Up to ten hits are chosen from `num_candidates` of each shard. `vector_recall` is measured
    on vectors of the field, each excluded from its own results; `sentence_recall` on sentences that describe no item
    in particular, None if the field does not answer sentences.
    """

    library: str
    library_version: str
    metric: str
    dimensions: int
    parameters: dict[str, int]
    num_candidates: int
    vector_recall: RecallRecord
    sentence_recall: RecallRecord | None

    @property
    def recall(self) -> float | None:
        """The lower of the two values of recall@10; None if neither was measured."""
        measured = (self.vector_recall, self.sentence_recall)
        found = [recall.at["10"] for recall in measured if recall is not None and "10" in recall.at]
        return min(found, default=None)


@dataclass(frozen=True)
class ShardRecord:
    """One slice of a field: the rows over `items` items from `first_item` on, and their files.

    `vectors` is the file of the rows' vectors. `row_items` maps rows to items; it is None if row i is item
    first_item + i. `engines` names each engine's file. `moments` is the file of the rows' times, in a field of frames.
    """

    first_item: int
    items: int
    rows: int
    vectors: str
    row_items: str | None
    engines: dict[str, str]
    moments: str | None = None


@dataclass(frozen=True)
class CalibrationRecord:
    """How high `sentences` sentences score that describe no item in particular.

    `levels` rise from 0 to 1. `best` are the quantiles at these levels of each sentence's best score, and `all` those
    of its scores with all rows, or with evenly spaced ones of many.
    """

    sentences: int
    levels: tuple[float, ...]
    best: tuple[float, ...]
    all: tuple[float, ...]


@dataclass(frozen=True)
class FieldRecord:
    """A named set of vectors in one space.

    `dtype` is float32 (unit vectors) or float16 (any length). `engine` is the default one of `engines`; a field
    without engines is scanned. `calibration` says what its scores mean; the key may be missing.
    """

    space: SpaceRecord
    dimensions: int
    dtype: str
    rows: int
    shards: tuple[ShardRecord, ...]
    reduction: ReductionRecord | None
    engine: str | None
    engines: dict[str, EngineRecord]
    calibration: CalibrationRecord | None = None


@dataclass(frozen=True)
class TextRecord:
    """The inverted index of the items' words: `file` is an SQLite database with words of `items` items.

    `columns` are what it has the words of: caption, id, tags, and columns of the items' metadata, in the order of the
    database's columns. `library_version` is that of the SQLite that wrote it.
    """

    file: str
    items: int
    columns: tuple[str, ...]
    library_version: str


@dataclass(frozen=True)
class Manifest:
    """Everything a reader must know before it opens the other files.

    `metric` is always "cosine", `items_file` is the table of items, `fields` are the sets of vectors by name, and
    `files` lists every other file of the directory. `features` says how features were made; `classifier` is the file of
    the image encoder's classifier; `text` describes the items' words. A version without one of these keys has None.
    `duplicates` is how many items the build left out as near duplicates of others.

    There is always the field "image", except in a words index: its items are words and its only field is "word". It has
    neither image encoder nor features nor projection: all of these are None.
    """

    format: str
    format_version: int
    created_by: str
    build_id: str
    items: int
    metric: str
    image_encoder: EncoderRecord | None
    features_fingerprint: str | None
    text_encoder: EncoderRecord
    projection: ProjectionRecord | None
    items_file: str
    fields: dict[str, FieldRecord]
    files: dict[str, FileRecord]
    features: FeaturesRecord | None = None
    classifier: str | None = None
    duplicates: int = 0
    text: TextRecord | None = None

    def to_json(self) -> str:
        """Return the manifest as indented JSON; equal manifests give equal text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str, upgrades: Mapping[int, Upgrade]) -> Manifest:
        """Read a manifest; `where` names its place in errors, `upgrades` turn older formats into the next one.

        Raises FormatVersionError for a newer format and CorruptIndexError for anything unreadable.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise CorruptIndexError(
                f"{where} is not JSON ({err}); expected the manifest of an index: restore it or rebuild"
            ) from err
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise CorruptIndexError(
                f'{where} is not the manifest of a gifdex index: expected "format": "{FORMAT}"; '
                "point to a store or to one of its versions"
            )
        version = value.get("format_version")
        if not isinstance(version, int) or version < 1:
            raise CorruptIndexError(f'{where} has "format_version": {version!r}; expected a whole number: rebuild')
        if version > FORMAT_VERSION:
            raise FormatVersionError(
                f"{where} has format version {version}, but this gifdex reads up to {FORMAT_VERSION}: upgrade gifdex"
            )
        try:
            for number in range(version, FORMAT_VERSION):
                value = upgrades[number](value)
            return typing.cast(Manifest, decode(cls, value, "manifest"))
        except (TypeError, KeyError, OverflowError, AttributeError) as err:
            raise CorruptIndexError(f"{where} is damaged ({err.args[0]}): restore it or rebuild") from err


def decode(kind: Any, value: Any, where: str) -> Any:
    """Turn parsed JSON into `kind`: a dataclass, tuple[X, ...], dict[str, X], X | None or a plain type.

    A key may be missing where the dataclass has a default. Raises TypeError or KeyError with the path of the value,
    beginning with `where`.
    """
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        _expect(value, dict, where)
        hints = typing.get_type_hints(kind)
        optional = {field.name for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING}
        missing = [name for name in hints if name not in value and name not in optional]
        if missing:
            raise KeyError(f"{where}.{missing[0]} is missing")
        given = {name: hint for name, hint in hints.items() if name in value}
        return kind(**{name: decode(hint, value[name], f"{where}.{name}") for name, hint in given.items()})
    if origin is types.UnionType:  # X | None
        return None if value is None else decode(typing.get_args(kind)[0], value, where)
    if origin is tuple:
        _expect(value, list, where)
        return tuple(decode(typing.get_args(kind)[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        _expect(value, dict, where)
        return {name: decode(typing.get_args(kind)[1], v, f"{where}.{name}") for name, v in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    _expect(value, kind, where)
    return value


def _expect(value: Any, kind: type | types.GenericAlias, where: str) -> None:
    if type(value) is not kind:
        raise TypeError(f"{where} is {value!r:.60}, expected {getattr(kind, '__name__', kind)}")
