"""What `min_percentile` separates: queries whose GIF is in an index from queries whose GIF was taken out.

    python benchmarks/percentile.py STORE --captions captions.jsonl [--foreign other.jsonl] [--splits 200] [--json]

Every caption is asked three times: of the whole index, of the index without its own GIF, and of the index without any
GIF whose caption is like it (cosine of at least --like in the joint space; the GIFs themselves are not compared).
`--foreign` are captions of another corpus, of which the index has no GIF.

- `answered`: some GIF is found;
- `own`: its own GIF is among those found;
- `out`: some GIF is found though the query's own was taken out;
- `alone`: some GIF is found though all GIFs with a caption like it were taken out;
- `foreign`: some GIF is found for a caption of the other corpus.

The lowest `min_percentile` that answers at most one in ten queries of `out` is chosen on one half of the captions and
measured on the other, for random halves.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gifdex

LEVELS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99)
MAX_FALSE = 0.1
Shares = Any  # float64 (queries,)


def captions_of(path: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return {row["id"]: row["caption"] for row in rows if row.get("caption")}


def best(index: gifdex.Index, sentence: str, ids: Sequence[str] | None) -> float:
    """Return the percentile of the best hit, among these ids or all."""
    hits = index.search(sentence, 1, exact=True, where=None if ids is None else {"id": list(ids)})
    return float(hits[0].percentile or 0.0) if hits else 0.0


def measured(index: gifdex.Index, captions: dict[str, str], like: float) -> dict[str, Shares]:
    """Return the best percentile of each caption in each situation, float64 (queries,)."""
    keys = list(captions)
    vectors = index.embed(list(captions.values()))
    cosines = vectors @ vectors.T
    columns: dict[str, list[float]] = {"answered": [], "own": [], "out": [], "alone": []}
    for key, row in zip(keys, cosines, strict=True):
        sentence = captions[key]
        unlike = {other for other, cosine in zip(keys, row, strict=True) if cosine < like}
        columns["answered"].append(best(index, sentence, None))
        columns["own"].append(best(index, sentence, [key]))
        columns["out"].append(best(index, sentence, [other for other in index.ids if other != key]))
        columns["alone"].append(
            best(index, sentence, [other for other in index.ids if other not in captions or other in unlike])
        )
    return {name: np.array(values) for name, values in columns.items()}


def chosen(out: Shares) -> float:
    """Return the lowest percentile that at most MAX_FALSE of `out` reach."""
    allowed = int(MAX_FALSE * len(out))
    return float(np.nextafter(np.sort(out)[::-1][allowed], 2))


def split_results(found: dict[str, Shares], splits: int) -> dict[str, float]:
    """Return the means over random halves: the percentile chosen on one, and the shares answered on the other."""
    random, count = np.random.default_rng(0), len(found["out"])
    rows = []
    for _ in range(splits):
        order = random.permutation(count)
        first, second = order[: count // 2], order[count // 2 :]
        level = chosen(found["out"][first])
        rows.append([level, *(float((found[name][second] >= level).mean()) for name in ("answered", "own", "out"))])
    level, answered, own, out = np.mean(rows, axis=0).tolist()
    return {"min_percentile": level, "answered": answered, "own": own, "out": out}


def separation(inside: Shares, outside: Shares) -> float:
    """Return the share of pairs in which the query whose GIF is there has the higher percentile."""
    above = (inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean()
    return float(above)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--foreign", type=Path)
    parser.add_argument("--like", type=float, default=0.5)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    index = gifdex.open(given.store)
    captions = {key: text for key, text in captions_of(given.captions).items() if key in set(index.ids)}
    found = measured(index, captions, given.like)
    if given.foreign is not None:
        texts = list(captions_of(given.foreign).values())
        found["foreign"] = np.array([best(index, text, None) for text in texts])
    curve = [
        {"min_percentile": level, **{name: float((values >= level).mean()) for name, values in found.items()}}
        for level in LEVELS
    ]
    halves = split_results(found, given.splits)
    pairs = {name: separation(found["answered"], found[name]) for name in found if name not in ("answered", "own")}
    if given.json:
        print(json.dumps({"queries": len(captions), "curve": curve, "halves": halves, "separation": pairs}))
        return
    names = list(curve[0])
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    for row in curve:
        print("| " + " | ".join(f"{row[name]:.2f}" for name in names) + " |")
    print("chosen on a half, measured on the other:", {name: round(value, 3) for name, value in halves.items()})
    print("share of pairs in the right order:", {name: round(value, 3) for name, value in pairs.items()})


if __name__ == "__main__":
    main()
