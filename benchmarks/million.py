"""benchmarks/lookup.py --million: an index of several shards whose vectors are generated during the build."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from contestants import Gifdex, build_gifdex, size
from measure import Row, ask, promise, recall, resident, say, speed, truth
from report import print_table
from vectors import BLOCK, Mixture, Vectors

SHARD_BLOCKS = 16  # of BLOCK rows: 262,144 items


def shard_rows(mixture: Mixture) -> int:
    """Return the number of items per shard: a quarter of all, rounded up to blocks, at most SHARD_BLOCKS of them."""
    blocks = -(-mixture.n // BLOCK)
    return BLOCK * min(SHARD_BLOCKS, -(-blocks // 4))


def shards(mixture: Mixture) -> Iterator[Vectors]:
    """Yield the items of each shard."""
    rows = shard_rows(mixture)
    shard, filled = np.empty((rows, mixture.d), np.float32), 0
    for block in mixture.blocks():
        shard[filled : filled + len(block)] = block
        filled += len(block)
        if filled == rows:
            yield shard
            filled = 0
    if filled:
        yield shard[:filled]


def million(mixture: Mixture, folder: Path, asked: int, seconds: float) -> Row:
    """In a fresh process: build an index whose vectors are generated shard by shard, and query it."""
    import gifdex

    spent, manifest = build_gifdex(folder, shards(mixture), graph=True, tuning=mixture.tuning_queries())
    most = resident()["most"]
    say(f"built in {spent:.0f} s")
    queries = mixture.queries(asked)
    right = truth(mixture.blocks(), queries)
    started = time.perf_counter()
    index = gifdex.open(folder)
    opened = time.perf_counter() - started
    engines = {name: measured(index, name, queries, right, seconds) for name in [*index.engines, "exact"]}
    return {
        "items": mixture.n,
        "dimensions": mixture.d,
        "shards": [shard.items for shard in manifest.fields["image"].shards],
        "build_s": spent,
        "peak_mib": most,
        "bytes": size(folder),
        "open_ms": opened * 1000,
        "queries": asked,
        "engines": engines,
    }


def measured(index: Any, engine: str, queries: Vectors, right: list[set[int]], seconds: float) -> Row:
    """Measure an engine at the setting that its build chose, one query per call."""
    one = Gifdex(engine)
    one.index = index
    ask(one.at(None), queries, seconds)  # the warm-up
    times, answers = ask(one.at(None), queries, seconds)
    return {
        "default": engine == index.engine,
        "promised": promise(index, engine),
        "recall": recall(one, answers, right),
        **speed([times], 1),
    }


def show_million(result: Row) -> None:
    print(f"{result['items']:,} items of {result['dimensions']} dimensions, shards of {result['shards']}\n")
    print(f"build {result['build_s']:.0f} s, peak memory {result['peak_mib']:,.0f} MiB")
    print(f"{result['bytes'] / 1e6:,.0f} MB on disk, open {result['open_ms']:.0f} ms\n")
    rows = [
        [
            f"{name}{' (default)' if row['default'] else ''}",
            row["promised"]["setting"] if row["promised"] else "",
            *(f"{row['recall']:.4f}", f"{row['per_second']:,.0f}", f"{row['p50_ms']:.3f}", f"{row['p99_ms']:.3f}"),
        ]
        for name, row in result["engines"].items()
    ]
    print_table(("engine", "setting", "recall@10", "queries/s", "p50 ms", "p99 ms"), rows, 1)
