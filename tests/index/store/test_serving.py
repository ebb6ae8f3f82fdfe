"""serve_latest: a service's index follows the store, and never stops answering."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

import gifdex
from gifdex.encoders.base import FloatArray
from gifdex.index import store
from gifdex.index.store import versions
from gifdex.schemas.errors import IndexNotFoundError
from gifdex.schemas.manifest import MANIFEST_NAME

QUERY = np.linspace(-1, 1, 16)


@pytest.fixture
def folder(tmp_path: Path, make_version: Callable[..., Path], clustered: Callable[..., FloatArray]) -> Path:
    """A store of three versions with different vectors; the first one is published."""
    for number in range(1, 4):
        make_version(tmp_path / "store" / f"{number:016x}", clustered(700, seed=number))
    store.publish(tmp_path / "store", f"{1:016x}")
    return tmp_path / "store"


def name(number: int) -> str:
    return f"{number:016x}"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_published_version_is_served_soon_after(folder: Path) -> None:
    with gifdex.serve_latest(folder, every=0.05) as served:
        assert (served.status.serving, served.status.latest) == (name(1), name(1))
        store.publish(folder, name(2))
        wait_for(lambda: served.status.serving == name(2))
        assert served.search(QUERY) == gifdex.open(folder / name(2)).search(QUERY)
        assert served.status.refused == {}
        assert served.status.error is None
    assert served.search(QUERY)  # closed: it no longer follows the store, but still answers


def test_a_version_that_fails_verification_is_refused_and_the_old_one_is_served(folder: Path) -> None:
    path = folder / name(2) / "image-00000.vectors.npy"
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with gifdex.serve_latest(folder, every=3600) as served:
        store.publish(folder, name(2))
        status = served.check()
        assert (status.serving, status.latest) == (name(1), name(2))
        assert "image-00000.vectors.npy has SHA-256" in status.refused[name(2)]
        assert served.search(QUERY) == gifdex.open(folder / name(1)).search(QUERY)
        store.publish(folder, name(3))
        assert served.check().serving == name(3)
        path.write_bytes(intact)
        store.publish(folder, name(2))
        status = served.check()
        assert (status.serving, status.refused) == (name(2), {})


def test_a_version_that_cannot_answer_queries_is_refused(folder: Path) -> None:
    manifest = folder / name(2) / MANIFEST_NAME
    facts = json.loads(manifest.read_text())
    facts["text_encoder"]["fingerprint"] = "0" * 16  # no encoder has it
    manifest.write_text(json.dumps(facts))
    with gifdex.serve_latest(folder, every=3600, warm_up=["a cat"]) as served:
        store.publish(folder, name(2))
        status = served.check()
        assert status.serving == name(1)
        assert "was built with the text encoder" in status.refused[name(2)]


def test_an_unreadable_store_is_reported_and_the_old_version_is_served(folder: Path, tmp_path: Path) -> None:
    with gifdex.serve_latest(folder, every=3600) as served:
        folder.rename(tmp_path / "away")
        status = served.check()
        assert "does not exist" in str(status.error)
        assert served.search(QUERY)
        (tmp_path / "away").rename(folder)
        assert served.check().error is None


def test_the_thread_survives_any_filesystem_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(path: Path) -> Path:
        raise OSError(116, "Stale file handle")

    with gifdex.serve_latest(folder, every=0.05) as served:
        with monkeypatch.context() as patched:
            patched.setattr(versions, "resolve", stale)
            wait_for(lambda: served.status.error is not None)
            assert "Stale file handle" in str(served.status.error)
            assert served.search(QUERY)
        store.publish(folder, name(2))
        wait_for(lambda: served.status.serving == name(2))


def test_a_single_version_is_served_without_being_opened_again(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "another name"
    shutil.copytree(folder / name(1), other)
    with gifdex.serve_latest(other, every=3600) as served:
        index = served.index
        assert served.check().serving == other.name
        assert served.index is index


def test_opening_a_store_without_a_published_version_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError):
        gifdex.serve_latest(tmp_path)
    with pytest.raises(ValueError, match="every is 0"):
        gifdex.serve_latest(tmp_path, every=0)


def test_a_busy_reader_sees_no_error_and_no_wrong_answer_during_publishes_and_prunes(
    folder: Path, tmp_path: Path
) -> None:
    spare = tmp_path / "spare"
    shutil.copytree(folder, spare)
    right = {name(number): gifdex.open(spare / name(number)).search(QUERY) for number in range(1, 4)}
    wrong: list[str] = []
    queries, ended = 0, threading.Event()

    def ask(served: gifdex.ServedIndex) -> None:
        nonlocal queries
        while not ended.is_set():
            index = served.index
            if index.search(QUERY) != right[index.manifest.build_id]:
                wrong.append(index.manifest.build_id)
            queries += 1

    with gifdex.serve_latest(folder, every=0.01) as served:
        threads = [threading.Thread(target=ask, args=(served,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for turn in range(20):
            number = 1 + turn % 3
            if not (folder / name(number)).exists():
                shutil.copytree(spare / name(number), tmp_path / "copy")
                (tmp_path / "copy").rename(folder / name(number))
            store.publish(folder, name(number))
            wait_for(lambda number=number: served.status.serving == name(number))  # type: ignore[misc]
            store.prune(folder, 1, timedelta(0))
        ended.set()
        for thread in threads:
            thread.join()
        assert served.status.refused == {}
    assert wrong == []
    assert queries > 100


READER = """
import json, sys, threading
from pathlib import Path
import numpy as np
import gifdex
folder, spare = Path(sys.argv[1]), Path(sys.argv[2])
query = np.linspace(-1, 1, 16)
right = {path.name: gifdex.open(path).search(query) for path in spare.iterdir() if path.is_dir()}
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
queries, wrong, last = 0, 0, None
with gifdex.serve_latest(folder, every=0.01) as served:
    while not ended.is_set():
        index = served.index
        name = index.manifest.build_id
        if name != last:
            print(name, flush=True)
            last = name
        wrong += index.search(query) != right[name]
        queries += 1
    print(json.dumps({"queries": queries, "wrong": wrong, "refused": served.status.refused}), flush=True)
