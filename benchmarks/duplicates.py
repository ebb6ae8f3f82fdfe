"""How fast near duplicates are found: all with all, by engines, and by a plain block scan.

    python benchmarks/duplicates.py [--data 100000x1024] [--min-score 0.98] [--engines hnsw scan annoy] [--json]

The vectors are those of vectors.py, of which a fifth are replaced by others with noise (cosines from .97 to 1), and
three in a hundred by one group. The plain scan multiplies blocks of all vectors with all that follow, and joins the
pairs that reach the score. Each way runs once, with all processors. `missed` counts rows that are in a group of the
exact result and in none or a smaller one of this result.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from contestants import build_gifdex
from measure import Row, resident, say
from report import print_table
from vectors import Vectors, make, unit

import gifdex
from gifdex.index.groups import Groups

BLOCK = 2048


def with_copies(vectors: Vectors, seed: int = 0) -> Vectors:
    """Return the vectors, of which some are near duplicates of others."""
    n, d = vectors.shape
    random = np.random.default_rng(seed)
    copied, source = random.permutation(n)[: n // 5], random.integers(0, n, n // 5)
    noise = unit(random.standard_normal((n // 5, d), dtype=np.float32))
    vectors[copied] = unit(vectors[source] + random.uniform(0.02, 0.25, (n // 5, 1)) * noise)
    group = random.permutation(n)[: 3 * n // 100]
    vectors[group] = unit(vectors[group[0]] + 0.05 * noise[random.integers(0, len(noise), len(group))])
    return vectors


def plain_scan(vectors: Vectors, min_score: float) -> list[set[int]]:
    """Return the groups, by products of whole blocks."""
    groups = Groups(len(vectors))
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        for other in range(start, len(vectors), BLOCK):
            left, right = np.nonzero(block @ vectors[other : other + BLOCK].T >= min_score)
            groups.join(start + left, other + right)
    return [set(rows.tolist()) for rows in groups.members(np.ones(len(vectors), np.int64))]


def measured(find: Callable[[], list[set[int]]], rows: int) -> tuple[Row, list[set[int]]]:
    started = time.perf_counter()
    found = find()
    seconds = time.perf_counter() - started
    row = {
        "seconds": seconds,
        "rows_per_s": rows / seconds,
        "groups": len(found),
        "groups_per_s": len(found) / seconds,
        "largest": max(map(len, found), default=0),
    }
    return row, found


def missed(right: list[set[int]], found: list[set[int]]) -> int:
    sizes = {row: len(group) for group in found for row in group}
    return sum(sizes.get(row, 1) < len(group) for group in right for row in group)


def compare(vectors: Vectors, min_score: float, engines: list[str], folder: Path) -> dict[str, Row]:
    """Return the measures of each way."""
    version = folder / ("0" * 16)
    build_gifdex(version, [vectors], graph=True)
    index = gifdex.open(version)
    place = {key: row for row, key in enumerate(index.ids)}

    def asked(**options: Any) -> Callable[[], list[set[int]]]:
        return lambda: [{place[hit.id] for hit in group} for group in index.duplicates(min_score, **options)]

    before = resident()["anonymous"]
    rows: dict[str, Row] = {}
    rows["all with all"], right = measured(asked(exact=True), len(vectors))
    rows["all with all"]["peak_mib"] = resident()["most"] - before
    say(f"all with all: {rows['all with all']['seconds']:.1f} s")
    ways = {"plain scan": lambda: plain_scan(vectors, min_score)}
    for name, find in {**ways, **{engine: asked(engine=engine) for engine in engines}}.items():
        rows[name], found = measured(find, len(vectors))
        rows[name]["missed"] = missed(right, found)
        say(f"{name}: {rows[name]['seconds']:.1f} s")
        if name in ways:
            rows["all with all"]["missed"] = missed(found, right)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="100000x1024")
    parser.add_argument("--min-score", type=float, default=0.98)
    parser.add_argument("--engines", nargs="*", default=["hnsw", "scan", "annoy"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    n, d = map(int, arguments.data.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(with_copies(make(n, d, 1)[0]), arguments.min_score, arguments.engines, Path(folder))
    if arguments.json:
        print(json.dumps({"items": n, "dimensions": d, "min_score": arguments.min_score, "ways": rows}))
        return
    plain = rows["plain scan"]["seconds"]
    print_table(
        ("way", "seconds", "rows/s", "groups", "groups/s", "largest", "missed", "times as fast as the plain scan"),
        [
            [
                name,
                *(f"{row['seconds']:.1f}", f"{row['rows_per_s']:,.0f}", f"{row['groups']:,}"),
                *(f"{row['groups_per_s']:,.0f}", f"{row['largest']:,}", f"{row['missed']:,}"),
                f"{plain / row['seconds']:.1f}",
            ]
            for name, row in rows.items()
        ],
        1,
    )


if __name__ == "__main__":
    main()
