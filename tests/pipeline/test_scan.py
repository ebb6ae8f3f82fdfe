from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from gifdex.encoders.frames.limits import Limits
from gifdex.encoders.settings import EncodeSettings
from gifdex.pipeline.corpus import Entry
from gifdex.pipeline.scan import Known, Scan, plan_scan, scan, scan_file
from gifdex.pipeline.settings import BuildSettings
from gifdex.pipeline.workspace import Workspace
from gifdex.schemas import tables
from gifdex.schemas.files import commit_table
from gifdex.schemas.progress import QUIET

GifMaker = Callable[..., Path]

ENTRIES = st.lists(st.integers(0, 10_000), unique=True, max_size=600).map(
    lambda numbers: [Entry(f"{n:05d}", f"/gifs/{n}.gif", n, float(n)) for n in sorted(numbers)]
)


@given(ENTRIES)
@settings(deadline=None, derandomize=True, max_examples=30)
def test_every_entry_is_in_exactly_one_task_and_no_task_is_too_large(entries: list[Entry]) -> None:
    known = {entry.uri: Known(1, 2.0, "ab") for entry in entries[::3]}
    tasks = plan_scan(entries, known, Path("/ws/scan"), Limits())
    assert [entry for task in tasks for entry in task.entries] == entries
    assert all(0 < task.items <= 256 for task in tasks)
    assert len({task.output for task in tasks}) == len(tasks)
    assert all(task.known == tuple(known.get(entry.uri) for entry in task.entries) for task in tasks)
    assert plan_scan(entries, known, Path("/ws/scan"), Limits()) == tasks


def test_a_task_name_depends_only_on_its_content() -> None:
    entry = Entry("a", "/a.gif", 10, 2.0)

    def name(entry: Entry, known: dict[str, Known] | None = None) -> str:
        return plan_scan([entry], known or {}, Path("/ws"), Limits())[0].output.name

    names = {
        name(entry),
        name(replace(entry, size=11)),
        name(replace(entry, modified=3.0)),
        name(entry, {"/a.gif": Known(10, 2.0, "ab")}),
        plan_scan([entry], {}, Path("/ws"), Limits(bytes=9))[0].output.name,
    }
    assert len(names) == 5


def run_scan(corpus: Path, root: Path, **changes: Any) -> Scan:
    return scan(BuildSettings(str(corpus), root, **changes), Workspace(root), QUIET)


def remember(scanned: Scan, root: Path) -> None:
    """Save the results as a build does after a successful scan."""
    commit_table(Workspace(root).catalog("0" * 16), scanned.catalog)
    shutil.rmtree(root / "scan", ignore_errors=True)


def sha256s(scanned: Scan) -> dict[str, str]:
    return dict(zip(scanned.catalog["id"].to_pylist(), scanned.catalog["sha256"].to_pylist(), strict=True))


def reasons(scanned: Scan) -> dict[str, tuple[str, str]]:
    return {row["id"]: (row["error"], row["reason"]) for row in scanned.rejects.to_pylist()}


