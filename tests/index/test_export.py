"""Exports, read back with the target library and without gifdex."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gifdex
from gifdex.encoders.base import FloatArray
from gifdex.index import export as exports
from gifdex.index import items as item_files
from gifdex.index.export import FORMATS, export
from gifdex.schemas import tables
from gifdex.schemas.errors import CorruptIndexError, ExportError, IndexNotFoundError, MissingExtraError
from gifdex.schemas.files import TEMPORARY_PREFIX
from tests.progress import RecordedProgress

GOLDEN = Path(__file__).parent / "golden" / "format-1" / "0000000000000001"
FILES = {
    "annoy": "vectors.ann",
    "npy": "vectors.npy",
    "parquet": "vectors.parquet",
    "usearch": "vectors.usearch",
    "faiss": "vectors.faiss",
}
# The file size limit: the items fit, the vectors of the fixture `wide` do not.
FULL = 150_000
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from gifdex.jobs.cli import main
sys.argv = ["gifdex", *sys.argv[2:]]
main()
"""


def items_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


def best_by_products(vectors: FloatArray, query: FloatArray, k: int) -> list[int]:
    rows: list[int] = np.argsort(-(vectors @ query), kind="stable")[:k].tolist()
    return rows


def annoy_best(folder: Path, query: FloatArray, k: int) -> list[int]:
    from annoy import AnnoyIndex

    index = AnnoyIndex(len(query), "angular")
    assert index.load(str(folder / "vectors.ann"))
    rows: list[int] = index.get_nns_by_vector(query.tolist(), k, 100 * index.get_n_items())
    return rows


def npy_best(folder: Path, query: FloatArray, k: int) -> list[int]:
    return best_by_products(np.load(folder / "vectors.npy", mmap_mode="r"), query, k)


def parquet_best(folder: Path, query: FloatArray, k: int) -> list[int]:
    column = pq.read_table(folder / "vectors.parquet")["vector"].combine_chunks()
    return best_by_products(column.flatten().to_numpy().reshape(len(column), -1), query, k)


def usearch_best(folder: Path, query: FloatArray, k: int) -> list[int]:
    from usearch.index import Index

    index = Index.restore(str(folder / "vectors.usearch"))
    index.expansion_search = len(index)
    rows: list[int] = index.search(query, k).keys.tolist()
    return rows


def faiss_best(folder: Path, query: FloatArray, k: int) -> list[int]:
    import faiss

    _, rows = faiss.read_index(str(folder / "vectors.faiss")).search(query[None], k)
    best: list[int] = rows[0].tolist()
    return best


BEST: dict[str, Callable[[Path, FloatArray, int], list[int]]] = {
    "annoy": annoy_best,
    "npy": npy_best,
    "parquet": parquet_best,
    "usearch": usearch_best,
    "faiss": faiss_best,
}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a few rows at a time, so that small shards take several blocks."""
    monkeypatch.setattr(exports, "_BLOCK_BYTES", 6_000)
    monkeypatch.setattr(exports, "_ITEMS_BLOCK", 70)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, make_version: Callable[..., Path], clustered: Any) -> Path:
    """A version with a reduction whose vectors take more bytes than its items."""
    return make_version(tmp_path_factory.mktemp("wide") / "00000000000000bb", clustered(500, 128), (260, 240))


def run_with_limit(limit: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run gifdex where no file may exceed `limit` bytes."""
    command = [sys.executable, "-c", LIMITED, str(limit), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("which", ["three shards", "format 1"])
def test_the_library_finds_what_gifdex_finds(which: str, format: str, version: Path, tmp_path: Path) -> None:
    source = version if which == "three shards" else GOLDEN
    done = export(source, tmp_path / "out", format)
    index = gifdex.open(source)
    assert (done.items, done.format) == (len(index), format)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"items.jsonl", "facts.json", FILES[format]}
    items = items_of(tmp_path / "out")
    assert [item["row"] for item in items] == list(range(len(index)))
    for query in np.random.default_rng(5).standard_normal((8, index.dimensions)).astype(np.float32):
        unit = query / np.linalg.norm(query)
        expected = index.search(query, 10, exact=True)
        found = [items[row] for row in BEST[format](tmp_path / "out", unit, 10)]
        assert [item["id"] for item in found] == [hit.id for hit in expected]
        assert [item["uri"] for item in found] == [hit.uri for hit in expected]
        metadata = [item["metadata"] | {"caption": item["caption"]} for item in found]
        assert metadata == [{"caption": None, **hit.metadata} for hit in expected]


