"""Decode in a process of its own what may hang, crash or fill the memory, so that it costs one file.

Files whose structure is in order are decoded by loops that check every index, in the worker's own threads.
Everything else goes through here: GIFs with something odd in their structure, and every format that a large C
library parses. A process takes a file at a time; one that dies or is over its time is killed and replaced.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from gifdex.encoders.base import available_cpus
from gifdex.schemas.errors import DecodeError, LimitError, PipelineError

_Result = TypeVar("_Result")

# A process looks at its own clock between frames; only one that does not come to that is killed, this much later.
_GRACE_SECONDS = 2.0
# What one process may allocate: a canvas at the default limit a few times over, and the libraries' own.
_MEMORY_BYTES = 2 * 1024**3

_watched = False
_lock = threading.Lock()
_pool: tuple[int, ProcessPool] | None = None


def is_watched() -> bool:
    """Tell whether this is one of the watchdog's processes."""
    return _watched


def _begin() -> None:
    """Run first in every process."""
    global _watched
    _watched = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    warnings.simplefilter("ignore")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # libraries print what they think of hostile bytes; what counts comes back as an error
    os.dup2(nowhere, 2)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    except (ImportError, ValueError, OSError):
        pass  # some systems have no such limit; the ones on pixels still hold


def _processes() -> ProcessPool:
    """Return this process's pool, started at the first file that needs it."""
    global _pool
    with _lock:
        if _pool is None or _pool[0] != os.getpid() or not _pool[1].active:
            # Not forked: a copy of a process with threads may hang on a lock that nobody will open.
            context = multiprocessing.get_context("spawn")
            _pool = (os.getpid(), ProcessPool(max_workers=available_cpus(), initializer=_begin, context=context))
        return _pool[1]


def run(seconds: float, function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Return `function(*arguments)` as another process computes it within `seconds`.

    Raises what the function raises, LimitError where it takes too long, DecodeError where its process dies, and
    PipelineError where no process can be started.
    """
    allowed = max(seconds, 0.0) + _GRACE_SECONDS
    try:
        return _processes().schedule(function, args=arguments, timeout=allowed).result()
    except FutureTimeoutError as err:
        message = f"decoding it took more than {allowed:g} seconds, above the limit seconds of {seconds:g}"
        raise LimitError(message, lasting=False) from err
    except ProcessExpired as err:
        raise DecodeError(f"the decoder died on it (exit status {err.exitcode})", lasting=False) from err
    except BrokenProcessPool as err:
        raise PipelineError(
            "no decoding process could be started; a script that builds an index must do so below "
            "if __name__ == '__main__', as for every use of Python's multiprocessing"
        ) from err
