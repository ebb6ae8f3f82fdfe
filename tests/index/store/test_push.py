"""Remote stores work as local ones do: publications are recorded, rolled back and pruned."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gifdex
from gifdex.index import store
from gifdex.index.store import push as pushing
from gifdex.index.store.place import Place
from gifdex.schemas.errors import CorruptIndexError, IndexNotFoundError, PublishError, RemoteError
from tests import commands
from tests.progress import CallbackProgress

if TYPE_CHECKING:
    from gifdex.encoders.base import FloatArray
    from tests.s3_server import S3Server

pytestmark = pytest.mark.heavy  # these tests start servers

HOUR = timedelta(hours=1)


@pytest.fixture
def versions(tmp_path: Path, make_version: Callable[..., Path], vectors: FloatArray) -> list[Path]:
    """Four versions, each with one vector fewer than the one before."""
    return [make_version(tmp_path / "store" / f"{n:016x}", vectors[: len(vectors) - n]) for n in range(1, 5)]


@pytest.fixture
def pushed(s3: S3Server, versions: list[Path]) -> list[str]:
    """The names of the versions, after pushing each in turn."""
    for version in versions:
        pushing.push(version, s3.url("index"))
    return [version.name for version in versions]


def whole(build_id: str) -> None:
    """Find nothing wrong."""


def folders(s3: S3Server) -> list[str]:
    return sorted(path.name for path in s3.object("index").iterdir() if path.is_dir() and any(path.iterdir()))


def backdate_history(s3: S3Server) -> None:
    path = s3.object("index/PUBLISHED.jsonl")
    rows = [json.loads(line) | {"at": "2020-01-01T00:00:00+00:00"} for line in path.read_text().splitlines()]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    Place.of(s3.url("index")).put(text.encode(), path.name)


def run(*arguments: str, cache: Path) -> commands.Finished:
    return commands.run(*arguments, env={"GIFDEX_CACHE": str(cache)})


def test_every_push_is_recorded_and_can_be_rolled_back(s3: S3Server, pushed: list[str], tmp_path: Path) -> None:
    place = Place.of(s3.url("index"))
    with pushing.working_copy(place) as copy:
        assert [entry.build_id for entry in store.history(copy.folder)] == pushed
        assert [entry.replaced for entry in store.history(copy.folder)] == [None, *pushed[:-1]]
        assert store.finished(copy.folder)[0] == pushed[-1]
        assert store.rollback(copy.folder, whole) == (pushed[-2], pushed[-1])
    assert gifdex.open(s3.url("index"), cache=tmp_path / "cache").manifest.build_id == pushed[-2]
    with pushing.working_copy(place) as copy:
        assert store.rolled_back(copy.folder, pushed[-1]) is not None
        store.publish(copy.folder, pushed[0])
    assert gifdex.open(s3.url("index"), cache=tmp_path / "cache").manifest.build_id == pushed[0]


def test_a_failure_in_the_working_copy_changes_nothing_and_names_the_url(s3: S3Server, versions: list[Path]) -> None:
    pushing.push(versions[0], s3.url("index"))
    before = {path.name: path.read_bytes() for path in s3.object("index").iterdir() if path.is_file()}
    with (
        pytest.raises(
            PublishError, match=r"before 0{15}1 is left in s3://bucket/index: .* versions s3://bucket/index,"
        ),
        pushing.working_copy(Place.of(s3.url("index"))) as copy,
    ):
        store.rollback(copy.folder, whole)
    assert {path.name: path.read_bytes() for path in s3.object("index").iterdir() if path.is_file()} == before


def test_verifying_a_remote_version_reads_its_files(s3: S3Server, pushed: list[str]) -> None:
    place = Place.of(s3.url("index"))
    pushing.verify(place, pushed[0])
    data = bytearray(s3.object(f"index/{pushed[0]}/items.arrow").read_bytes())
    data[len(data) // 2] ^= 1
    place.put(bytes(data), pushed[0], "items.arrow")
    with pytest.raises(CorruptIndexError, match=rf"s3://bucket/index/{pushed[0]}/items\.arrow"):
        pushing.verify(place, pushed[0])
    with pytest.raises(IndexNotFoundError, match=r"s3://bucket/index has no finished version f{16}"):
        pushing.verify(place, "f" * 16)


def test_pruning_keeps_versions_that_are_current_recently_current_or_among_the_newest(
    s3: S3Server, pushed: list[str]
) -> None:
    place = Place.of(s3.url("index"))
    assert pushing.prune(place, 1, HOUR) == []  # each was current within the last hour
    backdate_history(s3)
    assert pushing.prune(place, 2, HOUR) == pushed[:2]
    assert folders(s3) == pushed[2:]
    with pushing.working_copy(place) as copy:
        store.publish(copy.folder, pushed[2])
    backdate_history(s3)
    assert pushing.prune(place, 1, HOUR) == [pushed[3]]  # the last one published is the current one


def test_pruning_removes_abandoned_pushes_but_not_recent_ones(s3: S3Server, pushed: list[str]) -> None:
    place = Place.of(s3.url("index"))
    for name, age in (("a" * 16, 2 * 86400), ("b" * 16, 3600)):
        place.put(b"half", name, "items.arrow")
        moment = time.time() - age
        os.utime(s3.object(f"index/{name}/items.arrow"), (moment, moment))
    assert pushing.prune(place, 4, HOUR) == ["a" * 16]
    assert folders(s3) == [*pushed, "b" * 16]


def test_the_commands_accept_a_url_and_never_print_its_options(s3: S3Server, pushed: list[str], tmp_path: Path) -> None:
    url, cache = s3.url("index"), tmp_path / "cache"
    listed = run("versions", url, "--json", cache=cache)
    assert listed.returncode == 0, listed.stderr
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(row["version"], row["current"]) for row in rows] == [
        (name, name == pushed[-1]) for name in reversed(pushed)
    ]
    back = json.loads(run("rollback", url, "--json", cache=cache).stdout)
    assert back == {"store": "s3://bucket/index", "published": pushed[-2], "previous": pushed[-1]}
    published = run("publish", url, pushed[0], cache=cache)
    assert published.stdout == f"published {pushed[0]}, before it {pushed[-2]}\n"
    absent = run("publish", url, "f" * 16, cache=cache)
    assert (absent.returncode, absent.stderr.count("\n")) == (1, 1)
    assert "s3://bucket/index has no finished version" in absent.stderr
    verified = json.loads(run("verify", url, "--json", cache=cache).stdout)
    assert verified["build_id"] == pushed[0]
    backdate_history(s3)
    gone = json.loads(run("prune", url, "--keep", "1", "--json", cache=cache).stdout)
    assert sorted(gone["versions"]) == pushed[1:3]
    assert folders(s3) == [pushed[0], pushed[3]]


def test_a_build_with_the_same_id_but_other_bytes_is_not_overwritten(
    s3: S3Server, versions: list[Path], make_version: Callable[..., Path], vectors: FloatArray, tmp_path: Path
) -> None:
    pushing.push(versions[0], s3.url("index"))
    other = make_version(tmp_path / "other" / versions[0].name, vectors[::-1][: len(vectors) - 1])
    before = {path.name: path.read_bytes() for path in s3.object(f"index/{other.name}").iterdir()}
    done = pushing.push(other, s3.url("index"))
    assert (done["copied"], done["there"]) == (0, len(before) - 1)
    assert {path.name: path.read_bytes() for path in s3.object(f"index/{other.name}").iterdir()} == before
    pushing.verify(Place.of(s3.url("index")), other.name)
    repaired = pushing.push(other, s3.url("index"), checksum=True)  # on request, the local files replace it
    assert repaired["copied"] > 0
    pushing.verify(Place.of(s3.url("index")), other.name)
    assert s3.object(f"index/{other.name}/manifest.json").read_bytes() == (other / "manifest.json").read_bytes()


def test_an_interrupted_push_of_other_bytes_is_not_resumed(
    s3: S3Server, versions: list[Path], make_version: Callable[..., Path], vectors: FloatArray, tmp_path: Path
) -> None:
    other = make_version(tmp_path / "other" / versions[0].name, vectors[::-1][: len(vectors) - 1])

    def stop_at(last: int) -> Callable[[str, int, int], None]:
        counted = iter(range(1, last + 1))

        def stop(stage: str, done: int, total: int) -> None:
            if stage == "push" and next(counted) == last:
                raise KeyboardInterrupt

        return stop

    for version, last in ((versions[0], 4), (other, 1)):  # the second attempt is interrupted, too
        with pytest.raises(KeyboardInterrupt):
            pushing.push(version, s3.url("index"), CallbackProgress(stop_at(last)))
    assert pushing.push(other, s3.url("index"))["there"] == 0
    pushing.verify(Place.of(s3.url("index")), other.name)
    assert [path.name for path in s3.object(f"index/{other.name}").iterdir() if path.name.startswith(".")] == []


def test_a_version_pruned_during_a_push_is_not_published(versions: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    pushing.push(versions[0], str(copy))
    count = 0

    def prune(stage: str, done: int, total: int) -> None:
        nonlocal count
        count += stage == "push"
        if count == 3:  # gifdex prune leaves it alone, but somebody else deletes a file
            assert pushing.prune(Place.of(copy.as_uri()), 1, HOUR) == []
            (copy / versions[1].name / "items.arrow").unlink()

    with pytest.raises(RemoteError, match="was deleted during the push"):
        pushing.push(versions[1], str(copy), CallbackProgress(prune))
    assert store.current(copy) == versions[0].name
    pushing.push(versions[1], str(copy))
    assert gifdex.open(copy, verify=True).manifest.build_id == versions[1].name


def test_an_interrupted_write_leaves_no_truncated_object(s3: S3Server) -> None:
    place = Place.of(s3.url("index"))

    class Failing:
        def read(self, size: int) -> bytes:
            if self.__dict__.setdefault("reads", []):
                raise OSError(5, "Input/output error", "local")
            self.__dict__["reads"].append(1)
            return b"x" * 100

    with pytest.raises(OSError, match="Input/output error"):
        list(place.write(Failing(), "some", "file"))  # type: ignore[arg-type]
    assert place.size("some", "file") is None


def test_pruning_without_a_store_is_an_error(s3: S3Server, tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError, match="s3://bucket/absent is not an index store"):
        pushing.prune(Place.of(s3.url("absent")), 1, HOUR)
