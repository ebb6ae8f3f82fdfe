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

from gifdex.index import artifact, store
from gifdex.index.remote import MOST_MANIFEST, Place
from gifdex.schemas.errors import CorruptIndexError, GifdexError
from gifdex.schemas.files import is_url
from gifdex.schemas.manifest import MANIFEST_NAME
from gifdex.schemas.progress import Progress, silent

_MIB = 1024**2
# A version without a manifest may be one that is being pushed, file by file, until nothing came for so long.
_ABANDONED = timedelta(days=1)


@dataclass(frozen=True)
class Outline:
    """A store elsewhere, and a folder that has what is small of it: pointer, history and manifests.

    `files` are the paths of each version's files below the store, by build id, and `changed` is when the newest of
    them came.
    """

    place: Place
    folder: Path
    files: dict[str, list[str]]
    changed: dict[str, float]


@contextmanager
def outlined(place: Place, only: str | None = None) -> Iterator[Outline]:
    """Yield the outline of a store, on which the functions of `store` work; what they published goes there at the end.

    `only` one version's manifest is read, if it is given. What is raised about the folder says where the store is.
    """
    with tempfile.TemporaryDirectory(prefix="gifdex-") as temporary:
        folder = Path(temporary)
        files: dict[str, list[str]] = defaultdict(list)
        changed: dict[str, float] = defaultdict(float)
        for path, _, moment in place.files():
            version, _, name = path.partition("/")
            if not name or not store.is_build_id(version):
                continue
            files[version].append(path)
            changed[version] = max(changed[version], moment)
            if name == MANIFEST_NAME and only in (None, version):
                (folder / version).mkdir()
                (folder / path).write_bytes(place.read(MOST_MANIFEST, version, name) or b"")
                os.utime(folder / path, (moment, moment))
        small = (store.HISTORY_NAME, store.POINTER_NAME)  # in the order in which they go back
        before = {name: place.read(MOST_MANIFEST, name) for name in small}
        for name, data in before.items():
            if data is not None:
                (folder / name).write_bytes(data)
        try:
            yield Outline(place, folder, files, changed)
        except GifdexError as err:
            raise type(err)(str(err).replace(str(folder), place.shown())) from err
        for name in small:
            path = folder / name
            if path.exists() and (data := path.read_bytes()) != before[name]:
                place.put(data, name)


def verify(place: Place, build_id: str, progress: Progress = silent) -> None:
    """Read and hash every file of a version elsewhere; raises an ArtifactError for the first that is not right."""
    with outlined(place, build_id) as outline:
        store.check_finished(outline.folder, build_id)
        manifest = artifact.read_manifest(outline.folder / build_id)
        artifact.check_names(place.shown(build_id, MANIFEST_NAME), manifest)
    done, total = 0, sum(facts.bytes for facts in manifest.files.values())
    for name, facts in manifest.files.items():
        progress("verify", done // _MIB, total // _MIB)
        if not place.has(facts, True, build_id, name):
            raise CorruptIndexError(
                f"{place.shown(build_id, name)} is not there or not what the manifest says ({facts.bytes:,} bytes of "
                f"SHA-256 {facts.sha256[:16]}...): push the version again with --checksum"
            )
        done += facts.bytes
    progress("verify", total // _MIB, total // _MIB)


def prune(place: Place, keep: int, protected: timedelta) -> list[str]:
    """Delete the versions that `store.kept` does not name, their manifests first, and what pushes left unfinished.

    Unfinished is a version without a manifest to which nothing came for a day. Return the names of what is gone.
    """
    with outlined(place) as outline:
        finished = set(store.finished(outline.folder))
        gone = finished - set(store.kept(outline.folder, keep, protected))
        since = (datetime.now(UTC) - _ABANDONED).timestamp()
        gone |= {name for name in outline.files if name not in finished and outline.changed[name] < since}
    for name in sorted(gone):
        for path in sorted(outline.files[name], key=lambda path: not path.endswith(f"/{MANIFEST_NAME}")):
            place.delete(*path.split("/"))
    return sorted(gone)


def destination_of(destination: str) -> Place:
    """Return the place that a URL or a folder names."""
    return Place.of(destination if is_url(destination) else Path(destination).expanduser().absolute().as_uri())


def push(version: Path, destination: str, progress: Progress = silent, *, checksum: bool = False) -> dict[str, Any]:
    """Copy a version to a store elsewhere and publish it there; what is there already is not copied again.

    A file is there if one of its size is, for files of a version are never other ones; `checksum` reads its bytes
    instead. The version is verified first. Returns the build id, and the files and bytes that were copied and that
    were there. Raises an ArtifactError for a version that is not whole, RemoteError where the destination cannot be
    written.
    """
    manifest = artifact.verify(version, progress)
    place = destination_of(destination)
    total = sum(facts.bytes for facts in manifest.files.values())
    done, counts = 0, {"copied": 0, "copied_bytes": 0, "there": 0, "there_bytes": 0}
    for name, facts in manifest.files.items():
        is_there = place.has(facts, checksum, manifest.build_id, name)
        if not is_there:
            with (version / name).open("rb") as source:
                so_far = done
                for count in place.write(source, manifest.build_id, name):
                    so_far += count
                    progress("push", min(so_far // _MIB, max(total // _MIB - 1, 0)), total // _MIB)
        done += facts.bytes
        kind = "there" if is_there else "copied"
        counts[kind] += 1
        counts[f"{kind}_bytes"] += facts.bytes
    place.put((version / MANIFEST_NAME).read_bytes(), manifest.build_id, MANIFEST_NAME)
    with outlined(place, manifest.build_id) as outline:
        store.publish(outline.folder, manifest.build_id)
    progress("push", total // _MIB, total // _MIB)
    return {"version": manifest.build_id, "destination": place.shown(), **counts}
