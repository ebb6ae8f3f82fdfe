from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

import gifdex
from gifdex.index import store
from gifdex.schemas.errors import CorruptIndexError, IndexNotFoundError
from gifdex.schemas.manifest import MANIFEST_NAME

FIRST, SECOND = "0" * 15 + "1", "0" * 15 + "2"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A store of two finished versions, the first one published; their manifests are never parsed here."""
    for build_id in (FIRST, SECOND):
        (tmp_path / build_id).mkdir()
        (tmp_path / build_id / MANIFEST_NAME).write_text("{}")
    store.publish(tmp_path, FIRST)
    return tmp_path


def test_publishing_moves_the_pointer(published: Path) -> None:
    assert (store.current(published), store.resolve(published)) == (FIRST, published / FIRST)
    store.publish(published, SECOND)
    assert (store.current(published), store.resolve(published)) == (SECOND, published / SECOND)
    assert (published / store.POINTER_NAME).read_bytes() == f"{SECOND}\n".encode()


def test_the_published_version_is_opened(tmp_path: Path, version: Path) -> None:
    (tmp_path / version.name).symlink_to(version)
    store.publish(tmp_path, version.name)
    assert gifdex.open(tmp_path).path == tmp_path / version.name


def test_unfinished_version_is_not_published(published: Path) -> None:
    (published / ("f" * 16)).mkdir()
    (published / ("f" * 16) / "shard-00000.ann").write_bytes(b"\0")
    with pytest.raises(IndexNotFoundError, match="no finished version ffffffffffffffff"):
        store.publish(published, "f" * 16)
    assert store.current(published) == FIRST


@pytest.mark.parametrize("build_id", ["e" * 16, "", ".", "latest", f"../{FIRST}", f"{FIRST}/", f"{FIRST}\n", "A" * 16])
def test_a_name_that_is_not_a_build_id_is_not_published(published: Path, build_id: str) -> None:
    (published / "latest").mkdir()
    (published / "latest" / MANIFEST_NAME).write_text("{}")
    (published / MANIFEST_NAME).write_text("{}")
    with pytest.raises(IndexNotFoundError, match="no finished version"):
        store.publish(published, build_id)
    assert store.current(published) == FIRST


def test_pointer_is_replaced_by_one_rename(published: Path) -> None:
    """The old pointer's bytes never change: a reader that has it open reads the whole old id."""
    with (published / store.POINTER_NAME).open() as held:
        store.publish(published, SECOND)
        assert held.read() == f"{FIRST}\n"
        assert os.fstat(held.fileno()).st_nlink == 0
    assert sorted(path.name for path in published.iterdir()) == [
        ".lock",
        FIRST,
        SECOND,
        store.POINTER_NAME,
        store.HISTORY_NAME,
    ]


def test_readers_see_either_version_while_publishing(published: Path) -> None:
    seen: set[str | None] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(store.current(published))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        store.publish(published, SECOND)
        store.publish(published, FIRST)
    done.set()
    reader.join()
    assert seen <= {FIRST, SECOND}


def test_nothing_is_current_in_a_folder_without_a_pointer(tmp_path: Path) -> None:
    assert store.current(tmp_path) is None
    assert store.current(tmp_path / "absent") is None


@pytest.mark.parametrize(
    "pointer",
    [b"", b"\n", b"latest\n", b"../" + b"0" * 13, b"0" * 15, b"0" * 17, b"\xff\xfe\0", b"G" * 16, b"0" * 100_000],
)
def test_garbage_in_the_pointer_is_a_corrupt_index(published: Path, pointer: bytes) -> None:
    (published / store.POINTER_NAME).write_bytes(pointer)
    with pytest.raises(CorruptIndexError, match="publish a version again") as raised:
        gifdex.open(published)
    assert len(str(raised.value)) < len(str(published)) + 200
    store.publish(published, SECOND)
    assert store.current(published) == SECOND


def test_pointer_that_is_a_folder_is_a_corrupt_index(published: Path) -> None:
    (published / store.POINTER_NAME).unlink()
    (published / store.POINTER_NAME).mkdir()
    with pytest.raises(CorruptIndexError, match="cannot read"):
        gifdex.open(published)


@pytest.mark.parametrize("gone", ["manifest", "folder"])
def test_pointer_to_a_version_that_is_gone_is_a_corrupt_index(published: Path, gone: str) -> None:
    (published / FIRST / MANIFEST_NAME).unlink()
    if gone == "folder":
        (published / FIRST).rmdir()
    with pytest.raises(CorruptIndexError, match=f"names the version {FIRST}, which is missing or not finished"):
        gifdex.open(published)


def test_opening_a_store_without_a_pointer_says_that_nothing_was_published(published: Path) -> None:
    (published / store.POINTER_NAME).unlink()
    with pytest.raises(IndexNotFoundError, match="no index was published there"):
        gifdex.open(published)
    assert store.resolve(published / SECOND) == published / SECOND
