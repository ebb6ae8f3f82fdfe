"""How far `towards` a class moves the answers to a picture with two subjects.

    python benchmarks/towards.py STORE GROUP GROUP [--pairs 50] [--json]
    python benchmarks/towards.py ws/index "giant panda=panda_car,panda_ukulele" "teddy bear=teddy_running,teddy_skating"
    python benchmarks/towards.py ws/index barbell=tags:barbell dumbbell=tags:dumbbell

A GROUP names a class and the items of STORE that show it: their ids, or a column of metadata and its value. For pairs
of items, one of each group and of no other, the first frames stand side by side in one picture, which is the query.
Printed are the mean ranks of the groups' other items (1 is best, the pair itself left out) and their share of the first
ten: in the features as they are, and towards each class. STORE needs the field `features`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import gifdex

HEIGHT, FIRST = 240, 10
MEASURES = ("mean_rank", "of_first_ten")
AS_THEY_ARE = "the features as they are"
Group = tuple[str, list[str]]


def side_by_side(paths: Sequence[str]) -> Any:
    """Return the first frames of GIFs side by side, uint8 RGB (height, width, 3)."""
    frames = []
    for path in paths:
        with Image.open(path) as animation:
            frame = animation.convert("RGB")
        frames.append(np.asarray(frame.resize((round(frame.width * HEIGHT / frame.height), HEIGHT))))
    return np.concatenate(frames, axis=1)


def members(index: gifdex.Index, text: str) -> Group:
    """Return a group's class and ids."""
    name, _, ids = text.partition("=")
    column, colon, value = ids.partition(":")
    if not colon:
        return name, ids.split(",")
    hits = index.search(np.ones(index.dimensions), len(index), where={column: value})
    return name, sorted(hit.id for hit in hits)


def ranks(index: gifdex.Index, picture: Any, pair: Sequence[str], **options: Any) -> dict[str, int]:
    """Return the rank of every item but the pair's."""
    hits = index.similar(len(index), image=picture, exact=True, **options)
    return {hit.id: rank for rank, hit in enumerate((hit for hit in hits if hit.id not in pair), 1)}


def measure(index: gifdex.Index, groups: Sequence[Group], pairs: int) -> dict[str, Any]:
    uris = {hit.id: hit.uri for hit in index.search(np.ones(index.dimensions), len(index), exact=True)}
    (first, firsts), (second, seconds) = groups
    shared = set(firsts) & set(seconds)
    chosen = [pair for pair in product(firsts, seconds) if not shared & set(pair)]
    if len(chosen) > pairs:
        chosen = [chosen[place] for place in np.random.default_rng(0).permutation(len(chosen))[:pairs]]
    asked: dict[str, dict[str, Any]] = {AS_THEY_ARE: {"fields": {"features": 1}}}
    asked |= {f"towards {name}": {"towards": name} for name in (first, second)}
    found = {(label, name): np.empty((len(chosen), 2)) for label in asked for name in (first, second)}
    for number, pair in enumerate(chosen):
        picture = side_by_side([uris[key] for key in pair])
        for label, options in asked.items():
            rank = ranks(index, picture, pair, **options)
            for name, ids in groups:
                own = np.array([rank[key] for key in ids if key not in pair])
                found[label, name][number] = own.mean(), np.count_nonzero(own <= FIRST) / FIRST
    moves = [
        found[f"towards {name}", name][:, 0] < found[f"towards {other}", name][:, 0]
        for name, other in ((first, second), (second, first))
    ]
    rows = {
        label: {
            name: dict(
                zip(("mean_rank", "of_first_ten"), found[label, name].mean(axis=0).round(4).tolist(), strict=True)
            )
            for name in (first, second)
        }
        for label in asked
    }
    return {"pairs": len(chosen), "both_move": round(float(np.logical_and(*moves).mean()), 4), **rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("groups", nargs=2)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    index = gifdex.open(given.store)
    groups = [members(index, text) for text in given.groups]
    found = measure(index, groups, given.pairs)
    if given.json:
        print(json.dumps(found))
        return
    names = [name for name, _ in groups]
    print(f"{found['pairs']} pairs; each class moves its own items up in {found['both_move']:.0%}\n")
    print("| mean rank, share of the first ten | " + " | ".join(names) + " |\n|---|---|---|")
    for label in list(found)[2:]:
        row = (found[label][name] for name in names)
        print(f"| {label} | " + " | ".join(f"{one['mean_rank']:.1f} {one['of_first_ten']:.2f}" for one in row) + " |")


if __name__ == "__main__":
    main()
