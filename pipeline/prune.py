"""Delete old versions, and the builds, cached features and leftovers that no remaining version needs."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from gifdex.encoders.frame_cache import SUFFIX as FRAMES_SUFFIX
from gifdex.index import store
from gifdex.index.store import push as pushing
from gifdex.index.store.place import Place
from gifdex.pipeline.mirror import mirrored
from gifdex.pipeline.workspace import BUILDS, STORE, Workspace, catalog_fingerprint
from gifdex.schemas.files import absolute, is_url, read_table
from gifdex.schemas.progress import QUIET, Progress

# A reader may be about to open a version that was current this recently.
PROTECTED = timedelta(hours=1)


@dataclass(frozen=True)
class PruneSummary:
    """What was deleted: versions, builds, counts of part files and of unfinished files, and bytes.

    `kept` are the remaining versions.
    """

    kept: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    builds: list[str] = field(default_factory=list)
    parts: int = 0
    unfinished: int = 0
    bytes: int = 0


def prune_at(where: Path | str, keep: int, progress: Progress = QUIET) -> PruneSummary:
    """Prune a local store or one at a URL; if it belongs to a workspace, prune the whole workspace.

    Raises IndexNotFoundError if there is no store, WorkspaceBusyError while a run holds the workspace.
    """
    if isinstance(where, str) and is_url(where):
        place = Place.of(where)
        above = place.parent
        if place.root.endswith(f"/{STORE}") and above.is_folder(BUILDS):
            with mirrored(above.url, progress) as workspace:
                return prune(workspace, keep)
        gone = pushing.prune(place, keep, PROTECTED)
        with pushing.working_copy(place) as copy:
            return PruneSummary(store.finished(copy.folder), gone)
    folder = absolute(where)
    store.check_store(folder)
    workspace = Workspace(folder.parent)
    if folder == workspace.store and workspace.builds.is_dir():
        with workspace.locked():
            return prune(workspace, keep)
    return prune_store(folder, keep)


def prune_store(folder: Path, keep: int, protected: timedelta = PROTECTED) -> PruneSummary:
    """Prune a store outside of a workspace.

    Deletes all versions except the current one, the `keep` newest and those that were current recently. Also deletes
    unfinished folders and files that have not changed for a day; newer ones may belong to a push.
    """
    before = _size(folder)
    gone = store.prune(folder, keep, protected, abandoned=pushing.ABANDONED)
    unfinished = store.clear_unfinished(folder, (datetime.now(UTC) - pushing.ABANDONED).timestamp())
    return PruneSummary(store.finished(folder), gone, [], 0, unfinished, before - _size(folder))


def prune(
    workspace: Workspace, keep: int, protected: timedelta = PROTECTED, also: Collection[str] = ()
) -> PruneSummary:
    """Prune as `prune_store` does, but keep the versions `also`, and delete unused builds and features.

    The caller must hold the workspace. The newest build is kept, because the next run compares the corpus with its
    catalog, and so are its features, because a refused or unfinished run continues from them. A part file is kept as
    long as one of its GIFs is needed.
    """
    before = sum(_size(folder) for folder in workspace.folders)
    unfinished = workspace.clear_unfinished()
    versions = store.prune(workspace.store, keep, protected, also) if workspace.store.is_dir() else []
    kept = store.finished(workspace.store) if workspace.store.is_dir() else []
    builds = _prune_builds(workspace, set(kept))
    parts = _prune_features(workspace)
    bytes_ = before - sum(_size(folder) for folder in workspace.folders)
    return PruneSummary(kept, versions, builds, parts, unfinished, bytes_)


def _prune_builds(workspace: Workspace, kept: set[str]) -> list[str]:
    newest = workspace.newest_catalog()
    stay = kept | ({newest.parent.parent.name} if newest else set())
    gone = [path for path in _folders(workspace.builds) if path.name not in stay]
    for folder in gone:
        shutil.rmtree(folder)
    return [folder.name for folder in gone]


def _prune_features(workspace: Workspace) -> int:
    """Delete part files whose GIFs are in no remaining build's catalog with the same encoder, and unreadable ones.

    Keeps files that are newer than the newest catalog: they are from a run that was killed before it wrote one. Deletes
    nothing if a catalog does not state its encoder or cannot be read.
    """
    newest = workspace.newest_catalog()
    needed: dict[str, list[pa.ChunkedArray]] = {}
    for folder in _folders(workspace.builds):
        if (catalog := workspace.catalog(folder.name)).is_file():
            try:
                fingerprint, column = catalog_fingerprint(catalog), read_table(catalog, ["sha256"])["sha256"]
            except (OSError, pa.ArrowException):
                return 0
            if fingerprint is None:
                return 0
            needed.setdefault(fingerprint, []).append(column)
    if newest is None:
        return 0
    ended, gone = newest.stat().st_mtime, 0
    for encoder in _folders(workspace.features):
        fingerprint = encoder.name.removesuffix(FRAMES_SUFFIX)
        keys = [chunk for column in needed.get(fingerprint, []) for chunk in column.chunks]
        wanted = pa.chunked_array(keys, pa.string())
        for part in sorted(encoder.glob("*/*.parquet")):
            if part.stat().st_mtime > ended:
                continue
            if not _has_any(part, wanted):
                part.unlink()
                gone += 1
        if not any(encoder.glob("*/*.parquet")):
            shutil.rmtree(encoder)
    return gone


def _has_any(part: Path, wanted: pa.ChunkedArray) -> bool:
    try:
        found = read_table(part, ["sha256"])["sha256"]
    except (OSError, pa.ArrowException):
        return False
    return bool(pc.any(pc.is_in(found, wanted), min_count=0).as_py())


def _folders(parent: Path) -> Iterator[Path]:
    yield from sorted(path for path in parent.glob("*") if path.is_dir())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
