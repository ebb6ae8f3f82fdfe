"""Files appear complete or not at all."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gifdex.schemas.errors import CorpusError
from gifdex.schemas.files import (
    TEMPORARY_PREFIX,
    commit_bytes,
    commit_table,
    committing,
    json_lines,
    read_table,
    remove_unfinished,
    sha256_file,
)


def test_json_lines_end_only_at_line_feeds() -> None:
    text = '{"a": "one\u2028two"}\r\n\n{"a": "three"}'
    assert [row["a"] for row in json_lines(text, "x", CorpusError)] == ["one\u2028two", "three"]


@pytest.mark.parametrize("line", ["nonsense", "[1]", "[" * 100_000])
def test_a_line_that_is_not_a_json_object_is_named(line: str) -> None:
    with pytest.raises(CorpusError, match="line 2 of the file x"):
        list(json_lines('{"a": 1}\n' + line, "the file x", CorpusError))


class Interrupted(BaseException):
    """Like a KeyboardInterrupt: not an Exception."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [ValueError, Interrupted, KeyboardInterrupt])
def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "facts.json"
    path.write_bytes(b"old")

    def write_half() -> None:
        with committing(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["facts.json"]


def test_an_error_while_writing_a_new_file_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with committing(tmp_path / "facts.json") as temporary:
            temporary.write_bytes(b"half")
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        write_half()
    assert names(tmp_path) == []


def test_the_old_file_stays_readable_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_bytes(b"old")
    with committing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.parent == path.parent, "a rename between filesystems would be a copy"
        assert temporary.name.startswith(TEMPORARY_PREFIX)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["facts.json"]


def test_a_reader_keeps_the_file_it_opened_while_a_new_one_is_committed(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    commit_bytes(path, b"old")
    with path.open("rb") as stream:
        commit_bytes(path, b"newer and longer")
        assert stream.read() == b"old"


def test_two_writers_of_one_file_use_different_temporary_files(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    with committing(path) as first, committing(path) as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first", "the outer writer commits last"
    assert names(tmp_path) == ["facts.json"]


def test_a_block_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_bytes(b"old")
    with pytest.raises(FileNotFoundError), committing(path):
        pass
    assert path.read_bytes() == b"old"


def test_parent_folders_are_created(tmp_path: Path) -> None:
    commit_bytes(tmp_path / "a" / "b" / "c", b"data")
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"data"


def test_a_killed_writer_leaves_the_old_file_and_a_leftover_for_remove_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "part" / "facts.json"
    commit_bytes(path, b"old")
    program = (
        "import os, signal, sys, pathlib\n"
        "from gifdex.schemas.files import committing\n"
        "with committing(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert finished.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(names(path.parent)) == 2
    assert remove_unfinished(tmp_path) == 1
    assert names(path.parent) == ["facts.json"]


def test_remove_unfinished_searches_every_folder_and_removes_nothing_else(tmp_path: Path) -> None:
    keep = [tmp_path / "a.parquet", tmp_path / "x" / "tmp-not-ours", tmp_path / "x" / "y" / f"b{TEMPORARY_PREFIX}c"]
    remove = [tmp_path / f"{TEMPORARY_PREFIX}1-a", tmp_path / "x" / "y" / f"{TEMPORARY_PREFIX}2-b"]
    for path in keep + remove:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"data")
    assert remove_unfinished(tmp_path) == len(remove)
    assert all(path.exists() for path in keep)
    assert not any(path.exists() for path in remove)
    assert remove_unfinished(tmp_path) == 0


def test_remove_unfinished_accepts_a_missing_folder(tmp_path: Path) -> None:
    assert remove_unfinished(tmp_path / "absent") == 0


def test_a_committed_file_has_default_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    commit_bytes(tmp_path / "committed", b"")
    assert (tmp_path / "committed").stat().st_mode == (tmp_path / "plain").stat().st_mode


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.binary(max_size=3000))
def test_sha256_file_is_the_hash_of_the_committed_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("sha") / "file"
    commit_bytes(path, data)
    assert path.read_bytes() == data
    assert sha256_file(path) == hashlib.sha256(data).hexdigest()


def test_sha256_file_reads_files_larger_than_its_buffer(tmp_path: Path) -> None:
    data = os.urandom(1 << 20) + b"end"
    (tmp_path / "large").write_bytes(data)
    assert sha256_file(tmp_path / "large") == hashlib.sha256(data).hexdigest()


def test_a_table_is_read_back_with_its_metadata_and_stored_with_zstd(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("x", pa.int32())], metadata={"a": "b"})
    table = pa.Table.from_pylist([{"id": "1", "x": None}, {"id": "2", "x": 5}], schema=schema)
    commit_table(tmp_path / "t.parquet", table)
    assert read_table(tmp_path / "t.parquet").equals(table, check_metadata=True)
    assert read_table(tmp_path / "t.parquet", columns=["x"]).to_pydict() == {"x": [None, 5]}
    assert pq.ParquetFile(tmp_path / "t.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    table = pa.table({"id": ["1"]})
    commit_table(tmp_path / "day=7" / "t.parquet", table)
    assert read_table(tmp_path / "day=7" / "t.parquet").column_names == ["id"]
