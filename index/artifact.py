"""One index version on disk: the names of its files, and checks against the manifest."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from pathlib import Path

from gifdex.index import field_records, text_file
from gifdex.index.engines.old_formats import UPGRADES
from gifdex.index.field_records import IMAGE, MAX_ITEMS, TEXT, WORD
from gifdex.index.moments import SUFFIX as MOMENTS_SUFFIX
from gifdex.index.row_items import SUFFIX as ROW_ITEMS_SUFFIX
from gifdex.index.vectors import NPY_SUFFIX
from gifdex.schemas.errors import CorruptIndexError, IndexNotFoundError
from gifdex.schemas.files import commit_bytes, sha256_file
from gifdex.schemas.manifest import MANIFEST_NAME, FileRecord, Manifest
from gifdex.schemas.progress import QUIET, Progress

ITEMS_NAME = "items.arrow"
PROJECTION_NAME = "projection.safetensors"
CLASSIFIER_NAME = "classifier.safetensors"
_MIB = 1024**2
# File names that a manifest may have: none that lead out of the version's folder.
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


def stem(field: str, shard: int) -> str:
    """Return the beginning of a shard's file names."""
    return f"{field}-{shard:05d}"


def vectors_name(field: str, shard: int) -> str:
    """Return the name of a shard's vectors."""
    return f"{stem(field, shard)}{NPY_SUFFIX}"


def row_items_name(field: str, shard: int) -> str:
    """Return the name of the file that maps a shard's rows to its items."""
    return f"{stem(field, shard)}{ROW_ITEMS_SUFFIX}"


def moments_name(field: str, shard: int) -> str:
    """Return the name of the file of a shard's times."""
    return f"{stem(field, shard)}{MOMENTS_SUFFIX}"


def reduction_name(field: str) -> str:
    """Return the name of a field's reduction."""
    return f"{field}.reduction.safetensors"


def parse_manifest(text: str, where: str) -> Manifest:
    """Parse a manifest of any known format; raises as `Manifest.from_json` does."""
    return Manifest.from_json(text, where, UPGRADES)


def read_manifest(version: Path) -> Manifest:
    """Return the manifest of a version's folder.

    Raises IndexNotFoundError if there is none, FormatVersionError or CorruptIndexError if it cannot be read.
    """
    path = version / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as err:
        raise IndexNotFoundError(
            f"{version} has no {MANIFEST_NAME}, so it is not a finished index version: name a store or one of its "
            "versions, or build again"
        ) from err
    except (OSError, UnicodeDecodeError) as err:
        raise CorruptIndexError(f"cannot read {path}: {err}; restore the file or rebuild the index") from err
    manifest = parse_manifest(text, str(path))
    _check_records(path, manifest)
    return manifest


def _check_records(path: Path, manifest: Manifest) -> None:
    """Raise CorruptIndexError if the manifest is inconsistent or names an unknown engine."""
    if manifest.duplicates < 0:
        raise CorruptIndexError(
            f"{path} says {manifest.duplicates:,} duplicates; expected 0 or more: restore it or rebuild"
        )
    is_words = set(manifest.fields) == {WORD}
    has_main = is_words or (IMAGE in manifest.fields and WORD not in manifest.fields)
    if manifest.metric != "cosine" or not has_main or not 1 <= manifest.items <= MAX_ITEMS:
        raise CorruptIndexError(
            f"{path} says {manifest.items:,} items, metric {manifest.metric!r:.40} and fields "
            f"{sorted(manifest.fields)!r:.80}; expected 1 to {MAX_ITEMS:,} items, 'cosine' and a field {IMAGE!r}, or "
            f"{WORD!r} alone: restore it or rebuild"
        )
    of_gifs = (manifest.image_encoder, manifest.features_fingerprint, manifest.projection)
    only_gifs = (*of_gifs, manifest.features, manifest.classifier)
    if any(part is not None for part in only_gifs) if is_words else None in of_gifs:
        raise CorruptIndexError(
            f"{path} has the fields {sorted(manifest.fields)!r:.80}, but the image encoder, features and projection of "
            f"an index of {'GIFs' if is_words else 'words'}: restore it or rebuild"
        )
    for name, record in manifest.fields.items():
        if (found := field_records.problem(record, manifest.items)) is not None:
            raise CorruptIndexError(f"{path} is wrong: the field {name!r:.40} {found}; restore it or rebuild")
    if manifest.text is not None and (found := text_file.problem(manifest.text, manifest.items)) is not None:
        raise CorruptIndexError(f"{path} is wrong: the field {TEXT!r} {found}; restore it or rebuild")
    spaces = {(record.space, record.dimensions) for record in manifest.fields.values()}
    names, fingerprints = {space.name for space, _ in spaces}, {space.fingerprint for space, _ in spaces}
    if not len(spaces) == len(names) == len(fingerprints):
        raise CorruptIndexError(
            f"{path} has the spaces {sorted(names)!r:.80}, one of them with two fingerprints or two counts of "
            "dimensions, or two with one fingerprint; expected one of each for each: restore it or rebuild"
        )


