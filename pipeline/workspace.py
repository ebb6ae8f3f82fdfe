"""The layout of a workspace, and its lock."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq

from gifdex.index import store
from gifdex.schemas.errors import WorkspaceBusyError, WorkspaceError
from gifdex.schemas.files import remove_unfinished

_LOCK_NAME = ".lock"
STORE, BUILDS = "index", "builds"
FINGERPRINT_KEY = b"features_fingerprint"  # in a catalog's schema metadata


@dataclass(frozen=True)
class Workspace:
    """The folders of one workspace (see docs/formats.md)."""

    root: Path

    @property
    def features(self) -> Path:
        """The content-addressed cache of features."""
        return self.root / "features"

    @property
    def builds(self) -> Path:
        """One folder per build: catalog, rejects, embeddings, statistics."""
        return self.root / BUILDS

    @property
    def scan(self) -> Path:
        """Results of the current scan; deleted when its catalog is written."""
        return self.root / "scan"

    @property
    def projections(self) -> Path:
        """Zero-shot projections already fitted, by recipe."""
        return self.root / "projections"

    @property
    def store(self) -> Path:
        """The index store."""
        return self.root / STORE

    @property
    def folders(self) -> tuple[Path, ...]:
        """All of the folders above."""
        return self.features, self.builds, self.scan, self.projections, self.store

    def build(self, build_id: str) -> Path:
        """The folder of one build."""
        return self.builds / build_id

    def catalog(self, build_id: str) -> Path:
        """The catalog of one build."""
        return self.build(build_id) / "catalog" / "part-00000.parquet"

    def rejects(self, build_id: str) -> Path:
        """The rejects of one build."""
        return self.build(build_id) / "rejects" / "part-00000.parquet"

    def embeddings(self, build_id: str) -> Path:
        """The embeddings of a build, one file per shard."""
        return self.build(build_id) / "embeddings"

    def statistics(self, build_id: str) -> Path:
        """The statistics of a run."""
        return self.build(build_id) / "stats.json"

    @property
    def status(self) -> Path:
        """The status of the last nightly runs."""
        return self.root / "status.json"

    def newest_catalog(self) -> Path | None:
        """Return the newest catalog, which the next run compares the corpus with."""
        catalogs = sorted(self.builds.glob("*/catalog/part-00000.parquet"), key=lambda path: path.stat().st_mtime)
        return catalogs[-1] if catalogs else None

    def clear_unfinished(self) -> int:
        """Delete what killed runs left; return how many files. The caller must hold the workspace.

        Leaves other files in the root alone, and waits for anyone who is publishing in the store.
        """
        ours = [folder for folder in self.folders if folder != self.store]
        return sum(remove_unfinished(folder) for folder in ours) + store.clear_unfinished(self.store)

    def check_free(self) -> None:
        """Raise WorkspaceBusyError if another run holds it; a fast check before slow work that precedes `locked`."""
        if (self.root / _LOCK_NAME).is_file():
            with self.locked():
                pass

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the workspace and lock it for writing.

        The operating system releases the lock when its holder ends for any reason. Raises WorkspaceBusyError with the
        holder and the time, WorkspaceError if the workspace cannot be created.
        """
        path = self.root / _LOCK_NAME
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as err:
            raise WorkspaceError(
                f"cannot use the workspace {self.root}: {err.strerror}; expected a folder that can be written: "
                "choose another with --workspace"
            ) from err
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as err:
                raise WorkspaceBusyError(
                    f"another run holds the workspace {self.root} ({_holder(descriptor)}): wait for it or choose "
                    "another workspace"
                ) from err
            except OSError as err:
                raise WorkspaceError(
                    f"cannot lock the workspace {self.root}: {err.strerror}; expected a filesystem with file locks: "
                    "choose another with --workspace"
                ) from err
            holder = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now(UTC).isoformat("T", "seconds"),
            }
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
            yield
        finally:
            os.close(descriptor)


def catalog_fingerprint(path: Path) -> str | None:
    """Return the fingerprint of a catalog's features; None if it does not state one."""
    found = (pq.read_schema(path).metadata or {}).get(FINGERPRINT_KEY)
    return None if found is None else found.decode()


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "unknown process"
