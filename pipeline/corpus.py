"""List a corpus: a folder, a glob or a catalog file, on any filesystem that Beam knows."""

from __future__ import annotations

import csv
import importlib
import io
import itertools
import json
import math
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from gifdex.schemas.errors import CorpusError, MissingExtraError
from gifdex.schemas.files import TEMPORARY_PREFIX, absolute, json_lines

_CATALOG_SUFFIXES = (".parquet", ".csv", ".jsonl")
# The suffixes of files to read from a folder; the first bytes tell the format.
SUFFIXES = (".gif", ".webp", ".png", ".apng", ".mp4", ".m4v", ".mov", ".webm", ".mkv")
_WILDCARD = re.compile(r"[*?\[]")
# The module that Beam needs for each scheme, and the extra that installs it.
_SCHEMES = {"s3": ("boto3", "s3"), "gs": ("google.cloud.storage", "gcs")}


@dataclass(frozen=True)
class Entry:
    """One file of the corpus. Size and modification time are None if listing does not provide them."""

    id: str
    uri: str
    size: int | None = None
    modified: float | None = None
    caption: str | None = None
    metadata: str | None = None


@dataclass(frozen=True)
class Listing:
    """The corpus: entries sorted by id, and how many other files a folder has."""

    entries: tuple[Entry, ...]
    ignored: int = 0


def read_bytes(uri: str, limit: int = -1) -> bytes:
    """Return a file's bytes, without decompression, and at most `limit` + 1 of them if a limit is given.

    Raises OSError, or other errors of the filesystem.
    """
    if "://" not in uri and Path(uri).exists() and not Path(uri).is_file():
        raise OSError(f"{uri} is not a regular file")  # a pipe or a device may never end
    with FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        data: bytes = stream.read(limit + 1 if limit >= 0 else -1)
    return data


def file_metadata(uri: str) -> tuple[int, float]:
    """Return a file's size in bytes and its modification time; raises as `read_bytes` does."""
    if "://" not in uri:
        found = Path(uri).stat()
        return found.st_size, found.st_mtime
    found = FileSystems.get_filesystem(uri).metadata(uri)
    return int(found.size_in_bytes), float(found.last_updated_in_seconds or 0.0)


def list_corpus(corpus: str) -> Listing:
    """Return the entries of the corpus, sorted by id.

    A folder gives all files below it with one of SUFFIXES (in any case), a glob every match, and a catalog file its
    rows. Raises CorpusError if the corpus is empty, a catalog cannot be read or two items have the same id;
    MissingExtraError if Beam needs an extra to read an object store.
    """
    corpus = _path(corpus)
    is_url = "://" in corpus
    _check_schemes([corpus])
    path = corpus if is_url else str(absolute(corpus))
    if not is_url and Path(path).is_dir():
        listing = _walk_folder(path)
    elif path.lower().endswith(_CATALOG_SUFFIXES) and (Path(path).is_file() or not _WILDCARD.search(path)):
        listing = Listing(tuple(_read_catalog(path)))
    elif _WILDCARD.search(path):
        root = path[: _WILDCARD.search(path).start()].rpartition("/")[0]  # type: ignore[union-attr]
        listing = Listing(tuple(_entry(root, found) for found in _match(path)))
    elif is_url:
        listing = _list_folder(path.rstrip("/"))
    else:
        what = "is a file" if Path(path).exists() else "does not exist"
        raise CorpusError(
            f"the corpus {corpus} {what}; expected a folder, a glob such as 'gifs/**/*.gif', or a catalog file "
            "(.parquet, .csv or .jsonl)"
        )
    if not listing.entries:
        raise CorpusError(f"the corpus {corpus} is empty: no GIF was found there, and nothing was published")
    entries = sorted(listing.entries, key=lambda entry: (entry.id, entry.uri))
    for one, other in itertools.pairwise(entries):
        if one.id == other.id:
            raise CorpusError(
                f"two items have the id {one.id!r}: {one.uri} and {other.uri}; rename one, or give ids in "
                "a catalog file"
            )
    _check_schemes(entry.uri for entry in entries)
    return Listing(tuple(entries), listing.ignored)


def _check_schemes(uris: Iterable[str]) -> None:
    """Raise MissingExtraError if a URI needs an object store's library that is not installed."""
    for scheme in {uri.partition("://")[0] for uri in uris if "://" in uri} & set(_SCHEMES):
        module, extra = _SCHEMES[scheme]
        try:
            importlib.import_module(module)
        except ImportError as err:
            raise MissingExtraError(f"a corpus at {scheme}://", module, extra) from err


def _path(uri: str) -> str:
    """Return the local path of a file:// URI; other paths and URIs are unchanged."""
    return url2pathname(urlsplit(uri).path) if uri.startswith("file:///") else uri


