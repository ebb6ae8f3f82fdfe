"""A store's history of publications: rolling back, and what pruning keeps."""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gifdex.index import store
from gifdex.schemas.errors import CorruptIndexError, IndexNotFoundError, PublishError
from gifdex.schemas.manifest import MANIFEST_NAME

HOUR = timedelta(hours=1)
NONE = timedelta(0)


def name(number: int) -> str:
    return f"{number:016x}"


def names(*numbers: int) -> list[str]:
    return [name(number) for number in numbers]


def whole(build_id: str) -> None:
    """Find nothing wrong, because the versions here have no files."""


def back(folder: Path) -> str:
    return store.rollback(folder, whole)[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of six finished versions, oldest first; their manifests are never parsed here."""
    for number in range(1, 7):
        (tmp_path / name(number)).mkdir()
        manifest = tmp_path / name(number) / MANIFEST_NAME
        manifest.write_text("{}")
        os.utime(manifest, (number * 1000, number * 1000))
    return tmp_path


def publish_long_ago(folder: Path, *numbers: int) -> None:
    """Publish versions in turn, then date the history far back."""
    for number in numbers:
        store.publish(folder, name(number))
    path = folder / store.HISTORY_NAME
    rows = [json.loads(line) | {"at": "2020-01-01T00:00:00+00:00"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_every_publication_is_recorded_with_the_version_it_replaced(folder: Path) -> None:
    store.publish(folder, name(1))
    store.publish(folder, name(2), refused=["max_shrink"])
    store.publish(folder, name(2))  # it is current already
    first, second = store.history(folder)
    assert (first.build_id, first.replaced, first.action, first.refused) == (name(1), None, "publish", ())
    assert (second.build_id, second.replaced, second.refused) == (name(2), name(1), ("max_shrink",))
    assert datetime.now(UTC) - second.at < HOUR


def test_each_rollback_goes_one_publication_further_back(folder: Path) -> None:
    for number in (1, 3, 2, 5):
        store.publish(folder, name(number))
    gone_back = [back(folder) for _ in range(3)]
    assert gone_back == names(2, 3, 1)
    assert store.current(folder) == name(1)
    with pytest.raises(PublishError, match=f"no version that was published before {name(1)} is left"):
        back(folder)
    assert store.current(folder) == name(1)


def test_rolling_back_skips_versions_that_were_rolled_back_from(folder: Path) -> None:
    for number in (1, 2, 3):
        store.publish(folder, name(number))
    assert store.rollback(folder, whole) == (name(2), name(3))
    store.publish(folder, name(4))
    assert back(folder) == name(2)
    assert back(folder) == name(1)
    store.publish(folder, name(3))  # an operator insists
    store.publish(folder, name(5))
    assert back(folder) == name(3)


def test_rolling_back_verifies_every_byte_and_skips_damaged_versions(folder: Path) -> None:
    for number in (1, 2, 3):
        store.publish(folder, name(number))

    def check(build_id: str) -> None:
        if build_id == name(2):
            raise CorruptIndexError("items.arrow has other bytes")

    assert store.rollback(folder, check) == (name(1), name(3))
    store.publish(folder, name(2))
    (folder / name(1) / MANIFEST_NAME).unlink()
    store.publish(folder, name(4))
    with pytest.raises(PublishError, match=rf"left in .* \({name(2)} is damaged: items\.arrow has other bytes\)"):
        store.rollback(folder, check)
    assert store.current(folder) == name(4)


def test_rolling_back_skips_versions_that_are_gone(folder: Path) -> None:
    for number in (1, 2, 3):
        store.publish(folder, name(number))
    (folder / name(2) / MANIFEST_NAME).unlink()
    assert back(folder) == name(1)


def test_a_version_counts_as_rolled_back_until_it_is_published_again(folder: Path) -> None:
    store.publish(folder, name(1))
    store.publish(folder, name(2))
    assert store.rolled_back(folder, name(2)) is None
    back(folder)
    assert store.rolled_back(folder, name(2)) is not None
    assert store.rolled_back(folder, name(1)) is None
    store.publish(folder, name(2))
    assert store.rolled_back(folder, name(2)) is None


def test_rolling_back_without_an_earlier_version_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError, match="nothing is published"):
        back(folder)
    with pytest.raises(IndexNotFoundError, match="is not a folder; expected an index store"):
        back(tmp_path / "absent")


@pytest.mark.parametrize("line", ["{", "[]", '{"build_id": "x"}', '{"build_id": "a", "at": 5, "action": "", "r": 1}'])
def test_a_damaged_history_is_an_error_that_says_what_to_do(folder: Path, line: str) -> None:
    (folder / store.HISTORY_NAME).write_text(line + "\n")
    with pytest.raises(CorruptIndexError, match=r"PUBLISHED\.jsonl"):
        store.history(folder)


def test_an_interrupted_publication_does_not_mislead_the_next_one(folder: Path) -> None:
    store.publish(folder, name(1))
    store.publish(folder, name(2))
    (folder / store.POINTER_NAME).write_text(f"{name(1)}\n")  # as if killed after the history, before the pointer
    store.publish(folder, name(2))
    assert store.current(folder) == name(2)
    assert back(folder) == name(1)


def test_history_of_a_publication_that_never_happened_does_not_count(folder: Path) -> None:
    for number in (1, 2, 3):
        store.publish(folder, name(number))
    (folder / store.POINTER_NAME).write_text(f"{name(2)}\n")  # as if publishing 3 was killed before the pointer
    store.publish(folder, name(4))
    assert back(folder) == name(2)
    store.publish(folder, name(5))
    back(folder)
    (folder / store.POINTER_NAME).write_text(f"{name(5)}\n")  # and this rollback too
    assert store.rolled_back(folder, name(5)) is None


def test_publishing_repairs_a_damaged_pointer(folder: Path) -> None:
    store.publish(folder, name(1))
    store.publish(folder, name(2))
    (folder / store.POINTER_NAME).write_text("?")
    with pytest.raises(CorruptIndexError, match="publish a version again"):
        store.current(folder)
    assert store.publish(folder, name(2)) is None
    assert store.current(folder) == name(2)


def test_overruled_rules_are_recorded_even_when_the_version_is_current(folder: Path) -> None:
    store.publish(folder, name(1))
    assert store.publish(folder, name(1), refused=["canaries"]) == name(1)
    assert [entry.refused for entry in store.history(folder)] == [(), ("canaries",)]
    store.publish(folder, name(2))
    assert back(folder) == name(1)


def test_an_unfinished_folder_with_recent_changes_is_not_pruned(folder: Path) -> None:
    publish_long_ago(folder, 1)
    (folder / name(9)).mkdir()
    (folder / name(9) / "items.arrow").write_text("half")
    day = timedelta(days=1)
    assert name(9) not in store.prune(folder, 9, NONE, abandoned=day)
    for path in (folder / name(9) / "items.arrow", folder / name(9)):
        os.utime(path, (1, 1))
    assert store.prune(folder, 9, NONE, abandoned=day) == [name(9)]


def test_unfinished_files_are_not_removed_during_a_publication(folder: Path) -> None:
    (folder / ".tmp-of-a-killed-one").write_text("")
    with store.locked(folder):
        clearing = threading.Thread(target=store.clear_unfinished, args=(folder,))
        clearing.start()
        clearing.join(0.2)
        assert clearing.is_alive()
        assert (folder / ".tmp-of-a-killed-one").exists()
    clearing.join()
    assert not (folder / ".tmp-of-a-killed-one").exists()


def test_pruning_keeps_the_current_version_and_the_newest_published_and_unpublished_ones(folder: Path) -> None:
    publish_long_ago(folder, 1, 3, 5, 2)
    assert store.versions_to_keep(folder, 1, NONE) == names(6, 2)  # unpublished: 4, 6
    assert store.versions_to_keep(folder, 2, NONE) == names(6, 5, 4, 2)
    (folder / name(9)).mkdir()  # unfinished
    (folder / "notes").mkdir()
    assert store.prune(folder, 1, NONE) == names(1, 3, 4, 5, 9)
    assert store.finished(folder) == names(6, 2)
    assert (folder / "notes").is_dir()
    assert store.current(folder) == name(2)


def test_pruning_keeps_the_version_a_rollback_would_publish(folder: Path) -> None:
    for number in (1, 2):
        store.publish(folder, name(number))
    back(folder)
    store.publish(folder, name(3))
    assert store.versions_to_keep(folder, 2, NONE) == names(6, 5, 3, 1)  # 2 is newer, but was rolled back
    store.prune(folder, 2, NONE)
    assert back(folder) == name(1)


def test_pruning_keeps_versions_that_were_current_within_the_protected_span(folder: Path) -> None:
    publish_long_ago(folder, 1, 2)
    store.publish(folder, name(3))
    assert store.versions_to_keep(folder, 1, HOUR) == names(6, 3, 2)  # 2 was current until just now
    assert store.versions_to_keep(folder, 1, NONE) == names(6, 3)


def test_pruning_without_a_history_treats_all_others_as_unpublished(folder: Path) -> None:
    (folder / store.POINTER_NAME).write_text(f"{name(1)}\n")
    assert store.versions_to_keep(folder, 2, HOUR) == names(6, 5, 1)


def test_concurrent_publishing_and_rolling_back_lose_no_entry(folder: Path) -> None:
    def publish(number: int) -> None:
        for _ in range(10):
            store.publish(folder, name(number))

    def go_back() -> None:
        for _ in range(10):
            with suppress(PublishError, IndexNotFoundError):
                back(folder)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(1, 7)]
    threads += [threading.Thread(target=go_back) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = store.history(folder)
    assert [entry.replaced for entry in entries[1:]] == [entry.build_id for entry in entries[:-1]]
    assert store.current(folder) == entries[-1].build_id
