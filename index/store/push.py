"""Publish on stores elsewhere: push a version there, and list, publish, roll back and prune what is there.

Object stores have no locks and no renames, so two that change one store's pointer at once may lose an entry of its
history; each reads both as late as it can. What others read goes last: files, manifest, history, pointer.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pyarrow import fs

from gifdex.index import artifact
from gifdex.index.store import versions as store
from gifdex.index.store.place import MAX_MANIFEST_BYTES, Place
from gifdex.schemas.errors import ArtifactError, CorruptIndexError, GifdexError, IndexNotFoundError, RemoteError
from gifdex.schemas.files import TEMPORARY_PREFIX, absolute, is_url
from gifdex.schemas.manifest import MANIFEST_NAME, FileRecord, Manifest
from gifdex.schemas.progress import QUIET, Progress

_MIB = 1024**2
# The manifest of what is being pushed, until it is there.
_COMING = f"{TEMPORARY_PREFIX}{MANIFEST_NAME}"
# A version without a manifest may be one that is being pushed, file by file, until nothing came for so long.
ABANDONED = timedelta(days=1)


@dataclass(frozen=True)
class WorkingCopy:
    """A store elsewhere, and a folder here with what is small of it: pointer, history and manifests.

    `files` are the paths of each version's files below the store, by build id, and `changed` is when the newest of
    them came.
    """

    place: Place
    folder: Path
    files: dict[str, list[str]]
    changed: dict[str, float]


@contextmanager
def working_copy(place: Place, only: str | None = None) -> Iterator[WorkingCopy]:
    """Yield a copy on which the functions of `store` work; what they publish in it goes to the store at the end.

    `only` one version's manifest is read, if it is given. A folder is its own copy. Errors about the copy
    say where the store is.
    """
    files: dict[str, list[str]] = defaultdict(list)
    changed: dict[str, float] = defaultdict(float)
    manifests: dict[str, float] = {}
    for path, _, moment in place.files():
        version, _, name = path.partition("/")
        if not name or not store.is_build_id(version):
            continue
        files[version].append(path)
        changed[version] = max(changed[version], moment)
        if name == MANIFEST_NAME and only in (None, version):
            manifests[version] = moment
    if isinstance(place.filesystem, fs.LocalFileSystem):
        yield WorkingCopy(place, Path(place.root), files, changed)
        return
    with tempfile.TemporaryDirectory(prefix="gifdex-") as temporary:
        folder = Path(temporary)
        for version, moment in manifests.items():
            if (data := place.read(MAX_MANIFEST_BYTES, version, MANIFEST_NAME)) is not None:  # it was not just pruned
                (folder / version).mkdir()
                (folder / version / MANIFEST_NAME).write_bytes(data)
                os.utime(folder / version / MANIFEST_NAME, (moment, moment))
        small = (store.HISTORY_NAME, store.POINTER_NAME)  # in the order in which they go back
        before = {name: place.read(MAX_MANIFEST_BYTES, name) for name in small}
        for name, known in before.items():
            if known is not None:
                (folder / name).write_bytes(known)
        try:
            yield WorkingCopy(place, folder, files, changed)
        except GifdexError as err:
            raise type(err)(str(err).replace(str(folder), place.shown())) from err
        for name in small:
            if (folder / name).exists() and (now := (folder / name).read_bytes()) != before[name]:
                place.put(now, name)


def verify(place: Place, build_id: str, progress: Progress = QUIET) -> None:
    """Read and hash every file of a version elsewhere; raises an ArtifactError for the first that is not right."""
    with working_copy(place, build_id) as copy:
        store.check_finished(copy.folder, build_id)
        manifest = artifact.read_manifest(copy.folder / build_id)
        artifact.check_names(place.shown(build_id, MANIFEST_NAME), manifest)
    done, total = 0, sum(facts.bytes for facts in manifest.files.values())
    for name, facts in manifest.files.items():
        progress.stage("verify", done // _MIB, total // _MIB)
        if not place.has(facts, True, build_id, name):
            raise CorruptIndexError(
                f"{place.shown(build_id, name)} is not there or not what the manifest says ({facts.bytes:,} bytes of "
                f"SHA-256 {facts.sha256[:16]}...): push the version again with --checksum"
            )
        done += facts.bytes
    progress.stage("verify", total // _MIB, total // _MIB)


def prune(place: Place, keep: int, protected: timedelta) -> list[str]:
    """Delete the versions that `store.kept` does not name, their manifests first, and what pushes left unfinished.

    Unfinished is a version without a manifest to which nothing came for a day. Return the names of what is gone.
    Raises IndexNotFoundError where there is no store.
    """
    with working_copy(place) as copy:
        finished = set(store.finished(copy.folder))
        if not finished and not store.is_store(copy.folder):
            raise IndexNotFoundError(f"{place.shown()} is no index store; expected one that gifdex push made")
        if isinstance(place.filesystem, fs.LocalFileSystem):
            return store.prune(copy.folder, keep, protected, abandoned=ABANDONED)
        gone = finished - set(store.kept(copy.folder, keep, protected))
        since = (datetime.now(UTC) - ABANDONED).timestamp()
        gone |= {name for name in copy.files if name not in finished and copy.changed[name] < since}
    for name in sorted(gone):
        for path in sorted(copy.files[name], key=lambda path: not path.endswith(f"/{MANIFEST_NAME}")):
            place.delete(*path.split("/"))
    return sorted(gone)


def destination_of(destination: str) -> Place:
    """Return the place that a URL or a folder names."""
    return Place.of(destination if is_url(destination) else absolute(destination).as_uri())


def push(version: Path, destination: str, progress: Progress = QUIET, *, checksum: bool = False) -> dict[str, Any]:
    """Copy a version to a store elsewhere and publish it there; what is there already is not copied again.

    A whole version of that build id is taken for it, though its bytes may differ where other machines built it. What
    an interrupted push of these bytes left is gone on with: a file of the right size is there. `checksum` reads all
    that is there instead, and repairs it. The version is verified first. Returns the build id, and the files and bytes
    that were copied and that were there. Raises an ArtifactError for a version that is not whole, RemoteError where
    the destination cannot be written.
    """
    manifest, text = artifact.verify(version, progress), (version / MANIFEST_NAME).read_bytes()
    place, build_id = destination_of(destination), manifest.build_id
    copied: list[FileRecord] = []
    if (theirs := None if checksum else _whole(place, build_id)) is not None:
        there = list(theirs.files.values())
    else:
        copied, there = _copy(version, place, manifest, text, progress, checksum)
    with working_copy(place, build_id) as copy:
        store.publish(copy.folder, build_id)
    return {
        "version": build_id,
        "destination": place.shown(),
        "copied": len(copied),
        "copied_bytes": sum(facts.bytes for facts in copied),
        "there": len(there),
        "there_bytes": sum(facts.bytes for facts in there),
    }


def _whole(place: Place, build_id: str) -> Manifest | None:
    """Return the manifest of a version elsewhere whose files all have their sizes; else nothing."""
    text = place.read(MAX_MANIFEST_BYTES, build_id, MANIFEST_NAME)
    try:
        manifest = artifact.parse_manifest((text or b"").decode(), place.shown(build_id, MANIFEST_NAME))
    except (ArtifactError, UnicodeDecodeError):
        return None
    is_whole = all(place.has(facts, False, build_id, name) for name, facts in manifest.files.items())
    return manifest if is_whole and manifest.build_id == build_id else None


def _copy(
    version: Path, place: Place, manifest: Manifest, text: bytes, progress: Progress, checksum: bool
) -> tuple[list[FileRecord], list[FileRecord]]:
    """Copy the files that are not there, then the manifest; return those that were copied and those that were there.

    Until it is whole, the version does not exist there, and a note says which bytes are coming.
    """
    build_id = manifest.build_id
    resumed = place.read(MAX_MANIFEST_BYTES, build_id, _COMING) == text
    # Files of other bytes go before the note says that ours are coming, and files that were not read have none.
    gone = [MANIFEST_NAME, *([_COMING] if checksum or not resumed else [])]
    gone += [] if checksum or resumed else list(manifest.files)
    for name in gone:
        if place.size(build_id, name) is not None:
            place.delete(build_id, name)
    if not checksum and not resumed:
        place.put(text, build_id, _COMING)
    total = sum(facts.bytes for facts in manifest.files.values())
    done = 0
    copied: list[FileRecord] = []
    there: list[FileRecord] = []
    for name, facts in manifest.files.items():
        if (checksum or resumed) and place.has(facts, checksum, build_id, name):
            there.append(facts)
        else:
            with (version / name).open("rb") as source:
                so_far = done
                for count in place.write(source, build_id, name):
                    so_far += count
                    progress.stage("push", min(so_far // _MIB, max(total // _MIB - 1, 0)), total // _MIB)
            copied.append(facts)
        done += facts.bytes
    for name, facts in manifest.files.items():
        if not place.has(facts, False, build_id, name):
            raise RemoteError(f"{place.shown(build_id, name)} was deleted while the version was pushed: push it again")
    place.put(text, build_id, MANIFEST_NAME)
    if place.size(build_id, _COMING) is not None:
        place.delete(build_id, _COMING)
    progress.stage("push", total // _MIB, total // _MIB)
    return copied, there
