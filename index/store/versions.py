"""A store: a folder of immutable versions, the pointer CURRENT to the published one, and the publication history."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gifdex.schemas.errors import ArtifactError, CorruptIndexError, IndexNotFoundError, PublishError
from gifdex.schemas.files import commit_bytes, json_lines, remove_unfinished, sync
from gifdex.schemas.manifest import MANIFEST_NAME

POINTER_NAME = "CURRENT"
HISTORY_NAME = "PUBLISHED.jsonl"
_LOCK_NAME = ".lock"
PUBLISH, ROLLBACK = "publish", "rollback"
_BUILD_ID = re.compile(r"[0-9a-f]{16}")
# How many publications the history keeps: enough for years of nightly runs.
_MAX_HISTORY = 2000


@dataclass(frozen=True)
class Publication:
    """One change of CURRENT: the new version, the time, the action (publish or rollback), and the previous version.

    `refused` are the overruled rules of the quality gate.
    """

    build_id: str
    at: datetime
    action: str = PUBLISH
    replaced: str | None = None
    refused: tuple[str, ...] = ()


def publish(store: Path, build_id: str, *, refused: Sequence[str] = ()) -> str | None:
    """Make a version the current one by one rename, and return the previous one; publishing it twice is harmless.

    `refused` are the overruled rules of the quality gate, which are always recorded. Raises IndexNotFoundError if the
    version is not finished.
    """
    with locked(store):
        return _set_current(store, build_id, PUBLISH, tuple(refused))


def rollback(store: Path, check: Callable[[str], object]) -> tuple[str, str]:
    """Publish the version before the current one; return its build id and the one it replaces.

    Skips versions that were rolled back earlier, so a second rollback goes back further, and versions for which `check`
    raises an ArtifactError; it should check every byte. Raises PublishError if no version is left, IndexNotFoundError
    if nothing is published.
    """
    with locked(store):
        now = known_current(store)
        if now is None:
            raise IndexNotFoundError(f"nothing is published in {store}: publish a version first")
        order = list(dict.fromkeys(entry.build_id for entry in reversed(_applied(store)) if entry.action == PUBLISH))
        before = order[order.index(now) + 1 :] if now in order else order
        bad = ""
        for build_id in before:
            if not _is_finished(store, build_id) or rolled_back(store, build_id) is not None:
                continue
            try:
                check(build_id)
            except ArtifactError as err:
                bad = f" ({build_id} is damaged: {err})"
                continue
            _set_current(store, build_id, ROLLBACK, ())
            return build_id, now
    raise PublishError(
        f"no version that was published before {now} is left in {store}{bad}: list the versions with gifdex "
        f"versions {store}, and publish one by name"
    )


def _set_current(store: Path, build_id: str, action: str, refused: tuple[str, ...]) -> str | None:
    """Write the history, then the pointer; `_applied` ignores an entry whose writer was killed in between."""
    check_finished(store, build_id)
    before = known_current(store)
    if before == build_id and not refused:
        return before
    entry = Publication(build_id, datetime.now(UTC), action, before, refused)
    lines = [_line(one) for one in [*history(store), entry][-_MAX_HISTORY:]]
    commit_bytes(store / HISTORY_NAME, "".join(lines).encode())
    commit_bytes(store / POINTER_NAME, f"{build_id}\n".encode())
    return before


def known_current(store: Path) -> str | None:
    """Return the current version, or None if there is none or the pointer is damaged; publishing repairs that."""
    try:
        return current(store)
    except CorruptIndexError:
        return None


def check_finished(store: Path, build_id: str) -> None:
    """Raise IndexNotFoundError unless the store has a finished version with that id."""
    if not _is_finished(store, build_id):
        raise IndexNotFoundError(
            f"{store} has no finished version {build_id}: gifdex versions {store} lists the finished ones"
        )


def is_store(folder: Path) -> bool:
    """Tell whether a folder is a store: it has a pointer, or a finished version."""
    return (folder / POINTER_NAME).is_file() or bool(finished(folder))


def check_store(folder: Path) -> None:
    """Raise IndexNotFoundError with a hint unless a folder is a store."""
    if not is_store(folder):
        found = "is not a folder" if not folder.is_dir() else "is not an index store"
        hint = f"use {folder / 'index'}" if is_store(folder / "index") else "build one first"
        raise IndexNotFoundError(f"{folder} {found}; expected a folder with versions of an index: {hint}")


def is_build_id(name: str) -> bool:
    """Tell whether a name has the form of a build id."""
    return bool(_BUILD_ID.fullmatch(name))


def _is_finished(store: Path, build_id: str) -> bool:
    return is_build_id(build_id) and (store / build_id / MANIFEST_NAME).is_file()


def _line(entry: Publication) -> str:
    record = {
        "build_id": entry.build_id,
        "at": entry.at.isoformat("T", "seconds"),
        "action": entry.action,
        "replaced": entry.replaced,
        "refused": list(entry.refused),
    }
    return json.dumps(record) + "\n"


def history(store: Path) -> list[Publication]:
    """Return all publications, oldest first; raises CorruptIndexError if the file is damaged."""
    path = store / HISTORY_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as err:
        raise CorruptIndexError(f"cannot read {path}: {err}; delete it to start a new history") from err
    try:
        return [
            Publication(
                str(row["build_id"]),
                datetime.fromisoformat(row["at"]).astimezone(UTC),
                str(row["action"]),
                row["replaced"],
                tuple(row["refused"]),
            )
            for row in json_lines(text, str(path), CorruptIndexError)
        ]
    except (KeyError, TypeError, ValueError) as err:
        raise CorruptIndexError(
            f"{path} has a line that is not a publication ({err}): delete the file to start a new history"
        ) from err


def current(store: Path) -> str | None:
    """Return the published build id, or None if nothing is published.

    Raises CorruptIndexError if the pointer is damaged.
    """
    try:
        text = (store / POINTER_NAME).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as err:
        raise CorruptIndexError(f"cannot read {store / POINTER_NAME}: {err}; publish a version again") from err
    return parse_pointer(text.encode("ascii"), str(store / POINTER_NAME))


def parse_pointer(data: bytes, where: str) -> str:
    """Return the build id in a pointer; raises CorruptIndexError naming `where` for anything else."""
    text = data.decode("ascii", "replace").strip()
    if not is_build_id(text):
        raise CorruptIndexError(f"{where} holds {text[:40]!r}, not a build id: publish a version again")
    return text


def _applied(store: Path) -> list[Publication]:
    """Return the history without entries whose writer was killed before it changed the pointer.

    The entry after such an entry names another previous version; the last entry must be the current version.
    """
    entries = history(store)
    following = [*(entry.replaced for entry in entries[1:]), known_current(store)]
    return [entry for entry, then in zip(entries, following, strict=False) if then in (None, entry.build_id)]


def rolled_back(store: Path, build_id: str) -> datetime | None:
    """Return when a version was rolled back, unless it was published again since."""
    return _rolled_back(_applied(store), build_id)


def _rolled_back(entries: Sequence[Publication], build_id: str) -> datetime | None:
    for entry in reversed(entries):
        if entry.build_id == build_id:
            return None
        if entry.action == ROLLBACK and entry.replaced == build_id:
            return entry.at
    return None


def finished(store: Path) -> list[str]:
    """Return the build ids of all finished versions of a store, newest first."""
    manifests = [path for path in store.glob(f"*/{MANIFEST_NAME}") if is_build_id(path.parent.name)]
    return [path.parent.name for path in sorted(manifests, key=_built, reverse=True)]


def _built(manifest: Path) -> tuple[float, str]:
    return manifest.stat().st_mtime, manifest.parent.name


def built(store: Path, build_id: str) -> datetime:
    """Return when a version was finished."""
    return datetime.fromtimestamp((store / build_id / MANIFEST_NAME).stat().st_mtime, UTC)


def versions_to_keep(store: Path, keep: int, protected: timedelta, also: Collection[str] = ()) -> list[str]:
    """Return the versions that pruning keeps.

    These are the current one, the `keep` that were published last, `also`, the `keep` newest of all others (never
    published or rolled back), and every version that was current within the `protected` span, because a reader that has
    just read CURRENT is about to open it.
    """
    since = datetime.now(UTC) - protected
    versions, entries = finished(store), _applied(store)
    last = dict.fromkeys(entry.build_id for entry in reversed(entries))
    published = [one for one in last if one in versions and _rolled_back(entries, one) is None]
    others = [one for one in versions if one not in published]
    stay: set[str | None] = {current(store), *also, *published[:keep], *others[:keep]}
    for entry in history(store):
        if entry.at >= since:
            stay |= {entry.build_id, entry.replaced}
    return [build_id for build_id in versions if build_id in stay]


def prune(
    store: Path, keep: int, protected: timedelta, also: Collection[str] = (), abandoned: timedelta = timedelta(0)
) -> list[str]:
    """Delete all but `versions_to_keep`, and abandoned unfinished versions; return the deleted names.

    An unfinished version is abandoned if no file has arrived for the span `abandoned`, because it may be a push.
    Callers that know that nothing is being built in the store pass zero. Readers that have a deleted version open
    continue.
    """
    with locked(store):
        stay, whole = set(versions_to_keep(store, keep, protected, also)), set(finished(store))
        since = (datetime.now(UTC) - abandoned).timestamp()
        gone = [
            path
            for path in sorted(store.iterdir())
            if is_build_id(path.name) and path.name not in stay and (path.name in whole or _last_change(path) <= since)
        ]
        for folder in gone:  # delete manifests while the store is locked, so that nobody can publish them
            (folder / MANIFEST_NAME).unlink(missing_ok=True)
            sync(folder)
    for folder in gone:
        shutil.rmtree(folder)
    return [folder.name for folder in gone]


def _last_change(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))


def clear_unfinished(store: Path, before: float = math.inf) -> int:
    """Delete what interrupted writers left in a store, and return how many files; see `remove_unfinished`.

    Waits for anyone who is publishing.
    """
    if not store.is_dir():
        return 0
    with locked(store):
        return remove_unfinished(store, before)


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Lock the pointer and the history while the (short) block runs; others wait."""
    if not store.is_dir():
        raise IndexNotFoundError(f"{store} is not a folder; expected an index store: build one first")
    descriptor = os.open(store / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def resolve(path: Path) -> Path:
    """Return the folder of a version: `path` itself, or the published version of a store.

    Raises IndexNotFoundError that says what is there instead.
    """
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as err:  # no permission for a parent folder, or the name is too long
        raise IndexNotFoundError(f"cannot access {path}: {err.strerror}; expected an index store") from err
    if not is_folder:
        what = "is a file" if exists else "does not exist"
        raise IndexNotFoundError(f"{path} {what}; expected an index store or one of its versions: build one first")
    if (path / MANIFEST_NAME).is_file():
        return path
    build_id = current(path)
    if build_id is not None:
        if not (path / build_id / MANIFEST_NAME).is_file():
            raise CorruptIndexError(
                f"{path / POINTER_NAME} names the version {build_id}, which is missing or not finished: publish "
                "another version or rebuild"
            )
        return path / build_id
    if (path / "index" / POINTER_NAME).is_file():
        raise IndexNotFoundError(f"{path} is a workspace, not an index store: use {path / 'index'}")
    raise IndexNotFoundError(
        f"{path} holds neither {POINTER_NAME} nor {MANIFEST_NAME}, so no index was published there: build one first"
    )
