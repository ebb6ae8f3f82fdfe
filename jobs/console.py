"""Console output: progress and messages on stderr, tables on stdout."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TextIO

import click
from rich import progress as bars
from rich.console import Console
from rich.table import Table

from gifdex.jobs.native_logs import filtered_stderr
from gifdex.schemas.files import is_url
from gifdex.schemas.progress import Progress

# Stages whose progress counts GIFs; for others only the time left is shown.
_COUNTS_GIFS = {"scan", "encode", "embed", "index"}
# Without a terminal, one line of progress this often: enough for a log to show that the job is alive.
_LOG_SECONDS = 15.0


class PathOption(click.Path):
    """A non-empty path: an unset variable in a script must not mean the current folder."""

    def __init__(self, *, file_okay: bool = True) -> None:
        super().__init__(file_okay=file_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty string; leave the rest to click."""
        if value == "":
            self.fail("the path is empty; expected a file or a folder", param, ctx)
        return super().convert(value, param, ctx)


class PlaceOption(PathOption):
    """A non-empty path, or a URL such as s3://bucket/ws, which stays a string."""

    def __init__(self, *, file_okay: bool = False) -> None:
        super().__init__(file_okay=file_okay)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a URL unchanged; convert a path."""
        return value if is_url(value) else super().convert(value, param, ctx)


def print_json(value: Mapping[str, Any]) -> None:
    """Write one JSON object on one line of stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def print_table(table: Table) -> None:
    """Write a table to stdout; if that is not a terminal, as wide as needed."""
    console = Console()
    width = console.width if console.is_terminal else 200
    # File names and messages are plain text, even with brackets and colons.
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)


def table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """Return an empty table; the columns in `numbers` align right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    return made


def pairs_table(rows: Mapping[str, Any]) -> Table:
    """Return a table of names and values."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for name, value in rows.items():
        made.add_row(name, str(value))
    return made


@contextmanager
def notice_after(seconds: float, sentence: str | None) -> Iterator[None]:
    """Write a sentence to stderr if the block runs longer than this; None writes nothing."""
    if sentence is None:
        yield
        return
    timer = threading.Timer(seconds, click.echo, [f"gifdex: {sentence}"], {"err": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class StageProgress:
    """Shows each stage's progress, rate and time left: bars on a terminal, otherwise a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = bars.Progress(
            bars.TextColumn("{task.description:<10}"),
            bars.BarColumn(bar_width=30),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[rate]}"),
            bars.TimeRemainingColumn(),
            console=console,
            transient=False,
        )
        self._tasks: dict[str, Any] = {}
        self._started: dict[str, float] = {}
        self._logged: dict[str, float] = {}

    def stage(self, name: str, done: int, total: int) -> None:
        """Show progress; called a few times per second. A stage with nothing to do is not shown."""
        if not total:
            return
        now = time.monotonic()
        elapsed = now - self._started.setdefault(name, now)
        rate = done / elapsed if done and elapsed > 0 else 0.0
        if self._console.is_terminal:
            shown = f"{rate:,.1f} GIFs/s" if rate and name in _COUNTS_GIFS else ""
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total, rate=shown)
            self._bars.update(self._tasks[name], completed=done, total=total, rate=shown)
        elif self._is_due(name, now, done >= total):
            left = f", {(total - done) / rate:,.0f} s left" if rate and done < total else ""
            speed = f", {rate:,.1f} GIFs/s" if rate and name in _COUNTS_GIFS else ""
            click.echo(f"{name}: {done:,} of {total:,}{speed}{left}", err=True)

    def _is_due(self, stage: str, now: float, ended: bool) -> bool:
        """Tell whether to write a line: the stage has just ended, or the last line was long ago."""
        last = self._logged.setdefault(stage, now)
        if last == math.inf or not (ended or now - last >= _LOG_SECONDS):
            return False
        self._logged[stage] = math.inf if ended else now
        return True

    def notice(self, sentence: str) -> None:
        """Print a sentence between the bars."""
        self._console.print(f"gifdex: {sentence}", markup=False, highlight=False, soft_wrap=True)

    def event(self, event: str, level: str = "info", **details: Any) -> None:
        """Ignore it: the final table or the error is enough for people."""

    @contextmanager
    def shown(self) -> Iterator[StageProgress]:
        """Draw while the block runs."""
        if not self._console.is_terminal:
            yield self
            return
        with self._bars:
            yield self


class Reporter(Progress, Protocol):
    """Receives what a long job reports: progress, notices, and events with their details."""

    def event(self, event: str, level: str = "info", **details: Any) -> None:
        """Report something that happened."""


class JsonLog:
    """Writes what a job reports as JSON, one object per line, with the time and a level."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stages: dict[str, tuple[float, float]] = {}  # times of the start and of the last line
        self._lock = threading.Lock()

    def stage(self, name: str, done: int, total: int) -> None:
        """Write a line when a stage begins and ends, and now and then in between."""
        now = time.monotonic()
        began, last = self._stages.get(name, (now, -math.inf))
        ended = done >= total
        if last == math.inf or not total or not (ended or now - last >= _LOG_SECONDS):
            return
        self._stages[name] = began, math.inf if ended else now
        self.event("progress", stage=name, done=done, total=total, seconds=round(now - began, 3))

    def notice(self, sentence: str) -> None:
        """Write a warning."""
        self.event("notice", level="warning", message=sentence)

    def event(self, event: str, level: str = "info", **details: Any) -> None:
        """Write a line."""
        time_ = datetime.now(UTC).isoformat("T", "milliseconds")
        line = json.dumps({"time": time_, "level": level, "event": event, **details}, ensure_ascii=False)
        with self._lock:  # progress comes from another thread
            self._stream.write(line + "\n")
            self._stream.flush()


@contextmanager
def _ending_at_once(descriptor: int) -> Iterator[None]:
    """While the block runs, let Ctrl-C end the process at once, with one sentence on `descriptor`.

    Beam and TensorFlow may wrap or lose an exception. Ending at once is safe: files are written so that they survive a
    kill at any moment.
    """

    def end(*_: object) -> None:
        show_cursor = b"\x1b[?25h\n" if os.isatty(descriptor) else b""
        os.write(descriptor, show_cursor + b"gifdex: interrupted; finished work is kept: run again to continue\n")
        os._exit(128 + signal.SIGINT)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stage_progress(verbose: bool, *, log_json: bool = False) -> Iterator[Reporter]:
    """Yield a reporter; unless `verbose`, the warnings and logs of libraries are hidden.

    With `log_json` it writes JSON lines instead of bars and sentences.
    """
    logging.getLogger().setLevel(logging.INFO if verbose else logging.ERROR)
    # Beam logs a task's exception with a traceback; the run ends with it as one sentence anyway.
    logging.getLogger("apache_beam").setLevel(logging.INFO if verbose else logging.CRITICAL)
    with ExitStack() as stack:
        descriptor = 2 if verbose else stack.enter_context(filtered_stderr())
        stack.enter_context(_ending_at_once(descriptor))
        stream = stack.enter_context(open(descriptor, "w", closefd=False, encoding="utf-8"))
        if log_json:
            yield JsonLog(stream)
        else:
            yield stack.enter_context(StageProgress(Console(file=stream)).shown())
