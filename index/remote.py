"""Stores elsewhere: copies of a version on an object store, and a local cache of the published one.

Everything goes through pyarrow.fs: s3://, gs:// and whatever else `FileSystem.from_uri` knows. A version is copied
file by file, its manifest after its files and the pointer last, so a reader elsewhere sees a whole version or none.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from gifdex.index import artifact, store
from gifdex.schemas.errors import ArtifactError, CorruptIndexError, IndexNotFoundError, RemoteError
from gifdex.schemas.files import TEMPORARY_PREFIX, commit_bytes, committing, sha256_file, sync
from gifdex.schemas.manifest import MANIFEST_NAME, FileRecord, Manifest
from gifdex.schemas.progress import QUIET, Progress

CACHE_VARIABLE = "GIFDEX_CACHE"
_BLOCK = 8 * 1024**2  # bytes that are read at a time
_MIB = 1024**2
# Versions that stay in the cache: the one that is published, and the one before, which may be open.
_CACHED = 2
_PATIENCE = 30  # seconds that an object store is tried again
_TRIES = 5  # versions that may be published while one is fetched
_MOST_POINTER, MOST_MANIFEST = 1024, 64 * 1024**2  # larger ones are none


@dataclass(frozen=True)
class Place:
    """A folder on a filesystem of pyarrow's."""

    url: str
    filesystem: fs.FileSystem
    root: str

    @classmethod
    def of(cls, url: str) -> Place:
        """Parse a URL; raises RemoteError for one that pyarrow does not know."""
        try:
            filesystem, root = fs.FileSystem.from_uri(_patient(url))
        except (pa.ArrowException, OSError, ValueError) as err:
            user, at, _ = urlsplit(url).netloc.rpartition("@")
            reason = _line(err).replace(user + at, "") if at else _line(err)
            raise RemoteError(
                f"the URL cannot be used: {reason}; expected a URL such as s3://bucket/index or gs://bucket/index, and "
                "a bucket that can be reached"
            ) from None
        return cls(url, filesystem, root.rstrip("/"))

    def shown(self, *names: str) -> str:
        """Return what messages call something below the folder: no key, no secret, no options of the URL."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        return "/".join([f"{parts.scheme}://{host}{parts.path}".rstrip("/"), *names])

    def path(self, *names: str) -> str:
        """Return the path of something below the folder."""
        return "/".join([self.root, *names])

    def size(self, *names: str) -> int | None:
        """Return a file's bytes, None where there is no such file; raises RemoteError where nobody can tell."""
        with self._telling(*names):
            found = self.filesystem.get_file_info(self.path(*names))
        return found.size if found.type == fs.FileType.File else None

    def read(self, most: int, *names: str) -> bytes | None:
        """Return a small file's bytes, None where there is no such file or it has more than `most`."""
        size = self.size(*names)
        if size is None or size > most:
            return None
        with self._telling(*names), self.filesystem.open_input_stream(self.path(*names)) as stream:
            return bytes(stream.read())

    def append_to(self, local: BinaryIO, *names: str) -> Iterator[int]:
        """Copy a file from where `local` ends to its end; yield the bytes of each block that was written."""
        with self._telling(*names), self.filesystem.open_input_file(self.path(*names)) as stream:
            stream.seek(local.tell())
            while block := stream.read(_BLOCK):
                local.write(block)
                yield len(block)

    def write(self, source: BinaryIO, *names: str) -> Iterator[int]:
        """Copy `source` to a file, which is there when all of it is; yield the bytes of each block."""
        with self._telling(*names):
            if isinstance(self.filesystem, fs.LocalFileSystem):
                yield from self._write_locally(source, Path(self.path(*names)))
                return
            stream = self.filesystem.open_output_stream(self.path(*names))
            try:
                while block := source.read(_BLOCK):
                    stream.write(block)
                    yield len(block)
            except BaseException:  # closing a stream is what puts an object in its place, and there is no other end
                with suppress(pa.ArrowException, OSError):
                    stream.close()
                    self.filesystem.delete_file(self.path(*names))
                raise
            stream.close()

    def put(self, data: bytes, *names: str) -> None:
        """Write a small file, whole or not at all."""
        with pa.BufferReader(data) as source:
            for _ in self.write(source, *names):
                pass

    def files(self) -> Iterator[tuple[str, int, float]]:
        """Yield the path below the folder, the bytes, and the time of change of every file."""
        selector = fs.FileSelector(self.root, recursive=True, allow_not_found=True)
        with self._telling():
            found = self.filesystem.get_file_info(selector)
        for info in found:
            if info.type == fs.FileType.File:
                yield info.path[len(self.root) + 1 :], info.size, info.mtime.timestamp() if info.mtime else 0.0

    def changed(self, *names: str) -> float:
        """Return a file's time of change."""
        with self._telling(*names):
            found = self.filesystem.get_file_info(self.path(*names)).mtime
        return found.timestamp() if found else 0.0

    def is_folder(self, *names: str) -> bool:
        """Tell whether there is a folder or, on an object store, anything whose name begins like one."""
        with self._telling(*names):
            return bool(self.filesystem.get_file_info(self.path(*names)).type == fs.FileType.Directory)

    @property
    def parent(self) -> Place:
        """The folder above."""
        parts = urlsplit(self.url)
        above = parts._replace(path=parts.path.rstrip("/").rpartition("/")[0])
        return Place(above.geturl(), self.filesystem, self.root.rpartition("/")[0])

    def delete(self, *names: str) -> None:
        """Delete a file."""
        with self._telling(*names):
            self.filesystem.delete_file(self.path(*names))

    def _write_locally(self, source: BinaryIO, path: Path) -> Iterator[int]:
        """A folder shows files that are not whole yet, where an object store does not."""
        with committing(path) as temporary, temporary.open("wb") as stream:
            while block := source.read(_BLOCK):
                stream.write(block)
                yield len(block)
            stream.flush()

    def has(self, facts: FileRecord, checksum: bool, *names: str) -> bool:
        """Tell whether a file is there already: of that size or, with `checksum`, by its bytes, which are read."""
        if self.size(*names) != facts.bytes:
            return False
        if not checksum:
            return True
        with self._telling(*names), self.filesystem.open_input_stream(self.path(*names)) as stream:
            digest = hashlib.sha256()
            while block := stream.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest() == facts.sha256

    @contextmanager
    def _telling(self, *names: str) -> Iterator[None]:
        """Turn what filesystems raise into a RemoteError that says where."""
        try:
            yield
        except (pa.ArrowException, OSError) as err:
            if isinstance(err, OSError) and err.filename is not None:  # of the local side
                raise
            raise RemoteError(
                f"cannot read or write {self.shown(*names)}: {_line(err)}; see that it is there, and that the network "
                "and the credentials are, then try again"
            ) from err


