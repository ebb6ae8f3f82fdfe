"""A workspace on an object store: nightly runs on several machines, each with its own mirror."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import gifdex
from gifdex.index import store
from gifdex.index.store import push as pushing
from gifdex.index.store.place import Place
from gifdex.pipeline import mirror as mirror_module
from gifdex.pipeline.mirror import LEASE_NAME, mirror_of
from gifdex.pipeline.nightly import NightlySummary, nightly, record_status
from gifdex.pipeline.prune import prune_at
from gifdex.pipeline.settings import BuildSettings, GateSettings, NightlySettings
from gifdex.schemas.errors import RemoteError, WorkspaceBusyError, WorkspaceError
from tests.progress import CallbackProgress

if TYPE_CHECKING:
    from tests.pipeline.conftest import GifWriter
    from tests.s3_server import S3Server


@pytest.fixture
def corpus(tmp_path: Path, write_gif: GifWriter) -> Path:
    for number in range(5):
        write_gif(tmp_path / "gifs" / f"g{number}.gif", seed=number, frames=2)
    return tmp_path / "gifs"


Night = Callable[..., NightlySummary]


@pytest.fixture
def settings(s3: S3Server, corpus: Path, small_models: dict[str, Any]) -> BuildSettings:
    return BuildSettings(str(corpus), s3.url("ws"), **small_models)


@pytest.fixture
def night(settings: BuildSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Night:
    """Return a function that runs a night on a machine with its own cache."""

    def run(machine: str, keep: int = 3, gate: GateSettings | None = None) -> NightlySummary:
        monkeypatch.setenv("GIFDEX_CACHE", str(tmp_path / machine))
        return nightly(NightlySettings(settings, gate or GateSettings(), keep))

    return run


def names(s3: S3Server) -> set[str]:
    root = s3.object("ws")
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_another_machine_continues_in_the_workspace_of_a_night(
    s3: S3Server, night: Night, corpus: Path, write_gif: GifWriter, tmp_path: Path
) -> None:
    first = night("one")
    assert (first.outcome, first.build.run.encoded) == ("published", 5)
    opened = gifdex.open(s3.url("ws/index"), cache=tmp_path / "reader")
    assert len(opened) == 5
    again = night("two")
    assert (again.outcome, again.build_id, again.build.run.tried, again.build.index_reused) == (
        "unchanged",
        first.build_id,
        0,
        True,
    )
    write_gif(corpus / "new.gif", seed=77)
    third = night("two")
    assert (third.outcome, third.build.run.tried, third.previous) == ("published", 1, first.build_id)
    assert [entry.build_id for entry in store.history(mirror_of(s3.url("ws")).store)] == [
        first.build_id,
        third.build_id,
    ]
    assert len(gifdex.open(s3.url("ws/index"), cache=tmp_path / "reader")) == 6
    assert night("one").outcome == "unchanged"  # its mirror is one night old
    assert not any(LEASE_NAME in name or ".tmp-" in name or ".lock" in name for name in names(s3))


def test_pruning_reaches_the_object_store_too(s3: S3Server, night: Night, corpus: Path, write_gif: GifWriter) -> None:
    made = [night("one").build_id]
    for number in range(3):
        write_gif(corpus / "changing.gif", seed=100 + number)
        path = s3.object("ws/index/PUBLISHED.jsonl")
        rows = [json.loads(line) | {"at": "2020-01-01T00:00:00+00:00"} for line in path.read_text().splitlines()]
        Place.of(s3.url("ws")).put("".join(json.dumps(row) + "\n" for row in rows).encode(), "index", path.name)
        made.append(night(f"machine{number}", keep=1).build_id)
    remote = {name.split("/")[1] for name in names(s3) if name.startswith("index/") and name.count("/") > 1}
    assert remote == set(made[-2:])  # the current one, and the one that was current until just now
    assert {name.split("/")[1] for name in names(s3) if name.startswith("builds/")} == remote
    assert len([name for name in names(s3) if name.startswith("features/") and name.count("/") == 3]) == 3


def test_a_refused_version_is_uploaded_but_not_published(s3: S3Server, night: Night, corpus: Path) -> None:
    first = night("one")
    (corpus / "g0.gif").unlink()
    (corpus / "g1.gif").unlink()
    refused = night("one")
    assert refused.outcome == "refused"
    assert s3.object("ws/index/CURRENT").read_text().strip() == first.build_id
    assert s3.object(f"ws/index/{refused.build_id}/manifest.json").is_file()


def test_a_failed_run_keeps_what_it_encoded(
    s3: S3Server, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIFDEX_CACHE", str(tmp_path / "one"))
    mirror = mirror_of(s3.url("ws"))
    mirror.root.mkdir(parents=True)
    mirror.builds.write_text("blocks the stage after encoding")
    with pytest.raises(WorkspaceError, match=r"cannot read or write .*builds"):
        night("one")
    assert any(name.startswith("features/") and name.endswith(".parquet") for name in names(s3))
    assert "index/CURRENT" not in names(s3)
    summary = night("two")
    assert (summary.outcome, summary.build.run.tried) == ("published", 0)


def test_another_run_holds_the_lease_until_it_is_stale(s3: S3Server, night: Night) -> None:
    facts = {"token": "x", "pid": 12, "host": "elsewhere", "since": "2026-01-01T00:00:00+00:00"}
    s3.object("ws").mkdir(parents=True)
    lease = s3.object(f"ws/{LEASE_NAME}")
    lease.write_text(json.dumps(facts))
    with pytest.raises(WorkspaceBusyError, match=r"s3://bucket/ws \(process 12 on elsewhere since 2026-01-01"):
        night("one")
    assert names(s3) == {LEASE_NAME}
    os.utime(lease, (time.time() - 3600, time.time() - 3600))
    assert night("one").outcome == "published"
    assert LEASE_NAME not in names(s3)


def test_a_missing_bucket_gives_one_sentence(
    s3: S3Server, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIFDEX_CACHE", str(tmp_path / "cache"))
    build = BuildSettings(str(corpus), s3.url("ws").replace("bucket", "nowhere"))
    with pytest.raises(RemoteError, match=r"cannot read or write s3://nowhere/ws"):
        nightly(NightlySettings(build))


def test_the_status_of_a_run_is_written_to_the_workspace(s3: S3Server, night: Night) -> None:
    night("one")
    good = record_status(s3.url("ws"), "published", None)
    assert json.loads(s3.object("ws/status.json").read_text())["last_success"] == good.last_success
    assert night("two").outcome == "unchanged"
    failed = record_status(s3.url("ws"), "failed", "why")  # on a machine that has seen the first run's status
    assert json.loads(s3.object("ws/status.json").read_text()) == {
        "finished": failed.finished,
        "outcome": "failed",
        "error": "why",
        "last_success": good.last_success,
    }


def test_pruning_a_store_by_url_prunes_its_workspace(
    s3: S3Server, night: Night, corpus: Path, write_gif: GifWriter
) -> None:
    made = []
    for number in range(3):
        write_gif(corpus / "changing.gif", seed=100 + number)
        made.append(night("one").build_id)
    path = s3.object("ws/index/PUBLISHED.jsonl")
    rows = [json.loads(line) | {"at": "2020-01-01T00:00:00+00:00"} for line in path.read_text().splitlines()]
    Place.of(s3.url("ws")).put("".join(json.dumps(row) + "\n" for row in rows).encode(), "index", path.name)
    parts = {name for name in names(s3) if name.startswith("features/")}
    summary = prune_at(s3.url("ws/index"), 1)
    assert sorted(summary.versions) == sorted(made[:2]) == sorted(summary.builds)
    left = names(s3)
    assert not any(gone in name for gone in made[:2] for name in left if name != "index/PUBLISHED.jsonl")
    assert len({name for name in left if name.startswith("features/")}) < len(parts)
    assert night("two").outcome == "unchanged"


def test_other_peoples_files_below_the_workspace_are_left_alone(
    s3: S3Server, night: Night, tmp_path: Path, write_gif: GifWriter
) -> None:
    place = Place.of(s3.url("ws"))
    for name in ("gifs/cat.gif", "notes.txt", "index.html"):
        place.put(b"someone else's", *name.split("/"))
    assert night("one").outcome == "published"
    assert night("two").outcome == "unchanged"
    mirror = mirror_of(s3.url("ws"))
    assert not (mirror.root / "gifs").exists()
    assert s3.object("ws/gifs/cat.gif").read_bytes() == b"someone else's"


def test_a_rollback_during_a_run_is_kept_with_its_version(
    s3: S3Server, settings: BuildSettings, corpus: Path, night: Night, write_gif: GifWriter, tmp_path: Path
) -> None:
    first = night("one").build_id
    write_gif(corpus / "new.gif", seed=80)
    second = night("one", keep=1).build_id
    path = s3.object("ws/index/PUBLISHED.jsonl")
    rows = [json.loads(line) | {"at": "2020-01-01T00:00:00+00:00"} for line in path.read_text().splitlines()]
    Place.of(s3.url("ws")).put("".join(json.dumps(row) + "\n" for row in rows).encode(), "index", path.name)

    def operator(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("gate", 0):
            place = Place.of(s3.url("ws/index"))
            with pushing.working_copy(place) as copy:
                assert store.rollback(copy.folder, lambda name: pushing.verify(place, name)) == (first, second)

    summary = nightly(NightlySettings(settings, keep=1), CallbackProgress(operator))
    assert (summary.outcome, summary.build_id) == ("unchanged", second)
    assert gifdex.open(s3.url("ws/index"), cache=tmp_path / "reader").manifest.build_id == first
    refused = night("two", keep=1)
    assert (refused.outcome, list(refused.refused)) == ("refused", ["rolled_back"])
    # If the run publishes, its version becomes current and the history records the rollback.
    Place.of(s3.url("ws")).put(f"{second}\n".encode(), "index", "CURRENT")
    Place.of(s3.url("ws")).put("".join(json.dumps(row) + "\n" for row in rows).encode(), "index", path.name)
    write_gif(corpus / "newer.gif", seed=81)
    third = nightly(NightlySettings(settings, keep=2), CallbackProgress(operator))
    assert gifdex.open(s3.url("ws/index"), cache=tmp_path / "reader").manifest.build_id == third.build_id
    with pushing.working_copy(Place.of(s3.url("ws/index"))) as copy:
        assert store.rolled_back(copy.folder, second) is not None
        assert store.history(copy.folder)[-1].replaced == first


def test_a_run_that_lost_its_lease_uploads_nothing_that_readers_see(
    s3: S3Server,
    settings: BuildSettings,
    night: Night,
    corpus: Path,
    write_gif: GifWriter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = night("one").build_id
    write_gif(corpus / "new.gif", seed=82)
    monkeypatch.setattr(mirror_module, "_RENEWED_SECONDS", 0.05)
    lease = s3.object(f"ws/{LEASE_NAME}")
    stolen = json.dumps({"token": "other", "pid": 1, "host": "b", "since": "now"}).encode()

    def steal_lease(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("gate", 0):
            for _ in range(50):  # as a run renews its own: a renewal that has just read the lease may overwrite it once
                Place.of(s3.url("ws")).put(stolen, LEASE_NAME)
                time.sleep(0.01)

    with pytest.raises(WorkspaceBusyError, match="process 1 on b since now"):
        nightly(NightlySettings(settings), CallbackProgress(steal_lease))
    assert lease.read_bytes() == stolen
    assert s3.object("ws/index/CURRENT").read_text().strip() == first
    assert len([name for name in names(s3) if name.endswith("manifest.json")]) == 1


def test_the_lease_is_renewed_throughout_the_run(s3: S3Server, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "_RENEWED_SECONDS", 0.05)
    written: list[float] = []
    put = Place.put

    def counting(self: Place, data: bytes, *path: str) -> None:
        if path == (LEASE_NAME,):
            written.append(time.monotonic())
        if path[-1] == store.POINTER_NAME:
            time.sleep(0.5)
            assert written[-1] > time.monotonic() - 0.3  # also during copying
        put(self, data, *path)

    monkeypatch.setattr(Place, "put", counting)
    assert night("one").outcome == "published"
    assert len(written) > 5
