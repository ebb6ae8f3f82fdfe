"""Open an index: a store's published version, or one version, on this machine or at a URL."""

from __future__ import annotations

import os
from pathlib import Path

from gifdex.encoders import projections
from gifdex.encoders.projections.base import Projection
from gifdex.index import items as item_files
from gifdex.index.artifact import check_hashes, check_sizes, read_manifest
from gifdex.index.field_records import IMAGE
from gifdex.index.fields import open_field
from gifdex.index.file_watch import FileWatch
from gifdex.index.lookup import Index
from gifdex.index.queries.sentences import SentenceEmbedder
from gifdex.index.store import resolve
from gifdex.schemas.errors import ArtifactError, CorruptIndexError, ProjectionError
from gifdex.schemas.files import is_url
from gifdex.schemas.manifest import Manifest

_TRIES = 5  # versions that may be published while one is opened


def open_index(
    path: str | os.PathLike[str],
    *,
    verify: bool = False,
    text_encoder: str | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Index:
    """Open a store's published version, or one version's folder, on this machine or at a URL such as s3://bucket/index.

    What a URL publishes is first brought into a local `cache` (default: $GIFDEX_CACHE, or gifdex in the user's cache
    folder): only files that it does not have, each checked by its SHA-256.

    `text_encoder` names the encoder of sentences where the one that the manifest names lies elsewhere here, such as
    glove:<file>, or is behind a URL; another one than the index was built with is refused when a sentence comes.

    Format version, sizes, counts and dimensions are checked before a byte is mapped, and of the engine that answers
    (of others when they are first asked) that no node leads out of its file, which takes milliseconds. `verify`
    hashes every file too (a second for a gigabyte or so), as `gifdex verify` does: without it, bytes of a vector
    that were altered in place are not noticed. Raises an ArtifactError that says what is wrong.
    """
    if is_url(path):
        try:
            return _open_version(local_version(path, cache), verify, text_encoder)
        except CorruptIndexError:  # the cache may have rotted
            return _open_version(local_version(path, cache, distrust=True), verify, text_encoder)
    for _ in range(_TRIES - 1):
        version = resolve(Path(path))
        try:
            return _open_version(version, verify, text_encoder)
        except ArtifactError:
            if resolve(Path(path)) == version:
                raise
            # Another version was published, and this one pruned, while it was being opened.
    return _open_version(resolve(Path(path)), verify, text_encoder)


def local_version(
    path: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None, *, distrust: bool = False
) -> Path:
    """Return the version's folder that a path stands for or, of a URL, the folder of the cache that it is brought to.

    `distrust` hashes what the cache has of it. Raises as `open_index` does.
    """
    if not is_url(path):
        return resolve(Path(path))
    from gifdex.index.store import fetch  # which takes a tenth of a second to import

    return fetch.fetch(str(path), None if cache is None else Path(cache), distrust=distrust)


def _open_version(version: Path, verify: bool, text_encoder: str | None) -> Index:
    manifest = read_manifest(version)
    used = check_sizes(version, manifest)
    if verify:
        check_hashes(version, manifest)
    in_memory = {manifest.projection.file}  # read at opening, where the others are mapped
    for record in manifest.fields.values():
        in_memory |= {shard.row_items for shard in record.shards if shard.row_items is not None}
        in_memory |= set() if record.reduction is None else {record.reduction.file}
    watch = FileWatch(version / name for name in used if name not in in_memory)
    items = item_files.load(version / manifest.items_file, manifest.items)
    projection = _projection(version, manifest)
    fields = {name: open_field(version, name, record, manifest.items) for name, record in manifest.fields.items()}
    embedder = SentenceEmbedder(version, manifest.text_encoder, projection, text_encoder)
    return Index(version, manifest, fields, items, embedder, watch)


def _projection(version: Path, manifest: Manifest) -> Projection:
    path, dimensions = version / manifest.projection.file, manifest.fields[IMAGE].dimensions
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