def overwrite_unnoticed(path: Path) -> None:
    """Change a file's bytes but not its size and modification time."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_the_catalog_lists_readable_files_sorted_by_id(make_gif: GifMaker, tmp_path: Path) -> None:
    one, two = make_gif("corpus/b.gif", seed=1), make_gif("corpus/a/x.gif", seed=2)
    scanned = run_scan(tmp_path / "corpus", tmp_path / "ws")
    assert scanned.catalog.schema == tables.CATALOG
    assert sha256s(scanned) == {"a/x": hashlib.sha256(two.read_bytes()).hexdigest(),
                                "b": hashlib.sha256(one.read_bytes()).hexdigest()}  # fmt: skip
    assert scanned.catalog["size"].to_pylist() == [two.stat().st_size, one.stat().st_size]
    assert (scanned.rejects.num_rows, scanned.unchanged, scanned.ignored) == (0, 0, 0)


def test_an_unchanged_file_is_read_again_only_on_request(make_gif: GifMaker, tmp_path: Path) -> None:
    gif = make_gif("corpus/a.gif", seed=1)
    make_gif("corpus/b.gif", seed=2)
    first = run_scan(tmp_path / "corpus", tmp_path / "ws")
    remember(first, tmp_path / "ws")
    overwrite_unnoticed(gif)
    second = run_scan(tmp_path / "corpus", tmp_path / "ws")
    assert (second.unchanged, sha256s(second)) == (2, sha256s(first))
    third = run_scan(tmp_path / "corpus", tmp_path / "ws", checksum=True)
    assert third.unchanged == 0
    assert sha256s(third)["a"] == hashlib.sha256(gif.read_bytes()).hexdigest() != sha256s(first)["a"]


def test_a_changed_file_is_read_again(make_gif: GifMaker, tmp_path: Path) -> None:
    gif = make_gif("corpus/a.gif", seed=1)
    make_gif("corpus/b.gif", seed=2)
    remember(run_scan(tmp_path / "corpus", tmp_path / "ws"), tmp_path / "ws")
    overwrite_unnoticed(gif)
    os.utime(gif, (1, 1))
    second = run_scan(tmp_path / "corpus", tmp_path / "ws")
    assert (second.unchanged, sha256s(second)["a"]) == (1, hashlib.sha256(gif.read_bytes()).hexdigest())


def test_files_of_a_catalog_are_recognised_as_unchanged_too(make_gif: GifMaker, tmp_path: Path) -> None:
    make_gif("corpus/a.gif")
    (tmp_path / "c.jsonl").write_text(json.dumps({"uri": "corpus/a.gif"}))
    remember(run_scan(tmp_path / "c.jsonl", tmp_path / "ws"), tmp_path / "ws")
    second = run_scan(tmp_path / "c.jsonl", tmp_path / "ws")
    assert (second.unchanged, second.catalog.num_rows) == (1, 1)


def test_a_file_without_a_modification_time_is_read_again(make_gif: GifMaker, tmp_path: Path) -> None:
    gif = make_gif("corpus/a.gif")
    os.utime(gif, (0, 0))
    remember(run_scan(tmp_path / "corpus", tmp_path / "ws"), tmp_path / "ws")
    overwrite_unnoticed(gif)
    second = run_scan(tmp_path / "corpus", tmp_path / "ws")
    assert (second.unchanged, sha256s(second)) == (0, {"a": hashlib.sha256(gif.read_bytes()).hexdigest()})


def test_an_unreadable_file_is_a_reject_with_its_reason(make_gif: GifMaker, tmp_path: Path) -> None:
    make_gif("corpus/a.gif")
    (tmp_path / "corpus/gone.gif").symlink_to("nowhere.gif")
    (tmp_path / "corpus/large.gif").write_bytes(b"GIF89a" + bytes(5_000))
    os.mkfifo(tmp_path / "corpus/pipe.gif")
    encode = EncodeSettings(limits=Limits(bytes=5_000))
    scanned = run_scan(tmp_path / "corpus", tmp_path / "ws", encode=encode)
    assert list(sha256s(scanned)) == ["a"]
    found = reasons(scanned)
    assert found["large"] == (
        "LimitError",
        "the GIF has 5,006 bytes, above the limit bytes of 5,000: leave it out, or raise --max-bytes",
    )
    assert found["gone"][0] == "FileNotFoundError"
    assert found["gone"][1].startswith("cannot read the file: ")
    assert "gone.gif" in found["gone"][1]
    assert found["pipe"][0] == "OSError"
    assert "is not a regular file" in found["pipe"][1]
    assert set(scanned.rejects["stage"].to_pylist()) == {"scan"}


def test_a_missing_file_in_a_catalog_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"uri": "nowhere.gif", "id": "7"}\n{"uri": "nosuch://b/x.gif", "id": "8"}\n')
    found = reasons(run_scan(tmp_path / "c.jsonl", tmp_path / "ws"))
    assert "nowhere.gif" in found["7"][1]
    assert "nosuch" in found["8"][1]


def test_results_of_an_interrupted_scan_are_reused(make_gif: GifMaker, tmp_path: Path) -> None:
    gif = make_gif("corpus/a.gif")
    first = run_scan(tmp_path / "corpus", tmp_path / "ws")  # as if killed before writing the catalog
    overwrite_unnoticed(gif)
    assert sha256s(run_scan(tmp_path / "corpus", tmp_path / "ws")) == sha256s(first)


def test_rejects_of_an_interrupted_scan_are_retried(make_gif: GifMaker, tmp_path: Path) -> None:
    make_gif("corpus/a.gif")
    small, large = (EncodeSettings(limits=Limits(bytes=limit)) for limit in (10, 10_000))
    assert reasons(run_scan(tmp_path / "corpus", tmp_path / "ws", encode=small))["a"][0] == "LimitError"
    assert list(sha256s(run_scan(tmp_path / "corpus", tmp_path / "ws", encode=large))) == ["a"]


def test_damaged_results_of_an_interrupted_scan_are_made_again(make_gif: GifMaker, tmp_path: Path) -> None:
    make_gif("corpus/a.gif")
    first = run_scan(tmp_path / "corpus", tmp_path / "ws")
    for path in (tmp_path / "ws/scan").iterdir():
        path.write_bytes(b"PAR1")
    assert run_scan(tmp_path / "corpus", tmp_path / "ws").catalog == first.catalog


def test_a_damaged_last_catalog_only_means_reading_again(make_gif: GifMaker, tmp_path: Path) -> None:
    make_gif("corpus/a.gif")
    first = run_scan(tmp_path / "corpus", tmp_path / "ws")
    remember(first, tmp_path / "ws")
    Workspace(tmp_path / "ws").catalog("0" * 16).write_bytes(b"PAR1")
    second = run_scan(tmp_path / "corpus", tmp_path / "ws")
    assert (second.unchanged, second.catalog) == (0, first.catalog)


def test_known_bytes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(b"GIF89a")
    entry = Entry("a", str(path), 6, 12.5)
    assert scan_file(entry, Known(6, 12.5, "ab"), Limits())["sha256"] == "ab"
    assert scan_file(entry, Known(6, 12.0, "ab"), Limits())["sha256"] == hashlib.sha256(b"GIF89a").hexdigest()


def test_results_fit_their_schema() -> None:
    row = scan_file(Entry("a", "/nowhere/a.gif"), None, Limits())
    assert pa.Table.from_pylist([row], schema=tables.SCAN_RESULTS).num_rows == 1
