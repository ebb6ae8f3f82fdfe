"""Write an index's vectors and items as plain files that other programs can read.

An export is a folder: the vectors in one format, `items.jsonl` with one item per line in the same order, and
`facts.json` with a summary. It is written under a temporary name and renamed, so it is either complete or absent.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gifdex.encoders.base import FloatArray
from gifdex.index import items as item_files
from gifdex.index.artifact import file_records, verify
from gifdex.index.engines import annoy_trees, hnsw
from gifdex.index.field_records import main_field
from gifdex.index.fields import Field, open_field
from gifdex.schemas import tables
from gifdex.schemas.errors import CorruptIndexError, ExportError, MissingExtraError
from gifdex.schemas.files import TEMPORARY_PREFIX, absolute, commit_bytes, committing, read_table, sync
from gifdex.schemas.manifest import FileRecord, Manifest
from gifdex.schemas.progress import QUIET, Progress

SUMMARY_NAME = "facts.json"
ITEMS_NAME = "items.jsonl"
# Trees of an exported Annoy index. With Annoy's default search_k, for 10 of 20,000 clustered vectors of 256
# dimensions, 10 trees have recall .52, 50 have .84 and 100 have .94, in 1.1, 1.6 and 2.2 times the vectors' bytes.
TREES = 50
# Vectors per read.
_BLOCK_BYTES = 16 * 1024**2
_ITEMS_BLOCK = 10_000


@dataclass(frozen=True)
class Exported:
    """A finished export: the folder, and the size and SHA-256 of each file except `facts.json`."""

    path: Path
    format: str
    build_id: str
    items: int
    files: dict[str, FileRecord]


@dataclass(frozen=True)
class _Source:
    """What is exported: items (schema ITEMS) in row order, and the vectors of the same rows."""

    manifest: Manifest
    items: pa.Table
    field: Field
    trees: int
    progress: Progress

    @property
    def dimensions(self) -> int:
        return self.field.dimensions

    def blocks(self) -> Iterator[tuple[int, FloatArray]]:
        """Yield the items' vectors in order, in blocks float32 (m, d), each with the row of its first item."""
        size = max(1, _BLOCK_BYTES // (4 * self.dimensions))
        count, rows = self.manifest.items, self.field.items.row_of
        self.progress.stage("vectors", 0, count)
        for start in range(0, count, size):
            distinct, places = np.unique(rows[start : start + size], return_inverse=True)
            block = np.ascontiguousarray(self.field.searcher.vectors_at(distinct)[places])
            yield start, block
            self.progress.stage("vectors", start + len(block), count)


def export(
    version: Path,
    destination: Path,
    format: str,
    *,
    trees: int = TREES,
    force: bool = False,
    progress: Progress = QUIET,
) -> Exported:
    """Verify every byte of a version, and write it to the folder `destination` in one of the FORMATS.

    - npy: `vectors.npy`, float32 (n, d);
    - parquet: `vectors.parquet`, the items' columns and `vector`, fixed_size_list<float>[d];
    - annoy: `vectors.ann`, an angular index of `trees` trees; needs memory of 1.3 times its file;
    - usearch: `vectors.usearch`, an HNSW graph over float32 by cosine, keys are rows; needs memory of its file;
    - faiss: `vectors.faiss`, an IndexFlatIP; needs memory of twice its file.

    Vectors have unit length (or are zero), and row i is line i of `items.jsonl`, from 0. One thread and fixed seeds:
    the same version, format and libraries give the same bytes. `destination` must be new or empty; `force` replaces an
    earlier export, and nothing else.

    Raises ExportError if `destination` cannot be written or is not empty, an ArtifactError at the first file of the
    version that differs from its manifest, MissingExtraError if the format's library is not installed.
    """
    if format not in _WRITERS:
        raise ExportError(f"the format is {format!r:.40}; expected one of {', '.join(FORMATS)}")
    writer = _WRITERS[format]
    library = writer.library()
    place = Path(os.path.realpath(absolute(destination)))
    try:
        replaces = _replaces(place, force)
        manifest = verify(version, progress)
        items = _read_items(version, manifest)  # first, because it checks the manifest's count
        main = main_field(manifest.fields)
        field = open_field(version, main, manifest.fields[main], manifest.items)
        source = _Source(manifest, items, field, trees, progress)
        with _committing_folder(place, replaces) as folder:
            _write_items(folder / ITEMS_NAME, source)
            with committing(folder / writer.name) as temporary:
                parameters = writer.write(temporary, source, library)
            progress.stage("hash", 0, 1)
            files = file_records(folder, sorted([ITEMS_NAME, writer.name]))
            progress.stage("hash", 1, 1)
            summary = _summary(format, writer.package, manifest, parameters, files)
            commit_bytes(folder / SUMMARY_NAME, (json.dumps(summary, indent=2) + "\n").encode())
    except OSError as err:
        where = f" ({err.filename})" if err.filename else ""
        raise ExportError(
            f"cannot write the export {place}: {err.strerror or err}{where}; nothing was written there: fix the "
            "cause or choose another place, and run again"
        ) from err
    return Exported(place, format, manifest.build_id, manifest.items, files)


def _summary(
    format: str, package: str, manifest: Manifest, parameters: dict[str, Any], files: dict[str, FileRecord]
) -> dict[str, Any]:
    return {
        "created_by": f"gifdex {package_version('gifdex')}",
        "format": format,
        "build_id": manifest.build_id,
        "items": manifest.items,
        "dimensions": manifest.fields[main_field(manifest.fields)].dimensions,
        "metric": manifest.metric,
        "image_encoder": None if manifest.image_encoder is None else asdict(manifest.image_encoder),
        "text_encoder": asdict(manifest.text_encoder),
        "library": package,
        "library_version": package_version(package),
        "parameters": parameters,
        "files": {name: asdict(record) for name, record in files.items()},
    }


def _replaces(place: Path, force: bool) -> bool:
    """Tell whether there is an earlier export at `place`; raises ExportError for anything else."""
    if not place.exists():
        return False
    if not place.is_dir():
        raise ExportError(f"{place} is a file; expected a folder that is new or empty: choose another place")
    found = {path.name for path in place.iterdir()}
    if place.samefile(Path.cwd()):
        raise ExportError(f"{place} is the current folder, which cannot be replaced: name another folder")
    if not found:
        return False
    if not force:
        raise ExportError(
            f"{place} is not empty; expected a folder that is new or empty: choose another, or replace an earlier "
            "export with --force"
        )
    others = sorted(found - _exported_names(place))
    if others:
        raise ExportError(
            f"{place} has {others[0]!r:.80}, which is not part of an export, and --force only replaces exports: "
            "choose another folder or empty this one"
        )
    return True


def _exported_names(place: Path) -> set[str]:
    """Return the names of an export's files by its summary; empty if there is no valid summary."""
    try:
        summary = json.loads((place / SUMMARY_NAME).read_text(encoding="utf-8"))
        return {SUMMARY_NAME, *summary["files"]} if summary["format"] in FORMATS else set()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


@contextmanager
def _committing_folder(place: Path, replaces: bool) -> Iterator[Path]:
    """Yield a temporary folder beside `place` that becomes `place` at the end, or is deleted after an error.

    The folder that it replaces is moved aside just before, and deleted after.
    """
    aside = place.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}-{place.name}")
    folder = place.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}-{place.name}")
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
        yield folder
        sync(folder)
        if replaces:
            place.rename(aside)
        try:
            folder.replace(place)
            sync(place.parent)
        except BaseException:
            if replaces:
                if place.exists():
                    place.rename(folder)
                aside.rename(place)
            raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _read_items(version: Path, manifest: Manifest) -> pa.Table:
    """Return the items (schema ITEMS, but with 64-bit offsets), fully validated."""
    path = version / manifest.items_file
    item_files.load(path, manifest.items)
    try:
        is_first = path.suffix == ".parquet"  # format version 1
        table = read_table(path) if is_first else pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table = table.select(tables.STORED_ITEMS.names)
        table.validate(full=True)
        return table.cast(tables.STORED_ITEMS)
    except (pa.ArrowException, KeyError, ValueError) as err:
        reason = str(err).partition("\n")[0]
        raise CorruptIndexError(f"cannot read {path}: {reason}; restore the file or rebuild") from err


