"""The manifest of an index version: typed records, their JSON form, and the format version."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from typing import Any

from gifdex.schemas.errors import CorruptIndexError, FormatVersionError

FORMAT = "gifdex-index"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class FileFacts:
    """What one file of the version must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class EncoderFacts:
    """Which encoder made the vectors; a query must come from one of the same fingerprint."""

    name: str
    fingerprint: str
    dimensions: int


@dataclass(frozen=True)
class ProjectionFacts:
    """Which projection the embeddings went through; `file` holds its tensors."""

    kind: str
    fingerprint: str
    file: str


@dataclass(frozen=True)
class EngineFacts:
    """Which library proposes candidates, and how its files were built."""

    name: str
    library_version: str
    metric: str
    trees: int
    seed: int
    threads: int


@dataclass(frozen=True)
class ShardFacts:
    """One slice of the index: its count of items, its candidate index and its vectors."""

    items: int
    annoy: str
    vectors: str


@dataclass(frozen=True)
class QualityFacts:
    """What was measured on this version: the engine's recall@k over `queries` of its own vectors."""

    queries: int
    k: int
    engine_recall: float


@dataclass(frozen=True)
class Manifest:
    """Everything a reader must know before it maps a byte of the other files.

    `dimensions` is the joint space's, `metric` what scores are (always "cosine"), `items_file` the Parquet
    table of items in row order, and `files` has every other file of the directory.
    """

    format: str
    format_version: int
    created_by: str
    build_id: str
    items: int
    dimensions: int
    metric: str
    engine: EngineFacts
    image_encoder: EncoderFacts
    features_fingerprint: str
    text_encoder: EncoderFacts
    projection: ProjectionFacts
    items_file: str
    shards: tuple[ShardFacts, ...]
    quality: QualityFacts
    files: dict[str, FileFacts]

    def to_json(self) -> str:
        """Return the manifest as indented JSON; equal manifests give equal text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Read a manifest; `where` names its place in errors.

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
            return typing.cast(Manifest, _decode(cls, value, "manifest"))
        except (TypeError, KeyError, OverflowError) as err:
            raise CorruptIndexError(f"{where} is damaged ({err.args[0]}): restore it or rebuild") from err


def _decode(kind: Any, value: Any, where: str) -> Any:
    """Turn parsed JSON into `kind`: a dataclass, tuple[X, ...], dict[str, X] or a plain type."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        _expect(value, dict, where)
        hints = typing.get_type_hints(kind)
        missing = [name for name in hints if name not in value]
        if missing:
            raise KeyError(f"{where}.{missing[0]} is missing")
        return kind(**{name: _decode(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})
    if origin is tuple:
        _expect(value, list, where)
        return tuple(_decode(typing.get_args(kind)[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        _expect(value, dict, where)
        return {name: _decode(typing.get_args(kind)[1], v, f"{where}.{name}") for name, v in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    _expect(value, kind, where)
    return value


def _expect(value: Any, kind: type | types.GenericAlias, where: str) -> None:
    if type(value) is not kind:
        raise TypeError(f"{where} is {value!r:.60}, expected {getattr(kind, '__name__', kind)}")
