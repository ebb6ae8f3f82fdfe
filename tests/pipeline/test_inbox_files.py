"""The files of an inbox: what builds may delete there, and what they believe."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gifdex.encoders.feature_cache import FeatureCache, Outcome
from gifdex.encoders.settings import EncodeSettings
from gifdex.index.inbox import MARKER, Inbox, InboxEntry, item_id
from gifdex.index.sources.base import Candidate
from gifdex.pipeline.corpus import Listing
from gifdex.pipeline.dedupe import _kept
from gifdex.pipeline.encode import Source
from gifdex.pipeline.inbox import check_inbox, known_features, with_inbox
from gifdex.pipeline.settings import BuildSettings, InboxSettings
from gifdex.schemas import tables
from gifdex.schemas.errors import ConfigError

FINGERPRINT, SIZE = "1" * 16, 4


class Filled:
    """An inbox with some GIFs."""

    def __init__(self, folder: Path, count: int = 1) -> None:
        self.inbox = Inbox(folder)
        self.cache = self.inbox.features(FINGERPRINT, SIZE)
        self.entries = [self.add(f"id{number}", bytes([number])) for number in range(count)]

    def add(self, key: str, data: bytes, uri: str = "http://x.example/a.gif") -> InboxEntry:
        whole = b"GIF89a" + data * 20
        outcome = Outcome(sha256(whole).hexdigest(), 1, np.ones(SIZE, np.float32), canvas=(30, 20))
        candidate = Candidate(key, uri, "media", "http://x.example/page", "a title")
        self.inbox.add(candidate, "a cat", whole, outcome, self.cache)
        entry = self.inbox.find(candidate)
        assert entry is not None
        return entry

    def path(self, entry: InboxEntry) -> Path:
        return self.inbox._entry_path(entry.id)

    def edit(self, entry: InboxEntry, **changes: Any) -> None:
        path = self.path(entry)
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))

    def settings(self, **changes: Any) -> InboxSettings:
        return InboxSettings(self.inbox.folder, **changes)


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return Filled(tmp_path / "inbox")


def old(folder: Path) -> set[Path]:
    files = {path for path in folder.rglob("*") if path.is_file()}
    for path in files:
        os.utime(path, (time.time() - 7200,) * 2)
    return files


def test_a_folder_that_is_no_inbox_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / f"{'a' * 64}.gif").write_bytes(b"GIF89a mine")
    (tmp_path / ".tmp-x").write_bytes(b"")
    part = tmp_path / "features" / "fp" / "all" / f"{'a' * 64}.parquet"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"PAR1")
    before = old(tmp_path)
    assert Inbox(tmp_path).prune(1, 1) == 0
    assert old(tmp_path) == before


def test_only_files_with_names_of_the_inbox_are_deleted(filled: Filled) -> None:
    folder = filled.inbox.folder
    kept = [folder / "catalog.parquet", folder / "features" / "fp" / "all" / "0123.parquet", folder / MARKER]
    kept[1].parent.mkdir(parents=True)
    for path in kept[:2]:
        path.write_bytes(b"PAR1")
    filled.path(filled.entries[0]).unlink()
    old(folder)
    filled.inbox.prune(None, None)
    assert old(folder) == set(kept)


@pytest.mark.parametrize(
    ("corpus", "workspace", "inbox"),
    [
        ("g", "ws", "g"),
        ("g", "ws", "g/in"),
        ("g/a", "ws", "g"),
        ("g/*.gif", "ws", "g"),
        ("g", "ws", "ws"),
        ("g", "ws", "ws/i"),
    ],
)
def test_an_inbox_in_the_corpus_or_the_workspace_is_refused(
    tmp_path: Path, corpus: str, workspace: str, inbox: str
) -> None:
    check_inbox(BuildSettings(str(tmp_path / corpus), tmp_path / workspace, inbox=InboxSettings(tmp_path / "other")))
    check_inbox(BuildSettings("s3://b/gifs", "s3://b/ws", inbox=InboxSettings(tmp_path)))
    settings = BuildSettings(str(tmp_path / corpus), tmp_path / workspace, inbox=InboxSettings(tmp_path / inbox))
    with pytest.raises(ConfigError, match="lie in each other; expected a folder of its own"):
        check_inbox(settings)


def test_an_entry_of_a_newer_version_counts_and_one_that_cannot_be_read_protects_all_files(filled: Filled) -> None:
    (entry,) = filled.entries
    filled.edit(entry, license="CC0")
    assert filled.inbox.entries() == [entry]
    filled.path(entry).write_text("{typo")
    before = old(filled.inbox.folder)
    filled.inbox.prune(None, None)
    assert old(filled.inbox.folder) == before


@pytest.mark.parametrize("changes", [{"max_days": float("nan")}, {"max_days": -1}, {"max_days": 0}, {"max_bytes": 0}])
def test_retention_that_would_delete_everything_is_refused(filled: Filled, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"of the inbox is .*; expected"):
        filled.settings(**changes)
    with pytest.raises(ConfigError, match="expected a local folder"):
        InboxSettings(Path("s3://bucket/inbox"))


def test_retention_deletes_entries_whose_file_is_gone_and_those_of_the_future(tmp_path: Path) -> None:
    filled = Filled(tmp_path / "inbox", 3)
    gone, future, _ = filled.entries
    filled.edit(gone, fetched="2001-01-01T00:00:00+00:00")
    (filled.inbox.folder / gone.file).unlink()
    filled.edit(future, fetched="2999-01-01T00:00:00+00:00")
    assert filled.inbox.prune(1, None) == 1
    os.utime(filled.path(future), ((datetime.now(UTC) - timedelta(days=2)).timestamp(),) * 2)
    assert filled.inbox.prune(1, None) == 1
    assert [entry.id for entry in filled.inbox.entries()] == ["media/id2"]


@pytest.mark.parametrize(
    "changes",
    [
        {"title": 5},
        {"page_url": {"a": 1}},
        {"uri": None},
        {"fetched": "0001-01-01T00:00:00+23:59"},
        {"title": "x" * 70_000},
    ],
    ids=["number", "table", "missing", "date", "huge"],
)
def test_a_malformed_entry_is_passed_over(filled: Filled, changes: dict[str, Any]) -> None:
    filled.edit(filled.entries[0], **changes)
    assert with_inbox(Listing(()), filled.settings()).entries == ()


def test_a_pipe_is_no_entry(filled: Filled) -> None:
    path = filled.path(filled.entries[0])
    path.unlink()
    os.mkfifo(path)
    assert filled.inbox.entries() == []


def test_texts_of_an_entry_become_text_that_can_be_stored(filled: Filled) -> None:
    filled.edit(filled.entries[0], title="a\ud800b", uri="\ud800", query="\x00")
    (item,) = with_inbox(Listing(()), filled.settings()).entries
    pa.array([item.metadata, item.uri]).validate(full=True)
    assert json.loads(item.metadata or "")["outside_title"] == "a b"


def test_a_folder_whose_name_is_no_text_can_be_listed(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    key = Filled(tmp_path / "inbox").entries[0].sha256
    (tmp_path / "inbox").rename(folder)
    filled = Filled(folder, 0)
    assert known_features(filled.settings(), [Source(key, f"{tmp_path}/\\udcff/{key}.gif")], filled.cache) == []
    (item,) = with_inbox(Listing(()), filled.settings()).entries
    pa.array([item.uri]).validate(full=True)


@pytest.mark.parametrize(
    "column",
    [
        {"features": pa.array([np.full(SIZE, np.nan, "<f4").tobytes()], pa.binary(4 * SIZE))},
        {"features": pa.array(["x" * 4 * SIZE])},
        {"features": pa.array([[1.0] * SIZE])},
        {"frames": pa.array(["abc"])},
        {"frames": pa.array([2**40])},
        {"reason": pa.array([5])},
    ],
    ids=["not finite", "text", "list", "frames as text", "frames too large", "reason"],
)
def test_features_that_are_not_such_are_not_taken(filled: Filled, column: dict[str, pa.Array]) -> None:
    (entry,) = filled.entries
    part = filled.cache.part("", entry.sha256)
    missing = [Source(entry.sha256, str(filled.inbox.folder / entry.file))]
    cache = FeatureCache(filled.inbox.folder.parent / "ws", FINGERPRINT, SIZE, "")
    (taken,) = known_features(filled.settings(), missing, cache)
    assert taken.canvas == (30, 20)
    assert known_features(filled.settings(), [Source(entry.sha256, "gifs/mine.gif")], cache) == []
    table = pq.ParquetFile(part).read()
    for name, values in column.items():
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table, part)
    assert known_features(filled.settings(), missing, cache) == []


def test_bytes_that_are_fetched_again_count_as_new(filled: Filled) -> None:
    old(filled.inbox.folder)
    filled.path(filled.entries[0]).unlink()
    filled.add("another", bytes([0]))
    filled.path(InboxEntry("media/another", "", "", "", "", "")).unlink()  # as before it was written
    filled.inbox.prune(None, None)
    assert (filled.inbox.folder / filled.entries[0].file).exists()


def test_an_item_of_the_corpus_stays_rather_than_a_larger_one_of_the_inbox(tmp_path: Path, filled: Filled) -> None:
    cache = FeatureCache(tmp_path / "ws", FINGERPRINT, SIZE, "")
    outcomes = [Outcome(key * 64, 1, np.ones(SIZE, np.float32), canvas=(10 + n, 9)) for n, key in enumerate("ab")]
    cache.commit(cache.part("", "x"), outcomes)
    outside = str(filled.inbox.folder / f"{'b' * 64}.gif")
    rows = [
        {"id": "mine", "uri": "gifs/m.gif", "sha256": "a" * 64},
        {"id": "giphy/b", "uri": outside, "sha256": "b" * 64},
    ]
    items = pa.Table.from_pylist([{**dict.fromkeys(tables.ITEMS.names), **row} for row in rows], schema=tables.ITEMS)
    keys = ["a" * 64, "b" * 64]
    kept = _kept(items, keys, np.arange(2), [np.arange(2)], EncodeSettings(), cache, filled.settings())
    assert kept == {"giphy/b": "mine"}


def test_addresses_are_kept_without_what_may_be_secret(filled: Filled) -> None:
    entry = filled.add("signed", b"s", "https://user:pass@x.example/a.gif?Signature=SECRET#part")
    assert entry.uri == "https://x.example/a.gif"
    assert "SECRET" not in filled.path(entry).read_text()


def test_ids_are_no_parts_of_a_path() -> None:
    assert [item_id(Candidate(key, "u", "..")) for key in (".", "..", "a.b")] == [
        "%2E%2E/%2E",
        "%2E%2E/%2E%2E",
        "%2E%2E/a.b",
    ]
