"""Run self-contained tasks on Beam, and check what they left against what was planned.

A task names the one file that it commits, so that what has been done can be seen from outside on every
runner: for progress while it runs, and for the check afterwards. A runner's DONE is no proof.
"""

from __future__ import annotations

import io
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from gifdex.schemas.errors import BeamOptionsError, GifdexError, PipelineError
from gifdex.schemas.progress import QUIET, Progress

# Named explicitly: Beam's default runner first looks for a program to download.
_LOCAL_RUNNER = "--runner=FnApiRunner"
_POLL_SECONDS = 0.2
# Beam makes another exception of what a task raises, with this at the end of its message.
_WHERE = " [while running '"
# "gifdex.schemas.errors.EncoderError: ..."
_REMOTE = re.compile(r"[A-Za-z_][\w.]*: ")


class Task(Protocol):
    """One unit of work: what it commits, and how many items it stands for."""

    @property
    def output(self) -> Path:
        """The file whose presence says that the task is done."""

    @property
    def items(self) -> int:
        """How many items it stands for."""


def pipeline_options(arguments: Sequence[str]) -> PipelineOptions:
    """Return Beam's options from its own flags, on FnApiRunner unless they name another runner.

    Raises BeamOptionsError for what Beam cannot parse and, on FnApiRunner, for what it does not know; a job
    server may know more flags than we do.
    """
    named = any(a == "--runner" or a.startswith("--runner=") for a in arguments)
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):  # argparse prints before it exits
            options = PipelineOptions([*arguments] if named else [_LOCAL_RUNNER, *arguments])
            known = options.get_all_options()
            unknown = sorted(set(options.get_all_options(retain_unknown_options=True)) - set(known))
    except SystemExit as err:
        reason = (said.getvalue().strip().splitlines() or ["no reason given"])[-1]
        raise BeamOptionsError(f"Beam cannot use the options {' '.join(arguments)!r}: {reason}") from err
    stray = [
        argument
        for before, argument in itertools.pairwise(["", *arguments])
        if not argument.startswith("-") and (not before.startswith("-") or "=" in before)
    ]
    if stray or (unknown and str(known["runner"]).rpartition(".")[2] == _LOCAL_RUNNER.partition("=")[2]):
        found = repr(stray[0]) if stray else f"--{unknown[0]}"
        raise BeamOptionsError(f"{found} is no option of Beam; expected flags such as --runner=FlinkRunner after --")
    return options


def run_tasks(
    stage: str, tasks: Sequence[Task], worker: Callable[[], Any], options: Sequence[str], progress: Progress = QUIET
) -> None:
    """Run `worker()`, a DoFn, over every task on Beam and wait; raises PipelineError where the runner fails.

    A GifdexError or an OSError of a task comes out as itself, where the runner leaves it whole.

    `progress` counts the items of tasks whose output is there.
    """
    total = sum(task.items for task in tasks)
    progress.stage(stage, 0, total)
    if not tasks:
        return
    with _watching(stage, tasks, progress):
        try:
            with beam.Pipeline(options=pipeline_options(options)) as pipeline:
                _ = (
                    pipeline
                    | f"{stage}: tasks" >> beam.Create(list(tasks))
                    | f"{stage}: distribute" >> beam.Reshuffle()
                    | f"{stage}: run" >> beam.ParDo(worker())
                )
        except Exception as err:  # runners raise what they like
            if (raised := _raised(err)) is not None:
                raise raised from None
            raise PipelineError(
                f"the {stage} pipeline failed with {type(err).__name__}: {_reason(err)[:300]}; what was committed is "
                "kept: fix the cause and run again, with --verbose to see what Beam logs"
            ) from err
    missing = [task for task in tasks if not task.output.is_file()]
    if missing:
        raise PipelineError(
            f"the {stage} pipeline ended, but {len(missing)} of {len(tasks)} tasks left no result (the first: "
            f"{missing[0].output}): run again, what was committed is kept"
        )
    progress.stage(stage, total, total)


def _reason(err: Exception) -> str:
    """Return the line that says why: the first, or, of another process's traceback, the one after the stack."""
    lines = str(err).strip().splitlines() or ["no reason given"]
    if lines[0].startswith("Traceback"):
        lines = [line for line in lines[1:] if _REMOTE.match(line)][-1:] or lines
    return lines[0].partition(_WHERE)[0]


def _raised(err: BaseException) -> GifdexError | OSError | None:
    """Return what a task raised on purpose, or for a disk, as it was before a runner in this process appended where."""
    at: BaseException | None = err
    while at is not None:
        if isinstance(at, (GifdexError, OSError)) and _WHERE not in str(at):
            return at
        at = at.__cause__ or at.__context__
    return None


@contextmanager
def _watching(stage: str, tasks: Sequence[Task], progress: Progress) -> Iterator[None]:
    """Report finished tasks from a thread, since a local runner gives control back only at its end."""
    ended = threading.Event()
    total = sum(task.items for task in tasks)

    def watch() -> None:
        waiting = list(tasks)
        pause = _POLL_SECONDS
        while not ended.wait(pause):
            started = time.monotonic()
            waiting = [task for task in waiting if not task.output.is_file()]
            progress.stage(stage, total - sum(task.items for task in waiting), total)
            # Of very many tasks, or on a slow filesystem: at most a twentieth of a processor goes into looking.
            pause = max(_POLL_SECONDS, 20 * (time.monotonic() - started))

    thread = threading.Thread(target=watch, name=f"gifdex-{stage}-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
