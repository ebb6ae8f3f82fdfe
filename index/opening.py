"""Open an index: a store's published version, or one version, on this machine or at a URL."""

from __future__ import annotations

import os
from pathlib import Path

from gifdex.encoders import projections
from gifdex.index import items as item_files
from gifdex.index import reduction as reductions
from gifdex.index.artifact import check_hashes, check_sizes, read_manifest
from gifdex.index.lookup import Index
from gifdex.index.search import Searcher, open_shards
from gifdex.index.store import resolve
from gifdex.index.unchanged import Unchanged
from gifdex.schemas.errors import ArtifactError, CorruptIndexError, ProjectionError
from gifdex.schemas.files import is_url

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
            return _open_version(located(path, cache), verify, text_encoder)
        except CorruptIndexError:  # the cache may have rotted
            return _open_version(located(path, cache, distrust=True), verify, text_encoder)
    for _ in range(_TRIES - 1):
        version = resolve(Path(path))
        try:
            return _open_version(version, verify, text_encoder)
        except ArtifactError:
            if resolve(Path(path)) == version:
                raise
            # Another version was published, and this one pruned, while it was being opened.
    return _open_version(resolve(Path(path)), verify, text_encoder)


def located(
    path: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None, *, distrust: bool = False
) -> Path:
    """Return the version's folder that a path stands for or, of a URL, the folder of the cache that it is brought to.

    `distrust` hashes what the cache has of it. Raises as `open_index` does.
    """
    if not is_url(path):
        return resolve(Path(path))
    from gifdex.index import remote  # which takes a tenth of a second to import

    return remote.fetch(str(path), None if cache is None else Path(cache), distrust=distrust)


def _open_version(version: Path, verify: bool, text_encoder: str | None) -> Index:
    manifest = read_manifest(version)
    read = {
        manifest.projection.file,
        manifest.reduction and manifest.reduction.file,
    }  # into memory; the others are mapped
    unchanged = Unchanged(version / name for name in check_sizes(version, manifest) if name not in read)
    if verify:
        check_hashes(version, manifest)
    items = item_files.load(version / manifest.items_file, manifest.items)
    try:
        projection = projections.load(version / manifest.projection.file)
    except ProjectionError as err:
        raise CorruptIndexError(f"{err}; restore the index or rebuild it") from err
    if projection.dimensions != manifest.dimensions:
        raise CorruptIndexError(
            f"{version / manifest.projection.file} has {projection.dimensions} dimensions, but the manifest says "
            f"{manifest.dimensions}: restore the file or rebuild"
        )
    reduction = None
    if (facts := manifest.reduction) is not None:
        reduction = reductions.load(version / facts.file, manifest.dimensions, facts.dimensions)
    shards = open_shards(version, manifest.shards, manifest.dimensions, reduction is not None)
    for shard in shards:
        shard.check(manifest.engines)
    searcher = Searcher(shards, manifest.engines, reduction)
    return Index(version, manifest, searcher, items, projection, unchanged, text_encoder)
