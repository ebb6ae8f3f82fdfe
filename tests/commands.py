"""Run `gifdex` and scripts in processes of their own that start warm.

A command spends seconds on importing TensorFlow and Beam and on loading the text encoder. Here one process does that
once and forks a child for each command. The child has its own arguments, folder, environment, stdout, stderr and exit
code, and runs what `gifdex` runs. `run_cold` starts a new interpreter, as users do.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
# Set in a quick run, which imports neither TensorFlow nor Beam.
QUICK = "GIFDEX_TESTS_QUICK"
Finished = subprocess.CompletedProcess[str]


def run(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Finished:
    """Run a command to its end, in a child of the warm process."""
    return _warm().run(["gifdex", *map(str, arguments)], cwd or Path.cwd(), {**_environment(), **(env or {})})


def run_script(path: Path, *arguments: object) -> Finished:
    """Run a Python file to its end, in a child of the warm process."""
    return _warm().run([str(path), *map(str, arguments)], Path.cwd(), _environment())


def run_cold(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Finished:
    """Run a command to its end, in a new interpreter."""
    command = [sys.executable, "-m", "gifdex", *map(str, arguments)]
    environment = {**_environment(), **(env or {})}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def _environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "120"}


class _Warm:
    """A process that has imported what commands import."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.commands import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def run(self, arguments: list[str], cwd: Path, environment: Mapping[str, str]) -> Finished:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with TemporaryDirectory() as folder:
            paths = [Path(folder, name) for name in ("stdout", "stderr")]
            request = [arguments, str(cwd), dict(environment), *map(str, paths)]
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(arguments, code, *(path.read_text() for path in paths))


@cache
def _warm() -> _Warm:
    return _Warm()


def serve() -> None:
    """Answer each line of stdin, a command, with a line of its exit code, until stdin ends."""
    from gifdex.encoders.registry import text_encoder

    text_encoder()(["ready"])
    if QUICK not in os.environ:
        from gifdex.encoders.tensorflow.runtime import import_tensorflow

        import_tensorflow("a test")
    for name in ("gifdex.jobs.demo", "gifdex.jobs.nightly", "gifdex.jobs.search", "gifdex.pipeline.nightly"):
        if QUICK not in os.environ or ".jobs." in name:
            importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _become(*json.loads(line))
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        sys.stdout.flush()


def _become(arguments: list[str], cwd: str, environment: dict[str, str], stdout: str, stderr: str) -> NoReturn:
    """Run a command in this process, and end it."""
    for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, stdout, os.O_WRONLY), (2, stderr, os.O_WRONLY)):
        opened = os.open(path, flags | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = arguments
    code = 1
    try:
        if arguments[0] == "gifdex":
            runpy.run_module("gifdex", run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(arguments[0]).parent))
            runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 0
    except BaseException:  # noqa: BLE001  # as the interpreter does
        traceback.print_exc()
    # As the interpreter ends, but without a second for taking TensorFlow's modules to pieces.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