def test_npy_and_parquet_hold_exactly_the_stored_vectors(version: Path, vectors: FloatArray, tmp_path: Path) -> None:
    export(version, tmp_path / "npy", "npy")
    loaded = np.load(tmp_path / "npy" / "vectors.npy", allow_pickle=False)
    assert loaded.dtype == np.dtype("<f4")
    assert loaded.flags.c_contiguous
    np.testing.assert_array_equal(loaded, vectors)
    export(version, tmp_path / "parquet", "parquet")
    table = pq.read_table(tmp_path / "parquet" / "vectors.parquet")
    assert table.schema.names == ["id", "uri", "sha256", "caption", "metadata", "vector"]
    assert pa.types.is_fixed_size_list(table.schema.field("vector").type)
    np.testing.assert_array_equal(np.stack(table["vector"].to_numpy()), vectors)
    stored = pa.ipc.open_file(pa.memory_map(str(version / "items.arrow"))).read_all()
    assert table.drop_columns("vector").to_pylist() == stored.select(tables.ITEMS.names).to_pylist()


@pytest.mark.usefixtures("small_blocks")
def test_each_repost_gets_its_vector(make_version: Callable[..., Path], vectors: FloatArray, tmp_path: Path) -> None:
    copies = vectors[np.random.default_rng(1).integers(0, 40, 500)]
    version = make_version(tmp_path / "00000000000000bb", copies, (300, 200))
    assert export(version, tmp_path / "out", "npy").items == 500
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "vectors.npy"), copies)
    assert [item["row"] for item in items_of(tmp_path / "out")] == list(range(500))


@pytest.mark.parametrize("format", FORMATS)
def test_facts_describe_the_files_and_exports_are_reproducible(format: str, version: Path, tmp_path: Path) -> None:
    done = export(version, tmp_path / "a", format)
    facts = json.loads((tmp_path / "a" / "facts.json").read_text())
    manifest = gifdex.open(version).manifest
    assert (facts["format"], facts["build_id"], facts["metric"]) == (format, manifest.build_id, "cosine")
    assert (facts["items"], facts["dimensions"]) == (manifest.items, manifest.fields["image"].dimensions)
    assert facts["text_encoder"]["fingerprint"] == manifest.text_encoder.fingerprint
    assert facts["library_version"]
    assert sorted(facts["files"]) == sorted(done.files) == sorted(["items.jsonl", FILES[format]])
    for name, file in facts["files"].items():
        data = (tmp_path / "a" / name).read_bytes()
        assert file == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    export(version, tmp_path / "b", format)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_more_trees_make_a_larger_annoy_file(version: Path, tmp_path: Path) -> None:
    few, many = (export(version, tmp_path / str(trees), "annoy", trees=trees) for trees in (2, 20))
    assert few.files["vectors.ann"].bytes < many.files["vectors.ann"].bytes
    assert json.loads((tmp_path / "2" / "facts.json").read_text())["parameters"]["trees"] == 2


def test_unusual_text_stays_on_one_line(version: Path, tmp_path: Path) -> None:
    shutil.copytree(version, tmp_path / "v")
    path = tmp_path / "v" / "items.arrow"
    rows = pa.ipc.open_file(pa.memory_map(str(path))).read_all().select(tables.ITEMS.names).to_pylist()
    odd = ["two\nlines", "two\u2028lines", "two\r\nlines", '"quoted"\\', "größer 猫", "nul\0"]
    for row, text in zip(rows, odd, strict=False):
        row |= {"id": text, "caption": text, "metadata": json.dumps({text: [text, None, 1.5]})}
    path.unlink()  # the old file is still mapped
    item_files.write(path, pa.Table.from_pylist(rows, schema=tables.ITEMS))
    data = path.read_bytes()
    manifest = json.loads((tmp_path / "v" / "manifest.json").read_text())
    manifest["files"]["items.arrow"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (tmp_path / "v" / "manifest.json").write_text(json.dumps(manifest))
    export(tmp_path / "v", tmp_path / "out", "npy")
    items = items_of(tmp_path / "out")
    assert [item["id"] for item in items] == [row["id"] for row in rows]
    assert [item["metadata"] for item in items[: len(odd)]] == [{text: [text, None, 1.5]} for text in odd]


@pytest.mark.parametrize("name", ["image-00001.vectors.npy", "items.arrow", "image-00002.ann"])
def test_an_altered_version_is_an_error_that_names_the_file(name: str, version: Path, tmp_path: Path) -> None:
    shutil.copytree(version, tmp_path / "v")
    data = bytearray((tmp_path / "v" / name).read_bytes())
    data[-1] ^= 1
    (tmp_path / "v" / name).write_bytes(data)
    with pytest.raises(CorruptIndexError, match=f"{name} has SHA-256"):
        export(tmp_path / "v", tmp_path / "out", "npy")
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_a_folder_without_a_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError, match=r"has no manifest\.json"):
        export(tmp_path, tmp_path / "out", "npy")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("format", "extra"), [("usearch", "hnsw"), ("faiss", "faiss")])
