from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from gifdex.encoders.frames.decode import FrameDecoder
from gifdex.encoders.frames.decoders.processes import DecoderProcesses, _Process
from gifdex.encoders.frames.limits import Limits, Sampling
from gifdex.schemas.errors import DecodeError, LimitError

if TYPE_CHECKING:
    from tests.encoders.frames.conftest import RawGif

pytestmark = pytest.mark.heavy  # these tests start and kill processes


LIMITS = Limits()
PROCESSES = DecoderProcesses()
decode = FrameDecoder(PROCESSES)


def processes() -> set[int]:
    """The ids of the decoding processes."""
    return {child.pid for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())}


def test_results_and_exceptions_come_back() -> None:
    assert PROCESSES.run(LIMITS, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        PROCESSES.run(LIMITS, divmod, 7, 0)
    assert PROCESSES.run(LIMITS, os.getpid) in processes()


def test_a_process_is_silent_and_leaves_ctrl_c_to_its_parent(capfd: pytest.CaptureFixture[str]) -> None:
    assert PROCESSES.run(LIMITS, os.write, 2, b"x" * 200_000) == 200_000
    assert PROCESSES.run(LIMITS, os.write, 1, b"x") == 1
    assert PROCESSES.run(LIMITS, signal.getsignal, signal.SIGINT) == signal.SIG_IGN
    assert capfd.readouterr() == ("", "")


def test_errors_keep_their_lasting_flag(raw_gif: RawGif) -> None:
    stray = raw_gif((4, 4), [b"junk", raw_gif.picture(raw_gif.solid(1))])
    for limits, lasting in ((Limits(seconds=-1.0), False), (Limits(pixels=15), True)):
        with pytest.raises(LimitError) as caught:
            decode(stray, Sampling(), (4, 4), limits)
        assert caught.value.lasting is lasting


def test_a_hanging_process_costs_only_its_file_and_is_replaced() -> None:
    processes = DecoderProcesses(grace_seconds=0.5)
    started = time.monotonic()
    with pytest.raises(LimitError, match=r"did not finish within 1 seconds, above the limit seconds of 0.5") as caught:
        processes.run(Limits(seconds=0.5), time.sleep, 60)
    assert time.monotonic() - started < 30
    assert not caught.value.lasting
    assert processes.run(LIMITS, divmod, 7, 2) == (3, 1)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_dying_process_costs_only_its_file_and_is_replaced(number: int) -> None:
    with pytest.raises(DecodeError, match=rf"the decoder died on it \(exit status -{number}\)") as caught:
        PROCESSES.run(LIMITS, _die, number)
    assert not caught.value.lasting
    assert PROCESSES.run(LIMITS, divmod, 7, 2) == (3, 1)


def _die(number: int) -> None:
    os.kill(os.getpid(), number)


def _die_soon(seconds: float) -> None:
    """Answer, then die a little later, as a process with a damaged heap does."""
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()


@pytest.mark.heavy
@pytest.mark.parametrize("calls", [80, pytest.param(400, marks=pytest.mark.slow)])
def test_a_death_between_calls_or_while_receiving_fails_no_other_call(calls: int) -> None:
    payload = bytes(3_000_000)

    def call(number: int) -> str:
        try:
            if number % 10 == 3:
                PROCESSES.run(LIMITS, _die_soon, 0.001 * (number % 7))
            elif number % 10 == 7:
                PROCESSES.run(LIMITS, _die, signal.SIGSEGV)
            else:
                assert PROCESSES.run(LIMITS, len, payload) == len(payload)
        except DecodeError as err:
            return str(err)
        return "good"

    with ThreadPoolExecutor(6) as pool:
        outcomes = Counter(pool.map(call, range(calls), timeout=200))
    # Each death fails at most one call.
    assert set(outcomes) <= {"good", *(f"the decoder died on it (exit status -{n})" for n in (9, 11))}
    assert outcomes["the decoder died on it (exit status -11)"] <= calls // 10
    assert outcomes["good"] >= calls - 2 * (calls // 10)
    assert PROCESSES.run(LIMITS, divmod, 7, 2) == (3, 1)


def test_a_hanging_process_ends_by_itself_when_its_parent_is_gone() -> None:
    process = _Process()
    process._calls.send((0.5, 2**30, time.sleep, (60,)))
    process._process.join(20)
    assert process._process.exitcode == -signal.SIGALRM


def test_an_answer_that_cannot_be_sent_is_an_error() -> None:
    with pytest.raises(DecodeError, match="the decoder's answer cannot be sent: "):
        PROCESSES.run(LIMITS, _nothing_to_send)
    assert PROCESSES.run(LIMITS, divmod, 7, 2) == (3, 1)


def _nothing_to_send() -> object:
    return lambda: None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit what a process allocates")
def test_a_process_that_uses_too_much_memory_is_stopped() -> None:
    with pytest.raises(MemoryError):
        PROCESSES.run(LIMITS, np.zeros, 3 * 2**30, np.uint8)


class NoProcesses(DecoderProcesses):
    def run(self, *_: Any) -> Any:
        raise AssertionError("a process was requested")


def test_only_odd_gifs_go_through_a_process(raw_gif: RawGif) -> None:
    here = FrameDecoder(NoProcesses())
    picture = raw_gif.picture(raw_gif.solid(1))
    here(raw_gif((4, 4), [picture]), Sampling(), (4, 4), Limits())
    with pytest.raises(AssertionError, match="a process was requested"):
        here(raw_gif((4, 4), [b"junk", picture]), Sampling(), (4, 4), Limits())


def test_the_processes_end_when_their_owner_is_closed_or_collected() -> None:
    with FrameDecoder(DecoderProcesses(1)) as closed:
        first = closed._processes.run(LIMITS, os.getpid)
        assert first in processes()
    assert first not in processes()
    assert closed._processes.run(LIMITS, os.getpid) in processes()  # it may be used again
    second = closed._processes.run(LIMITS, os.getpid)
    del closed
    gc.collect()
    assert second not in processes()


def test_a_fork_starts_its_own_processes() -> None:
    theirs = PROCESSES.run(LIMITS, os.getpid)
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(writing, str(PROCESSES.run(LIMITS, os.getpid)).encode())
            PROCESSES.close()
        finally:
            os._exit(0)
    os.close(writing)
    assert int(os.read(reading, 100)) != theirs
    os.close(reading)
    os.waitpid(child, 0)
    assert PROCESSES.run(LIMITS, os.getpid) == theirs


SCRIPT = """
import sys
from gifdex.encoders.frames.decode import FrameDecoder
from gifdex.encoders.frames.limits import Limits, Sampling
decode = FrameDecoder()
print(decode(open(sys.argv[1], "rb").read(), Sampling(), (4, 4), Limits()).damage, flush=True)
if len(sys.argv) > 2:
    sys.stdin.read()
"""


@pytest.fixture
def cut_gif(raw_gif: RawGif, tmp_path: Path) -> Path:
    path = tmp_path / "cut.gif"
    path.write_bytes(raw_gif((4, 4), [raw_gif.picture(raw_gif.solid(k)) for k in (1, 2)])[:-8])
    return path


@pytest.mark.heavy
def test_a_script_without_a_main_guard_gets_a_clear_error(cut_gif: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, cut_gif], capture_output=True, text=True, check=False, timeout=100, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "PipelineError: no decoding process could be started" in done.stderr
    assert "if __name__ == '__main__'" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_processes_end_with_their_parent(cut_gif: Path, number: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(cut_gif), "wait"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert "has 1 good frames" in parent.stdout.readline()
        children = psutil.Process(parent.pid).children(recursive=True)
        assert children
        parent.send_signal(number)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_a_normal_exit_is_quick_and_silent(cut_gif: Path) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, cut_gif], capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - started < 30
