"""A workspace on an object store: a run works in a local mirror, and its results are copied back.

Object stores have no locks and no renames. So a lease excludes other runs, and files are written whole, in an order
that is safe for readers: features, builds, a version's files, its manifest, the history, the pointer. As in rsync,
files are equal if their size and modification time are; a copy gets the time of its original.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gifdex.index import store
from gifdex.index.store.fetch import default_cache
from gifdex.index.store.place import MAX_MANIFEST_BYTES, Place
from gifdex.pipeline.workspace import BUILDS, STORE, Workspace
from gifdex.schemas.errors import CorruptIndexError, GifdexError, RemoteError, WorkspaceBusyError
from gifdex.schemas.files import TEMPORARY_PREFIX, commit_bytes, committing
from gifdex.schemas.manifest import MANIFEST_NAME
from gifdex.schemas.progress import Progress

LEASE_NAME = ".lease"
# A lease expires after this long without renewal, and how often it is renewed and features are copied.
_LEASE_SECONDS, _RENEWED_SECONDS, _COPIED_SECONDS = 180.0, 30.0, 30.0
# Files that may change without the lease, if someone publishes manually.
_SHARED = (store.HISTORY_NAME, store.POINTER_NAME)
_MANIFESTS = 4  # their rank
# If two runs take a lease at the same time, both write it; after this long both see who has it.
_SETTLED_SECONDS = 1.0
_MAX_LEASE_BYTES = 4096
_SAME_SECONDS = 1.5  # tolerance for times, which stores round
_MIB = 1024**2


@dataclass(frozen=True)
class _Remote:
    size: int
    changed: float


@contextmanager
def mirrored(url: str, progress: Progress) -> Iterator[Workspace]:
    """Yield a local mirror of the workspace at a URL, and copy what the block commits back at its end.

    Features are also copied while the block runs, and if it fails. Raises WorkspaceBusyError if another run has the
    lease or this mirror, RemoteError if the store cannot be read or written.
    """
    place = Place.of(url)
    workspace = mirror_of(url)
    with workspace.locked(), _Lease(place) as lease:
        mirror = _Mirror(place, workspace, progress, lease)
        with lease.renewed():
            mirror.pull()
            with mirror.copying_features():
                yield workspace
            mirror.push()


def mirror_of(url: str) -> Workspace:
    """Return the local mirror of a workspace at a URL."""
    return Workspace(default_cache() / "workspaces" / hashlib.sha256(url.encode()).hexdigest()[:16])


class _Lease:
    """The exclusive right to write a remote workspace while it is renewed."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._token = uuid.uuid4().hex
        self._lost: GifdexError | None = None
        self._since = datetime.now(UTC).isoformat("T", "seconds")

    def __enter__(self) -> _Lease:
        found = self._read()
        if found is not None and self._age() < _LEASE_SECONDS:
            raise self._busy(found)
        self._write()
        time.sleep(_SETTLED_SECONDS)
        self.check()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(GifdexError):  # it expires anyway
            found = self._read()
            if found is not None and found["token"] == self._token:
                self._place.delete(LEASE_NAME)

    def _age(self) -> float:
        """Return the seconds since the lease was renewed, by the store's clock."""
        probe = f"{LEASE_NAME}-{self._token}"
        self._place.put(b"?", probe)
        try:
            return self._place.changed(probe) - self._place.changed(LEASE_NAME)
        finally:
            self._place.delete(probe)

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the lease regularly while the block runs."""

        def renew() -> None:
            try:
                self.check()
                self._write()
            except WorkspaceBusyError as err:  # this run was suspended for too long
                self._lost = err

        with _every(_RENEWED_SECONDS, "gifdex-lease", renew):
            yield

    def _write(self) -> None:
        holder = {
            "token": self._token,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": self._since,
        }
        self._place.put(json.dumps(holder).encode(), LEASE_NAME)

    def check(self) -> None:
        """Raise WorkspaceBusyError if another run has taken the lease."""
        if self._lost is not None:
            raise self._lost
        found = self._read()
        if found is None or found["token"] != self._token:
            raise self._busy(found or {})

    def _read(self) -> dict[str, Any] | None:
        data = self._place.read(_MAX_LEASE_BYTES, LEASE_NAME)
        try:
            found = json.loads(data or b"null")
            return {**found, "token": str(found["token"])}
        except (ValueError, KeyError, TypeError):
            return None

    def _busy(self, found: dict[str, Any]) -> WorkspaceBusyError:
        return WorkspaceBusyError(
            f"another run holds the workspace {self._place.shown()} (process {found.get('pid')} on {found.get('host')} "
            f"since {found.get('since')}): wait for it (if it died, its lease expires within {_LEASE_SECONDS:.0f} "
            "seconds), or choose another workspace"
        )


class _Mirror:
    """A remote workspace and its local mirror."""

    def __init__(self, place: Place, workspace: Workspace, progress: Progress, lease: _Lease) -> None:
        self._place, self._workspace, self._progress, self._lease = place, workspace, progress, lease
        self._pulled: dict[str, bytes | None] = {}  # history and pointer
        self._there: dict[str, _Remote] = {}
        self._lock = threading.Lock()  # one copy at a time

    def pull(self) -> None:
        """Update the mirror from the workspace, except files that a run does not need: old versions and embeddings.

        Features that only the mirror has are from a killed run, and are kept.
        """
        self._there = {
            name: _Remote(size, changed) for name, size, changed in self._place.files() if self._is_of_workspace(name)
        }
        self._pulled = {name: self._place.read(MAX_MANIFEST_BYTES, STORE, name) for name in _SHARED}
        pointer = self._pulled[store.POINTER_NAME]
        current = None
        if pointer is not None:
            with suppress(CorruptIndexError):
                current = store.parse_pointer(pointer, self._place.shown(STORE, store.POINTER_NAME))
        wanted = [name for name in sorted(self._there) if _is_needed(name, current)]
        total = sum(self._there[name].size for name in wanted)
        done = 0
        for folder in (self._workspace.builds, self._workspace.store):
            self._forget(folder)
        for name in wanted:
            self._fetch(name)
            done += self._there[name].size
            self._progress.stage("pull", done // _MIB, total // _MIB)
        for name, data in self._pulled.items():  # regardless of size and time
            if data is None:  # a killed run published only in the mirror
                (self._workspace.store / name).unlink(missing_ok=True)
            else:
                commit_bytes(self._workspace.store / name, data)

    def _is_of_workspace(self, name: str) -> bool:
        """Tell whether a remote file belongs to the workspace, whose root may also contain other files."""
        parts = name.split("/")
        folders = {folder.name for folder in self._workspace.folders} - {self._workspace.scan.name}
        known = name == self._workspace.status.name or (len(parts) > 1 and parts[0] in folders)
        return known and not _is_ours(name) and not {"", ".", ".."} & set(parts)

    def _forget(self, folder: Path) -> None:
        """Delete builds and versions that the workspace no longer has."""
        known = {
            name.split("/")[1] for name in self._there if name.startswith(f"{folder.name}/") and name.count("/") > 1
        }
        for path in folder.glob("*"):
            if path.is_dir() and path.name not in known:
                shutil.rmtree(path)

    def _fetch(self, name: str) -> None:
        path, there = self._workspace.root / name, self._there[name]
        with suppress(OSError):
            found = path.stat()
            if found.st_size == there.size and abs(found.st_mtime - there.changed) < _SAME_SECONDS:
                return
        with committing(path) as temporary, temporary.open("wb") as stream:
            for _ in self._place.append_to(stream, *name.split("/")):
                pass
        os.utime(path, (there.changed, there.changed))

    @contextmanager
    def copying_features(self) -> Iterator[None]:
        """Copy features regularly while the block runs, and at its end, even if it fails."""
        try:
            with _every(_COPIED_SECONDS, "gifdex-mirror", self._push_features):
                yield
        except BaseException:
            with suppress(RemoteError, OSError):  # report the first error
                self._push_features()
            raise

    def _push_features(self) -> None:
        features = self._workspace.features.name
        self._copy([name for name in self._files() if name.startswith(f"{features}/")])

    def push(self) -> None:
        """Copy new files in a safe order, and delete what pruning deleted in the mirror."""
        names = sorted(self._files(), key=_rank)
        self._lease.check()
        self._copy([name for name in names if _rank(name)[0] < _MANIFESTS])
        self._lease.check()
        self._copy([name for name in names if _rank(name)[0] >= _MANIFESTS and name.rpartition("/")[2] not in _SHARED])
        self._lease.check()
        self._delete_pruned(self._publish())

    def _publish(self) -> set[str]:
        """Merge history and pointer with what was published remotely in the meantime.

        Return the versions that must be kept: those that were current there since the run began.
        """
        now = {name: self._place.read(MAX_MANIFEST_BYTES, STORE, name) or b"" for name in _SHARED}
        current = now[store.POINTER_NAME].decode("ascii", "replace").strip()
        stay = {current}
        for name in _SHARED:  # the history first
            path = self._workspace.store / name
            if not path.exists():
                continue
            lines, known = path.read_bytes().splitlines(keepends=True), (self._pulled[name] or b"").splitlines(True)
            theirs = [line for line in now[name].splitlines(keepends=True) if line not in known]
            ours = [line for line in lines if line not in known]
            if name == store.POINTER_NAME:
                data = b"".join(ours or theirs or lines)
            elif theirs:
                stay |= {build_id for line in theirs for build_id in _named(line)}
                data = now[name] + b"".join([_replacing(current, ours[0]), *ours[1:]] if ours else [])
            else:
                data = b"".join(lines)
            if data != now[name]:
                self._place.put(data, STORE, name)
            if data != path.read_bytes():
                commit_bytes(path, data)
        return stay

    def _files(self) -> list[str]:
        """Return the committed files of the mirror that belong in the remote workspace."""
        root = self._workspace.root
        folders = [folder for folder in self._workspace.folders if folder != self._workspace.scan]
        paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        paths += [self._workspace.status] if self._workspace.status.is_file() else []
        return [name for path in paths if not _is_ours(name := path.relative_to(root).as_posix())]

    def _copy(self, names: list[str]) -> None:
        with self._lock:
            for number, name in enumerate(names):
                path, there = self._workspace.root / name, self._there.get(name)
                try:
                    found = path.stat()
                except FileNotFoundError:  # pruned in the meantime
                    continue
                same = there is not None and found.st_size == there.size
                if same and there is not None and abs(found.st_mtime - there.changed) < _SAME_SECONDS:
                    continue
                with path.open("rb") as source:
                    for _ in self._place.write(source, *name.split("/")):
                        pass
                changed = self._place.changed(*name.split("/"))
                os.utime(path, (changed, changed))
                self._there[name] = _Remote(found.st_size, changed)
                self._progress.stage("push", number + 1, len(names))

    def _delete_pruned(self, stay: set[str]) -> None:
        """Delete the remote versions, builds and parts of features that were pruned in the mirror."""
        root = self._workspace.root
        versions = set(store.finished(self._workspace.store)) if self._workspace.store.is_dir() else set()
        for name in sorted(self._there, key=_rank, reverse=True):
            parts = name.split("/")
            if parts[0] == self._workspace.store.name and len(parts) > 2:
                gone = parts[1] not in versions | stay
            elif parts[0] == BUILDS:
                gone = parts[1] not in stay and not (root / parts[0] / parts[1]).is_dir()
            else:
                gone = parts[0] == self._workspace.features.name and not (root / name).exists()
            if gone:
                self._place.delete(*parts)
                del self._there[name]


@contextmanager
def _every(seconds: float, name: str, do: Callable[[], None]) -> Iterator[None]:
    """Call `do` in a thread every `seconds` while the block runs; ignore failures until the next call."""
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(seconds):
            with suppress(Exception):
                do()

    thread = threading.Thread(target=follow, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _is_ours(name: str) -> bool:
    """Tell whether a file belongs to one side only: locks, the lease, and unfinished files."""
    last = name.rpartition("/")[2]
    return last == ".lock" or last.startswith(LEASE_NAME) or last.startswith(TEMPORARY_PREFIX)


def _is_needed(name: str, current: str | None) -> bool:
    """Tell whether a run reads a file: everything except embeddings and the files of versions that are not current."""
    parts = name.split("/")
    if parts[0] == STORE and len(parts) > 2:
        return parts[1] == current or parts[2] == MANIFEST_NAME
    if parts[0] == BUILDS and len(parts) > 3 and parts[2] == "embeddings":
        return parts[1] == current
    return True


def _rank(name: str) -> tuple[int, str]:
    """Return a file's sort key for copying: files that refer to others come after them."""
    parts = name.split("/")
    if parts[0] != STORE:
        return (["features", "projections", BUILDS].index(parts[0]) if len(parts) > 1 else 9), name
    last = parts[-1]
    return {MANIFEST_NAME: _MANIFESTS, store.HISTORY_NAME: 5, store.POINTER_NAME: 6}.get(last, 3), name


def _named(line: bytes) -> set[str]:
    """Return the versions that a line of the history names."""
    with suppress(ValueError, AttributeError):
        row = json.loads(line)
        return {str(row.get("build_id")), str(row.get("replaced"))}
    return set()


def _replacing(build_id: str, line: bytes) -> bytes:
    """Return a line of the history, changed to say that it replaced a version."""
    return json.dumps(json.loads(line) | {"replaced": build_id}).encode() + b"\n"
