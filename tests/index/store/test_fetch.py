"""Remote stores, on a real S3 server: pushed, fetched, interrupted, altered."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import gifdex
from gifdex.index import store
from gifdex.index.artifact import read_manifest, verify
from gifdex.index.store import fetch as fetching
from gifdex.index.store import push as pushing
from gifdex.index.store.place import Place
from gifdex.schemas.errors import CorruptIndexError, IndexNotFoundError, RemoteError
from gifdex.schemas.progress import QuietProgress
from tests import s3_server
from tests.progress import CallbackProgress

if TYPE_CHECKING:
    from gifdex.encoders.base import FloatArray
    from tests.s3_server import S3Server

pytestmark = pytest.mark.heavy  # these tests start servers

QUERY = np.linspace(-1, 1, 16)


class Interrupted(Exception):
    """Raised by a Progress to stop a copy midway."""


class StopAfter(QuietProgress):
    """A Progress that interrupts its caller at the `calls`-th call."""

    def __init__(self, calls: int) -> None:
        self._left = calls

    def stage(self, name: str, done: int, total: int) -> None:
        self._left -= name in ("push", "fetch")
        if self._left <= 0:
            raise Interrupted


@pytest.fixture
def two(tmp_path: Path, make_version: Callable[..., Path], clustered: Callable[..., FloatArray]) -> tuple[Path, Path]:
    """Two versions whose only common vector file is the first shard's."""
    vectors = clustered(900)
    first = make_version(tmp_path / "store" / "00000000000000a1", vectors, shards=(600, 300))
    other = np.concatenate([vectors[:600], vectors[:599:-1]])
    second = make_version(tmp_path / "store" / "00000000000000a2", other, shards=(600, 300))
    return first, second


def test_a_pushed_version_opens_from_the_url_and_answers_the_same(
    s3: S3Server, two: tuple[Path, Path], tmp_path: Path
) -> None:
    first, _ = two
    done = pushing.push(first, s3.url("index"))
    names = {path.name for path in first.iterdir()}
    assert done == {
        "version": first.name,
        "destination": "s3://bucket/index",
        "copied": len(names) - 1,
        "copied_bytes": sum(path.stat().st_size for path in first.iterdir()) - (first / "manifest.json").stat().st_size,
        "there": 0,
        "there_bytes": 0,
    }
    assert s3.object("index/CURRENT").read_text() == f"{first.name}\n"
    opened = gifdex.open(s3.url("index"), cache=tmp_path / "cache")
    assert opened.search(QUERY) == gifdex.open(first).search(QUERY)
    assert verify(opened.path) == read_manifest(first)
    again = pushing.push(first, s3.url("index"))
    assert (again["copied"], again["there"]) == (0, len(names) - 1)


