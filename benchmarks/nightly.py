"""What a second nightly run costs after ten GIFs each were changed, added, deleted, moved, and given other captions.

    python benchmarks/nightly.py [--gifs 1000] [--each 10] [--folder FOLDER] [--json]

It makes a corpus of GIFs of moving patterns (128 x 96, 12 frames), runs nightly, changes the corpus, runs again, and
then builds the changed corpus from scratch in another workspace. It prints what each run encoded, the seconds and CPU
seconds (of all threads and child processes) of the encode stage, and whether the second version and the one from
scratch are byte-identical.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gifdex.pipeline.nightly import NightlySummary, nightly
from gifdex.pipeline.settings import BuildSettings, NightlySettings
from gifdex.schemas.progress import QuietProgress

SIZE, FRAMES = (128, 96), 12


def write_gif(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    images = [
        Image.fromarray(np.roll(coarse, shift, axis=1)).resize(SIZE, Image.Resampling.BICUBIC)
        for shift in range(FRAMES)
    ]
    images[0].save(path, save_all=True, append_images=images[1:], duration=80, loop=0)


def processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class EncodeMeter(QuietProgress):
    """Records the CPU seconds of each stage."""

    def __init__(self) -> None:
        self.began: dict[str, float] = {}
        self.seconds: dict[str, float] = {}

    def stage(self, name: str, done: int, total: int) -> None:
        now = processor_seconds()
        self.began.setdefault(name, now)
        self.seconds[name] = now - self.began[name]


def night(name: str, catalog: Path, workspace: Path) -> tuple[NightlySummary, float]:
    meter = EncodeMeter()
    summary = nightly(NightlySettings(BuildSettings(str(catalog), workspace)), meter)
    used, run = meter.seconds.get("encode", 0.0), summary.build.run
    print(
        f"{name:<14} {summary.outcome:<10} {run.items:>6,} items  {run.encoded:>6,} encoded  "
        f"{run.seconds['encode']:>8.1f} s  {used:>8.1f} CPU s  index {run.seconds['index']:>5.1f} s",
        flush=True,
    )
    return summary, used


def contents(version: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in version.iterdir()}


def write_catalog(path: Path, rows: dict[str, dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gifs", type=int, default=1000)
    parser.add_argument("--each", type=int, default=10, help="how many GIFs are changed, added, ... (default: 10)")
    parser.add_argument("--folder", type=Path, help="for the corpus and the workspaces (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    if arguments.gifs < 5 * arguments.each:
        raise SystemExit(f"--gifs is {arguments.gifs}; expected at least {5 * arguments.each}, five times --each")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as root:
        result = run(Path(root), arguments.gifs, arguments.each)
    if arguments.json:
        print(json.dumps(result))


def run(root: Path, gifs: int, each: int) -> dict[str, Any]:
    rows: dict[str, dict[str, str]] = {}

    def add(name: str, seed: int) -> None:
        path = root / "gifs" / f"{name}.gif"
        write_gif(path, seed)
        rows[name] = {"id": name, "uri": str(path), "caption": f"pattern {seed}"}

    for number in range(gifs):
        add(f"g{number:05d}", number)
    catalog = root / "catalog.jsonl"
    write_catalog(catalog, rows)
    first_summary, first = night("first night", catalog, root / "ws")
    names = list(rows)
    for place in range(each):
        changed, deleted, moved, edited = names[place::each][:4]
        add(changed, gifs + place)
        add(f"new{place}", 2 * gifs + place)
        Path(rows.pop(deleted)["uri"]).unlink()
        to = root / "gifs" / "moved" / f"{moved}.gif"
        to.parent.mkdir(exist_ok=True)
        Path(rows[moved]["uri"]).rename(to)
        rows[moved]["uri"] = str(to)
        rows[edited]["caption"] = f"another caption {place}"
    write_catalog(catalog, rows)
    second, used = night("second night", catalog, root / "ws")
    scratch, _ = night("from scratch", catalog, root / "scratch")
    same = second.build_id == scratch.build_id and contents(root / "ws" / "index" / second.build_id) == contents(
        root / "scratch" / "index" / scratch.build_id
    )
    print(f"the second night took {used / first:.1%} of the first one's CPU seconds to encode")
    print(f"its version and the one from scratch are {'byte-identical' if same else 'NOT identical'}")
    nights = {"first": first_summary, "second": second, "scratch": scratch}
    return {"same": same, **{f"{name}_encoded": one.build.run.encoded for name, one in nights.items()}}


if __name__ == "__main__":
    main()
