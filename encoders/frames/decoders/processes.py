"""Decode in a process of its own what may hang, crash or fill the memory, so that it costs one file.

Files whose structure is in order are decoded by loops that check every index, in the worker's own threads.
Everything else goes through here: GIFs with something odd in their structure, and every format that a large C
library parses. A process serves one caller at a time over a pipe of its own, so one that dies, or is killed for being
late, costs no other call (docs/dependencies.md says why this is no library's pool).
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

# A process looks at its own budget between frames; only one that does not come to that is killed, this much later.
GRACE_SECONDS = 2.0
# How long a process may take to start on a machine with a lot else to do.
_START_SECONDS = 120.0
# What a process may allocate: the libraries' own, and for each pixel of the largest canvas a few RGBA copies.
_MEMORY_BYTES, _MEMORY_BYTES_A_PIXEL = 256 * 1024**2, 32


def _limit_memory(allowed: int) -> None:
    """Make the allocation beyond `allowed` bytes fail."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (allowed, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    except (ImportError, ValueError, OSError):
        pass  # some systems have no such limit; the ones on pixels still hold


def _serve(calls: Connection) -> None:
    """Answer calls until the other end of the pipe is closed; what a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # libraries print what they think of hostile bytes; what counts comes back as an error
    os.dup2(nowhere, 2)
    calls.send(True)
    while True:
        try:
            allowed_seconds, allowed_bytes, function, arguments = calls.recv()
        except EOFError:
            return
        _limit_memory(allowed_bytes)
        # For when its parent is gone and cannot kill it. Its own signal, since a library may keep Python from running.
        signal.setitimer(signal.ITIMER_REAL, allowed_seconds + GRACE_SECONDS)
        try:
            answer = True, function(*arguments)
        except BaseException as err:  # noqa: BLE001  # it is raised where the call came from
            answer = False, err
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            calls.send(answer)
        except (TypeError, AttributeError, pickle.PicklingError) as err:
            calls.send((False, DecodeError(f"the decoder's answer cannot be sent: {type(err).__name__}: {err}")))


class _LostError(Exception):
    """The process died."""


class _LateError(Exception):
    """The process did not answer in time."""


class _Process:
    """One process, for one caller at a time."""

    def __init__(self) -> None:
        # Not forked: a copy of a process with threads may hang on a lock that is never released.
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
        if status == 1:  # Python's own, for an error while it starts
            raise PipelineError(
                "no decoding process could be started; a script that builds an index must do so below "
                "if __name__ == '__main__', as for every use of Python's multiprocessing"
            )
        raise DecodeError(f"the decoder died while it started (exit status {status})", lasting=False)

    def stop(self) -> int | None:
        """End it, if it has not ended; return its exit status, negative where a signal ended it."""
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
    """Decoding processes: started as they are needed, at most `count`, and kept until `close`.

    They belong to whoever made this object.

    Safe to call from several threads. A fork starts anew: it must not talk through its parent's pipes. `grace_seconds`
    is how long after its time a process is killed.
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
        # At the end of Python they end by themselves, as soon as their pipes are closed.
        self._finalizer.atexit = False

    def run(self, limits: Limits, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Return `function(*arguments)` as another process computes it within the limits on seconds and memory.

        Raises what the function raises, LimitError where it takes too long, DecodeError where its process dies, and
        PipelineError where no process can be started.
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
        """Return whether a call succeeded, and what it returned or raised; a process that fails it is stopped."""
        allowed = max(limits.seconds, 0.0) + self._grace_seconds
        memory = _MEMORY_BYTES + _MEMORY_BYTES_A_PIXEL * limits.pixels
        try:
            return process.call(allowed, memory, *call)
        except _LateError as err:
            process.stop()
            message = (
                f"decoding it was not over after {allowed:g} seconds, above the limit seconds of {limits.seconds:g}"
            )
            raise LimitError(message, lasting=False) from err
        except _LostError as err:
            raise DecodeError(f"the decoder died on it (exit status {process.stop()})", lasting=False) from err
        except BaseException:  # Ctrl-C, or an answer that cannot be read
            process.stop()
            raise

    def close(self) -> None:
        """End the processes that are not at work; it may be used again, which starts new ones."""
        with self._lock:
            idle, self._idle[:] = list(self._idle), []
        _stop_all(idle, self._owner)


def _stop_all(idle: list[_Process], owner: int) -> None:
    """End processes, where this is the process that started them and no fork of it."""
    if owner == os.getpid():
        for process in idle:
            process.stop()
