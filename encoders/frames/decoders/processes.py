"""Decode risky files in separate processes, so that a hang, a crash or full memory costs only one file.

GIFs with an ordinary structure are decoded in the worker's own threads, by loops that check every index. Everything
else goes through here: GIFs with an odd structure, and every format that a large C library parses. A process serves
one caller at a time over its own pipe, so a process that dies, or is killed after a timeout, affects no other call
(docs/dependencies.md says why this is not a library's pool).
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import warnings
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from gifdex.encoders.base import available_cpus
from gifdex.encoders.frames.limits import Limits
from gifdex.schemas.errors import DecodeError, LimitError, PipelineError

_Result = TypeVar("_Result")

# A process checks its budget between frames; one that does not get there is killed this much later.
GRACE_SECONDS = 2.0
# How long a process may take to start on a busy machine.
_START_SECONDS = 120.0
# How much memory a process may allocate: for the libraries, and a few RGBA copies of the largest canvas.
_MEMORY_BYTES, _MEMORY_BYTES_PER_PIXEL = 256 * 1024**2, 32


def _limit_memory(allowed: int) -> None:
    """Make allocations beyond `allowed` bytes fail."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (allowed, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    except (ImportError, ValueError, OSError):
        pass  # some systems have no such limit; the limits on pixels still apply


def _serve(calls: Connection) -> None:
    """Answer calls until the other end of the pipe is closed: the main function of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # libraries print warnings about hostile bytes; errors are returned over the pipe
    os.dup2(nowhere, 2)
    calls.send(True)
    while True:
        try:
            allowed_seconds, allowed_bytes, function, arguments = calls.recv()
        except EOFError:
            return
        _limit_memory(allowed_bytes)
        # In case the parent is gone. The signal kills the process even while a library keeps Python from running.
        signal.setitimer(signal.ITIMER_REAL, allowed_seconds + GRACE_SECONDS)
        try:
            answer = True, function(*arguments)
        except BaseException as err:  # noqa: BLE001  # raised again in the caller
            answer = False, err
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            calls.send(answer)
        except (TypeError, AttributeError, MemoryError, pickle.PicklingError) as err:
            calls.send((False, DecodeError(f"the decoder's answer cannot be sent: {type(err).__name__}: {err}")))


class _LostError(Exception):
    """The process died."""


class _LateError(Exception):
    """The process did not answer in time."""


class _Process:
    """One process, for one caller at a time."""

    def __init__(self) -> None:
        # Not forked: a fork of a process with threads may wait for a lock that is never released.
        context = multiprocessing.get_context("spawn")
        self._calls, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True, name="gifdex-decode")
        self._process.start()
        theirs.close()
        try:
            if self._calls.poll(_START_SECONDS) and self._calls.recv():
                return
        except (EOFError, OSError):
            pass
        status = self.stop()
        if status == 1:  # Python's exit status for an error during start-up
            raise PipelineError(
                "no decoding process could be started; a script that builds an index must do so below "
                "if __name__ == '__main__', as for every use of Python's multiprocessing"
            )
        raise DecodeError(f"the decoder died while it started (exit status {status})", lasting=False)

    def stop(self) -> int | None:
        """End it, if still running; return its exit status, negative if a signal ended it."""
        self._calls.close()
        self._process.join(0.2)
        self._process.kill()
        self._process.join()
        return self._process.exitcode

    def call(self, seconds: float, *call: Any) -> tuple[bool, Any]:
        """Return whether a call succeeded, and what it returned or raised."""
        try:
            self._calls.send((seconds, *call))
            if not self._calls.poll(seconds):
                raise _LateError
            answer: tuple[bool, Any] = self._calls.recv()
        except (EOFError, OSError) as err:
            raise _LostError from err
        return answer


class DecoderProcesses:
    """A pool of decoding processes: started on demand, at most `count`, kept until `close`.

    Safe to use from several threads. After a fork, the child starts processes of its own, because it must not use its
    parent's pipes. A process is killed `grace_seconds` after its time limit.
    """

    def __init__(self, count: int | None = None, grace_seconds: float = GRACE_SECONDS) -> None:
        self._count = count or available_cpus()
        self._grace_seconds = grace_seconds
        self._begin()

    def _begin(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(self._count)
        self._idle: list[_Process] = []
        self._finalizer = weakref.finalize(self, _stop_all, self._idle, self._owner)
        # When Python exits, their pipes close and they end by themselves.
        self._finalizer.atexit = False

    def run(self, limits: Limits, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Run `function(*arguments)` in another process, within the limits on seconds and memory.

        Raises what the function raises, LimitError if it takes too long, DecodeError if its process dies, and
        PipelineError if no process can be started.
        """
        if self._owner != os.getpid():
            self._begin()
        with self._slots:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            process = process or _Process()
            good, answer = self._call(process, limits, function, arguments)
            with self._lock:
                self._idle.append(process)
        if not good:
            raise answer
        return answer  # type: ignore[no-any-return]

    def _call(self, process: _Process, limits: Limits, *call: Any) -> tuple[bool, Any]:
        """Return whether a call succeeded, and what it returned or raised; stop a process that does not answer."""
        allowed = max(limits.seconds, 0.0) + self._grace_seconds
        memory = _MEMORY_BYTES + _MEMORY_BYTES_PER_PIXEL * limits.pixels
        try:
            return process.call(allowed, memory, *call)
        except _LateError as err:
            process.stop()
            message = (
                f"decoding did not finish within {allowed:g} seconds, above the limit seconds of {limits.seconds:g}"
            )
            raise LimitError(message, lasting=False) from err
        except _LostError as err:
            raise DecodeError(f"the decoder died on it (exit status {process.stop()})", lasting=False) from err
        except BaseException:  # Ctrl-C, or an answer that cannot be read
            process.stop()
            raise

    def close(self) -> None:
        """End the idle processes. A later call starts new ones."""
        with self._lock:
            idle, self._idle[:] = list(self._idle), []
        _stop_all(idle, self._owner)


def _stop_all(idle: list[_Process], owner: int) -> None:
    """End processes, unless this is a fork of the process that started them."""
    if owner == os.getpid():
        for process in idle:
            process.stop()
