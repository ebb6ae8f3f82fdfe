"""One version of an index on disk: what its files are called, and whether they are what they should be."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from pathlib import Path

from gifdex.index.engines import annoy_trees, hnsw
from gifdex.index.engines.scan import METRIC as SCAN_METRIC
from gifdex.index.engines.settings import ANNOY, ENGINES, HNSW, SCAN
from gifdex.schemas.errors import CorruptIndexError, IndexNotFoundError
from gifdex.schemas.files import commit_bytes, sha256_file
from gifdex.schemas.manifest import MANIFEST_NAME, FileFacts, Manifest
from gifdex.schemas.progress import Progress, silent

ITEMS_NAME = "items.arrow"
PROJECTION_NAME = "projection.safetensors"
REDUCTION_NAME = "reduction.safetensors"
_MIB = 1024**2
_MOST_ITEMS = 2**48  # more would overflow what is counted in bytes
# What a manifest may call a file: nothing that could lead out of the version's folder.
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


def shard_names(number: int) -> tuple[str, str]:
    """Return the names of a shard's Annoy file and of its vectors."""
    return f"shard-{number:05d}.ann", f"shard-{number:05d}.vectors.npy"


def graph_name(number: int) -> str:
    """Return the name of a shard's graph, for the engine hnsw."""
    return f"shard-{number:05d}.graph"


def read_manifest(version: Path) -> Manifest:
    """Return the manifest of a version's folder.

    Raises IndexNotFoundError where there is none, FormatVersionError or CorruptIndexError where it cannot
    be read.
    """
    path = version / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as err:
        raise IndexNotFoundError(
            f"{version} has no {MANIFEST_NAME}, so it is no finished index version: point to a store or to one of "
            "its versions, or build again"
        ) from err
    except (OSError, UnicodeDecodeError) as err:
        raise CorruptIndexError(f"cannot read {path}: {err}; restore the file or rebuild the index") from err
    manifest = Manifest.from_json(text, str(path))
    _check_facts(path, manifest)
    return manifest


def _check_facts(path: Path, manifest: Manifest) -> None:
    """Raise CorruptIndexError where what the manifest says cannot be, or is of no engine that is known here."""
    unknown = sorted(set(manifest.engines) - set(ENGINES))
    if manifest.metric != "cosine" or unknown or not {ANNOY, SCAN, manifest.engine} <= set(manifest.engines):
        raise CorruptIndexError(
            f"{path} says metric {manifest.metric!r:.40} and engines {sorted(manifest.engines)!r:.80}, of which "
            f"{manifest.engine!r:.40} answers; expected 'cosine' and some of {', '.join(ENGINES)}: restore it or "
            "rebuild"
        )
    width = manifest.dimensions if manifest.reduction is None else manifest.reduction.dimensions
    metrics = {ANNOY: annoy_trees.metric(manifest.reduction is not None), SCAN: SCAN_METRIC, HNSW: hnsw.METRIC}
    for name, engine in manifest.engines.items():
        # Without a reduction, all see whole vectors; with one, a scan reads Annoy's file.
        fixed = width if manifest.reduction is None else manifest.engines[ANNOY].dimensions if name == SCAN else None
        if not 1 <= engine.dimensions <= width or fixed not in (None, engine.dimensions):
            raise CorruptIndexError(
                f"{path} says that the engine {name} sees {engine.dimensions} of {width} dimensions, which cannot be: "
                "restore it or rebuild"
            )
        if (
            not 1 <= engine.effort <= _MOST_ITEMS
            or engine.metric != metrics[name]
            or (name == ANNOY and engine.library != "annoy")
        ):
            raise CorruptIndexError(
                f"{path} says that the engine {name} is of {engine.library!r:.40}, metric {engine.metric!r:.40} and "
                f"effort {engine.effort}, which cannot be: restore it or rebuild"
            )
        if any(name not in shard.engines for shard in manifest.shards if name != SCAN):
            raise CorruptIndexError(f"{path} names no file of the engine {name} for some shard: restore it or rebuild")
    counts = [manifest.items, manifest.dimensions, *(shard.items for shard in manifest.shards)]
    if min(counts) < 1 or sum(shard.items for shard in manifest.shards) != manifest.items or max(counts) > _MOST_ITEMS:
        raise CorruptIndexError(
            f"{path} says {manifest.items:,} items of {manifest.dimensions:,} dimensions in shards of "
            f"{[shard.items for shard in manifest.shards][:8]}, which do not add up: restore it or rebuild"
        )