"""


def test_a_reader_in_another_process_sees_no_error_and_no_wrong_answer(folder: Path, tmp_path: Path) -> None:
    spare = tmp_path / "spare"
    shutil.copytree(folder, spare)
    command = [sys.executable, "-c", READER, str(folder), str(spare)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdin is not None
        assert reader.stdout.readline().strip() == name(1)
        for turn in range(1, 21):
            number = 1 + turn % 3
            if not (folder / name(number)).exists():
                shutil.copytree(spare / name(number), tmp_path / "copy")
                (tmp_path / "copy").rename(folder / name(number))
            store.publish(folder, name(number))
            assert reader.stdout.readline().strip() == name(number)
            store.prune(folder, 1, timedelta(0))
        reader.stdin.close()
        result = json.loads(reader.stdout.readline())
    assert reader.returncode == 0
    assert (result["wrong"], result["refused"]) == (0, {})
    assert result["queries"] > 100


def test_opening_during_publishes_and_prunes_gives_some_complete_version(folder: Path, tmp_path: Path) -> None:
    spare = tmp_path / "spare"
    shutil.copytree(folder, spare)
    right = {name(number): gifdex.open(spare / name(number)).search(QUERY) for number in range(1, 4)}
    ended = threading.Event()

    def publish_in_turn() -> None:
        turn = 0
        while not ended.is_set():
            number = 1 + turn % 3
            if not (folder / name(number)).exists():
                shutil.copytree(spare / name(number), tmp_path / "copy")
                (tmp_path / "copy").rename(folder / name(number))
            store.publish(folder, name(number))
            time.sleep(0.02)
            store.prune(folder, 1, timedelta(seconds=1))
            turn += 1

    thread = threading.Thread(target=publish_in_turn)
    thread.start()
    try:
        for _ in range(100):
            opened = gifdex.open(folder)
            assert opened.search(QUERY) == right[opened.manifest.build_id]
    finally:
        ended.set()
        thread.join()
