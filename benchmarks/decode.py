"""GIF decoders against imageio's default: eight frames, evenly spaced in time, resized to 224 x 224.

    python benchmarks/decode.py gifs/ --rounds 5

It measures gifdex's decoders as a build uses them (structure, limits, sampling, compositing, resizing), imageio's
default (`imageio.v3.imread` of all frames, then the same resizing), and the programs gifsicle and ffmpeg, if installed,
which write the same eight frames. `watched` is the decoder pillow in a separate process, which decodes odd files;
compare it with `pillow`. All take turns in each round, in a rotating order. CPU time (with child processes) and wall
time are medians over the rounds. A round decodes every file once in one thread, and four times each with one and with
two threads.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import psutil
from PIL import Image

from gifdex.encoders.frames.decode import FrameDecoder
from gifdex.encoders.frames.decoders import registry
from gifdex.encoders.frames.decoders.base import Budget
from gifdex.encoders.frames.limits import Limits, Sampling
from gifdex.encoders.frames.sampling import sample_by_time

decode = FrameDecoder()
SIZE = 224
BASELINE = "imageio.imread"
REPEATS = 4
Frames = list[Any]
Method = Callable[[Path], Frames]


@cache
def wanted(path: Path) -> tuple[int, ...]:
    """Return the frames that every method must return; cached, so that it is not timed for those that do not sample."""
    structure = registry.decoder("pillow").structure(path.read_bytes(), Limits(), Budget(Limits()))
    assert structure.odd is None, f"{path} {structure.odd}: choose ordinary GIFs"
    return sample_by_time(Sampling(), structure.delays_ms).indexes


def small(picture: Image.Image) -> Any:
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR).convert("RGB"))


def imageio_default(path: Path) -> Frames:
    data = path.read_bytes()
    frames = iio.imread(data, extension=".gif")
    return [small(Image.fromarray(frames[index])) for index in wanted(path)]


def with_decode(name: str) -> Method:
    """Return a method for a decoder that runs in this process."""
    return lambda path: list(decode(path.read_bytes(), Sampling(), (SIZE, SIZE), Limits(), name).frames)


def watched(path: Path) -> Frames:
    data = path.read_bytes()
    data = data[: data.rindex(b";")]  # a GIF without its trailer counts as odd
    return list(decode(data, Sampling(), (SIZE, SIZE), Limits(), "pillow").frames)


def unwatched(name: str) -> Method:
    """Return a method that runs a decoder in this process even if a build runs it in another one."""
    decoder = registry.decoder(name)

    def run(path: Path) -> Frames:
        data = path.read_bytes()
        budget = Budget(Limits())
        structure = decoder.structure(data, Limits(), budget)
        chosen = sample_by_time(Sampling(), structure.delays_ms).indexes
        return [small(picture) for picture in decoder.draw(data, structure, chosen, budget)]

    return run


def ffmpeg(path: Path) -> Frames:
    chosen = "+".join(f"eq(n,{index})" for index in wanted(path))
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-threads",
        "1",
        "-i",
        str(path),
        "-vf",
        f"select='{chosen}',scale={SIZE}:{SIZE}",
    ]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, check=True, capture_output=True)
    return list(np.frombuffer(done.stdout, np.uint8).reshape(-1, SIZE, SIZE, 3))


def gifsicle(path: Path) -> Frames:
    chosen = [f"#{index}" for index in wanted(path)]
    with tempfile.NamedTemporaryFile(suffix=".gif") as target:
        command = ["gifsicle", "--no-warnings", "--unoptimize", str(path), *chosen, "--resize", f"{SIZE}x{SIZE}"]
        subprocess.run([*command, "-o", target.name], check=True, capture_output=True)
        with Image.open(target.name) as image:
            return [None] * getattr(image, "n_frames", 1)


def methods() -> dict[str, Method]:
    found: dict[str, Method] = {BASELINE: imageio_default}
    for name in registry.decoder_names()[1:]:
        decoder = registry.decoder(name)
        found[name] = unwatched(name) if decoder.watched else with_decode(name)
    found["watched"] = watched
    found |= {name: method for name, method in (("ffmpeg", ffmpeg), ("gifsicle", gifsicle)) if shutil.which(name)}
    return found


def cpu_seconds() -> float:
    """Return the CPU time of this process, its finished children, and the decoder's processes."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    living = 0.0
    for child in psutil.Process().children(recursive=True):
        times = child.cpu_times()
        living += times.user + times.system
    return time.process_time() + ended.ru_utime + ended.ru_stime + living


def measure(method: Method, files: list[Path]) -> dict[str, float]:
    started = cpu_seconds()
    for path in files:
        method(path)
    result = {"cpu_ms": (cpu_seconds() - started) / len(files) * 1000}
    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool:
            begun = time.perf_counter()
            list(pool.map(method, files * REPEATS))
            result[f"wall{threads}_ms"] = (time.perf_counter() - begun) / (len(files) * REPEATS) * 1000
    return result


def compare(files: list[Path], rounds: int) -> dict[str, dict[str, float]]:
    contestants = methods()
    frames = {name: sum(len(method(path)) for path in files) for name, method in contestants.items()}  # warm-up
    if len(set(frames.values())) > 1:
        raise SystemExit(f"they do not give the same number of frames: {frames}")
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            samples[name].append(measure(contestants[name], files))
            print(f"round {number + 1} of {rounds}: {name} {samples[name][-1]}", file=sys.stderr)
    drawn = sum(wanted(path)[-1] + 1 for path in files) / len(files)
    table = {
        name: {key: statistics.median(one[key] for one in found) for key in found[0]} for name, found in samples.items()
    }
    base = table[BASELINE]
    return {
        name: {
            **row,
            "frames_per_cpu_s": drawn / row["cpu_ms"] * 1000,
            "cpu_ratio": base["cpu_ms"] / row["cpu_ms"],
            "wall2_ratio": base["wall2_ms"] / row["wall2_ms"],
            "two_threads": row["wall1_ms"] / row["wall2_ms"],
        }
        for name, row in table.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="a folder of ordinary GIFs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    files = sorted(arguments.corpus.rglob("*.gif"))
    if not files:
        raise SystemExit(f"there is no .gif file in {arguments.corpus}")
    table = compare(files, arguments.rounds)
    if arguments.json:
        print(json.dumps({"files": len(files), "rounds": arguments.rounds, "cpus": os.cpu_count(), "decoders": table}))
        return
    print(f"{len(files)} GIFs, {arguments.rounds} rounds; ratios are to {BASELINE}, above 1 is faster")
    print("decoder          CPU ms/GIF  frames/CPU s  CPU ratio  ms 1 thread  ms 2 threads  ratio at 2  2 against 1")
    for name, row in table.items():
        print(
            f"{name:16} {row['cpu_ms']:10.1f} {row['frames_per_cpu_s']:13,.0f} {row['cpu_ratio']:10.2f} "
            f"{row['wall1_ms']:12.1f} {row['wall2_ms']:13.1f} {row['wall2_ratio']:11.2f} {row['two_threads']:12.2f}"
        )


if __name__ == "__main__":
    main()