def check_names(where: str, manifest: Manifest) -> None:
    """Raise CorruptIndexError unless a manifest that lies at `where` names files that can only lie beside it."""
    for name in manifest.files:
        if not _FILE_NAME.fullmatch(name):
            raise CorruptIndexError(
                f"{where} names the file {name!r:.80}; expected a plain name of a file beside it: restore it or rebuild"
            )


def check_sizes(version: Path, manifest: Manifest) -> list[str]:
    """Return the names of the files that are used; raise CorruptIndexError unless all are there, of their sizes."""
    check_names(str(version / MANIFEST_NAME), manifest)
    for name, facts in manifest.files.items():
        path = version / name
        try:
            found = path.stat()
        except OSError as err:
            raise CorruptIndexError(
                f"cannot read {path}: {err.strerror}; expected {facts.bytes:,} bytes: restore the file or rebuild"
            ) from err
        if not stat.S_ISREG(found.st_mode):
            raise CorruptIndexError(f"{path} is no file: restore it or rebuild")
        if found.st_size != facts.bytes:
            raise CorruptIndexError(
                f"{path} has {found.st_size:,} bytes, but the manifest says {facts.bytes:,}: "
                "restore the file or rebuild"
            )
    needed = [manifest.items_file, manifest.projection.file]
    needed += [] if manifest.reduction is None else [manifest.reduction.file]
    needed += [name for shard in manifest.shards for name in (shard.vectors, *shard.engines.values())]
    absent = [name for name in needed if name not in manifest.files]
    if absent:
        raise CorruptIndexError(f"the manifest of {version} uses {absent[0]} but gives no hash for it: rebuild")
    return needed


def check_hashes(version: Path, manifest: Manifest, progress: Progress = silent) -> None:
    """Raise CorruptIndexError unless every file has the SHA-256 that the manifest says; `progress` counts MiB."""
    done, total = 0, sum(facts.bytes for facts in manifest.files.values())
    progress("verify", 0, total // _MIB)
    for name, facts in manifest.files.items():
        try:
            found = sha256_file(version / name)
        except OSError as err:
            raise CorruptIndexError(
                f"cannot read {version / name}: {err.strerror}; restore the file or rebuild"
            ) from err
        if found != facts.sha256:
            raise CorruptIndexError(
                f"{version / name} has SHA-256 {found[:16]}..., but the manifest says {facts.sha256[:16]}...: its "
                "bytes were altered; restore the file or rebuild"
            )
        done += facts.bytes
        progress("verify", max(0, min(done, total - _MIB)) // _MIB, total // _MIB)
    progress("verify", total // _MIB, total // _MIB)


def verify(version: Path, progress: Progress = silent) -> Manifest:
    """Check every byte of a version against its manifest and return the manifest.

    Raises an ArtifactError for the first thing that is wrong.
    """
    manifest = read_manifest(version)
    check_sizes(version, manifest)
    check_hashes(version, manifest, progress)
    return manifest


def file_facts(version: Path, names: Iterable[str]) -> dict[str, FileFacts]:
    """Measure files of a version for its manifest."""
    return {name: FileFacts((version / name).stat().st_size, sha256_file(version / name)) for name in names}


def remove_manifest(version: Path) -> None:
    """Take a version out of existence, before its files are written again."""
    (version / MANIFEST_NAME).unlink(missing_ok=True)


def commit_manifest(version: Path, manifest: Manifest) -> None:
    """Write the manifest, which makes the version exist; everything else must be on disk by now."""
    commit_bytes(version / MANIFEST_NAME, manifest.to_json().encode())
