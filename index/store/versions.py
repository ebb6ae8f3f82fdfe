"""A store: a folder of immutable versions, the pointer CURRENT to the published one, and what was published when."""

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
# Publications that are remembered: years of nights.
_REMEMBERED = 2000


@dataclass(frozen=True)
class Publication:
    """One change of CURRENT: to which version, when, by publishing or rolling back, and what it replaced.

    `refused` has the rules of the quality gate that were overruled.
    """

    build_id: str
    at: datetime
    action: str = PUBLISH
    replaced: str | None = None
    refused: tuple[str, ...] = ()


def publish(store: Path, build_id: str, *, refused: Sequence[str] = ()) -> str | None:
    """Make a version the store's current one, by one rename, and return what was; what is current already stays.

    `refused` has the rules of the quality gate that are overruled, which is recorded in any case. Raises
    IndexNotFoundError where the version is not finished.
    """
    with locked(store):
        return _point(store, build_id, PUBLISH, tuple(refused))


def rollback(store: Path, check: Callable[[str], object]) -> tuple[str, str]:
    """Publish what was published before the current version; return its build id, and which one was current.

    Again, it is what was before that. Versions that were rolled back from are passed over, and so are those for which
    `check` raises an ArtifactError, which should look at every byte. Raises PublishError where no version is left,
    IndexNotFoundError where nothing is published.
    """
    with locked(store):
        now = known_current(store)
        if now is None:
            raise IndexNotFoundError(f"nothing is published in {store}: publish a version first")
        order = list(dict.fromkeys(entry.build_id for entry in reversed(_happened(store)) if entry.action == PUBLISH))
        before = order[order.index(now) + 1 :] if now in order else order
        bad = ""
        for build_id in before:
            if not _is_finished(store, build_id) or rolled_back(store, build_id) is not None:
                continue
            try:
                check(build_id)
            except ArtifactError as err:
                bad = f" ({build_id} is not whole: {err})"
                continue
            _point(store, build_id, ROLLBACK, ())
            return build_id, now
    raise PublishError(
        f"no version that was published before {now} is left in {store}{bad}: see what is there with gifdex "
        f"versions {store}, and publish one by name"
    )


def _point(store: Path, build_id: str, action: str, refused: tuple[str, ...]) -> str | None:
    """Write the history, then the pointer; killed in between, the history tells of what did not happen: `_happened`."""
    check_finished(store, build_id)
    before = known_current(store)
    if before == build_id and not refused:
        return before
    entry = Publication(build_id, datetime.now(UTC), action, before, refused)
    lines = [_line(one) for one in [*history(store), entry][-_REMEMBERED:]]
    commit_bytes(store / HISTORY_NAME, "".join(lines).encode())
    commit_bytes(store / POINTER_NAME, f"{build_id}\n".encode())
    return before


def known_current(store: Path) -> str | None:
    """Return what is current, and None also where the pointer is damaged, because publishing writes a new one."""
    try:
        return current(store)
    except CorruptIndexError:
        return None


def check_finished(store: Path, build_id: str) -> None:
    """Raise IndexNotFoundError unless a store has a finished version of that id."""
    if not _is_finished(store, build_id):
        raise IndexNotFoundError(
            f"{store} has no finished version {build_id}: gifdex versions {store} lists those that it has"
        )


def is_store(folder: Path) -> bool:
    """Tell whether a folder is a store: it has a pointer, or a finished version."""
    return (folder / POINTER_NAME).is_file() or bool(finished(folder))


def check_store(folder: Path) -> None:
    """Raise IndexNotFoundError, which says what is meant instead, unless a folder is a store."""
    if not is_store(folder):
        found = "is no folder" if not folder.is_dir() else "is no index store"
        hint = f"use {folder / 'index'}" if is_store(folder / "index") else "build one first"
        raise IndexNotFoundError(f"{folder} {found}; expected an index store, a folder with versions: {hint}")


def is_build_id(name: str) -> bool:
    """Tell whether a name is one of a version."""
    return bool(_BUILD_ID.fullmatch(name))


def _is_finished(store: Path, build_id: str) -> bool:
    return is_build_id(build_id) and (store / build_id / MANIFEST_NAME).is_file()


def _line(entry: Publication) -> str:
    facts = {
        "build_id": entry.build_id,
        "at": entry.at.isoformat("T", "seconds"),
        "action": entry.action,
        "replaced": entry.replaced,
        "refused": list(entry.refused),
    }
    return json.dumps(facts) + "\n"


def history(store: Path) -> list[Publication]:
    """Return what was published, the oldest first; raises CorruptIndexError where the file is damaged."""
    path = store / HISTORY_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as err:
        raise CorruptIndexError(f"cannot read {path}: {err}; delete it, which forgets what was published") from err
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
            f"{path} has a line that is no publication ({err}): delete it, which forgets what was published"
        ) from err


def current(store: Path) -> str | None:
    """Return the published build id, or None where nothing is published.

    Raises CorruptIndexError where the pointer is damaged.
    """
    try:
        text = (store / POINTER_NAME).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as err:
        raise CorruptIndexError(f"cannot read {store / POINTER_NAME}: {err}; publish a version again") from err
    return parse_pointer(text.encode("ascii"), str(store / POINTER_NAME))


