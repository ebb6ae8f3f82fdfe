"""Lines on file descriptor 2 pass the filter, except TensorFlow's start-up notes."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import os, sys
from gifdex.jobs.native_logs import filtered_stderr
with filtered_stderr() as original:
    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n")
    os.write(2, b"I0000 00:00:1795313315.057895    6203 port.cc:153] oneDNN custom operations are on.\\n")
    os.write(2, b"E0000 00:00:1795313315.057895    6203 cuda_platform.cc:52] failed call to cuInit: INTERNAL\\n")
    os.write(2, b"E0000 00:00:1795313315.057895    6203 allocator.cc:1] out of memory\\n")
    print("from Python", file=sys.stderr)
    os.write(original, b"unfiltered\\n")
os.write(2, b"I0000 00:00:1 after\\n")
"""


def test_only_the_start_up_notes_are_dropped() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert sorted(done.stderr.splitlines()) == [
        "E0000 00:00:1795313315.057895    6203 allocator.cc:1] out of memory",
        "I0000 00:00:1 after",
        "from Python",
        "unfiltered",
    ]
