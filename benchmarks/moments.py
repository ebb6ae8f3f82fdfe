"""Moments: whether the right half of joined clips is found, and what the field of frames costs.

    python benchmarks/moments.py captions.jsonl [--pairings 5] [--frames 8] [--items 20000] [--json]

captions.jsonl has `id`, `caption` and `uri` (or `file`) of captioned clips, paths relative to the file.

First, it joins the clips into pairs, each pair a GIF of both clips, one after the other, and builds an index of these
GIFs with moments. Each caption is a query; right are its GIF, and a best moment in the half that its clip became. This
is repeated for several random pairings, and recall and the share of right halves (among queries whose GIF is one of
the first ten) are those of all queries together. A guess finds half of the halves. The clips themselves are measured
too, without joining. Each is compared by the field image, the field frames, and sums of both.

Then it builds two indexes of the same synthetic items, one of them with eight frames an item whose cosines with the
item's vector are about those of real clips, and compares bytes, build seconds, the time to open, and queries a second
(one vector a call, one thread, medians of rounds in turn). Recall is that of the ten best items by exact search.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is imported
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contestants import any_items, any_projection, size
from PIL import Image, ImageSequence
from report import print_table
from vectors import Mixture, Vectors, unit

from gifdex.encoders.frames.limits import Sampling
from gifdex.encoders.settings import EncodeSettings
from gifdex.index.build import (
    DEFAULT_ENGINES,
    FieldPlan,
    Origin,
    build_engines,
    finish_version,
    fit_reduction,
    write_items,
    write_rows,
)
from gifdex.index.fields import JOINT_SPACE
from gifdex.index.lookup import Index
from gifdex.index.moments import Times, distinct_frames
from gifdex.index.opening import open_index
from gifdex.pipeline.build import build
from gifdex.pipeline.settings import BuildSettings, IndexSettings
from gifdex.schemas.manifest import EncoderRecord, SpaceRecord

WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "image": {"image": 1},
    "frames": {"frames": 1},
    "image 1, frames 0.25": {"image": 1, "frames": 0.25},
    "image 1, frames 0.5": {"image": 1, "frames": 0.5},
    "image 1, frames 1": {"image": 1, "frames": 1},
    "image 1, frames 2": {"image": 1, "frames": 2},
}
FRAMES = 8
# Noise that gives a frame and the mean of its GIF a cosine of .97, as the median of real clips has.
SPREAD = 0.25
ROUNDS = 5


def read_clips(path: Path) -> list[dict[str, str]]:
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [
        {"id": row["id"], "caption": row["caption"], "uri": str(path.parent / row.get("uri", row.get("file")))}
        for row in rows
    ]


def join(first: str, second: str, path: Path) -> int:
    """Write both clips, one after the other, as a GIF in the first one's size; return when the second begins, in ms."""
    pictures: list[Image.Image] = []
    durations: list[int] = []
    middle = 0
    for uri in (first, second):
        middle = sum(durations)
        with Image.open(uri) as opened:
            for frame in ImageSequence.Iterator(opened):
                picture = frame.convert("RGB")
                pictures.append(picture if not pictures else picture.resize(pictures[0].size))
                durations.append(int(frame.info.get("duration") or 100))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=False)
    return middle


class Score:
    """Ranks of the right answers, and whether the best moment of those found was right."""

    def __init__(self) -> None:
        self.ranks: list[int] = []
        self.halves: list[bool] = []

    def recall(self, k: int) -> float:
        return sum(rank <= k for rank in self.ranks) / len(self.ranks)

    def row(self) -> dict[str, float | int]:
        measured: dict[str, float | int] = {"queries": len(self.ranks)}
        measured |= {f"recall@{k}": round(self.recall(k), 4) for k in (1, 5, 10)}
        if self.halves:
            measured |= {"found": len(self.halves), "right_half": round(sum(self.halves) / len(self.halves), 4)}
        return measured


def ask(index: Index, questions: Sequence[tuple[str, str, range]], scores: Mapping[str, Score]) -> None:
    """Ask (caption, id, milliseconds that are right) of every combination of fields."""
    for name, weights in WEIGHTS.items():
        found = index.search([caption for caption, _, _ in questions], len(index), fields=weights, exact=True)
        for hits, (_, wanted, right) in zip(found, questions, strict=True):
            rank = 1 + [hit.id for hit in hits].index(wanted)
            scores[name].ranks.append(rank)
            if rank <= 10 and "frames" in weights and len(right):
                scores[name].halves.append(hits[rank - 1].moments[0].milliseconds in right)


