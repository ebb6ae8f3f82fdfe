from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gifdex.pipeline.workspace import Workspace
from gifdex.schemas.errors import WorkspaceBusyError, WorkspaceError

HOLD = """
import sys, time
from pathlib import Path
from gifdex.pipeline.workspace import Workspace
with Workspace(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the workspace until it is killed."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(root)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_learns_who_holds_the_workspace(tmp_path: Path) -> None:
    root = tmp_path / "new" / "workspace"
    with holder(root) as process:
        expected = rf"{root} \(process {process.pid} on \S+ since 20\S+\)"
        with pytest.raises(WorkspaceBusyError, match=expected) as caught, Workspace(root).locked():
            pass
    assert caught.value.exit_code == 75


def test_the_lock_is_released_when_its_holder_is_killed(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with Workspace(tmp_path).locked():
            assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_the_lock_works_within_a_process_too(tmp_path: Path) -> None:
    with (
        Workspace(tmp_path).locked(),
        pytest.raises(WorkspaceBusyError, match=f"process {os.getpid()}"),
        Workspace(tmp_path).locked(),
    ):
        pass


def test_the_lock_is_released_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError), Workspace(tmp_path).locked():
        fail()
    with Workspace(tmp_path).locked():
        pass


def test_an_unknown_holder_is_still_a_holder(tmp_path: Path) -> None:
    with holder(tmp_path):
        (tmp_path / ".lock").write_text("")
        with pytest.raises(WorkspaceBusyError, match="unknown process"), Workspace(tmp_path).locked():
            pass


def test_a_workspace_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WorkspaceError, match=r"cannot use the workspace .*file/ws: .*choose another"),
        Workspace(tmp_path / "file" / "ws").locked(),
    ):
        pass