def _write_items(path: Path, source: _Source) -> None:
    """Write one item per line: its row and its columns, with `metadata` as a JSON object."""
    with committing(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as stream:
        for start in range(0, len(source.items), _ITEMS_BLOCK):
            block = source.items.slice(start, _ITEMS_BLOCK).to_pylist()
            stream.writelines(_line(row, item) for row, item in enumerate(block, start=start))
            source.progress.stage("items", start + len(block), len(source.items))


def _line(row: int, item: dict[str, Any]) -> str:
    try:
        metadata = json.loads(item["metadata"]) if item["metadata"] else {}
        # ASCII has no other line separators that readers might split at.
        return json.dumps({"row": row, **item, "metadata": metadata}, allow_nan=False) + "\n"
    except (ValueError, RecursionError) as err:
        raise CorruptIndexError(f"the metadata of item {item['id']!r:.80} is not JSON ({err}): rebuild") from err


def _write_npy(path: Path, source: _Source, library: Any) -> dict[str, Any]:
    shape = (source.manifest.items, source.dimensions)
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        # Written rather than mapped, so that a full disk raises an error instead of killing the process.
        for _, block in source.blocks():
            stream.write(block.data)
    return {}


def _write_parquet(path: Path, source: _Source, library: Any) -> dict[str, Any]:
    element = pa.field("element", pa.float32(), nullable=False)  # the usual name in Parquet
    vector = pa.field("vector", pa.list_(element, source.dimensions), nullable=False)
    schema = tables.ITEMS.append(vector)
    strings = {"compression": "zstd", "compression_level": 1, "use_dictionary": tables.ITEMS.names}
    with pq.ParquetWriter(str(path), schema, **strings) as writer:
        for first, block in source.blocks():
            items = source.items.slice(first, len(block)).cast(tables.ITEMS)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), type=vector.type)
            writer.write_table(items.append_column(vector, vectors), row_group_size=len(block))
    return {}


