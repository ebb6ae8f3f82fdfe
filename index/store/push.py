"""Remote stores: push a version, and list, publish, roll back and prune versions.

Object stores have no locks and no renames, so two writers that publish at the same time may lose an entry of the
history; each reads it as late as possible. Files are written in an order that is safe for readers: a version's files,
manifest, history, pointer.
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
# The manifest of a version while it is being pushed.
_PENDING_MANIFEST = f"{TEMPORARY_PREFIX}{MANIFEST_NAME}"
# A version without a manifest counts as being pushed until no file has arrived for this long.
ABANDONED = timedelta(days=1)


@dataclass(frozen=True)
class WorkingCopy:
    """A remote store, and a local folder with its small files: pointer, history and manifests.

    `files` are the paths of each version's files below the store, by build id; `changed` is the time of the newest.
    """

    place: Place
    folder: Path
    files: dict[str, list[str]]
    changed: dict[str, float]


@contextmanager
def working_copy(place: Place, only: str | None = None) -> Iterator[WorkingCopy]:
    """Yield a working copy for the functions of `store`; pointer and history are written back at the end.

    With `only`, reads just that version's manifest. A local store is its own copy. Errors name the store, not the copy.
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
            if (data := place.read(MAX_MANIFEST_BYTES, version, MANIFEST_NAME)) is not None:  # None if just pruned
                (folder / version).mkdir()
                (folder / version / MANIFEST_NAME).write_bytes(data)
                os.utime(folder / version / MANIFEST_NAME, (moment, moment))
        small = (store.HISTORY_NAME, store.POINTER_NAME)  # in the order of writing back
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
    """Read and hash every file of a remote version; raises an ArtifactError at the first mismatch."""
    with working_copy(place, build_id) as copy:
        store.check_finished(copy.folder, build_id)
        manifest = artifact.read_manifest(copy.folder / build_id)
        artifact.check_names(place.shown(build_id, MANIFEST_NAME), manifest)
    done, total = 0, sum(record.bytes for record in manifest.files.values())
    for name, record in manifest.files.items():
        progress.stage("verify", done // _MIB, total // _MIB)
        if not place.has(record, True, build_id, name):
            raise CorruptIndexError(
                f"{place.shown(build_id, name)} is missing or differs from the manifest ({record.bytes:,} bytes of "
                f"SHA-256 {record.sha256[:16]}...): push the version again with --checksum"
            )
        done += record.bytes
    progress.stage("verify", total // _MIB, total // _MIB)


def prune(place: Place, keep: int, protected: timedelta) -> list[str]:
    """Delete all but `store.versions_to_keep`, manifests first, and unfinished pushes; return the deleted names.

    A version without a manifest is an unfinished push if no file has arrived for a day. Raises IndexNotFoundError if
    there is no store.
    """
    with working_copy(place) as copy:
        finished = set(store.finished(copy.folder))
        if not finished and not store.is_store(copy.folder):
            raise IndexNotFoundError(f"{place.shown()} is not an index store; expected one made by gifdex push")
        if isinstance(place.filesystem, fs.LocalFileSystem):
            return store.prune(copy.folder, keep, protected, abandoned=ABANDONED)
        gone = finished - set(store.versions_to_keep(copy.folder, keep, protected))
        since = (datetime.now(UTC) - ABANDONED).timestamp()
        gone |= {name for name in copy.files if name not in finished and copy.changed[name] < since}
    for name in sorted(gone):
        for path in sorted(copy.files[name], key=lambda path: not path.endswith(f"/{MANIFEST_NAME}")):
            place.delete(*path.split("/"))
    return sorted(gone)


def destination_of(destination: str) -> Place:
    """Return the place of a URL or a folder."""
    return Place.of(destination if is_url(destination) else absolute(destination).as_uri())


def push(version: Path, destination: str, progress: Progress = QUIET, *, checksum: bool = False) -> dict[str, Any]:
    """Copy a version to another store and publish it there, without copying existing files again.

    A complete version with the same build id is accepted, even if another machine built it with other bytes. An
    interrupted push of the same bytes is resumed: files of the right size are accepted. `checksum` hashes existing
    files instead, and replaces wrong ones. The version is verified first. Returns the build id, and counts and bytes of
    files that were copied and that existed. Raises an ArtifactError for a damaged version, RemoteError if the
    destination cannot be written.
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
        "copied_bytes": sum(record.bytes for record in copied),
        "there": len(there),
        "there_bytes": sum(record.bytes for record in there),
    }


def _whole(place: Place, build_id: str) -> Manifest | None:
    """Return the manifest of a remote version if all files have the right sizes, otherwise None."""
    text = place.read(MAX_MANIFEST_BYTES, build_id, MANIFEST_NAME)
    try:
        manifest = artifact.parse_manifest((text or b"").decode(), place.shown(build_id, MANIFEST_NAME))
    except (ArtifactError, UnicodeDecodeError):
        return None
    is_whole = all(place.has(record, False, build_id, name) for name, record in manifest.files.items())
    return manifest if is_whole and manifest.build_id == build_id else None


def _copy(
    version: Path, place: Place, manifest: Manifest, text: bytes, progress: Progress, checksum: bool
) -> tuple[list[FileRecord], list[FileRecord]]:
    """Copy missing files, then the manifest; return the copied and the existing files.

    Until the manifest is written, the version does not exist there, and a note records which bytes are being pushed.
    """
    build_id = manifest.build_id
    resumed = place.read(MAX_MANIFEST_BYTES, build_id, _PENDING_MANIFEST) == text
    # Without hashing them, existing files are only trusted if the note matches; delete others before writing the note.
    gone = [MANIFEST_NAME, *([_PENDING_MANIFEST] if checksum or not resumed else [])]
    gone += [] if checksum or resumed else list(manifest.files)
    for name in gone:
        if place.size(build_id, name) is not None:
            place.delete(build_id, name)
    if not checksum and not resumed:
        place.put(text, build_id, _PENDING_MANIFEST)
    total = sum(record.bytes for record in manifest.files.values())
    done = 0
    copied: list[FileRecord] = []
    there: list[FileRecord] = []
    for name, record in manifest.files.items():
        if (checksum or resumed) and place.has(record, checksum, build_id, name):
            there.append(record)
        else:
            with (version / name).open("rb") as source:
                so_far = done
                for count in place.write(source, build_id, name):
                    so_far += count
                    progress.stage("push", min(so_far // _MIB, max(total // _MIB - 1, 0)), total // _MIB)
            copied.append(record)
        done += record.bytes
    for name, record in manifest.files.items():
        if not place.has(record, False, build_id, name):
            raise RemoteError(f"{place.shown(build_id, name)} was deleted during the push: push the version again")
    place.put(text, build_id, MANIFEST_NAME)
    if place.size(build_id, _PENDING_MANIFEST) is not None:
        place.delete(build_id, _PENDING_MANIFEST)
    progress.stage("push", total // _MIB, total // _MIB)
    return copied, there
