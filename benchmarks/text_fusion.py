"""How well words, images and both together find GIFs by their captions.

    python benchmarks/text_fusion.py STORE CAPTIONS [--seed 0] [--json]

CAPTIONS has JSON Lines with `id` and `caption`. Each caption is asked as it stands, and as a random half of its words.
These answer, with k = 100:

- `image` and `text`: one field alone;
- `ranks`: both, fused by reciprocal rank;
- `scores`: both, fused by the sum of the cosine and the BM25 score divided by the query's best.

An item's rank is one more than the number of items that score higher; items with the same caption count as the same
answer. `wins` and `losses` count the queries whose answer ranks higher or lower than in one field alone.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gifdex

K = 100
BOTH = {"image": 1, "text": 1}
ALONE = ("image", "text")
CONTESTANTS: Mapping[str, Mapping[str, Any]] = {
    "image": {"fields": {"image": 1}},
    "text": {"fields": {"text": 1}},
    "ranks": {"fields": BOTH, "fusion": "ranks"},
    "scores": {"fields": BOTH, "fusion": "scores"},
}


def half(caption: str, chance: random.Random) -> str:
    """Return a random half of a caption's words, in their order."""
    words = caption.split()
    kept = sorted(chance.sample(range(len(words)), max(1, len(words) // 2)))
    return " ".join(words[place] for place in kept)


def rank(hits: Sequence[gifdex.Hit], right: frozenset[str]) -> float:
    """Return the rank of the first right item, infinity if there is none."""
    score = max((hit.score for hit in hits if hit.id in right), default=None)
    return math.inf if score is None else 1 + sum(hit.score > score for hit in hits)


def measured(ranks: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return each contestant's recall, and how often the fused ones win and lose."""
    table: dict[str, Any] = {}
    for name, own in ranks.items():
        table[name] = {f"recall@{k}": round(sum(rank <= k for rank in own) / len(own), 3) for k in (1, 5, 10)}
        for other in ALONE if name not in ALONE else ():
            pairs = list(zip(own, ranks[other], strict=True))
            table[name][f"wins_over_{other}"] = sum(mine < theirs for mine, theirs in pairs)
            table[name][f"losses_to_{other}"] = sum(mine > theirs for mine, theirs in pairs)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("captions", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    index = gifdex.open(options.store)
    known, chance = set(index.ids), random.Random(options.seed)
    rows = [json.loads(line) for line in options.captions.read_text().splitlines() if line.strip()]
    captions = {row["id"]: row["caption"] for row in rows if row.get("caption") and row["id"] in known}
    same: dict[str, set[str]] = {}
    for key, caption in captions.items():
        same.setdefault(caption, set()).add(key)
    kinds = {"caption": list(captions.values()), "half": [half(caption, chance) for caption in captions.values()]}
    right = [frozenset(same[caption]) for caption in captions.values()]
    result: dict[str, Any] = {"queries": len(captions)}
    for kind, queries in kinds.items():
        ranks = {
            name: [rank(index.search(query, K, **how), ids) for query, ids in zip(queries, right, strict=True)]
            for name, how in CONTESTANTS.items()
        }
        result[kind] = measured(ranks)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{result['queries']} queries")
    for kind in kinds:
        for name, row in result[kind].items():
            print(f"{kind:8} {name:7}", "  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
