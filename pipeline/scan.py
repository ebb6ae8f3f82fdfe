"""First stage: list the items of the corpus and hash their bytes.

Files with the URI, size and modification time of the last catalog are unchanged and not read.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from gifdex.encoders.frames.decoders.base import check_bytes
from gifdex.encoders.frames.limits import Limits
from gifdex.pipeline.corpus import Entry, Listing, file_metadata, list_corpus, read_bytes
from gifdex.pipeline.inbox import check_inbox, with_inbox
from gifdex.pipeline.settings import BuildSettings
from gifdex.pipeline.tasks import run_tasks
from gifdex.pipeline.workspace import Workspace
from gifdex.schemas import tables
from gifdex.schemas.errors import LimitError, PipelineError
from gifdex.schemas.files import commit_table, read_table
from gifdex.schemas.progress import Progress

_TASK_ITEMS = 256


@dataclass(frozen=True)
class Known:
    """The last catalog's entry for a URI."""

    size: int
    modified: float
    sha256: str


@dataclass(frozen=True)
class ScanTask:
    """Files to scan, the last catalog's entry for each, and the file of results."""

    entries: tuple[Entry, ...]
    known: tuple[Known | None, ...]
    output: Path

    @property
    def items(self) -> int:
        """How many files the task scans."""
        return len(self.entries)


@dataclass(frozen=True)
class Scan:
    """The result of a scan: the catalog (schema CATALOG) and rejects (schema REJECTS), both sorted by id.

    `unchanged` counts files that did not have to be read, `ignored` other files that are not GIFs.
    """

    catalog: pa.Table
    rejects: pa.Table
    unchanged: int
    ignored: int


def plan_scan(entries: Sequence[Entry], known: dict[str, Known], folder: Path, limits: Limits) -> list[ScanTask]:
    """Split entries, in order, into tasks; a task's name is a hash of its inputs."""
    tasks = []
    for start in range(0, len(entries), _TASK_ITEMS):
        part = tuple(entries[start : start + _TASK_ITEMS])
        before = tuple(known.get(entry.uri) for entry in part)
        name = hashlib.sha256(repr((part, before, limits.bytes)).encode()).hexdigest()[:32]
        tasks.append(ScanTask(part, before, folder / f"{name}.parquet"))
    return tasks