def check_names(where: str, manifest: Manifest) -> None:
    """Raise CorruptIndexError unless the manifest at `where` names only files beside it."""
    for name in manifest.files:
        if not _FILE_NAME.fullmatch(name):
            raise CorruptIndexError(
                f"{where} names the file {name!r:.80}; expected the name of a file beside it: restore it or rebuild"
            )


def check_sizes(version: Path, manifest: Manifest) -> list[str]:
    """Return the names of the files in use; raise CorruptIndexError unless all files have the right sizes."""
    check_names(str(version / MANIFEST_NAME), manifest)
    for name, file in manifest.files.items():
        path = version / name
        try:
            found = path.stat()
        except OSError as err:
            raise CorruptIndexError(
                f"cannot read {path}: {err.strerror}; expected {file.bytes:,} bytes: restore the file or rebuild"
            ) from err
        if not stat.S_ISREG(found.st_mode):
            raise CorruptIndexError(f"{path} is not a regular file: restore it or rebuild")
        if found.st_size != file.bytes:
            raise CorruptIndexError(
                f"{path} has {found.st_size:,} bytes, but the manifest says {file.bytes:,}: restore the file or rebuild"
            )
    needed = [manifest.items_file, *([] if manifest.projection is None else [manifest.projection.file])]
    needed += [] if manifest.classifier is None else [manifest.classifier]
    needed += [] if manifest.text is None else [manifest.text.file]
    needed += [name for record in manifest.fields.values() for name in field_records.files(record)]
    absent = [name for name in needed if name not in manifest.files]
    if absent:
        raise CorruptIndexError(f"the manifest of {version} uses {absent[0]} but gives no hash for it: rebuild")
    return needed


def check_hashes(version: Path, manifest: Manifest, progress: Progress = QUIET) -> None:
    """Raise CorruptIndexError unless every file has the SHA-256 in the manifest; `progress` counts MiB."""
    done, total = 0, sum(file.bytes for file in manifest.files.values())
    progress.stage("verify", 0, total // _MIB)
    for name, file in manifest.files.items():
        try:
            found = sha256_file(version / name)
        except OSError as err:
            raise CorruptIndexError(
                f"cannot read {version / name}: {err.strerror}; restore the file or rebuild"
            ) from err
        if found != file.sha256:
            raise CorruptIndexError(
                f"{version / name} has SHA-256 {found[:16]}..., but the manifest says {file.sha256[:16]}...: its "
                "bytes were altered; restore the file or rebuild"
            )
        done += file.bytes
        progress.stage("verify", max(0, min(done, total - _MIB)) // _MIB, total // _MIB)
    progress.stage("verify", total // _MIB, total // _MIB)


def verify(version: Path, progress: Progress = QUIET) -> Manifest:
    """Check every byte of a version against its manifest and return the manifest.

    Raises an ArtifactError for the first fault.
    """
    manifest = read_manifest(version)
    check_sizes(version, manifest)
    check_hashes(version, manifest, progress)
    return manifest


def file_records(version: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Return the sizes and hashes of a version's files for its manifest."""
    return {name: FileRecord((version / name).stat().st_size, sha256_file(version / name)) for name in names}


def remove_manifest(version: Path) -> None:
    """Delete a version's manifest, without which the version does not exist."""
    (version / MANIFEST_NAME).unlink(missing_ok=True)


def clear(version: Path) -> None:
    """Delete a version's files, the manifest first, before writing them again."""
    remove_manifest(version)
    for path in version.iterdir() if version.is_dir() else ():
        if path.is_file():
            path.unlink(missing_ok=True)


def commit_manifest(version: Path, manifest: Manifest) -> None:
    """Write the manifest, which makes the version exist; all other files must be on disk."""
    commit_bytes(version / MANIFEST_NAME, manifest.to_json().encode())
