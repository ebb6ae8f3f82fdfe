"""Mutate real files and decode the mutants, in a separate process so that its memory can be measured.

Prints one JSON object. test_fuzzing.py runs it; to run it by hand: python fuzz_decoding.py 1000 FILE... With 0
mutants, it decodes the files as they are.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gifdex.encoders.frames.decode import FrameDecoder
from gifdex.encoders.frames.decoders import registry
from gifdex.encoders.frames.limits import SAMPLING_STRATEGIES, Limits, Sampling
from gifdex.schemas.errors import DecodeError, LimitError

# Changes to a file: kind, place, number of bytes, byte value. Half of the places are near the start, because headers,
# color tables and block sizes are a small part of a file but cause most failures.
decode = FrameDecoder()
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["byte"] * 8 + ["zeros", "ones", "control", "cut", "repeat", "end", "splice"]),
        st.one_of(st.integers(0, 2**22), st.integers(0, 900)),
        st.integers(1, 400),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=8,
)
PLACES = st.integers(0, 2**16)
WORDS = {"zeros": b"\0\0\0\0", "ones": b"\xff\xff\xff\xff", "control": b"\x21\xf9\x04\x0d"}


def mutant(whole: bytes, other: bytes, changes: list[tuple[str, int, int, int]]) -> bytes:
    data = bytearray(whole)
    for how, where, count, value in changes:
        if len(data) < 8:
            break
        place = where % len(data)
        if how == "byte":
            data[place] = value
        elif how in WORDS:
            data[place : place + 4] = WORDS[how]
        elif how == "cut":
            del data[place : place + count]
        elif how == "repeat":
            data[place:place] = data[place : place + count]
        elif how == "end":
            del data[place:]
        else:
            data[place : place + count] = other[place : place + count]
    return bytes(data)


def _highest_mib(process: int) -> float:
    """Return a process's peak memory from /proc; getrusage would include the process that forked it."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


class Watcher:
    """Decodes files and records the outcomes."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.dead: list[str] = []
        self.slow: list[str] = []
        self.slowest_s = 0.0
        self.peak_mib = 0.0

    def decode(self, data: bytes, strategy: str) -> None:
        started = time.monotonic()
        try:
            sampled = decode(data, Sampling(strategy=strategy), (224, 224), Limits())
        except DecodeError as err:
            self.outcomes[type(err).__name__] += 1
            if "died" in str(err):
                self.dead.append(str(err))
            if isinstance(err, LimitError) and "seconds" in str(err):
                self.slow.append(str(err))
        else:
            self.outcomes["item" if sampled.damage is None else "partial"] += 1
            assert sampled.frames.shape[1:] == (224, 224, 3)
            assert sampled.frames.dtype == np.uint8
            assert 1 <= len(sampled.frames) == len(sampled.weights) <= Sampling(strategy=strategy).count
            assert abs(float(sampled.weights.sum()) - 1) < 1e-5
        self.slowest_s = max(self.slowest_s, time.monotonic() - started)
        if self.outcomes.total() % 10 == 0:
            self.measure_memory()

    def measure_memory(self) -> None:
        """Add up the peaks of this process and the decoder's processes, as if all came at the same time."""
        this = psutil.Process()
        family = [this, *this.children(recursive=True)]
        self.peak_mib = max(self.peak_mib, sum(_highest_mib(process.pid) for process in family))


def fuzz(watcher: Watcher, count: int, files: list[bytes]) -> None:
    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.tuples(PLACES, PLACES), CHANGES, st.sampled_from(list(SAMPLING_STRATEGIES)))
    def every_outcome_is_frames_or_a_reject(
        chosen: tuple[int, int], changes: list[tuple[str, int, int, int]], strategy: str
    ) -> None:
        one, other = (files[number % len(files)] for number in chosen)
        watcher.decode(mutant(one, other, changes), strategy)

    every_outcome_is_frames_or_a_reject()


def main() -> None:
    count, files = int(sys.argv[1]), [Path(path).read_bytes() for path in sys.argv[2:]]
    registry.decoder_for(b"GIF89a")  # compiles the decoder
    watcher = Watcher()
    if count:
        fuzz(watcher, count, files)
    else:
        for data in files:
            watcher.decode(data, "uniform")
    watcher.measure_memory()
    sys.stdout.write(json.dumps({**vars(watcher), "files": watcher.outcomes.total()}))


if __name__ == "__main__":
    main()