def scan_file(entry: Entry, known: Known | None, limits: Limits) -> dict[str, Any]:
    """Return the SCAN_RESULTS row of one file; any error becomes its reason."""
    row: dict[str, Any] = {"id": entry.id, "size": entry.size, "modified": entry.modified}
    try:
        if entry.size is None or entry.modified is None:
            row["size"], row["modified"] = file_metadata(entry.uri)
        check_bytes(row["size"], limits)
        if known is not None and _is_same(known, row["size"], row["modified"]):
            return {**row, "sha256": known.sha256}
        data = read_bytes(entry.uri, limits.bytes)
        check_bytes(len(data), limits)
        return {**row, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    except LimitError as err:
        return {**row, "error": "LimitError", "reason": str(err)}
    except Exception as err:  # noqa: BLE001  # each filesystem fails in its own way; every one ends as a reject
        return {
            **row,
            "error": type(err).__name__,
            "reason": f"cannot read the file: {' '.join(str(err).split())[:200]}",
        }


class RunScanTask(beam.DoFn):  # type: ignore[misc]  # Beam has no types
    """Scan a task's files in threads, and commit one file of results."""

    def __init__(self, limits: Limits, threads: int) -> None:
        self._limits = limits
        self._threads = threads

    def process(self, task: ScanTask) -> Iterator[tuple[str, int]]:
        """Yield the results file and its count of rows."""
        with ThreadPoolExecutor(self._threads) as pool:
            rows = list(pool.map(scan_file, task.entries, task.known, [self._limits] * task.items))
        commit_table(task.output, pa.Table.from_pylist(rows, schema=tables.SCAN_RESULTS))
        yield str(task.output), len(rows)


def scan(settings: BuildSettings, workspace: Workspace, progress: Progress) -> Scan:
    """List the corpus, hash what is new or changed, and return the catalog.

    Raises CorpusError if the corpus cannot be listed, PipelineError if results are missing.
    """
    check_inbox(settings)
    listing = with_inbox(list_corpus(settings.corpus), settings.inbox)
    known = {} if settings.checksum else _last_catalog(workspace)
    limits = settings.encode.limits
    unchanged = {entry.id: known[entry.uri].sha256 for entry in listing.entries if _is_unchanged(entry, known, limits)}
    rest = [entry for entry in listing.entries if entry.id not in unchanged]
    if settings.checksum and workspace.scan.exists():
        shutil.rmtree(workspace.scan)
    tasks = plan_scan(rest, known, workspace.scan, limits)
    todo = [task for task in tasks if not _is_reusable(task)]
    for task in todo:
        task.output.unlink(missing_ok=True)

    def worker() -> RunScanTask:
        return RunScanTask(limits, settings.encode.threads)

    run_tasks("scan", todo, worker, settings.beam_options, progress)
    rows = _collect(tasks)
    results = {row["id"]: row for row in rows}
    seen = sum(known.get(entry.uri) == _known(results[entry.id]) for entry in rest)
    return _assemble(listing, unchanged, results, len(unchanged) + seen)


def _known(result: dict[str, Any]) -> Known:
    return Known(result["size"], result["modified"], result["sha256"])


def _is_reusable(task: ScanTask) -> bool:
    """Tell whether an interrupted scan's result is still valid: all files were read and cannot have changed since.

    The size and time from listing are part of a task's name, so they are unchanged.
    """
    if any(entry.size is None or not entry.modified for entry in task.entries) or not task.output.exists():
        return False
    try:
        errors = read_table(task.output, ["error"])["error"]
    except (OSError, pa.ArrowException):
        return False
    return bool(pc.all(pc.is_null(errors), min_count=0).as_py())


def _is_unchanged(entry: Entry, known: dict[str, Known], limits: Limits) -> bool:
    if entry.size is None or entry.size > limits.bytes:
        return False
    return _is_same(known.get(entry.uri), entry.size, entry.modified)


def _is_same(before: Known | None, size: int, modified: float | None) -> bool:
    """Tell whether a file is unchanged; without a modification time (0) it may have changed."""
    return before is not None and bool(modified) and (before.size, before.modified) == (size, modified)


def _last_catalog(workspace: Workspace) -> dict[str, Known]:
    """Return the newest catalog's entries by URI; empty if there is none or it cannot be read."""
    newest = workspace.newest_catalog()
    if newest is None:
        return {}
    try:
        table = read_table(newest, ["uri", "size", "modified", "sha256"])
    except (OSError, pa.ArrowException):
        return {}  # every file is hashed again
    columns = (table[name].to_pylist() for name in ("uri", "size", "modified", "sha256"))
    return {uri: Known(size, modified, sha256) for uri, size, modified, sha256 in zip(*columns, strict=True)}


def _collect(tasks: Sequence[ScanTask]) -> list[dict[str, Any]]:
    """Read the results back and check each against its task."""
    rows: list[dict[str, Any]] = []
    for task in tasks:
        found = read_table(task.output).to_pylist()
        if [row["id"] for row in found] != [entry.id for entry in task.entries]:
            raise PipelineError(f"{task.output} does not hold the {task.items} files it was planned for: run again")
        rows += found
    return rows


def _assemble(listing: Listing, unchanged: dict[str, str], results: dict[str, dict[str, Any]], seen: int) -> Scan:
    catalog, rejects = [], []
    for entry in listing.entries:
        row: dict[str, Any] = {
            "id": entry.id,
            "uri": entry.uri,
            "caption": entry.caption,
            "metadata": entry.metadata,
        }
        if entry.id in unchanged:
            row |= {"sha256": unchanged[entry.id], "size": entry.size, "modified": entry.modified}
            catalog.append(row)
        elif (result := results[entry.id])["error"] is None:
            catalog.append(row | {name: result[name] for name in ("sha256", "size", "modified")})
        else:
            rejects.append(row | {"stage": "scan", "error": result["error"], "reason": result["reason"]})
    return Scan(
        pa.Table.from_pylist(catalog, schema=tables.CATALOG),
        pa.Table.from_pylist(rejects, schema=tables.REJECTS),
        seen,
        listing.ignored,
    )
