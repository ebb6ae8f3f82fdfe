"""A local cache of the versions that remote stores publish."""

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
_BLOCK = 8 * 1024**2  # bytes per read
_MIB = 1024**2
# Versions to keep in the cache: the published one, and the one before, which may be open.
_MAX_CACHED = 2
_TRIES = 5  # attempts, in case new versions are published during the fetch
_MAX_POINTER_BYTES = 1024  # a larger file is not a pointer


def fetch(url: str, cache: Path | None = None, progress: Progress = QUIET, *, distrust: bool = False) -> Path:
    """Copy the version at a URL, or the one published there, into the local cache; return its folder.

    Downloads only files that no cached version has (by SHA-256), resumes interrupted downloads, and checks every file
    against the manifest. A cached version is checked by file sizes or, with `distrust`, hashed again and repaired.
    Raises RemoteError if the store cannot be read, an ArtifactError naming the file for wrong content.
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
            # Another version was published and this one pruned during the fetch.
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
        raise CorruptIndexError(f"{where} is not UTF-8 text ({err}): push the version again") from err
    artifact.check_names(where, manifest)
    if build_id is None:
        build_id = hashlib.sha256(text).hexdigest()[:16]
    local.mkdir(parents=True, exist_ok=True)
    with _locked_cache(local):
        version = local / build_id
        if distrust or not _is_cached(version, text, manifest):
            _fill(place, names, version, manifest, progress)
            commit_bytes(version / MANIFEST_NAME, text)
        store.publish(local, build_id)
        _forget(local, build_id)
    return version


def published(url: str) -> str:
    """Return the build id that a remote store publishes, or `fetch`'s folder name for a URL of one version."""
    place = Place.of(url)
    build_id, _ = _published(place)
    if build_id is None:
        build_id = hashlib.sha256(place.read(MAX_MANIFEST_BYTES, MANIFEST_NAME) or b"").hexdigest()[:16]
    return build_id


def _published(place: Place) -> tuple[str | None, tuple[str, ...]]:
    """Return the build id that a store publishes and its path below the URL; None and () for one version."""
    pointer = place.read(_MAX_POINTER_BYTES, store.POINTER_NAME)
    if pointer is None:
        if place.size(MANIFEST_NAME) is not None:
            return None, ()
        raise IndexNotFoundError(
            f"{place.shown()} holds neither {store.POINTER_NAME} nor {MANIFEST_NAME}; expected an index store: "
            "push an index there with gifdex push"
        )
    build_id = store.parse_pointer(pointer, place.shown(store.POINTER_NAME))
    return build_id, (build_id,)


def _is_cached(version: Path, text: bytes, manifest: Manifest) -> bool:
    """Tell whether the cache has the whole version, judged by file sizes."""
    try:
        artifact.check_sizes(version, manifest)
        return (version / MANIFEST_NAME).read_bytes() == text
    except (ArtifactError, OSError):
        return False


def _fill(place: Place, names: tuple[str, ...], version: Path, manifest: Manifest, progress: Progress) -> None:
    """Copy every file of a version into the cache, from other cached versions if they have it."""
    artifact.remove_manifest(version)
    version.mkdir(exist_ok=True)
    known = _cached_files(version.parent)
    done, total = 0, sum(record.bytes for record in manifest.files.values())
    for name, record in manifest.files.items():
        target = version / name
        if not _matches(target, record) and not _link(known.get(record.sha256), target, record):
            for count in _download(place, (*names, name), target, record):
                progress.stage("fetch", (done + count) // _MIB, total // _MIB)
        done += record.bytes
        progress.stage("fetch", done // _MIB, total // _MIB)
    for path in version.iterdir():  # files of an earlier manifest with the same id
        if path.name not in manifest.files:
            path.unlink()
    sync(version)


def _cached_files(local: Path) -> dict[str, Path]:
    """Return the files of all cached versions by SHA-256."""
    found: dict[str, Path] = {}
    for path in local.glob(f"*/{MANIFEST_NAME}"):
        with suppress(ArtifactError):
            found |= {
                record.sha256: path.parent / name for name, record in artifact.read_manifest(path.parent).files.items()
            }
    return found


def _matches(path: Path, record: FileRecord) -> bool:
    try:
        return path.stat().st_size == record.bytes and sha256_file(path) == record.sha256
    except OSError:
        return False


def _link(source: Path | None, target: Path, record: FileRecord) -> bool:
    """Hard-link a cached file if it has the expected content; tell whether that succeeded."""
    if source is None or not _matches(source, record):
        return False
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a filesystem without hard links
        shutil.copyfile(source, target)
    return True


def _download(place: Place, names: tuple[str, ...], target: Path, record: FileRecord) -> Iterator[int]:
    """Download a file, resuming an interrupted download of the same SHA-256; yield the bytes so far."""
    part = target.parent.parent / f"{TEMPORARY_PREFIX}{record.sha256}"
    resumed = part.exists() and 0 < part.stat().st_size <= record.bytes
    if not resumed:
        part.unlink(missing_ok=True)
    with part.open("ab") as stream:
        for _ in place.append_to(stream, *names):
            if stream.tell() > record.bytes:
                break
            yield stream.tell()
        stream.flush()
        os.fsync(stream.fileno())
    if _matches(part, record):
        part.replace(target)
        return
    found, size = sha256_file(part), part.stat().st_size
    part.unlink()
    if resumed:  # the resumed part may be wrong
        yield from _download(place, names, target, record)
        return
    raise CorruptIndexError(
        f"{place.shown(*names)} has {size:,} bytes of SHA-256 {found[:16]}..., but the manifest says "
        f"{record.bytes:,} of {record.sha256[:16]}...: its bytes were altered, so push the version again with "
        "--checksum"
    )


def _forget(local: Path, build_id: str) -> None:
    """Delete old versions from the cache, and unfinished downloads that will not be resumed."""
    stay = [build_id, *(version for version in store.finished(local) if version != build_id)][:_MAX_CACHED]
    for folder in local.iterdir():
        if store.is_build_id(folder.name) and folder.name not in stay:  # including incomplete ones
            artifact.remove_manifest(folder)
            shutil.rmtree(folder)
    for part in local.glob(f"{TEMPORARY_PREFIX}*"):
        part.unlink()


@contextmanager
def _locked_cache(local: Path) -> Iterator[None]:
    """Lock a store's cache; other processes wait, and then find it filled."""
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
        raise RemoteError(f"cannot determine this user's home directory: set {CACHE_VARIABLE} to a folder") from err