def test_a_library_that_is_not_installed_is_an_error_that_names_the_extra(
    format: str, extra: str, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, format, None)  # makes Python's own import fail
    monkeypatch.setitem(sys.modules, f"{format}.index", None)
    with pytest.raises(MissingExtraError, match=rf"the format {format} needs .* pip install 'gifdex\[{extra}\]'"):
        export(version, tmp_path / "out", format)
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_refused(version: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the format is 'hdf5'; expected one of annoy, npy, parquet"):
        export(version, tmp_path / "out", "hdf5")


def test_an_empty_folder_is_filled_and_parent_folders_are_created(version: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    export(version, tmp_path / "empty", "npy")
    export(version, tmp_path / "a" / "b" / "c", "npy")
    assert (tmp_path / "empty" / "facts.json").is_file()
    assert (tmp_path / "a" / "b" / "c" / "facts.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty"]


def test_a_link_to_an_empty_folder_is_followed(version: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert export(version, tmp_path / "link", "npy").path == (tmp_path / "disk").resolve()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "facts.json").is_file()


def test_an_export_never_overwrites_other_files(version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match="file is a file; expected a folder that is new or empty"):
        export(version, tmp_path / "file", "npy", force=True)
    with pytest.raises(ExportError, match=r"cannot write the export .*: File exists \(.*/file\); nothing was"):
        export(version, tmp_path / "file" / "out", "npy")
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"is not empty; .* --force$"):
        export(version, tmp_path / "home", "npy")
    with pytest.raises(ExportError, match=r"has 'thesis\.txt', which is not part of an export"):
        export(version, tmp_path / "home", "npy", force=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "mine"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ExportError, match="here is the current folder"):
        export(version, Path(), "npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "here", "home"]


def test_force_replaces_an_earlier_export_and_nothing_else(version: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(version, out, "npy")
    with pytest.raises(ExportError, match="is not empty"):
        export(version, out, "parquet")
    export(GOLDEN, out, "parquet", force=True)
    assert {path.name for path in out.iterdir()} == {"items.jsonl", "facts.json", "vectors.parquet"}
    assert len(items_of(out)) == 60
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"has 'notes\.txt'"):
        export(version, out, "npy", force=True)
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_leaves_nothing_and_gives_one_sentence(format: str, wide: Path, tmp_path: Path) -> None:
    done = run_with_limit(FULL, "export", wide, tmp_path / "out", "--format", format)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"gifdex: cannot write the export {tmp_path / 'out'}: "), done.stderr
    assert last.endswith("and run again")
    assert "vectors: 500 of 500" in done.stderr or format in ("npy", "parquet")  # the items fit
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_survives_a_failed_one(wide: Path, tmp_path: Path) -> None:
    export(wide, tmp_path / "out", "npy")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    done = run_with_limit(1_000, "export", wide, tmp_path / "out", "--format", "npy", "--force")
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_earlier_export_is_restored_when_the_new_one_cannot_replace_it(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(version, tmp_path / "out", "npy")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    replace, there = Path.replace, []

    def refuse(self: Path, target: Path) -> Path:
        if target != tmp_path / "out":
            return replace(self, target)
        there.append(target.exists())
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ExportError, match=r"cannot write the export .*/out: Input/output error"):
        export(GOLDEN, tmp_path / "out", "npy", force=True)
    assert there == [False]  # the earlier export was moved aside
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_killed_export_leaves_no_folder_and_the_next_one_succeeds(version: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gifdex", "export", str(version), str(tmp_path / "out"), "--format", "annoy"]
    with subprocess.Popen([*command, "--trees", "1000000"], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob(f"{TEMPORARY_PREFIX}*/items.jsonl")):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert all(path.name.startswith(TEMPORARY_PREFIX) for path in tmp_path.iterdir())
    export(version, tmp_path / "out", "annoy")
    assert len(items_of(tmp_path / "out")) == 700


def test_progress_reaches_its_end(version: Path, tmp_path: Path) -> None:
    progress = RecordedProgress()
    export(version, tmp_path / "out", "annoy", trees=3, progress=progress)
    assert list(dict.fromkeys(stage for stage, _, _ in progress.stages)) == [
        "verify",
        "items",
        "vectors",
        "trees",
        "hash",
    ]
    assert {("items", 700, 700), ("vectors", 700, 700), ("trees", 3, 3), ("hash", 1, 1)} <= set(progress.stages)
