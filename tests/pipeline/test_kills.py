"""Nightly runs that are killed at random moments or find the disk full at any stage: nothing is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gifdex.index import artifact, store
from gifdex.index.opening import open_index
from gifdex.pipeline.build import build
from gifdex.pipeline.nightly import NightlySummary, nightly
from gifdex.pipeline.prune import prune
from gifdex.pipeline.settings import BuildSettings, GateSettings, NightlySettings
from gifdex.pipeline.workspace import Workspace
from gifdex.schemas.errors import WorkspaceError

if TYPE_CHECKING:
    from tests.pipeline.conftest import Contents, GifWriter

# GIFDEX_TEST_KILLS sets another number of kills.
KILLS = int(os.environ.get("GIFDEX_TEST_KILLS", "50"))
GIFS = 10
# A run in a subprocess, which prints a line when its imports are done.
RUN = """
import resource, signal, sys
from pathlib import Path
import gifdex.encoders.tensorflow.runtime
from gifdex.pipeline.nightly import nightly
from gifdex.pipeline.settings import BuildSettings, NightlySettings
from gifdex.schemas.errors import GifdexError
gifdex.encoders.tensorflow.runtime.import_tensorflow("a test")
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[3] != "-":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    print(nightly(NightlySettings(BuildSettings(sys.argv[1], Path(sys.argv[2])))).outcome, flush=True)
except GifdexError as err:
    print(type(err).__name__, err, flush=True)
    sys.exit(1)
