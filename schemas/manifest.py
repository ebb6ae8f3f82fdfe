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
FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"
# Up to this many items an index of format version 1 was scanned whole.
_FIRST_SCANNED_ITEMS = 20_000


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
class ReductionFacts:
    """The leading principal directions of the vectors, in which engines look for candidates.

    `dimensions` of them were fitted on `sample` vectors; `file` holds them, float32 (d, dimensions).
    """

    dimensions: int
    sample: int
    file: str


@dataclass(frozen=True)
class QualityFacts:
    """What was measured of one engine at its default effort, against exact search.

    `recall` at "1", "10" and "100" hits over `queries` vectors that the answers do not count (of a graph: each asked
    of its own shard before it was added), and `queries_per_second` of one thread, each query alone, without reading
    the items; 0 where it was not measured.
    """

    queries: int
    recall: dict[str, float]
    queries_per_second: float


@dataclass(frozen=True)
class EngineFacts:
    """How one engine's files were built, and how it is asked.

    `dimensions` of the reduction (its leading ones; of the vectors where there is none) are what it sees,
    `parameters` what its build was told. `effort` candidates are rescored for ten hits or fewer.
    """

    library: str
    library_version: str
    metric: str
    dimensions: int
    parameters: dict[str, int]
    effort: int
    quality: QualityFacts


@dataclass(frozen=True)
class ShardFacts:
    """One slice of the index: its count of items, its vectors, and the file of each engine that has one."""

    items: int
    vectors: str
    engines: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """Everything a reader must know before it maps a byte of the other files.

    `dimensions` is the joint space's, `metric` what scores are (always "cosine"), `engine` the one of `engines`
    that answers by default, `items_file` the table of items in row order, and `files` has every other file of the
    directory. A manifest of format version 1 reads as one of version 2 that has no reduction.
    """

    format: str
    format_version: int
    created_by: str
    build_id: str
    items: int
    dimensions: int
    metric: str
    engine: str
    engines: dict[str, EngineFacts]
    reduction: ReductionFacts | None
    image_encoder: EncoderFacts
    features_fingerprint: str
    text_encoder: EncoderFacts
    projection: ProjectionFacts
    items_file: str
    shards: tuple[ShardFacts, ...]
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
            return typing.cast(Manifest, _decode(cls, _upgraded(value) if version == 1 else value, "manifest"))
        except (TypeError, KeyError, OverflowError) as err:
            raise CorruptIndexError(f"{where} is damaged ({err.args[0]}): restore it or rebuild") from err


def _upgraded(value: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of format version 1 in the form of version 2."""
    first = _decode(_FirstManifest, value, "manifest")
    # What version 1 asked for: 2 * trees * 200 of Annoy's nodes, of which an effort stands for a hundred.
    effort = max(200, 4 * first.engine.trees)
    facts = {
        "library": first.engine.name,
        "library_version": first.engine.library_version,
        "metric": first.engine.metric,
        "dimensions": first.dimensions,
        "parameters": {"trees": first.engine.trees, "seed": first.engine.seed, "threads": first.engine.threads},
        "effort": effort,
        "quality": {
            "queries": first.quality.queries,
            "recall": {str(first.quality.k): first.quality.engine_recall},
            "queries_per_second": 0.0,
        },
    }
    # Its scan is of whole vectors: every item is proposed and rescored.
    quality = {"queries": 0, "recall": {}, "queries_per_second": 0.0}
    scan = facts | {"metric": "ip", "parameters": {}, "effort": max(first.items, 1), "quality": quality}
    shards = [
        {"items": shard.items, "vectors": shard.vectors, "engines": {"annoy": shard.annoy}} for shard in first.shards
    ]
    engines = {"annoy": facts, "scan": scan}
    engine = "scan" if first.items <= _FIRST_SCANNED_ITEMS else "annoy"
    return value | {"engine": engine, "engines": engines, "reduction": None, "shards": shards}


@dataclass(frozen=True)
class _FirstEngine:
    name: str
    library_version: str
    metric: str
    trees: int
    seed: int
    threads: int


@dataclass(frozen=True)
class _FirstShard:
    items: int
    annoy: str
    vectors: str


@dataclass(frozen=True)
class _FirstQuality:
    queries: int
    k: int
    engine_recall: float


@dataclass(frozen=True)
class _FirstManifest:
    items: int
    dimensions: int
    engine: _FirstEngine
    shards: tuple[_FirstShard, ...]
    quality: _FirstQuality


def _decode(kind: Any, value: Any, where: str) -> Any:
    """Turn parsed JSON into `kind`: a dataclass, tuple[X, ...], dict[str, X], X | None or a plain type."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        _expect(value, dict, where)
        hints = typing.get_type_hints(kind)
        missing = [name for name in hints if name not in value]
        if missing:
            raise KeyError(f"{where}.{missing[0]} is missing")
        return kind(**{name: _decode(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})
    if origin is types.UnionType:  # X | None
        return None if value is None else _decode(typing.get_args(kind)[0], value, where)
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