def _write_annoy(path: Path, source: _Source, library: Any) -> dict[str, Any]:
    seed = annoy_trees.SEED
    index = library.AnnoyIndex(source.dimensions, "angular")
    index.set_seed(seed)
    for first, block in source.blocks():
        for row, vector in enumerate(block, start=first):
            index.add_item(row, vector.tolist())
    source.progress.stage("trees", 0, source.trees)
    index.build(source.trees, n_jobs=1)
    source.progress.stage("trees", source.trees, source.trees)
    index.save(str(path))
    return {"metric": "angular", "trees": source.trees, "seed": seed, "threads": 1}


def _write_usearch(path: Path, source: _Source, library: Any) -> dict[str, Any]:
    links = dict(hnsw.DEFAULT_PARAMETERS)
    index = library.Index(ndim=source.dimensions, metric="cos", dtype="f32", **links)
    for first, block in source.blocks():
        index.add(np.arange(first, first + len(block), dtype=np.uint64), block, threads=1, copy=True)
    with _saving():
        index.save(str(path))
    return {"metric": "cos", "dtype": "f32", **links, "threads": 1}


def _write_faiss(path: Path, source: _Source, library: Any) -> dict[str, Any]:
    index = library.IndexFlatIP(source.dimensions)
    for _, block in source.blocks():
        index.add(block)
    with _saving():
        library.write_index(index, str(path))
    return {"index": "IndexFlatIP"}


@contextmanager
def _saving() -> Iterator[None]:
    """Turn a library's write errors into an OSError."""
    try:
        yield
    except RuntimeError as err:
        raise OSError(str(err)) from err


@dataclass(frozen=True)
class _Writer:
    """The writer of a format: the name of its file, a function, and the library and extra that it needs."""

    name: str
    write: Callable[[Path, _Source, Any], dict[str, Any]]
    package: str
    module: str
    extra: str | None = None

    def library(self) -> Any:
        """Return the library's module; raises MissingExtraError."""
        try:
            return import_module(self.module)
        except ImportError as err:
            if self.extra is None:
                raise
            name = self.module.partition(".")[0]
            raise MissingExtraError(f"the format {name}", name, self.extra) from err


_WRITERS = {
    "annoy": _Writer("vectors.ann", _write_annoy, "annoy", "annoy"),
    "npy": _Writer("vectors.npy", _write_npy, "numpy", "numpy"),
    "parquet": _Writer("vectors.parquet", _write_parquet, "pyarrow", "pyarrow"),
    "usearch": _Writer("vectors.usearch", _write_usearch, "usearch", "usearch.index", "hnsw"),
    "faiss": _Writer("vectors.faiss", _write_faiss, "faiss-cpu", "faiss", "faiss"),
}
FORMATS = tuple(_WRITERS)
