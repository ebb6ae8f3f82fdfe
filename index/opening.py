"""Open an index: a store's published version, or one version, on this machine or at a URL."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gifdex.encoders import projections
from gifdex.encoders.projections.base import Projection
from gifdex.index import items as item_files
from gifdex.index.artifact import check_hashes, check_sizes, read_manifest
from gifdex.index.field_records import IMAGE
from gifdex.index.fields import open_field
from gifdex.index.file_watch import FileWatch
from gifdex.index.lookup import Index
from gifdex.index.opened import Opened
from gifdex.index.queries.examples import ExampleEncoder
from gifdex.index.queries.sentences import SentenceEmbedder
from gifdex.index.store import resolve
from gifdex.index.text_file import TextFile
from gifdex.schemas.errors import ArtifactError, CorruptIndexError, ProjectionError
from gifdex.schemas.files import is_url
from gifdex.schemas.manifest import Manifest, ProjectionRecord

_TRIES = 5  # attempts, in case new versions are published while one is opened


@dataclass(frozen=True)
class _Here:
    """What the encoders of an index are called on this machine, None if unchanged."""

    text_encoder: str | None
    image_encoder: str | None
    weights: Path | None


def open_index(
    path: str | os.PathLike[str],
    *,
    verify: bool = False,
    text_encoder: str | None = None,
    image_encoder: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Index:
    """Open a store's published version, or one version's folder, on this machine or at a URL such as s3://bucket/index.

    A version at a URL is first copied into a local `cache` (default: $GIFDEX_CACHE, or gifdex in the user's cache
    folder). Only missing files are downloaded, and each is checked by its SHA-256.

    `text_encoder` names the index's text encoder if it has another path here, such as glove:<file>, or is at a URL. A
    different encoder is refused at the first sentence. `image_encoder` and `weights` do the same for GIFs and pictures
    as queries: the image encoder's name, and the file of its weights if it takes one.

    Before it maps a file, it checks the format version, sizes, counts and dimensions, in milliseconds. Offsets in the
    default engine's files are bounds-checked here or as they are followed, those of other engines from their first
    search on. `verify` also hashes every file (about a second per gigabyte), as `gifdex verify`
    does; without it, altered vectors are not noticed. Raises an ArtifactError that says what is wrong.
    """
    here = _Here(text_encoder, image_encoder, None if weights is None else Path(weights))
    if is_url(path):
        try:
            return _open_version(local_version(path, cache), verify, here)
        except CorruptIndexError:  # the cache may be damaged
            return _open_version(local_version(path, cache, distrust=True), verify, here)
    for _ in range(_TRIES - 1):
        version = resolve(Path(path))
        try:
            return _open_version(version, verify, here)
        except ArtifactError:
            if resolve(Path(path)) == version:
                raise
            # Another version was published, and this one pruned, while it was being opened.
    return _open_version(resolve(Path(path)), verify, here)


def local_version(
    path: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None, *, distrust: bool = False
) -> Path:
    """Return the folder of the version at a path or, for a URL, of its copy in the cache.

    `distrust` hashes the cached files. Raises as `open_index` does.
    """
    if not is_url(path):
        return resolve(Path(path))
    from gifdex.index.store import fetch  # which takes a tenth of a second to import

    return fetch.fetch(str(path), None if cache is None else Path(cache), distrust=distrust)


def _open_version(version: Path, verify: bool, here: _Here) -> Index:
    manifest = read_manifest(version)
    used = check_sizes(version, manifest)
    if verify:
        check_hashes(version, manifest)
    in_memory = set()  # read when opened; the others are mapped
    if manifest.projection is not None:
        in_memory.add(manifest.projection.file)
    for record in manifest.fields.values():
        read_now = (shard for shard in record.shards if shard.moments is None)
        in_memory |= {shard.row_items for shard in read_now if shard.row_items is not None}
        in_memory |= set() if record.reduction is None else {record.reduction.file}
    watch = FileWatch(version / name for name in used if name not in in_memory)
    items = item_files.load(version / manifest.items_file, manifest.items)
    projection = None if manifest.projection is None else _projection(version, manifest, manifest.projection)
    fields = {name: open_field(version, name, record, manifest.items) for name, record in manifest.fields.items()}
    embedder = SentenceEmbedder(version, manifest.text_encoder, projection, here.text_encoder)
    text = None if manifest.text is None else TextFile(version / manifest.text.file, manifest.text, manifest.items)
    opened = Opened(version, manifest, fields, items, watch, text)
    return Index(opened, embedder, ExampleEncoder(opened, projection, here.image_encoder, here.weights))


def _projection(version: Path, manifest: Manifest, record: ProjectionRecord) -> Projection:
    path, dimensions = version / record.file, manifest.fields[IMAGE].dimensions
    try:
        projection = projections.load(path)
    except ProjectionError as err:
        raise CorruptIndexError(f"{err}; restore the index or rebuild it") from err
    if projection.dimensions != dimensions:
        raise CorruptIndexError(
            f"{path} has {projection.dimensions} dimensions, but the manifest says {dimensions}: restore the file or "
            "rebuild"
        )
    return projection