def test_only_files_that_changed_are_fetched(s3: S3Server, two: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = two
    cache = tmp_path / "cache"
    pushing.push(first, s3.url("index"))
    before = gifdex.open(s3.url("index"), cache=cache)
    pushing.push(second, s3.url("index"))
    s3.object(f"index/{second.name}/image-00000.vectors.npy").unlink()  # the cache has this file
    after = gifdex.open(s3.url("index"), cache=cache)
    assert after.search(QUERY) == gifdex.open(second).search(QUERY)
    assert before.search(QUERY) == gifdex.open(first).search(QUERY)
    assert (after.path / "image-00000.vectors.npy").samefile(before.path / "image-00000.vectors.npy")


def test_a_cached_version_is_opened_without_reading_its_files_again(
    s3: S3Server, two: tuple[Path, Path], tmp_path: Path
) -> None:
    first, _ = two
    pushing.push(first, s3.url("index"))
    gifdex.open(s3.url("index"), cache=tmp_path / "cache")
    for path in s3.object(f"index/{first.name}").iterdir():
        if path.name != "manifest.json":
            path.unlink()
    assert len(gifdex.open(s3.url("index"), cache=tmp_path / "cache")) == 900


def test_the_cache_keeps_only_the_last_two_versions(
    s3: S3Server, two: tuple[Path, Path], tmp_path: Path, make_version: Callable[..., Path], vectors: FloatArray
) -> None:
    third = make_version(tmp_path / "store" / "00000000000000a3", vectors)
    for version in (*two, third):
        pushing.push(version, s3.url("index"))
        path = fetching.fetch(s3.url("index"), tmp_path / "cache")
    assert sorted(one.name for one in path.parent.iterdir() if one.is_dir()) == [two[1].name, third.name]
    assert list(path.parent.glob(".tmp-*")) == []


@pytest.mark.parametrize("calls", [1, 2, 4, 6])
def test_an_interrupted_push_publishes_nothing_new_and_the_next_one_copies_the_rest(
    s3: S3Server, two: tuple[Path, Path], tmp_path: Path, calls: int
) -> None:
    first, second = two
    pushing.push(first, s3.url("index"))
    with pytest.raises(Interrupted):
        pushing.push(second, s3.url("index"), StopAfter(calls))
    assert gifdex.open(s3.url("index"), cache=tmp_path / "cache").manifest.build_id == first.name
    done = pushing.push(second, s3.url("index"))
    assert done["there"] >= calls - 1
    assert gifdex.open(s3.url("index"), cache=tmp_path / "cache").manifest.build_id == second.name


@pytest.mark.parametrize("calls", [1, 3, 5])
def test_an_interrupted_fetch_resumes_where_it_stopped(
    s3: S3Server, two: tuple[Path, Path], tmp_path: Path, calls: int
) -> None:
    first, _ = two
    pushing.push(first, s3.url("index"))
    cache = tmp_path / "cache"
    with pytest.raises(Interrupted):
        fetching.fetch(s3.url("index"), cache, StopAfter(calls))
    (local,) = cache.iterdir()
    assert store.finished(local) == []
    assert gifdex.open(s3.url("index"), cache=cache).search(QUERY) == gifdex.open(first).search(QUERY)


def test_a_partly_fetched_file_is_resumed_from_its_end(s3: S3Server, two: tuple[Path, Path], tmp_path: Path) -> None:
    first, _ = two
    pushing.push(first, s3.url("index"))
    name = "image-00000.vectors.npy"
    whole = (first / name).read_bytes()
    facts = read_manifest(first).files[name]
    cache = tmp_path / "cache"
    with pytest.raises(Interrupted):
        fetching.fetch(s3.url("index"), cache, StopAfter(1))
    (local,) = cache.iterdir()
    (local / f".tmp-{facts.sha256}").write_bytes(whole[:20_000])
    # The object's first bytes are different now, so only a resumed fetch gets the right file.
    s3.object(f"index/{first.name}/{name}").write_bytes(b"x" * 20_000 + whole[20_000:])
    assert gifdex.open(s3.url("index"), cache=cache, verify=True).search(QUERY) == gifdex.open(first).search(QUERY)


def test_a_partly_fetched_file_with_wrong_bytes_is_fetched_again_from_the_start(
    s3: S3Server, two: tuple[Path, Path], tmp_path: Path
) -> None:
    first, _ = two
    pushing.push(first, s3.url("index"))
    facts = read_manifest(first).files["items.arrow"]
    cache = tmp_path / "cache"
    with pytest.raises(Interrupted):
        fetching.fetch(s3.url("index"), cache, StopAfter(1))
    (local,) = cache.iterdir()
    for path in local.rglob("items.arrow"):
        path.unlink()
    (local / f".tmp-{facts.sha256}").write_bytes(b"\0" * 1000)
    assert len(gifdex.open(s3.url("index"), cache=cache, verify=True)) == 900


@pytest.mark.parametrize(
    "name", ["items.arrow", "image-00001.ann", "image-00000.vectors.npy", "projection.safetensors"]
)
def test_one_altered_byte_in_the_bucket_is_an_error_that_names_the_file(
    s3: S3Server, two: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    first, _ = two
    pushing.push(first, s3.url("index"))
    data = bytearray((first / name).read_bytes())
    data[len(data) // 2] ^= 1
    Place.of(s3.url("index")).put(bytes(data), first.name, name)
    with pytest.raises(CorruptIndexError, match=rf"s3://bucket/index/{first.name}/{name} has .* were altered"):
        gifdex.open(s3.url("index"), cache=tmp_path / "cache")
    assert pushing.push(first, s3.url("index"))["copied"] == 0  # the sizes are right
    assert pushing.push(first, s3.url("index"), checksum=True)["copied"] == 1
    assert len(gifdex.open(s3.url("index"), cache=tmp_path / "cache")) == 900


def test_a_corrupted_byte_in_the_cache_is_fetched_again(s3: S3Server, two: tuple[Path, Path], tmp_path: Path) -> None:
    first, _ = two
    pushing.push(first, s3.url("index"))
    cached = gifdex.open(s3.url("index"), cache=tmp_path / "cache").path / "items.arrow"
    data = bytearray(cached.read_bytes())
    data[len(data) // 2] ^= 1
    cached.write_bytes(data)
    assert gifdex.open(s3.url("index"), cache=tmp_path / "cache", verify=True).search(QUERY)
    assert cached.read_bytes() == (first / "items.arrow").read_bytes()


def test_an_abandoned_fetch_is_cleaned_up_by_the_next(s3: S3Server, two: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = two
    pushing.push(first, s3.url("index"))
    with pytest.raises(Interrupted):
        fetching.fetch(s3.url("index"), tmp_path / "cache", StopAfter(5))
    pushing.push(second, s3.url("index"))
    path = fetching.fetch(s3.url("index"), tmp_path / "cache")
    assert [folder.name for folder in path.parent.iterdir() if folder.is_dir()] == [second.name]


def test_a_version_pruned_during_a_fetch_is_no_error(s3: S3Server, two: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = two
    pushing.push(first, s3.url("index"))

    def push_and_delete(stage: str, done: int, total: int) -> None:
        if s3.object(f"index/{first.name}").is_dir() and not s3.object(f"index/{second.name}").is_dir():
            pushing.push(second, s3.url("index"))
            for path in list(s3.object(f"index/{first.name}").iterdir()):
                path.unlink()

    assert fetching.fetch(s3.url("index"), tmp_path / "cache", CallbackProgress(push_and_delete)).name == second.name


def test_a_corrupted_byte_on_the_servers_disk_is_an_error_that_names_the_file(
    s3: S3Server, two: tuple[Path, Path], tmp_path: Path
) -> None:
    first, _ = two
    pushing.push(first, s3.url("index"))
    path = s3.object(f"index/{first.name}/items.arrow")
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises((CorruptIndexError, RemoteError), match=rf"s3://bucket/index/{first.name}/items\.arrow"):
        gifdex.open(s3.url("index"), cache=tmp_path / "cache")


def test_an_altered_manifest_or_pointer_is_an_error_that_names_it(
    s3: S3Server, two: tuple[Path, Path], tmp_path: Path
) -> None:
    first, _ = two
    pushing.push(first, s3.url("index"))
    place = Place.of(s3.url("index"))
    intact = (first / "manifest.json").read_bytes()
    facts = json.loads(intact)
    facts["files"]["../../evil"] = facts["files"].pop("items.arrow")
    for data, message in ((b"\xff", "not UTF-8 text"), (b"{", "manifest.json"), (json.dumps(facts).encode(), "evil")):
        place.put(data, first.name, "manifest.json")
        with pytest.raises(CorruptIndexError, match=message):
            gifdex.open(s3.url("index"), cache=tmp_path / "cache")
    place.put(intact, first.name, "manifest.json")
    place.put(b"../../elsewhere\n", "CURRENT")
    with pytest.raises(
        CorruptIndexError, match=r"s3://bucket/index/CURRENT holds '\.\./\.\./elsewhere', not a build id"
    ):
        gifdex.open(s3.url("index"), cache=tmp_path / "cache")
    assert not (tmp_path / "evil").exists()


def test_an_error_about_a_missing_store_hides_the_urls_options(s3: S3Server, tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError, match=r"^s3://bucket/nothing holds neither CURRENT nor manifest.json"):
        gifdex.open(s3.url("nothing"), cache=tmp_path / "cache")
    with pytest.raises(RemoteError, match="the URL cannot be used"):
        gifdex.open("nowhere://bucket/index", cache=tmp_path / "cache")


def test_a_single_version_can_be_opened_by_url(s3: S3Server, two: tuple[Path, Path], tmp_path: Path) -> None:
    first, _ = two
    pushing.push(first, s3.url("index"))
    opened = gifdex.open(s3.url(f"index/{first.name}"), cache=tmp_path / "cache")
    assert opened.search(QUERY) == gifdex.open(first).search(QUERY)


def test_an_unreachable_server_is_an_error_and_the_open_index_keeps_answering(
    versitygw: Path, tmp_path: Path, two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two
    for name, value in (("AWS_ACCESS_KEY_ID", s3_server.KEY), ("AWS_SECRET_ACCESS_KEY", s3_server.SECRET)):
        monkeypatch.setenv(name, value)
    with s3_server.running(versitygw, tmp_path / "s3") as server:
        pushing.push(first, server.url("index"))
        served = gifdex.serve_latest(server.url("index"), every=3600, cache=tmp_path / "cache")
    with served:
        status = served.check()
        assert status.serving == first.name
        assert status.error is not None
        assert status.error.startswith("cannot read or write s3://bucket/index/CURRENT: ")
        assert served.search(QUERY)
        with s3_server.running(versitygw, tmp_path / "s3", server.port):
            pushing.push(second, server.url("index"))
            status = served.check()
        assert (status.serving, status.error) == (second.name, None)


def test_a_folder_can_be_the_destination_and_never_shows_partial_files(two: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = two
    target = tmp_path / "copies"
    pushing.push(first, str(target))
    with pytest.raises(Interrupted):
        pushing.push(second, str(target), StopAfter(3))
    for path in (target / second.name).iterdir():
        assert path.name.startswith(".tmp-") or path.read_bytes() == (second / path.name).read_bytes()
    assert gifdex.open(target).manifest.build_id == first.name
    pushing.push(second, str(target))
    assert gifdex.open(target, verify=True).search(QUERY) == gifdex.open(second).search(QUERY)
    assert not list(target.rglob(".tmp-*"))


def test_a_fetch_killed_at_any_moment_is_completed_by_the_next(
    s3: S3Server, tmp_path: Path, make_version: Callable[..., Path], clustered: Callable[..., FloatArray]
) -> None:
    version = make_version(tmp_path / "store" / "00000000000000b1", clustered(60_000), trees=1)
    pushing.push(version, s3.url("index"))
    code = f"import gifdex; gifdex.open({s3.url('index')!r}, cache={str(tmp_path / 'cache')!r})"
    killed = 0
    for number in range(8):
        process = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(0.2 + 0.05 * number)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert killed
    opened = gifdex.open(s3.url("index"), cache=tmp_path / "cache", verify=True)
    assert opened.search(QUERY) == gifdex.open(version).search(QUERY)
    assert not list((tmp_path / "cache").rglob(".tmp-*"))


def test_concurrent_fetches_share_one_copy(s3: S3Server, two: tuple[Path, Path], tmp_path: Path) -> None:
    first, _ = two
    pushing.push(first, s3.url("index"))
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(gifdex.open(s3.url("index"), cache=tmp_path / "cache")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({index.path for index in found}) == 1
    assert len({str(index.search(QUERY)) for index in found}) == 1


def test_the_environment_sets_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GIFDEX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert fetching.default_cache() == Path.home() / ".cache" / "gifdex"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetching.default_cache() == tmp_path / "gifdex"
    monkeypatch.setenv("GIFDEX_CACHE", str(tmp_path / "mine"))
    assert fetching.default_cache() == tmp_path / "mine"


def test_a_full_disk_is_an_error_and_the_next_fetch_resumes(
    s3: S3Server, two: tuple[Path, Path], tmp_path: Path
) -> None:
    first, _ = two
    pushing.push(first, s3.url("index"))
    code = (
        "import resource, signal, sys, gifdex; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000));"
        f"gifdex.open({s3.url('index')!r}, cache={str(tmp_path / 'cache')!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
    opened = gifdex.open(s3.url("index"), cache=tmp_path / "cache", verify=True)
    assert opened.search(QUERY) == gifdex.open(first).search(QUERY)