"""


@dataclass(frozen=True)
class Site:
    corpus: Path
    workspace: Workspace
    write_gif: Callable[..., Path]
    models: Mapping[str, Any]

    def settings(self) -> BuildSettings:
        return BuildSettings(str(self.corpus), self.workspace.root, **self.models)

    def change(self, seed: int) -> None:
        """Change one GIF, so that the next run encodes it and builds another version."""
        self.write_gif(self.corpus / "changing.gif", seed=1000 + seed, frames=2)

    def run(self) -> NightlySummary:
        return nightly(NightlySettings(self.settings()))

    @contextmanager
    def started(self, limit: int | None = None) -> Iterator[subprocess.Popen[str]]:
        """Yield a process that starts its run when it reads a line."""
        arguments = [str(self.corpus), str(self.workspace.root), "-" if limit is None else str(limit)]
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def check_published(self) -> str:
        """Open the published version, verify every byte, query it, and return its build id."""
        index = open_index(self.workspace.store, verify=True)
        index.warm_up()
        return index.manifest.build_id


def published(tmp_path: Path, write_gif: GifWriter, models: Mapping[str, Any]) -> Site:
    for number in range(GIFS):
        write_gif(tmp_path / "corpus" / f"g{number}.gif", seed=number, frames=2)
    site = Site(tmp_path / "corpus", Workspace(tmp_path / "ws"), write_gif, models)
    site.change(-1)
    assert site.run().outcome == "published"
    return site


@pytest.fixture
def site(tmp_path: Path, write_gif: GifWriter) -> Site:
    """A site with the default encoders."""
    return published(tmp_path, write_gif, {})


@pytest.fixture
def small_site(tmp_path: Path, write_gif: GifWriter, small_models: dict[str, Any]) -> Site:
    """A site with encoders that take almost no time."""
    return published(tmp_path, write_gif, small_models)


def start_run(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def backdate_history(folder: Path) -> None:
    path = folder / store.HISTORY_NAME
    rows = [json.loads(line) | {"at": "2020-01-01T00:00:00+00:00"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def check_nothing_is_left_over(site: Site, contents: Contents, tmp_path: Path) -> None:
    """Check that, after pruning, the workspace has exactly the files and bytes of one undisturbed run."""
    backdate_history(site.workspace.store)
    with site.workspace.locked():
        prune(site.workspace, 1, timedelta(0))
    fresh = Workspace(tmp_path / "fresh")
    summary = build(BuildSettings(str(site.corpus), fresh.root))
    assert contents(site.workspace.store / summary.build_id) == contents(fresh.store / summary.build_id)
    ours = {str(path.relative_to(site.workspace.root)) for path in site.workspace.root.rglob("*") if path.is_file()}
    theirs = {str(path.relative_to(fresh.root)) for path in fresh.root.rglob("*") if path.is_file()}
    parts = {name for name in ours if name.startswith("features/") and name.endswith(".parquet")}
    assert ours - parts - {"status.json"} == {name for name in theirs if name not in parts and "/all/" not in name}
    assert len(parts) <= 3  # those of the first run and of the last GIF


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_at_any_moment_leaves_the_old_or_the_new_version_and_the_next_completes(
    site: Site, tmp_path: Path, contents: Contents, record_property: Callable[[str, object], None]
) -> None:
    random_ = random.Random(6)
    site.change(-2)
    with site.started() as process:
        started = time.monotonic()
        start_run(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "published\n"
        run_seconds = time.monotonic() - started
    moments = {"before": 0, "after": 0}
    for number in range(KILLS):
        old = store.current(site.workspace.store)
        site.change(number)
        with site.started() as process:
            start_run(process)
            time.sleep(random_.uniform(0, 1.1 * run_seconds))
        found = site.check_published()
        moments["before" if found == old else "after"] += 1
        again = site.run()
        assert again.outcome in ("published", "unchanged")
        assert site.check_published() == again.build_id
        assert found in (old, again.build_id)
    record_property("kills", f"{KILLS} within {1.1 * run_seconds:.1f} s: {moments}")
    assert min(moments.values()) > 0 or KILLS < 20
    check_nothing_is_left_over(site, contents, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_full_disk_at_any_stage_is_one_error_and_the_next_run_completes(
    site: Site, tmp_path: Path, contents: Contents
) -> None:
    """A limit on file sizes grows until the run succeeds, so each kind of file is once the first to fail."""
    old = store.current(site.workspace.store)
    site.change(1)
    stages, limit = [], 16
    while True:
        with site.started(limit) as process:
            start_run(process)
            assert process.stdout is not None
            line = process.stdout.readline()
        assert site.check_published() in (old, store.current(site.workspace.store))
        if line == "published\n":
            break
        kind, _, sentence = line.partition(" ")
        assert kind == WorkspaceError.__name__, line
        assert "free some space" in sentence, line
        assert site.check_published() == old
        stages.append(sentence)
        limit = int(limit * 1.3) + 1
    assert len({sentence.partition(":")[0].rpartition("/")[2].rpartition(".")[2] for sentence in stages}) >= 3, stages
    assert site.run().outcome == "unchanged"
    check_nothing_is_left_over(site, contents, tmp_path)


def test_a_run_that_dies_before_publishing_is_resumed(small_site: Site) -> None:
    """The one kill in every test run: between the version's last file and the pointer."""
    site = small_site
    old = store.current(site.workspace.store)
    site.change(2)
    refused = nightly(NightlySettings(site.settings(), GateSettings(max_rejects=0, min_recall=1.1)))
    assert (refused.outcome, site.check_published()) == ("refused", old)
    history = site.workspace.store / store.HISTORY_NAME
    entry = {"build_id": refused.build_id, "at": "2026-01-01T00:00:00+00:00", "action": "publish"}
    with history.open("a") as stream:  # as if killed after this line, before CURRENT
        stream.write(json.dumps(entry | {"replaced": old, "refused": []}) + "\n")
    assert site.check_published() == old
    again = site.run()
    assert (again.outcome, again.build.index_reused, again.build.run.tried) == ("published", True, 0)
    assert artifact.verify(site.workspace.store / again.build_id)
    folder = site.workspace.store
    assert store.rollback(folder, lambda version: artifact.verify(folder / version)) == (old, again.build_id)
