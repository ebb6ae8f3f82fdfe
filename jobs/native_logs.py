"""Hide what TensorFlow's C++ part logs at start-up.

TensorFlow 2.21 prints notes on oneDNN and CUDA to file descriptor 2 before it reads its settings for log levels. So
these lines are filtered out of stderr; every other line passes unchanged.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Lines of level info or warning ("I0000 00:00:1795313315.05 6203 port.cc:153] ..."), the note that precedes them, and
# the harmless error on a machine without a GPU.
_NOISE = re.compile(
    rb"WARNING: All log messages before absl::|[IW]\d{4} \d\d:\d\d:\d+|E\d{4} \S+ +\d+ cuda_\w+\.cc.*cuInit"
    rb"|To enable the following instructions: "
)


@contextmanager
def filtered_stderr() -> Iterator[int]:
    """Filter file descriptor 2 while the block runs; yield a descriptor of the unfiltered one."""
    sys.stderr.flush()
    original = os.dup(2)
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    thread = threading.Thread(target=_pump, args=(reader, original), name="gifdex-stderr", daemon=True)
    thread.start()
    try:
        yield original
    finally:
        sys.stderr.flush()
        os.dup2(original, 2)  # closes the pipe's last writer, so the thread ends
        thread.join(timeout=5)
        os.close(original)


def _pump(reader: int, target: int) -> None:
    with os.fdopen(reader, "rb") as lines:
        for line in lines:
            if not _NOISE.match(line):
                os.write(target, line)
