"""Which scores re-made copies of GIFs have with their originals, and which different GIFs have with each other.

    python benchmarks/variants.py GIFS [--gifs 64] [--store ws/index ...] [--json]

It saves each GIF again, changed in several ways, and indexes all of them with the default encoders. For each change it
prints the tenth percentile, the median and the lowest of the scores with the originals, and the share that each
threshold catches. Then it prints, for the originals and for every store named, how many of their items are in a group
although they are different GIFs. Both in the fields image and features; a store without features has only the first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps, ImageSequence
from report import print_table

import gifdex
from gifdex.pipeline.build import build
from gifdex.pipeline.settings import BuildSettings, IndexSettings

THRESHOLDS = (0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
Pictures = list[Image.Image]
_MARK = "--"


def each(change: Callable[[Image.Image], Image.Image]) -> Callable[[Pictures], Pictures]:
    return lambda pictures: [change(picture) for picture in pictures]


def cropped(picture: Image.Image, share: float = 0.0, pixels: int = 0) -> Image.Image:
    x, y = pixels + round(share * picture.width), pixels + round(share * picture.height)
    return picture.crop((x, y, picture.width - x, picture.height - y))


def titled(picture: Image.Image) -> Image.Image:
    shown = picture.copy()
    draw = ImageDraw.Draw(shown)
    draw.rectangle((0, round(0.85 * picture.height), picture.width, picture.height), fill="black")
    draw.text((picture.width // 4, round(0.88 * picture.height)), "WHEN IT IS FRIDAY", fill="white")
    return shown


# name -> how the frames change, and how many milliseconds each shows
VARIANTS: dict[str, tuple[Callable[[Pictures], Pictures], int]] = {
    "saved again": (lambda pictures: pictures, 160),
    "half the size": (each(lambda one: one.resize((one.width // 2, one.height // 2))), 160),
    "a quarter of the size": (each(lambda one: one.resize((one.width // 4, one.height // 4))), 160),
    "cropped by a pixel": (each(lambda one: cropped(one, pixels=1)), 160),
    "cropped by 5 % a side": (each(lambda one: cropped(one, 0.05)), 160),
    "cropped by 10 % a side": (each(lambda one: cropped(one, 0.1)), 160),
    "brighter by a tenth": (each(lambda one: ImageEnhance.Brightness(one).enhance(1.1)), 160),
    "32 colours": (each(lambda one: one.quantize(32).convert("RGB")), 160),
    "grey": (each(lambda one: one.convert("L").convert("RGB")), 160),
    "twice as fast": (lambda pictures: pictures, 80),
    "every other frame": (lambda pictures: pictures[::2], 320),
    "without the first quarter": (lambda pictures: pictures[len(pictures) // 4 :], 160),
    "mirrored": (each(ImageOps.mirror), 160),
    "with a line of text": (each(titled), 160),
}


def save_variants(source: Path, folder: Path) -> None:
    with Image.open(source) as animation:
        pictures = [frame.convert("RGB") for frame in ImageSequence.Iterator(animation)]
    (folder / f"{source.stem}.gif").write_bytes(source.read_bytes())
    for name, (change, milliseconds) in VARIANTS.items():
        made = change(pictures)
        path = folder / f"{source.stem}{_MARK}{name}.gif"
        made[0].save(path, save_all=True, append_images=made[1:], duration=milliseconds, loop=0)


def vectors_of(index: gifdex.Index, name: str) -> Any:
    """Return the vectors float32 (items, d) of a field, in the items' order."""
    field = index.field(name)
    return field.searcher.vectors_at(np.arange(field.record.rows))[field.items.row_of]


def scores_of_variants(index: gifdex.Index, field: str) -> dict[str, Any]:
    """Return each variant's scores float32 (GIFs,) with the originals."""
    vectors = vectors_of(index, field)
    place = {key: number for number, key in enumerate(index.ids)}
    originals = [key for key in index.ids if _MARK not in key]
    return {
        name: np.array([vectors[place[key]] @ vectors[place[f"{key}{_MARK}{name}"]] for key in originals])
        for name in VARIANTS
    }


def caught(scores: Any) -> dict[str, Any]:
    return {
        "lowest": float(scores.min()),
        "p10": float(np.percentile(scores, 10)),
        "median": float(np.median(scores)),
        "caught": {str(threshold): float(np.mean(scores >= threshold)) for threshold in THRESHOLDS},
    }


def grouped(vectors: Any) -> dict[str, Any]:
    """Return how many items are in a group with others, and the largest group, by threshold."""
    from gifdex.index.groups import Groups
    from gifdex.index.pairs import connect_all

    found = {}
    for threshold in THRESHOLDS:
        groups = Groups(len(vectors))
        connect_all(lambda rows: vectors[rows], len(vectors), threshold, groups)
        sizes = [len(rows) for rows in groups.members(np.ones(len(vectors), np.int64))]
        found[str(threshold)] = {"items": sum(sizes), "groups": len(sizes), "largest": max(sizes, default=0)}
    return found


def measure(gifs: list[Path], stores: list[str], folder: Path) -> dict[str, Any]:
    (folder / "gifs").mkdir()
    for gif in gifs:
        save_variants(gif, folder / "gifs")
    summary = build(BuildSettings(str(folder / "gifs"), folder / "ws", index=IndexSettings(keep_features=True)))
    index = gifdex.open(summary.store)
    is_original = np.array([_MARK not in key for key in index.ids])
    result: dict[str, Any] = {"gifs": len(gifs), "variants": {}, "different": {}}
    for field in ("image", "features"):
        scores = scores_of_variants(index, field)
        result["variants"][field] = {name: caught(own) for name, own in scores.items()}
        result["different"][f"the GIFs themselves, {field}"] = grouped(vectors_of(index, field)[is_original])
    for store in stores:
        other = gifdex.open(store)
        for field in (name for name in ("image", "features") if name in other.fields):
            result["different"][f"{store} ({len(other):,} items), {field}"] = grouped(vectors_of(other, field))
    return result


def show(result: dict[str, Any]) -> None:
    for field, variants in result["variants"].items():
        print(f"field {field}: scores of {result['gifs']} GIFs with their variants, and the share at each threshold\n")
        rows = [
            [
                name,
                *(f"{row[part]:.3f}" for part in ("lowest", "p10", "median")),
                *map("{:.2f}".format, row["caught"].values()),
            ]
            for name, row in variants.items()
        ]
        print_table(("variant", "lowest", "p10", "median", *map(str, THRESHOLDS)), rows, 1)
        print()
    print("different GIFs: items in groups / groups / largest group, at each threshold\n")
    rows = [
        [name, *(f"{one['items']:,} / {one['groups']:,} / {one['largest']:,}" for one in row.values())]
        for name, row in result["different"].items()
    ]
    print_table(("", *map(str, THRESHOLDS)), rows, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gifs", type=int, default=64)
    parser.add_argument("--store", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    gifs = sorted(arguments.folder.glob("*.gif"))[: arguments.gifs]
    with tempfile.TemporaryDirectory() as folder:
        result = measure(gifs, arguments.store, Path(folder))
    if arguments.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
