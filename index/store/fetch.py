"""A local cache of the versions that stores elsewhere publish."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gifdex.index import artifact
from gifdex.index.store import versions as store
from gifdex.index.store.place import MAX_MANIFEST_BYTES, Place
from gifdex.schemas.errors import ArtifactError, CorruptIndexError, IndexNotFoundError, RemoteError
from gifdex.schemas.files import TEMPORARY_PREFIX, commit_bytes, sha256_file, sync
from gifdex.schemas.manifest import MANIFEST_NAME, FileRecord, Manifest
from gifdex.schemas.progress import QUIET, Progress

CACHE_VARIABLE = "GIFDEX_CACHE"
_BLOCK = 8 * 1024**2  # bytes that are read at a time
_MIB = 1024**2
# Versions that stay in the cache: the one that is published, and the one before, which may be open.
_CACHED = 2
_TRIES = 5  # versions that may be published while one is fetched
_MAX_POINTER_BYTES = 1024  # a larger one is none


def fetch(url: str, cache: Path | None = None, progress: Progress = QUIET, *, distrust: bool = False) -> Path:
    """Bring the version that a URL publishes (or is) into the local cache, and return its folder.

    Only files whose SHA-256 no cached version has are read, an interrupted one from where it was left; each is
    checked against the manifest before it counts. A version that is in the cache is taken by its sizes or, with
    `distrust`, is hashed again and repaired. Raises RemoteError where the store cannot be read, an ArtifactError that
    names the file for what is not as it should be.
    """
    place = Place.of(url)
    local = (cache or default_cache()) / hashlib.sha256(url.encode()).hexdigest()[:16]
    for _ in range(_TRIES - 1):
        build_id, names = _published(place)
        try:
            return _fetch(place, local, build_id, names, progress, distrust)
        except (ArtifactError, RemoteError):
            if _published(place)[0] == build_id:
                raise
            # Another version was published, and this one pruned, while it was being fetched.
    return _fetch(place, local, *_published(place), progress, distrust)


def _fetch(
    place: Place, local: Path, build_id: str | None, names: tuple[str, ...], progress: Progress, distrust: bool
) -> Path:
    text = place.read(MAX_MANIFEST_BYTES, *names, MANIFEST_NAME)
    if text is None:
        raise IndexNotFoundError(
            f"{place.shown()} publishes the version {build_id}, which has no {MANIFEST_NAME}: push the version again"
        )
    where = place.shown(*names, MANIFEST_NAME)
    try:
        manifest = artifact.parse_manifest(text.decode(), where)
    except UnicodeDecodeError as err:
        raise CorruptIndexError(f"{where} is no text in UTF-8 ({err}): push the version again") from err
    artifact.check_names(where, manifest)
    if build_id is None:
        build_id = hashlib.sha256(text).hexdigest()[:16]
    local.mkdir(parents=True, exist_ok=True)
    with _locked(local):
        version = local / build_id
        if distrust or not _is_here(version, text, manifest):
            _fill(place, names, version, manifest, progress)
            commit_bytes(version / MANIFEST_NAME, text)
        store.publish(local, build_id)
        _forget(local, build_id)
    return version


def published(url: str) -> str:
    """Return the build id that a store elsewhere publishes, or what `fetch` calls the version that a URL is."""
    place = Place.of(url)
    build_id, _ = _published(place)
    if build_id is None:
        build_id = hashlib.sha256(place.read(MAX_MANIFEST_BYTES, MANIFEST_NAME) or b"").hexdigest()[:16]
    return build_id


def _published(place: Place) -> tuple[str | None, tuple[str, ...]]:
    """Return the build id that a store publishes, and the names that lead to it; none for a URL of one version."""
    pointer = place.read(_MAX_POINTER_BYTES, store.POINTER_NAME)
    if pointer is None:
        if place.size(MANIFEST_NAME) is not None:
            return None, ()
        raise IndexNotFoundError(
            f"{place.shown()} holds neither {store.POINTER_NAME} nor {MANIFEST_NAME}; expected an index store: "
            "copy one there with gifdex push"
        )
    build_id = store.parse_pointer(pointer, place.shown(store.POINTER_NAME))
    return build_id, (build_id,)


def _is_here(version: Path, text: bytes, manifest: Manifest) -> bool:
    """Tell whether the cache has a version, whole, as far as sizes tell."""
    try:
        artifact.check_sizes(version, manifest)
        return (version / MANIFEST_NAME).read_bytes() == text
    except (ArtifactError, OSError):
        return False


def _fill(place: Place, names: tuple[str, ...], version: Path, manifest: Manifest, progress: Progress) -> None:
    """Bring every file of a version here, from other cached versions where they have it."""
    artifact.remove_manifest(version)
    version.mkdir(exist_ok=True)
    known = _cached_files(version.parent)
    done, total = 0, sum(facts.bytes for facts in manifest.files.values())
    for name, facts in manifest.files.items():
        target = version / name
        if not _is_right(target, facts) and not _link(known.get(facts.sha256), target, facts):
            for count in _download(place, (*names, name), target, facts):
                progress.stage("fetch", (done + count) // _MIB, total // _MIB)
        done += facts.bytes
        progress.stage("fetch", done // _MIB, total // _MIB)
    for path in version.iterdir():  # of an earlier manifest of the same id
        if path.name not in manifest.files:
            path.unlink()
    sync(version)


def _cached_files(local: Path) -> dict[str, Path]:
    """Return the files of the cached versions, by SHA-256."""
    found: dict[str, Path] = {}
    for path in local.glob(f"*/{MANIFEST_NAME}"):
        with suppress(ArtifactError):
            found |= {
                facts.sha256: path.parent / name for name, facts in artifact.read_manifest(path.parent).files.items()
            }
    return found


def _is_right(path: Path, facts: FileRecord) -> bool:
    try:
        return path.stat().st_size == facts.bytes and sha256_file(path) == facts.sha256
    except OSError:
        return False


def _link(source: Path | None, target: Path, facts: FileRecord) -> bool:
    """Give a cached file another name, if it is what it should be."""
    if source is None or not _is_right(source, facts):
        return False
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a filesystem without links
        shutil.copyfile(source, target)
    return True


def _download(place: Place, names: tuple[str, ...], target: Path, facts: FileRecord) -> Iterator[int]:
    """Copy a file here, going on where an interrupted copy of the same SHA-256 ends; yield how far it is."""
    part = target.parent.parent / f"{TEMPORARY_PREFIX}{facts.sha256}"
    resumed = part.exists() and 0 < part.stat().st_size <= facts.bytes
    if not resumed:
        part.unlink(missing_ok=True)
    with part.open("ab") as stream:
        for _ in place.append_to(stream, *names):
            if stream.tell() > facts.bytes:
                break
            yield stream.tell()
        stream.flush()
        os.fsync(stream.fileno())
    if _is_right(part, facts):
        part.replace(target)
        return
    found, size = sha256_file(part), part.stat().st_size
    part.unlink()
    if resumed:  # the beginning may be what is wrong
        yield from _download(place, names, target, facts)
        return
    raise CorruptIndexError(
        f"{place.shown(*names)} has {size:,} bytes of SHA-256 {found[:16]}..., but the manifest says "
        f"{facts.bytes:,} of {facts.sha256[:16]}...: its bytes were altered, so push the version again with --checksum"
    )


def _forget(local: Path, build_id: str) -> None:
    """Delete old versions of the cache, and parts of files that nothing goes on with."""
    stay = [build_id, *(version for version in store.finished(local) if version != build_id)][:_CACHED]
    for folder in local.iterdir():
        if store.is_build_id(folder.name) and folder.name not in stay:  # also one that was never whole
            artifact.remove_manifest(folder)
            shutil.rmtree(folder)
    for part in local.glob(f"{TEMPORARY_PREFIX}*"):
        part.unlink()


@contextmanager
def _locked(local: Path) -> Iterator[None]:
    """Hold a store's cache; another process that wants the same waits, and then finds it filled."""
    descriptor = os.open(local / ".fetch", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def default_cache() -> Path:
    """Return the folder of $GIFDEX_CACHE, or gifdex below $XDG_CACHE_HOME, or ~/.cache/gifdex."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gifdex"
    except RuntimeError as err:
        raise RemoteError(
            f"cannot determine the home directory of this user: set {CACHE_VARIABLE} to a folder"
        ) from err