def parse_pointer(data: bytes, where: str) -> str:
    """Return the build id that a pointer holds; raises CorruptIndexError that says where it lies."""
    text = data.decode("ascii", "replace").strip()
    if not is_build_id(text):
        raise CorruptIndexError(f"{where} holds {text[:40]!r}, not a build id: publish a version again")
    return text


def _happened(store: Path) -> list[Publication]:
    """Return the history without entries that no change of the pointer followed, since their writer was killed.

    The entry after such a one replaced something else, as far as it knew; and the last entry is what is current.
    """
    entries = history(store)
    following = [*(entry.replaced for entry in entries[1:]), known_current(store)]
    return [entry for entry, then in zip(entries, following, strict=False) if then in (None, entry.build_id)]


def rolled_back(store: Path, build_id: str) -> datetime | None:
    """Return when a version was rolled back from, unless it was published again since."""
    return _rolled_back(_happened(store), build_id)


def _rolled_back(entries: Sequence[Publication], build_id: str) -> datetime | None:
    for entry in reversed(entries):
        if entry.build_id == build_id:
            return None
        if entry.action == ROLLBACK and entry.replaced == build_id:
            return entry.at
    return None


def finished(store: Path) -> list[str]:
    """Return the build ids of all versions of a store, the newest first."""
    manifests = [path for path in store.glob(f"*/{MANIFEST_NAME}") if is_build_id(path.parent.name)]
    return [path.parent.name for path in sorted(manifests, key=_built, reverse=True)]


def _built(manifest: Path) -> tuple[float, str]:
    return manifest.stat().st_mtime, manifest.parent.name


def built(store: Path, build_id: str) -> datetime:
    """Return when a version was finished."""
    return datetime.fromtimestamp((store / build_id / MANIFEST_NAME).stat().st_mtime, UTC)


def kept(store: Path, keep: int, protected: timedelta, also: Collection[str] = ()) -> list[str]:
    """Return the versions that pruning leaves: the current one, the `keep` that were published last, those lately
    current, `also` some, and of all others, never published or rolled back from, the `keep` newest.

    A reader that has just read CURRENT goes on to open what it names, so a version that was current at any time of
    the `protected` span stays.
    """
    since = datetime.now(UTC) - protected
    versions, entries = finished(store), _happened(store)
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
    """Delete the versions that `kept` does not name, and folders that are no finished version; return their names.

    Of those, only such to which nothing came for the span `abandoned`: a version may be coming from elsewhere. It is
    none for a caller that knows that nothing is being built in the store. A reader that has a version open goes on.
    """
    with locked(store):
        stay, whole = set(kept(store, keep, protected, also)), set(finished(store))
        since = (datetime.now(UTC) - abandoned).timestamp()
        gone = [
            path
            for path in sorted(store.iterdir())
            if is_build_id(path.name) and path.name not in stay and (path.name in whole or _last_change(path) <= since)
        ]
        for folder in gone:  # now, so that nobody can publish it
            (folder / MANIFEST_NAME).unlink(missing_ok=True)
            sync(folder)
    for folder in gone:
        shutil.rmtree(folder)
    return [folder.name for folder in gone]


def _last_change(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))


def clear_unfinished(store: Path, before: float = math.inf) -> int:
    """Delete what interrupted writers left in a store, and return how many files that were; see `remove_unfinished`.

    Whoever is publishing meanwhile is waited for.
    """
    if not store.is_dir():
        return 0
    with locked(store):
        return remove_unfinished(store, before)


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Hold the pointer and the history while the block runs, which is short; others wait."""
    if not store.is_dir():
        raise IndexNotFoundError(f"{store} is no folder; expected an index store: build one first")
    descriptor = os.open(store / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def resolve(path: Path) -> Path:
    """Return the version's folder that `path` stands for: itself, or the published one of a store.

    Raises IndexNotFoundError that says what is there instead.
    """
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as err:  # a folder above it may not be entered, or the name is too long
        raise IndexNotFoundError(f"cannot look at {path}: {err.strerror}; expected an index store") from err
    if not is_folder:
        what = "is a file" if exists else "does not exist"
        raise IndexNotFoundError(f"{path} {what}; expected an index store or one of its versions: build one first")
    if (path / MANIFEST_NAME).is_file():
        return path
    build_id = current(path)
    if build_id is not None:
        if not (path / build_id / MANIFEST_NAME).is_file():
            raise CorruptIndexError(
                f"{path / POINTER_NAME} names the version {build_id}, which is not there or not finished: publish "
                "another version or rebuild"
            )
        return path / build_id
    if (path / "index" / POINTER_NAME).is_file():
        raise IndexNotFoundError(f"{path} is a workspace, not an index store: use {path / 'index'}")
    raise IndexNotFoundError(
        f"{path} holds neither {POINTER_NAME} nor {MANIFEST_NAME}, so no index was published there: build one first"
    )
