"""Run self-contained tasks on Beam, and check their results against the plan.

A task names the one file that it commits, so progress is visible on every runner, and results can be checked
afterwards: a runner's DONE does not prove that every task succeeded.
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

# Named explicitly, because Beam's default runner first tries to download a program.
_LOCAL_RUNNER = "--runner=FnApiRunner"
_POLL_SECONDS = 0.2
# Beam wraps a task's exceptions and appends this to the message.
_WHERE = " [while running '"
# "gifdex.schemas.errors.EncoderError: ..."
_REMOTE = re.compile(r"[A-Za-z_][\w.]*: ")


class Task(Protocol):
    """One unit of work: the file that it commits, and its number of items."""

    @property
    def output(self) -> Path:
        """The file that exists when the task is done."""

    @property
    def items(self) -> int:
        """Its number of items."""


def pipeline_options(arguments: Sequence[str]) -> PipelineOptions:
    """Parse Beam's flags; the default runner is FnApiRunner.

    Raises BeamOptionsError for flags that Beam cannot parse and, on FnApiRunner, for unknown ones; job servers may have
    more flags.
    """
    named = any(a == "--runner" or a.startswith("--runner=") for a in arguments)
    output = io.StringIO()
    try:
        with redirect_stdout(output), redirect_stderr(output):  # argparse prints before it exits
            options = PipelineOptions([*arguments] if named else [_LOCAL_RUNNER, *arguments])
            known = options.get_all_options()
            unknown = sorted(set(options.get_all_options(retain_unknown_options=True)) - set(known))
    except SystemExit as err:
        reason = (output.getvalue().strip().splitlines() or ["no reason given"])[-1]
        raise BeamOptionsError(f"Beam cannot use the options {' '.join(arguments)!r}: {reason}") from err
    stray = [
        argument
        for before, argument in itertools.pairwise(["", *arguments])
        if not argument.startswith("-") and (not before.startswith("-") or "=" in before)
    ]
    if stray or (unknown and str(known["runner"]).rpartition(".")[2] == _LOCAL_RUNNER.partition("=")[2]):
        found = repr(stray[0]) if stray else f"--{unknown[0]}"
        raise BeamOptionsError(f"Beam does not know {found}; expected flags such as --runner=FlinkRunner after --")
    return options


def run_tasks(
    stage: str, tasks: Sequence[Task], worker: Callable[[], Any], options: Sequence[str], progress: Progress = QUIET
) -> None:
    """Run `worker()`, a DoFn, over every task on Beam and wait; raises PipelineError if the runner fails.

    Re-raises a task's GifdexError or OSError if the runner preserves it. `progress` counts the items of tasks whose
    output exists.
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
        except Exception as err:  # runners may raise anything
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
            f"{missing[0].output}): run again; what was committed is kept"
        )
    progress.stage(stage, total, total)


def _reason(err: Exception) -> str:
    """Return the line with the reason: the first, or the one after the stack in another process's traceback."""
    lines = str(err).strip().splitlines() or ["no reason given"]
    if lines[0].startswith("Traceback"):
        lines = [line for line in lines[1:] if _REMOTE.match(line)][-1:] or lines
    return lines[0].partition(_WHERE)[0]


def _raised(err: BaseException) -> GifdexError | OSError | None:
    """Return a task's GifdexError or OSError without the text that a runner in this process appended."""
    at: BaseException | None = err
    while at is not None:
        if isinstance(at, (GifdexError, OSError)) and _WHERE not in str(at):
            return at
        at = at.__cause__ or at.__context__
    return None


@contextmanager
def _watching(stage: str, tasks: Sequence[Task], progress: Progress) -> Iterator[None]:
    """Report finished tasks from a thread, because a local runner blocks until its end."""
    ended = threading.Event()
    total = sum(task.items for task in tasks)

    def watch() -> None:
        waiting = list(tasks)
        pause = _POLL_SECONDS
        while not ended.wait(pause):
            started = time.monotonic()
            waiting = [task for task in waiting if not task.output.is_file()]
            progress.stage(stage, total - sum(task.items for task in waiting), total)
            # With many tasks or a slow filesystem, use at most a twentieth of a processor for this.
            pause = max(_POLL_SECONDS, 20 * (time.monotonic() - started))

    thread = threading.Thread(target=watch, name=f"gifdex-{stage}-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