def make_index(catalog: Path, workspace: Path, frames: int, *, moments: bool = True) -> tuple[Index, float]:
    encode = EncodeSettings(sampling=Sampling(frames))
    settings = BuildSettings(str(catalog), workspace, encode=encode, index=IndexSettings(moments=moments))
    started = time.perf_counter()
    summary = build(settings)
    return open_index(workspace / "index" / summary.build_id), time.perf_counter() - started


def write_catalog(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def joined(clips: list[dict[str, str]], root: Path, pairings: int, frames: int) -> dict[str, Score]:
    """Measure captions of clips on GIFs that join two of them."""
    scores = {name: Score() for name in WEIGHTS}
    for pairing in range(pairings):
        order = np.random.default_rng(pairing).permutation(len(clips)).tolist()
        folder = root / f"pairing-{pairing}"
        folder.mkdir()
        rows, questions = [], []
        for number, (left, right) in enumerate(zip(order[::2], order[1::2], strict=False)):
            name, path = f"pair-{number:03d}", folder / f"pair-{number:03d}.gif"
            middle = join(clips[left]["uri"], clips[right]["uri"], path)
            rows.append({"id": name, "uri": str(path)})
            questions.append((clips[left]["caption"], name, range(middle)))
            questions.append((clips[right]["caption"], name, range(middle, 2**40)))
        index, _ = make_index(write_catalog(folder / "catalog.jsonl", rows), folder / "ws", frames)
        ask(index, questions, scores)
    return scores


def single(clips: list[dict[str, str]], root: Path, frames: int) -> tuple[dict[str, Score], dict[str, float]]:
    """Measure captions on the clips themselves, and what a build with and without moments takes."""
    catalog = write_catalog(root / "clips.jsonl", [{"id": clip["id"], "uri": clip["uri"]} for clip in clips])
    make_index(catalog, root / "warm", frames)  # loads the models
    plain, without = make_index(catalog, root / "plain", frames, moments=False)
    index, seconds = make_index(catalog, root / "clips", frames)
    scores = {name: Score() for name in WEIGHTS}
    ask(index, [(clip["caption"], clip["id"], range(0)) for clip in clips], scores)
    parts = list((root / "clips" / "features").glob("*/*/*.parquet"))
    single_frames = sum(path.stat().st_size for path in parts if path.parents[1].name.endswith("-frames"))
    pooled = sum(path.stat().st_size for path in parts) - single_frames
    costs = {
        "seconds_without": without,
        "seconds_with": seconds,
        "cache_bytes_per_gif_pooled": pooled / len(clips),
        "cache_bytes_per_gif_frames": single_frames / len(clips),
        "index_bytes_per_gif_without": vector_bytes(plain) / len(clips),
        "index_bytes_per_gif_with": vector_bytes(index) / len(clips),
    }
    return scores, {name: round(value, 2) for name, value in costs.items()}


def vector_bytes(index: Index) -> int:
    """Return the bytes of an index's fields, without the items and the models."""
    return sum(file.bytes for name, file in index.manifest.files.items() if name.split("-")[0] in index.fields)


def synthetic(root: Path, items: int, dimensions: int, seconds: float) -> dict[str, Any]:
    """Compare an index without and one with frames."""
    mixture = Mixture(items, dimensions)
    images = np.concatenate(list(mixture.blocks()))
    noise = np.random.default_rng(1).standard_normal((items, FRAMES, dimensions), np.float32)
    frames = unit(images[:, None] + SPREAD * unit(noise))
    folders = {"without": root / "without", "with": root / "with"}
    taken = {
        name: write_version(folder, images, frames if name == "with" else None, mixture.tuning_queries())
        for name, folder in folders.items()
    }
    opened, seconds_to_open = {}, {}
    for name, folder in folders.items():
        seconds_to_open[name] = statistics.median(seconds_of_opening(folder) for _ in range(ROUNDS))
        opened[name] = open_index(folder)
    asked = mixture.queries(200)
    kinds = {
        "image, index without": ("without", {"image": 1.0}),
        "image, index with": ("with", {"image": 1.0}),
        "frames": ("with", {"frames": 1.0}),
        "image 1, frames 0.5": ("with", {"image": 1.0, "frames": 0.5}),
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(ROUNDS):
        for name, (which, weights) in kinds.items():
            rates[name].append(rate(opened[which], asked, weights, seconds))
    return {
        "items": items,
        "dimensions": dimensions,
        "frames": FRAMES,
        "build_seconds": {name: round(value, 2) for name, value in taken.items()},
        "bytes_per_item": {name: round(size(folder) / items) for name, folder in folders.items()},
        "open_ms": {name: round(1000 * value, 2) for name, value in seconds_to_open.items()},
        "queries_per_second": {name: round(statistics.median(found), 1) for name, found in rates.items()},
        "recall@10": {
            name: round(item_recall(opened[which], asked, weights), 4) for name, (which, weights) in kinds.items()
        },
        "engines": {name: field.engine for name, field in opened["with"].manifest.fields.items()},
    }


def write_version(folder: Path, images: Vectors, frames: Vectors | None, tuning: Vectors) -> float:
    """Write a version of one shard with the usual engines; return the seconds."""
    folder.mkdir()
    count, dimensions = images.shape
    encoder = EncoderRecord("none", "0" * 16, 4)
    plan = FieldPlan(SpaceRecord(JOINT_SPACE, "2" * 16), DEFAULT_ENGINES)
    items, projection = any_items(count), any_projection(dimensions)
    started = time.perf_counter()
    write_rows(folder, "image", 0, images, list(np.arange(count).reshape(-1, 1)), count)
    if frames is not None:
        flat = frames.reshape(-1, dimensions)
        numbers = np.tile(np.arange(FRAMES), count)
        times = Times(100 * numbers, numbers.astype(np.int32))
        keys = [vector.tobytes() for vector in flat]
        firsts, rows, shown = distinct_frames(keys, times, range(0, len(flat) + 1, FRAMES), range(count))
        write_rows(folder, "frames", 0, flat[firsts], rows, count, shown)
    fields = {"image": plan, **({} if frames is None else {"frames": plan})}
    for name in fields:
        fit_reduction(folder, name, [0])
        build_engines(folder, name, 0, DEFAULT_ENGINES)
    write_items(folder, items)
    finish_version(folder, Origin("0" * 16, encoder, "1" * 16, encoder), [count], fields, projection, sentences=tuning)
    return time.perf_counter() - started


def seconds_of_opening(folder: Path) -> float:
    started = time.perf_counter()
    open_index(folder)
    return time.perf_counter() - started


def rate(index: Index, queries: Vectors, weights: Mapping[str, float], seconds: float) -> float:
    """Return the queries a second of one vector a call."""
    for query in queries[:5]:
        index.search(query, 10, fields=weights)
    asked, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        index.search(queries[asked % len(queries)], 10, fields=weights)
        asked += 1
    return asked / elapsed


def item_recall(index: Index, queries: Vectors, weights: Mapping[str, float]) -> float:
    shares = []
    for query in queries:
        exact = index.search(query, 10, fields=weights, exact=True)
        found = index.search(query, 10, fields=weights)
        shares.append(sum(hit.score >= exact[-1].score for hit in found) / len(exact))
    return float(np.mean(shares))


def show(title: str, scores: Mapping[str, Score]) -> None:
    print(f"\n{title}\n")
    cells = []
    for name, score in scores.items():
        values = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in score.row().values()]
        cells.append([name, *values, *[""] * (6 - len(values))])
    print_table(("fields", "queries", "recall@1", "@5", "@10", "found", "right half"), cells, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path, help="JSON Lines of id, caption and uri (or file)")
    parser.add_argument("--pairings", type=int, default=5, help="0 measures only synthetic items (default: 5)")
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames for each GIF (default: 8)")
    parser.add_argument("--items", type=int, default=20_000, help="synthetic items (default: 20000)")
    parser.add_argument("--dimensions", type=int, default=512, help="of synthetic items (default: 512)")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each rate in each round (default: 1)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    clips = read_clips(arguments.captions)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        measured: dict[str, Any] = {}
        if arguments.pairings:
            pairs = joined(clips, root, arguments.pairings, arguments.frames)
            show(f"{arguments.pairings} pairings of {len(clips)} clips, {arguments.frames} frames a GIF", pairs)
            singles, costs = single(clips, root, arguments.frames)
            show(f"{len(clips)} clips, not joined", singles)
            print(f"\nbuilds of the clips: {json.dumps(costs, indent=2)}")
            measured["joined"] = {name: score.row() for name, score in pairs.items()}
            measured |= {"clips": {name: score.row() for name, score in singles.items()}, "builds": costs}
        speed = synthetic(root, arguments.items, arguments.dimensions, arguments.seconds)
        print(f"\nsynthetic items: {json.dumps(speed, indent=2)}")
    if arguments.json:
        print(json.dumps({**measured, "synthetic": speed}))


if __name__ == "__main__":
    main()
