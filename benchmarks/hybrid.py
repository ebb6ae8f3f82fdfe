"""When to ask outside: half of the items are in the index, the other half at an outside source.

    python benchmarks/hybrid.py ws/index --captions captions.jsonl

Every caption is a query. Its GIF is in the index or outside, by 200 random halves. For each score of `Outside(below=)`
it prints how often the source is asked, and how often the right GIF is first. Scores are the index's own, which are
those that a search with `outside=` gives.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import gifdex

BELOW = (-1.0, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 2.0)
NAMES = {-1.0: "never", 2.0: "always"}
SPLITS = 200


def scores(index: gifdex.Index, captions: dict[str, str]) -> np.ndarray:
    """Return the score float64 (n, n) of each caption's query for each captioned item."""
    place = {key: number for number, key in enumerate(captions)}
    found = np.full((len(place), len(place)), -1.0)
    for row, hits in zip(found, index.search(list(captions.values()), len(index), exact=True), strict=True):
        for hit in hits:
            if hit.id in place:
                row[place[hit.id]] = hit.score
    return found


def below(found: np.ndarray, inside: np.ndarray, score: float) -> tuple[np.ndarray, np.ndarray]:
    """Return which queries ask the source, and which have the right GIF first, both bool (n,)."""
    asked = found[:, inside].max(axis=1) < score
    ranked = np.where(asked[:, None] | inside, found, -2.0)
    return asked, ranked.argmax(axis=1) == np.arange(len(found))


def main() -> None:
    parser = argparse.ArgumentParser(description="When to ask an outside source.")
    parser.add_argument("store", type=Path)
    parser.add_argument("--captions", type=Path, required=True, help="JSON Lines with id and caption")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.captions.read_text().splitlines() if line.strip()]
    found = scores(gifdex.open(options.store), {row["id"]: row["caption"] for row in rows})
    count, random = len(found), np.random.default_rng(0)
    halves = []
    for _ in range(SPLITS):
        inside = np.zeros(count, bool)
        inside[random.permutation(count)[: count // 2]] = True
        halves.append(inside)
    print(f"{count} queries, {SPLITS} halves: shares of queries whose GIF is outside | inside")
    print(f"{'below':>9}  {'asked':>11}  {'right first':>11}")
    for score in BELOW:
        shares = []
        for inside in halves:
            asked, right = below(found, inside, score)
            shares.append([asked[~inside].mean(), asked[inside].mean(), right[~inside].mean(), right[inside].mean()])
        row = np.mean(shares, axis=0)
        print(f"{NAMES.get(score, score):>9}  {row[0]:.2f} | {row[1]:.2f}  {row[2]:.2f} | {row[3]:.2f}")


if __name__ == "__main__":
    main()