def _patient(url: str) -> str:
    """Return a URL with how long to try again, which is a quarter of an hour for gs:// unless it says."""
    parts = urlsplit(url)
    if parts.scheme not in ("gs", "gcs") or "retry_limit_seconds" in parts.query:
        return url
    return parts._replace(query="&".join(filter(None, [parts.query, f"retry_limit_seconds={_PATIENCE}"]))).geturl()


def fetch(url: str, cache: Path | None = None, progress: Progress = QUIET, *, distrust: bool = False) -> Path:
    """Bring the version that a URL publishes (or is) into the local cache, and return its folder.

    Only files whose SHA-256 no cached version has are read, an interrupted one from where it was left; each is
    checked against the manifest before it counts. A version that is in the cache is taken by its sizes or, with
    `distrust`, is hashed again, and mended. Raises RemoteError where the store cannot be read, an ArtifactError that
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
    text = place.read(MOST_MANIFEST, *names, MANIFEST_NAME)
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
    with _alone(local):
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
        build_id = hashlib.sha256(place.read(MOST_MANIFEST, MANIFEST_NAME) or b"").hexdigest()[:16]
    return build_id


def _published(place: Place) -> tuple[str | None, tuple[str, ...]]:
    """Return the build id that a store publishes, and the names that lead to it; none for a URL of one version."""
    pointer = place.read(_MOST_POINTER, store.POINTER_NAME)
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
def _alone(local: Path) -> Iterator[None]:
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
        raise RemoteError(f"nobody knows the home folder of this user: set {CACHE_VARIABLE} to a folder") from err


def _line(err: BaseException) -> str:
    return " ".join(str(err).split())[:300]