def _match(pattern: str) -> list[FileMetadata]:
    """Return the matches of a glob; as in shells, `/**/` matches any number of folders, even none."""
    try:
        results = FileSystems.match(sorted({pattern, pattern.replace("/**/", "/")}))
        return list({file.path: file for result in results for file in result.metadata_list}.values())
    except (BeamIOError, OSError, ValueError) as err:
        raise CorpusError(f"cannot list the corpus {pattern}: {err}; check the path and the permissions") from err


def _walk_folder(folder: str) -> Listing:
    """List a local folder. Follow links to files, but not to folders, because those may form cycles."""

    def fail(err: OSError) -> None:
        if not isinstance(err, FileNotFoundError):  # it may have been removed in the meantime
            raise CorpusError(f"cannot list the folder {err.filename}: {err.strerror}; fix its permissions") from err

    entries, ignored = [], 0
    for parent, _, names in os.walk(folder, onerror=fail):
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith(TEMPORARY_PREFIX):
                entries.append(_local_entry(folder, f"{parent.rstrip('/')}/{name}"))
            else:
                ignored += 1
    return Listing(tuple(entries), ignored)


def _local_entry(root: str, path: str) -> Entry:
    try:
        found = os.stat(path)  # noqa: PTH116  # ten times as fast as a Path, which counts for a million files
    except OSError:  # a dangling link; the scan reports it
        return Entry(as_text(_default_id(path, root)), as_text(path))
    return Entry(as_text(_default_id(path, root)), as_text(path), found.st_size, found.st_mtime)


def _list_folder(folder: str) -> Listing:
    literal = re.sub(r"[*?\[]", lambda match: f"[{match[0]}]", folder)
    found = _match(f"{literal.rstrip('/')}/**")
    gifs = [file for file in found if file.path.lower().endswith(SUFFIXES)]
    return Listing(tuple(_entry(folder, file) for file in gifs), len(found) - len(gifs))


def _entry(root: str, file: FileMetadata) -> Entry:
    modified = float(file.last_updated_in_seconds or 0.0)
    return Entry(as_text(_default_id(file.path, root)), as_text(file.path), int(file.size_in_bytes), modified)


def as_text(text: str) -> str:
    """Escape bytes that are not Unicode text, as in old file names, because tables and JSON cannot hold them."""
    return text.encode("utf-8", "backslashreplace").decode()


def _default_id(uri: str, root: str) -> str:
    """Return the path relative to `root`, or the URI if it is elsewhere, without a suffix `.gif`.

    Other suffixes are kept: `cat.gif` and `cat.mp4` are two items.
    """
    below = uri.removeprefix(root.rstrip("/") + "/")
    stem, suffix = posixpath.splitext(below)
    return stem if suffix.lower() == ".gif" else below


def _read_catalog(path: str) -> Iterator[Entry]:
    folder = path.rpartition("/")[0]
    for number, row in enumerate(_rows(path), start=1):
        if "uri" not in row:
            raise CorpusError(
                f"row {number} of the catalog {path} has no uri; expected a column uri (found: "
                f"{', '.join(map(str, row)) or 'nothing'}): add it"
            )
        uri = row["uri"]
        if not isinstance(uri, str) or not uri:
            raise CorpusError(
                f"row {number} of the catalog {path} has the uri {uri!r}; expected a path or a URI: fix it"
            )
        uri = _path(uri)
        absolute = uri if "://" in uri or uri.startswith("/") else posixpath.normpath(posixpath.join(folder, uri))
        if "://" in folder and absolute is not uri:
            absolute = f"{folder}/{uri}"
        if None in row:  # csv's key for surplus values
            raise CorpusError(f"row {number} of the catalog {path} has more values than there are columns: fix the row")
        given, caption = row.get("id"), row.get("caption")
        rest = {name: value for name, value in row.items() if name not in ("uri", "id", "caption")}
        yield Entry(
            id=as_text(str(given) if given not in (None, "") else _default_id(absolute, folder)),
            uri=as_text(absolute),
            caption=as_text(str(caption)) if caption not in (None, "") else None,
            metadata=as_text(_json(rest)) if rest else None,
        )


def _rows(path: str) -> Iterable[Mapping[str, Any]]:
    try:
        data = read_bytes(path)
        if path.lower().endswith(".parquet"):
            rows: list[Mapping[str, Any]] = pq.read_table(io.BytesIO(data)).to_pylist()
            return rows
        text = data.decode("utf-8-sig")
        if path.lower().endswith(".csv"):
            return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        return list(json_lines(text, f"the catalog {path}", CorpusError))
    except (OSError, BeamIOError, ValueError, csv.Error, pa.ArrowException) as err:
        raise CorpusError(f"cannot read the catalog {path}: {err}; expected Parquet, CSV or JSON Lines") from err


def _json(row: Mapping[str, Any]) -> str:
    """Return a row as JSON; NaN and infinity become null."""
    return json.dumps(_finite(row), sort_keys=True, default=str, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
