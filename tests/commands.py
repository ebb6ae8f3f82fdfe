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
_ENVIRONMENT = dict(os.environ)


def run(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Finished:
    """Run a command to its end, in a child of the warm process.

    `env` may change what commands read when they run, not what Python or TensorFlow reads when it starts.
    """
    return _run_warm(["gifdex", *map(str, arguments)], cwd, env)


def run_script(path: Path, *arguments: object) -> Finished:
    """Run a Python file to its end, in a child of the warm process."""
    return _run_warm([str(path), *map(str, arguments)], None, None)


def run_cold(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, stdin: Path | None = None
) -> Finished:
    """Run a command to its end, in a new interpreter; `stdin` is a file that it reads."""
    command = [sys.executable, "-m", "gifdex", *map(str, arguments)]
    environment = {**_environment(), **(env or {})}
    with (stdin or Path(os.devnull)).open("rb") as given:
        return subprocess.run(
            command, stdin=given, capture_output=True, text=True, cwd=cwd, env=environment, check=False
        )


def _environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "120"}


class _Warm:
    """A process that has imported what commands import, in the environment that this module was imported in."""

    def __init__(self) -> None:
        self._requests = 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.commands import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**_ENVIRONMENT, **{name: os.environ[name] for name in (QUICK, "PYTHONPATH") if name in os.environ}},
        )

    def run(self, arguments: list[str], cwd: Path, environment: Mapping[str, str]) -> Finished:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests += 1
        with TemporaryDirectory() as folder:
            paths = [Path(folder, name) for name in ("stdout", "stderr")]
            request = [self._requests, arguments, str(cwd), dict(environment), *map(str, paths)]
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError(f"the warm process has ended with {self._process.wait()}")
            number, code = map(int, line.split())
            assert number == self._requests
            return subprocess.CompletedProcess(arguments, code, *(path.read_text() for path in paths))

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@cache
def _warm() -> _Warm:
    return _Warm()


def _run_warm(arguments: list[str], cwd: Path | None, env: Mapping[str, str] | None) -> Finished:
    try:
        return _warm().run(arguments, cwd or Path.cwd(), {**_environment(), **(env or {})})
    except BaseException:  # a test's timeout too, after which the answers would belong to other requests
        _warm().stop()
        _warm.cache_clear()
        raise


def serve() -> None:
    """Answer each line of stdin, a numbered command, with a line of that number and its exit code."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # imports may print
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
        number, *request = json.loads(line)
        pid = os.fork()
        if not pid:
            answers.close()
            _become(*request)
        answers.write(f"{number} {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        answers.flush()


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
            sys.path[0] = str(Path(arguments[0]).parent)
            runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001  # as the interpreter does
        traceback.print_exc()
    # As the interpreter ends, but without a second for taking TensorFlow's modules to pieces.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
